"""Ends, deaths and turns: GAE and V-trace against sums in plain Python, wherever unrolls are cut."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from simulated_games import AGENTS, SLOTS, Rules, Stream, Window, simulated, windows
from slow_returns import Clips, slow_gae, slow_vtrace
from torch import Tensor

from machina.losses.alignment import aligned
from machina.losses.gae import gae
from machina.losses.vtrace import vtrace
from machina.types import combined

GAMMA, LAMBDA = 0.93, 0.85
CLIPS = Clips(rho_clip=1.3, c_clip=0.7, pg_rho_clip=0.9, lambda_=0.8)
ENTRIES = 36
SEEDS = 4

Returns = tuple[Tensor, Tensor]
Estimator = Callable[[Window, bool], Returns]
EVERYTHING = Rules(ending="any", deaths=True, turns="random", life_losses=0.1, foreigners=0.2)


def gae_of(window: Window, with_turns: bool = True) -> Returns:
    steps, values = aligned(window.unroll), window.values
    on_turn = steps.on_turn if with_turns else None
    return gae(steps.rewards, steps.continues, values[:-1], values[-1], steps.mask, GAMMA, LAMBDA, on_turn)


def vtrace_of(window: Window, with_turns: bool = True) -> Returns:
    steps, values = aligned(window.unroll), window.values
    return vtrace(
        window.log_rhos,
        steps.continues,
        steps.rewards,
        values[:-1],
        values[-1],
        steps.mask,
        GAMMA,
        *CLIPS,
        on_turn=steps.on_turn if with_turns else None,
    )


def expected_of(estimator: Estimator, window: Window) -> Returns:
    if estimator is gae_of:
        return slow_gae(window, GAMMA, LAMBDA)
    return slow_vtrace(window, GAMMA, CLIPS)


def assert_near(actual: Returns, expected: Returns) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


both_estimators = pytest.mark.parametrize("estimator", [gae_of, vtrace_of], ids=["GAE", "V-trace"])


@both_estimators
@pytest.mark.parametrize("situation", ["reset step", "agent death", "not on turn"])
@pytest.mark.parametrize("ending", ["terminated", "truncated", "neither"])
@pytest.mark.parametrize("T", [1, 9])
def test_equals_the_sums_over_own_turns(T: int, ending: str, situation: str, estimator: Estimator) -> None:  # noqa: N803
    for seed in range(SEEDS):
        turns = ("in order", "random")[seed % 2] if situation == "not on turn" else "always"
        rules = Rules(ending, deaths=situation == "agent death", turns=turns)  # type: ignore[arg-type]
        stream = simulated(rules, ENTRIES, seed)
        assert_it_happens(stream, ending, situation)
        for window in windows(stream, T):
            expected = expected_of(estimator, window)
            assert_near(estimator(window, True), expected)
            if turns == "always":
                assert_near(estimator(window, False), expected)


def assert_it_happens(stream: Stream, ending: str, situation: str) -> None:
    """The stream has what the case is named after."""
    done = stream.terminated | stream.truncated
    happened = {"terminated": stream.terminated, "truncated": stream.truncated}
    assert all(bool(flags.any()) == (name == ending) for name, flags in happened.items()) or ending == "neither"
    if situation == "agent death":
        games = done.view(ENTRIES, -1, AGENTS)
        assert (games.any(dim=-1) & ~games.all(dim=-1)).any(), "an agent ended before its game"
        assert (done[:-1] & done[1:]).any(), "its end was repeated"
    elif ending == "neither":
        assert not done.any()
    if situation == "not on turn":
        live = ~done[:-1]
        assert (live & stream.on_turn[:-1] & ~stream.on_turn[1:]).any()
        assert (live & ~stream.on_turn[:-1] & ~stream.on_turn[1:]).any()
    else:
        assert stream.on_turn.all()


@both_estimators
def test_equals_the_sums_when_everything_happens_at_once(estimator: Estimator) -> None:
    for seed in range(2 * SEEDS):
        for window in windows(simulated(EVERYTHING, ENTRIES, seed), 12):
            assert_near(estimator(window, True), expected_of(estimator, window))


@pytest.mark.parametrize(
    "clips",
    [
        Clips(),
        Clips(rho_clip=2.5, c_clip=0.7),
        Clips(rho_clip=1.5, c_clip=1.5, pg_rho_clip=0.4),
        Clips(rho_clip=math.inf, c_clip=math.inf, pg_rho_clip=math.inf, lambda_=0.3),
    ],
)
def test_vtrace_with_turns_for_all_clips(clips: Clips) -> None:
    for window in windows(simulated(EVERYTHING, ENTRIES, 11), 12):
        steps = aligned(window.unroll)
        args = (window.log_rhos, steps.continues, steps.rewards, window.values[:-1], window.values[-1], steps.mask)
        assert_near(vtrace(*args, GAMMA, *clips, on_turn=steps.on_turn), slow_vtrace(window, GAMMA, clips))


@both_estimators
def test_nothing_after_an_end_changes_anything_before_it(estimator: Estimator) -> None:
    ends = changes = 0
    for seed in range(SEEDS):
        for window in windows(simulated(EVERYTHING, ENTRIES, seed), 9):
            before = estimator(window, True)
            done = window.unroll.terminated | window.unroll.truncated
            for entry, slot in done[:-1].nonzero().tolist():
                after = estimator(changed_after(window, entry, slot), True)
                pairs = [(old[:, slot], new[:, slot]) for old, new in zip(before, after, strict=True)]
                assert all(torch.equal(old[: entry + 1], new[: entry + 1]) for old, new in pairs)
                ends += 1
                changes += not all(torch.equal(old, new) for old, new in pairs)
    assert changes > 0.5 * ends > 100


def changed_after(window: Window, entry: int, slot: int) -> Window:
    """All that a slot shows after an end; the end's own action is ignored, so its ratio may change as well."""
    unroll, values, log_rhos = window.unroll, window.values.clone(), window.log_rhos.clone()
    reward, life_lost, on_turn = unroll.reward.clone(), unroll.life_lost.clone(), unroll.on_turn.clone()
    reward[entry + 1 :, slot] -= 30.0
    values[entry + 1 :, slot] += 100.0
    log_rhos[entry:, slot] += 1.0
    life_lost[entry + 1 :, slot] ^= True
    on_turn[entry:, slot] ^= True
    changed = unroll._replace(reward=reward, life_lost=life_lost, on_turn=on_turn)
    return Window(changed, values, log_rhos)


@both_estimators
def test_the_value_after_a_termination_does_not_count_the_one_after_a_truncation_does(estimator: Estimator) -> None:
    for ending in ("terminated", "truncated"):
        for window in windows(simulated(Rules(ending), ENTRIES, 0), 9):
            done = window.unroll.terminated | window.unroll.truncated
            values = torch.where(done, window.values + 5.0, window.values)
            before = estimator(window, False)
            after = estimator(window._replace(values=values), False)
            steps_to_ends = done[1:] & ~done[:-1]
            for old, new in zip(before, after, strict=True):
                assert not ((old == new) ^ (ending == "terminated"))[steps_to_ends].any()


@both_estimators
def test_splitting_the_slots_changes_nothing(estimator: Estimator) -> None:
    """Agents of one game may be learned from in different batches, and on different ranks."""
    for window in windows(simulated(EVERYTHING, ENTRIES, 5), 9):
        whole = estimator(window, True)
        for slots in ([0], [4, 1], [5, 3, 2]):
            for all_slots, some in zip(whole, estimator(only(window, slots), True), strict=True):
                assert torch.equal(all_slots[:, slots], some)


def only(window: Window, slots: list[int]) -> Window:
    unroll = combined([window.unroll], lambda tensors: tensors[0][:, slots], lambda tensors: tensors[0][slots])
    return Window(unroll, window.values[:, slots], window.log_rhos[:, slots])


def test_log_rhos_of_steps_that_are_no_choices_are_not_read() -> None:
    for window in windows(simulated(EVERYTHING, ENTRIES, 7), 9):
        steps = aligned(window.unroll)
        nonsense = torch.where(steps.mask & steps.on_turn, window.log_rhos, torch.inf)
        for old, new in zip(vtrace_of(window), vtrace_of(window._replace(log_rhos=nonsense)), strict=True):
            assert torch.equal(old, new)


@both_estimators
def test_true_values_leave_nothing_to_learn_wherever_the_unroll_is_cut(estimator: Estimator) -> None:
    """Also where a cut parts an own turn from the reward that arrives while others move."""
    parted = 0
    for seed in range(SEEDS):
        stream = true_valued(simulated(EVERYTHING._replace(foreigners=0.0), ENTRIES, seed))
        for window in windows(stream, 7):
            targets, advantages = estimator(window, True)
            if estimator is gae_of:
                targets, advantages = advantages, targets
            torch.testing.assert_close(advantages, torch.zeros_like(advantages), rtol=0, atol=1e-12)
            torch.testing.assert_close(targets, window.values[:-1], rtol=1e-12, atol=1e-12)
            done = window.unroll.terminated | window.unroll.truncated
            parted += int((window.unroll.on_turn[-2] & ~window.unroll.on_turn[-1] & ~done[-2:].any(dim=0)).sum())
    assert parted > 50


def true_valued(stream: Stream) -> Stream:
    """The stream with the returns of its own turns as values, from what happens after each, to the stream's end.

    Each return on turn is that of the definition: undiscounted rewards up to the next own turn, one gamma for it. An
    entry off turn is worth what makes ``gamma V`` right for the own turn before it.
    """
    values = stream.values.clone()
    entries = len(values)
    for slot in range(SLOTS):
        for k in reversed(range(entries - 1)):
            if stream.terminated[k, slot] or stream.truncated[k, slot]:
                continue  # the value of the final observation stays what it is
            reward, goes_on, station = 0.0, 1.0, k
            while True:
                station += 1
                reward += goes_on * float(stream.reward[station, slot])
                if stream.terminated[station, slot] or stream.life_lost[station, slot]:
                    goes_on = 0.0
                done = bool(stream.terminated[station, slot] | stream.truncated[station, slot])
                if done or stream.on_turn[station, slot] or station == entries - 1:
                    break
            own_return = reward + GAMMA * goes_on * float(values[station, slot])
            values[k, slot] = own_return if stream.on_turn[k, slot] else own_return / GAMMA
    return stream._replace(values=values)
