"""A player's memory lasts from the first entry of an episode to its last, slot by slot."""

from __future__ import annotations

import numpy as np

from machina.memory import Memory
from machina.specs import ActionSpec, discrete
from machina.types import Array, CoreState, StepResult, single_agent_step

LEFT, RIGHT, NONE = 0, 1, -1


def entry(on_turn: str = "yyy", terminated: str = "nnn", truncated: str = "nnn") -> StepResult:
    """Of three slots, a letter each: y or n."""
    turn, end, cut = (np.array([letter == "y" for letter in letters]) for letters in (on_turn, terminated, truncated))
    reward = np.array([1, 2, 3], np.float32)
    return single_agent_step({"observation": reward[:, None]}, reward, end, cut, np.zeros(3, np.bool_))._replace(
        on_turn=turn
    )


def core(*numbers: float) -> CoreState:
    return (np.array(numbers, np.float32)[:, None],)


def test_it_begins_with_nothing() -> None:
    memory = Memory(discrete(2), 3, core(0, 0, 0))
    given = entry()
    inputs = memory.inputs(given, np.array([0, 1, 0]), np.array([0.1, 0.2, 0.3], np.float32), np.array([4, 5, 6]))
    assert inputs.observation is given.observation
    assert inputs.reward is given.reward
    assert inputs.previous_action.tolist() == [NONE] * 3
    assert inputs.first.tolist() == [True] * 3
    assert inputs.task_id.tolist() == [0, 1, 0]
    assert inputs.core_state[0].tolist() == [[0], [0], [0]]
    assert inputs.uniforms.tolist() == np.array([0.1, 0.2, 0.3], np.float32).tolist()
    assert inputs.slots.tolist() == [4, 5, 6]


def test_an_action_off_turn_is_none_of_its_own() -> None:
    memory = Memory(discrete(2), 3, core(0, 0, 0))
    kept = memory.keep(entry("yny"), np.array([LEFT, RIGHT, RIGHT]), core(1, 2, 3))
    assert kept.tolist() == memory.previous_action.tolist() == [LEFT, NONE, RIGHT]
    assert memory.core_state[0].tolist() == [[1], [2], [3]], "who waits sees and remembers"
    assert memory.first.tolist() == [False] * 3
    kept = memory.keep(entry("nyn"), np.array([RIGHT, LEFT, LEFT]), core(4, 5, 6))
    assert kept.tolist() == memory.previous_action.tolist() == [LEFT, LEFT, RIGHT]


def test_an_end_is_forgotten_in_its_slot_alone() -> None:
    memory = Memory(discrete(2), 3, core(0, 0, 0))
    kept = memory.keep(entry(terminated="ynn", truncated="nny"), np.array([RIGHT, LEFT, RIGHT]), core(1, 2, 3))
    assert kept.tolist() == [RIGHT, LEFT, RIGHT], "the unroll holds the last entry's action too"
    assert memory.previous_action.tolist() == [NONE, LEFT, NONE]
    assert memory.first.tolist() == [True, False, True]
    assert memory.core_state[0].tolist() == [[0], [2], [0]]


def test_actions_of_several_numbers() -> None:
    memory = Memory(ActionSpec(kind="continuous", low=(-1, -1), high=(1, 1)), 3, ())
    action = np.arange(6, dtype=np.float32).reshape(3, 2)
    memory.keep(entry("yny", "nny"), action, ())
    assert memory.previous_action.tolist() == [[0, 1], [0, 0], [0, 0]]
    assert memory.core_state == ()


def test_a_saved_memory_is_the_same() -> None:
    memory, again = (Memory(discrete(2), 3, core(0, 0, 0)) for _ in range(2))
    memory.keep(entry(truncated="nyn"), np.array([RIGHT, LEFT, LEFT]), core(1, 2, 3))
    saved: dict[str, Array] = {**memory.state(), "returns": np.zeros(3)}
    assert list(saved) == ["core_state/0", "previous_action", "first", "returns"]
    again.load_state(saved)
    for name, array in again.state().items():
        np.testing.assert_array_equal(array, saved[name])


def test_an_entry_of_some_slots() -> None:
    part = entry("yny", "nny").of(np.array([2, 1]))
    assert part.observation["observation"].tolist() == [[3], [2]]
    assert part.reward.tolist() == part.score.tolist() == part.team_reward.tolist() == [3, 2]
    assert part.on_turn.tolist() == [True, False]
    assert part.terminated.tolist() == [True, False]
