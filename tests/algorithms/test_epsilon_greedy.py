"""Epsilon-greedy acting: which slot explores how much, and what a random action is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from machina.algorithms.exploration.acting import EPSILON, MAX_Q, EpsilonGreedyPolicy, chosen, epsilons
from machina.algorithms.pqn.builder import build
from machina.algorithms.pqn.config import PQNConfig
from machina.errors import UserError
from machina.learner.sums import SINGLE_RANK
from machina.nets.network import NetworkInput
from machina.specs import ActionSpec, ArraySpec, EnvSpec, Seat, discrete
from machina.types import ACTION_MASK, NO_ACTION, ActorInput, ActorOutput, Array, BoolArray

SPEC = EnvSpec(
    name="vector",
    tasks=("left", "right", "far"),
    observation={"observation": ArraySpec(shape=(5,), dtype="float32")},
    action=discrete(4),
)
MASKED = SPEC.model_copy(update={"observation": {**SPEC.observation, ACTION_MASK: ArraySpec(shape=(4,), dtype="bool")}})


def act(policy: EpsilonGreedyPolicy, slots: int, allowed: BoolArray | None = None) -> ActorOutput:
    random = np.random.default_rng(3)
    observation: dict[str, Array] = {"observation": random.normal(size=(slots, 5)).astype(np.float32)}
    if allowed is not None:
        observation[ACTION_MASK] = allowed
    return policy.act(
        ActorInput(
            observation,
            np.zeros(slots, np.float32),
            np.full(slots, NO_ACTION),
            np.ones(slots, np.bool_),
            np.arange(slots) % 3,
            policy.initial_core_state(slots),
            random.random(slots, np.float32),
            np.arange(slots),
        )
    )


def policy_of(
    spec: EnvSpec, done: float, *, explores: bool = True, slots: int = 8, **options: object
) -> EpsilonGreedyPolicy:
    config = PQNConfig.model_validate({"network": {"hidden_sizes": [16]}, **options})
    policy = build(config).make_policy(spec, "cpu", "float32", explores=explores, num_slots=slots)
    learner = build(config).make_learner(spec, "cpu", "float32", 1, SINGLE_RANK)
    policy.load_parameters(learner.flat_parameters(), done)
    return policy


def test_epsilon_falls_over_its_share_of_the_run_and_stays() -> None:
    config = PQNConfig(epsilon=1.0, epsilon_final=0.2, exploration_share=0.5)
    shares = [float(epsilons(config, np.array([3]), 8, 1, done)[0]) for done in (0.0, 0.25, 0.5, 0.9, 1.2)]
    assert shares == pytest.approx([1.0, 0.6, 0.2, 0.2, 0.2])
    assert epsilons(PQNConfig(exploration_share=0.0), np.array([0]), 1, 1, 0.0) == pytest.approx([0.001])


def test_slots_differ_as_in_ape_x() -> None:
    """epsilon_i = 0.4 ** (1 + 7 i / (N - 1)), equation 1 of arXiv 1803.00933."""
    config = PQNConfig(epsilon=0.4, epsilon_final=0.4, epsilon_spread=7)
    expected = [0.4 ** (1 + 7 * i / 5) for i in range(6)]
    assert epsilons(config, np.arange(6), 6, 1, 0.3) == pytest.approx(expected)
    of_both_tasks = epsilons(config, np.arange(12), 12, 2, 0.3)
    assert of_both_tasks[0::2] == pytest.approx(expected), "slots take tasks in turn, and each task is explored alike"
    assert of_both_tasks[1::2] == pytest.approx(expected)
    beyond = epsilons(config, np.arange(6, 9), 6, 1, 0.3)
    assert beyond == pytest.approx(expected[:3]), "actors that came later begin again"
    assert epsilons(config, np.arange(2), 2, 2, 0.3) == pytest.approx([0.4, 0.4]), "one slot for each task"


def test_a_greedy_policy_takes_the_highest_value_whatever_it_draws() -> None:
    policy = policy_of(SPEC, done=0.0, explores=False)
    answer = act(policy, 200)
    random = np.random.default_rng(3)
    inputs = NetworkInput(
        {"observation": torch.from_numpy(random.normal(size=(200, 5)).astype(np.float32))[None]},
        torch.zeros(1, 200),
        torch.full((1, 200), NO_ACTION),
        torch.ones(1, 200, dtype=torch.bool),
        (torch.arange(200) % 3)[None],
    )
    with torch.no_grad():
        q_values = policy.network(inputs, ()).q_values[0]
    assert answer.action.tolist() == q_values.argmax(dim=1).tolist()
    assert len(set(answer.action.tolist())) > 1
    np.testing.assert_allclose(answer.policy_outputs[MAX_Q], q_values.max(dim=1).values.numpy(), rtol=1e-6)
    assert not answer.policy_outputs[EPSILON].any()


def test_the_share_of_random_actions_is_epsilon_and_all_are_as_likely() -> None:
    slots = 40_000
    greedy = act(policy_of(SPEC, 1.0, explores=False, slots=slots), slots).action
    answer = act(policy_of(SPEC, 1.0, slots=slots, epsilon_final=0.3), slots)
    assert answer.policy_outputs[EPSILON] == pytest.approx(np.full(slots, 0.3, np.float32))
    differs = (answer.action != greedy).mean()
    assert differs == pytest.approx(0.3 * 3 / 4, abs=0.01)
    everywhere = act(policy_of(SPEC, 0.0, slots=slots), slots).action
    assert np.bincount(everywhere, minlength=4) / slots == pytest.approx([0.25] * 4, abs=0.01)


def test_masked_actions_are_neither_best_nor_drawn() -> None:
    slots = 4000
    allowed = np.random.default_rng(0).random((slots, 4)) < 0.4
    allowed[~allowed.any(axis=1), 2] = True
    for done in (0.0, 1.0):
        answer = act(policy_of(MASKED, done, slots=slots), slots, allowed)
        assert allowed[np.arange(slots), answer.action].all()
        assert (answer.policy_outputs[MAX_Q] > -1e6).all()


def test_one_of_the_allowed_each_as_likely() -> None:
    allowed = np.tile(np.array([[True, False, True, True]]), (6, 1))
    uniforms = np.array([0.0, 0.33, 0.34, 0.66, 0.67, 0.9999999], np.float32)
    assert chosen(allowed, uniforms).tolist() == [0, 0, 2, 2, 3, 3]
    assert chosen(allowed[:1], np.ones(1, np.float32)).tolist() == [3], "rounding"


def test_what_it_can_t_act_on_is_refused() -> None:
    continuous = SPEC.model_copy(update={"action": ActionSpec(kind="continuous", low=(-1.0,), high=(1.0,))})
    with pytest.raises(UserError, match=r"a Q-network needs one choice among actions, these are continuous; use"):
        policy_of(continuous, 0.0)
    seats = tuple(Seat(agent=str(seat), role=0, team=seat) for seat in range(2))
    with pytest.raises(UserError, match=r"pqn learns for one agent, this is a game of 2; use ppo"):
        build(PQNConfig()).describe(SPEC.model_copy(update={"seats": seats, "tasks": ("one",)}))


def test_each_task_has_a_head_of_its_own_if_asked_for() -> None:
    policy = policy_of(SPEC, 1.0, network={"hidden_sizes": [16], "task_heads": True})
    observation = {"observation": torch.ones(1, 3, 5)}
    rest = (torch.zeros(1, 3), torch.full((1, 3), NO_ACTION), torch.ones(1, 3, dtype=torch.bool))
    with torch.no_grad():
        own = policy.network(NetworkInput(observation, *rest, torch.arange(3)[None]), ()).q_values[0]
        features = policy.network.encoder(observation)
        heads = policy.network.q_head(features)[0].view(3, 4)
    torch.testing.assert_close(own, heads)
    assert not torch.allclose(own[0], own[1])


def test_where_a_mask_allows_nothing_no_value_is_out_of_reach() -> None:
    """As a game may leave its mask at the observation at which a limit cut the episode: targets bootstrap from it."""
    allowed = np.zeros((3, 4), np.bool_)
    allowed[1, 2] = True
    outputs = act(policy_of(MASKED, 1.0, explores=False), 3, allowed).policy_outputs
    assert (np.abs(outputs[MAX_Q]) < 10).all()
    unmasked = act(policy_of(MASKED, 1.0, explores=False), 3, np.ones((3, 4), np.bool_)).policy_outputs
    np.testing.assert_array_equal(outputs[MAX_Q][[0, 2]], unmasked[MAX_Q][[0, 2]])
