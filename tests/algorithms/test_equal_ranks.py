"""Several ranks equal one rank on the whole batch.

Gradients are float32 sums, added in another order, so the tolerance is a few float32 roundings (2^-23 = 1.2e-7) of the
largest entry of each tensor: the updates of these small networks amplify nothing (measured: 3e-7 at most, and 4e-8 for
PopArt's float64 statistics of float32 targets). Metrics are differences of such sums: 5e-6 of the value, or of 1, was
measured.
"""

from __future__ import annotations

import math

import pytest
import torch
from rank_processes import Ended, free_rendezvous, run_ranks
from rank_updates import CASES, Course, all_courses, course
from torch import Tensor

from machina.learner.sums import SINGLE_RANK

STATE_TOLERANCE = 2e-6
METRICS_TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def ended() -> list[Ended]:
    """Three processes that go through all cases, so that torch starts once."""
    return run_ranks(3, all_courses, dict(zip(CASES, free_rendezvous(len(CASES)), strict=True)))


@pytest.fixture(params=CASES)
def courses(ended: list[Ended], request: pytest.FixtureRequest) -> tuple[Course, list[Course]]:
    """Of a single rank, and of each of several."""
    name: str = request.param
    shared = [each.result[name] for each in ended if name in each.result]
    assert len(shared) == CASES[name].size
    return course(CASES[name], SINGLE_RANK), shared


def tensors(of: Course) -> dict[str, Tensor]:
    return {f"{stem}/{name}": tensor for stem, group in of.state.tensors.items() for name, tensor in group.items()}


def test_all_processes_leave_cleanly(ended: list[Ended]) -> None:
    assert [each.exit_code for each in ended] == [0, 0, 0]


def test_ranks_start_equal_and_stay_equal_bit_for_bit(courses: tuple[Course, list[Course]]) -> None:
    single, (first, *others) = courses
    assert torch.equal(single.start, first.start)
    for other in others:
        assert torch.equal(first.start, other.start)
        assert tensors(first).keys() == tensors(other).keys()
        assert all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(first).items())
        assert first.state.values == other.state.values
        for expected, got in zip(first.learned, other.learned, strict=True):
            assert got.metrics == pytest.approx(expected.metrics, rel=0, abs=0, nan_ok=True)


def test_several_ranks_equal_one_on_the_whole_batch(courses: tuple[Course, list[Course]]) -> None:
    single, (first, *_) = courses
    assert tensors(single).keys() == tensors(first).keys()
    for name, expected in tensors(single).items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(tensors(first)[name], expected, rtol=0, atol=STATE_TOLERANCE * scale, msg=name)
    assert first.state.values == single.state.values
    moved = torch.cat(
        [
            tensor.reshape(-1)
            for name, tensor in single.state.tensors["model"].items()
            if not name.startswith(("popart.", "filter."))
        ]
    )
    assert (moved - single.start).abs().max() > 1e-3


def test_metrics_are_those_of_the_whole_batch(courses: tuple[Course, list[Course]]) -> None:
    single, (first, *_) = courses
    for expected, got in zip(single.learned, first.learned, strict=True):
        assert got.metrics == pytest.approx(expected.metrics, rel=METRICS_TOLERANCE, abs=METRICS_TOLERANCE, nan_ok=True)


def test_a_share_that_is_not_a_number_skips_the_update_on_every_rank(ended: list[Ended]) -> None:
    case = CASES["not a number"]
    for each in ended[: case.size]:
        learned = each.result["not a number"].learned
        skipped = [update for update, came_to in enumerate(learned) if came_to.skipped]
        assert skipped == [case.spoilt_update]
        assert math.isnan(learned[skipped[0]].metrics["learner/total_loss"])


def test_a_parameter_without_gradient_on_any_rank_has_no_optimizer_state(ended: list[Ended]) -> None:
    """A zero gradient in its place would make Adam count its steps."""
    optimizer = ended[0].result["2 slots on 3 ranks"].state.tensors["optimizer"]
    assert optimizer
    assert not any(name.startswith("unused") for name in optimizer)
