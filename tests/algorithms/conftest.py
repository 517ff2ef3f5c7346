"""A small vector task and a small image task, three tasks each."""

from __future__ import annotations

import pytest

from machina.specs import ArraySpec, EnvSpec, discrete


@pytest.fixture
def vector_spec() -> EnvSpec:
    return EnvSpec(
        name="vector",
        tasks=("left", "right", "far"),
        observation={"observation": ArraySpec(shape=(5,), dtype="float32")},
        action=discrete(4),
    )


@pytest.fixture
def image_spec() -> EnvSpec:
    return EnvSpec(
        name="image",
        tasks=("left", "right", "far"),
        observation={"observation": ArraySpec(shape=(4, 36, 36), dtype="uint8")},
        action=discrete(4),
        frame_stack=4,
    )
