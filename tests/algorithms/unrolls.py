"""Random unrolls with episode ends, life losses and off-policy logits."""

from __future__ import annotations

import numpy as np

from machina.specs import EnvSpec
from machina.types import NO_ACTION, Array, CoreState, Unroll


def random_unroll(
    spec: EnvSpec,
    T: int,  # noqa: N803
    B: int,  # noqa: N803
    seed: int,
    core_state: CoreState = (),
) -> Unroll[Array]:
    random = np.random.default_rng(seed)
    stored = spec.stored_observation["observation"]
    shape = (T + spec.frame_stack, B, *stored.shape)
    observation = random.integers(0, 256, shape) if stored.dtype == "uint8" else random.normal(size=shape)
    return Unroll(
        observation={"observation": observation.astype(stored.dtype)},
        reward=random.normal(size=(T + 1, B)).astype(np.float32),
        terminated=random.random((T + 1, B)) < 0.1,
        truncated=random.random((T + 1, B)) < 0.1,
        life_lost=random.random((T + 1, B)) < 0.1,
        action=random.integers(0, spec.num_actions, (T + 1, B)),
        behaviour_logits=random.normal(size=(T + 1, B, spec.num_actions)).astype(np.float32),
        core_state=core_state,
        previous_action=np.where(random.random(B) < 0.3, NO_ACTION, 1),
        task_id=np.arange(B) % spec.num_tasks,
        slot=np.arange(B),
        policy_version=np.zeros(B, np.int64),
    )
