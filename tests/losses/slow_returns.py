"""GAE and V-trace written out as sums over lists of own turns, episode by episode, in plain Python.

Made from the entries of an unroll and the definitions alone: no alignment, no masks, no recursion.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from simulated_games import Window
from torch import Tensor


class Turn(NamedTuple):
    """A step and all that happens up to its station: the next own turn, or the last entry at hand of the episode."""

    entry: int
    station: int
    reward: float
    """What arrives after ``entry`` and up to the station, as long as the return has not stopped."""
    goes_on: float
    """0 where the return stops before, or at, the station, else 1."""


class Slot(NamedTuple):
    """One slot of a window as lists over its entries."""

    reward: list[float]
    done: list[bool]
    stops: list[bool]
    on_turn: list[bool]
    foreign: list[bool]
    values: list[float]
    rhos: list[float]


def slots_of(window: Window) -> list[Slot]:
    unroll = window.unroll
    done = unroll.terminated | unroll.truncated
    stops = unroll.terminated | unroll.life_lost
    columns = (unroll.reward, done, stops, unroll.on_turn, unroll.foreign, window.values, window.log_rhos.exp())
    return [Slot(*(column[:, b].tolist() for column in columns)) for b in range(unroll.reward.shape[1])]


def episodes(slot: Slot) -> list[list[int]]:
    """The entries of each episode; a repeated end is an episode of one entry, without steps."""
    found: list[list[int]] = [[]]
    for entry in range(len(slot.done)):
        found[-1].append(entry)
        if slot.done[entry]:
            found.append([])
    return [entries for entries in found if entries and not slot.foreign[entries[0]]]


def until_station(slot: Slot, entry: int, station: int) -> Turn:
    reward, goes_on = 0.0, 1.0
    for arrival in range(entry + 1, station + 1):
        if goes_on:
            reward += slot.reward[arrival]
        if slot.stops[arrival]:
            goes_on = 0.0
    return Turn(entry, station, reward, goes_on)


def turns_and_waits(slot: Slot, entries: list[int]) -> tuple[list[Turn], list[Turn]]:
    """The own turns of an episode, and its other steps."""
    *steps, last = entries
    own = [entry for entry in steps if slot.on_turn[entry]]
    stations = {entry: min([later for later in own if later > entry], default=last) for entry in steps}
    turns = [until_station(slot, entry, stations[entry]) for entry in steps]
    return [turn for turn in turns if turn.entry in own], [turn for turn in turns if turn.entry not in own]


def slow_gae(window: Window, gamma: float, lambda_: float) -> tuple[Tensor, Tensor]:
    """Advantages and targets, ``[T, B]`` each."""
    advantages, targets = torch.zeros_like(window.log_rhos), window.values[:-1].clone()
    for b, slot in enumerate(slots_of(window)):
        for entries in episodes(slot):
            own, waits = turns_and_waits(slot, entries)
            advantage_at: dict[int, float] = {}
            for i, turn in enumerate(own):
                total, weight = 0.0, 1.0
                for later in own[i:]:
                    next_value = slot.values[later.station]
                    delta = later.reward + gamma * later.goes_on * next_value - slot.values[later.entry]
                    total += weight * delta
                    weight *= gamma * lambda_ * later.goes_on
                advantage_at[turn.entry] = total
                advantages[turn.entry, b] = total
                targets[turn.entry, b] = slot.values[turn.entry] + total
            for wait in waits:
                next_target = slot.values[wait.station] + advantage_at.get(wait.station, 0.0)
                targets[wait.entry, b] = wait.reward / gamma + wait.goes_on * next_target
    return advantages, targets


class Clips(NamedTuple):
    """Options of V-trace, in the order of its arguments."""

    rho_clip: float = 1.0
    c_clip: float = 1.0
    pg_rho_clip: float = 1.0
    lambda_: float = 1.0


def slow_vtrace(window: Window, gamma: float, clips: Clips) -> tuple[Tensor, Tensor]:
    """vs, equation 1 of the paper, and policy-gradient advantages, ``[T, B]`` each."""
    vs, advantages = window.values[:-1].clone(), torch.zeros_like(window.log_rhos)
    for b, slot in enumerate(slots_of(window)):
        for entries in episodes(slot):
            own, waits = turns_and_waits(slot, entries)
            target_at = {entries[-1]: slot.values[entries[-1]]}
            for i, turn in enumerate(own):
                target_at[turn.entry] = slot.values[turn.entry] + math.fsum(
                    math.prod(
                        gamma * past.goes_on * clips.lambda_ * min(clips.c_clip, slot.rhos[past.entry])
                        for past in own[i:j]
                    )
                    * min(clips.rho_clip, slot.rhos[later.entry])
                    * (later.reward + gamma * later.goes_on * slot.values[later.station] - slot.values[later.entry])
                    for j, later in enumerate(own[i:], start=i)
                )
            for turn in own:
                vs[turn.entry, b] = target_at[turn.entry]
                target = turn.reward + gamma * turn.goes_on * target_at[turn.station]
                rho = min(clips.pg_rho_clip, slot.rhos[turn.entry])
                advantages[turn.entry, b] = rho * (target - slot.values[turn.entry])
            for wait in waits:
                vs[wait.entry, b] = wait.reward / gamma + wait.goes_on * target_at[wait.station]
    return vs, advantages
