"""An algorithm of your own, registered from outside the package: advantage actor-critic (A2C).

    python examples/own_algorithm.py

One pass over each batch: the policy gradient with generalized advantages, the squared error of the values, and an
entropy bonus. What is written here is the learner and its options. The network, the policy that acts, the buffer, the
optimizer's state in checkpoints, places, learner ranks and metrics come from Machina. Only programs that register the
algorithm know it: continue and score its runs there, by ``machina.resume`` and ``machina.evaluate``.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from pydantic import Field
from torch.optim import Adam

import machina
from machina.algorithms.actor_critic.algorithm import ActorCriticAlgorithm, trained_network
from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.errors import UserError
from machina.interfaces import Ranks
from machina.learner.base_learner import BaseLearner, linear
from machina.losses.actor_critic import policy_gradient_loss, value_loss
from machina.losses.alignment import aligned
from machina.losses.gae import gae
from machina.nets.distributions import distribution_of
from machina.nets.network import PolicyNetwork
from machina.nets.precision import resolve_device
from machina.nets.unroll_tensors import network_input, to_device
from machina.specs import EnvSpec
from machina.types import Array, Learned, Unroll


class A2CConfig(ActorCriticConfig):
    """Every field is an option of ``machina.train``, and so are those that are inherited."""

    popart: Literal[False] = Field(default=False, description="Value targets are not normalized here.")
    unroll_length: int = Field(default=8, ge=1, le=1_000_000, description="T: env steps per unroll.")
    learning_rate: float = Field(default=1e-3, gt=0, le=100, description="Step size of Adam; linear to 0 over the run.")
    gamma: float = Field(default=0.99, gt=0, le=1, description="Discount per env step.")
    gae_lambda: float = Field(default=0.95, ge=0, le=1, description="Decay of the advantage's traces.")
    value_cost: float = Field(default=0.5, ge=0, le=1000, description="Weight of half the squared value error.")
    entropy_cost: float = Field(default=0.01, ge=0, le=1000, description="Weight of the entropy.")
    max_grad_norm: float = Field(default=0.5, gt=0, le=1e12, description="The gradient's norm is cut to this.")

    @property
    def policy_lag_bound(self) -> int:
        """Nothing here corrects for parameters that are older than one update."""
        return 1


class A2CLearner(BaseLearner[PolicyNetwork]):
    """Implements ``machina.interfaces.Learner``: the base class does everything but ``update``."""

    def __init__(self, config: A2CConfig, spec: EnvSpec, device: str, precision: str, seed: int, ranks: Ranks) -> None:
        model = trained_network(
            config,
            spec,
            lambda parameters: Adam(parameters, lr=config.learning_rate, fused=True),
            resolve_device(device),
            seed,
            ranks,
        )
        super().__init__(spec, model, precision)
        if spec.seats:
            raise UserError(f"environment {spec.name!r}: a2c learns for one agent; use ppo")
        self.config = config
        self._distribution = distribution_of(spec.action)

    def update(self, batch: Unroll[Array], done: float) -> Learned:
        """One step of the optimizer from T steps of B slots; of several ranks each has its share of the slots."""
        config, model = self.config, self.model
        unroll = to_device(batch, self.device)
        steps = aligned(unroll)  # T steps: an action, and the reward and flags that came of it
        inputs = network_input(unroll, steps.first, steps.previous_actions, self.spec)
        with self.precision.autocast(self.device):
            output = model.network(inputs, unroll.core_state)
        own, values = model.values_of(output.values, unroll.task_id)
        rewards = steps.rewards.clamp(-1, 1) if config.clips_rewards(self.spec) else steps.rewards
        advantages, targets = gae(
            rewards, steps.continues, values[:-1], values[-1], steps.mask, config.gamma, config.gae_lambda
        )
        log_probs = self._distribution.log_probs(output.logits[:-1], steps.actions)
        per_step = torch.stack(
            [
                policy_gradient_loss(log_probs, advantages),
                value_loss(own[:-1], targets),
                self._distribution.entropies(output.logits[:-1]),
            ]
        )
        counted = torch.where(steps.mask, per_step, 0.0).sum(dim=(1, 2))  # a reset step is no step of the task
        count = steps.mask.sum().to(counted)
        model.zero_grad()
        loss = counted[0] + config.value_cost * counted[1] - config.entropy_cost * counted[2]
        loss.backward()  # type: ignore[no-untyped-call]
        sums = torch.cat([counted.detach(), count[None]]).double()
        filter_sums = model.filter_sums(inputs, steps.mask)
        model.add_up_over_ranks([sums, filter_sums])  # with the gradients: now every rank has those of the whole batch
        policy, value, entropy, total = sums.tolist()
        for parameter in model.trained:
            if parameter.grad is not None:
                parameter.grad /= max(1.0, total)
        norm = model.grad_norm().item()
        finite = math.isfinite(policy + value + entropy) and math.isfinite(norm)
        if finite:
            model.step(linear(config.learning_rate, 0.0, done), config.max_grad_norm, norm)
            model.update_filter(filter_sums)
        self.updates += 1
        metrics = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
        shown = {f"learner/{name}": number / max(1.0, total) for name, number in metrics.items()}
        return Learned(shown, skipped=not finite)


def build(config: A2CConfig) -> ActorCriticAlgorithm:
    """The algorithm with these options: the actor-critic parts of Machina, and the learner above."""
    return ActorCriticAlgorithm(config, functools.partial(A2CLearner, config))


def main() -> None:
    """Register it, train it by name as any other, and score it."""
    machina.register_algorithm("a2c", "Advantage actor-critic, one pass over each batch", A2CConfig, build)
    run = machina.train("a2c", "CartPole-v1", minutes=0.5, envs_per_task=16, until_return=475)
    print(machina.evaluate(run.path, episodes=10).mean_returns)


if __name__ == "__main__":
    main()
