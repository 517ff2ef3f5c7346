"""What all networks have in common, and the actor-critic network: torso, optional LSTM, policy head, value heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from machina.errors import RAISED, RunFailedError, in_one_line_with_place
from machina.nets.config import NetworkConfig, TorsoConfig
from machina.nets.distributions import masked
from machina.nets.observation_filter import ObservationFilter
from machina.nets.torsos import Encoder
from machina.specs import ActionSpec, EnvSpec
from machina.types import ACTION_MASK

CoreTensors = tuple[Tensor, ...]
Output = TypeVar("Output")


class NetworkInput(NamedTuple):
    """What a network may read. One that all tasks share leaves ``task_id`` alone: it can't know which it plays."""

    observation: Mapping[str, Tensor]
    """``[T, B, ...]`` each; frame stacks as ``[T, B, stack, H, W]``."""
    reward: Tensor
    """``[T, B]``: the reward that arrived with the observation."""
    previous_action: Tensor
    """``[T, B, *action.shape]`` int64 or float32: ``NO_ACTION``, or zero, where the entry opens an episode."""
    first: Tensor
    """``[T, B]`` bool: the entry opens an episode; the core state starts from zero there."""
    task_id: Tensor
    """``[T, B]`` int64, constant over time: read only by networks with separate parts for each role."""


class NetworkOutput(NamedTuple):
    """What a network returns, in float32."""

    logits: Tensor
    """``[T, B, P]``: parameters of the distribution over actions (``machina.nets.distributions``)."""
    values: Tensor
    """``[T, B, num_tasks]``: normalized when PopArt is on."""
    core_state: CoreTensors
    """``[B, ...]`` each, after the last entry."""


class NetworkContract(NamedTuple):
    """What a user's network must return."""

    name: str
    """Of the network, as the user gave it."""
    num_parameters: int
    """P: the last axis of ``logits``."""
    num_tasks: int

    def checked(self, output: object, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        """``output`` if it has the right shapes.

        Raises:
            RunFailedError: it has not, or is no ``NetworkOutput``.
        """
        if not isinstance(output, NetworkOutput):
            raise RunFailedError(
                f"network {self.name!r}: forward must return a NetworkOutput, got {type(output).__name__}"
            )
        entries, slots = inputs.reward.shape
        heads = [(entries, slots, self.num_parameters), (entries, slots, self.num_tasks)]
        expected = [*heads, *(tuple(state.shape) for state in core_state)]
        got = [tuple(tensor.shape) for tensor in (output.logits, output.values, *output.core_state)]
        if got != expected:
            raise RunFailedError(
                f"network {self.name!r}: logits, values and core state must have shapes {expected}, got {got} "
                f"({entries} entries of {slots} slots)"
            )
        return output


class Network(nn.Module, Generic[Output]):
    """What the networks of all algorithms have in common.

    A subclass sets ``core_state_shapes`` and defines ``forward`` and ``masked``. Actors receive its parameters only, so
    it must not keep buffers that change.
    """

    core_state_shapes: tuple[tuple[int, ...], ...]
    """Shapes of the core state's arrays for one slot; empty for a feed-forward network."""

    def __call__(self, inputs: NetworkInput, core_state: CoreTensors) -> Output:
        """``forward``, with actions that the observation's mask forbids put out of reach."""
        output = self._output(inputs, core_state)
        if ACTION_MASK not in inputs.observation:
            return output
        return self.masked(output, inputs.observation[ACTION_MASK])

    def _output(self, inputs: NetworkInput, core_state: CoreTensors) -> Output:
        return cast(Output, super().__call__(inputs, core_state))

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> Output:
        """For T entries of B slots, starting from ``core_state`` ``[B, ...]``."""
        raise NotImplementedError

    def masked(self, output: Output, allowed: Tensor) -> Output:
        """``output`` with the actions that are not ``allowed`` ``[T, B, sum of choices]`` out of reach."""
        raise NotImplementedError

    def cast_torso(self, dtype: torch.dtype) -> None:
        """Keep the torso's weights in ``dtype``, where that saves converting them at every call."""


class PolicyNetwork(Network[NetworkOutput]):
    """The interface of every actor-critic network, a user's own included.

    A subclass sets ``core_state_shapes`` and ``value_head`` and defines ``forward``.
    """

    value_head: nn.Linear
    """The layer with ``num_tasks`` outputs that gives ``values``; PopArt rescales its rows."""

    contract: NetworkContract | None = None
    """What everything that a user's network returns is checked against; our own networks have none."""

    def _output(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        """Raises RunFailedError when a user's network raises or returns wrong shapes; one line that names it."""
        if self.contract is None:
            return super()._output(inputs, core_state)
        try:
            output = super()._output(inputs, core_state)
        except RAISED as error:
            reason = in_one_line_with_place(error, type(self).__module__)
            raise RunFailedError(f"network {self.contract.name!r}: forward raised {reason}") from error
        return self.contract.checked(output, inputs, core_state)

    def masked(self, output: NetworkOutput, allowed: Tensor) -> NetworkOutput:
        """Forbidden actions have no probability."""
        return output._replace(logits=masked(output.logits, allowed))


class RecurrentCore(nn.Module):
    """An LSTM fed with features and, if it ``reads_last_step``, the previous action (one-hot) and the reward clipped to
    [-1, 1] (IMPALA).

    Of several choices each is one-hot; a continuous action is fed as its numbers, clipped to [-1, 1] too.

    The forget gate starts with a bias of 1, as in IMPALA's published code: PyTorch's start forgets half of everything
    at each step, and then one of three seeds did not learn to keep a cue for 20 steps (`recall`, 300,000 env steps).
    """

    def __init__(self, features: int, action: ActionSpec, size: int, *, reads_last_step: bool) -> None:
        super().__init__()
        self.action = action
        self.reads_last_step = reads_last_step
        last_step = (sum(action.choices) or len(action.low)) + 1 if reads_last_step else 0
        self.lstm = nn.LSTM(features + last_step, size)
        bias = cast(Tensor, self.lstm.bias_ih_l0)  # of the gates input, forget, cell, output, in this order
        bias.data[size : 2 * size] += 1

    def forward(self, features: Tensor, inputs: NetworkInput, core_state: CoreTensors) -> tuple[Tensor, CoreTensors]:
        """``[T, B, features]`` to ``[T, B, size]`` and the state ``[B, size]`` twice (hidden, cell)."""
        if self.reads_last_step:
            previous = self._read(inputs.previous_action)
            reward = inputs.reward.clamp(-1, 1).unsqueeze(-1)
            features = torch.cat([features, previous.to(features.dtype), reward.to(features.dtype)], dim=-1)
        hidden, cell = core_state
        outputs = []
        # The LSTM runs at full speed over the spans between resets; the state restarts from zero between them.
        starts = _span_starts(inputs.first)
        for start, end in zip(starts, [*starts[1:], len(features)], strict=True):
            keep = (~inputs.first[start]).unsqueeze(-1).to(features.dtype)
            span, (hidden, cell) = self.lstm(features[start:end], ((hidden * keep)[None], (cell * keep)[None]))
            hidden, cell = hidden[0], cell[0]
            outputs.append(span)
        return torch.cat(outputs), (hidden, cell)

    def _read(self, previous_action: Tensor) -> Tensor:
        """``[T, B, *action.shape]`` to ``[T, B, numbers]``; all zero where there was no action."""
        if self.action.kind == "continuous":
            return previous_action.clamp(-1, 1)
        choices = previous_action.unbind(-1) if self.action.shape else (previous_action,)
        one_hot = [
            functional.one_hot(choice.clamp(min=0), count) * (choice >= 0).unsqueeze(-1)
            for choice, count in zip(choices, self.action.choices, strict=True)
        ]
        return torch.cat(one_hot, dim=-1)


def recurrent_core(features: int, action: ActionSpec, config: TorsoConfig) -> RecurrentCore | None:
    """The LSTM behind the torso, where one is asked for."""
    if not config.lstm_size:
        return None
    return RecurrentCore(features, action, config.lstm_size, reads_last_step=config.lstm_reads_last_step)


def start_orthogonal(module: nn.Module, gain: float) -> None:
    """Orthogonal weights and zero biases in all layers of ``module``, as PPO's published code starts.

    The gain of sqrt(2) keeps the signal's size through ReLU layers (arXiv 1312.6120); PyTorch's own start halves it at
    each layer, and with it the shallow net died on Pong: 80 % of its units gave 0 for every input after 250,000 steps.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ActorCritic(PolicyNetwork):
    """The networks of the IMPALA and PPO papers, for images, vectors and sets of units; a value head per task.

    The deviations of a continuous policy are parameters of their own, whatever it observes (as PPO's published code).
    """

    def __init__(self, spec: EnvSpec, config: NetworkConfig) -> None:
        """Raises UserError when the torso or the filter asked for does not suit the observation."""
        super().__init__()
        self.encoder = Encoder(spec, config)
        size = config.lstm_size
        self.core = recurrent_core(self.encoder.output_size, spec.action, config)
        self.core_state_shapes = ((size,), (size,)) if size else ()
        features = size or self.encoder.output_size
        self.policy_head = nn.Linear(features, sum(spec.action.choices) or len(spec.action.low))
        self.value_head = nn.Linear(features, spec.num_tasks)
        start_orthogonal(self.encoder, gain=math.sqrt(2))
        start_orthogonal(self.policy_head, gain=0.01)
        start_orthogonal(self.value_head, gain=1.0)
        self.value_encoder: Encoder | None = None
        if config.separate_value:
            self.value_encoder = Encoder(spec, config)
            start_orthogonal(self.value_encoder, gain=math.sqrt(2))
        self.log_deviation: nn.Parameter | None = None
        if spec.action.kind == "continuous":
            self.log_deviation = nn.Parameter(torch.full(spec.action.shape, config.initial_log_deviation))
        self.observation_filter = ObservationFilter(spec) if config.observation_filter else None

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> NetworkOutput:
        """Read T entries of B slots; only the torsos follow a surrounding autocast."""
        observation = inputs.observation
        if self.observation_filter is not None:
            observation = self.observation_filter(observation)
        features = self.encoder(observation)
        value_features = features if self.value_encoder is None else self.value_encoder(observation)
        with torch.autocast(features.device.type, enabled=False):
            features = features.float().unflatten(0, inputs.reward.shape)
            value_features = value_features.float().unflatten(0, inputs.reward.shape)
            if self.core is not None:
                features, core_state = self.core(features, inputs, core_state)
                value_features = features
            logits = self.policy_head(features)
            if self.log_deviation is not None:
                logits = torch.cat([logits, self.log_deviation.expand_as(logits)], dim=-1)
            return NetworkOutput(logits, self.value_head(value_features), core_state)

    def cast_torso(self, dtype: torch.dtype) -> None:
        """Keep the torsos' weights in ``dtype``; converting them costs as much as acting for a few slots."""
        self.encoder.to(dtype)
        if self.value_encoder is not None:
            self.value_encoder.to(dtype)


def _span_starts(first: Tensor) -> list[int]:
    """Entry 0 and every later entry where some slot opens an episode."""
    if len(first) == 1:
        return [0]
    return [0, *(int(t) + 1 for t in first[1:].any(dim=1).nonzero().flatten().tolist())]
