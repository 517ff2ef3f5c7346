"""Rating games and matches whose environment fails: the run continues and says so; nothing waits indefinitely."""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty_game
import pytest
from leagues import SNAPSHOTS, small_league
from runs import last_checkpoint, signal_at

import machina
from machina.algorithms.ppo.learning import PPOLearner
from machina.checkpoint import load_checkpoint
from machina.jobs.cross_table import cross_play
from machina.jobs.match import RunPlayers, match
from machina.launch.ending import Ending
from machina.launch.run_view import RunView
from machina.metrics import read_metrics
from machina.types import Array, Learned, Unroll

UPDATES = 10
RATED = ["random", *SNAPSHOTS]
STRIKES_IN_LINE = next(
    number for number, line in enumerate(inspect.getsource(faulty_game).splitlines(), 1) if "the sword broke" in line
)
BROKEN = (
    "environment 'faulty_game:parallel_env (game 0)': step raised RuntimeError: the sword broke "
    f"({faulty_game.__file__}:{STRIKES_IN_LINE})"
)

Strike = Callable[..., faulty_game.Trouble]


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Iterator[Strike]:
    """Lets a fault strike so often in games that a thread of that name builds from now on."""
    trouble = faulty_game.Trouble()

    def strike(fault: str, times: float, thread: str = "ratings") -> faulty_game.Trouble:
        trouble.fault, trouble.left, trouble.thread = fault, times, thread
        return trouble

    monkeypatch.setattr(faulty_game, "trouble", trouble)
    yield strike
    trouble.wake_up.set()  # threads that were left behind end


def train(folder: Path, **options: Any) -> Path:
    defaults = {"place": "local", "rating_games": 2, "step_timeout_s": 2.5}
    return small_league(folder, "run", faulty_game.NAME, **{**defaults, **options})


def at_update(update: int, do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something when the learner has made this many updates."""
    original = PPOLearner.update

    def update_and_do(self: PPOLearner, batch: Unroll[Array], done: float) -> Learned:
        learned = original(self, batch, done)
        if self.updates == update:
            do()
        return learned

    monkeypatch.setattr(PPOLearner, "update", update_and_do)


def rated(run: Path) -> list[str]:
    ratings = json.loads((run / "league" / "league.json").read_text())["ratings"]
    return sorted(row["name"] for row in ratings if row["games"])


def notices(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was reported of rating games."""
    return [line for line in capsys.readouterr().out.splitlines() if "faulty_game" in line and "u0000" in line]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("raises", BROKEN),
        ("nan", "environment 'faulty_game:parallel_env': reward of red_0 in game 0 is not finite"),
        ("sleeps", "environment 'faulty_game:parallel_env (game 0)': no answer for 2.5 s"),
        ("unbuildable", "environment 'faulty_game:parallel_env' can't be built: RuntimeError: all licences are in use"),
    ],
    ids=["raises", "nan", "sleeps", "unbuildable"],
)
def test_games_that_fail_once_are_played_again(
    fault: str, cause: str, strike: Strike, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strike(fault, times=1)
    run = train(tmp_path)
    assert rated(run) == RATED
    told = f"replaced: {cause} (rating games of {SNAPSHOTS[0]} against random)"
    assert notices(capsys) == [told]
    checkpoint = load_checkpoint(last_checkpoint(run))
    assert checkpoint.values["progress"]["updates"] == UPDATES
    assert checkpoint.values["progress"]["faults"] == 1
    assert checkpoint.values["league"]["rated"] == list(SNAPSHOTS)
    log = (run / "faults.log").read_text()
    assert told in log
    assert ("trouble.wake_up.wait" in log) == (fault == "sleeps"), "where it hangs"


def test_a_rating_that_was_given_up_is_begun_again_by_a_resumed_run(
    strike: Strike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the place inline, where training's games are built before the trouble begins."""
    first, *others = SNAPSHOTS
    with monkeypatch.context() as patch:
        at_update(1, lambda: strike("raises", times=2, thread="MainThread"), patch)
        signal_at(8, signal.SIGTERM, patch, PPOLearner)
        run = train(tmp_path, place="inline")
    assert rated(run) == ["random", *others[:-1]]
    assert notices(capsys) == [
        f"replaced: {BROKEN} (rating games of {first} against random)",
        f"{first} gets no rating, its games failed again: {BROKEN}; the run continues",
    ]
    assert machina.resume(run).updates == UPDATES
    assert rated(run) == RATED
    assert load_checkpoint(last_checkpoint(run)).values["league"]["rated"] == [*others[:-1], first, others[-1]]
    assert notices(capsys) == []


@pytest.mark.parametrize("place", ["inline", "local"])
def test_a_run_that_only_makes_up_for_ratings_keeps_its_actors_state(
    place: str, strike: Strike, tmp_path: Path
) -> None:
    """Its schedule is complete: no environment is started again, so its counters must come from the checkpoint."""
    strike("unbuildable", times=math.inf)
    run = train(tmp_path, place="local")
    if place == "inline":
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("place: local", "place: inline"))
    before = load_checkpoint(last_checkpoint(run))
    assert before.tensors["plane"]
    strike("unbuildable", times=0)
    machina.resume(run)
    assert rated(run) == RATED
    after = load_checkpoint(last_checkpoint(run))
    assert after.values["league"]["rated"] == list(SNAPSHOTS)
    assert {name: int(counter) for name, counter in after.tensors["plane"].items()} == {
        name: int(counter) for name, counter in before.tensors["plane"].items()
    }
    assert after.values["unrolls_at_hand"] == 0
    assert after.values["progress"]["unrolls_lost"] == before.values["unrolls_at_hand"]


def test_a_fault_that_always_strikes_costs_nothing_but_the_ratings(
    strike: Strike, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strike("raises", times=math.inf)
    run = train(tmp_path, max_restarts=0)
    assert rated(run) == []
    told = notices(capsys)
    assert [line.partition(" gets no rating")[0] for line in told[1::2]] == list(SNAPSHOTS)
    assert load_checkpoint(last_checkpoint(run)).values["league"]["rated"] == []
    assert read_metrics(run)[-1]["faults/replaced"] == len(told) == 2 * len(SNAPSHOTS)


def test_games_that_always_hang_are_not_waited_for(strike: Strike, tmp_path: Path) -> None:
    strike("sleeps", times=math.inf)
    started = time.monotonic()
    run = train(tmp_path, step_timeout_s=0.5)
    assert time.monotonic() - started < 60
    assert load_checkpoint(last_checkpoint(run)).values["progress"]["updates"] == UPDATES


def test_a_signal_does_not_wait_for_a_game_that_hangs(strike: Strike, tmp_path: Path) -> None:
    began: list[float] = []

    def stop_the_run() -> None:
        began.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    strike("sleeps", times=1).on_sleep = stop_the_run
    run = train(tmp_path, step_timeout_s=600, total_frames=10_000_000)
    assert time.monotonic() - began[0] < 60
    saved = load_checkpoint(last_checkpoint(run)).values["league"]
    assert saved["rated"] == []
    assert saved["pool"]["snapshots"]


def test_minutes_end_the_wait_for_ratings(strike: Strike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule is complete, the games of the first snapshot hang, and then the minutes are over."""
    waits: list[str] = []
    notice = RunView.notice

    def note(self: RunView, message: str) -> None:
        notice(self, message)
        waits.extend([message] if message.startswith("waiting for the ratings of") else [])

    monkeypatch.setattr(RunView, "notice", note)
    monkeypatch.setattr(Ending, "_minutes_are_over", property(lambda _: bool(waits)))
    monkeypatch.setattr("machina.launch.rating_games.CLOSE_TIMEOUT_S", 0.1)
    strike("sleeps", times=1)
    run = train(tmp_path, step_timeout_s=600)
    assert len(waits) == 1
    saved = load_checkpoint(last_checkpoint(run)).values
    assert saved["progress"]["updates"] == UPDATES
    assert saved["league"]["rated"] == []


@pytest.mark.parametrize("place", ["inline", "local"])
@pytest.mark.parametrize("pool_share", [0.0, 1.0])
def test_a_snapshot_that_vanishes_ends_the_run_with_a_checkpoint(
    place: str, pool_share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a share of the pool the actors may miss it before the rating games do."""
    folder = tmp_path / "run" / "league" / "snapshots"
    at_update(5, lambda: shutil.rmtree(folder), monkeypatch)
    options: dict[str, Any] = {"pool_share": pool_share, "rating_games": 10, "opponents_in_memory": 1}
    with pytest.raises(machina.RunFailedError) as failure:
        small_league(tmp_path, "run", place=place, total_frames=10_000_000, **options)
    message = str(failure.value)
    assert message.startswith(f"snapshot '{folder}/u00000")
    assert "can't be read: No such file" in message
    assert "\n" not in message
    assert load_checkpoint(last_checkpoint(tmp_path / "run")).values["progress"]["updates"] >= 5


def test_a_table_that_can_t_be_written_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run" / "league" / "league.json"

    def refuse() -> None:
        file.unlink()
        file.mkdir()

    at_update(3, refuse, monkeypatch)
    run = small_league(tmp_path, "run", checkpoint_minutes=1e-9)
    assert load_checkpoint(last_checkpoint(run)).values["progress"]["updates"] == UPDATES
    told = [line for line in capsys.readouterr().out.splitlines() if "could not be written" in line]
    assert set(told) == {f"'{file}' could not be written: Is a directory; the former one stays"}


def test_a_match_that_hangs_ends_in_one_line(strike: Strike, tmp_path: Path) -> None:
    run = train(tmp_path, place="inline", step_timeout_s=0.5)
    strike("sleeps", times=math.inf, thread="MainThread")
    players = RunPlayers(run)
    assert players.league is not None
    hang = r"match stopped: environment 'faulty_game:parallel_env \(game 0\)': no answer for 0\.5 s$"
    with pytest.raises(machina.RunFailedError, match=hang):
        match([str(run), f"{run}@random"], games=2, seed=0)
    with pytest.raises(machina.RunFailedError, match=hang):
        cross_play(players, players.league.snapshots[:1], 2, 0, tmp_path / "cross_table.json")
