import torch

from machina.losses.alignment import aligned
from machina.types import BEHAVIOUR_LOGITS, NO_ACTION, Unroll

T, B, A = 5, 3, 4


def counting_unroll() -> Unroll[torch.Tensor]:
    """Every reward says which action of which slot it answers: 100 slot + 10 entry + action."""
    action = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2], [0, 0, 0]])
    answered = 100.0 * torch.arange(B) + 10.0 * torch.arange(T)[:, None] + action[:-1]
    reward = torch.cat([torch.full((1, B), -1.0), answered])
    flags = torch.zeros(T + 1, B, dtype=torch.bool)
    return Unroll(
        observation={},
        reward=reward,
        team_reward=reward + 1000,
        enemy_reward=reward + 2000,
        terminated=flags.clone(),
        truncated=flags.clone(),
        life_lost=flags.clone(),
        on_turn=~flags,
        foreign=flags.clone(),
        action=action,
        policy_outputs={BEHAVIOUR_LOGITS: torch.arange((T + 1) * B * A, dtype=torch.float32).view(T + 1, B, A)},
        core_state=(),
        previous_action=torch.tensor([NO_ACTION, 2, 0]),
        first=torch.tensor([True, False, False]),
        task_id=torch.zeros(B, dtype=torch.int64),
        slot=torch.arange(B),
        policy_version=torch.zeros(B, dtype=torch.int64),
        start=torch.zeros(B, dtype=torch.int64),
        weight=torch.ones(B),
    )


def test_each_action_meets_its_own_rewards_and_logits() -> None:
    unroll = counting_unroll()
    steps = aligned(unroll)
    expected = 100.0 * torch.arange(B) + 10.0 * torch.arange(T)[:, None] + steps.actions
    assert torch.equal(steps.rewards, expected)
    assert torch.equal(steps.team_rewards, expected + 1000)
    assert torch.equal(steps.enemy_rewards, expected + 2000)
    assert torch.equal(steps.policy_outputs[BEHAVIOUR_LOGITS], unroll.policy_outputs[BEHAVIOUR_LOGITS][:T])


def test_termination_and_life_loss_end_the_return_truncation_does_not() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    unroll.truncated[2, 1] = True
    unroll.life_lost[2, 2] = True
    continues = aligned(unroll).continues
    expected = torch.ones(T, B)
    expected[1, 0] = expected[1, 2] = 0.0
    assert torch.equal(continues, expected)


def test_the_step_after_an_end_is_masked_and_opens_an_episode() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    unroll.truncated[0, 1] = True
    unroll.life_lost[3, 2] = True
    unroll.terminated[T, 2] = True
    steps = aligned(unroll)

    mask = torch.ones(T, B, dtype=torch.bool)
    mask[2, 0] = mask[0, 1] = False
    assert torch.equal(steps.mask, mask)

    first = torch.zeros(T + 1, B, dtype=torch.bool)
    first[3, 0] = first[1, 1] = True
    first[0, 0] = True  # the unroll says so
    assert torch.equal(steps.first, first)


def test_an_end_that_is_repeated_has_no_steps() -> None:
    unroll = counting_unroll()
    unroll.terminated[1:4, 0] = True
    steps = aligned(unroll)
    assert steps.mask[:, 0].tolist() == [True, False, False, False, True]
    assert steps.first[:, 0].tolist() == [True, False, True, True, True, False]


def test_steps_of_another_player_are_masked_and_those_off_turn_are_not() -> None:
    unroll = counting_unroll()
    unroll.foreign[:3, 0] = True
    unroll.on_turn[1, 1] = unroll.on_turn[T, 1] = False
    steps = aligned(unroll)
    assert steps.mask[:, 0].tolist() == [False, False, False, True, True]
    assert steps.mask[:, 1:].all()
    assert steps.on_turn[:, 1].tolist() == [True, False, True, True, True]


def test_previous_actions_are_shifted_and_forgotten_at_episode_starts() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    previous = aligned(unroll).previous_actions
    assert previous[:, 0].tolist() == [NO_ACTION, 0, 1, NO_ACTION, 3, 0]
    assert previous[:, 1].tolist() == [2, 1, 2, 3, 0, 1]


def test_previous_actions_of_several_numbers() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    pairs = torch.stack([unroll.action, 10 + unroll.action], dim=-1)
    discrete = unroll._replace(action=pairs, previous_action=torch.full((B, 2), 7))
    none, shifted = [NO_ACTION, NO_ACTION], aligned(discrete).previous_actions
    assert shifted[:, 0].tolist() == [none, [0, 10], [1, 11], none, [3, 13], [0, 10]]
    assert shifted[0, 1].tolist() == [7, 7]

    continuous = unroll._replace(action=pairs + 0.5, previous_action=torch.full((B, 2), 0.25))
    shifted = aligned(continuous).previous_actions
    assert shifted[:2, 0].tolist() == [[0.0, 0.0], [0.5, 10.5]]
    assert shifted[3, 0].tolist() == [0.0, 0.0]
    assert shifted[0, 1].tolist() == [0.25, 0.25]
