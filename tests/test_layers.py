"""Imports point downward, and what must answer at once loads nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "ray", "gymnasium", "ale_py", "matplotlib", "tensorboard", "safetensors")


def loaded_by(code: str) -> set[str]:
    """Every module that a fresh interpreter has loaded after ``code``."""
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_imports_point_downward() -> None:
    """The contract stands in pyproject.toml."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


def enforced_layers() -> list[list[str]]:
    """Of the contract, from the top; ``a | b`` keeps the entries of a layer apart."""
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [layer.split(" | ") for layer in contract["layers"]]


def test_the_document_s_layers_are_the_enforced_ones() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = document.split("\n## Layers\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert [re.findall(r"`([\w.]+)`", row) for row in rows] == enforced_layers()


def test_every_room_has_a_layer() -> None:
    found = {path.stem for path in (ROOT / "machina").iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms = {f"machina.{name}" for name in found if not name.startswith("__")} - {"machina.configs"}
    assert rooms == {room for layer in enforced_layers() for room in layer}


def test_few_modules_know_ray() -> None:
    """They are those that the document names."""
    files = [path for path in (ROOT / "machina").glob("*/*.py") if not path.parent.is_symlink()]
    know = {
        path for path in files if re.search(r"^\s*(import|from) ray\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    outside = {f"{path.parent.name}/{path.stem}" for path in know if path.parent.name != "cluster"}
    assert outside == {"launch/places", "launch/ray_cluster"}


def test_algorithms_know_no_environment_no_ray_and_no_command_line() -> None:
    modules = loaded_by(
        "import machina.algorithms.impala.builder, machina.algorithms.impala_popart.config, machina.losses.vtrace"
    )
    others = ("envs", "actors", "cluster", "play", "launch", "jobs", "cli", "registry", "report")
    assert modules.isdisjoint([f"machina.{name}" for name in others])
    assert modules.isdisjoint(["ray", "gymnasium", "ale_py"])


def test_losses_need_torch_and_types_only() -> None:
    own = {
        name
        for name in loaded_by("import machina.losses.vtrace, machina.losses.actor_critic, machina.losses.alignment")
        if name.startswith("machina.")
    }
    assert {name for name in own if not name.startswith("machina.losses")} <= {"machina.types", "machina.errors"}


def test_acting_by_hand_needs_no_library_of_environments() -> None:
    """What a policy's player needs on a machine that has no simulator."""
    assert loaded_by("import machina.actions, machina.memory, machina.streams").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import machina",
        "import machina.cli.main",
        "from machina.cli.main import main\nassert main(['--help']) == 0",
        "from machina.cli.main import main\nassert main(['list']) == 0",
        "from machina.cli.main import main\nassert main(['train', 'impala_popart', 'atari57', '--help']) == 0",
        "from machina.cli.main import main\nassert main(['eval', '--help']) == 0",
    ],
)
def test_help_waits_for_nothing_heavy(code: str) -> None:
    modules = loaded_by(code)
    assert modules.isdisjoint(HEAVY), modules & set(HEAVY)


def test_configuration_models_load_no_library_of_environments() -> None:
    modules = loaded_by(
        "import machina.registry, machina.envs.config, machina.nets.config\n"
        "machina.registry.run_config_type('impala_popart', 'atari57')"
    )
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("folder", ["algorithms", "envs", "configs"])
def test_the_folders_of_the_root_are_the_package_s_own(folder: str) -> None:
    link = ROOT / "machina" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder
