"""What stands in README runs as it stands there, and names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from machina.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def part(text: str, heading: str) -> str:
    """What stands under a heading of the second order."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def files_in(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[\w/]+\.py\b", text)))


def test_the_snippet_runs(tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 1
    file = tmp_path / "snippet.py"
    file.write_text(snippets[0])
    done = subprocess.run([sys.executable, str(file)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert 8 <= float(done.stdout.splitlines()[-1]) <= 500, "a return of CartPole"


def test_the_first_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, each with numbers that are soon done."""
    lines = part(README, "First steps").split("```")[1].strip().splitlines()
    short = (["--total-frames", "2000"], ["--episodes", "2"], ["--max-steps", "5"])
    monkeypatch.chdir(tmp_path)
    for line, smaller in zip(lines, short, strict=True):
        program, *arguments = line.split("#")[0].split()
        assert program == "machina"
        if arguments[0] == "watch" and find_spec("pygame") is None:  # gymnasium draws CartPole with it
            continue
        assert main(arguments + smaller) == 0, line


def test_every_command_is_shown_and_exists() -> None:
    assert set(re.findall(r"`machina ([a-z]+)", part(README, "Commands"))) == set(COMMANDS)


def test_the_pinned_torch_is_the_one_that_was_tested() -> None:
    (pinned,) = re.findall(r"torch==[\w.]+", README)
    assert pinned in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_path_of_a_transition_is_that_of_the_architecture() -> None:
    files = files_in(part(README, "How it works"))
    assert len(files) <= 5
    assert all((ROOT / file).is_file() for file in files)
    steps = re.findall(r"^\d\. `([\w/]+\.py)`", part(ARCHITECTURE, "The path of a transition"), re.MULTILINE)
    assert sorted(files) == sorted(steps)


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_documents_point_to_exists(document: str) -> None:
    """Links, and modules in backticks; those of the package may leave out its name."""
    file = ROOT / document
    text = file.read_text(encoding="utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("http")]
    missing = [target for target in targets if target and not (file.parent / target).exists()]
    modules = re.findall(r"`([\w/]+/\w+\.py)\b", text)
    assert (
        missing + [each for each in modules if not any((ROOT / top / each).exists() for top in ("", "machina"))] == []
    )


def test_make_help_lists_every_target_of_the_documents() -> None:
    """Those that README and CONTRIBUTING.md name."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = {line.split()[1] for line in done.stdout.splitlines()}
    named = set(re.findall(r"`make ([a-z-]+)`", README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert named <= targets
