"""A league of a game that both teams win together says that nobody does."""

from pathlib import Path
from typing import Any

import pytest

import machina

OPTIONS: dict[str, Any] = {
    "place": "inline",
    "envs_per_task": 4,
    "unroll_length": 8,
    "total_frames": 192,
    "snapshot_updates": 2,
    "rating_games": 2,
    "hidden_sizes": (8,),
}


@pytest.mark.parametrize(
    ("environment", "sides"), [("mpe2.simple_speaker_listener_v4", 0), ("mpe2.simple_adversary_v3", 2)]
)
def test_teams_that_get_the_same_are_reported_once(
    environment: str, sides: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machina.train("ppo", environment, "defaults", runs_dir=tmp_path, name="run", **OPTIONS)
    said = [line for line in capsys.readouterr().out.splitlines() if "this game has no sides" in line]
    if sides:
        assert not said
        return
    (line,) = said
    assert (
        "both teams got the same in all 2 rating games of u000002, of which a limit of steps cut 2: this game has no"
        in line
    )
    assert "nobody wins it" in line
