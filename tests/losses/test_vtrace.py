"""V-trace where every slot is always on turn; deaths and turns are in test_boundaries."""

import math
from typing import NamedTuple

import pytest
import torch
from slow_returns import Clips

from machina.losses.alignment import aligned
from machina.losses.vtrace import VTraceReturns, vtrace
from machina.types import BEHAVIOUR_LOGITS, NO_ACTION, Unroll

GAMMA = 0.93
PAPER_CLIPS = Clips()


class Case(NamedTuple):
    unroll: Unroll[torch.Tensor]
    log_rhos: torch.Tensor
    values: torch.Tensor


def random_case(T: int, B: int, seed: int) -> Case:  # noqa: N803
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def flags(share: float) -> torch.Tensor:
        return torch.rand((T + 1, B), generator=generator) < share

    reward = normal(T + 1, B)
    unroll = Unroll(
        observation={},
        reward=reward,
        team_reward=reward,
        enemy_reward=torch.zeros_like(reward),
        terminated=flags(0.15),
        truncated=flags(0.15),
        life_lost=flags(0.1),
        on_turn=flags(1.0),
        foreign=flags(0.0),
        action=torch.zeros(T + 1, B, dtype=torch.int64),
        policy_outputs={BEHAVIOUR_LOGITS: torch.zeros(T + 1, B, 2)},
        core_state=(),
        previous_action=torch.full((B,), NO_ACTION),
        first=torch.ones(B, dtype=torch.bool),
        task_id=torch.zeros(B, dtype=torch.int64),
        slot=torch.arange(B),
        policy_version=torch.zeros(B, dtype=torch.int64),
        start=torch.zeros(B, dtype=torch.int64),
        weight=torch.ones(B),
    )
    return Case(unroll, normal(T, B), normal(T + 1, B))


def run(case: Case, clips: Clips = PAPER_CLIPS) -> VTraceReturns:
    steps = aligned(case.unroll)
    return vtrace(
        case.log_rhos,
        steps.continues,
        steps.rewards,
        case.values[:-1],
        case.values[-1],
        steps.mask,
        GAMMA,
        *clips,
    )


def paper(case: Case, clips: Clips) -> tuple[list[list[float]], list[list[float]]]:
    """Equation 1 as a double sum, episode by episode, straight from the entries of the unroll.

    An episode of the sum ends at the entry that is its last; the entry's own step is a reset and stays V.
    """
    unroll, values = case.unroll, case.values.tolist()
    entries, slots = unroll.reward.shape
    T = entries - 1  # noqa: N806
    reward = unroll.reward.tolist()
    done = (unroll.terminated | unroll.truncated).tolist()
    cut = (unroll.terminated | unroll.life_lost).tolist()
    rho = case.log_rhos.exp().tolist()
    vs = [[0.0] * slots for _ in range(entries)]
    advantages = [[0.0] * slots for _ in range(T)]
    for b in range(slots):
        vs[T][b] = values[T][b]
        for s in range(T):
            vs[s][b] = values[s][b]
            for t in range(s, T):
                if done[t][b]:
                    break
                product = 1.0
                for i in range(s, t):
                    gamma_i = 0.0 if cut[i + 1][b] else GAMMA
                    product *= gamma_i * clips.lambda_ * min(clips.c_clip, rho[i][b])
                gamma_t = 0.0 if cut[t + 1][b] else GAMMA
                delta = reward[t + 1][b] + gamma_t * values[t + 1][b] - values[t][b]
                vs[s][b] += product * min(clips.rho_clip, rho[t][b]) * delta
        for t in range(T):
            if not done[t][b]:
                gamma_t = 0.0 if cut[t + 1][b] else GAMMA
                target = reward[t + 1][b] + gamma_t * vs[t + 1][b]
                advantages[t][b] = min(clips.pg_rho_clip, rho[t][b]) * (target - values[t][b])
    return vs[:T], advantages


@pytest.mark.parametrize(("T", "B"), [(1, 1), (7, 5), (13, 3), (21, 1)])
@pytest.mark.parametrize(
    "clips",
    [
        PAPER_CLIPS,
        Clips(rho_clip=2.5, c_clip=0.7),
        Clips(rho_clip=1.5, c_clip=1.5, pg_rho_clip=0.4),
        Clips(lambda_=0.8),
        Clips(rho_clip=math.inf, c_clip=math.inf, pg_rho_clip=math.inf, lambda_=0.3),
    ],
)
def test_equals_the_sum_formula(T: int, B: int, clips: Clips) -> None:  # noqa: N803
    for seed in range(3):
        case = random_case(T, B, seed)
        vs, advantages = paper(case, clips)
        returns = run(case, clips)
        torch.testing.assert_close(returns.vs, torch.tensor(vs, dtype=torch.float64), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            returns.pg_advantages, torch.tensor(advantages, dtype=torch.float64), rtol=1e-10, atol=1e-10
        )


def test_no_target_looks_past_an_end_into_the_next_episode() -> None:
    case = random_case(T=9, B=2, seed=3)
    for flag in (case.unroll.terminated, case.unroll.truncated, case.unroll.life_lost):
        flag[:] = False
    case.unroll.terminated[4, 0] = True
    case.unroll.truncated[4, 1] = True
    before = run(case)
    case.values[5:] += 100.0
    case.unroll.reward[5:] -= 30.0
    case.log_rhos[4:] += 1.0
    after = run(case)
    assert torch.equal(before.vs[:5], after.vs[:5])
    assert torch.equal(before.pg_advantages[:5], after.pg_advantages[:5])
    assert not torch.equal(before.vs[5:], after.vs[5:])


def test_truncation_bootstraps_from_the_final_observation_and_termination_does_not() -> None:
    case = random_case(T=3, B=2, seed=0)
    for flag in (case.unroll.terminated, case.unroll.truncated, case.unroll.life_lost):
        flag[:] = False
    case.log_rhos[:] = 0.0
    case.unroll.terminated[2, 0] = True
    case.unroll.truncated[2, 1] = True
    reward, value = case.unroll.reward, case.values
    vs = run(case).vs
    torch.testing.assert_close(vs[1, 0], reward[2, 0])
    torch.testing.assert_close(vs[1, 1], reward[2, 1] + GAMMA * value[2, 1])
    torch.testing.assert_close(vs[0, 1], reward[1, 1] + GAMMA * (reward[2, 1] + GAMMA * value[2, 1]))
    assert torch.equal(vs[2], value[2])
    assert run(case).pg_advantages[2].tolist() == [0.0, 0.0]


def test_targets_carry_no_gradient() -> None:
    case = random_case(T=3, B=2, seed=1)
    case.values.requires_grad_()
    case.log_rhos.requires_grad_()
    returns = run(case)
    assert not returns.vs.requires_grad
    assert not returns.pg_advantages.requires_grad


def test_wrong_shapes_are_refused() -> None:
    two = torch.zeros(4, 2)
    mask = torch.ones(4, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="rewards has shape"):
        vtrace(two, two, torch.zeros(4, 1), two, torch.zeros(2), mask, GAMMA)
    with pytest.raises(ValueError, match="continues has shape"):
        vtrace(two, torch.zeros(4, 1), two, two, torch.zeros(2), mask, GAMMA)
    with pytest.raises(ValueError, match="bootstrap_value must have rank 1"):
        vtrace(two, two, two, two, torch.zeros(1, 2), mask, GAMMA)


def test_clips_and_traces_are_one_by_default() -> None:
    torch.manual_seed(0)
    log_rhos, rewards, values = torch.randn(3, 5, 4).unbind()
    continues, mask = torch.ones(5, 4), torch.ones(5, 4, dtype=torch.bool)
    assert (log_rhos > 0.7).any()
    plain = vtrace(log_rhos, continues, rewards, values, values[0], mask, 0.9)
    named = vtrace(
        log_rhos, continues, rewards, values, values[0], mask, 0.9, rho_clip=1, c_clip=1, pg_rho_clip=1, lambda_=1
    )
    assert torch.equal(plain.vs, named.vs)
    assert torch.equal(plain.pg_advantages, named.pg_advantages)
    assert not plain.vs.requires_grad
