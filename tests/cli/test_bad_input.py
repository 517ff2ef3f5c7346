"""Bad input: one line that names the value and the remedy, exit code 2, no traceback, and nothing is left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import SMALL_NET, Command

from machina.checkpoint import RunDirectory

CATCH = ("train", "impala", "catch")
PONG = ("train", "impala", "pong")
REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("trian",), "unknown command 'trian'; did you mean 'train'?"),
    (("train",), "name an algorithm and an environment, as in `machina train impala pong`"),
    (("train", "impala"), "name an algorithm and an environment"),
    (("train", "impla", "pong"), "unknown algorithm 'impla'; did you mean 'impala'"),
    (("train", "impala", "pogn"), "unknown environment 'pogn'; did you mean 'pong'"),
    (("train", "impala", "pong,pong"), "pong given more than once"),
    (("train", "impala", "pong,seaqest"), "unknown environment 'seaqest'; did you mean 'seaquest'"),
    (("train", "impala", "CartPole-v9"), "did you mean 'CartPole-v1'"),
    (("train", "impala", "CartPool-v1"), "gymnasium knows no id 'CartPool-v1'; did you mean 'CartPole-v1'"),
    (("train", "impala", "no_such_module:Env-v0"), "module 'no_such_module' can't be imported"),
    (
        ("train", "ppo", "CartPole-v1", "--action-bins", "5"),
        "action_bins=5 cuts real numbers, the action space is Discrete",
    ),
    (
        ("train", "ppo", "CartPole-v1", "--image-layout", "HWC"),
        "image_layout=HWC: no array of 'CartPole-v1' is read as an",
    ),
    ((*PONG, "--torso", "mlp", "--image-layout", "CHW"), "image_layout=CHW: no array of 'pong' is read as an image"),
    ((*CATCH, "--image-layout", "CHW"), "with channels (mlp of 50 inputs: observation 50); leave it out"),
    (
        ("train", "ppo", "CartPole-v1", "--observation-divisor", "255"),
        "observation_divisor=255: 'CartPole-v1' gives neither bytes nor images to divide (mlp of 4 inputs: ",
    ),
    ((*CATCH, "--initial-log-deviation", "-1"), "initial_log_deviation=-1: actions of 'catch' are choices"),
    ((*CATCH, "--learning-rat", "1"), "unknown option '--learning-rat'; did you mean '--learning-rate'"),
    ((*CATCH, "--learning-rat=1"), "did you mean '--learning-rate'"),
    ((*CATCH, "--algoritm", "x"), "unknown option '--algoritm'"),
    ((*CATCH, "more"), "unknown option 'more'; see machina train impala catch --help"),
    ((*CATCH, "--learning-rate", "fast"), "learning_rate='fast': must be a number"),
    ((*CATCH, "--learning-rate", "-1"), "learning_rate=-1.0: must be more than 0, at most 100"),
    ((*CATCH, "--learning-rate", "nan"), "learning_rate=nan: must be more than 0"),
    ((*CATCH, "--batch-size", "2.5"), "batch_size='2.5': must be a whole number or None; see machina train"),
    ((*CATCH, "--unroll-length", "1e6"), "unroll_length='1e6': must be a whole number; see machina train"),
    ((*CATCH, "--hidden-sizes", "8", "x"), "hidden_sizes='8', 'x': must be whole numbers or None; see machina train"),
    ((*CATCH, "--actors", "many"), "actors='many': must be a whole number or auto; see machina train"),
    ((*CATCH, "--lock-step", "False"), "--lock-step takes no value, got 'False'; use --lock-step or --no-lock-step"),
    (("scale", "nowhere"), "missing: --actors; see machina scale --help"),
    ((*CATCH, "--place", "moon"), "invalid choice 'moon' for argument '--place'. Expected one of ('inline', 'local', "),
    ((*CATCH, "--actors", "auto"), "actors=auto needs place=ray"),
    ((*CATCH, "--address", "auto"), "address='auto' needs place=ray"),
    ((*CATCH, "--place", "inline", "--learners", "2"), "learners=2 needs place=local or ray"),
    ((*CATCH, "--learners", "0"), "learners=0: must be 1 to 1024"),
    ((*CATCH, "--place", "ray", "--cpus-per-actor", "0"), "cpus_per_actor=0.0: must be more than 0, at most 1024"),
    ((*CATCH, "--max-policy-lag", "-1"), "max_policy_lag=-1: must be 0 to 1000000000"),
    (("status", "nowhere"), "run directory 'nowhere' does not exist"),
    (("scale", "nowhere", "--actors", "3"), "run directory 'nowhere' does not exist"),
    ((*CATCH, "--seed"), "--seed needs a value; see machina train impala catch --help"),
    ((*CATCH, "--seed", "-3"), "seed=-3: must be 0 to 4294967295"),
    ((*CATCH, "--actors", "0"), "actors=0: must be 1 to 10000, or auto in place ray"),
    ((*CATCH, "--actors", "17"), "actors=17: only 16 environments to step"),
    ((*CATCH, "--rho-clip", "0.5"), "rho_clip 0.5 is below c_clip 1.0"),
    ((*CATCH, "--minutes", "0"), "minutes=0.0: must be more than 0, at most 5256000"),
    ((*CATCH, "--queue-unrolls", "3"), "queue_unrolls=3: actors hand over up to 8 unrolls at once"),
    ((*CATCH, "--device", "gpu"), "device 'gpu' is unknown; choose auto, cpu, cuda or cuda:N"),
    ((*CATCH, "--device", "cuda:99"), "device 'cuda:99' is not here"),
    ((*CATCH, "--actor-device", "tpu"), "device 'tpu' is unknown"),
    ((*CATCH, "--torso", "deep"), "torso"),
    ((*CATCH, "--network-name", "mine"), "mine"),
    ((*CATCH, "--name", "a/b"), "name='a/b': must be a plain folder name"),
    ((*CATCH, "--init-value"), "init_value needs init_from"),
    ((*CATCH, "--init-from", "nowhere"), "run directory 'nowhere' does not exist"),
    ((*CATCH, "--wrapper", "halved"), "wrapper 'halved' must be module:function"),
    ((*CATCH, "--wrapper", "no_such_module:halved"), "module 'no_such_module' can't be imported"),
    ((*CATCH, "--config", "impala_pnog"), "neither a file nor shipped; did you mean 'impala_pong'"),
    ((*PONG, "--sticky-actions", "1.5"), "sticky_actions=1.5: must be 0 or more, less than 1"),
    ((*PONG, "--kernels", "8", "4", "--config", "defaults"), "one number per convolution each, got 3, 2 and 3"),
    (("train", "impala", "pong,breakout", "--full-action-space", "False"), "full_action_space=False: several games"),
    (("resume", "nowhere"), "run directory 'nowhere' does not exist"),
    (("resume",), "missing: PATH; see machina resume --help"),
    (("scale",), "missing: PATH, --actors; see machina scale --help"),
    (("inspect",), "missing: PATH; see machina inspect --help"),
    (("eval", __file__), "is a file, not a run directory"),
    (("eval", "."), "'.' is not a run directory: it has no config.yaml"),
    (("eval", "nowhere", "--episodes", "0"), "episodes=0: must be 1 to 1000000"),
    (("eval", "nowhere", "--episods", "3"), "unknown option '--episods'; did you mean '--episodes'"),
    (("watch", "nowhere"), "run directory 'nowhere' does not exist"),
    (("plot", "nowhere", "--out", "x.jpg"), "out='x.jpg': pictures are PNG; give a name that ends in .png"),
    (("plot",), "plot needs at least one run directory"),
    (("plot", "nowhere"), "run directory 'nowhere' does not exist"),
    (("inspect", "nowhere"), "nowhere"),
    (("doctor", "impala", "pogn"), "did you mean 'pong'"),
    (("doctor", "--seconds", "0"), "seconds=0.0: must be more than 0, at most 3600"),
    (("list", "runs"), "unknown option 'runs'"),
]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(capsys, tmp_path)


@pytest.mark.parametrize(("arguments", "expected"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_refused(arguments: tuple[str, ...], expected: str, cli: Command) -> None:
    assert expected in cli.refused(*arguments)
    assert not list(cli.folder.glob("runs/*")), "no run directory is left behind"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm: impala\nenvironment: catch\nalgo:\n  learning_rat: 1\n", "unknown key 'algo.learning_rat'"),
        ("algorithm: impala\nenvironment: catch\nalgorythm: 3\n", "unknown key 'algorythm'"),
        ("algorithm: impala\nenvironment: catch\nalgo:\n  gamma: 2\n", "algo.gamma=2: must be more than 0, at most 1"),
        ("algorithm: impala\nenvironment: catch\nalgo: 3\n", "algo=3: input should be a valid dictionary"),
        ("algorithm: impala\nenvironment: [pong, breakout]\n", "unknown environment"),
        ("algorithm: 7\nenvironment: catch\n", "unknown algorithm '7'"),
        ("environment: catch\n", "name an algorithm and an environment"),
        ("- impala\n- catch\n", "must be a mapping of sections, got list"),
        ("algorithm: [impala\n", "is not valid YAML: line 2, column 1: expected ',' or ']'"),
        ("algorithm: impala\n\tenvironment: catch\n", "is not valid YAML: line 2, column 1: "),
        ("algorithm: impala\nalgorithm: ppo\n", "is not valid YAML: line 2, column 1: 'algorithm' appears twice"),
        ("", "must be a mapping of sections, got NoneType"),
        ("\x00\x01", "is not valid YAML"),
    ],
)
def test_a_bad_configuration_file(text: str, expected: str, cli: Command) -> None:
    (cli.folder / "own.yaml").write_text(text)
    line = cli.refused("train", "--config", "own.yaml")
    assert expected in line
    assert not list(cli.folder.glob("runs/*"))


def test_a_configuration_file_that_is_no_text(cli: Command) -> None:
    (cli.folder / "own.yaml").write_bytes(b"\xff\xfe\x9c")
    assert "configuration 'own.yaml' is not a text file" in cli.refused("train", "--config", "own.yaml")


def tiny_run(cli: Command, name: str = "run", environment: str = "catch") -> Path:
    options = (
        "--envs-per-task",
        "5",
        "--total-frames",
        "60",
        "--checkpoint-minutes",
        "1e-9",
        "--keep-checkpoints",
        "9",
    )
    return cli.train("impala", environment, *SMALL_NET, *options, name=name)


def test_runs_are_not_overwritten(cli: Command) -> None:
    run = tiny_run(cli)
    before = sorted(path.name for path in run.rglob("*"))
    line = cli.refused(*CATCH, "--runs-dir", cli.runs, "--name", "run")
    assert f"run directory '{run}' exists already" in line
    assert "machina resume" in line
    assert sorted(path.name for path in run.rglob("*")) == before


def test_names_of_runs_tasks_and_checkpoints(cli: Command) -> None:
    run = tiny_run(cli)
    assert f"did you mean '{run}'" in cli.refused("eval", cli.runs / "rnu")
    assert "the run has no task 'catsh'; did you mean 'catch'" in cli.refused("eval", run, "--games", "catsh")
    assert "games: catch given more than once" in cli.refused("eval", run, "--games", "catch", "catch")
    assert "the run has no task 'pong'; it has catch" in cli.refused("watch", run, "--game", "pong")
    assert "has no best checkpoint: it was trained without --eval-every" in cli.refused("eval", run, "--best")
    assert not (run / "report").exists()


def test_another_network_s_parameters(cli: Command) -> None:
    run = tiny_run(cli)
    cartpole = ("train", "impala", "CartPole-v1", *SMALL_NET, "--runs-dir", str(cli.runs), "--name", "other")
    assert "has shape" in cli.refused(*cartpole, "--init-from", run)
    pqn = ("train", "pqn", "catch", *SMALL_NET, "--runs-dir", str(cli.runs), "--name", "other", "--minibatches", "2")
    refused = cli.refused(*pqn, "--init-from", run)
    assert f"init_from='{run}': a run of impala, whose network is of another kind than that of pqn; give" in refused
    assert not (cli.runs / "other").exists(), "the name stays free for the corrected command"
    cli.good(*pqn, "--total-frames", "320")
    again = (*pqn[:-3], "again", *pqn[-2:], "--init-from", str(cli.runs / "other"))
    assert "init_value: a Q-network has no value heads" in cli.refused(*again, "--init-value")


def test_a_configuration_of_another_algorithm(cli: Command) -> None:
    refused = cli.refused("train", "pqn", "catch", "--config", "ppo_recall")
    assert "configuration 'ppo_recall', which is of ppo" in refused
    own = cli.folder / "own.yaml"
    own.write_text("algorithm: pqn\nenvironment: connect_four\n")
    assert "pqn learns for one agent, this is a game of 2" in cli.refused("league", "--config", own)
    assert "unknown algorithm 'PQN'; did you mean 'pqn'" in cli.refused("train", "PQN", "catch")


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "edited":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["truncated", "edited", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_bad_checkpoint_is_named_and_the_one_before_is_taken(how: str, name: str, cli: Command) -> None:
    run = tiny_run(cli)
    newest = sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())[-1]
    damage(newest / name, how)
    for command in (("eval", run, "--episodes", "2"), ("watch", run, "--max-steps", "2"), ("inspect", run)):
        answer = cli(*command)
        assert answer.code == 0, answer
        assert str(newest) in answer.out + answer.err
        assert "passed over" in answer.out + answer.err
        assert "40" in answer.out, "the one before, at env step 40"
    assert str(newest) in cli.refused("inspect", newest)
    answer = cli("resume", run)
    assert answer.code == 0
    assert str(newest) in answer.err
    assert RunDirectory.open(run).latest().checkpoint.step == 60, "made again"


def test_a_run_without_a_good_checkpoint(cli: Command) -> None:
    run = tiny_run(cli)
    for checkpoint in (run / "checkpoints").iterdir():
        damage(checkpoint / "model.safetensors", "truncated")
    for command in ("eval", "watch", "resume", "inspect"):
        assert "has no usable checkpoint" in cli.refused(command, run)
    shutil.rmtree(run / "checkpoints")
    for command in ("eval", "watch", "resume", "inspect"):
        assert "has no usable checkpoint: it stopped before its first one, or they were removed" in cli.refused(
            command, run
        )
    assert "has no usable checkpoint" in cli.refused(*CATCH, "--init-from", run, "--runs-dir", cli.runs)
    (run / "config.yaml").write_text("algorithm: impala\nenvironment: catch\nalgo: {gamma: 7}\n")
    assert f"{run / 'config.yaml'}: algo.gamma=7" in cli.refused("resume", run)


@pytest.mark.parametrize("command", ["eval", "train"])
def test_memory_that_runs_out(command: str, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a policy acts, or a learner is built: PyTorch's allocator refuses."""
    run = cli.train("impala", "catch", *SMALL_NET, "--total-frames", "40")
    monkeypatch.setattr("machina.nets.network.ActorCritic.forward", lambda *_: torch.empty(2**50))
    monkeypatch.setattr("machina.jobs.session.open_place", lambda *_: torch.empty(2**50))
    arguments = ("eval", run) if command == "eval" else (*CATCH, "--runs-dir", cli.runs, "--name", "other")
    message = cli.refused(*arguments, code=1)
    assert message.startswith(f"out of memory: {2**52} bytes could not be had; use a smaller --batch-size")


def test_the_program_itself_exits_with_2_and_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "machina", "train", "impala", "pogn"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "did you mean 'pong'" in result.stderr
