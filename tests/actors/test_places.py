"""Both places hand the learner the same unrolls, and what was stored is what the policy saw."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from actor_groups import Job, as_tensors, next_batch, running, take

from machina.actors.actor_group import InProcessActors
from machina.actors.inline import InlineActors
from machina.actors.stepping import InlineStepper
from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.algorithms.exploration.acting import EPSILON
from machina.buffers.unrolls import to_arrays
from machina.errors import EnvironmentFaultError, RunFailedError
from machina.hardware import ACTOR_NICENESS
from machina.launch.configuration import job_config
from machina.launch.places import OneMachine
from machina.launch.plan import plan_run
from machina.losses.alignment import aligned
from machina.nets.build import build_network
from machina.nets.parameters import load_flat
from machina.nets.unroll_tensors import network_input
from machina.types import BEHAVIOUR_LOGITS, Array, Unroll

TINY_SHALLOW = {"torso": "shallow", "filters": (8, 8, 8), "hidden_sizes": (32,)}
JOBS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], int]] = {
    # name: environment, algo, env, runtime, batches
    "catch": ("catch", {"batch_size": 6, "unroll_length": 7}, {"envs_per_task": 6}, {}, 10),
    "two actors": ("catch", {"batch_size": 4, "unroll_length": 5}, {"envs_per_task": 8}, {"actors": 2}, 12),
    "uneven groups": ("catch", {"batch_size": 4, "unroll_length": 3}, {"envs_per_task": 7}, {"actors": 2}, 12),
    "several rounds to a batch": ("catch", {"batch_size": 8, "unroll_length": 3}, {"envs_per_task": 3}, {}, 8),
    "tasks, lstm, popart": (
        "two_scales",
        {"batch_size": 5, "unroll_length": 4, "popart": True, "network": {"lstm_size": 8}},
        {"envs_per_task": 4},
        {"actors": 2},
        10,
    ),
    "native": ("CartPole-v1", {"batch_size": 4, "unroll_length": 6}, {"envs_per_task": 4}, {}, 8),
    "workers": ("CartPole-v1", {"batch_size": 2, "unroll_length": 6}, {"envs_per_task": 2, "processes": True}, {}, 5),
    "pong": (
        "pong",
        {"batch_size": 4, "unroll_length": 5, "network": TINY_SHALLOW},
        {"envs_per_task": 4, "frame_cap": 120},
        {},
        8,
    ),
}


def same(one: Unroll[Array], other: Unroll[Array], rounded: str | None = None) -> bool:
    """Bit for bit; the array called ``rounded`` to a few float32 roundings."""
    arrays, others = to_arrays(one), to_arrays(other)
    return arrays.keys() == others.keys() and all(
        np.allclose(array, others[key], rtol=0, atol=1e-6) if key == rounded else np.array_equal(array, others[key])
        for key, array in arrays.items()
    )


@pytest.mark.parametrize("name", JOBS)
def test_inline_and_local_give_the_same_unrolls_in_lock_step(name: str) -> None:
    environment, algo, env, runtime, count = JOBS[name]
    recorded: dict[str, list[Unroll[Array]]] = {}
    parameters: dict[str, torch.Tensor] = {}
    for place in ("inline", "local"):
        with running(environment, place, algo, env, {**runtime, "lock_step": True}) as job:
            recorded[place] = take(job, count, learn=True)
            parameters[place] = job.learner.flat_parameters()
    assert all(same(*pair) for pair in zip(*recorded.values(), strict=True))
    assert torch.equal(parameters["inline"], parameters["local"])
    assert len({float(batch.policy_version.max()) for batch in recorded["inline"]}) > 1, "parameters did come back"


def test_falling_epsilons_are_the_same_in_both_places() -> None:
    """They go by the parameters' share of the run, not by when an actor happens to load them."""
    batches = {}
    algo = {"unroll_length": 7, "minibatches": 1, "exploration_share": 1.0, "network": {"hidden_sizes": [8]}}
    for place in ("inline", "local"):
        with running("catch", place, algo, {"envs_per_task": 6}, {"lock_step": True}, algorithm="pqn") as job:
            batches[place] = take(job, 6, learn=True)
    assert all(same(*pair) for pair in zip(*batches.values(), strict=True))
    epsilons = [float(batch.policy_outputs[EPSILON].max()) for batch in batches["inline"]]
    assert epsilons == sorted(epsilons, reverse=True)
    assert len(set(epsilons)) > 1


def test_parameters_that_are_published_again_under_the_same_version_are_loaded() -> None:
    """After learner ranks were lost, actors act with what was kept, not with what was undone."""
    with running("catch", "inline", {"batch_size": 3, "unroll_length": 5}, {"envs_per_task": 3}) as job:
        assert next_batch(job.actors).policy_outputs[BEHAVIOUR_LOGITS][:-1].any()
        job.actors.store.publish(0, torch.zeros_like(job.learner.flat_parameters()), done=0.0)
        assert not next_batch(job.actors).policy_outputs[BEHAVIOUR_LOGITS][:-1].any()


@pytest.mark.parametrize(
    ("place", "learner_threads", "niceness"), [("inline", 2, 0), ("local", 1, 0), ("local", 2, ACTOR_NICENESS)]
)
def test_actors_give_way_to_a_learner_of_several_threads(place: str, learner_threads: int, niceness: int) -> None:
    """The actor's thread and those of its environments; never the learner's own."""
    runtime = {"learner_threads": learner_threads}
    others = set(threading.enumerate())  # environments that hang in other tests leave theirs behind
    with running("catch", place, {"batch_size": 4, "unroll_length": 6}, {"envs_per_task": 4}, runtime) as job:
        take(job, 2)
        actors = [each for each in set(threading.enumerate()) - others if each.name.startswith(("actor ", "step "))]
        assert len(actors) == (3 if place == "local" else 2)  # inline the actor is the caller
        assert all(os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) == niceness for thread in actors)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == 0


def test_the_action_stream_of_a_slot_does_not_depend_on_the_actors() -> None:
    """With the same parameters throughout, two actors give each slot the unrolls that one gives it.

    But for the logits' last bits: some processors' libraries add up in another order for four slots than for two.
    """
    by_actors = []
    for actors in (1, 2):
        algo, env = {"batch_size": 8, "unroll_length": 5}, {"envs_per_task": 8}
        with running("catch", "inline", algo, env, {"actors": actors}) as job:
            by_actors.append(take(job, 6))
    assert all(same(one, other, "policy_outputs/behaviour_logits") for one, other in zip(*by_actors, strict=True))


def test_batches_stay_what_they_were_while_actors_reuse_their_buffers() -> None:
    for place in ("inline", "local"):
        with running("catch", place, {"batch_size": 3, "unroll_length": 4}, {"envs_per_task": 4}) as job:
            batches = take(job, 2)
            copies = [{key: array.copy() for key, array in to_arrays(batch).items()} for batch in batches]
            take(job, 30)
            assert isinstance(job.actors.group, InProcessActors)
            assert len(job.actors.group._actors[0].groups) == 2
            # What the queue holds and what is being filled, no more: buffers come back.
            assert all(group._free.qsize() <= 3 for group in job.actors.group._actors[0].groups)
        for batch, copy in zip(batches, copies, strict=True):
            assert all(np.array_equal(array, copy[key]) for key, array in to_arrays(batch).items())


def test_a_checkpoint_before_the_actors_are_ready_keeps_their_counters() -> None:
    """Streams must not repeat when a resumed run is stopped while its environments start."""
    state = {f"slot{slot}/{name}": np.array(40) for slot in (0, 2) for name in ("drawn", "restarts")}
    with running("CartPole-v1", "local", {"batch_size": 4}, {"envs_per_task": 4}, state=state) as job:
        at_once = job.actors.group.state()
        take(job, 1)
        later = job.actors.group.state()
    assert at_once.keys() == later.keys() == state.keys()
    assert all(int(array) >= 40 for array in at_once.values())
    assert int(later["slot0/drawn"]) >= 60, "20 steps, one number each"
    assert int(later["slot0/restarts"]) == 41


@pytest.mark.parametrize(
    ("environment", "network", "env"),
    [
        ("counting", {"lstm_size": 8}, {"envs_per_task": 5}),
        ("catch", {"lstm_size": 8}, {"envs_per_task": 5}),
        ("two_scales", {}, {"envs_per_task": 3}),
        ("pong", {**TINY_SHALLOW, "lstm_size": 8}, {"envs_per_task": 4, "frame_cap": 60}),
    ],
)
@pytest.mark.parametrize("place", ["inline", "local"])
def test_the_learner_sees_what_the_policy_saw(
    environment: str, network: dict[str, Any], env: dict[str, Any], place: str
) -> None:
    """The behaviour policy's logits follow from the unroll alone: frames, core state, rewards, actions, resets."""
    with running(environment, place, {"batch_size": 5, "unroll_length": 9, "network": network}, env) as job:
        batches = take(job, 8)
    assert any((batch.terminated | batch.truncated).any() for batch in batches), "no reset was tested"
    for batch in batches:
        logits = recomputed_logits(job, batch)
        np.testing.assert_allclose(logits[:-1], batch.policy_outputs[BEHAVIOUR_LOGITS][:-1], atol=2e-5)


def recomputed_logits(job: Job, batch: Unroll[Array]) -> Array:
    """``[T + 1, B, A]`` from the unroll, as the learner's network sees it."""
    spec, algo = job.plan.spec, job.plan.config.algo
    assert isinstance(algo, ActorCriticConfig)
    unroll = as_tensors(batch)
    steps = aligned(unroll)
    network = build_network(spec, algo.network, seed=0)
    load_flat(network, job.actors.store.latest().flat)
    inputs = network_input(unroll, steps.first, steps.previous_actions, spec)
    with torch.no_grad():
        return np.asarray(network(inputs, unroll.core_state).logits)


def test_inline_actors_that_never_began_close_at_once() -> None:
    """As where a run is resumed whose schedule is complete."""
    config, _ = job_config("impala", "catch", "defaults", runtime={"place": "inline"})
    actors = OneMachine(plan_run(config)).make_actors().group
    started = time.monotonic()
    actors.close()
    assert time.monotonic() - started < 5


def test_a_fault_while_a_round_comes_to_rest_leaves_the_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of the end is tried again after the fault that ends the run."""

    def fail(*_: object) -> None:
        raise EnvironmentFaultError("the engine stalled")

    sizes = {"batch_size": 2, "unroll_length": 50}
    with running("catch", "inline", sizes, {"envs_per_task": 2}, {"max_restarts": 0}) as job:
        actors = job.actors.group
        assert isinstance(actors, InlineActors)
        while not any(actor.steps for actor in actors._actors):
            assert actors.next_batch(0, 0.0) is None
        monkeypatch.setattr(InlineStepper, "receive", fail)
        with pytest.raises(RunFailedError, match=r"the engine stalled; .* failed 1 times \(max_restarts\)"):
            actors.unrolls_at_hand()
        assert actors.unrolls_at_hand() == 2
        state = actors.state()
    assert sorted(state) == ["slot0/drawn", "slot0/restarts", "slot1/drawn", "slot1/restarts"]
    assert int(state["slot0/drawn"]) > 0
