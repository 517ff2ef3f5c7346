"""Sums over real processes on this machine, and what becomes of them when one is gone."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from rank_processes import CONTEXT, PATIENCE_S, Ended, free_rendezvous, run_ranks
from ranks_under_test import DEADLINE_S, sum_and_suffer, tensors_of

from machina.learner.sums import SINGLE_RANK, interface_towards

SLACK_S = 10.0
"""For a machine that is busy with other things."""


@pytest.fixture(scope="module")
def ended() -> list[Ended]:
    return run_ranks(2, sum_and_suffer, free_rendezvous(5), CONTEXT.Event())


@pytest.fixture(scope="module")
def seen(ended: list[Ended]) -> dict[str, Any]:
    """By the rank that lives."""
    assert ended[0].result is not None
    result: dict[str, Any] = ended[0].result
    return result


def test_every_tensor_becomes_its_sum(seen: dict[str, Any]) -> None:
    assert seen["ranks"] == (0, 2)
    for got, one, other in zip(seen["sums"], tensors_of(0), tensors_of(1), strict=True):
        assert got.stride() == one.stride()
        assert torch.equal(got, one + other)


def test_the_process_leaves_cleanly_and_only_the_killed_one_was_killed(ended: list[Ended]) -> None:
    assert [each.exit_code for each in ended] == [0, -signal.SIGKILL]


def test_a_rank_that_hangs_is_given_up_at_the_deadline(seen: dict[str, Any]) -> None:
    message, seconds = seen["hung"]
    assert message.startswith("learner rank 0 of 2 lost the others: ")
    assert "\n" not in message
    assert DEADLINE_S / 2 < seconds < DEADLINE_S + SLACK_S


def test_a_rank_that_never_comes_is_given_up(seen: dict[str, Any]) -> None:
    message, seconds = seen["absent"]
    assert message.startswith("learner rank 0 of 2 did not meet the others: ")
    assert seconds < 3 * DEADLINE_S / 2 + SLACK_S


def test_a_killed_rank_is_noticed_long_before_the_deadline(seen: dict[str, Any]) -> None:
    message, seconds = seen["killed"]
    assert message.startswith("learner rank 0 of 2 lost the others: ")
    assert seconds < SLACK_S < PATIENCE_S / 2


def test_a_single_rank_adds_nothing() -> None:
    assert (SINGLE_RANK.rank, SINGLE_RANK.size) == (0, 1)
    tensors = tensors_of(1)
    SINGLE_RANK.add_up(tensors)
    assert all(torch.equal(got, before) for got, before in zip(tensors, tensors_of(1), strict=True))
    SINGLE_RANK.close()


def test_the_interface_is_the_one_with_the_route() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.machine.invalid") is None
