"""How value-based algorithms act: epsilon-greedily, each slot with its own share of random actions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from machina.algorithms.exploration.config import ExplorationConfig
from machina.learner.base_learner import linear
from machina.nets.noisy import NoisyLinear, redraw
from machina.nets.policy import NetworkPolicy
from machina.nets.q_network import QNetwork
from machina.specs import EnvSpec
from machina.types import ACTION_MASK, ActorInput, ActorOutput, BoolArray, FloatArray, IntArray

MAX_Q = "max_q"
"""Policy output: the highest value among the actions allowed at the entry, ``[...]`` float32."""

EPSILON = "epsilon"
"""Policy output: the share of random actions with which the entry was acted on, ``[...]`` float32."""

TAKEN_Q = "taken_q"
"""Policy output: the value of the action taken at the entry, ``[...]`` float32."""


def epsilons(config: ExplorationConfig, slots: IntArray, num_slots: int, num_tasks: int, done: float) -> FloatArray:
    """The share of random actions of each slot, ``[B]``.

    Args:
        config: has the schedule.
        slots: ``[B]`` indices among all slots; slot i plays task ``i % num_tasks``, and every task has the same shares.
        num_slots: of all tasks, as configured; those beyond begin again with the first share.
        num_tasks: among which they are divided.
        done: fraction of the run that is done.
    """
    of_task = max(1, num_slots // num_tasks)
    of_schedule = 1.0 if config.exploration_share == 0 else min(1.0, done / config.exploration_share)
    base = linear(config.epsilon, config.epsilon_final, of_schedule)
    exponents = 1 + config.epsilon_spread * (slots // num_tasks % of_task) / max(1, of_task - 1)
    return np.asarray(base**exponents, np.float32)


class EpsilonGreedyPolicy(NetworkPolicy[QNetwork]):
    """Takes the action of the highest value, or with probability epsilon any one; implements ``Policy``.

    Noisy layers get new noise at every step, the same for all slots; without exploration they have none.

    Args:
        config: of the algorithm.
        network: float32, on the CPU.
        spec: of the environment.
        device: to act on.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        explores: False never takes a random action.
        num_slots: of all that act at once in the run.
        leaves_taken_q: whether ``TAKEN_Q`` is among the outputs.
    """

    def __init__(
        self,
        config: ExplorationConfig,
        network: QNetwork,
        spec: EnvSpec,
        device: str,
        precision: str,
        *,
        explores: bool,
        num_slots: int,
        leaves_taken_q: bool = False,
    ) -> None:
        super().__init__(network, spec, device, precision)
        self._config = config
        self._leaves_taken_q = leaves_taken_q
        self._is_noisy = explores and any(isinstance(layer, NoisyLinear) for layer in network.modules())
        self._generator = torch.Generator()
        self._explores = explores
        self._num_slots = num_slots
        self._num_tasks = spec.num_tasks
        self._done = 0.0

    def act(self, inputs: ActorInput) -> ActorOutput:
        """Act for B slots; see ``machina.interfaces.Policy``."""
        if self._is_noisy:
            # From the slots' own streams, so that the noise repeats with the run, wherever it is acted.
            self._generator.manual_seed(int(inputs.uniforms[0] * 2**32))
            redraw(self.network, self._generator)
        with self._on_own_stream(), torch.inference_mode(), self.precision.autocast(self.device):
            output = self.network(*self._entry(inputs))
            q_values = output.q_values[0].cpu().numpy()
            core_state = tuple(state.cpu().numpy() for state in output.core_state)
        action = q_values.argmax(axis=1)
        max_q = q_values.max(axis=1)
        shares = np.zeros(len(action), np.float32)
        if self._explores:
            shares = epsilons(self._config, inputs.slots, self._num_slots, self._num_tasks, self._done)
            allowed = inputs.observation.get(ACTION_MASK)
            if allowed is None:
                allowed = np.ones((len(action), q_values.shape[-1]), np.bool_)
            random = inputs.uniforms < shares
            action[random] = chosen(allowed[random], inputs.uniforms[random] / shares[random])
        outputs = {MAX_Q: max_q.astype(np.float32), EPSILON: shares}
        if self._leaves_taken_q:
            outputs[TAKEN_Q] = q_values[np.arange(len(action)), action].astype(np.float32)
        return ActorOutput(action, outputs, core_state)

    def load_parameters(self, parameters: Tensor, done: float) -> None:
        """Copy a published flat vector into the network; exploration goes by ``done``."""
        self._load_flat(parameters)
        self._done = done


def chosen(allowed: BoolArray, uniforms: FloatArray) -> IntArray:
    """One of the allowed actions of each row, each as likely as the others.

    Args:
        allowed: ``[B, A]``, one in each row at least.
        uniforms: ``[B]`` in [0, 1).
    """
    counts = allowed.sum(axis=1)
    which = np.minimum((uniforms * counts).astype(np.int64), counts - 1)
    return np.asarray((allowed.cumsum(axis=1) > which[:, None]).argmax(axis=1), np.int64)
