"""Every space that a refusal of a game names as its remedy can be played, and is seen as it is."""

import re
from typing import Any

import ending_games
import numpy as np
import pytest
from gymnasium import spaces

from machina.envs.games.multi_agent import MultiAgentSlots
from machina.envs.games.pettingzoo_game import ParallelGames
from machina.envs.games.pettingzoo_specs import REMEDY, read_spec
from machina.envs.games.table import GameFactory
from machina.errors import EnvironmentFaultError, UserError
from machina.types import ACTION_MASK

GAME = "ending_games:Sights"


def test_choices_and_nested_spaces_are_seen() -> None:
    spec = read_spec(GAME, "names", {})
    assert set(spec.observation) == {"card", "hand/0", "hand/1", "bits", ACTION_MASK}
    env = MultiAgentSlots(ParallelGames([ending_games.Sights()], spec), spec, 1)
    env.reset([1, 1])
    entry = env.step(np.array([0, 1]))
    seen = {key: array.tolist() for key, array in entry.observation.items()}
    assert seen["card"] == [[False, True, False]] * 2
    assert seen["hand/0"] == [[False, True, False, False, True]] * 2, "the second of two, the third of three"
    assert seen["hand/1"] == [[1, 5]] * 2
    assert seen["bits"] == [[1, 0]] * 2
    assert seen[ACTION_MASK] == [[True, True], [False, True]]
    env.close()


def test_pictures_within_dictionaries_are_drawn() -> None:
    factory = GameFactory(spec=read_spec("ending_games:Cameras", "names", {}), max_steps=None)
    env = factory.make([0, 1])
    env.reset([1, 1])
    assert (env.step(np.array([0, 0])).observation["views/left"] == 1).all()
    env.close()


def test_masks_of_more_than_0_and_1_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cast to truth values, a half and -1 would allow what they stand for."""
    spec = read_spec(GAME, "names", {})
    for wrong in ([1, 2], [-1, 1]):
        env = MultiAgentSlots(ParallelGames([ending_games.Sights()], spec), spec, 1)
        env.reset([1, 1])
        seen = ending_games.Sights.seen

        def masked(game: ending_games.Sights, agents: list[str], wrong: list[int] = wrong, seen: Any = seen) -> Any:
            told = seen(game, agents)
            told["blue_0"]["action_mask"] = np.array(wrong)
            return told

        with monkeypatch.context() as patched:
            patched.setattr(ending_games.Sights, "seen", masked)
            with pytest.raises(EnvironmentFaultError, match="action_mask is neither 0 nor 1 everywhere"):
                env.step(np.array([0, 1]))


REFUSED = (spaces.Text(4), spaces.Graph(spaces.Box(0, 1, (2,)), None), spaces.Sequence(spaces.Discrete(2)))


@pytest.mark.parametrize("space", REFUSED, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("what", ["observation_space", "action_space"])
def test_refusals_name_no_wrapper(what: str, space: spaces.Space, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[type-arg]
    monkeypatch.setattr(ending_games.Sights, what, lambda _self, _agent: space)
    with pytest.raises(UserError, match=re.escape(REMEDY)) as refusal:
        read_spec(GAME, "names", {})
    assert "wrapper" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,)))),
        spaces.Dict({"in": spaces.Dict({"side": spaces.Discrete(2)})}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_each_space_of_the_remedy_is_taken(space: spaces.Space, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[type-arg]
    monkeypatch.setattr(ending_games.Sights, "observation_space", lambda _self, _agent: space)
    drawn = [space.sample() for _ in range(2)]
    monkeypatch.setattr(ending_games.Sights, "seen", lambda _self, agents: dict(zip(agents, drawn, strict=True)))
    spec = read_spec(GAME, "names", {})
    env = MultiAgentSlots(ParallelGames([ending_games.Sights()], spec), spec, 1)
    env.reset([1, 1])
    entry = env.step(np.array([0, 1]))
    env.close()
    for slot, sample in enumerate(drawn):
        seen = np.concatenate([entry.observation[key][slot].reshape(-1) for key in spec.observation])
        np.testing.assert_array_equal(seen, spaces.flatten(space, sample), "gymnasium's own order")
