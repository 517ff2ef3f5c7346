"""The adapter of vector environments, answer by answer."""

from __future__ import annotations

import signal
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from written_env import ACTIONS, SLOTS, SPEC, Recoverable, Written, flags, slots

from machina.envs import workers
from machina.envs.slots import GymnasiumSlots
from machina.errors import EnvironmentFaultError, UserError
from machina.specs import ActionSpec, ArraySpec, discrete


def test_what_can_not_be_trained_on_is_refused() -> None:
    with pytest.raises(UserError, match=r"'written': autoreset mode is .*SAME_STEP, it must be AutoresetMode.NEXT"):
        slots(Written(mode=AutoresetMode.SAME_STEP))
    with pytest.raises(UserError, match=r"'written': 3 slots were built, 2 were asked for"):
        GymnasiumSlots(Written(), SPEC, [0, 1])
    continuous = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))
    several = ActionSpec(kind="multi_discrete", choices=(2, 3))
    fitting = [
        (discrete(4), spaces.Discrete(4)),
        (several, spaces.MultiDiscrete([2, 3])),
        (continuous, spaces.Box(-1, 1, (2,), np.float32)),
    ]
    with pytest.raises(UserError, match=r"MultiBinary\(2\) but the policy has"):
        slots(Written(spaces.MultiBinary(2)), SPEC.model_copy(update={"action": continuous}))
    for spec, _ in fitting:
        for _, space in fitting:
            env, described = Written(space), SPEC.model_copy(update={"action": spec})
            if (spec, space) in fitting:
                slots(env, described)
                continue
            with pytest.raises(UserError, match="but the policy has"):
                slots(env, described)


def test_an_entry_is_what_the_environment_answered() -> None:
    env = Written()
    adapter = slots(env)
    assert adapter.task_ids.tolist() == [0, 1, 0]
    assert adapter.waiting_for == "written"
    assert adapter.render_fps == 7
    assert adapter.stacks() == ""
    with pytest.raises(ValueError, match="reset comes before step"):
        adapter.step(ACTIONS)
    with pytest.raises(ValueError, match="3 slots need as many seeds, got 2"):
        adapter.reset([1, 2])
    env.observation[:] = [[1, 2], [3, 4], [5, 6]]
    entry = adapter.reset([1, 2, 3])
    assert entry.observation["observation"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert not (entry.terminated | entry.truncated | entry.life_lost).any()
    assert entry.on_turn.all()
    assert entry.reward.tolist() == [0, 0, 0]
    assert entry.reward.dtype == np.float32
    env.answer = {"reward": [1.5, -2.0, 4.0], "terminated": flags(1), "truncated": flags(2)}
    entry = adapter.step(ACTIONS)
    assert env.asked[-1].tolist() == [0, 3, 1]
    assert entry.reward.tolist() == [1.5, -2.0, 4.0]
    assert entry.terminated.tolist() == [False, True, False]
    assert entry.truncated.tolist() == [False, False, True]
    env.answer = {"reward": [1.0, 1.0, 1.0], "terminated": flags(), "truncated": flags()}
    assert adapter.step(ACTIONS).reward.tolist() == [1, 0, 0], "a reset step's reward belongs to no episode"
    assert adapter.step(ACTIONS).reward.tolist() == [1, 1, 1]


@pytest.mark.parametrize("fresh", [False, True])
def test_observations_are_copied_where_the_environment_writes_over_them(fresh: bool) -> None:
    env: Written = Recoverable() if fresh else Written()
    adapter = slots(env)
    entry = adapter.reset([1, 2, 3])
    env.observation += 1
    assert entry.observation["observation"].any() == fresh
    behind = slots(VectorWrapper(env)).reset([1, 2, 3])
    env.observation += 1
    assert (behind.observation["observation"] == env.observation - 1).all(), "a wrapper may keep its arrays"


def test_seeds_are_one_for_each_slot_or_one_for_all() -> None:
    plain, own = Written(), Recoverable()
    one = slots(plain)
    for seeds in ([1, 2, 3], [1, 2, 4], [2**40, 2, 3]):
        one.reset(seeds)
    assert plain.asked[0] == int(np.random.SeedSequence([1, 2, 3]).generate_state(1)[0])
    assert len(set(plain.asked)) == 3
    slots(own).reset([1, 2**40, 3])
    assert own.asked == [[1, 2**40, 3]]
    observation = {"observation": ArraySpec(shape=(4,), dtype="float32")}
    cartpole = SPEC.model_copy(update={"action": discrete(2), "observation": observation})
    adapter = GymnasiumSlots(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2), cartpole, [0, 0])
    first = adapter.reset([5, 6]).observation["observation"]
    second = adapter.reset([6, 5]).observation["observation"]
    assert np.array_equal(first, second[::-1])
    assert not np.array_equal(first, second)
    adapter.close()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_lost_life_ends_the_return_in_its_own_step() -> None:
    """Neither at the end of an episode, nor where the next one opens with fewer lives, nor where one is gained."""
    env = Written()
    adapter = slots(env, life_losses=True)
    env.infos = {"lives": np.array([3, 3, 3])}
    assert not adapter.reset([1, 2, 3]).life_lost.any()
    lives = [[3, 2, 3], [3, 2, 2], [4, 2, 1], [3, 1, 0], [3, 0, 0]]
    ends = [(), (2,), (), (1,), ()]
    lost = [(1,), (), (), (0, 2), ()]
    for now, end, expected in zip(lives, ends, lost, strict=True):
        env.infos, env.answer["terminated"] = {"lives": np.array(now)}, flags(*end)
        assert adapter.step(ACTIONS).life_lost.tolist() == flags(*expected).tolist()
    env.infos = {"lives": np.array([3, np.nan, 3])}
    with pytest.raises(EnvironmentFaultError, match=r"'written': lives of slot 1 \(task 'two'\) is not finite"):
        adapter.step(ACTIONS)
    env.infos = {}
    with pytest.raises(EnvironmentFaultError, match=r"'written': infos have no 'lives'; let the wrapper keep them"):
        adapter.step(ACTIONS)
    env.infos = {"lives": np.array([1, 1, 1])}
    assert not adapter.reset([1, 2, 3]).life_lost.any(), "an episode that opens with fewer"
    without = slots(Written())
    without.reset([1, 2, 3])
    assert not without.step(ACTIONS).life_lost.any()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reward", [0.0, np.nan, 0.0], r"reward of slot 1 \(task 'two'\) is not finite"),
        ("reward", [0.0, 0.0, 1e39], r"reward of slot 2 \(task 'one'\) is not finite"),
        ("reward", [0.0, 0.0], r"reward has shape \(2,\), it must be \(3,\) \(3 slots\)"),
        ("terminated", np.zeros((3, 1), bool), r"terminated has shape \(3, 1\), it must be \(3,\)"),
        ("truncated", np.zeros(4, bool), r"truncated has shape \(4,\), it must be \(3,\)"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # of numpy's casts
def test_what_is_no_answer_is_a_fault(field: str, value: Any, message: str) -> None:
    env = Written()
    adapter = slots(env)
    adapter.reset([1, 2, 3])
    env.answer[field] = value
    with pytest.raises(EnvironmentFaultError, match=f"^environment 'written': {message}"):
        adapter.step(ACTIONS)


def test_an_observation_is_what_the_space_declares() -> None:
    """Numbers that the declared dtype can't hold are no observation, though they can be cast."""
    env = Written()
    adapter = slots(env)
    adapter.reset([1, 2, 3])
    env.observation = np.full((SLOTS, 2), "7")
    with pytest.raises(EnvironmentFaultError, match=r"^environment 'written': observation is not an array of numbers"):
        adapter.step(ACTIONS)


def test_an_observation_that_is_not_finite_names_slot_and_task() -> None:
    env = Written()
    adapter = slots(env)
    adapter.reset([1, 2, 3])
    env.observation[1, 1] = np.inf
    with pytest.raises(EnvironmentFaultError, match=r"observation of slot 1 \(task 'two'\) is not finite"):
        adapter.step(ACTIONS)


def test_what_the_environment_raises_names_the_call_and_what_was_waited_for() -> None:
    env = Recoverable()
    env.waiting_for = "the second part"
    adapter = slots(env)
    assert adapter.waiting_for == "the second part"
    env.reset = lambda **_: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(EnvironmentFaultError, match=r"'the second part': reset raised .*division by zero"):
        adapter.reset([1, 2, 3])
    env = Recoverable()
    adapter = slots(env)
    adapter.reset([1, 2, 3])
    env.step = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
    env.recover = lambda: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(EnvironmentFaultError, match="'written': step raised"):
        adapter.step(ACTIONS)
    with pytest.raises(EnvironmentFaultError, match="'written': recover raised"):
        adapter.recover()
    own = EnvironmentFaultError("said by itself")

    def fails(_: Any) -> None:
        raise own

    env.step = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(EnvironmentFaultError, match=r"^said by itself$"):
        adapter.step(ACTIONS)


def test_recovery_is_a_step_of_its_own() -> None:
    """The environment's answer, as to a step; None without one, and behind a wrapper, which may hold state."""
    env = Recoverable()
    adapter = slots(env)
    assert adapter.recover() is None, "nothing was begun"
    adapter.reset([1, 2, 3])
    env.answer = {"reward": np.ones(3), "terminated": flags(), "truncated": flags(0)}
    adapter.step(ACTIONS)
    assert adapter.recover() is None, "nothing to replace"
    env.answer["recovered"] = (env.observation + 2, np.ones(3), flags(1), flags(2), {})
    entry = adapter.recover()
    assert entry is not None
    assert entry.observation["observation"].tolist() == [[2, 2]] * 3
    assert entry.reward.tolist() == [0, 1, 1], "slot 0 was due for a reset"
    assert np.array_equal([entry.terminated, entry.truncated], [flags(1), flags(2)])
    del env.answer["recovered"]
    assert adapter.step(ACTIONS).reward.tolist() == [1, 0, 0], "what was recovered is the present entry"
    env.answer["recovered"] = ()
    for other in (slots(Written()), slots(VectorWrapper(env))):
        other.reset([1, 2, 3])
        assert other.recover() is None


def test_a_state_comes_back_whole() -> None:
    env = Recoverable()
    adapter = slots(env, life_losses=True)
    assert adapter.get_state() is None, "nothing was begun"
    env.infos = {"lives": np.array([3, 3, 3])}
    adapter.reset([1, 2, 3])
    env.infos = {"lives": np.array([3, 2, 3])}
    env.answer = {"reward": np.array([1.0, 2.0, 3.0]), "terminated": flags(0), "truncated": flags()}
    entry = adapter.step(ACTIONS)
    state = adapter.get_state()
    assert state is not None
    assert state["env/level"].tolist() == [7]
    other = Recoverable()
    again = slots(other, life_losses=True)
    back = again.set_state(state)
    assert other.asked[-1]["level"].tolist() == [7]
    for field, value in entry._asdict().items():
        if field != "observation":
            assert np.array_equal(getattr(back, field), value), field
    assert np.array_equal(back.observation["observation"], entry.observation["observation"])
    other.infos, other.answer["terminated"] = {"lives": np.array([2, 2, 2])}, flags()
    entry = again.step(ACTIONS)
    assert entry.life_lost.tolist() == [False, False, True], "slot 0 opens an episode, slot 1 lost its life before"
    state["lives"][:] = 9
    assert again.step(ACTIONS).life_lost.tolist() == [False] * 3
    assert slots(Written()).get_state() is None
    wrapped = slots(VectorWrapper(env), life_losses=True)
    wrapped.reset([1, 2, 3])
    assert wrapped.get_state() is None


@pytest.mark.parametrize("life_losses", [False, True])
def test_lives_are_saved_as_whole_numbers(life_losses: bool) -> None:
    env = Recoverable()
    env.infos = {"lives": np.array([3.0, 2.0, 0.0])}
    adapter = slots(env, life_losses=life_losses)
    adapter.reset([1, 2, 3])
    state = adapter.get_state()
    assert state is not None
    assert (state["lives"].dtype.name, state["lives"].tolist()) == ("int64", [3, 2, 0] if life_losses else [0, 0, 0])


def test_what_never_hangs_is_arithmetic_without_a_user_s_wrapper() -> None:
    class Sums(Written):
        never_hangs = True

    cartpole: Any = gymnasium.make_vec("CartPole-v1", SLOTS, vectorization_mode="vector_entry_point")
    observation = {"observation": ArraySpec(shape=(4,), dtype="float32")}
    balanced = SPEC.model_copy(update={"action": discrete(2), "observation": observation})
    assert [slots(env).never_hangs for env in (Written(), Sums(), VectorWrapper(Sums()))] == [False, True, False]
    cartpole.metadata = cartpole.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}
    assert slots(cartpole, balanced).never_hangs


def test_closing() -> None:
    plain, at_once = Written(), Recoverable()
    for env in (plain, VectorWrapper(plain), at_once, VectorWrapper(at_once)):
        slots(env).close()
    assert plain.asked == ["close"]
    assert at_once.asked[:2] == ["close at once", "close"]


class Slow(gymnasium.Env[Any, Any]):
    observation_space, action_space = spaces.Box(-100, 100, (2,), np.float32), spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:  # noqa: ARG002
        time.sleep(4)
        return np.zeros(2, np.float32), 0.0, False, False, {}


def test_workers_of_gymnasium_s_own_are_ended_in_the_middle_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "STEP_TIMEOUT_S", 0.1)
    env = AsyncVectorEnv([Slow, Slow, Slow], autoreset_mode=AutoresetMode.NEXT_STEP)
    adapter = slots(env)
    adapter.reset([1, 2, 3])
    env.step_async(ACTIONS)
    adapter.close()
    assert [process.exitcode for process in env.processes] == [-signal.SIGKILL] * 3
