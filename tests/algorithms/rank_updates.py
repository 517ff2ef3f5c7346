"""The same updates by one rank and by several; imported by the ranks' processes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from rank_processes import PATIENCE_S
from torch import Tensor, device, nn, ones
from unrolls import random_unroll

from machina.algorithms.exploration.acting import EPSILON, MAX_Q
from machina.buffers.unrolls import slice_slots
from machina.interfaces import LearnerState, Ranks
from machina.learner.sums import join_ranks
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, PolicyNetwork
from machina.registry import algorithm_entry
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import Array, Learned, Unroll

LENGTH = 5
SPEC = EnvSpec(
    name="vector",
    tasks=("left", "right", "far"),
    observation={"observation": ArraySpec(shape=(5,), dtype="float32")},
    action=discrete(4),
)


class Case(NamedTuple):
    """Updates of one configuration."""

    size: int
    """Ranks."""
    slots: int
    """Of the whole batch."""
    options: dict[str, Any]
    updates: int = 20
    spoilt_update: int | None = None
    """The one whose last slot has rewards that are no numbers."""
    algorithm: str = "impala"


class Course(NamedTuple):
    """What a learner went through."""

    start: Tensor
    learned: list[Learned]
    state: LearnerState


def with_unused_parameter(spec: EnvSpec, config: NetworkConfig) -> PolicyNetwork:
    """A network one of whose parameters never has a gradient."""
    network = ActorCritic(spec, config)
    network.register_parameter("unused", nn.Parameter(ones(3)))
    return network


LSTM = {"lstm_size": 8, "hidden_sizes": [16]}
MLP = {"hidden_sizes": [16, 16]}
ADAM = {"optimizer": "adam"}
PPO = {"epochs": 2, "minibatches": 2, "unroll_length": LENGTH, "learning_rate": 1e-3, "clip": 0.2}
PQN = {"epochs": 2, "minibatches": 2, "unroll_length": LENGTH, "learning_rate": 1e-3}
TRANSITIONS = {"n_step": LENGTH, "optimizer": "adam", "target_update_period": 4, "learning_rate": 1e-3}
SEQUENCES = {"burn_in_length": 1, "sequence_length": LENGTH - 1, "unroll_length": 2, "target_update_period": 4}
REPLAYING = ("dqn", "rainbow", "apex", "r2d2")
CASES = {
    "plain": Case(2, 8, {"network": MLP}),
    "popart": Case(2, 8, {"network": MLP, "popart": True, "popart_beta": 0.05, "max_grad_norm": 1.0} | ADAM),
    "lstm": Case(2, 8, {"network": LSTM} | ADAM),
    "popart and lstm": Case(
        2, 8, {"network": LSTM, "popart": True, "popart_beta": 0.05, "rmsprop_momentum": 0.5, "max_grad_norm": 5.0}
    ),
    "5 slots on 2 ranks": Case(2, 5, {"network": MLP, "popart": True, "popart_beta": 0.05}, updates=8),
    "5 slots on 3 ranks": Case(3, 5, {"network": LSTM, "popart": True, "popart_beta": 0.05}, updates=8),
    "2 slots on 3 ranks": Case(
        3,
        2,
        {"network": MLP | {"network_name": "rank_updates:with_unused_parameter"}, "popart": True, "popart_beta": 0.05}
        | ADAM,
        updates=8,
    ),
    "not a number": Case(2, 8, {"network": MLP, "popart": True, "popart_beta": 0.05}, updates=8, spoilt_update=5),
    "ppo": Case(2, 8, PPO | {"network": MLP | {"observation_filter": True}}, algorithm="ppo"),
    "ppo with lstm": Case(
        2, 8, PPO | {"network": LSTM, "popart": True, "popart_beta": 0.05, "value_clip": 0.2}, algorithm="ppo"
    ),
    "ppo, 2 slots on 3 ranks": Case(3, 2, PPO | {"network": MLP, "target_kl": 0.05}, updates=8, algorithm="ppo"),
    "ppo with roles, 2 slots on 3 ranks": Case(
        3, 2, PPO | {"network": MLP | {"separate_roles": True}}, updates=4, algorithm="ppo"
    ),
    "pqn": Case(2, 8, PQN | {"network": MLP | {"observation_filter": True, "task_heads": True}}, algorithm="pqn"),
    "pqn with lstm": Case(2, 8, PQN | {"network": LSTM}, algorithm="pqn"),
    "pqn, 2 slots on 3 ranks": Case(3, 2, PQN | {"network": MLP}, updates=8, algorithm="pqn"),
    "pqn, not a number": Case(2, 8, PQN | {"network": MLP}, updates=8, spoilt_update=5, algorithm="pqn"),
    "dqn": Case(2, 8, TRANSITIONS | {"network": MLP | {"observation_filter": True}}, algorithm="dqn"),
    "rainbow, 5 slots on 2 ranks": Case(
        2, 5, TRANSITIONS | {"network": MLP | {"dueling": True, "atoms": 9, "noise": "factorised"}}, algorithm="rainbow"
    ),
    "apex, 2 slots on 3 ranks": Case(3, 2, TRANSITIONS | {"network": MLP}, updates=8, algorithm="apex"),
    "dqn, not a number": Case(2, 8, TRANSITIONS | {"network": MLP}, updates=8, spoilt_update=5, algorithm="dqn"),
    "r2d2": Case(2, 8, SEQUENCES | {"network": LSTM | {"dueling": True}}, algorithm="r2d2"),
    "r2d2, 2 slots on 3 ranks": Case(3, 2, SEQUENCES | {"network": LSTM}, updates=8, algorithm="r2d2"),
    "ppo, not a number": Case(2, 8, PPO | {"network": MLP}, updates=8, spoilt_update=5, algorithm="ppo"),
}


def batch_of(case: Case, update: int, core_state_shapes: tuple[tuple[int, ...], ...]) -> Unroll[Array]:
    """A whole batch; rewards of very different scale per task."""
    random = np.random.default_rng(1000 + update)
    core = tuple(random.normal(size=(case.slots, *shape)).astype(np.float32) for shape in core_state_shapes)
    batch = random_unroll(SPEC, LENGTH, case.slots, update, core)
    reward = batch.reward * 10.0 ** batch.task_id.astype(np.float32)
    if update == case.spoilt_update:
        reward[:, -1] = math.nan
    if case.algorithm == "pqn":
        numbers = random.random((2, LENGTH + 1, case.slots)).astype(np.float32)
        batch = batch._replace(policy_outputs=dict(zip((MAX_Q, EPSILON), numbers, strict=True)))
    if case.algorithm in REPLAYING:  # an item begins where an action was taken
        for ends in (batch.terminated, batch.truncated):
            ends[0] = False
        batch = batch._replace(weight=random.random(case.slots).astype(np.float32))
    return batch._replace(reward=reward.astype(np.float32))


def course(case: Case, ranks: Ranks) -> Course:
    """All updates of a case by one rank of ``ranks``, from its share of each batch."""
    entry = algorithm_entry(case.algorithm)
    config = entry.config().model_validate({"reward_clip": "none", "learning_rate": 3e-3, **case.options})
    learner: Any = entry.build(config).make_learner(SPEC, "cpu", "float32", seed=4, ranks=ranks)
    start = learner.flat_parameters()
    first, last = (case.slots * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
    learned = []
    for update in range(case.updates):
        batch = batch_of(case, update, learner.model.network.core_state_shapes)
        learned.append(learner.update(slice_slots(batch, first, last), update / (2 * case.updates)))
    return Course(start, learned, learner.state())


def all_courses(rank: int, rendezvous: dict[str, str]) -> dict[str, Course]:
    """Every case in which this rank has a part."""
    courses = {}
    for name, case in CASES.items():
        if rank < case.size:
            ranks = join_ranks(rank, case.size, rendezvous[name], device("cpu"), PATIENCE_S)
            courses[name] = course(case, ranks)
            ranks.close()
    return courses
