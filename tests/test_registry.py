"""The one table of algorithms, and where configurations are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from machina.config import AlgorithmConfig, RunConfig, option_paths
from machina.errors import UserError
from machina.interfaces import Algorithm
from machina.learner.sums import SINGLE_RANK
from machina.registry import (
    ALGORITHMS,
    algorithm_entry,
    default_config,
    find_configuration,
    run_config_type,
    shipped_configurations,
)
from machina.specs import ArraySpec, EnvSpec, discrete

SPEC = EnvSpec(
    name="vector",
    tasks=("one", "two"),
    observation={"observation": ArraySpec(shape=(3,), dtype="float32")},
    action=discrete(4),
)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_entry_builds(name: str) -> None:
    entry = algorithm_entry(name)
    config = entry.config()()
    assert isinstance(config, AlgorithmConfig)
    algorithm: Algorithm = entry.build(config)
    assert algorithm.config is config
    policy = algorithm.make_policy(SPEC, "cpu", "float32", explores=True, num_slots=5)
    learner = algorithm.make_learner(SPEC, "cpu", "float32", seed=1, ranks=SINGLE_RANK)
    policy.load_parameters(learner.flat_parameters(), done=0.0)
    policy.load_tensors(learner.state().tensors["model"])
    assert all(array.dtype in ("float32", "int64") for array in algorithm.policy_outputs(SPEC).values())
    assert len(entry.summary) < 100


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown algorithm 'imapla'; did you mean 'impala'"):
        algorithm_entry("imapla")
    with pytest.raises(UserError, match="unknown algorithm 'zzz'; known: impala, impala_popart"):
        algorithm_entry("zzz")
    with pytest.raises(UserError, match="'demmo' is neither a file nor shipped; did you mean 'demo'"):
        find_configuration("demmo")


@pytest.mark.parametrize("name", shipped_configurations())
def test_every_shipped_configuration_is_valid_and_says_what_it_is_for(name: str) -> None:
    path = find_configuration(name)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "its first line is what `machina list` shows"
    content = yaml.safe_load(text)
    config = default_config(content["algorithm"], content["environment"], content, name)
    defaults = default_config(content["algorithm"], content["environment"], {}, "defaults")
    written = flat(content)
    assert {key: flat(config.model_dump(mode="json"))[key] for key in written} == written
    same = [key for key, value in written.items() if flat(defaults.model_dump(mode="json"))[key] == value]
    assert same == ["algorithm", "environment"], "a file holds only what differs from the defaults"
    expected = f"{config.algorithm}_{config.environment}"
    league = f"league_{config.environment}"
    assert name in (expected, league, "demo"), "the name by which `machina train` and `machina league` find it"


def flat(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested sections as dotted names."""
    result: dict[str, object] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def test_a_file_of_your_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("algorithm: impala\n")
    assert find_configuration(str(file)) == file


@pytest.mark.parametrize("environment", ["catch", "pong", "atari57", "CartPole-v1"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_options_have_one_name_each_and_an_explanation(algorithm: str, environment: str) -> None:
    """The command line leaves out the sections' names, so no two sections may share an option."""
    config_type = run_config_type(algorithm, environment)
    assert issubclass(config_type, RunConfig)
    names: list[str] = []

    def visit(model: type[RunConfig]) -> None:  # type: ignore[type-arg]
        for name, field in model.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
                visit(annotation)
            else:
                names.append(name)
                assert field.description, name

    visit(config_type)
    assert len(set(names)) == len(names)
    assert set(option_paths(config_type)) == set(names) - {"algorithm", "environment"}
