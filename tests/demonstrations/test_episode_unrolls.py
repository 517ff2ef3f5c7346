"""Recorded episodes as unrolls, against what the actor's own buffer makes of the same entries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_episodes import PLAIN, STACKED, header_of, played, write

from machina.buffers.unrolls import UnrollBuffer, to_arrays
from machina.demonstrations import load_set, write_episode
from machina.specs import ArraySpec, EnvSpec
from machina.types import ActorOutput

OUTPUTS = {"behaviour_logits": ArraySpec(shape=(5,), dtype="float32"), "epsilon": ArraySpec(shape=(), dtype="float64")}
CORE = [(8,), (2, 3)]


@pytest.mark.parametrize("spec", [PLAIN, STACKED], ids=["plain", "stacked"])
@pytest.mark.parametrize("unroll_length", [1, 5, 7, 45, 100])
def test_unrolls_are_those_that_an_actor_would_have_made(spec: EnvSpec, unroll_length: int, tmp_path: Path) -> None:
    length = 45
    write(tmp_path, spec, 3)
    recorder, entries, actions, _ = played(spec, length)
    write_episode(tmp_path, header_of(recorder), recorder.arrays())
    episode = load_set(tmp_path).episodes[1]
    core = tuple(np.zeros((1, *shape), np.float32) for shape in CORE)
    unrolls = list(episode.unrolls(OUTPUTS, CORE, unroll_length))
    starts = list(range(0, length, unroll_length))
    assert len(unrolls) == len(starts)
    for unroll, start in zip(unrolls, starts, strict=True):
        steps = min(unroll_length, length - start)
        buffer = UnrollBuffer(spec, OUTPUTS, steps, np.array([1]), np.zeros(1, np.int64), core)
        previous = actions[start - 1] if start else spec.action.none(1)
        buffer.open(core, previous, np.array([start == 0]), -1, start)
        for t in range(steps + 1):
            buffer.write_entry(t, entries[start + t])
            if t < steps:
                buffer.write_answer(t, actions[start + t], ActorOutput(actions[start + t], {}, core), False)
        ours, expected = to_arrays(unroll), to_arrays(buffer.unroll)
        assert ours.keys() == expected.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, expected[name], strict=True, err_msg=name)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_resident_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """Files are mapped one at a time, and let go of."""
    spec = EnvSpec(
        name="large",
        tasks=("large",),
        observation={"observation": ArraySpec(shape=(250_000,), dtype="uint8")},
        action=STACKED.action,
    )
    for seed in range(8):
        recorder = played(spec, 99, seed).recorder
        write_episode(tmp_path, header_of(recorder), recorder.arrays())
        del recorder
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 199e6
    before, most, total = resident_bytes(), 0, 0
    demonstrations = load_set(tmp_path)
    most = resident_bytes()
    for episode in demonstrations.episodes:
        for unroll in episode.unrolls({}, (), 20):
            total += int(unroll.observation["observation"].sum())
            most = max(most, resident_bytes())
        del unroll
    assert total > 0
    assert most - before < 40e6  # one file and a little
    assert resident_bytes() - before < 10e6
