"""What is listed as equivalent is a reason for one line, not for all that read like it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from equivalents import Equivalent, placed

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_names_one_place_each() -> None:
    entries = yaml.safe_load(Path(__file__).with_name("equivalent.yaml").read_text())
    assert len(placed(ROOT, entries)) == len(entries) > 0, "and none twice"
    assert all(entry["why"] and entry["after"] != entry["before"] for entry in entries)


def test_a_line_that_stands_twice_needs_the_one_above_it(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("if one:\n    x = 0\nelse:\n    x = 0\n")
    entry = {"file": "twice.py", "before": "x = 0", "after": "x = 1", "why": "nobody reads it"}
    with pytest.raises(SystemExit, match=r"'x = 0' stands 2 times \(2, 4\) in twice.py; say which by `below`"):
        placed(tmp_path, [entry])
    assert placed(tmp_path, [{**entry, "below": "else:"}]) == {Equivalent("twice.py", 4, "x = 0", "x = 1")}
    with pytest.raises(SystemExit, match=r"'x = 0' stands 0 times in twice.py; correct it"):
        placed(tmp_path, [{**entry, "below": "while:"}])
    with pytest.raises(SystemExit, match=r"'y = 0' stands 0 times"):
        placed(tmp_path, [{**entry, "before": "y = 0"}])
