"""Films of environments that fail."""

from __future__ import annotations

import inspect
from pathlib import Path

import faulty_env
import gymnasium
import pytest
from runs import SMALL

import machina
from machina.errors import EnvironmentFaultError
from machina.jobs.film import film
from machina.play import timed


def test_a_hang_stops_the_film_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = machina.train(
        "impala", "faulty_env:Sound-v0", name="run", runs_dir=tmp_path, **SMALL, processes=False, total_frames=200
    )
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("step_timeout_s: 60.0", "step_timeout_s: 0.2"))
    monkeypatch.setitem(gymnasium.registry["Sound-v0"].kwargs, "fault", "sleeps")  # the environment has got worse
    with pytest.raises(machina.RunFailedError) as caught:
        film(run.path, game=None, seed=0, best=False, max_steps=10)
    first, *stack = str(caught.value).splitlines()
    assert first == "filming stopped: environment 'faulty_env:Sound-v0': no answer for 0.2 s"
    lines, start = inspect.getsourcelines(faulty_env.Faulty.step)
    line = start + [text.strip() for text in lines].index("time.sleep(600)")
    assert stack[-2:] == [f'  File "{faulty_env.__file__}", line {line}, in step', "    time.sleep(600)"]
    assert not list(run.path.glob("videos/*"))


def test_an_environment_that_can_t_be_built_in_time_is_reported_as_other_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`machina report` leaves the film out then, and continues."""
    run = machina.train("impala", "catch", "defaults", name="run", runs_dir=tmp_path, **SMALL, total_frames=40)

    def hang(*_: object) -> None:
        raise EnvironmentFaultError("environment 'catch': building it takes longer than 62 s")

    monkeypatch.setattr(timed, "build_env", hang)
    with pytest.raises(
        machina.RunFailedError, match=r"^filming stopped: environment 'catch': building it takes longer"
    ):
        film(run.path, game=None, seed=0, best=False, max_steps=10)
