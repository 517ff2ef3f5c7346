import pytest
import torch

from machina.losses.gae import gae
from machina.losses.turns import accumulated, own_turns

GAMMA = 0.5


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def flags(*marks: int) -> torch.Tensor:
    return torch.tensor(marks, dtype=torch.bool)[:, None]


def test_without_turns_it_is_the_plain_shift() -> None:
    rewards, values, last = column(1, 2, 3), column(10, 20, 30), torch.tensor([40.0], dtype=torch.float64)
    turns = own_turns(rewards, column(1, 0, 1), values, last, flags(1, 1, 0), None, GAMMA)
    assert turns.rewards is rewards
    assert turns.values is values
    assert torch.equal(turns.discounts, column(GAMMA, 0, GAMMA))
    assert torch.equal(turns.next_values, column(20, 30, 40))


def test_two_players_move_alternately_and_the_loser_hears_of_it_off_turn() -> None:
    """Player 0 moves at 0 and 2 and loses by the move that player 1 makes at 3: -1 arrives with entry 4, the last."""
    rewards, continues, values = column(0.25, 0, 0, -1, 9), column(1, 1, 1, 0, 1), column(4, 5, 6, 7, 8)
    mask, on_turn, last = flags(1, 1, 1, 1, 0), flags(1, 0, 1, 0, 0), torch.tensor([99.0], dtype=torch.float64)
    advantages, targets = gae(rewards, continues, values, last, mask, GAMMA, 1.0, on_turn)
    first, second = 0.25 + 0 + GAMMA * -1, 0 + -1
    assert torch.equal(targets, column(first, second, second, -1 / GAMMA, 8))
    assert torch.equal(advantages, column(first - 4, 0, second - 6, 0, 0))


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_agent_that_never_moves_again_gets_everything_at_its_last_turn(length: int) -> None:
    """However many entries of others the unroll still shows, and wherever the bootstrap value enters."""
    rewards = column(1, 2, 3, 4)
    rest_after = column(9, 7, 4, 0)  # of rewards, after each step
    on_turn = flags(1, 0, 0, 0)[:length]
    last = rest_after[length - 1] / GAMMA
    ones = torch.ones(length, 1, dtype=torch.float64)
    targets = gae(rewards[:length], ones, 0 * ones, last, on_turn | True, GAMMA, 0.3, on_turn).targets
    assert targets[0].item() == 10


def test_a_lost_life_stops_the_return_in_the_middle_of_a_wait() -> None:
    rewards, continues = column(1, 2, 4), column(1, 0, 1)
    turns = own_turns(
        rewards, continues, column(0, 0, 0), torch.ones(1).double(), flags(1, 1, 1), flags(1, 0, 0), GAMMA
    )
    assert torch.equal(turns.values, column(0, 2 / GAMMA, 4 / GAMMA + 1))
    assert torch.equal(turns.rewards + turns.discounts * turns.next_values, column(1 + 2, 2 / GAMMA, 4 / GAMMA + 1))


def test_accumulated_is_the_recursion() -> None:
    sums = accumulated(column(1, 2, 3), column(0.5, 0, 2), torch.tensor([10.0], dtype=torch.float64))
    assert torch.equal(sums, column(1 + 0.5 * 2, 2, 3 + 2 * 10))


def test_wrong_arguments_are_refused() -> None:
    two, mask, last = torch.zeros(4, 2), torch.ones(4, 2, dtype=torch.bool), torch.zeros(2)
    with pytest.raises(ValueError, match="continues has shape"):
        own_turns(two, torch.zeros(4, 1), two, last, mask, None, GAMMA)
    with pytest.raises(ValueError, match="bootstrap_value must have rank 1"):
        own_turns(two, two, two, torch.zeros(1, 2), mask, None, GAMMA)
    with pytest.raises(ValueError, match="last_values has shape"):
        own_turns(two, two, two, torch.zeros(1), mask, None, GAMMA)
    with pytest.raises(ValueError, match="on_turn has shape"):
        own_turns(two, two, two, last, mask, torch.ones(5, 2, dtype=torch.bool), GAMMA)
    with pytest.raises(ValueError, match="gamma must be positive in a game with turns, got 0"):
        own_turns(two, two, two, last, mask, mask, 0.0)
