"""Whole runs on environments whose observations are of every kind, and the remedies that refusals name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import SMALL, content
from seen_tasks import Doors, Room, doors

import machina
from machina.checkpoint import load_checkpoint
from machina.envs.builders import ENVIRONMENTS, parse_environment, register_environment
from machina.envs.config import GymnasiumConfig
from machina.errors import EnvironmentFaultError, UserError
from machina.jobs.eval import evaluate_run

QUICK: dict[str, Any] = {**SMALL, "processes": False, "envs_per_task": 4}
DROPPED = ("mission", "more/pair/1")
KERNELS: dict[str, Any] = {"filters": (4, 8), "kernels": (6, 3), "strides": (4, 2)}

LEARNING: dict[str, Any] = {
    "learning_rate": 5e-3,
    "learning_rate_final": 5e-3,
    "gamma": 0.5,
    "envs_per_task": 16,
    "unroll_length": 16,
    "batch_size": None,
}


def train(environment: str, folder: Path, algorithm: str = "impala", **options: Any) -> Path:
    name = f"seen_tasks:{environment}-v0"
    return machina.train(
        algorithm, name, runs_dir=folder, name=environment, **{**QUICK, "total_frames": 400, **options}
    ).path


def test_a_room_is_seen_without_its_texts(tmp_path: Path) -> None:
    """In worker processes, which can't carry such texts at all; and afterwards from the environment itself."""
    run = train("Room", tmp_path, processes=True, envs_per_task=2, drop_keys=DROPPED, lstm_size=8)
    assert len(evaluate_run(run, 2).episodes["seen_tasks:Room-v0"]) == 2
    policy = machina.load_policy(run)
    room = Room()
    observation, _ = room.reset(seed=0)
    for _ in range(3):
        observation, *_ = room.step(policy.act(observation))
    with pytest.raises(UserError, match="'direction' is 9, not one of 4 choices from 1 on; the policy needs direc"):
        policy.act({**observation, "direction": 9})
    del observation["more"]
    with pytest.raises(UserError, match="observation 'more/pair/0' is missing, there is image, direction, mission"):
        policy.act(observation)


def test_what_a_policy_was_trained_on_decides_what_it_does(tmp_path: Path) -> None:
    """The direction alone shows the answer: one-hot it is learned at once."""
    run = train("Room", tmp_path, "ppo", **LEARNING, total_frames=8_000, drop_keys=(*DROPPED, "image"))
    assert evaluate_run(run, 10).score > 7


def test_pictures_in_a_dictionary_are_learned_from(tmp_path: Path) -> None:
    """A quarter is right by chance, 2 of 8."""
    run = train("SpotDict", tmp_path, "ppo", **{**KERNELS, **LEARNING, "total_frames": 5_000})
    assert evaluate_run(run, 10).score > 4


def test_stacks_of_pictures_are_convolved(tmp_path: Path) -> None:
    run = train("SpotStack", tmp_path, **KERNELS)
    names = load_checkpoint(max((run / "checkpoints").iterdir())).tensors["model"]
    assert names["encoder.torso.0.weight"].shape == (4, 2 * 3, 6, 6)


def test_bytes_are_read_as_the_same_numbers_of_another_dtype(tmp_path: Path) -> None:
    runs = [train(name, tmp_path) for name in ("CellsBytes", "CellsInts")]
    last = [max((run / "checkpoints").iterdir()) for run in runs]
    tensors, others = (content(checkpoint)[0] for checkpoint in last)
    model = [name for name in tensors if name.startswith("model/")]
    assert len(model) > 5
    assert all(np.array_equal(tensors[name], others[name]) for name in model)


@pytest.mark.parametrize("environment", ["DoorsObservation", "DoorsInfos", "DoorsUnfinished"])
@pytest.mark.parametrize("processes", [False, True])
def test_masks_hold_wherever_they_are(environment: str, processes: bool, tmp_path: Path) -> None:
    """Nothing but the mask shows the open door."""
    use = {} if environment == "DoorsObservation" else {"info_mask": "use"}
    run = train(environment, tmp_path, processes=processes, envs_per_task=2, **use)
    assert evaluate_run(run, 3).score == 8
    mask = np.arange(4) == 3
    key = "seen" if environment == "DoorsObservation" else "observation"
    assert machina.load_policy(run).act({key: np.zeros(3, np.float32), "action_mask": mask}) == 3


def refused(environment: str, folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        train(environment, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert list(folder.iterdir()) == [], "the name stays free for the corrected command"
    return message


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_mask_in_infos_is_refused_and_both_remedies_work(place: str, tmp_path: Path) -> None:
    message = refused("DoorsInfos", tmp_path, place=place)
    assert re.fullmatch(
        r".*gives an action_mask in its infos; add --info-mask use for .*, or --info-mask ignore", message
    )
    for choice in ("use", "ignore"):
        assert train("DoorsInfos", tmp_path / choice, info_mask=choice).exists()
    assert evaluate_run(tmp_path / "ignore" / "DoorsInfos", 8).score < 6


def test_a_registered_environment_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machina.envs.builders.ENVIRONMENTS", dict(ENVIRONMENTS))
    register_environment("doors", doors)
    env = parse_environment("doors", GymnasiumConfig.__base__()).make([0])  # type: ignore[misc]
    with pytest.raises(UserError, match="'doors': gives an action_mask in its infos; put it into the observation"):
        env.reset([0])
    env.close()


def test_a_mask_that_can_not_be_used_is_refused() -> None:
    def build(environment: str) -> None:
        parse_environment(environment, GymnasiumConfig(info_mask="use"))

    with pytest.raises(UserError, match="info_mask=use needs discrete actions; leave it out"):
        build("Pendulum-v1")
    with pytest.raises(UserError, match="info_mask=use, but action_mask is observed already; leave it out"):
        build("seen_tasks:DoorsObservation-v0")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "infos of slot 0 have no action_mask"),
        (np.ones(3), r"action_mask of slot 0 must be 4 times 0 or 1, got \[1. 1. 1.\]"),
        (np.full(4, 0.5), "action_mask of slot 0 must be 4 times 0 or 1"),
    ],
)
def test_masks_in_infos_are_checked(mask: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = parse_environment("seen_tasks:DoorsInfos-v0", GymnasiumConfig(info_mask="use", processes=False)).make([0, 0])
    entry = env.reset([0, 1])
    assert entry.observation["action_mask"].sum(axis=1).tolist() == [1, 1]
    monkeypatch.setattr(Doors, "infos", lambda _: {} if mask is None else {"action_mask": mask})
    with pytest.raises(EnvironmentFaultError, match=message):
        env.step(np.zeros(2, np.int64))
    env.close()


def test_refusals_of_observations_name_remedies_that_work(tmp_path: Path) -> None:
    dropped: list[str] = []
    for _ in range(2):
        message = refused("Room", tmp_path, drop_keys=tuple(dropped))
        remedy = re.search(r"leave it out \(--drop-keys (\S+)\)", message)
        assert remedy is not None
        dropped.append(remedy[1])
    assert sorted(dropped) == sorted(DROPPED)
    assert train("Room", tmp_path, drop_keys=tuple(dropped)).exists()


def test_keys_that_can_not_be_dropped_are_named(tmp_path: Path) -> None:
    assert "did you mean 'mission'?" in refused("Room", tmp_path, drop_keys=("misson",))
    assert "more/pair/2" in refused("Room", tmp_path, drop_keys=("more/pair/2",))
    everything = refused("Room", tmp_path, drop_keys=("image", "direction", "mission", "more"))
    assert "holds nothing to see" in everything
    assert "drop_keys=image: the observation has no parts" in refused("CellsInts", tmp_path, drop_keys=("image",))


def test_a_wrapper_makes_readable_what_is_not(tmp_path: Path) -> None:
    """The remedy of every space, of observations and of actions, that nothing simpler helps."""
    assert refused("Spoken", tmp_path).endswith("turn it into one with a wrapper (--wrapper module:function)")
    run = train("Spoken", tmp_path, "ppo", **LEARNING, total_frames=8_000, wrapper="seen_tasks:understood")
    assert evaluate_run(run, 10).score > 6
    (tmp_path / "half").mkdir()
    message = refused("Spoken", tmp_path / "half", wrapper="seen_tasks:heard")
    assert re.search(r"action space Discrete\(4, start=1\) .*; turn it into one with a wrapper \(--wrapper ", message)


@pytest.mark.parametrize(
    ("environment", "option", "value", "remedy"),
    [
        ("seen_tasks:SpotDict-v0", "kernels", (40, 4), "choose smaller kernels or --torso mlp"),
        ("seen_tasks:BoardFirst-v0", "torso", "shallow", "choose smaller kernels or --torso mlp"),
        ("CartPole-v1", "torso", "deep", "choose --torso mlp"),
        ("CartPole-v1", "torso", "units", "choose --torso mlp"),
        ("seen_tasks:CellsInts-v0", "observation_filter", True, "leave it off"),
        ("CartPole-v1", "action_bins", 3, "leave it out"),
        ("CartPole-v1", "info_mask", "use", "leave it out"),
    ],
)
def test_options_that_do_not_suit_an_environment(
    environment: str, option: str, value: Any, remedy: str, tmp_path: Path
) -> None:
    """Each remedy is tried."""

    def run(**options: Any) -> None:
        machina.train("impala", environment, runs_dir=tmp_path, name="run", **{**QUICK, "total_frames": 40, **options})

    kernels = {"filters": (4, 4), "strides": (1, 1), "torso": "shallow"} if option == "kernels" else {}
    with pytest.raises(UserError, match=remedy) as caught:
        run(**{option: value}, **kernels)
    assert "\n" not in str(caught.value)
    run(**({"torso": "mlp"} if "--torso mlp" in remedy else {}))
