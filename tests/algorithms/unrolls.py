"""Random unrolls with episode ends, life losses and off-policy logits."""

from __future__ import annotations

import numpy as np

from machina.actions import random_actions
from machina.specs import EnvSpec
from machina.types import BEHAVIOUR_LOGITS, Array, CoreState, Unroll, where_slots


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
    reward = random.normal(size=(T + 1, B)).astype(np.float32)
    first = random.random(B) < 0.3
    return Unroll(
        observation={"observation": observation.astype(stored.dtype)},
        reward=reward,
        team_reward=reward,
        enemy_reward=np.zeros_like(reward),
        terminated=random.random((T + 1, B)) < 0.1,
        truncated=random.random((T + 1, B)) < 0.1,
        life_lost=random.random((T + 1, B)) < 0.1,
        on_turn=np.ones((T + 1, B), np.bool_),
        foreign=np.zeros((T + 1, B), np.bool_),
        action=random_actions(spec.action, (T + 1) * B, random).reshape(T + 1, B, *spec.action.shape),
        policy_outputs={
            BEHAVIOUR_LOGITS: random.normal(size=(T + 1, B, spec.action.num_parameters)).astype(np.float32)
        },
        core_state=core_state,
        previous_action=where_slots(first, spec.action.none(B), np.ones_like(spec.action.none(B))),
        first=first,
        task_id=np.arange(B) % spec.num_tasks,
        slot=np.arange(B),
        policy_version=np.zeros(B, np.int64),
        start=np.zeros(B, np.int64),
        weight=np.ones(B, np.float32),
    )
