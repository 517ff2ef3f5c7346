"""``import machina``: what the commands do, from Python, and parts of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from own_parts import guesses, tiny
from runs import SMALL, last_checkpoint

import machina
from machina.algorithms.impala.builder import build
from machina.algorithms.impala.config import ImpalaConfig
from machina.envs.builders import ENVIRONMENTS, parse_environment
from machina.envs.config import GameConfig
from machina.nets.build import NETWORKS
from machina.play.acting import LoadedPolicy
from machina.registry import ALGORITHMS
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import ActorInput, ActorOutput


@pytest.fixture(autouse=True)
def tables_as_they_were() -> Iterator[None]:
    """What a test registers ends with it."""
    tables: tuple[dict[str, Any], ...] = (ALGORITHMS, ENVIRONMENTS, NETWORKS)
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def saved(run: machina.jobs.api.TrainedRun) -> dict[str, Any]:
    content = yaml.safe_load((run.path / "config.yaml").read_text())
    assert isinstance(content, dict)
    return content


def test_options_find_their_sections(tmp_path: Path) -> None:
    options = {**SMALL, "envs_per_task": 3, "minutes": 5, "lstm_size": 4, "total_frames": 100}
    run = machina.train("impala", "catch", name="run", runs_dir=tmp_path, **options)
    assert (run.path, run.reason, run.env_steps, run.updates) == (tmp_path / "run", "the schedule is complete", 100, 5)
    content = saved(run)
    assert content["runtime"]["place"] == "inline"
    assert content["env"]["envs_per_task"] == 3
    assert content["algo"]["unroll_length"] == 5
    assert content["algo"]["network"]["lstm_size"] == 4
    assert content["minutes"] == 5


def test_options_join_those_of_a_file(tmp_path: Path) -> None:
    """An option of a section must not drop the section's other values in the file."""
    file = tmp_path / "own.yaml"
    file.write_text("algorithm: impala\nenvironment: catch\nalgo:\n  gamma: 0.5\n  network: {hidden_sizes: [7]}\n")
    options = {key: value for key, value in SMALL.items() if key != "hidden_sizes"}
    run = machina.train(config=str(file), name="run", runs_dir=tmp_path, total_frames=40, lstm_size=4, **options)
    algo = saved(run)["algo"]
    assert (algo["gamma"], algo["batch_size"]) == (0.5, 4)
    assert (algo["network"]["hidden_sizes"], algo["network"]["lstm_size"]) == ([7], 4)
    # The command's own shipped configuration is found by name, too, and options win over it.
    run = machina.train("impala", "CartPole-v1", name="cart", runs_dir=tmp_path, **{**SMALL, "total_frames": 40})
    assert saved(run)["algo"]["baseline_cost"] != ImpalaConfig().baseline_cost
    assert saved(run)["algo"]["batch_size"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rat": 1}, "unknown option 'learning_rat'; did you mean 'learning_rate'"),
        ({"learning_rate": -1}, "algo.learning_rate=-1: must be more than 0"),
        ({"batch_size": "many"}, "algo.batch_size='many': input should be a valid integer"),
        ({"init_value": True}, "init_value needs init_from"),
        ({"config": "impala_catsh"}, "neither a file nor shipped"),
        ({"actors": 99}, "actors=99: only 16 environments"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(machina.UserError) as refusal:
        machina.train("impala", "catch", runs_dir=tmp_path, **options)
    assert message in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_of_your_own(tmp_path: Path) -> None:
    machina.register_environment("guess", guesses)
    with pytest.raises(machina.UserError, match="'guess' is taken"):
        machina.register_environment("guess", guesses)
    run = machina.train("impala", "guess", name="run", runs_dir=tmp_path, total_frames=400, envs_per_task=4, **SMALL)
    result = machina.evaluate(run.path, episodes=7, seed=3)
    assert len(result.episodes["guess"]) == 7
    assert set(result.lengths["guess"]) == {5}
    policy = machina.load_policy(run.path)
    policy.reset()
    assert {policy.act([0.0]) for _ in range(50)} == {0, 1}, "actions are sampled"
    for wrong, message in (("left", "is not an array of numbers"), ([np.nan], "is not finite"), ([0, 1], "has shape")):
        with pytest.raises(machina.UserError, match=f"observation 'observation' {message}"):
            policy.act(wrong)
    with pytest.raises(machina.UserError, match="episodes=0: must be 1 to"):
        machina.evaluate(run.path, episodes=0)
    with pytest.raises(machina.UserError, match="give a list, one player per team"):
        machina.match(str(run.path))
    assert dir(machina) == machina.__all__


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("evaluate", {"seed": -1}, "seed=-1: must be 0 to 4294967295"),
        ("evaluate", {"seed": 2**32}, "seed=4294967296: must be 0 to 4294967295"),
        ("evaluate", {"episodes": 2.5}, "episodes=2.5: must be 1 to 1000000"),
        ("evaluate", {"episodes": "many"}, "episodes='many': input should be a valid integer"),
        ("load_policy", {"seed": -1}, "seed=-1: must be 0 to 4294967295"),
        ("load_policy", {"best": "perhaps"}, "best='perhaps': input should be a valid boolean"),
        ("match", {"seed": 1e300}, "seed=1e+300: must be 0 to 4294967295"),
        ("match", {"games": 0}, "games=0: must be 1 to 1000000"),
        ("match", {"games": None}, "games=None: input should be a valid integer"),
        ("match", {"players": [Path("a")]}, "players.0=PosixPath('a'): input should be a valid string"),
        ("resume", {"minutes": float("nan")}, "minutes=nan: input should be a finite number"),
        ("resume", {"total_frames": [1]}, "total_frames=[1]: input should be a valid integer"),
        ("train", {"config": 7}, "config=7: input should be a valid string"),
    ],
)
def test_arguments_are_held_against_their_ranges(name: str, arguments: dict[str, Any], message: str) -> None:
    """Before anything is looked for: the run does not exist."""
    first: dict[str, Any] = {"match": {"players": ["a", "b"]}, "train": {}}.get(name, {"run": "nowhere"})
    with pytest.raises(machina.UserError) as refusal:
        getattr(machina, name)(**{**first, **arguments})
    assert str(refusal.value).startswith(message)


class Echo:
    """A policy that keeps what it sees."""

    def initial_core_state(self, num_slots: int) -> Any:  # noqa: ARG002
        return ()

    def act(self, inputs: ActorInput) -> ActorOutput:
        self.seen = inputs.observation["observation"][0]
        return ActorOutput(np.zeros(1, np.int64), {}, ())


def test_an_observation_of_other_numbers_than_the_policy_was_trained_on_is_refused() -> None:
    """Bytes that somebody has divided by 255 already would all be 0."""
    spec = EnvSpec(
        name="e", tasks=("e",), observation={"observation": ArraySpec(shape=(2,), dtype="uint8")}, action=discrete(2)
    )
    echo = Echo()
    policy = LoadedPolicy(echo, spec, seed=0)  # type: ignore[arg-type]
    for right in ([7, 255], np.array([7.0, 255.0]), np.array([7, 255], np.uint8)):
        policy.act(right)
        assert echo.seen.dtype == np.uint8
        assert echo.seen.tolist() == [7, 255]
    for no_reward in (np.nan, float("inf"), "1"):
        with pytest.raises(machina.UserError, match=f"reward={no_reward!r}: must be a finite number"):
            policy.act([7, 255], no_reward)  # type: ignore[arg-type]
    policy.act([7, 255], np.float32(0.5))  # type: ignore[arg-type]
    for wrong, number in (([0.2, 1.0], "0.2"), ([7, 256], "256"), (np.array([-1, 0]), "-1")):
        with pytest.raises(machina.UserError, match=f"'observation' holds {number} .* its space is of uint8; the"):
            policy.act(wrong)


def test_a_network_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machina.register_network("tiny", tiny)
    options = {key: value for key, value in SMALL.items() if key != "hidden_sizes"} | {"total_frames": 200}
    models = []
    monkeypatch.chdir(Path(__file__).parent)
    for name, network in (("by-name", "tiny"), ("by-path", "own_parts:tiny")):
        run = machina.train("impala", "catch", name=name, runs_dir=tmp_path, network_name=network, **options)
        models.append(machina.checkpoint.load_checkpoint(last_checkpoint(run.path)).tensors["model"])
        assert len(machina.evaluate(run.path, episodes=2).episodes["catch"]) == 2
    assert models[0].keys() == {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    assert all((tensor == models[1][name]).all() for name, tensor in models[0].items())


def test_the_policy_of_a_role(tmp_path: Path) -> None:
    options = SMALL | {"batch_size": 8, "total_frames": 320, "minibatches": 1, "separate_roles": True}
    run = machina.train("ppo", "simple_tag", "defaults", name="run", runs_dir=tmp_path, envs_per_task=2, **options)
    for task, message in ((None, "each role has its own network; name one of"), ("agnet", "did you mean 'agent'")):
        with pytest.raises(machina.UserError, match=message):
            machina.load_policy(run.path, task=task)
    policies = [machina.load_policy(run.path, task=task) for task in ("adversary", "agent")]
    spec = parse_environment("simple_tag", GameConfig()).spec
    seen = {key: np.ones(array.shape, array.dtype) for key, array in spec.observation.items()}
    actions = [[policy.act(seen) for _ in range(100)] for policy in policies]
    assert actions[0] != actions[1], "with equal random numbers"


def test_pqn_starts_from_another_runs_network_and_plays_the_head_of_a_task(tmp_path: Path) -> None:
    options = SMALL | {"total_frames": 640, "minibatches": 1, "task_heads": True, "envs_per_task": 2, "place": "inline"}
    first = machina.train("pqn", "two_scales", "defaults", name="first", runs_dir=tmp_path, **options)
    second = machina.train(
        "pqn", "two_scales", "defaults", name="second", runs_dir=tmp_path, init_from=first.path, **options
    )
    with pytest.raises(machina.UserError, match="task: each task has its own head; name one of small, large"):
        machina.load_policy(second.path)
    assert machina.load_policy(second.path, task="large").act(np.zeros(8, np.float32)) in range(4)


LAYERS = ("hidden", "policy_head", "value_head")


class PatientConfig(ImpalaConfig):
    """IMPALA with another discount."""

    gamma: float = 0.999


def test_an_algorithm_of_your_own(tmp_path: Path) -> None:
    machina.register_algorithm("patient", "IMPALA that looks far ahead", PatientConfig, build)
    with pytest.raises(machina.UserError, match="algorithm 'patient' exists already"):
        machina.register_algorithm("patient", "again", PatientConfig, build)
    run = machina.train("patient", "catch", name="run", runs_dir=tmp_path, total_frames=100, **SMALL)
    assert saved(run)["algo"]["gamma"] == 0.999
    assert machina.resume(run.path).updates == 5


def test_a_run_in_a_thread_of_the_caller_s(tmp_path: Path) -> None:
    """Signals belong to the main thread; a run elsewhere does without."""
    import threading

    runs: list[machina.jobs.api.TrainedRun] = []
    options = {**SMALL, "place": "local", "total_frames": 200, "name": "run", "runs_dir": tmp_path}
    thread = threading.Thread(target=lambda: runs.append(machina.train("impala", "catch", **options)))
    thread.start()
    thread.join(60)
    assert [run.updates for run in runs] == [10]


def test_names_of_the_package() -> None:
    assert set(machina.__all__) <= set(dir(machina)) | set(machina._HOMES)
    for name in machina.__all__:
        assert getattr(machina, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        machina.trian  # noqa: B018
