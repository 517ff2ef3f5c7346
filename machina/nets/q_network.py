"""The Q-network: torso, optional LSTM, one number per action."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from machina.nets.config import QNetworkConfig
from machina.nets.distributions import masked
from machina.nets.network import CoreTensors, Network, NetworkInput, recurrent_core, start_orthogonal
from machina.nets.observation_filter import ObservationFilter
from machina.nets.torsos import Encoder
from machina.specs import EnvSpec


class QOutput(NamedTuple):
    """What a Q-network returns, in float32."""

    q_values: Tensor
    """``[T, B, A]``, of the task that each slot plays."""
    core_state: CoreTensors
    """``[B, ...]`` each, after the last entry."""
    logits: Tensor | None = None
    """``[T, B, A, atoms]``: of the distribution of returns, where there is one; ``q_values`` are its means."""


class QNetwork(Network[QOutput]):
    """Action values for images, vectors and sets of units; with ``task_heads`` a head for each task."""

    def __init__(self, spec: EnvSpec, config: QNetworkConfig) -> None:
        """Raises UserError when the torso or the filter asked for does not suit the observation."""
        super().__init__()
        self.encoder = Encoder(spec, config)
        size = config.lstm_size
        self.core = recurrent_core(self.encoder.output_size, spec.action, config)
        self.core_state_shapes = ((size,), (size,)) if size else ()
        self.num_heads = spec.num_tasks if config.task_heads else 1
        self.q_head: nn.Module = nn.Linear(size or self.encoder.output_size, self.num_heads * sum(spec.action.choices))
        start_orthogonal(self.encoder, gain=math.sqrt(2))
        start_orthogonal(self.q_head, gain=0.01)
        self.observation_filter = ObservationFilter(spec) if config.observation_filter else None

    def forward(self, inputs: NetworkInput, core_state: CoreTensors) -> QOutput:
        """For T entries of B slots; only the torso follows a surrounding autocast."""
        observation = inputs.observation
        if self.observation_filter is not None:
            observation = self.observation_filter(observation)
        features = self.encoder(observation)
        with torch.autocast(features.device.type, enabled=False):
            features = features.float().unflatten(0, inputs.reward.shape)
            if self.core is not None:
                features, core_state = self.core(features, inputs, core_state)
            return self._head(features, inputs, core_state)

    def _head(self, features: Tensor, inputs: NetworkInput, core_state: CoreTensors) -> QOutput:
        """What is made of ``[T, B, features]``."""
        return QOutput(self._of_task(self.q_head(features), inputs.task_id), core_state)

    def _of_task(self, outputs: Tensor, task_id: Tensor) -> Tensor:
        """``[T, B, num_heads * N]`` to the ``[T, B, N]`` of each slot's own task."""
        if self.num_heads == 1:
            return outputs
        of_tasks = outputs.reshape(*outputs.shape[:-1], self.num_heads, -1)
        own = task_id[..., None, None].expand(*of_tasks.shape[:2], 1, of_tasks.shape[-1])
        return of_tasks.gather(2, own).squeeze(2)

    def masked(self, output: QOutput, allowed: Tensor) -> QOutput:
        """Forbidden actions are never the best, save where nothing is allowed, as after a limit's last step."""
        nothing = ~allowed.any(dim=-1, keepdim=True)
        return output._replace(q_values=masked(output.q_values, allowed | nothing))

    def cast_torso(self, dtype: torch.dtype) -> None:
        """Keep the torso's weights in ``dtype``; converting them costs as much as acting for a few slots."""
        self.encoder.to(dtype)
