"""The adapter of vector environments: action masks of infos, actions in the shape of their space, and pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from written_env import ACTIONS, MASKED, SPEC, Written, flags, slots

from machina.errors import EnvironmentFaultError, UserError
from machina.specs import ActionSpec
from machina.types import ACTION_MASK


def test_masks_of_infos() -> None:
    env, both = Written(), np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
    env.infos = {ACTION_MASK: both}
    with pytest.raises(UserError, match=r"'written': gives an action_mask in its infos; put it into the observation"):
        slots(env).reset([1, 2, 3])
    with pytest.raises(UserError, match="add --info-mask use for a policy that keeps to it, or --info-mask ignore"):
        slots(env, info_mask="refuse").reset([1, 2, 3])
    assert set(slots(env, info_mask="ignore").reset([1, 2, 3]).observation) == {"observation"}
    adapter = slots(env, MASKED, info_mask="use")
    mask = adapter.reset([1, 2, 3]).observation[ACTION_MASK]
    assert (mask.dtype.name, mask.tolist()) == ("bool", both.astype(bool).tolist())
    env.infos[f"_{ACTION_MASK}"] = flags(0, 2)
    with pytest.raises(EnvironmentFaultError, match="'written': infos of slot 1 have no action_mask"):
        adapter.step(ACTIONS)
    for field in ("terminated", "truncated"):
        env.answer[field] = flags(1)
        mask = adapter.step(ACTIONS).observation[ACTION_MASK]
        assert mask.tolist() == [[True, False, True, True], [True] * 4, [True] * 4]
        env.answer[field] = flags()
        del env.infos[f"_{ACTION_MASK}"]
        adapter.step(ACTIONS)
        env.infos[f"_{ACTION_MASK}"] = flags(0, 2)
    env.infos = {}
    with pytest.raises(EnvironmentFaultError, match="infos of slot 0 have no action_mask"):
        adapter.step(ACTIONS)
    env.infos = {ACTION_MASK: [[1, 1, 1, 1], [1, 2, 1, 1], [1, 1, 1, 1]]}
    with pytest.raises(EnvironmentFaultError, match="action_mask of slot 1 must be 4 times 0 or 1, got"):
        adapter.step(ACTIONS)
    env.infos = {ACTION_MASK: [[1.0, 0.0, 1.0, 1.0], [1, 1, 1, 1], [1, 1, 1]]}
    with pytest.raises(EnvironmentFaultError, match="action_mask of slot 2 must be 4 times 0 or 1"):
        adapter.step(ACTIONS)


def test_who_is_to_act_has_a_choice() -> None:
    """After an end there is nothing to choose."""
    env = Written()
    env.infos = {ACTION_MASK: np.ones((3, 4), int)}
    adapter = slots(env, MASKED, info_mask="use")
    adapter.reset([1, 2, 3])
    env.infos[ACTION_MASK][1] = 0
    for field in ("terminated", "truncated"):
        env.answer[field] = flags(1)
        adapter.step(ACTIONS)
        env.answer[field] = flags()
    with pytest.raises(EnvironmentFaultError, match="'written': no action is allowed in slot 1"):
        adapter.step(ACTIONS)


def test_numbers_are_reshaped_as_the_space_has_them() -> None:
    env = Written(spaces.Box(-2, 2, (2, 1), np.float32))
    action = ActionSpec(kind="continuous", low=(-2.0, -2.0), high=(2.0, 2.0))
    adapter = slots(env, SPEC.model_copy(update={"action": action}))
    adapter.reset([1, 2, 3])
    adapter.step(np.array([[-1.0, 0.5], [0.0, 0.0], [1.0, 7.0]], np.float32))
    assert env.asked[-1].tolist() == [[[-2], [1]], [[0], [0]], [[2], [2]]]


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (None, "renders no picture; build it with render_mode='rgb_array'"),
        ((), "renders no picture"),
        (("text",), "renders no picture"),
        (NotImplementedError(), "renders no picture"),
        (ModuleNotFoundError("No module named 'brush'", name="brush"), "can't be drawn: .*install the package that"),
        (gymnasium.error.DependencyNotInstalled("pip install brush"), "can't be drawn: pip install brush"),
    ],
)
def test_what_is_no_picture(drawn: Any, message: str) -> None:
    env = Written()

    def render() -> Any:
        if isinstance(drawn, Exception):
            raise drawn
        return drawn

    env.render = render  # type: ignore[method-assign]
    with pytest.raises(UserError, match=f"environment 'written' {message}"):
        slots(env).render()


def test_pictures_are_those_of_slot_0() -> None:
    env = Written()
    pictures = tuple(np.full((4, 5, 3), shade, np.uint8) for shade in (10, 20, 30))
    for drawn in (pictures, np.stack(pictures)):
        env.render = lambda drawn=drawn: drawn  # type: ignore[method-assign,misc]
        assert np.array_equal(slots(env).render(), pictures[0])

    def fails() -> Any:
        raise OSError("the brush broke")

    env.render = fails  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFaultError, match=r"'written': render raised .*the brush broke"):
        slots(env).render()
