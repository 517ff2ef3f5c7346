"""The algorithms' options: the published constants, what is refused, and what is shown when there is little to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import GAME, LINEAR, game_batch
from pydantic import ValidationError
from torch import Tensor

from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.algorithms.impala.builder import build as build_impala
from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.impala_popart.config import ImpalaPopArtConfig
from machina.algorithms.ppo.builder import build as build_ppo
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.algorithms.ppo.metrics import BatchSums, StepSums, batch_metrics, step_metrics
from machina.algorithms.pqn.config import PQNConfig
from machina.algorithms.reward_config import RewardConfig
from machina.buffers.buffer import BufferSizes
from machina.buffers.unrolls import slice_slots
from machina.errors import UserError
from machina.launch.places import LocalShards
from machina.learner.minibatches import Share, minibatches, share_of
from machina.learner.sums import SINGLE_RANK
from machina.types import BEHAVIOUR_LOGITS

POPART = {"popart": False, "popart_beta": 3e-4, "popart_sigma_min": 1e-4, "popart_sigma_max": 1e6}
IMPALA: dict[str, Any] = POPART | {
    "batch_size": 32,
    "learning_rate": 6e-4,
    "optimizer": "rmsprop",
    "rmsprop_decay": 0.99,
    "rmsprop_epsilon": 0.01,
    "rmsprop_momentum": 0.0,
    "adam_epsilon": 1e-8,
    "gamma": 0.99,
    "entropy_cost": 0.01,
    "baseline_cost": 0.5,
    "rho_clip": 1.0,
    "c_clip": 1.0,
    "pg_rho_clip": 1.0,
    "vtrace_lambda": 1.0,
    "max_grad_norm": 40.0,
    "reward_clip": "auto",
}
PPO: dict[str, Any] = POPART | {
    "unroll_length": 128,
    "epochs": 3,
    "minibatches": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_final": 0.0,
    "adam_epsilon": 1e-5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.1,
    "clip_final": 0.0,
    "value_clip": None,
    "value_cost": 1.0,
    "entropy_cost": 0.01,
    "entropy_cost_final": None,
    "target_kl": None,
    "max_grad_norm": 0.5,
    "normalize_advantages": True,
    "team_spirit": 0.0,
    "team_spirit_final": None,
    "zero_sum": False,
    "reward_clip": "none",
    "popart_beta": 0.01,
}

PQN: dict[str, Any] = {
    "unroll_length": 32,
    "epochs": 2,
    "minibatches": 32 * 16 // 128,  # of 128 environments there, of 16 here
    "learning_rate": 2.5e-4,
    "learning_rate_final": None,
    "gamma": 0.99,
    "q_lambda": 0.65,
    "max_grad_norm": 10.0,
    "epsilon": 1.0,
    "epsilon_final": 0.001,
    "exploration_share": 0.1,
    "epsilon_spread": 0.0,
    "reward_clip": "auto",
    "policy_lag_bound": 1,
    "passes": 2,
}


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (ImpalaConfig(), IMPALA),
        (ImpalaPopArtConfig(), IMPALA | {"popart": True}),
        (PPOConfig(), PPO),
        (PQNConfig(), PQN),
    ],
)
def test_defaults_are_those_of_the_papers(config: RewardConfig, published: dict[str, Any]) -> None:
    assert {name: getattr(config, name) for name in published} == published


def within(low: float, high: float, low_too: bool = True) -> tuple[list[float], list[float]]:
    """Values that must be taken, and others that must not."""
    below = -1e-9 if low == 0 else low * 0.99
    return [low if low_too else 1e-9, high], [below if low_too else low, high + 0.5]


SHARE, DECAY = ([0.0, 1.0], [-1e-9, 1.00001]), ([0.0, 0.9999], [-1e-9, 1.0])
DISCOUNT = ([1e-9, 1.0], [0.0, 1.00001])
COST, RATE, EPSILON = within(0, 1000), within(0, 100, low_too=False), within(1e-30, 1000)
RANGES: dict[type[RewardConfig], dict[str, tuple[list[Any], list[Any]]]] = {
    ImpalaConfig: {
        "batch_size": ([1, 10**6], [0, 10**6 + 1]),
        "learning_rate": RATE,
        "rmsprop_decay": DECAY,
        "rmsprop_epsilon": EPSILON,
        "rmsprop_momentum": DECAY,
        "adam_epsilon": EPSILON,
        "gamma": DISCOUNT,
        "entropy_cost": COST,
        "baseline_cost": COST,
        "rho_clip": ([1.0, 1e6], [0.0, 1e6 + 0.5]),
        "c_clip": ([1e-9, 1.0], [0.0]),
        "pg_rho_clip": within(0, 1e6, low_too=False),
        "vtrace_lambda": SHARE,
        "max_grad_norm": within(0, 1e12, low_too=False),
    },
    PPOConfig: {
        "unroll_length": ([1, 10**6], [0, 10**6 + 1]),
        "epochs": ([1, 1000], [0, 1001]),
        "minibatches": ([1, 10**9], [0, 10**9 + 1]),
        "learning_rate": RATE,
        "learning_rate_final": within(0, 100),
        "adam_epsilon": EPSILON,
        "gamma": DISCOUNT,
        "gae_lambda": SHARE,
        "clip": RATE,
        "clip_final": within(0, 100),
        "value_clip": within(0, 1e12, low_too=False),
        "value_cost": COST,
        "entropy_cost": COST,
        "entropy_cost_final": COST,
        "target_kl": within(0, 1e6, low_too=False),
        "max_grad_norm": within(0, 1e12, low_too=False),
        "team_spirit": SHARE,
        "team_spirit_final": SHARE,
        "popart_beta": DISCOUNT,
    },
    PQNConfig: {
        "unroll_length": ([1, 10**6], [0, 10**6 + 1]),
        "epochs": ([1, 1000], [0, 1001]),
        "minibatches": ([1, 10**9], [0, 10**9 + 1]),
        "learning_rate": RATE,
        "learning_rate_final": within(0, 100),
        "gamma": DISCOUNT,
        "q_lambda": SHARE,
        "max_grad_norm": within(0, 1e12, low_too=False),
        "epsilon": SHARE,
        "epsilon_final": SHARE,
        "exploration_share": SHARE,
        "epsilon_spread": within(0, 100),
    },
    ActorCriticConfig: {
        "popart_beta": DISCOUNT,
        "popart_sigma_min": ([1e-12], [0.99e-12, 1e12 + 0.5]),
        "popart_sigma_max": ([1e12], [0.99e-12, 1e12 + 0.5]),
    },
}


@pytest.mark.parametrize(("config", "option"), [(config, option) for config in RANGES for option in RANGES[config]])
def test_every_number_has_its_range(config: type[RewardConfig], option: str) -> None:
    taken, refused = RANGES[config][option]
    for value in taken:
        assert getattr(config.model_validate({option: value}), option) == value
    for value in refused:
        with pytest.raises(ValidationError, match=rf"{option}\s+Input should be"):
            config.model_validate({option: value})


def test_popart_s_bounds_and_clips_may_meet_where_they_work() -> None:
    with pytest.raises(ValidationError, match="must be below"):
        ImpalaConfig(popart_sigma_min=1.0, popart_sigma_max=1.0)
    assert ImpalaConfig(rho_clip=0.7, c_clip=0.7).rho_clip == 0.7
    assert ImpalaConfig(rho_clip=1e6, c_clip=1e6).c_clip == 1e6
    with pytest.raises(ValidationError, match=r"c_clip\s+Input should be"):
        ImpalaConfig(c_clip=1e6 + 0.5)
    assert PPOConfig(epochs=7).passes == 7
    assert PPOConfig().policy_lag_bound == 1


@pytest.mark.parametrize("kind", [PPOConfig, PQNConfig])
def test_batches_too_small_for_the_minibatches(kind: type[PPOConfig] | type[PQNConfig]) -> None:
    recurrent = kind.model_validate({"minibatches": 4, "unroll_length": 3, "network": {"lstm_size": 1}})
    recurrent.check_batch(4)
    plain = kind(minibatches=6, unroll_length=3)
    plain.check_batch(2)
    for config, size, what in ((recurrent, 3, "unrolls, which an LSTM needs whole;"), (plain, 1, "env steps;")):
        with pytest.raises(UserError, match=f"minibatches={config.minibatches}: a batch has 3 {what} use at most 3"):
            config.check_batch(size)


def test_rewards_are_clipped_where_it_is_asked_or_the_custom() -> None:
    atari = GAME.model_copy(update={"clip_rewards": True})
    for choice, expected in (("clip", (True, True)), ("none", (False, False)), ("auto", (False, True))):
        config = ImpalaConfig.model_validate({"reward_clip": choice})
        assert (config.clips_rewards(GAME), config.clips_rewards(atari)) == expected


class TwoRanks:
    """The other rank's part is added up; stands for ``machina.interfaces.Ranks``."""

    def __init__(self, rank: int, other: Sequence[Sequence[float]]) -> None:
        self.rank, self.size = rank, 2
        self._others = iter(other)
        self.seen: list[list[float]] = []

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self.seen.append(tensor.tolist())
            tensor += torch.tensor(next(self._others), dtype=tensor.dtype)


@pytest.mark.parametrize(("rank", "expected"), [(0, Share(7, 0, 3)), (1, Share(7, 4, 3))])
def test_a_rank_s_share_of_the_slots(rank: int, expected: Share) -> None:
    other = [0.0, 4.0] if rank == 0 else [4.0, 0.0]
    assert share_of(3, TwoRanks(rank, [other]), torch.device("cpu")) == expected  # type: ignore[arg-type]
    assert share_of(3, SINGLE_RANK, torch.device("cpu")) == Share(3, 0, 3)


def test_minibatches_are_even_and_those_of_the_update() -> None:
    share = Share(5, 0, 5)
    parts = [part.tolist() for part in minibatches(share, 3, 1, 4, False, seed=1, update=0)]
    assert [len(part) for part in parts] == [4, 4, 4, 3]
    for seed, update, same in ((1, 0, True), (2, 0, False), (1, 1, False)):
        again = [part.tolist() for part in minibatches(share, 3, 1, 4, False, seed=seed, update=update)]
        assert (again == parts) == same
    whole = [part.tolist() for part in minibatches(share, 3, 2, 2, True, seed=1, update=0)]
    assert [len(part) for part in whole] == [3, 2, 3, 2]
    assert sorted(whole[0] + whole[1]) == sorted(whole[2] + whole[3]) == [0, 1, 2, 3, 4]


def test_what_is_shown_of_few_steps() -> None:
    """Nothing is divided by zero, and nothing is explained where there is nothing to explain."""
    one = BatchSums(1, 1, 0.0, 0.0, 2.0, 4.0, 0.5, 0.25)
    assert batch_metrics(one) == {"learner/explained_variance": 0.0}
    two = BatchSums(2, 2, 0.0, 0.0, 4.0, 10.0, 1.0, 1.0)  # targets 1 and 3, errors 0 and 1
    assert batch_metrics(two) == {"learner/explained_variance": pytest.approx(0.75)}
    assert batch_metrics(BatchSums(*[0.0] * 8)) == {"learner/explained_variance": 0.0}

    step = StepSums(policy_loss=0.6, value_loss=0.4, entropy=0.8, kl=0.2, clipped=1.0, grad_norm=3.0)
    nothing = StepSums(*[0.0] * 6)
    shown = step_metrics([step, nothing], [(1.0, 1.0), (0.0, 0.0)], 1, value_cost=0.5)
    assert shown == {
        "learner/policy_loss": 0.6,
        "learner/baseline_loss": pytest.approx(0.2),
        "learner/entropy": 0.8,
        "learner/kl": 0.0,
        "learner/clipped_share": 1.0,
        "learner/grad_norm": 1.5,
        "learner/epochs": 2.0,
    }
    assert step_metrics([step], [(1.0, 1.0)], 1, value_cost=0.5)["learner/kl"] == 0.2


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_updates_are_counted_and_rates_scheduled(algorithm: str) -> None:
    """After the end of the schedule nothing goes below it."""
    learner: Any
    if algorithm == "impala":
        learner = ImpalaLearner(ImpalaConfig(), GAME, "cpu", "float32", 0, SINGLE_RANK)
    else:
        learner = PPOLearner(PPOConfig(), GAME, "cpu", "float32", 0, SINGLE_RANK)
    for update, done in enumerate((0.0, 0.5, 1.5)):
        assert learner.updates == update
        rate = learner.update(game_batch(1), done).metrics["learner/learning_rate"]
        assert rate == pytest.approx(learner.config.learning_rate * max(0, 1 - done))
    assert learner.state().values == {"updates": 3}


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_the_precision_is_the_one_asked_for(precision: str) -> None:
    """``auto`` is float32 where observations are as small as these."""
    expected = torch.bfloat16 if precision == "bfloat16" else torch.float32
    impala = ImpalaLearner(ImpalaConfig(), GAME, "cpu", precision, 0, SINGLE_RANK)
    ppo = PPOLearner(PPOConfig(), GAME, "cpu", precision, 0, SINGLE_RANK)
    assert impala.precision.dtype == ppo.precision.dtype == expected


@pytest.mark.parametrize("algorithm", ["impala", "ppo", "ppo, popart", "ppo, normalized"])
def test_a_single_step_is_learned(algorithm: str) -> None:
    """A batch of which one step counts is shown by that step alone; it has no advantage over itself."""
    network = LINEAR | {"lstm_size": 3}
    batch = slice_slots(game_batch(3), 0, 1)._replace(core_state=tuple(np.zeros((1, 3), np.float32) for _ in range(2)))
    foreign = np.ones_like(batch.foreign)
    foreign[1] = False
    learner: Any
    if algorithm == "impala":
        config = ImpalaConfig.model_validate({"network": network})
        learner = ImpalaLearner(config, GAME, "cpu", "float32", 0, SINGLE_RANK)
    else:
        options = PPOConfig.model_validate(
            {
                "network": network,
                "minibatches": 1,
                "epochs": 1,
                "popart": "popart" in algorithm,
                "normalize_advantages": "normalized" in algorithm,
            }
        )
        learner = PPOLearner(options, GAME, "cpu", "float32", 0, SINGLE_RANK)
    metrics, skipped = learner.update(batch._replace(foreign=foreign), 0.0)[:2]
    allowed = batch.observation["action_mask"][1, 0].sum()
    assert metrics["learner/entropy"] == pytest.approx(np.log(allowed), rel=1e-3), "a new policy is nearly uniform"
    assert metrics["learner/explained_variance"] == 0.0
    assert not skipped
    assert (metrics["learner/policy_loss"] == 0) == ("normalized" in algorithm)


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_a_recurrent_policy_is_shown_over_its_own_steps(algorithm: str) -> None:
    batch = game_batch(3)._replace(core_state=tuple(np.zeros((5, 3), np.float32) for _ in range(2)))
    learner: Any
    if algorithm == "impala":
        config = ImpalaConfig.model_validate({"network": LINEAR | {"lstm_size": 3}})
        learner = ImpalaLearner(config, GAME, "cpu", "float32", 0, SINGLE_RANK)
    else:
        options = PPOConfig.model_validate({"network": LINEAR | {"lstm_size": 3}, "minibatches": 2, "epochs": 1})
        learner = PPOLearner(options, GAME, "cpu", "float32", 0, SINGLE_RANK)
    ended = batch.terminated | batch.truncated
    allowed = batch.observation["action_mask"][:-1][(batch.on_turn & ~ended & ~batch.foreign)[:-1]].sum(axis=-1)
    shown = learner.update(batch, 0.0).metrics["learner/entropy"]
    assert shown == pytest.approx(np.log(allowed).mean(), rel=2e-3), "a new policy is nearly uniform"


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_what_is_explained_has_no_unit(algorithm: str) -> None:
    shown = []
    for scale in (1.0, 1e-3):
        learner: Any
        if algorithm == "impala":
            config = ImpalaConfig.model_validate({"network": LINEAR, "reward_clip": "none"})
            learner = ImpalaLearner(config, GAME, "cpu", "float32", 0, SINGLE_RANK)
        else:
            learner = PPOLearner(PPOConfig.model_validate({"network": LINEAR}), GAME, "cpu", "float32", 0, SINGLE_RANK)
        learner.model.network.get_parameter("value_head.weight").data.fill_(scale)
        batch = game_batch(1)
        metrics = learner.update(batch._replace(reward=batch.reward * np.float32(scale)), 0.0).metrics
        shown.append(metrics["learner/explained_variance"])
    assert shown[1] == pytest.approx(shown[0], rel=1e-4)
    assert shown[0] != 0


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "ppo"])
def test_the_optimizer_is_built_from_the_options(optimizer: str) -> None:
    """The learning rate is set again at every step."""
    learner: Any
    if optimizer == "ppo":
        options = PPOConfig(learning_rate=0.3, adam_epsilon=0.2)
        learner = PPOLearner(options, GAME, "cpu", "float32", 0, SINGLE_RANK)
    else:
        rmsprop = {"rmsprop_decay": 0.7, "rmsprop_epsilon": 0.6, "rmsprop_momentum": 0.5}
        config = ImpalaConfig.model_validate(
            {"optimizer": optimizer, "learning_rate": 0.3, "adam_epsilon": 0.2, **rmsprop}
        )
        learner = ImpalaLearner(config, GAME, "cpu", "float32", 0, SINGLE_RANK)
    (group,) = learner.model.optimizer.param_groups
    expected: dict[str, Any] = {"lr": 0.3, "decay": 0.7, "epsilon": 0.6, "momentum": 0.5}
    if optimizer != "rmsprop":
        expected = {"lr": 0.3, "eps": 0.2, "betas": (0.9, 0.999), "weight_decay": 0, "amsgrad": False}
    assert {name: group[name] for name in expected} == expected
    assert len(group["params"]) == len(list(learner.model.network.parameters()))


def test_what_is_not_finite_within_an_epoch_is_reported() -> None:
    """The batch's own sums are finite here, its ratios are not."""
    learner = PPOLearner(PPOConfig(), GAME, "cpu", "float32", 0, SINGLE_RANK)
    before = learner.flat_parameters()
    batch = game_batch(1)
    batch.policy_outputs[BEHAVIOUR_LOGITS][0, 0] = np.nan
    assert learner.update(batch, 0.0).skipped is True
    learner = PPOLearner(PPOConfig(minibatches=1), GAME, "cpu", "float32", 0, SINGLE_RANK)
    assert learner.update(batch, 0.0).skipped is True
    assert torch.equal(learner.flat_parameters(), before)


@pytest.mark.parametrize("algorithm", ["impala", "ppo"])
def test_the_algorithm_makes_its_parts(algorithm: str) -> None:
    network = LINEAR | {"lstm_size": 3}
    built = build_impala(ImpalaConfig.model_validate({"network": network, "learning_rate": 0.3}))
    kind: type[ImpalaLearner] | type[PPOLearner] = ImpalaLearner
    if algorithm == "ppo":
        built = build_ppo(PPOConfig.model_validate({"network": network, "learning_rate": 0.3, "minibatches": 1}))
        kind = PPOLearner
    assert {key: array.shape for key, array in built.policy_outputs(GAME).items()} == {BEHAVIOUR_LOGITS: (3,)}
    sizes = BufferSizes(2, 8, capacity=3, max_policy_lag=None, waits=False, num_slots=1, total_env_steps=100, seed=1)
    buffer = built.make_buffer(GAME, sizes, LocalShards())
    assert [buffer.admits(unrolls, promised=1, slots=1) for unrolls in (3, 4)] == [True, False]
    learners = [built.make_learner(GAME, "cpu", "bfloat16", seed, SINGLE_RANK) for seed in (1, 2, 1)]
    assert isinstance(learners[0], kind)
    assert learners[0].config is built.config
    assert learners[0].model.ranks is SINGLE_RANK
    assert learners[0].precision.dtype == torch.bfloat16
    flat = [learner.flat_parameters() for learner in learners]
    assert torch.equal(flat[0], flat[2])
    assert not torch.equal(flat[0], flat[1])
    policy = built.make_policy(GAME, "cpu", "bfloat16", explores=True, num_slots=2)
    assert policy.precision.dtype == torch.bfloat16
    policy.load_parameters(flat[0], done=0.0)
    assert [state.shape for state in policy.initial_core_state(2)] == [(2, 3), (2, 3)]


def test_popart_is_built_from_the_options() -> None:
    options = {"popart": True, "popart_beta": 0.25, "popart_sigma_min": 0.5, "popart_sigma_max": 2.0}
    config = ImpalaConfig.model_validate({"network": LINEAR} | options)
    popart = ImpalaLearner(config, GAME, "cpu", "float32", 0, SINGLE_RANK).model.popart
    assert popart is not None
    assert (popart.beta, popart.sigma_min, popart.sigma_max) == (0.25, 0.5, 2.0)


def test_normalized_advantages_have_no_scale() -> None:
    """Rewards a thousand times as small teach the policy the same, where no values are in the way."""
    vectors = []
    for scale in (1.0, 1e-3):
        config = PPOConfig.model_validate({"network": LINEAR, "value_cost": 0.0, "minibatches": 1})
        learner = PPOLearner(config, GAME, "cpu", "float32", 0, SINGLE_RANK)
        learner.model.network.get_parameter("value_head.weight").data.zero_()
        batch = game_batch(1)
        learner.update(batch._replace(reward=batch.reward * np.float32(scale)), 0.0)
        vectors.append(learner.flat_parameters())
    torch.testing.assert_close(vectors[0], vectors[1], rtol=1e-3, atol=1e-6)
