"""A machine's limit is that of the machine, not of the moment at which it was measured."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from machina.cli.main import main
from machina.jobs import ceiling
from machina.jobs.ceiling import CEILINGS, WINDOWS, cached_ceiling, measure_ceiling
from machina.launch.configuration import job_config
from machina.launch.plan import plan_run


def test_every_window_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job takes nine tenths of a core, but for a moment."""
    now, rates = [0.0], [100.0] * 3 + [1000.0] + [100.0] * 20
    monkeypatch.setattr("machina.jobs.ceiling.time.perf_counter", lambda: now[0])

    def work() -> int:
        now[0] += 1 / rates[min(int(now[0]), len(rates) - 1)]
        return 1

    measured = ceiling._rates(work, float(WINDOWS))
    assert max(measured) == pytest.approx(1000.0, rel=0.1)
    assert statistics.median(measured) == pytest.approx(100.0, rel=0.1)


def test_the_best_window_counts_unless_another_choice_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "_rates", lambda *_: [20.0, 50.0, 30.0])
    plan = plan_run(job_config("impala", "catch", None)[0])
    assert measure_ceiling(plan) == (50.0, 50.0, 50.0)
    assert measure_ceiling(plan, of_windows=statistics.median) == (30.0, 30.0, 30.0)


def test_a_busy_machine_keeps_the_higher_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config, _ = job_config("impala", "catch", None)
    plan = plan_run(config)
    monkeypatch.setattr(ceiling, "load_per_core", lambda: 0.0)
    assert main(["doctor", "impala", "catch", "--seconds", "0.02"]) == 0
    file = tmp_path / "machina" / CEILINGS
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: {"environment": 1e9, "acting": 1e9, "learning": 1e9}}))
    monkeypatch.setattr(ceiling, "load_per_core", lambda: 7.5)
    assert main(["doctor", "impala", "catch", "--seconds", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "load      7.5 programs per core are ready to run: the ceiling is lower than on an idle machine" in out
    assert cached_ceiling(plan) == pytest.approx(1e9 / 3)
    monkeypatch.setattr(ceiling, "load_per_core", lambda: 0.1)
    assert main(["doctor", "impala", "catch", "--seconds", "0.02"]) == 0
    assert "load" not in capsys.readouterr().out
    measured = cached_ceiling(plan)
    assert measured is not None
    assert measured < 1e8, "an idle machine is believed"
