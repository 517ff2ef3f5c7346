from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from race_game import (
    THREE_TEAMS,
    TWO_TEAMS,
    Race,
    StampingPolicy,
    in_memory,
    parameters_of,
    race_spec,
    stamping_policy,
    view_of,
)

from machina.actors.seating import Seating
from machina.errors import UserError
from machina.league.opponents import PoolOpponents
from machina.league.pool import PoolView
from machina.league.results import outcome, winner
from machina.specs import EnvSpec
from machina.types import (
    BEHAVIOUR_LOGITS,
    PRESENT_SELF,
    ActorInput,
    ActorOutput,
    Array,
    BoolArray,
    GameResult,
    StepResult,
)

OWN_STAMP = 1.0
"""Of the policy that learns; snapshot n has 1 + n."""


class Moment(NamedTuple):
    """An entry and what was answered to it."""

    entry: StepResult
    first: BoolArray
    foreign: BoolArray
    answer: ActorOutput


class Recording(StampingPolicy):
    """Keeps its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[ActorOutput] = []

    def act(self, inputs: ActorInput) -> ActorOutput:
        self.given.append(super().act(inputs))
        return self.given[-1]


class Group:
    """Steps games as the actor's group does: NEXT_STEP resets, memory and previous action afresh at each first."""

    def __init__(self, spec: EnvSpec, num_games: int, opponents: PoolOpponents | None, seed: int) -> None:
        self.race = Race(spec, num_games)
        self.num_slots = num_games * len(spec.seats)
        self.seating = Seating(spec, self.num_slots, opponents, (seed,))
        self.policy = stamping_policy(0)
        self.uniforms = np.random.default_rng(seed)
        self.entry = self.race.reset(range(self.num_slots))
        self.core_state = self.policy.initial_core_state(self.num_slots)
        self.first = np.ones(self.num_slots, np.bool_)

    def run(self, steps: int, before_step: Callable[[int], None] = lambda _: None) -> list[Moment]:
        moments = []
        for step in range(steps):
            before_step(step)
            inputs = ActorInput(
                self.entry.observation,
                self.entry.reward,
                self.race.spec.action.none(self.num_slots),
                self.first,
                self.race.task_ids,
                self.core_state,
                self.uniforms.random(self.num_slots, np.float32),
                np.arange(self.num_slots),
            )
            answer = self.seating.answer(self.policy, inputs)
            moments.append(Moment(self.entry, self.first, self.seating.foreign.copy(), answer))
            self.first = self.entry.terminated | self.entry.truncated
            self.core_state = (np.where(self.first[:, None], np.float32(0), answer.core_state[0]),)
            self.entry = self.race.step(answer.action)
            self.seating.receive(self.entry)
        return moments


def pool_opponents(view: PoolView | None, capacity: int = 3) -> PoolOpponents:
    opponents = PoolOpponents(lambda: stamping_policy(99), capacity, parameters_of)
    opponents.load(view)
    return opponents


def begun(teams: Sequence[int], num_games: int, opponents: PoolOpponents | None, seed: int = 1) -> Group:
    group = Group(race_spec(teams), num_games, opponents, seed)
    group.seating.begin()
    return group


def games_of(moments: list[Moment], teams: Sequence[int]) -> list[GameResult]:
    """The finished games, slowly: from the stamps in the core states, slot by slot, in the order of their ends."""
    num_slots = len(moments[0].first)
    numbers = sorted(set(teams))
    found = []
    for start in range(0, num_slots, len(teams)):
        slots = range(start, start + len(teams))
        game: list[Moment] = []
        for t, moment in enumerate(moments):
            game.append(moment)
            if not all((moment.entry.terminated | moment.entry.truncated)[list(slots)]):
                continue
            players, scores = [], []
            for number in numbers:
                seats = [slot for slot, team in zip(slots, teams, strict=True) if team == number]
                (stamp,) = {float(game[0].answer.core_state[0][slot, 0]) for slot in seats}
                players.append(PRESENT_SELF if stamp == OWN_STAMP else f"u{stamp - 1:.0f}")
                scores.append(sum(float(each.entry.reward[slot]) for each in game for slot in seats) / len(seats))
            found.append((t, start, GameResult(tuple(players), tuple(scores), len(game) - 1)))
            game = []
    return [result for _, _, result in sorted(found, key=lambda row: row[:2])]


@pytest.mark.parametrize("teams", [TWO_TEAMS, THREE_TEAMS])
def test_players_stay_from_a_game_s_first_entry_to_its_last_with_memories_of_their_own(teams: Sequence[int]) -> None:
    opponents = pool_opponents(view_of((0.4, 0.3, 0.3), pool_share=0.6), capacity=2)
    group = begun(teams, 6, opponents)

    def publish(step: int) -> None:
        if step == 100:
            opponents.load(view_of((0.1,) * 10, pool_share=0.6))

    moments = group.run(300, publish)
    stamps = np.zeros(group.num_slots, np.float32)
    met = set()
    for t, moment in enumerate(moments):
        opens = np.ones_like(moment.first) if t == 0 else game_opens(moments[t - 1].entry, len(teams))
        expected = 1 + np.round(
            moment.answer.policy_outputs[BEHAVIOUR_LOGITS][:, 1] * 10
        )  # who answered, by the logits
        np.testing.assert_array_equal(expected, np.where(opens, expected, stamps))
        stamps = expected.astype(np.float32)
        # Each player's own memory: its stamp, once per step since the episode's first entry.
        former = np.zeros_like(stamps) if t == 0 else moments[t - 1].answer.core_state[0][:, 0]
        np.testing.assert_array_equal(
            moment.answer.core_state[0][:, 0], np.where(moment.first, np.float32(0), former) + stamps
        )
        np.testing.assert_array_equal(moment.foreign, stamps != OWN_STAMP)
        met |= set(stamps.tolist())
    assert len(met) > 6  # the later pool was played too
    assert len(in_memory(opponents)) == 2


def game_opens(former: StepResult, seats: int) -> BoolArray:
    """``[B]``: slots of games that were over with the entry before."""
    over = np.logical_and.reduce((former.terminated | former.truncated).reshape(-1, seats), axis=1)
    return np.repeat(over, seats)


@pytest.mark.parametrize("teams", [TWO_TEAMS, THREE_TEAMS])
def test_every_game_is_reported_as_it_was_played(teams: Sequence[int]) -> None:
    group = begun(teams, 5, pool_opponents(view_of((0.25, 0.75), pool_share=0.5)))
    moments = group.run(200)
    told = list(group.seating.finished_games)
    expected = games_of(moments, teams)
    assert len(told) - len(expected) in range(6)  # ends of the last step were not acted on any more
    assert [each._replace(probability=1.0) for each in told[: len(expected)]] == expected
    assert {each.probability for each in told if "u1" in each.players} == {0.25}
    assert {each.probability for each in told if "u2" in each.players} == {0.75}
    assert {each.probability for each in told if len(set(each.players)) == 1} == {1.0}
    for result in told:
        assert len({player for player in result.players if player}) <= 1
        if set(result.players) != {PRESENT_SELF}:
            assert result.players.count(PRESENT_SELF) == 1


def test_both_sides_are_played_and_the_pool_gets_its_share() -> None:
    group = begun(TWO_TEAMS, 16, pool_opponents(view_of((0.5, 0.5), pool_share=0.2)))
    group.run(3000)
    told = list(group.seating.finished_games)
    against = [result for result in told if set(result.players) != {PRESENT_SELF}]
    assert abs(len(against) / len(told) - 0.2) < 4 * (0.2 * 0.8 / len(told)) ** 0.5
    first_side = sum(result.players[0] == PRESENT_SELF for result in against) / len(against)
    assert abs(first_side - 0.5) < 4 * (0.25 / len(against)) ** 0.5
    assert len(against) > 2000


@pytest.mark.parametrize("opponents", [None, pool_opponents(None), pool_opponents(view_of((1.0,), pool_share=0.0))])
def test_without_opponents_the_policy_s_answer_is_passed_on_as_it_is(opponents: PoolOpponents | None) -> None:
    group = begun(TWO_TEAMS, 3, opponents)
    group.run(50)
    recording = Recording()
    group.policy = recording
    moments = group.run(10)
    assert all(moment.answer is given for moment, given in zip(moments, recording.given, strict=True))
    assert not any(moment.foreign.any() for moment in moments)
    assert {result.players for result in group.seating.finished_games} == {(PRESENT_SELF, PRESENT_SELF)}


def test_slots_that_are_worlds_of_their_own_have_no_games() -> None:
    spec = race_spec(()).model_copy(update={"seats": ()})
    seating = Seating(spec, 4, pool_opponents(view_of((1.0,))), (1,))
    seating.begin()
    nothing = np.zeros(4, np.bool_)
    reward = np.ones(4, np.float32)
    entry = StepResult({}, reward, ~nothing, nothing, nothing, ~nothing, reward, reward, reward)
    for _ in range(3):
        seating.receive(entry)
    seating.load_state(seating.state())
    assert not seating.finished_games
    assert seating.foreign.tolist() == [False] * 4


def test_one_team_alone_has_no_opponents() -> None:
    group = begun((0, 0), 3, pool_opponents(view_of((1.0,))))
    group.run(50)
    assert not group.seating.foreign.any()
    assert {result.players for result in group.seating.finished_games} == {(PRESENT_SELF,)}
    assert {winner(result) for result in group.seating.finished_games} == {None}


def test_a_replaced_environment_begins_new_games_and_tells_none_of_the_old() -> None:
    opponents = pool_opponents(view_of((0.5, 0.5)), capacity=2)
    group = begun(TWO_TEAMS, 4, opponents)
    group.run(2)
    told = len(group.seating.finished_games)
    group.entry = group.race.reset(range(group.num_slots))
    group.first[:] = True
    group.core_state = group.policy.initial_core_state(group.num_slots)
    group.seating.begin()
    moments = group.run(60)
    assert [each._replace(probability=1.0) for each in group.seating.finished_games][told:][:20] == games_of(
        moments, TWO_TEAMS
    )[:20]


def saved(group: Group) -> dict[str, Array]:
    """What a checkpoint would keep of a group, copied."""
    parts = {**group.race.get_state(), "core": group.core_state[0], "first": group.first}
    parts |= {f"entry/{name}": getattr(group.entry, name) for name in StepResult._fields if name != "observation"}
    parts["observation"] = group.entry.observation["observation"]
    parts |= {f"seating/{key}": array for key, array in group.seating.state().items()}
    return {key: array.copy() for key, array in parts.items()}


def restored(state: dict[str, Array], opponents: PoolOpponents, seed: int) -> Group:
    group = Group(race_spec(), 6, opponents, seed)
    group.seating.begin()  # as a group does before it learns that it continues
    group.race.set_state(state)
    entry = {key.removeprefix("entry/"): array for key, array in state.items() if key.startswith("entry/")}
    group.entry = StepResult(observation={"observation": state["observation"]}, **entry)
    group.core_state, group.first = (state["core"],), state["first"]
    seats = {key.removeprefix("seating/"): array for key, array in state.items() if key.startswith("seating/")}
    group.seating.load_state(seats)
    return group


def test_games_in_progress_continue_exactly() -> None:
    """Two groups share the actor's opponents, whose memory is always full."""
    view = view_of((0.1, 0.2, 0.3, 0.2, 0.2), pool_share=0.9)
    opponents = pool_opponents(view, capacity=2)
    groups = [begun(TWO_TEAMS, 6, opponents, seed) for seed in (1, 2)]
    for group in groups:
        group.run(57)
        group.seating.finished_games.clear()
    states, memory = [saved(group) for group in groups], opponents.state()

    again_opponents = pool_opponents(view, capacity=2)
    again_opponents.load_state(memory)
    again = [restored(state, again_opponents, seed) for state, seed in zip(states, (1, 2), strict=True)]
    for group, same in zip(groups, again, strict=True):
        same.uniforms.bit_generator.state = group.uniforms.bit_generator.state
    for _ in range(80):
        for group, same in zip(groups, again, strict=True):
            (one,), (other,) = group.run(1), same.run(1)
            np.testing.assert_array_equal(one.foreign, other.foreign)
            np.testing.assert_array_equal(one.answer.core_state[0], other.answer.core_state[0])
            np.testing.assert_array_equal(one.answer.action, other.answer.action)
            np.testing.assert_array_equal(one.entry.observation["observation"], other.entry.observation["observation"])
    for group, same in zip(groups, again, strict=True):
        assert list(group.seating.finished_games) == list(same.seating.finished_games)
        assert len(group.seating.finished_games) > 50
    assert in_memory(again_opponents) == in_memory(opponents)


def test_new_games_after_a_restart_are_not_those_of_before() -> None:
    view = view_of((0.1,) * 10, pool_share=0.5)
    before = begun(TWO_TEAMS, 6, pool_opponents(view))
    before.run(40)
    fresh, again = (Group(race_spec(), 6, pool_opponents(view), seed=1) for _ in range(2))
    again.seating.load_counters(before.seating.counters())
    drawn = []
    for group in (fresh, again):
        group.seating.begin()
        drawn.append(group.seating.state())
    assert int(drawn[1]["drawn"]) == int(before.seating.counters()["drawn"]) + 6
    assert drawn[0]["opponents"].tolist() != drawn[1]["opponents"].tolist()


def test_a_saved_game_with_an_opponent_needs_the_league() -> None:
    group = begun(TWO_TEAMS, 6, pool_opponents(view_of((1.0,))))
    with pytest.raises(UserError, match="'u1' plays a saved game"):
        Seating(race_spec(), 24, None, (1,)).load_state(group.seating.state())


def test_the_winner_has_strictly_the_highest_score() -> None:
    def ended(*scores: float) -> GameResult:
        return GameResult(("a", "b", "c")[: len(scores)], scores, 1)

    assert [winner(ended(*scores)) for scores in ((1, 0), (0, 1), (1, 1), (0, 2, 1), (2, 2, 1))] == [
        0,
        1,
        None,
        1,
        None,
    ]
    assert [outcome(ended(2, 2, 1), team) for team in range(3)] == ["draw", "draw", "loss"]
    assert [outcome(ended(0, 2, 1), team) for team in range(3)] == ["loss", "win", "loss"]


def test_opponents_leave_the_policy_as_it_was() -> None:
    group = begun(TWO_TEAMS, 4, pool_opponents(view_of((0.5, 0.5))))
    group.run(40)
    assert torch.equal(group.policy.values.data, parameters_of(0))
