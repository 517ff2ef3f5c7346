"""The opponents that one actor can play against: snapshots of the pool, a bounded number of them in memory."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from machina.errors import UserError
from machina.interfaces import Drawn, Policy
from machina.league.pool import PoolView
from machina.types import (
    ActorInput,
    ActorOutput,
    Array,
    names_as_array,
    names_of,
)

if TYPE_CHECKING:
    from torch import Tensor


class _Place:
    """Memory for one opponent."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.games = 0
        """Running games that need the opponent."""


class PoolOpponents:
    """Implements ``machina.interfaces.Opponents``; one per actor, shared by its groups.

    At most ``capacity`` opponents are in memory. One that a running game needs stays, whatever the pool becomes; of
    the others the one that was needed least recently makes room, and its policy object is reused. While running games
    need all of them, a new game draws among those in memory, their probabilities scaled to a sum of 1. If the pool has
    others, the one that was needed for the longest time is left out of that draw: its games end, its place becomes
    free, and so every snapshot comes in turn however many games an actor runs at once. With a capacity of 1 that
    leaves nobody, and the present self plays until the place is free.

    Args:
        make_policy: builds a policy; called at most ``capacity`` times.
        capacity: most opponents in memory.
        fetch: turns an entry of ``PoolView.parameters`` into the flat vector.
    """

    def __init__(self, make_policy: Callable[[], Policy], capacity: int, fetch: Callable[[Any], Tensor]) -> None:
        self._make_policy = make_policy
        self._capacity = capacity
        self._fetch = fetch
        self._view: PoolView | None = None
        # In the order in which they came into use or, if no game needs them, went out of it.
        self._places: dict[str, _Place] = {}

    def load(self, view: PoolView | None) -> None:
        """Draw from this pool from now on; running games keep their opponents."""
        self._view = view

    @property
    def available(self) -> bool:
        """Whether ``draw`` can return anything but None."""
        return self._view is not None and bool(self._view.names) and self._view.pool_share > 0

    def draw(self, uniforms: Sequence[float]) -> Drawn | None:
        """The opponent of a new game, held until ``release``; None is the present self.

        Args:
            uniforms: two numbers in [0, 1); the first decides whether it is a game against the pool.
        """
        view = self._view
        if view is None or uniforms[0] >= view.pool_share:
            return None
        candidates = self._candidates(view)
        if not candidates:
            return None
        drawn = _pick(candidates, uniforms[1])
        place = self._loaded(view, drawn.name)
        if not place.games:
            self._places[drawn.name] = self._places.pop(drawn.name)
        place.games += 1
        return drawn

    def _candidates(self, view: PoolView) -> dict[str, float]:
        """Who a new game may be against, and each one's probability before scaling."""
        probabilities = dict(zip(view.names, view.probabilities, strict=True))
        needed = [name for name, place in self._places.items() if place.games]
        if len(needed) < self._capacity:
            return probabilities
        leaving = needed[0] if probabilities.keys() - needed else None
        return {name: probabilities[name] for name in needed if name in probabilities and name != leaving}

    def hold(self, name: str) -> None:
        """Hold the opponent of a game that continues from a saved state, until ``release``.

        Raises:
            UserError: it is not in the pool, or running games need all places.
        """
        place = self._places.get(name)
        if place is None:
            if self._view is None or name not in self._view.names:
                raise UserError(f"snapshot {name!r} plays a saved game but is not in the pool; use another checkpoint")
            if all(place.games for place in self._places.values()) and len(self._places) == self._capacity:
                raise UserError(
                    f"opponents_in_memory={self._capacity}: the saved games have more opponents; use the run's number"
                )
            place = self._loaded(self._view, name)
        place.games += 1

    def release(self, name: str) -> None:
        """A game of this opponent is over."""
        place = self._places[name]
        place.games -= 1
        if not place.games:
            self._places[name] = self._places.pop(name)

    def _loaded(self, view: PoolView, name: str) -> _Place:
        """The opponent's place, after loading its parameters if it has none."""
        place = self._places.get(name)
        if place is None:
            parameters = self._fetch(view.parameters[view.names.index(name)])
            place = self._free_place()
            place.policy.load_parameters(parameters, done=1.0)
            self._places[name] = place
        return place

    def _free_place(self) -> _Place:
        if len(self._places) < self._capacity:
            return _Place(self._make_policy())
        idle = next(name for name, place in self._places.items() if not place.games)
        return self._places.pop(idle)

    def act(self, name: str, inputs: ActorInput) -> ActorOutput:
        """Act for an opponent that is held; see ``machina.interfaces.Policy``."""
        return self._places[name].policy.act(inputs)

    def state(self) -> dict[str, Array]:
        """Who is in memory, in order; the games' own states say who needs them."""
        return {"in_memory": names_as_array(self._places)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Load those whom ``state`` names, after ``load`` and before any game is held."""
        if self._view is not None:
            for name in names_of(state["in_memory"])[-self._capacity :]:
                if name not in self._view.names:
                    raise UserError(f"snapshot {name!r} of saved games is not in the pool; use another checkpoint")
                self._loaded(self._view, name)


def _pick(candidates: Mapping[str, float], uniform: float) -> Drawn:
    """A candidate, drawn in proportion to its probability."""
    sums = list(itertools.accumulate(candidates.values()))
    if not sums[-1]:  # the few in memory are so much weaker than the pool's best that their shares round to 0
        return _pick(dict.fromkeys(candidates, 1.0), uniform)
    index = min(bisect.bisect_right(sums, uniform * sums[-1]), len(sums) - 1)
    name = list(candidates)[index]
    return Drawn(name, candidates[name] / sums[-1])
