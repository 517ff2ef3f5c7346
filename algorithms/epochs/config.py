"""The options of every algorithm that learns from minibatches of a synchronous batch. Imports no torch."""

from __future__ import annotations

from machina.config import AlgorithmConfig
from machina.errors import UserError
from machina.nets.config import TorsoConfig


class MinibatchConfig(AlgorithmConfig):
    """Epochs of minibatches; each algorithm says how many by default."""

    epochs: int
    minibatches: int
    network: TorsoConfig

    @property
    def passes(self) -> int:
        """The epochs."""
        return self.epochs

    @property
    def policy_lag_bound(self) -> int:
        """Nothing corrects for an older policy; one update lets actors and learner work at the same time."""
        return 1

    def check_batch(self, batch_size: int) -> None:
        """Every minibatch needs something to learn from.

        Raises:
            UserError: more minibatches than there are parts.
        """
        recurrent = self.network.lstm_size > 0
        most = batch_size if recurrent else batch_size * self.unroll_length
        if self.minibatches > most:
            what = "unrolls, which an LSTM needs whole" if recurrent else "env steps"
            raise UserError(f"minibatches={self.minibatches}: a batch has {most} {what}; use at most {most}")
