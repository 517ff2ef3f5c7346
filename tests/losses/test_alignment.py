import torch

from machina.losses.alignment import aligned
from machina.types import NO_ACTION, Unroll

T, B, A, GAMMA = 5, 3, 4, 0.9


def counting_unroll() -> Unroll[torch.Tensor]:
    """Every reward says which action of which slot it answers: 100 slot + 10 entry + action."""
    action = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2], [0, 0, 0]])
    answered = 100.0 * torch.arange(B) + 10.0 * torch.arange(T)[:, None] + action[:-1]
    flags = torch.zeros(T + 1, B, dtype=torch.bool)
    return Unroll(
        observation={},
        reward=torch.cat([torch.full((1, B), -1.0), answered]),
        terminated=flags.clone(),
        truncated=flags.clone(),
        life_lost=flags.clone(),
        action=action,
        behaviour_logits=torch.arange((T + 1) * B * A, dtype=torch.float32).view(T + 1, B, A),
        core_state=(),
        previous_action=torch.tensor([NO_ACTION, 2, 0]),
        task_id=torch.zeros(B, dtype=torch.int64),
        slot=torch.arange(B),
        policy_version=torch.zeros(B, dtype=torch.int64),
    )


def test_each_action_meets_its_own_reward_and_logits() -> None:
    unroll = counting_unroll()
    steps = aligned(unroll, GAMMA)
    expected = 100.0 * torch.arange(B) + 10.0 * torch.arange(T)[:, None] + steps.actions
    assert torch.equal(steps.rewards, expected)
    assert torch.equal(steps.behaviour_logits, unroll.behaviour_logits[:T])


def test_termination_and_life_loss_end_the_return_truncation_does_not() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    unroll.truncated[2, 1] = True
    unroll.life_lost[2, 2] = True
    discounts = aligned(unroll, GAMMA).discounts
    expected = torch.full((T, B), GAMMA)
    expected[1, 0] = expected[1, 2] = 0.0
    assert torch.equal(discounts, expected)


def test_the_step_after_an_end_is_masked_and_opens_an_episode() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    unroll.truncated[0, 1] = True
    unroll.life_lost[3, 2] = True
    unroll.terminated[T, 2] = True
    steps = aligned(unroll, GAMMA)

    mask = torch.ones(T, B, dtype=torch.bool)
    mask[2, 0] = mask[0, 1] = False
    assert torch.equal(steps.mask, mask)

    first = torch.zeros(T + 1, B, dtype=torch.bool)
    first[3, 0] = first[1, 1] = True
    first[0, 0] = True  # its previous action is NO_ACTION
    assert torch.equal(steps.first, first)


def test_previous_actions_are_shifted_and_forgotten_at_episode_starts() -> None:
    unroll = counting_unroll()
    unroll.terminated[2, 0] = True
    previous = aligned(unroll, GAMMA).previous_actions
    assert previous[:, 0].tolist() == [NO_ACTION, 0, 1, NO_ACTION, 3, 0]
    assert previous[:, 1].tolist() == [2, 1, 2, 3, 0, 1]
