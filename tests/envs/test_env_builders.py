"""Names, wrappers and registered environments: what is built and what is refused."""

import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import user_tasks

from machina.config import EnvConfig
from machina.envs import builders
from machina.envs.builders import describe, parse_environment, register_environment
from machina.envs.config import AtariConfig, GymnasiumConfig, ToyConfig
from machina.envs.slots import AnyVectorEnv
from machina.errors import EnvironmentFaultError, UserError
from machina.plugins import load_function
from machina.specs import ArraySpec


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_environment(name, describe(name)())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_describe_needs_no_environment_library() -> None:
    names = ["atari57", "pong", "pong,breakout", "catch", "CartPole-v1", "user_tasks:Corridor-v0"]
    code = (
        "import sys; from machina.envs.builders import describe\n"
        f"print([describe(name).__name__ for name in {names}])\n"
        "print([name for name in ('torch', 'ale_py', 'gymnasium') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    classes = ["AtariConfig"] * 3 + ["ToyConfig"] + ["GymnasiumConfig"] * 2
    assert answer.splitlines() == [str(classes), "[]"]


def test_refusals_of_names() -> None:
    assert refused("pomg") == "unknown environment 'pomg'; did you mean 'pong'?"
    assert "'breakout'" in refused("pong,breakuot")
    assert refused("pong,breakout,pong") == "environment 'pong,breakout,pong': pong given more than once"
    assert "'CartPole-v1'" in refused("CartPole")
    assert "'CartPole-v1'" in refused("CartPol-v1")
    assert "'two_scales'" in refused("twoscales")
    assert "module 'no_such_module' can't be imported" in refused("no_such_module:Env-v0")
    assert "'Corridor-v0'" in refused("user_tasks:Coridor-v0")
    with pytest.raises(UserError, match="'pong' takes AtariConfig, got ToyConfig"):
        parse_environment("pong", ToyConfig())
    assert "KeyError: 'LICENCE'" in refused("user_tasks:NeedsKey-v0")


def test_what_a_module_lacks_is_named_with_its_own_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_tasks.py").write_text("import no_such_simulator.core\n")
    (tmp_path / "dated_tasks.py").write_text("from gymnasium import Monitor\n")
    (tmp_path / "quitting_tasks.py").write_text("import sys\nsys.exit('no licence')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    line = refused("needy_tasks:Env-v0")
    assert line.endswith("(No module named 'no_such_simulator'); install the package that holds 'no_such_simulator'")
    assert "module 'dated_tasks' raised ImportError: cannot import name 'Monitor'" in refused("dated_tasks:Env-v0")
    assert "module 'quitting_tasks' raised SystemExit: no licence" in refused("quitting_tasks:Env-v0")
    assert refused("no_such_package.tasks:Env-v0").endswith("install it or run in the folder that holds it")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ALE/Pong-v5", "'pong'"),
        ("Pong", "'pong'"),
        ("PongNoFrameskip-v4", "'pong'"),
        ("PongDeterministic-v0", "'pong'"),
        ("Pong-ramNoFrameskip-v4", "'pong'"),
        ("ale_py:ALE/Breakout-v5", "'breakout'"),
        ("ALE/MsPacman-v5", "'ms_pacman'"),
        ("montezumaRevenge", "'montezuma_revenge'"),
        ("PongNoFrameskip-v4,BreakoutNoFrameskip-v4", "'pong,breakout'"),
        ("Connect-Four", "'connect_four'"),
        ("HalfCheetah", "'HalfCheetah-v5'"),
        ("cartpole", "'CartPole-v1'"),
        ("CartPole-v7", "'CartPole-v1'"),
        ("no_such_module_of_ours:Pong-v0", None),
    ],
)
def test_names_of_other_places_lead_to_ours(name: str, hint: str | None) -> None:
    message = refused(name)
    assert message.endswith(f"; did you mean {hint}?" if hint else "install it or run in the folder that holds it")


def test_single_choices_are_seen_one_hot() -> None:
    factory = parse_environment("FrozenLake-v1", GymnasiumConfig(processes=False))
    env = factory.make([0, 0])
    assert env.reset([1, 2]).observation["observation"].tolist() == [[True] + 15 * [False]] * 2
    env.close()


def test_atari_specs() -> None:
    spec = parse_environment("atari57", AtariConfig()).spec
    assert spec.num_tasks == 57
    assert spec.action.choices == (18,)
    assert spec.observation == {"observation": ArraySpec(shape=(4, 84, 84), dtype="uint8")}
    assert spec.stores_frames_once
    assert spec.frames_per_step == 4
    assert spec.protocol == {
        "action_set": "full",
        "sticky_actions": 0.0,
        "noop_frames": "0 to 30",
        "fire_reset": False,
        "life_loss_ends_return": True,
        "frame_cap": 108_000,
        "frame_skip": 4,
        "max_pool": True,
        "frame_stack": 4,
    }
    assert parse_environment("pong", AtariConfig()).spec.action.choices == (6,)
    assert parse_environment("pong", AtariConfig(full_action_space=True)).spec.action.choices == (18,)
    assert parse_environment("tetris", AtariConfig()).spec.tasks == ("tetris",), "ROMs beyond the 57 work too"
    with pytest.raises(UserError, match="several games share all 18 actions"):
        parse_environment("pong,breakout", AtariConfig(full_action_space=False))


def test_wrapper_changes_rewards_on_any_environment() -> None:
    factory = parse_environment("catch", ToyConfig(), "user_tasks:halved")
    assert factory.spec.protocol == {"wrapper": "user_tasks:halved"}
    env = pickle.loads(pickle.dumps(factory)).make([0, 0])
    env.reset([0, 1])
    for _ in range(9):
        entry = env.step(np.ones(2, np.int64))
    assert entry.terminated.all()
    assert set(np.abs(entry.reward)) == {0.5}
    assert env.get_state() is None, "a wrapper may hold state that can't be saved"
    assert env.recover() is None


def test_a_reset_step_has_no_reward_whatever_the_wrapper_does() -> None:
    env = parse_environment("counting", ToyConfig(), "user_tasks:shifted").make([0, 0])
    assert env.reset([0, 1]).reward.tolist() == [0, 0]
    rewards = [env.step(np.zeros(2, np.int64)).reward.tolist() for _ in range(6)]
    # Episodes of 3 and of 4 steps; the step after each is a reset step.
    assert rewards == [[0, 0], [1, 1], [2, 2], [0, 3], [0, 0], [1, 0]]


def test_wrapper_of_pixels_stores_whole_stacks() -> None:
    plain = parse_environment("pong", AtariConfig(noop_max=0)).make([0])
    factory = parse_environment("pong", AtariConfig(noop_max=0), "user_tasks:inverted")
    assert factory.spec.frame_stack == 1
    assert factory.spec.frames_per_step == 4
    assert factory.spec.stored_observation == {"observation": ArraySpec(shape=(4, 84, 84), dtype="uint8")}
    env = factory.make([0])
    seen, expected = env.reset([3]), plain.reset([3])
    assert np.array_equal(seen.observation["observation"], 255 - expected.observation["observation"])
    env.close()
    plain.close()


def test_wrapper_may_give_a_dict() -> None:
    factory = parse_environment("catch", ToyConfig(), "user_tasks:named")
    assert list(factory.spec.observation) == ["first", "second"]
    observation = factory.make([0]).reset([0]).observation
    assert np.array_equal(observation["second"], 2 * observation["first"])


def test_refusals_of_wrappers() -> None:
    with pytest.raises(UserError, match="must be module:function"):
        load_function("halved", "wrapper")
    with pytest.raises(UserError, match="module 'no_such_module' can't be imported"):
        load_function("no_such_module:halved", "wrapper")
    with pytest.raises(UserError, match="has no function 'halfed'; did you mean 'halved'"):
        load_function("user_tasks:halfed", "wrapper")
    with pytest.raises(UserError, match=r"must return a gymnasium\.vector\.VectorEnv, got NoneType"):
        parse_environment("catch", ToyConfig(), "user_tasks:forgets_to_return")
    with pytest.raises(UserError) as caught:
        parse_environment("catch", ToyConfig(), "user_tasks:fails")
    line = inspect.getsourcelines(user_tasks.fails)[1] + 1
    reason = f"AttributeError: 'ToyEnv' object has no attribute 'seasons' ({user_tasks.__file__}:{line})"
    assert str(caught.value) == f"wrapper 'user_tasks:fails' raised {reason}"


@pytest.fixture
def _registered() -> Iterator[None]:
    register_environment("corridors", user_tasks.corridors)
    register_environment("same_step", user_tasks.same_step_corridors)
    yield
    builders.ENVIRONMENTS.clear()


@pytest.mark.usefixtures("_registered")
def test_registered_environments() -> None:
    factory = parse_environment("corridors", describe("corridors")())
    assert describe("corridors") is EnvConfig
    env = pickle.loads(pickle.dumps(factory)).make([0, 0, 0])
    assert env.reset([1, 2, 3]).observation["observation"].shape == (3, 2)
    with pytest.raises(UserError, match="is taken"):
        register_environment("catch", user_tasks.corridors)
    with pytest.raises(UserError, match="renders no picture"):
        factory.make_for_video(0).render()
    with pytest.raises(UserError, match=r"autoreset mode is AutoresetMode\.SAME_STEP, it must be"):
        parse_environment("same_step", EnvConfig()).make([0])


@pytest.mark.usefixtures("_registered")
def test_a_registered_function_that_fails_for_several_slots_is_refused() -> None:
    def only_one(num_envs: int) -> AnyVectorEnv:
        if num_envs > 1:
            raise ValueError("one slot only")
        return user_tasks.corridors(num_envs)

    register_environment("only_one", only_one)
    with pytest.raises(UserError, match="environment 'only_one' can't be built: ValueError: one slot only"):
        parse_environment("only_one", EnvConfig()).make([0, 0])


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("returned", [None, user_tasks.Corridor()])
def test_a_registered_function_that_returns_no_vector_environment_is_refused(returned: Any) -> None:
    register_environment("single", lambda _num_envs: returned)
    with pytest.raises(UserError, match=r"must be a gymnasium\.vector\.VectorEnv, got (NoneType|Corridor)$"):
        parse_environment("single", EnvConfig())


@pytest.mark.usefixtures("_registered")
def test_what_is_refused_is_closed() -> None:
    built: list[AnyVectorEnv] = []

    def always_two(_num_envs: int) -> AnyVectorEnv:
        built.append(user_tasks.corridors(2))
        return built[-1]

    register_environment("always_two", always_two)
    with pytest.raises(UserError, match="2 slots were built, 3 were asked for"):
        parse_environment("always_two", EnvConfig()).make([0, 0, 0])
    assert [env.closed for env in built] == [True, True]


def test_progress_counts_slots() -> None:
    counts: list[int] = []
    parse_environment("catch", ToyConfig()).make([0, 0], counts.append)
    parse_environment("CartPole-v1", GymnasiumConfig()).make([0] * 3, counts.append)
    env = parse_environment("pong,skiing", AtariConfig()).make([0, 1, 0], counts.append)
    assert counts == [2, 3, 2, 1]
    env.close()


def test_answers_of_a_wrong_shape_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_tasks.Halved, "rewards", lambda _self, reward: reward[:1])
    env = parse_environment("catch", ToyConfig(), "user_tasks:halved").make([0, 0])
    env.reset([0, 1])
    with pytest.raises(EnvironmentFaultError, match=r"'catch': reward has shape \(1,\), it must be \(2,\)"):
        env.step(np.ones(2, np.int64))
