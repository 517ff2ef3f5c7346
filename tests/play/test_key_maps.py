"""Which keys stand for which actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from machina.actions import native_actions
from machina.envs.atari import action_names, minimal_num_actions
from machina.envs.builders import describe, parse_environment
from machina.errors import UserError
from machina.play.key_maps import Keys, default_keys, load_keys
from machina.specs import ActionSpec, discrete


def of(environment: str) -> tuple[Keys, ActionSpec]:
    action = parse_environment(environment, describe(environment)()).spec.action
    return default_keys(environment, action), action


def chosen(keys: Keys, *pressed: str) -> int | None:
    action = keys.action(set(pressed))
    return None if action is None else int(action[0])


@pytest.mark.parametrize(
    ("full", "pressed", "name"),
    [
        (True, (), "NOOP"),
        (True, ("space",), "FIRE"),
        (True, ("up",), "UP"),
        (True, ("left", "down"), "DOWNLEFT"),
        (True, ("space", "right", "up"), "UPRIGHTFIRE"),
        (True, ("x", "left"), "LEFT"),
        (False, ("space", "right", "up"), "RIGHTFIRE"),  # what pong has of it
        (False, ("up",), "NOOP"),
        (False, ("left",), "LEFT"),
    ],
)
def test_atari_goes_by_the_meanings_of_its_actions(full: bool, pressed: tuple[str, ...], name: str) -> None:
    names = action_names("pong", full=full)
    assert len(names) == (18 if full else minimal_num_actions("pong"))
    keys = default_keys("pong", discrete(len(names)), names)
    action = chosen(keys, *pressed)
    assert action is not None
    assert names[action] == name


def test_gymnasium_s_own_environments() -> None:
    cart_pole, _ = of("CartPole-v1")
    assert [chosen(cart_pole), chosen(cart_pole, "left"), chosen(cart_pole), chosen(cart_pole, "right")] == [
        None,
        0,
        0,
        1,
    ]
    assert chosen(cart_pole) == 1  # the last one again
    cart_pole.begin()
    assert chosen(cart_pole) is None
    car, _ = of("MountainCar-v0")
    assert [chosen(car, "left"), chosen(car), chosen(car, "right"), chosen(car, "up")] == [0, 1, 2, 1]
    cards, _ = of("Blackjack-v1")
    assert [chosen(cards), chosen(cards, "1"), chosen(cards)] == [None, 1, None]
    pendulum, spec = of("Pendulum-v1")
    for pressed, torque in (({"left"}, -2.0), (set[str](), 0.0), ({"right"}, 2.0)):
        action = pendulum.action(pressed)
        assert action is not None
        np.testing.assert_array_equal(native_actions(spec, action), [[torque]])


def test_an_environment_without_an_obvious_map_needs_a_file() -> None:
    with pytest.raises(UserError, match=r"no keys are known for the actions of 'Walker'; name a file with --keys"):
        default_keys("Walker", ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0)))


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: {a: [0, 4], b: [2, -4], a+b: [1, 0]}\nidle: [1, 4]\n")
    spec = ActionSpec(kind="continuous", low=(0.0, -4.0), high=(2.0, 4.0))
    keys = load_keys(file, spec)
    assert keys.names == {"a", "b"}
    for pressed, native in ((set[str](), [1, 4]), ({"a"}, [0, 4]), ({"b", "c"}, [2, -4]), ({"a", "b"}, [1, 0])):
        action = keys.action(pressed)
        assert action is not None
        np.testing.assert_array_equal(native_actions(spec, action), [native])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys: {left: 2}", r"keys '.*': left: 2 is no action of the environment: action 2 is none of 2 choices"),
        (
            "keys: {left: [0, 1]}",
            r"left: \(0, 1\) is no action of the environment: actions are int64\[1, 2\], expected",
        ),
        ("keys: {left: 0.5}", r"left: 0.5 is no action of the environment: actions are float64, expected whole"),
        ("keys: {p: 0}", r"'p' in 'p' is a key of the window; choose another"),
        ("keys: {left+tab: 0}", r"'tab' in 'left\+tab' is a key of the window"),
        ("keys: {left: 0}\nidle: 7", r"idle: 7 is no action of the environment"),
        ("keys: {left: 0}\nidle: sometimes", r"idle.*: "),
        ("kez: {left: 0}", r"keys '.*': .*unknown key 'kez'"),
        ("keys: {left: 0, left: 1}", r"'left' appears twice"),
        ("- 1", r"must be a mapping"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_keys(file, discrete(2))
    assert "\n" not in str(caught.value)
