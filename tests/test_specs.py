"""What an environment's spec says of its teams."""

from __future__ import annotations

import numpy as np
import pytest

from machina.specs import EnvSpec, Seat, discrete


def spec_of(*seats: tuple[int, float]) -> EnvSpec:
    """A game whose seats have these teams and pars."""
    return EnvSpec(
        name="game",
        tasks=("player",),
        seats=tuple(Seat(agent=f"p{i}", role=0, team=team, par=par) for i, (team, par) in enumerate(seats)),
        observation={},
        action=discrete(2),
    )


@pytest.mark.parametrize(
    ("teams", "indices"),
    [((0, 1), [0, 1]), ((7, 3, 7), [1, 0, 1]), ((2, 2, 2), [0, 0, 0]), ((-1, 5, 0, 5), [0, 2, 1, 2])],
)
def test_teams_are_counted_in_the_order_of_their_numbers(teams: tuple[int, ...], indices: list[int]) -> None:
    spec = spec_of(*((team, 0.0) for team in teams))
    assert spec.team_of_seat.tolist() == indices
    assert spec.team_of_seat.dtype == np.int64
    assert spec.num_teams == len(set(teams))


def test_a_world_of_one_agent_has_no_teams() -> None:
    assert spec_of().num_teams == len(spec_of().team_of_seat) == 0


def test_a_team_s_score_is_the_mean_above_par_of_its_seats() -> None:
    spec = spec_of((4, 2.0), (1, 0.0), (4, -1.0), (1, 0.5), (1, 0.0))
    scores = np.array([5.0, 1.0, 0.0, 0.5, 2.0])
    assert spec.team_scores(scores) == ((1.0 + 0.0 + 2.0) / 3, (3.0 + 1.0) / 2)
