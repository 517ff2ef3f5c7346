"""PPO's learner: gradients against hand arithmetic, recurrent replay, schedules, statistics, resume."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from unrolls import random_unroll

from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.buffers.unrolls import concatenate_slots, slice_slots
from machina.errors import UserError
from machina.learner.minibatches import Share, minibatches
from machina.learner.sums import SINGLE_RANK
from machina.losses.alignment import aligned
from machina.nets.policy import SampledPolicy
from machina.nets.unroll_tensors import to_device
from machina.specs import ActionSpec, ArraySpec, EnvSpec, Seat, discrete
from machina.types import BEHAVIOUR_LOGITS, ActorInput, Array, Unroll

TOTAL = 10_000
MLP: dict[str, Any] = {"hidden_sizes": [16]}
CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
SEVERAL = ActionSpec(kind="multi_discrete", choices=(3, 2))


def spec_for(action: ActionSpec, **changes: Any) -> EnvSpec:
    observation = {"observation": ArraySpec(shape=(3,), dtype="float32")}
    return EnvSpec(name="e", tasks=("e",), observation=observation, action=action).model_copy(update=changes)


def make_learner(spec: EnvSpec, **options: Any) -> PPOLearner:
    config = PPOConfig.model_validate({"network": MLP, "learning_rate_final": None, "clip_final": None, **options})
    return PPOLearner(config, spec, "cpu", "float32", 0, SINGLE_RANK)


def played(learner: PPOLearner, unroll: Unroll[Array]) -> Unroll[Array]:
    """The unroll as the learner's present policy would have left it: its logits, its core state."""
    policy = SampledPolicy(learner.config.network, learner.spec, "cpu", "float32")
    policy.load_parameters(learner.flat_parameters(), done=0.0)
    steps = aligned(to_device(unroll, torch.device("cpu")))
    core = unroll.core_state
    logits = np.zeros_like(unroll.policy_outputs[BEHAVIOUR_LOGITS])
    for t in range(len(unroll.reward)):
        answer = policy.act(
            ActorInput(
                {key: array[t] for key, array in unroll.observation.items()},
                unroll.reward[t],
                steps.previous_actions[t].numpy(),
                steps.first[t].numpy(),
                unroll.task_id,
                core,
                np.full(unroll.action.shape[1:], 0.5, np.float32),
                unroll.slot,
            )
        )
        logits[t], core = answer.policy_outputs[BEHAVIOUR_LOGITS], answer.core_state
    return unroll._replace(policy_outputs={BEHAVIOUR_LOGITS: logits})


@pytest.mark.parametrize("action", [discrete(4), SEVERAL, CONTINUOUS])
@pytest.mark.parametrize("lstm_size", [0, 8])
def test_the_ratio_is_one_where_the_behaviour_policy_learns(action: ActionSpec, lstm_size: int) -> None:
    """Training from the stored state replays what acting saw: nothing is clipped, the divergence is 0."""
    spec = spec_for(action)
    learner = make_learner(
        spec, epochs=1, minibatches=1, network=MLP | {"lstm_size": lstm_size, "observation_filter": True}
    )
    core = tuple(np.random.default_rng(i).normal(size=(6, 8)).astype(np.float32) for i in range(2 if lstm_size else 0))
    batch = played(learner, random_unroll(spec, 9, 6, seed=1, core_state=core))
    metrics = learner.update(batch, 0.0).metrics
    assert metrics["learner/kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["learner/clipped_share"] == 0
    assert metrics["learner/epochs"] == 1


def test_the_gradient_is_that_of_the_whole_batch_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_for(discrete(3))
    batch = random_unroll(spec, 7, 5, seed=2)
    gradients = []
    for size in (10**9, 1024):
        monkeypatch.setattr("machina.learner.minibatches.CPU_CHUNK_BYTES", size)
        learner = make_learner(spec, epochs=1, minibatches=1)
        learner.update(batch, 0.0)
        gradients.append([parameter.grad.clone() for parameter in learner.model.trained if parameter.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_order_of_slots_does_not_matter() -> None:
    spec = spec_for(discrete(3))
    batch = random_unroll(spec, 7, 4, seed=3)
    turned = concatenate_slots([slice_slots(batch, i, i + 1) for i in (2, 0, 3, 1)])
    one, other = (make_learner(spec, epochs=1, minibatches=1) for _ in range(2))
    metrics, same = one.update(batch, 0.0).metrics, other.update(turned, 0.0).metrics
    assert metrics == pytest.approx(same, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(one.flat_parameters(), other.flat_parameters(), rtol=1e-3, atol=1e-5)


def test_every_step_is_in_one_minibatch_of_each_epoch_on_any_number_of_ranks() -> None:
    slots, length = 5, 3
    whole = list(minibatches(Share(slots, 0, slots), length, 2, 4, False, seed=1, update=9))
    assert len(whole) == 8
    for epoch in (whole[:4], whole[4:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(slots * length))
    assert not torch.equal(torch.cat(whole[:4]), torch.cat(whole[4:]))
    shares = [Share(slots, 0, 2), Share(slots, 2, 3)]
    parts = [list(minibatches(share, length, 2, 4, False, seed=1, update=9)) for share in shares]
    for index, expected in enumerate(whole):
        got = [
            int(item) // share.own * slots + share.first + int(item) % share.own
            for share, part in zip(shares, parts, strict=True)
            for item in part[index]
        ]
        assert sorted(got) == sorted(expected.tolist())


def test_what_does_not_count_changes_nothing() -> None:
    """Steps of an opponent, off-turn actions and masked logits reach neither policy nor value."""
    seats = tuple(Seat(agent=str(i), role=0, team=i) for i in range(2))
    spec = spec_for(discrete(3), seats=seats)
    batch = random_unroll(spec, 6, 4, seed=4)
    foreign, on_turn = batch.foreign.copy(), batch.on_turn.copy()
    foreign[:, 1] = True
    on_turn[1:4, 2] = False
    batch = batch._replace(foreign=foreign, on_turn=on_turn)
    reward, logits, action = batch.reward.copy(), batch.policy_outputs[BEHAVIOUR_LOGITS].copy(), batch.action.copy()
    reward[:, 1], logits[:, 1] = 1e6, -1e9
    logits[1:4, 2], action[:, 1] = 1e9, -1
    spoilt = batch._replace(reward=reward, policy_outputs={BEHAVIOUR_LOGITS: logits}, action=action)
    one, other = (make_learner(spec) for _ in range(2))
    assert one.update(batch, 0.0).metrics == other.update(spoilt, 0.0).metrics
    assert torch.equal(one.flat_parameters(), other.flat_parameters())


def test_nothing_to_learn_moves_nothing() -> None:
    """Adam would keep moving in its former direction."""
    spec = spec_for(discrete(3), seats=tuple(Seat(agent=str(i), role=0, team=i) for i in range(2)))
    learner = make_learner(spec)
    batch = random_unroll(spec, 6, 4, seed=4)
    learner.update(batch, 0.0)
    before = learner.flat_parameters()
    assert not learner.update(batch._replace(foreign=np.ones_like(batch.foreign)), 0.0).skipped
    assert torch.equal(learner.flat_parameters(), before)
    learner.update(batch, 0.0)
    assert not torch.equal(learner.flat_parameters(), before)


def test_another_networks_tensors_are_no_start() -> None:
    """Silently left out, they would leave the rest in a network where it means something else."""
    spec = spec_for(discrete(3))
    lstm, filtered = MLP | {"lstm_size": 16}, MLP | {"observation_filter": True}
    for network in (lstm, filtered):
        tensors = make_learner(spec, network=network, minibatches=1).state().tensors["model"]
        with pytest.raises(UserError, match="init_from: this network has nothing called"):
            make_learner(spec).load_initial(tensors, with_value=True)
    tensors = make_learner(spec, popart=True, network=filtered).state().tensors["model"]
    make_learner(spec, network=filtered).load_initial(tensors, with_value=True)


def test_schedules_are_linear_in_env_steps() -> None:
    spec = spec_for(discrete(3))
    learner = make_learner(
        spec,
        learning_rate=0.01,
        learning_rate_final=0.002,
        clip=0.2,
        clip_final=0.0,
        entropy_cost=0.01,
        entropy_cost_final=0.0,
        team_spirit=0.0,
        team_spirit_final=1.0,
    )
    assert learner.scheduled_at(0.25) == pytest.approx((0.008, 0.15, 0.0075, 0.25))
    assert learner.scheduled_at(2.0) == pytest.approx((0.002, 0.0, 0.0, 1.0))


def test_the_kl_bound_ends_the_epochs() -> None:
    """The first epoch that is beyond the bound is the last one; below it all are made."""
    spec = spec_for(discrete(3))

    def update(epochs: int, target_kl: float | None) -> dict[str, float]:
        learner = make_learner(spec, epochs=epochs, learning_rate=0.003, target_kl=target_kl)
        return learner.update(played(learner, random_unroll(spec, 8, 6, seed=5)), 0.0).metrics

    kl = [update(epochs, None)["learner/kl"] for epochs in range(1, 7)]
    assert all(0 < earlier < later for earlier, later in itertools.pairwise(kl))
    for stop in range(1, 6):
        between = (kl[stop - 1] + (kl[stop - 2] if stop > 1 else 0.0)) / 2
        bounded = update(6, between)
        assert bounded["learner/epochs"] == stop
        assert bounded["learner/kl"] == kl[stop - 1]
    assert update(6, 2 * kl[-1])["learner/epochs"] == 6
    assert update(6, kl[0])["learner/epochs"] == 2, "the bound itself is not beyond it"


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_what_is_not_finite_is_skipped(where: str) -> None:
    spec = spec_for(discrete(3))
    batch = random_unroll(spec, 8, 6, seed=6)
    if where == "reward":
        batch.reward[3, 2] = math.nan
    else:
        batch.observation["observation"][3, 2] = math.nan
    learner = make_learner(spec, popart=True, network=MLP | {"observation_filter": True})
    before = learner.state()
    assert learner.update(batch, 0.0).skipped
    after = learner.state()
    for name, tensor in before.tensors["model"].items():
        assert torch.equal(tensor, after.tensors["model"][name]), name
    assert learner.updates == 1


def test_resume_is_bit_for_bit() -> None:
    spec = spec_for(CONTINUOUS)
    network = {"hidden_sizes": [16], "lstm_size": 8, "observation_filter": True}
    options: dict[str, Any] = {"popart": True, "network": network, "minibatches": 2}
    core = tuple(np.zeros((6, 8), np.float32) for _ in range(2))
    batches = [random_unroll(spec, 5, 6, seed=seed, core_state=core) for seed in range(4)]
    learner, resumed = (make_learner(spec, **options) for _ in range(2))
    for batch in batches[:2]:
        learner.update(batch, 0.0)
    resumed.load_state(learner.state())
    for batch in batches[2:]:
        assert learner.update(batch, 0.0).metrics == resumed.update(batch, 0.0).metrics
    assert torch.equal(learner.flat_parameters(), resumed.flat_parameters())


@pytest.mark.parametrize("action", [discrete(3), SEVERAL, CONTINUOUS])
@pytest.mark.parametrize("popart", [False, True])
def test_learns_what_is_rewarded(action: ActionSpec, popart: bool) -> None:
    """A bandit of one step with three contexts, through the real policy and all kinds of actions."""
    slots, updates = 64, 60
    spec = spec_for(action)
    learner = make_learner(
        spec, gamma=1e-9, learning_rate=0.01, clip=0.2, popart=popart, epochs=4, entropy_cost=0.0, unroll_length=4
    )
    policy = SampledPolicy(learner.config.network, spec, "cpu", "float32")
    random = np.random.default_rng(0)
    rewards = []
    for update in range(updates):
        policy.load_parameters(learner.flat_parameters(), done=0.0)
        unroll = random_unroll(spec, 4, slots, seed=update)
        for array in (unroll.terminated, unroll.truncated, unroll.life_lost):
            array[...] = False
        context = random.integers(0, 3, (5, slots))
        unroll.observation["observation"][...] = np.eye(3)[context]
        for t in range(5):
            answer = policy.act(
                ActorInput(
                    {"observation": unroll.observation["observation"][t]},
                    np.zeros(slots, np.float32),
                    spec.action.none(slots),
                    np.ones(slots, np.bool_),
                    unroll.task_id,
                    (),
                    random.random((slots, *action.shape), np.float32),
                    np.arange(slots),
                )
            )
            unroll.action[t], unroll.policy_outputs[BEHAVIOUR_LOGITS][t] = (
                answer.action,
                answer.policy_outputs[BEHAVIOUR_LOGITS],
            )
        target = context[..., None] % np.array([3, 2]) if action.shape else context
        if action.kind == "continuous":
            earned = -np.square(unroll.action - (target - 0.5)).sum(-1)
        else:
            right = unroll.action == target
            earned = (right.all(-1) if action.shape else right).astype(np.float32)
        unroll.reward[1:] = earned[:-1]
        rewards.append(float(earned.mean()))
        learner.update(unroll, 0.0)
    best = 0.0 if action.kind == "continuous" else 1.0
    assert np.mean(rewards[-5:]) > best - (0.6 if action.kind == "continuous" else 0.1), rewards
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3


def test_team_spirit_and_zero_sum_reach_the_targets() -> None:
    """With gamma 0 the targets are the rewards, and PopArt's mean with a step of 1 is theirs."""
    spec = spec_for(discrete(3))
    batch = random_unroll(spec, 4, 4, seed=7)
    given = batch._replace(
        reward=batch.reward * 0 - 3, team_reward=batch.reward * 0 + 2, enemy_reward=batch.reward * 0 + 5
    )
    options: dict[str, Any] = {"gamma": 1e-9, "popart": True, "popart_beta": 1.0}
    assert make_learner(spec, **options).update(given, 0.0).metrics["popart/mu/e"] == pytest.approx(-3)
    assert make_learner(spec, team_spirit=0.5, **options).update(given, 0.0).metrics["popart/mu/e"] == pytest.approx(
        -0.5
    )
    metrics = make_learner(spec, team_spirit=0.5, zero_sum=True, **options).update(given, 0.0).metrics
    assert metrics["popart/mu/e"] == pytest.approx(-5.5)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="minibatches=9: a batch has 8 unrolls, which an LSTM needs whole"):
        PPOConfig.model_validate({"minibatches": 9, "network": {"lstm_size": 4}}).check_batch(8)
    PPOConfig(minibatches=9).check_batch(8)
    with pytest.raises(ValidationError, match="popart_sigma_min"):
        PPOConfig(popart_sigma_min=2.0, popart_sigma_max=1.0)
