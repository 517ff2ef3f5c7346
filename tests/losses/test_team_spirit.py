import pytest
import torch

from machina.losses.team_spirit import team_spirit_rewards

OWN = torch.tensor([[3.0, -1.0, 4.0], [0.0, 6.0, 6.0]])
"""Two steps of one game: two agents against one in the last slot."""
TEAM = torch.tensor([[1.0, 1.0, 4.0], [3.0, 3.0, 6.0]])
ENEMY = torch.tensor([[4.0, 4.0, 1.0], [6.0, 6.0, 3.0]])


@pytest.mark.parametrize(
    ("tau", "zero_sum", "expected"),
    [
        (0.0, False, [[3.0, -1.0, 4.0], [0.0, 6.0, 6.0]]),
        (1.0, False, [[1.0, 1.0, 4.0], [3.0, 3.0, 6.0]]),
        (0.25, False, [[2.5, -0.5, 4.0], [0.75, 5.25, 6.0]]),
        (0.0, True, [[-1.0, -5.0, 3.0], [-6.0, 0.0, 3.0]]),
        (0.25, True, [[-1.5, -4.5, 3.0], [-5.25, -0.75, 3.0]]),
    ],
)
def test_hand_numbers(tau: float, zero_sum: bool, expected: list[list[float]]) -> None:
    assert team_spirit_rewards(OWN, TEAM, ENEMY, tau, zero_sum).tolist() == expected


def random_game(per_team: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Own, team-mean and enemy-mean rewards ``[9, 2 per_team]`` of two equal teams, one after the other."""
    own = torch.randn((9, 2, per_team), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    team = own.mean(dim=-1, keepdim=True).expand_as(own)
    return own.flatten(1), team.flatten(1), team.flip(1).flatten(1)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_zero_sum_rewards_of_equal_teams_add_up_to_zero_and_spirit_keeps_a_teams_sum(tau: float) -> None:
    own, team, enemy = random_game(per_team=6)
    opposed = team_spirit_rewards(own, team, enemy, tau, zero_sum=True)
    torch.testing.assert_close(opposed.sum(dim=1), torch.zeros(9, dtype=torch.float64))
    shared = team_spirit_rewards(own, team, enemy, tau, zero_sum=False)
    torch.testing.assert_close(shared[:, :6].sum(dim=1), own[:, :6].sum(dim=1))


def test_subtracting_the_enemies_before_sharing_is_the_same() -> None:
    own, team, enemy = random_game(per_team=3)
    before = team_spirit_rewards(own - enemy, team - enemy, torch.zeros_like(own), 0.4, zero_sum=False)
    torch.testing.assert_close(team_spirit_rewards(own, team, enemy, 0.4, zero_sum=True), before)


@pytest.mark.parametrize("parts", [[[0], [1, 2, 3, 4, 5]], [[5, 0, 3], [1], [4, 2]], [[0], [1], [2], [3], [4], [5]]])
def test_splitting_the_slots_over_minibatches_or_ranks_changes_nothing(parts: list[list[int]]) -> None:
    """Teammates and enemies end up in different parts."""
    game = random_game(per_team=3)
    whole = team_spirit_rewards(*game, 0.7, zero_sum=True)
    for slots in parts:
        own, team, enemy = (rewards[:, slots] for rewards in game)
        assert torch.equal(team_spirit_rewards(own, team, enemy, 0.7, zero_sum=True), whole[:, slots])


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="team_rewards has shape"):
        team_spirit_rewards(OWN, TEAM[:, :1], ENEMY, 0.5, zero_sum=False)
    with pytest.raises(ValueError, match="enemy_rewards has shape"):
        team_spirit_rewards(OWN, TEAM, ENEMY[0], 0.5, zero_sum=False)
