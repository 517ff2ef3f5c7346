"""One update of DQN, Rainbow and R2D2 against numbers that are made item by item, with autograd alone in common."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from unrolls import random_unroll

from machina.algorithms.dqn.config import DQNConfig
from machina.algorithms.r2d2.config import R2D2Config
from machina.algorithms.r2d2.learning import R2D2Learner
from machina.algorithms.rainbow.config import RainbowConfig
from machina.algorithms.replaying.config import TransitionConfig
from machina.algorithms.replaying.learning import ReplayingLearner
from machina.learner.sums import SINGLE_RANK
from machina.losses.alignment import aligned
from machina.losses.distributional import projected
from machina.losses.value_rescaling import rescaled, unrescaled
from machina.nets.frames import stacked_frames
from machina.nets.network import NetworkInput
from machina.nets.unroll_tensors import network_input, to_device
from machina.nets.value_network import ValueNetwork
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import Array, Unroll

N, B, GAMMA = 3, 12, 0.9
VECTOR = EnvSpec(
    name="vector",
    tasks=("left", "right"),
    observation={"observation": ArraySpec(shape=(4,), dtype="float32")},
    action=discrete(3),
)
FRAMES = VECTOR.model_copy(
    update={"observation": {"observation": ArraySpec(shape=(4, 36, 36), dtype="uint8")}, "frame_stack": 4}
)
SMALL: dict[str, Any] = {"hidden_sizes": [8]}
OPTIONS: dict[str, Any] = {
    "n_step": N, "gamma": GAMMA, "learning_rate": 0.01, "optimizer": "adam", "reward_clip": "none",
    "target_update_period": 3, "max_grad_norm": 1e9,
}  # fmt: skip


def windows(spec: EnvSpec, seed: int, length: int = N, slots: int = B) -> Unroll[Array]:
    """Items as the replay hands them out: entry 0 is no end."""
    unroll = random_unroll(spec, length, slots, seed)
    for flags in (unroll.terminated, unroll.truncated):
        flags[0] = False
    weight = np.random.default_rng(seed).choice([0.25, 0.5, 1.0], slots).astype(np.float32)
    return unroll._replace(weight=weight)


def learner_of(
    spec: EnvSpec, kind: type[TransitionConfig] = DQNConfig, precision: str = "float32", **options: Any
) -> ReplayingLearner:
    network = {**SMALL, **options.pop("network", {})}
    config = kind.model_validate({**OPTIONS, **options, "network": network})
    learner = ReplayingLearner(config, spec, "cpu", precision, 3, SINGLE_RANK)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():  # a target network that differs
        for parameter in learner.target.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return learner


def entry(spec: EnvSpec, unroll: Unroll[Tensor], b: int, t: int) -> NetworkInput:
    """What the network reads at entry ``t`` of item ``b``."""
    steps = aligned(unroll)
    observation = unroll.observation["observation"]
    if spec.stores_frames_once:
        observation = stacked_frames(observation, steps.first)
    return NetworkInput(
        {"observation": observation[t, b][None, None]},
        unroll.reward[t, b][None, None],
        steps.previous_actions[t, b][None, None],
        steps.first[t, b][None, None],
        unroll.task_id[b][None, None],
    )


def ahead_of(unroll: Unroll[Array], b: int) -> tuple[int, float, float]:
    """Where item ``b`` bootstraps, the rewards up to there, and whether the return continues (1 or 0)."""
    gained = 0.0
    for t in range(1, N + 1):
        gained += GAMMA ** (t - 1) * float(unroll.reward[t, b])
        if unroll.terminated[t, b] or unroll.life_lost[t, b]:
            return t, gained, 0.0
        if unroll.truncated[t, b]:
            return t, gained, 1.0
    return N, gained, 1.0


def best_action(network: ValueNetwork, given: NetworkInput) -> int:
    with torch.no_grad():
        return int(network(given, ()).q_values.argmax())


def assert_steps_equal(learner: ReplayingLearner | R2D2Learner, twin: ValueNetwork, loss: Tensor, rate: float) -> None:
    """After Adam's first step every weight has moved by the rate against its gradient."""
    loss.backward()  # type: ignore[no-untyped-call]
    epsilon = learner._replaying.adam_epsilon
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        expected = parameter - rate * parameter.grad / (parameter.grad.abs() + epsilon)
        got = dict(learner.model.network.named_parameters())[name]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("spec", [VECTOR, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize("options", [{}, {"double_q": True}, {"double_q": True, "loss": "squared"}], ids=str)
def test_one_update_of_dqn(spec: EnvSpec, options: dict[str, Any]) -> None:
    learner = learner_of(spec, **options)
    twin, target = copy.deepcopy(learner.model.network), copy.deepcopy(learner.target)
    batch = windows(spec, 5)
    learned = learner.update(batch, 0.5)
    unroll = to_device(batch, torch.device("cpu"))
    losses, errors = [], []
    for b in range(B):
        t, gained, continues = ahead_of(batch, b)
        given = entry(spec, unroll, b, t)
        action = best_action(twin if options.get("double_q") else target, given)
        with torch.no_grad():
            value = float(target(given, ()).q_values.flatten()[action])
        taken = twin(entry(spec, unroll, b, 0), ()).q_values.flatten()[int(batch.action[0, b])]
        error = gained + GAMMA**t * continues * value - taken
        small = error.abs() <= 1 or options.get("loss") == "squared"
        losses.append((0.5 * error**2 if small else error.abs() - 0.5) * float(batch.weight[b]))
        errors.append(abs(float(error.detach())))
    assert learned.priorities is not None
    assert learned.priorities.tolist() == pytest.approx(errors, rel=1e-4)
    loss = torch.stack(losses).sum() / B
    assert learned.metrics["learner/q_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert_steps_equal(learner, twin, loss, 0.01)


def test_one_update_of_rainbow() -> None:
    atoms = {"dueling": True, "atoms": 11, "v_min": -4, "v_max": 4, "noise": "factorised"}
    learner = learner_of(VECTOR, RainbowConfig, network=atoms)
    twin, target = copy.deepcopy(learner.model.network), copy.deepcopy(learner.target)
    sequence = np.random.SeedSequence([3, 9, 0])
    generator = torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
    twin.redraw(generator)  # once, for all that the update does
    target.redraw(generator)
    batch = windows(VECTOR, 6)
    learned = learner.update(batch, 0.5)
    unroll = to_device(batch, torch.device("cpu"))
    support = torch.linspace(-4, 4, 11)
    losses, divergences = [], []
    for b in range(B):
        t, gained, continues = ahead_of(batch, b)
        given = entry(VECTOR, unroll, b, t)
        with torch.no_grad():
            logits = target(given, ()).logits
            assert logits is not None
            next_distribution = logits[0, 0, best_action(twin, given)].softmax(-1)
            discount = torch.tensor([GAMMA**t * continues])
            aim = projected(next_distribution[None], torch.tensor([gained]), discount, support)[0]
        own = twin(entry(VECTOR, unroll, b, 0), ()).logits
        assert own is not None
        log_probabilities = own[0, 0, int(batch.action[0, b])].log_softmax(-1)
        losses.append(-(aim * log_probabilities).sum() * float(batch.weight[b]))
        present = aim > 0
        kl = (aim[present] * (aim[present].log() - log_probabilities[present])).sum()
        divergences.append(float(kl.detach()))
    assert learned.priorities is not None
    assert learned.priorities.tolist() == pytest.approx(divergences, rel=1e-3, abs=1e-5)
    assert_steps_equal(learner, twin, torch.stack(losses).sum() / B, 0.01)


def test_the_margin_counts_for_demonstrations_alone(tmp_path: Any) -> None:
    batch = windows(VECTOR, 7)
    shown = batch._replace(policy_version=np.where(np.arange(B) % 2, -1, 4))
    plain, with_margin, without = (
        learner_of(VECTOR, **options)
        for options in ({}, {"margin_cost": 1.0, "demos": tmp_path}, {"margin_cost": 1.0, "demos": tmp_path})
    )
    expected = plain.update(batch, 0).metrics["learner/q_loss"]
    assert without.update(batch, 0).metrics["learner/q_loss"] == expected
    twin = copy.deepcopy(with_margin.model.network)
    unroll = to_device(shown, torch.device("cpu"))
    more = 0.0
    for b in range(1, B, 2):
        q_values = twin(entry(VECTOR, unroll, b, 0), ()).q_values.flatten().tolist()
        action = int(batch.action[0, b])
        raised = [value + 0.8 * (a != action) for a, value in enumerate(q_values)]
        more += (max(raised) - q_values[action]) * float(batch.weight[b])
    got = with_margin.update(shown, 0).metrics["learner/q_loss"]
    assert got == pytest.approx(expected + more / B, rel=1e-4)


def test_the_target_network_is_copied_when_it_is_due_and_not_before() -> None:
    learner = learner_of(VECTOR)
    names = list(dict(learner.target.named_parameters()))
    for update in range(1, 7):
        before = [parameter.clone() for parameter in learner.target.parameters()]
        learner.update(windows(VECTOR, update), 0)
        own = dict(learner.model.network.named_parameters())
        for name, old in zip(names, before, strict=True):
            now = dict(learner.target.named_parameters())[name]
            assert torch.equal(now, own[name] if update % 3 == 0 else old)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", [VECTOR, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize("kind", [DQNConfig, RainbowConfig])
def test_a_restored_learner_makes_the_same_updates(kind: type[TransitionConfig], spec: EnvSpec, precision: str) -> None:
    options: dict[str, Any] = {"optimizer": "rmsprop"} if kind is DQNConfig else {}
    first, second = (learner_of(spec, kind, precision, **options) for _ in range(2))
    for seed in range(4):
        first.update(windows(spec, seed), 0)
    second.load_state(first.state())
    for seed in range(4, 8):
        assert second.update(windows(spec, seed), 0).metrics == first.update(windows(spec, seed), 0).metrics
    assert torch.equal(second.flat_parameters(), first.flat_parameters())
    for stem, tensors in first.state().tensors.items():
        assert all(torch.equal(tensor, second.state().tensors[stem][name]) for name, tensor in tensors.items())


def test_a_target_network_in_bfloat16_gives_nearly_the_values_of_one_in_float32() -> None:
    narrow, wide = (learner_of(FRAMES, precision=precision) for precision in ("bfloat16", "float32"))
    assert {parameter.dtype for parameter in narrow.target.encoder.parameters()} == {torch.bfloat16}
    of_narrow, of_wide = (each.update(windows(FRAMES, 3), 0).metrics["learner/target"] for each in (narrow, wide))
    assert of_narrow == pytest.approx(of_wide, rel=0.03)


def test_a_batch_that_is_not_finite_changes_nothing() -> None:
    learner = learner_of(VECTOR)
    before = learner.flat_parameters()
    batch = windows(VECTOR, 1)
    batch.reward[1, 3] = np.nan
    learned = learner.update(batch, 0)
    assert learned.skipped
    assert learned.priorities is None
    assert torch.equal(learner.flat_parameters(), before)


LENGTH, BURN_IN = 6, 2


def r2d2_learner(**options: Any) -> R2D2Learner:
    network = {"hidden_sizes": [8], "lstm_size": 5, "dueling": True}
    given = {"burn_in_length": BURN_IN, "sequence_length": LENGTH - BURN_IN, "unroll_length": 2, "n_step": 2}
    config = R2D2Config.model_validate({**OPTIONS, **given, "network": network, **options})
    learner = R2D2Learner(config, VECTOR, "cpu", "float32", 3, SINGLE_RANK)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in learner.target.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return learner


def sequences(seed: int) -> Unroll[Array]:
    unroll = windows(VECTOR, seed, LENGTH)
    random = np.random.default_rng(seed)
    core = tuple(random.normal(size=(B, 5)).astype(np.float32) for _ in range(2))
    return unroll._replace(core_state=core)


@pytest.mark.parametrize("rescales", [True, False])
def test_one_update_of_r2d2_sequence_by_sequence(rescales: bool) -> None:
    """Burn-in leaves a core state without gradient; targets stop at ends; the LSTM starts afresh there."""
    learner = r2d2_learner(rescales_values=rescales)
    twin, target = copy.deepcopy(learner.model.network), copy.deepcopy(learner.target)
    batch = sequences(4)
    learned = learner.update(batch, 0.1)
    unroll = to_device(batch, torch.device("cpu"))
    steps = aligned(unroll)
    losses, priorities, counted = [], [], int(steps.mask[BURN_IN:].sum())
    for b in range(B):
        given = network_input(unroll, steps.first, steps.previous_actions, VECTOR)

        def part(start: int, stop: int, b: int = b, given: NetworkInput = given) -> NetworkInput:
            observation = {key: each[start:stop, b : b + 1] for key, each in given.observation.items()}
            return NetworkInput(observation, *(each[start:stop, b : b + 1] for each in given[1:]))

        core = tuple(each[b : b + 1] for each in unroll.core_state)
        with torch.no_grad():
            of_target = target(part(0, LENGTH + 1), core).q_values[BURN_IN:, 0]
            warm = twin(part(0, BURN_IN), core).core_state
        online = twin(part(BURN_IN, LENGTH + 1), warm).q_values[:, 0]
        values = of_target[torch.arange(len(online)), online.argmax(-1)]
        values = unrescaled(values) if rescales else values
        errors = []
        for t in range(LENGTH - BURN_IN):
            if not steps.mask[BURN_IN + t, b]:
                continue
            gained, continues, at = 0.0, 1.0, t
            for ahead in range(2):
                entry_ahead = BURN_IN + t + ahead + 1
                gained += GAMMA**ahead * float(batch.reward[entry_ahead, b])
                at = t + ahead + 1
                continues = float(not (batch.terminated | batch.life_lost)[entry_ahead, b])
                if not continues or batch.truncated[entry_ahead, b] or at == LENGTH - BURN_IN:
                    break
            goal = torch.tensor(gained) + GAMMA ** (at - t) * continues * values[at].detach()
            goal = rescaled(goal) if rescales else goal
            error = goal - online[t, int(batch.action[BURN_IN + t, b])]
            losses.append(0.5 * error**2 * float(batch.weight[b]))
            errors.append(abs(float(error.detach())))
        priorities.append(0.9 * max(errors, default=0.0) + 0.1 * sum(errors) / max(1, len(errors)))
    assert learned.priorities is not None
    assert learned.priorities.tolist() == pytest.approx(priorities, rel=1e-3, abs=1e-5)
    assert_steps_equal(learner, twin, torch.stack(losses).sum() / counted, 0.01)


def test_without_its_stored_state_a_sequence_begins_with_zeros() -> None:
    batch = sequences(8)
    blank = batch._replace(core_state=tuple(np.zeros_like(each) for each in batch.core_state))
    metrics = [
        r2d2_learner(**options).update(given, 0).metrics["learner/q_loss"]
        for given, options in ((batch, {"stored_state": False}), (blank, {}), (batch, {}))
    ]
    assert metrics[0] == metrics[1] != metrics[2]
