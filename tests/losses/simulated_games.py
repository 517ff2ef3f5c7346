"""Streams of entries as games of several agents produce them, and unrolls cut out of them anywhere."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from machina.types import BEHAVIOUR_LOGITS, NO_ACTION, BoolArray, Unroll

AGENTS = 3
GAMES = 2
SLOTS = GAMES * AGENTS
P_END = 0.12


class Rules(NamedTuple):
    """What may happen in the games of a stream."""

    ending: Literal["terminated", "truncated", "neither", "any"] = "any"
    """How episodes end; with "neither" no game ends, nor agent 0 of any."""
    deaths: bool = False
    """Agents end one by one and repeat their end until the game is over; else all end together."""
    turns: Literal["always", "in order", "random"] = "always"
    life_losses: float = 0.0
    """Probability per entry."""
    foreigners: float = 0.0
    """Probability per episode that another player than the policy that learns acts."""


class Stream(NamedTuple):
    """Entries of ``SLOTS`` slots, ``[entries, SLOTS]`` each, float64; the games' slots are neighbours."""

    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    life_lost: Tensor
    on_turn: Tensor
    foreign: Tensor
    values: Tensor
    log_rhos: Tensor


class Window(NamedTuple):
    """An unroll, and what the learner's network says of it."""

    unroll: Unroll[Tensor]
    values: Tensor
    """``[T + 1, B]``."""
    log_rhos: Tensor
    """``[T, B]``."""


def simulated(rules: Rules, entries: int, seed: int) -> Stream:
    """Random numbers everywhere, also where they must not matter: rewards of reset steps, turns of ended agents."""
    random = np.random.default_rng(seed)
    shape = (entries, SLOTS)
    terminated, truncated = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    foreign = np.zeros(shape, np.bool_)
    for game in range(GAMES):
        slots = slice(game * AGENTS, (game + 1) * AGENTS)
        flags = np.zeros((2, AGENTS), np.bool_)
        strangers = random.random(AGENTS) < rules.foreigners
        for k in range(entries):
            alive = flags.sum(axis=0) == 0
            if not alive.any():
                flags[:] = False
                strangers = random.random(AGENTS) < rules.foreigners
            elif k > 0:
                flags |= _ends(rules, alive, random)
            terminated[k, slots], truncated[k, slots] = flags
            foreign[k, slots] = strangers
    return Stream(
        *(
            torch.as_tensor(array)
            for array in (
                random.normal(size=shape),
                terminated,
                truncated,
                random.random(shape) < rules.life_losses,
                _turns(rules, shape, random),
                foreign,
                random.normal(size=shape),
                random.normal(size=shape),
            )
        )
    )


def _ends(rules: Rules, alive: BoolArray, random: np.random.Generator) -> BoolArray:
    """``[2, AGENTS]``: who of those ``alive`` terminates, who is truncated."""
    ends = alive & (random.random(AGENTS if rules.deaths else 1) < P_END)
    if rules.ending == "neither":
        ends &= rules.deaths & (np.arange(AGENTS) > 0)
    kinds = {"terminated": [(1, 0)], "truncated": [(0, 1)]}.get(rules.ending, [(1, 0), (0, 1), (1, 1)])
    return np.asarray(kinds[random.integers(len(kinds))], np.bool_)[:, None] & ends


def _turns(rules: Rules, shape: tuple[int, int], random: np.random.Generator) -> BoolArray:
    if rules.turns == "in order":
        return np.equal(np.arange(shape[0])[:, None] % AGENTS, np.arange(SLOTS) % AGENTS, dtype=np.bool_)
    return np.less(random.random(shape), 1.0 if rules.turns == "always" else 0.4, dtype=np.bool_)


def cut(stream: Stream, start: int, T: int) -> Window:  # noqa: N803
    """The unroll of entries ``start`` to ``start + T``."""
    entries = slice(start, start + T + 1)
    done = stream.terminated | stream.truncated
    nothing = torch.zeros(T + 1, SLOTS, dtype=torch.int64)
    unroll = Unroll(
        observation={},
        reward=stream.reward[entries].clone(),
        team_reward=stream.reward[entries].clone(),
        enemy_reward=torch.zeros(T + 1, SLOTS, dtype=torch.float64),
        terminated=stream.terminated[entries].clone(),
        truncated=stream.truncated[entries].clone(),
        life_lost=stream.life_lost[entries].clone(),
        on_turn=stream.on_turn[entries].clone(),
        foreign=stream.foreign[entries].clone(),
        action=nothing,
        policy_outputs={BEHAVIOUR_LOGITS: nothing[..., None].float()},
        core_state=(),
        previous_action=torch.full((SLOTS,), NO_ACTION),
        first=done[start - 1] if start else torch.ones(SLOTS, dtype=torch.bool),
        task_id=nothing[0],
        slot=torch.arange(SLOTS),
        policy_version=nothing[0],
        start=nothing[0],
        weight=torch.ones(SLOTS),
    )
    return Window(unroll, stream.values[entries].clone(), stream.log_rhos[start : start + T].clone())


def windows(stream: Stream, T: int) -> list[Window]:  # noqa: N803
    """Every unroll that can be cut out of the stream."""
    return [cut(stream, start, T) for start in range(len(stream.reward) - T)]
