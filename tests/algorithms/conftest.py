"""A small vector task and a small image task, three tasks each."""

from __future__ import annotations

import pytest

from machina.specs import ArraySpec, EnvSpec


@pytest.fixture
def vector_spec() -> EnvSpec:
    return EnvSpec(
        name="vector",
        tasks=("left", "right", "far"),
        observation={"observation": ArraySpec(shape=(5,), dtype="float32")},
        num_actions=4,
    )


@pytest.fixture
def image_spec() -> EnvSpec:
    return EnvSpec(
        name="image",
        tasks=("left", "right", "far"),
        observation={"observation": ArraySpec(shape=(4, 36, 36), dtype="uint8")},
        num_actions=4,
        frame_stack=4,
    )
