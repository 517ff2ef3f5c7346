"""Two learner ranks, in threads, make the update of one: each with its share of the slots, or with none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from by_hand import GAME, LINEAR, SLOTS, game_batch
from torch import Tensor

from machina.algorithms.exploration.acting import EPSILON, MAX_Q
from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.algorithms.pqn.config import PQNConfig
from machina.algorithms.pqn.learning import PQNLearner
from machina.buffers.unrolls import slice_slots
from machina.interfaces import Ranks
from machina.learner.sums import SINGLE_RANK


class ThreadRank:
    """Implements ``machina.interfaces.Ranks`` for two threads of this process."""

    size = 2

    def __init__(self, rank: int, meeting: threading.Barrier, tables: list[list[Tensor]]) -> None:
        self.rank, self._meeting, self._tables = rank, meeting, tables

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        self._tables[self.rank] = [tensor.clone() for tensor in tensors]
        self._meeting.wait(30)
        one, two = self._tables
        for tensor, first, second in zip(tensors, one, two, strict=True):
            tensor.copy_(first + second)
        self._meeting.wait(30)

    def close(self) -> None:
        """Nothing to leave."""


def make(algorithm: str, ranks: Ranks, popart: bool, lstm_size: int) -> Any:
    network = LINEAR | {"observation_filter": True, "lstm_size": lstm_size}
    common = {"network": network, "popart": popart, "popart_beta": 0.1, "learning_rate": 0.02}
    if algorithm == "pqn":
        options = {"network": network | {"layer_norm": False}, "learning_rate": 0.02, "minibatches": 2}
        return PQNLearner(PQNConfig.model_validate(options), GAME, "cpu", "float32", 0, ranks)
    if algorithm == "impala":
        return ImpalaLearner(ImpalaConfig.model_validate(common), GAME, "cpu", "float32", 0, ranks)
    ppo = PPOConfig.model_validate(common | {"minibatches": 2, "adam_epsilon": 0.05})
    return PPOLearner(ppo, GAME, "cpu", "float32", 0, ranks)


@pytest.mark.parametrize("share", [0, 2])
@pytest.mark.parametrize(("popart", "lstm_size"), [(False, 0), (True, 0), (True, 3)])
@pytest.mark.parametrize("algorithm", ["impala", "ppo", "pqn"])
def test_two_ranks_make_the_update_of_one(algorithm: str, popart: bool, lstm_size: int, share: int) -> None:
    core = tuple(torch.zeros(SLOTS, lstm_size).numpy() for _ in range(2 if lstm_size else 0))
    batches = [game_batch(seed)._replace(core_state=core) for seed in (1, 2)]
    if algorithm == "pqn":
        batches = [each._replace(policy_outputs=dict.fromkeys((MAX_Q, EPSILON), each.reward)) for each in batches]
    single = make(algorithm, SINGLE_RANK, popart, lstm_size)
    expected = [single.update(batch, 0.0).metrics for batch in batches]
    meeting, tables = threading.Barrier(2), [list[Tensor](), list[Tensor]()]
    learners = [make(algorithm, ThreadRank(rank, meeting, tables), popart, lstm_size) for rank in range(2)]

    def updates(rank: int) -> list[dict[str, float]]:
        start, stop = ((0, share), (share, SLOTS))[rank]
        try:
            return [learners[rank].update(slice_slots(batch, start, stop), 0.0).metrics for batch in batches]
        except BaseException:
            meeting.abort()  # the other one must not wait
            raise

    with ThreadPoolExecutor(2) as pool:
        shown = list(pool.map(updates, range(2)))
    for learner, metrics in zip(learners, shown, strict=True):
        torch.testing.assert_close(learner.flat_parameters(), single.flat_parameters(), rtol=1e-4, atol=1e-6)
        assert learner.state().values == single.state().values
        for got, wanted in zip(metrics, expected, strict=True):
            assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6)
