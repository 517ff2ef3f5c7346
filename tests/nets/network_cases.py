"""Environments and random inputs for tests of networks."""

from __future__ import annotations

import torch
from torch import Tensor

from machina.nets.network import CoreTensors, NetworkInput, NetworkOutput, PolicyNetwork
from machina.specs import ActionSpec, ArraySpec, EnvSpec, discrete
from machina.types import ACTION_MASK, NO_ACTION

DISCRETE = discrete(5)
MULTI_DISCRETE = ActionSpec(kind="multi_discrete", choices=(3, 2, 4))
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -2.0), high=(1.0, float("inf")))
ACTIONS: dict[str, ActionSpec] = {action.kind: action for action in (DISCRETE, MULTI_DISCRETE, CONTINUOUS)}


def spec_of(observation: dict[str, ArraySpec], num_tasks: int = 2, action: ActionSpec = DISCRETE) -> EnvSpec:
    return EnvSpec(
        name="test", tasks=tuple(f"task{i}" for i in range(num_tasks)), observation=observation, action=action
    )


def make_spec(dtype: str = "uint8", stack: int = 1, **shapes: tuple[int, ...]) -> EnvSpec:
    """Two tasks, five actions, arrays of one dtype."""
    spec = spec_of({key: ArraySpec(shape=shape, dtype=dtype) for key, shape in shapes.items()})
    return spec.model_copy(update={"frame_stack": stack})


def with_mask(spec: EnvSpec) -> EnvSpec:
    mask = ArraySpec(shape=(spec.action.num_parameters,), dtype="bool")
    return spec.model_copy(update={"observation": {**spec.observation, ACTION_MASK: mask}})


def random_array(array: ArraySpec, T: int, B: int) -> Tensor:  # noqa: N803
    shape = (T, B, *array.shape)
    if array.dtype == "float32":
        return torch.randn(shape)
    if array.dtype == "bool":
        return torch.rand(shape) < 0.6
    return torch.randint(0, 255, shape).to(getattr(torch, array.dtype))


def random_actions(action: ActionSpec, T: int, B: int, first: Tensor) -> Tensor:  # noqa: N803
    """``[T, B, *action.shape]``; none where ``first``."""
    if action.kind == "continuous":
        return (torch.randn(T, B, *action.shape) * 2).masked_fill(first[..., None], 0)
    components = [torch.randint(0, count, (T, B)).masked_fill(first, NO_ACTION) for count in action.choices]
    return torch.stack(components, dim=-1) if action.shape else components[0]


def random_inputs(spec: EnvSpec, T: int, B: int, resets: float = 0.0) -> NetworkInput:  # noqa: N803
    first = torch.rand(T, B) < resets
    return NetworkInput(
        observation={key: random_array(array, T, B) for key, array in spec.observation.items()},
        reward=torch.randn(T, B) * 3,
        previous_action=random_actions(spec.action, T, B, first),
        first=first,
        task_id=(torch.arange(B) % spec.num_tasks).expand(T, B),
    )


def zero_state(network: PolicyNetwork, slots: int) -> CoreTensors:
    return tuple(torch.zeros(slots, *shape) for shape in network.core_state_shapes)


def random_state(network: PolicyNetwork, slots: int) -> CoreTensors:
    return tuple(torch.randn(slots, *shape) for shape in network.core_state_shapes)


def entry_of(inputs: NetworkInput, t: int) -> NetworkInput:
    """Entry ``t`` alone, as an actor asks it, the core state already cleared where an episode opens."""
    entry = slice(t, t + 1)
    return NetworkInput(
        observation={key: array[entry] for key, array in inputs.observation.items()},
        reward=inputs.reward[entry],
        previous_action=inputs.previous_action[entry],
        first=torch.zeros_like(inputs.first[entry]),
        task_id=inputs.task_id[entry],
    )


def slots_of(inputs: NetworkInput, slots: Tensor) -> NetworkInput:
    """Some slots, in the order asked for."""
    return NetworkInput(
        observation={key: array[:, slots] for key, array in inputs.observation.items()},
        reward=inputs.reward[:, slots],
        previous_action=inputs.previous_action[:, slots],
        first=inputs.first[:, slots],
        task_id=inputs.task_id[:, slots],
    )


@torch.no_grad()
def assert_unroll_equals_single_steps(network: PolicyNetwork, inputs: NetworkInput) -> None:
    """The actor zeroes the core state at episode starts; the learner must do so inside the unroll."""
    start = random_state(network, inputs.reward.shape[1])
    whole: NetworkOutput = network(inputs, start)
    state = start
    for t in range(len(inputs.reward)):
        state = tuple(part * (~inputs.first[t])[:, None] for part in state)
        step = network(entry_of(inputs, t), state)
        state = step.core_state
        torch.testing.assert_close(step.logits[0], whole.logits[t])
        torch.testing.assert_close(step.values[0], whole.values[t])
    for got, expected in zip(whole.core_state, state, strict=True):
        torch.testing.assert_close(got, expected)
