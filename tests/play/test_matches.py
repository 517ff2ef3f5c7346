import json

import numpy as np
import pytest
from race_game import (
    RUN,
    STUMBLE,
    THREE_TEAMS,
    TWO_TEAMS,
    WALK,
    RaceFactory,
    StampingPolicy,
    parameters_of,
    race_spec,
    stamping_policy,
)

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.scripted import random_player
from machina.errors import EnvironmentFaultError, RunFailedError, UserError
from machina.play.matches import MatchResult, Player, PolicyPlayer, RulePlayer, play_match, wilson
from machina.specs import discrete
from machina.types import (
    ActorInput,
    ActorOutput,
    Array,
    FloatArray,
    GameResult,
    IntArray,
    Observation,
)


def always(action: int) -> RulePlayer:
    def choose(observation: Observation, task_id: IntArray, uniforms: FloatArray) -> Array:
        assert len(observation["observation"]) == len(task_id) == len(uniforms)
        assert (observation["observation"][:, 2] % 2 == task_id).all()
        return np.full(len(task_id), action, np.int64)

    return RulePlayer(("stumbler", "walker", "runner")[action], choose)


def scattered(name: str) -> RulePlayer:
    return RulePlayer(name, lambda _observation, _task_id, uniforms: (uniforms * 3).astype(np.int64))


def test_the_better_player_wins_every_game_on_both_sides() -> None:
    factory = RaceFactory(race_spec())
    result = play_match(factory, [always(WALK), always(RUN)], games=40, seed=3)
    assert len(result.games) == 40
    for n, game in enumerate(result.games):
        assert game.players == (("walker", "runner") if n % 2 == 0 else ("runner", "walker"))
        assert dict(zip(game.players, game.scores, strict=True)) == {"walker": game.length, "runner": 2 * game.length}
    assert result.games_by_team("runner") == result.games_by_team("walker") == (20, 20)
    assert result.unequal_seats == ""
    won = result.win_rate("runner")
    assert (won.value, won.wins, won.draws, won.losses, won.games) == (1.0, 40, 0, 0, 40)
    assert result.win_rate("walker").value == 0.0
    assert result.win_rate("runner", team=1).games == 20
    assert [race.closed for race in factory.made] == [True]


def test_short_games_are_not_over_represented() -> None:
    """The n-th game of a place lasts 2 + (place + n) % 3 steps, and each place plays a number fixed beforehand."""
    result = play_match(RaceFactory(race_spec()), [always(WALK), always(RUN)], games=101, seed=3)
    places = 64 // 4
    assert [game.length for game in result.games] == [2 + (n % places + n // places) % 3 for n in range(101)]
    assert result.unequal_seats == (
        "101 games are not a multiple of 2 teams; games as team 0 to 1: walker 51, 50; runner 50, 51"
    )


def test_three_teams_take_turns_on_every_side() -> None:
    players = [always(STUMBLE), always(WALK), always(RUN)]
    result = play_match(RaceFactory(race_spec(THREE_TEAMS)), players, games=12, seed=3)
    assert {result.games_by_team(player.name) for player in players} == {(4, 4, 4)}
    assert len({game.players for game in result.games}) == 3
    assert [result.win_rate(player.name).value for player in players] == [0.0, 0.0, 1.0]
    for game in result.games:
        assert game.scores[game.players.index("stumbler")] == 0


def test_equal_players_draw_and_a_repeated_match_is_the_same() -> None:
    drawn = play_match(RaceFactory(race_spec()), [always(RUN), RulePlayer("twin", always(RUN)._choose)], 6, seed=1)
    assert drawn.win_rate("twin") == wilson(0, 6, 0)
    players = [scattered("a"), scattered("b")]
    one, same, other = (play_match(RaceFactory(race_spec()), players, 20, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.games != other.games


def test_draws_of_a_limit_are_distinguished_from_those_of_the_rules() -> None:
    players = [RulePlayer(name, random_player(discrete(7))) for name in ("one", "other")]
    short = play_match(parse_environment("connect_four", GameConfig(max_steps=6)), players, 4, seed=1)
    assert [game.cut for game in short.games] == [True] * 4
    assert [(rate.draws, rate.cut_draws) for rate in map(short.win_rate, ("one", "other"))] == [(4, 4)] * 2
    assert short.win_rate("one", team=1).cut_draws == 2
    whole = play_match(parse_environment("connect_four", GameConfig()), players, 40, seed=1)
    assert not any(game.cut for game in whole.games)
    assert whole.win_rate("one").cut_draws == 0
    assert MatchResult.model_validate_json(short.model_dump_json()) == short


class RememberingPolicy(StampingPolicy):
    """Checks at every step that its memory holds one stamp per step since the episode's first."""

    waited = 0
    """Steps of runners that had stumbled before their game was over."""

    def act(self, inputs: ActorInput) -> ActorOutput:
        first, previous_action, core_state = inputs.first, inputs.previous_action, inputs.core_state
        steps = inputs.observation["observation"][:, 0]
        # A runner that stumbled repeats its end; its memory starts over at each entry.
        alive = ~first
        self.waited += int((first & (steps > 0)).sum())
        assert (core_state[0][first] == 0).all()
        assert (core_state[0][alive, 0] == self.values[0].item() * steps[alive]).all()
        assert (previous_action[first] == -1).all()
        assert (previous_action[alive] >= 0).all()
        return super().act(inputs)


def test_policies_remember_their_own_game_from_its_first_entry_on() -> None:
    policies = (RememberingPolicy(), RememberingPolicy())
    for number, policy in enumerate(policies, start=1):
        policy.load_parameters(parameters_of(number), done=1.0)
    players = [PolicyPlayer(f"u{number}", policy) for number, policy in enumerate(policies, start=1)]
    result = play_match(RaceFactory(race_spec()), players, games=60, seed=5)
    assert result.win_rate("u1").games == 60
    assert sum(result.win_rate(name).value for name in ("u1", "u2")) == pytest.approx(1)
    assert all(policy.waited > 20 for policy in policies)


def test_a_policy_meets_a_scripted_player() -> None:
    players: list[Player] = [PolicyPlayer("u1", stamping_policy(1)), scattered("random")]
    result = play_match(RaceFactory(race_spec()), players, games=10, seed=5)
    assert {name for game in result.games for name in game.players} == {"u1", "random"}


def test_progress_is_reported_and_a_match_can_be_stopped() -> None:
    told: list[tuple[int, int]] = []
    factory = RaceFactory(race_spec())
    play_match(factory, [always(WALK), always(RUN)], 30, 1, progress=lambda done, of: told.append((done, of)))
    assert told == [(n, 30) for n in range(1, 31)]
    told.clear()
    with pytest.raises(RunFailedError, match="no result"):
        play_match(
            factory,
            [always(WALK), always(RUN)],
            30,
            1,
            progress=lambda done, of: told.append((done, of)),
            stop=lambda: len(told) > 5,
        )
    assert 5 < len(told) < 30
    assert [race.closed for race in factory.made] == [True, True]


def test_a_fault_of_the_environment_ends_the_match_and_closes_it() -> None:
    factory = RaceFactory(race_spec(), fails_at=3)
    with pytest.raises(EnvironmentFaultError, match="environment 'race': a runner left the track"):
        play_match(factory, [always(WALK), always(RUN)], 30, 1)
    assert [race.closed for race in factory.made] == [True]


def test_a_game_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = RaceFactory(race_spec())
    longest = max(game.length for game in play_match(factory, [always(WALK), always(RUN)], games=4, seed=3).games)
    monkeypatch.setattr("machina.specs.LONGEST_EPISODE", longest + 1)
    play_match(factory, [always(WALK), always(RUN)], games=4, seed=3)
    monkeypatch.setattr("machina.specs.LONGEST_EPISODE", longest - 1)
    with pytest.raises(EnvironmentFaultError, match=f"'race': an episode did not end in {longest - 1} env steps"):
        play_match(factory, [always(WALK), always(RUN)], games=4, seed=3)
    assert factory.made[-1].closed


def test_a_match_survives_json() -> None:
    result = play_match(RaceFactory(race_spec()), [scattered("a"), scattered("b")], 7, seed=1)
    assert MatchResult.model_validate_json(result.model_dump_json()) == result
    assert json.loads(result.model_dump_json())["players"] == ["a", "b"]
    assert isinstance(MatchResult.model_validate_json(result.model_dump_json()).games[0], GameResult)


@pytest.mark.parametrize(
    ("teams", "names", "games", "message"),
    [
        ((0, 0), "a", 2, "'race' has no two teams"),
        (TWO_TEAMS, "a", 2, "players=a: 'race' has 2 teams"),
        (TWO_TEAMS, "abc", 2, "players=a, b, c: 'race' has 2 teams"),
        (TWO_TEAMS, "aa", 2, "names must differ"),
        (TWO_TEAMS, "ab", 0, "games=0: a match needs at least 1"),
    ],
)
def test_matches_that_can_not_be_are_refused(teams: tuple[int, ...], names: str, games: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        play_match(RaceFactory(race_spec(teams)), [scattered(name) for name in names], games, seed=1)


def test_an_unknown_player_of_a_match_is_named() -> None:
    result = play_match(RaceFactory(race_spec()), [scattered("anna"), scattered("bert")], 2, seed=1)
    with pytest.raises(UserError, match=r"'ana' is not in this match; did you mean 'anna'\?"):
        result.win_rate("ana")


def test_wilson_s_interval() -> None:
    # Centre (p + z²/2n) / (1 + z²/n), half width z sqrt(p (1 - p) / n + z²/4n²) / (1 + z²/n); z = 1.96, n = 10.
    won = wilson(8, 0, 2)
    assert (won.value, won.games) == (0.8, 10)
    assert won.low == pytest.approx((0.8 + 0.19207) / 1.38415 - 1.96 * (0.016 + 0.0096036) ** 0.5 / 1.38415, abs=1e-4)
    assert won.high == pytest.approx((0.8 + 0.19207) / 1.38415 + 1.96 * (0.016 + 0.0096036) ** 0.5 / 1.38415, abs=1e-4)
    assert wilson(7, 2, 1)[:3] == won[:3]
    sure = wilson(400, 0, 0)
    # 400 of 400: n / (n + z²) is the lower end.
    assert (sure.low, sure.high) == pytest.approx((400 / (400 + 1.96**2), 1.0), abs=1e-6)
    assert wilson(0, 0, 0)[:3] == (0.5, 0.0, 1.0)
