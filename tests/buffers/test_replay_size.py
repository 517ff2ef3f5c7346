"""The forecast of a replay's memory against the arrays that it fills."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machina.buffers.layout import Layout
from machina.buffers.priorities import PriorityRule
from machina.buffers.replay_size import bytes_per_step, store_bytes
from machina.buffers.replay_store import ReplayStore
from machina.specs import ArraySpec, EnvSpec, discrete


def layout_for(shape: tuple[int, ...], stack: int, dtype: str, *, every_step: bool = True) -> Layout:
    spec = EnvSpec(
        name="e",
        tasks=("e",),
        observation={"observation": ArraySpec(shape=shape, dtype=dtype)},
        action=discrete(6),
        frame_stack=stack,
    )
    outputs = {name: ArraySpec(shape=(), dtype="float32") for name in ("value", "epsilon")}
    return Layout(spec, outputs, ((512,), (512,)), 40, 3, every_step, compressed=False)


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize(("shape", "stack", "dtype"), [((4, 84, 84), 4, "uint8"), ((17,), 1, "float32")])
def test_the_forecast_is_what_the_arrays_take(shape: tuple[int, ...], stack: int, dtype: str, every_step: bool) -> None:
    layout = layout_for(shape, stack, dtype, every_step=every_step)
    store = ReplayStore(layout, 8000, 8, PriorityRule("proportional", 0.6, 1e-3), None)
    chunks = [store.chunk(index) for index in range(len(store.chunk_versions))]
    kept = [array for chunk in chunks for array in chunk.values()]
    kept += [array for name, array in store.rest().items() if not name.startswith("priorities/masses")]
    arrays = sum(array.nbytes for array in kept)
    trees = 2 * 8 * 8000 * 16 / 15
    assert store_bytes(layout, 8000) == pytest.approx(arrays + trees, rel=0.03)


def test_a_step_of_atari_takes_little_more_than_its_frame() -> None:
    layout = layout_for((4, 84, 84), 4, "uint8")
    assert 84 * 84 < bytes_per_step(layout) < 7200
    assert bytes_per_step(layout._replace(compressed=True)) < 0.3 * bytes_per_step(layout)


def test_memory_is_not_touched_before_it_is_used() -> None:
    before = resident_bytes()
    capacity = 100_000
    layout = layout_for((4, 84, 84), 4, "uint8")
    store = ReplayStore(layout, capacity, 8, PriorityRule("proportional", 0.6, 1e-3), None)
    assert resident_bytes() - before < 0.05 * store_bytes(layout, capacity)
    assert store.num_items == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
