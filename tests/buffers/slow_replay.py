"""A replay as lists of entries, and slots that play a game of numbered frames for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from machina.buffers.layout import BLOCK, Layout
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import NO_ACTION, Array, Unroll

SHAPE = (3, 2)
OUTPUTS = {"serial": ArraySpec(shape=(), dtype="float64"), "pair": ArraySpec(shape=(2,), dtype="float32")}


def layout_of(
    *, stack: int, window: int, unroll_length: int = 5, every_step: bool = True, compressed: bool = False, core: int = 0
) -> Layout:
    shape = (stack, *SHAPE) if stack > 1 else SHAPE
    spec = EnvSpec(
        name="numbers",
        tasks=("a", "b"),
        observation={
            "observation": ArraySpec(shape=shape, dtype="uint8"),
            "speed": ArraySpec(shape=(3,), dtype="float32"),
        },
        action=discrete(7),
        frame_stack=stack,
    )
    return Layout(spec, OUTPUTS, ((core,),) if core else (), unroll_length, window, every_step, compressed)


@dataclass
class Entry:
    """What is known of one step, as lists would keep it."""

    stack: Array
    """``[stack, H, W]`` as the environment shows it."""
    speed: Array
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool
    first: bool
    previous_action: int
    slot: int
    action: int = 0
    foreign: bool = False
    serial: float = 0.0
    """Of the step, unique; 0 while the action is not known."""
    version: int = 0
    opens: bool = False
    """Entry 0 of an unroll."""


@dataclass
class Slot:
    """Plays episodes of random length; may lose its environment."""

    number: int
    stack: int
    random: np.random.Generator
    drawn: int = 0
    entry: Entry | None = None
    frames: list[Array] = field(default_factory=list)

    def next_entry(self) -> Entry:
        random, old = self.random, self.entry
        first = old is None or old.terminated or old.truncated
        if first:
            self.frames = [np.zeros(SHAPE, np.uint8)] * (self.stack - 1)
        frame = random.integers(1, 256, SHAPE).astype(np.uint8)
        self.frames = [*self.frames, frame][-self.stack :]
        terminated, truncated, life_lost = random.random(3) < (0.1, 0.05, 0.1)
        if first and random.random() < 0.8:  # episodes of no steps are rare
            terminated = truncated = False
        self.entry = Entry(
            np.stack(self.frames),
            random.random(3).astype(np.float32),
            float(np.float32(random.normal())),
            bool(terminated),
            bool(truncated),
            bool(life_lost),
            first,
            NO_ACTION if first or old is None else old.action,
            self.number,
        )
        return self.entry

    def lose_environment(self) -> None:
        self.entry = None
        self.drawn += 1

    def play(self, steps: int, version: int, serials: list[float]) -> list[Entry]:
        """Entries 0 to ``steps``, the last without an action."""
        entries = [self.next_entry() if self.entry is None else self.entry]
        for _ in range(steps):
            entry = entries[-1]
            entry.action, entry.version = int(self.random.integers(7)), version
            entry.foreign = bool(self.random.random() < 0.1)
            entry.serial = serials.pop()
            entries.append(self.next_entry())
        self.drawn += steps
        return entries


def unroll_of(played: Sequence[Sequence[Entry]], starts: Sequence[int], layout: Layout, core: Array) -> Unroll[Array]:
    """The unroll of some slots as an actor would hand it over. The tail's serial and action are 0, as there."""
    tails = [Entry(**{**vars(entries[-1]), "action": 0, "foreign": False, "serial": 0.0}) for entries in played]
    played = [[*entries[:-1], tail] for entries, tail in zip(played, tails, strict=True)]

    def over_time(name: str, dtype: str) -> Array:
        return np.array([[getattr(entry, name) for entry in entries] for entries in played], dtype).swapaxes(0, 1)

    frames = np.stack([np.stack([entry.stack[-1] for entry in entries]) for entries in played], axis=1)
    before = np.stack([entries[0].stack[:-1] for entries in played], axis=1)
    serial, reward = over_time("serial", "float64"), over_time("reward", "float32")
    return Unroll(
        observation={"observation": np.concatenate([before, frames]), "speed": over_time("speed", "float32")},
        reward=reward,
        team_reward=reward,
        enemy_reward=np.zeros_like(reward),
        terminated=over_time("terminated", "bool"),
        truncated=over_time("truncated", "bool"),
        life_lost=over_time("life_lost", "bool"),
        on_turn=np.ones(reward.shape, np.bool_),
        foreign=over_time("foreign", "bool"),
        action=over_time("action", "int64"),
        policy_outputs={"serial": serial, "pair": np.stack([serial, -serial], axis=-1).astype(np.float32)},
        core_state=(core,) if layout.core_shapes else (),
        previous_action=np.array([entries[0].previous_action for entries in played]),
        first=np.array([entries[0].first for entries in played]),
        task_id=np.array([entries[0].slot % 2 for entries in played]),
        slot=np.array([entries[0].slot for entries in played]),
        policy_version=np.array([entries[0].version for entries in played]),
        start=np.array(starts),
        weight=np.ones(len(played), np.float32),
    )


@dataclass
class SlowLane:
    """One lane as a list that never forgets; ``None`` stands before an unroll that continues nothing."""

    layout: Layout
    length: int
    entries: list[Entry | None] = field(default_factory=list)
    last: tuple[int, int] | None = None
    """Slot and start of the unroll that would continue the lane."""
    cuts: set[int] = field(default_factory=set)
    """Where an unroll's tail stayed."""

    def put(self, played: Sequence[Entry], start: int) -> None:
        slot, steps = played[0].slot, len(played) - 1
        if self.last == (slot, start):
            self.entries.pop()
        else:
            if self.entries:
                self.cuts.add(len(self.entries) - 1)
            self.entries += [None] * (self.layout.gap + self.layout.lead)
        self.last = (slot, start + steps)
        copies = [Entry(**vars(entry)) for entry in played]
        copies[0].opens = True
        copies[-1].action, copies[-1].serial, copies[-1].foreign = 0, 0.0, False
        self.entries += copies

    def window(self, index: int) -> list[Entry]:
        """The entries of the item at ``index``, as far as something is learned from them."""
        window = []
        for at in range(index, min(index + self.layout.window + 1, len(self.entries))):
            entry = self.entries[at]
            assert entry is not None
            window.append(Entry(**vars(entry)))
            if at in self.cuts:
                window[-1].truncated |= not entry.terminated
            ended = window[-1].terminated or window[-1].truncated
            if at in self.cuts or (ended and at > index and self.layout.every_step):
                break
        return window

    def stored(self) -> int:
        """Steps that are not overwritten."""
        return sum(
            entry is not None and entry.serial != 0 and self._is_there(i) for i, entry in enumerate(self.entries)
        )

    def _is_there(self, index: int) -> bool:
        beyond = len(self.entries)
        if self.layout.compressed:  # a block is overwritten at once
            beyond = -(-beyond // BLOCK) * BLOCK
        return index - self.layout.lead >= beyond - self.length

    def _has_ended(self, index: int) -> bool:
        """Whether the episode of an entry is over, and the action at its last entry known."""
        for at, entry in enumerate(self.entries[index:], index):
            if at in self.cuts:
                return True
            assert entry is not None
            if (entry.terminated or entry.truncated) and entry.serial != 0:
                return True
        return False

    def items(self) -> dict[float, list[Entry]]:
        """Windows by the serial of their first step."""
        found, full = {}, self.layout.window + 1
        for index, entry in enumerate(self.entries):
            if entry is None or entry.serial == 0 or not self._is_there(index):
                continue
            window = self.window(index)
            if self.layout.whole_episodes and not self._has_ended(index):
                continue
            # With the action at its last entry, or ended before, or cut.
            whole = len(window) == full and (window[-1].serial != 0 or index + full - 1 in self.cuts)
            if self.layout.every_step:
                reset, end = entry.terminated or entry.truncated, window[-1]
                cut = index + len(window) - 1 in self.cuts
                ended = len(window) > 1 and (end.terminated or end.truncated) and (end.serial != 0 or cut)
                if not reset and (not entry.foreign or entry.version == -1) and (whole or ended):
                    found[entry.serial] = window
            elif entry.opens and (whole or index + len(window) - 1 in self.cuts):
                found[entry.serial] = window
        return found
