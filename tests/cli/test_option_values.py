"""Extreme values of every option that is a number: one line that names field, value and range, or a sound run.

``make fuzz`` tries thousands; here a few, the same at every call.
"""

from __future__ import annotations

import contextlib
import io
import math
import operator
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
import yaml
from commands import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from machina.cli.doctor_command import DoctorOptions
from machina.cli.eval_command import EvalOptions
from machina.cli.main import main
from machina.cli.match_command import MatchOptions
from machina.cli.report_command import ReportOptions
from machina.cli.scale_command import ScaleOptions
from machina.cli.watch_command import WatchOptions
from machina.config import Config, option_paths
from machina.registry import ALGORITHMS, run_config_type

HANGS_S = 60
FEW = settings(max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")), derandomize=False)

SMALL = (
    *("--config", "defaults", "--hidden-sizes", "8", "--envs-per-task", "4", "--total-frames", "160"),
    *("--minutes", "0.004", "--eval-every", "80", "--eval-episodes", "1", "--name", "run"),
)
"""A run of a fraction of a second, whatever one of its options is."""

EXTREMES = (
    *(0, 1, -1, 2, 3, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**20 - 1),
    *(10**400, 0.1, 0.5, 1.5, -0.5, 1e-9, 5e-324, 1e-300, 1e30, 1e38, 3.5e38, 1e300, -1e300, 1.7e308),
    *(math.nan, math.inf, -math.inf),
)
WORDS = ("", "many", "1e", "0x10", "1_000", "٣", "None", "True", "1,000", "--seed", "\x00", "9" * 5000)
"""That are none of the numbers meant; some of them Python reads as numbers."""


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def run(*arguments: str) -> Outcome:
    """A command in this process; one that hangs fails, and an exception that leaves it is a traceback."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"no answer in {HANGS_S} s: {' '.join(arguments)}")

    out, err = io.StringIO(), io.StringIO()
    former, threads = signal.signal(signal.SIGALRM, hangs), torch.get_num_threads()
    signal.alarm(HANGS_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return Outcome(main(list(arguments)), out.getvalue(), err.getvalue())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        torch.set_num_threads(threads)


def is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(is_number, get_args(annotation)))


def numbers(model: type[Config]) -> dict[str, FieldInfo]:
    """Options that are numbers, by name."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            found |= numbers(field.annotation)
        elif is_number(field.annotation):
            found[name] = field
    return found


def limits(field: FieldInfo) -> list[Any]:
    """What bounds a number, or each of several."""
    inner = [part for union in get_args(field.annotation) for part in (union, *get_args(union))]
    return [
        *field.metadata,
        *(limit for part in inner for own in get_args(part) if isinstance(own, FieldInfo) for limit in own.metadata),
    ]


def near_bounds(field: FieldInfo) -> list[float]:
    """The bounds of a field and what lies just outside."""
    bounds = [
        value
        for each in limits(field)
        for key in ("ge", "gt", "le", "lt")
        if (value := getattr(each, key, None)) is not None
    ]
    return [value for bound in bounds for value in (bound, bound - 1, bound + 1, bound * (1 + 1e-9))]


def is_outside(field: FieldInfo, value: float) -> bool:
    """Whether the value is outside the field's bounds for sure."""
    if isinstance(value, float) and not math.isfinite(value):
        return True
    outside: dict[str, Callable[[Any, Any], bool]] = {
        "ge": operator.lt,
        "gt": operator.le,
        "le": operator.gt,
        "lt": operator.ge,
    }
    return any(
        compare(value, bound)
        for each in limits(field)
        for key, compare in outside.items()
        if (bound := getattr(each, key, None)) is not None
    )


def check(done: Outcome, what: str, refused: bool) -> None:
    shown = f"{what[:300]}\n-> {done.code}\n{done.out[-1500:]}\n{done.err[-1500:]}"
    assert "Traceback" not in done.out + done.err, shown
    assert done.code in (0, 1, 2), shown
    if done.code:
        lines = done.err.splitlines()
        assert lines, shown
        assert lines[-1].startswith("machina: "), shown
        assert len(lines[-1]) < 6000, shown
    if done.code == 2:
        assert len(done.err.splitlines()) == 1, shown
    if refused:
        assert done.code == 2, f"accepted: {shown}"


@st.composite
def values(draw: st.DrawFn, field: FieldInfo) -> Any:
    return draw(st.sampled_from((*EXTREMES, *near_bounds(field), *WORDS)))


def refuses(name: str, field: FieldInfo, value: Any, line: str) -> bool:
    """Whether the value is outside; then the line says field and range."""
    if isinstance(value, str) or not is_outside(field, value):
        return False
    if "must be " in line:  # else it is no number of the field's kind, such as NaN for an integer
        assert name in line, line
    return True


def check_job(data: st.DataObject, environments: tuple[str, ...]) -> None:
    algorithm = data.draw(st.sampled_from(sorted(ALGORITHMS)))
    environment = data.draw(st.sampled_from(environments))
    model = run_config_type(algorithm, environment)
    fields = numbers(model)
    name = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(values(fields[name]))
    with tempfile.TemporaryDirectory() as folder:
        arguments: tuple[str, ...] = ("train", algorithm, environment, *TINY, *SMALL, "--runs-dir", folder)
        if data.draw(st.booleans()):
            arguments = (*arguments, f"--{name.replace('_', '-')}={value}")
        else:
            content: Any = {name: [value] if "tuple" in str(fields[name].annotation) else value}
            for section in reversed(option_paths(model)[name]):
                content = {section: content}
            file = Path(folder) / "own.yaml"
            with contextlib.suppress(ValueError):  # yaml writes no number of thousands of digits
                file.write_text(yaml.safe_dump(content))
            rest = without(SMALL, "--config", f"--{name.replace('_', '-')}")
            tiny = without(TINY, f"--{name.replace('_', '-')}")
            arguments = ("train", algorithm, environment, "--config", str(file), *tiny, *rest, "--runs-dir", folder)
        done = run(*arguments)
    check(done, " ".join(arguments), refuses(name, fields[name], value, done.err))


def without(arguments: tuple[str, ...], *options: str) -> tuple[str, ...]:
    """Options and their values, less some."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return tuple(part for option, value in pairs if option not in options for part in (option, value))


COMMANDS: dict[str, tuple[type[Config], tuple[str, ...]]] = {
    "eval": (EvalOptions, ("RUN",)),
    "watch": (WatchOptions, ("RUN",)),
    "match": (MatchOptions, ("random", "one_ply", "--game", "connect_four")),
    "report": (ReportOptions, ("RUN",)),
    "scale": (ScaleOptions, ("RUN",)),
    "doctor": (DoctorOptions, ("impala", "catch")),
}
ENOUGH = 40
"""Larger numbers that are accepted would only take long."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = run("train", "impala", "catch", *TINY, *without(SMALL, "--minutes"), "--runs-dir", str(folder))
    assert done.code == 0, done
    return folder / "run"


def check_command(data: st.DataObject, trained: Path) -> None:
    command = data.draw(st.sampled_from(sorted(COMMANDS)))
    model, rest = COMMANDS[command]
    fields = numbers(model)
    name = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(values(fields[name]))
    long = not isinstance(value, str) and not is_outside(fields[name], value) and value > ENOUGH and name != "seed"
    if long or value == "1_000":
        return
    given = tuple(str(trained) if part == "RUN" else part for part in rest)
    small = {"eval": ("--episodes", "2"), "match": ("--games", "2"), "doctor": ("--seconds", "0.01")}.get(command, ())
    arguments = (command, *given, *without(small, f"--{name}"), f"--{name.replace('_', '-')}={value}")
    done = run(*arguments)
    check(done, " ".join(arguments), refuses(name, fields[name], value, done.err))


@FEW
@given(data=st.data())
def test_a_few_values_of_a_job(data: st.DataObject) -> None:
    check_job(data, ("catch", "CartPole-v1"))


@FEW
@given(data=st.data())
def test_a_few_values_of_commands(trained: Path, data: st.DataObject) -> None:
    check_command(data, trained)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@MANY
@given(data=st.data())
def test_values_of_jobs(data: st.DataObject) -> None:
    check_job(data, ("catch", "CartPole-v1", "pong"))


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@MANY
@given(data=st.data())
def test_values_of_commands(trained: Path, data: st.DataObject) -> None:
    check_command(data, trained)


REPORTED = (
    *(("--seed", "99999999999999999999"), ("--unroll-length", "99999999999999999999"), ("--clip", "1e300")),
    *(("--lstm-size", "99999999999999999999"), ("--envs-per-task", "99999999999999999999")),
    *(("--learner-threads", "99999999999999999999"), ("--unroll-length", "2147483648")),
    *(("--batch-size", "99999999999999999999"), ("--epochs", "99999999999999999999")),
)


@pytest.mark.parametrize(("option", "value"), REPORTED, ids=[" ".join(each) for each in REPORTED])
def test_values_that_ended_in_a_traceback_or_a_wait_without_end(option: str, value: str, tmp_path: Path) -> None:
    done = run("train", "ppo", "CartPole-v1", option, value, "--runs-dir", str(tmp_path))
    assert done.code == 2
    (line,) = done.err.splitlines()
    field = option.removeprefix("--").replace("-", "_")
    assert line.startswith(f"machina: {field}={float(value) if '.' in value or 'e' in value else value}: must be ")
    assert not list(tmp_path.iterdir())
