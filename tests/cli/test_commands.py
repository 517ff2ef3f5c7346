"""Every command on every algorithm, with tiny numbers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import imageio_ffmpeg
import matplotlib.image
import pytest
import torch
import yaml
from commands import CAN_DRAW_CARTPOLE, PONG, SMALL_NET, TINY, Command
from own_wrapper import BONUS

from machina.checkpoint import RunDirectory, load_checkpoint
from machina.cli.main import COMMANDS
from machina.jobs.ceiling import cached_ceiling
from machina.launch.configuration import saved_config
from machina.launch.plan import plan_run
from machina.metrics import read_metrics
from machina.nets.policy import SampledPolicy
from machina.registry import ALGORITHMS, shipped_configurations
from machina.report.evaluation import latest_evaluation
from machina.types import ActorInput, ActorOutput

ENVIRONMENTS = {
    "catch": ("--envs-per-task", "5", *SMALL_NET),
    "CartPole-v1": ("--envs-per-task", "5", *SMALL_NET),
    "pong": PONG,
}
SEQUENCES = (
    *("--burn-in-length", "2", "--sequence-length", "5", "--lstm-size", "8", "--replay-ratio", "1"),
    *("--save-replay", "always"),
)
REPLAYING = {
    "dqn": ("--replay-ratio", "0.2"),
    "rainbow": ("--replay-ratio", "0.2", "--atoms", "5"),
    "apex": ("--replay-ratio", "0.2", "--episode-memory", "2", "--episode-memory-steps", "40"),
    "r2d2": SEQUENCES,
    "r2d3": (*SEQUENCES, "--demo-ratio", "1/2"),
}
UPDATES = 12
STEPS = UPDATES * 4 * 5


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return Command(capsys, tmp_path)


def recorded(cli: Command, environment: str) -> Path:
    """Demonstrations of somebody who presses keys at random."""
    folder = cli.runs / "demonstrations"
    options = ("--frame-cap", "120") if environment == "pong" else ()
    random = ("--script", "random", "--episodes", "3", "--no-pictures")
    cli.good("record", environment, "--out", folder, *random, *options)
    return folder


def frames(environment: str) -> str:
    """A schedule of ``UPDATES`` updates."""
    return str(STEPS * (4 if environment == "pong" else 1))


def drop_checkpoints_after(run: Path, count: int) -> None:
    """As if the run had been killed then."""
    for folder in sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())[count:]:
        shutil.rmtree(folder)


def decoded_pictures(film: Path) -> int:
    """How many whole pictures the file holds."""
    pictures = imageio_ffmpeg.read_frames(str(film))
    width, height = next(pictures)["size"]
    sizes = [len(picture) for picture in pictures]
    assert set(sizes) == {width * height * 3}
    return len(sizes)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_life_of_a_run(algorithm: str, environment: str, cli: Command) -> None:
    options = ["--total-frames", frames(environment), "--checkpoint-minutes", "1e-9", "--keep-checkpoints", "99"]
    if algorithm == "pqn":
        # At random, poles fall; a lucky greedy policy balances one for longer than these runs last.
        options += ["--epsilon-final", "1"]
    if algorithm in REPLAYING:
        options += ["--learning-starts", "100", "--replay-capacity", "1000", "--epsilon", "1", "--epsilon-final", "1"]
        options += REPLAYING[algorithm]
    if algorithm == "r2d3":
        options += ["--demos", str(recorded(cli, environment))]
    run = cli.train(algorithm, environment, *ENVIRONMENTS[environment], *options)
    first = RunDirectory.open(run).latest().checkpoint
    steps, updates = first.step, first.values["progress"]["updates"]
    assert read_metrics(run)[-1]["env_steps"] == steps
    # A replay takes in whole rounds, and learning from it begins later.
    assert (steps, updates) == (STEPS, UPDATES) or (algorithm in REPLAYING and STEPS <= steps < STEPS + 25)

    drop_checkpoints_after(run, 5)
    out = cli.good("resume", run)
    assert "the schedule is complete" in out
    assert str(run) in out
    last = RunDirectory.open(run).latest().checkpoint
    assert last.values["progress"]["updates"] == updates
    assert last.step == steps

    out = cli.good("eval", run, "--episodes", "3", "--seed", "5")
    assert environment in out
    result = latest_evaluation(run / "report")
    assert {task: len(returns) for task, returns in result.episodes.items()} == {environment: 3}
    assert (result.step, result.seed) == (steps, 5)

    if environment == "CartPole-v1" and not CAN_DRAW_CARTPOLE:
        assert 'pip install "gymnasium[classic-control]"' in cli.refused("watch", run)
    else:
        out = cli.good("watch", run, "--max-steps", "12")
        film = next((run / "videos").glob("*.mp4"))
        assert str(film) in out
        assert 5 < decoded_pictures(film) <= 13

    out = cli.good("plot", run)
    assert str(run / "report" / "learning_curves.png") in out
    for picture in (run / "report").glob("*.png"):
        assert matplotlib.image.imread(picture).shape[2] in (3, 4)
    assert (run / "report" / "atari_scores.png").exists() == (environment == "pong")

    for path in (run, last.path):
        out = cli.good("inspect", path)
        assert f"env step {steps:,}" in out
        head = "q_head.weight" if algorithm == "pqn" else "policy_head.weight"
        assert ("q_head.0.weight" if algorithm in REPLAYING else head) in out
        assert ("popart.mu" in out) == (algorithm == "impala_popart")


def test_list_names_everything(cli: Command) -> None:
    out = cli.good("list")
    for name in [*ALGORITHMS, *shipped_configurations(), "atari57", "pong", "yars_revenge", "catch", "two_scales"]:
        assert name in out
    section = out.split("\nconfigurations\n")[1].splitlines()
    assert len(section) == len(shipped_configurations())
    assert all(len(line.split(maxsplit=1)) == 2 for line in section), "each has its line of explanation"


def test_doctor_measures_and_later_runs_know(cli: Command) -> None:
    out = cli.good("doctor", "impala", "catch", "--seconds", "0.05")
    assert "all 57 Atari games" in out
    assert "the limit is the " in out
    assert "GiB available" in out
    run = cli.train("impala", "catch", "--total-frames", "40")
    known = saved_config(run)
    assert cached_ceiling(plan_run(known)) is None, "another batch size is another job"
    cli.good("train", "impala", "catch", "--total-frames", "640", "--runs-dir", cli.runs, "--name", "measured")
    known = saved_config(cli.runs / "measured")
    ceiling = cached_ceiling(plan_run(known))
    assert ceiling is not None
    assert ceiling > 0


@pytest.mark.parametrize(
    "content", ['{"half": ', "[" * 100_000, '{"key": {"environment": 0, "acting": 1, "learning": 1}}']
)
def test_doctor_outlives_a_damaged_cache(content: str, cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "machina" / "ceilings.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    cli.train("impala", "catch", "--total-frames", "40")
    cli.good("doctor", "impala", "catch", "--seconds", "0.01")
    assert len(json.loads(file.read_text())) == 1


@pytest.mark.parametrize("with_value", [False, True])
def test_a_run_may_start_from_another(with_value: bool, cli: Command) -> None:
    first = cli.train("impala_popart", "two_scales", *SMALL_NET, "--total-frames", "400", "--learning-rate", "0.01")
    options = ("--init-from", first, "--learning-rate", "1e-12", "--total-frames", "40", "--popart-beta", "1e-9")
    flag = ("--init-value",) if with_value else ()
    second = cli.train("impala_popart", "two_scales", *SMALL_NET, *options, *flag, name="second")
    models = [RunDirectory.open(run).latest().checkpoint.tensors["model"] for run in (first, second)]

    def equal(name: str) -> bool:
        return torch.allclose(models[0][name], models[1][name], rtol=1e-4, atol=1e-6)

    taken = [name for name in models[0] if equal(name)]
    value = [name for name in models[0] if name.startswith(("value_head.", "popart."))]
    assert [name for name in models[0] if name not in value and name not in taken] == []
    assert all(name in taken for name in value) == with_value
    assert not equal("value_head.weight") or with_value
    progress = RunDirectory.open(second).latest().checkpoint.values["progress"]
    assert progress["env_steps"] == 40, "counters start afresh"


@pytest.mark.parametrize("place", ["inline", "local"])
def test_until_return(place: str, cli: Command) -> None:
    out_of = cli.train("impala", "catch", *SMALL_NET, "--until-return", "-1", "--place", place)
    checkpoint = RunDirectory.open(out_of).latest().checkpoint
    counts = checkpoint.values["episodes"]["counts"]
    assert 100 <= counts[0] < 250, "as soon as the window of 100 episodes is full"


def test_minutes_stop_a_run_and_leave_its_schedule(cli: Command) -> None:
    run = cli.train("impala", "catch", *SMALL_NET, "--minutes", "0.02", "--log-seconds", "0.1")
    last = read_metrics(run)[-1]
    assert 0.5 < (last["wall_s"] or 0) < 30
    # 4M frames are the toy's schedule: after a second the rate is as good as new.
    assert last["learner/learning_rate"] == pytest.approx(6e-4, rel=0.05)
    assert "0.02 minutes are over" in cli.good("resume", run)


@pytest.mark.parametrize("place", ["inline", "local"])
def test_eval_every_keeps_the_best(place: str, cli: Command) -> None:
    options = ("--total-frames", "800", "--eval-every", "200", "--eval-episodes", "3", "--keep-checkpoints", "1")
    run = cli.train("impala", "two_scales", *SMALL_NET, *options, "--place", place)
    assert len(list((run / "report").glob("evaluation-*.json"))) == 4
    best = RunDirectory.open(run).best()
    assert best is not None
    cli.good("eval", run, "--best", "--episodes", "2")
    cli.good("watch", run, "--best", "--max-steps", "3")
    assert (run / "videos" / f"small-{best.step:012d}-seed0.mp4").exists()
    assert load_checkpoint(RunDirectory.open(run).checkpoint_path(best.step)).step == best.step


def test_a_wrapper_acts_in_training_evaluation_and_film(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    wrapper = ("--wrapper", "own_wrapper:bonus")
    run = cli.train("impala", "catch", *SMALL_NET, *wrapper, "--total-frames", "2000", "--reward-clip", "none")
    # 9 steps, each with the bonus, and the ball missed or caught.
    low, high = 9 * BONUS - 1, 9 * BONUS + 1
    assert low <= (read_metrics(run)[-1]["episode_return/catch"] or 0) <= high
    cli.good("eval", run, "--episodes", "100")  # more than there are slots: some play a second one
    result = latest_evaluation(run / "report")
    assert set(result.episodes["catch"]) <= {low, high}
    assert result.protocol["wrapper"] == "own_wrapper:bonus"
    out = cli.good("watch", run)
    assert f"return {low:g}" in out or f"return {high:g}" in out
    assert yaml.safe_load((run / "config.yaml").read_text())["wrapper"] == "own_wrapper:bonus"
    # A wrapper may hold state of its own, so episodes start afresh; the wrapper acts again.
    drop_checkpoints_after(run, 0)
    assert "no usable checkpoint" in cli.refused("resume", run)


def test_plot_lays_runs_over_each_other(cli: Command) -> None:
    runs = [cli.train("impala", "catch", *SMALL_NET, "--total-frames", "400", name=name) for name in ("one", "two")]
    out = cli.good("plot", *runs, "--out", cli.folder / "both.png")
    assert str(cli.folder / "both.png") in out
    assert matplotlib.image.imread(cli.folder / "both.png").ndim == 3


def test_a_configuration_can_be_passed_back(cli: Command) -> None:
    """What a run saves makes the same run again; options win over it."""
    first = cli.train("impala", "catch", *SMALL_NET, "--total-frames", "400")
    config = first / "config.yaml"
    cli.good("train", "--config", config, "--name", "again", "--runs-dir", cli.runs)
    models = [RunDirectory.open(cli.runs / name).latest().checkpoint.tensors["model"] for name in ("run", "again")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    cli.good("train", f"--config={config}", "--name", "other", "--seed", "8", "--runs-dir", cli.runs)
    saved = yaml.safe_load((cli.runs / "other" / "config.yaml").read_text())
    assert (saved["seed"], saved["algo"]["batch_size"]) == (8, 4)


@pytest.mark.parametrize("name", shipped_configurations())
def test_every_shipped_configuration_runs(name: str, cli: Command) -> None:
    content = yaml.safe_load(shipped_configurations()[name].read_text(encoding="utf-8"))
    # All 57 games take half a minute to start: once is enough.
    games = content["environment"] if name == "demo" else content["environment"].replace("atari57", "pong,breakout")
    unrolls = "12" if name == "league_battle" else "3"  # a game of battle has twelve agents
    tiny: tuple[str, ...] = (*TINY, "--envs-per-task", "1", "--batch-size", unrolls, "--unroll-length", "2")
    if content["algorithm"] in ("ppo", "pqn"):
        tiny = (*tiny, "--minibatches", "2")
    frames = "48"
    if content["algorithm"] in REPLAYING:
        tiny, frames = (*tiny, "--learning-starts", "60"), "140"  # until there is a sequence to learn from
    if content["algorithm"] == "r2d3":
        demonstrations = cli.runs.parent / "demonstrations"
        source = ("--episodes", "1", "--script", "random", "--no-pictures")
        cli.good("record", content["environment"], "--out", demonstrations, *source)
        tiny = (*tiny, "--demos", str(demonstrations))
    place = ("--total-frames", frames, "--runs-dir", cli.runs, "--name", "run")
    cli.good("train", content["algorithm"], games, "--config", name, *tiny, *place)
    saved = yaml.safe_load((cli.runs / "run" / "config.yaml").read_text())
    overridden = {"total_frames", "envs_per_task", "batch_size", "unroll_length", "minibatches", "name", "environment"}
    overridden |= {"learning_starts"}
    for section, values in content.items():
        for field, value in values.items() if isinstance(values, dict) else [(None, values)]:
            if field is None and section not in overridden:
                assert saved[section] == value
            elif field is not None and field not in overridden and not isinstance(value, dict):
                assert saved[section][field] == value
    assert RunDirectory.open(cli.runs / "run").latest().checkpoint.values["progress"]["updates"] >= 2


def test_several_games_share_one_agent(cli: Command) -> None:
    options = (*PONG, "--envs-per-task", "1", "--total-frames", "960", "--reward-clip", "none")
    run = cli.train("impala_popart", "pong,breakout,seaquest", *options)
    cli.good("eval", run, "--episodes", "2", "--games", "breakout,pong")
    result = latest_evaluation(run / "report")
    assert list(result.episodes) == ["breakout", "pong"]
    assert result.protocol["action_set"] == "full"
    last = read_metrics(run)[-1]
    assert {name for name in last if name.startswith("popart/sigma/")} == {
        f"popart/sigma/{game}" for game in ("pong", "breakout", "seaquest")
    }
    cli.good("watch", run, "--game", "seaquest", "--max-steps", "3")
    assert next((run / "videos").iterdir()).name.startswith("seaquest-")


def test_help_of_every_command(cli: Command) -> None:
    overview = cli.good("--help")
    for name in COMMANDS:
        assert f"  {name}" in overview
        out = cli.good(name, "--help")
        assert name in out.splitlines()[0]
    out = cli.good("train", "impala", "pong", "--help")
    for option in ("--learning-rate", "--lstm-size", "--sticky-actions", "--step-timeout-s", "--until-return"):
        assert option in out
    assert "machina 0." in cli.good("--version")


def test_status_shows_how_a_run_did_and_scale_leaves_a_wish(cli: Command) -> None:
    run = cli.train("impala", "catch", "--envs-per-task", "4", "--total-frames", "100")
    shown = cli.good("status", run)
    assert "100, " in shown
    assert "20 accepted = 20 learned + 0 dropped + 0 queued" in shown
    assert "this machine" in shown
    assert "the schedule is complete" in shown
    assert "in place inline; only place ray can be scaled" in cli.refused("scale", run, "--actors", "3")
    config, status = run / "config.yaml", run / "status.json"
    config.write_text(config.read_text().replace("place: inline", "place: ray"))
    assert "has ended: the schedule is complete; machina resume" in cli.refused("scale", run, "--actors", "3")
    status.write_text(json.dumps(json.loads(status.read_text()) | {"ended": None}))
    assert "3 actors requested, it has 1" in cli.good("scale", run, "--actors", "3")
    assert RunDirectory.open(run).take_request() == 3
    assert RunDirectory.open(run).take_request() is None
    wrong_sum = json.loads(status.read_text())
    del wrong_sum["account"]["accepted"]
    for damaged in ("{}", "[]", status.read_text()[:100], json.dumps(wrong_sum)):
        status.write_text(damaged)
        assert "status.json' was edited or truncated" in cli.refused("status", run)
    status.unlink()
    assert "has no status.json" in cli.refused("status", run)


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_place_that_cannot_be_scaled_says_so_and_continues(place: str, cli: Command) -> None:
    """The wish is there before the run's first look, a second after its start."""
    run = cli.runs / "run"

    def wish() -> None:
        while not run.joinpath("config.yaml").exists():
            time.sleep(0.05)
        RunDirectory.open(run).request_actors(7)

    wisher = threading.Thread(target=wish)
    wisher.start()
    options = ("--place", place, "--envs-per-task", "4", "--minutes", "0.1")
    out = cli.good("train", "impala", "catch", *TINY[2:], *options, "--runs-dir", cli.runs, "--name", "run")
    wisher.join()
    assert f"actors=7: place {place} has a fixed number of actors; only place ray can be scaled" in out


def test_plot_draws_what_there_is_and_names_the_others(cli: Command) -> None:
    good = cli.train("impala", "catch", *SMALL_NET, "--total-frames", "400", name="good")
    bare = cli.train("impala", "catch", *SMALL_NET, "--total-frames", "1", "--unroll-length", "1", name="bare")
    answer = cli("plot", bare, good)
    assert answer.code == 0
    assert answer.err == f"machina: left out: run '{bare}' has no finished episode yet; train it longer\n"
    assert answer.out.strip() == str(good / "report" / "learning_curves.png")
    assert (good / "report" / "learning_curves.png").is_file()
    assert "no finished episode yet" in cli.refused("plot", bare)
    (cli.runs / "notes.txt").write_text("")
    (cli.runs / "pictures").mkdir()
    spoilt = shutil.copytree(good, cli.runs / "spoilt")
    (spoilt / "config.yaml").write_text("[")
    strays = (cli.runs / "notes.txt", cli.runs / "pictures", cli.runs / "nothing", spoilt)
    answer = cli("plot", *strays, good)
    assert (answer.code, answer.out.strip()) == (0, str(good / "report" / "learning_curves.png"))
    lines = answer.err.splitlines()
    assert len(lines) == len(strays)
    assert all(
        line.startswith("machina: left out: ") and str(stray) in line for line, stray in zip(lines, strays, strict=True)
    )
    assert "is not a run directory" in cli.refused("plot", *strays[1:3])
    (good / "report" / "evaluation-000000000400.json").write_text("{")
    scored = shutil.copytree(good, cli.runs / "scored")
    (scored / "report" / "evaluation-000000000400.json").unlink()
    cli.good("eval", scored, "--episodes", "2")
    answer = cli("plot", good, scored)
    assert (answer.code, answer.err.count("\n")) == (0, 1)
    assert str(good / "report" / "evaluation-000000000400.json") in answer.err


def test_eval_writes_lines_where_there_is_no_terminal(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cli.train("impala", "catch", *SMALL_NET, "--total-frames", "400")
    assert "episodes" not in cli.good("eval", run, "--episodes", "3").split("task")[0]
    monkeypatch.setattr("machina.cli.progress_bar.LINE_PERIOD_S", 0.0)
    lines = cli.good("eval", run, "--episodes", "3").splitlines()
    assert lines[:3] == [f"episodes {done} of 3" for done in (1, 2, 3)]


@pytest.mark.parametrize("command", ["eval", "watch", "match"])
def test_commands_act_with_the_threads_of_the_plan(command: str, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with as many as there are cores, which is what PyTorch takes."""
    game = "connect_four" if command != "eval" else "catch"
    run = cli.train("impala", game, *SMALL_NET, "--total-frames", "40", "--envs-per-task", "2", "--torso", "mlp")
    seen: set[int] = set()
    act = SampledPolicy.act

    def noting(policy: SampledPolicy, inputs: ActorInput) -> ActorOutput:
        seen.add(torch.get_num_threads())
        return act(policy, inputs)

    monkeypatch.setattr(SampledPolicy, "act", noting)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        arguments = {"eval": (run, "--episodes", "2"), "watch": (run,), "match": (run, "random", "--games", "2")}
        cli.good(command, *arguments[command])
        assert torch.get_num_threads() == 3, "who calls from Python keeps its own"
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
