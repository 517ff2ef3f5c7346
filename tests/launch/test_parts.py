"""How the cores of a machine are shared out."""

from __future__ import annotations

from typing import Any

import pytest

from machina.launch.configuration import job_config
from machina.launch.parts import build_parts


@pytest.mark.parametrize(
    ("algorithm", "environment", "runtime", "threads"),
    [
        ("impala", "pong", {}, 4),
        ("impala", "pong", {"place": "inline"}, 8),
        ("impala", "pong", {"learners": 2}, 2),
        ("ppo", "pong", {}, 8),
        ("ppo", "pong", {"learners": 2}, 4),
        ("ppo", "pong", {"learner_threads": 3}, 3),
        ("ppo", "connect_four", {}, 4),
    ],
)
def test_a_learner_of_several_passes_over_images_gets_all_cores(
    algorithm: str, environment: str, runtime: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machina.launch.parts.available_cores", lambda: 8)
    config, _ = job_config(algorithm, environment, "defaults", runtime=runtime)
    assert build_parts(config).machine.learner_threads == threads
