"""How a running or finished run looks on a terminal: pure functions from a moment of the run to text."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.text import Text

from machina.league.table import LeagueTable, rating_text

PAGE_S = 6
"""Seconds each page of tasks is shown when not all fit."""

_SHARE_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")
_GAP = "   "
_CLOCK_WIDTH = 10
"""Of the clock and the space before it."""
_LEAGUE_NAMES = 5


class RunFacts(NamedTuple):
    """What does not change while a run trains; one short line each."""

    name: str
    algorithm: str
    environment: str
    protocol: str
    network: str
    rewards: str
    machine: str
    goal: str
    exploration: str = ""
    """Empty where nothing is to be said of it."""
    replay: str = ""
    """The same."""


class TaskRow(NamedTuple):
    """Training episodes of one task."""

    task: str
    episodes: int
    mean_return: float | None
    """Over the latest episodes; None before one has ended."""
    human_normalized: float | None = None
    """Fraction; None for a task without references."""
    sigma: float | None = None
    """PopArt's scale of the task."""


class RunMoment(NamedTuple):
    """One moment of a run."""

    env_steps: int
    frames: int
    total_frames: int
    elapsed_s: float
    env_steps_per_s: float
    frames_per_s: float
    updates: int
    updates_per_s: float
    policy_lag_mean: float | None
    policy_lag_max: float | None
    shares: Mapping[str, float]
    """Fractions of the threads' time by name, in the order of display."""
    ceiling: float | None
    """Speed as a fraction of this machine's serial ceiling; None when it was never measured."""
    done: float
    """Fraction of the way to the run's goal."""
    eta_s: float | None
    """Seconds until the run's goal; None when unknown."""
    checkpoint: Path | None
    faults: str
    """What went wrong and was repaired; empty when nothing."""
    tasks: Sequence[TaskRow]
    league: LeagueTable | None = None


class _Column(NamedTuple):
    title: str
    width: int


_RETURN = _Column("return", 8)
_NORMALIZED = _Column("human", 8)
_EPISODES = _Column("episodes", 8)
_SIGMA = _Column("sigma", 8)


def league_lines(league: LeagueTable) -> list[Text]:
    """The best ratings, and whom the pool offers most."""
    ratings = [f"{row.name} {rating_text(row)}" for row in league.ratings[:_LEAGUE_NAMES]]
    offered = ", ".join(f"{row.name} {row.probability:.0%}" for row in league.most_probable(_LEAGUE_NAMES))
    games = league.games
    pool = f"{len(league.snapshots)} snapshots; {games.itself:,} games against itself, {games.pool:,} against "
    return [
        _labelled("ratings", ", ".join(ratings)),
        _labelled("pool", pool + (f"them; next: {offered}" if offered else "them")),
    ]


def render(facts: RunFacts, moment: RunMoment, notices: Sequence[str], width: int, height: int) -> Text:
    """The live view, at most ``height`` lines of at most ``width`` cells."""
    lines = [*_head(facts, moment, width), *(_labelled("", notice, "yellow") for notice in notices)]
    if moment.league is not None:
        lines += league_lines(moment.league)
    room = height - len(lines) - 1
    if room >= 2:
        lines += [Text(""), *task_lines(moment.tasks, width, room, page=int(moment.elapsed_s // PAGE_S))]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines[:height])


def plain_line(moment: RunMoment) -> str:
    """One line for a log file."""
    parts = [
        clock(moment.elapsed_s),
        f"env steps {moment.env_steps:,} ({moment.done:.2%})",
        f"{moment.env_steps_per_s:,.0f}/s",
        f"updates {moment.updates_per_s:.1f}/s",
    ]
    if moment.policy_lag_mean is not None:
        parts.append(f"lag {moment.policy_lag_mean:.1f}")
    parts.append(summary_of_returns(moment.tasks))
    if moment.eta_s is not None:
        parts.append(f"eta {duration(moment.eta_s)}")
    return "  ".join(parts)


def summary_of_returns(tasks: Sequence[TaskRow]) -> str:
    """The training returns of all tasks in a few words."""
    played = [row for row in tasks if row.mean_return is not None]
    if not played:
        return "no episode has ended"
    normalized = [row.human_normalized for row in played if row.human_normalized is not None]
    if len(tasks) > 1 and len(normalized) == len(played):
        return f"human-normalized median {statistics.median(normalized):.1%} ({len(played)} of {len(tasks)} games)"
    shown = ", ".join(f"{number(row.mean_return)} ({row.task})" for row in played[:3])
    return f"return {shown}" + (f" and {len(played) - 3} more" if len(played) > 3 else "")


def task_lines(tasks: Sequence[TaskRow], width: int, height: int | None, page: int = 0) -> list[Text]:
    """Tasks in as many columns side by side as fit; when ``height`` lines can't hold all, page ``page`` of them."""
    columns, name_width = _columns(tasks, width, height)
    block_width = name_width + sum(column.width + 1 for column in columns)
    most_blocks = max(1, (width + len(_GAP)) // (block_width + len(_GAP)))
    room = len(tasks) if height is None else max(1, height - 1)
    blocks = min(most_blocks, math.ceil(len(tasks) / room)) if height is not None else min(most_blocks, len(tasks))
    if height is None:
        room = math.ceil(len(tasks) / blocks)
    title = ""
    shown: Sequence[TaskRow] = tasks
    if blocks * room < len(tasks):
        room = max(1, room - 1)
        per_page = blocks * room
        first = page % math.ceil(len(tasks) / per_page) * per_page
        shown = tasks[first : first + per_page]
        title = f"tasks {first + 1} to {first + len(shown)} of {len(tasks)}, the others follow"
    room = min(room, math.ceil(len(shown) / blocks))
    cells = [_cells(row, columns, name_width) for row in shown]
    heading = "task".ljust(name_width) + "".join(" " + column.title.rjust(column.width) for column in columns)
    lines = [Text(_GAP.join([heading] * math.ceil(len(cells) / room)), style="bold")]
    lines += [Text(_GAP).join(cells[row::room]) for row in range(room)]
    return [*lines, Text(title, style="dim")] if title else lines


def final_lines(
    facts: RunFacts, run: Path, reason: str, tasks: Sequence[TaskRow], width: int, *, league: bool, complete: bool
) -> list[Text]:
    """What is printed when a run has ended: why, the training returns, where it lies, what can be done with it.

    A run whose schedule is ``complete`` continues only when it is given more.
    """
    named = shlex.quote(str(run))
    score = {"score": f"machina eval {named}"}
    if league:
        score = {"ratings": f"machina report {named}", "match": f"machina match {named} random"}
    lines = [
        Text(f"{facts.algorithm} on {facts.environment}: {reason}", style="bold"),
        Text(f"training returns, mean of the latest episodes ({summary_of_returns(tasks)})"),
        Text(""),
        *task_lines(tasks, width, None),
        Text(""),
        _labelled("run", str(run), "bold"),
    ]
    commands = {
        "continue": f"machina resume {named}{' --total-frames N' if complete else ''}",
        **score,
        "watch": f"machina watch {named}",
        "plot": f"machina plot {named}",
        "curves": f"tensorboard --logdir {named}",
    }
    return lines + [_labelled(name, command, "cyan") for name, command in commands.items()]


def number(value: float | None) -> str:
    """A number in at most 8 cells; ``–`` for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    for digits, most in ((2, 7), (1, 7), (0, 8)):
        text = f"{value:,.{digits}f}"
        if len(text) <= most:
            return text
    for divisor, unit in ((1e6, "M"), (1e9, "G")):
        if abs(value) < 999.95 * divisor:
            return f"{value / divisor:.1f}{unit}"
    return f"{value:.1e}"


def clock(seconds: float) -> str:
    """``01:02:03``."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def duration(seconds: float) -> str:
    """``45s``, ``12m``, ``1h02m``, ``3d04h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02d}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02d}h"


def _labelled(label: str, value: str | Text, style: str = "") -> Text:
    """A label and its value on one line, whatever line ends the value has."""
    if isinstance(value, str):
        value = Text(" ".join(value.split()), style=style)
    # Appended, not the base style: that one would dim the value too.
    return Text().append(f"{label:<11}", style="dim").append_text(value)


def _head(facts: RunFacts, moment: RunMoment, width: int) -> list[Text]:
    title = Text(f"{facts.algorithm} on {facts.environment}", style="bold")
    name: list[Text] = []
    if title.cell_len + len(facts.name) + 2 <= width - _CLOCK_WIDTH:
        title.append(f"  {facts.name}", style="not bold cyan")
    else:  # a line of its own rather than half of it
        name = [_labelled("run", facts.name, "cyan")]
    title.truncate(max(0, width - _CLOCK_WIDTH), overflow="ellipsis", pad=True)
    title.append(clock(moment.elapsed_s).rjust(_CLOCK_WIDTH), style="bold")
    speed = f"{moment.env_steps_per_s:,.0f} env steps/s · {moment.frames_per_s:,.0f} frames/s · "
    if moment.ceiling is None:
        speed += "limit unknown: machina doctor"
    else:
        speed += f"{moment.ceiling:.0%} of this machine's limit"
    learner = f"{moment.updates_per_s:,.1f} updates/s · {moment.updates:,} updates"
    if moment.policy_lag_mean is not None and moment.policy_lag_max is not None:
        learner += f" · policy lag {moment.policy_lag_mean:.1f} (max {moment.policy_lag_max:.0f})"
    lines = [
        title,
        *name,
        _labelled("protocol", facts.protocol),
        _labelled("network", facts.network),
        _labelled("rewards", facts.rewards),
        *([_labelled("exploration", facts.exploration)] if facts.exploration else []),
        *([_labelled("replay", facts.replay)] if facts.replay else []),
        _labelled("machine", facts.machine),
        _labelled("goal", facts.goal),
        _progress(moment, width),
        _labelled("speed", speed),
        _labelled("learner", learner),
        _shares(moment.shares, width),
        _labelled("checkpoint", str(moment.checkpoint) if moment.checkpoint else "none yet"),
    ]
    return [*lines, _labelled("faults", moment.faults, "red")] if moment.faults else lines


def _progress(moment: RunMoment, width: int) -> Text:
    done = moment.done
    eta = "" if moment.eta_s is None else f" · eta {duration(moment.eta_s)}"
    total = f"{moment.frames:,} of {moment.total_frames:,} frames{eta}"  # as the goal is given
    text = f" {done:.2%} · {total}"
    room = max(10, min(40, width - 11 - len(text)))
    return _labelled("progress", _bar([(done, "green"), (1 - done, "bright_black")], room).append(text))


def _shares(shares: Mapping[str, float], width: int) -> Text:
    if not shares:
        return _labelled("time", "not measured yet", "dim")
    coloured = [
        (name, share, _SHARE_COLOURS[index % len(_SHARE_COLOURS)]) for index, (name, share) in enumerate(shares.items())
    ]
    legend = Text("")
    for name, share, colour in coloured:
        legend.append(f" {name} {share:.0%}", style=colour)
    room = max(10, min(40, width - 11 - legend.cell_len))
    return _labelled("time", _bar([(share, colour) for _, share, colour in coloured], room).append_text(legend))


def _bar(parts: Sequence[tuple[float, str]], width: int) -> Text:
    """Coloured segments that fill ``width`` cells in proportion."""
    bar = Text("")
    total = sum(part for part, _ in parts) or 1.0
    reached, drawn = 0.0, 0
    for part, colour in parts:
        reached += part / total
        end = round(reached * width)
        bar.append("━" * (end - drawn), style=colour)
        drawn = end
    return bar


def _columns(tasks: Sequence[TaskRow], width: int, height: int | None) -> tuple[list[_Column], int]:
    """The columns and the width of the names: the most informative with which every task fits, else for pages."""
    normalized = [_NORMALIZED] if any(row.human_normalized is not None for row in tasks) else []
    sigma = [_SIGMA] if any(row.sigma is not None for row in tasks) else []
    longest = max([4, *(len(row.task) for row in tasks)])
    choices = [
        ([_RETURN, *normalized, _EPISODES, *sigma], longest),
        ([_RETURN, *normalized, *sigma], longest),
        ([_RETURN, *normalized], longest),
        ([_RETURN, *normalized], min(longest, 12)),
        ([_RETURN], min(longest, 12)),
    ]
    if height is None:
        choices = choices[:1] if longest + 40 <= width else choices[2:3]
    for columns, name_width in choices:
        block = name_width + sum(column.width + 1 for column in columns) + len(_GAP)
        blocks = (width + len(_GAP)) // block
        if blocks >= 1 and (height is None or blocks * (height - 1) >= len(tasks)):
            return columns, name_width
    return choices[2]


def _cells(row: TaskRow, columns: Sequence[_Column], name_width: int) -> Text:
    name = row.task if len(row.task) <= name_width else row.task[: name_width - 1] + "…"
    text = Text().append(name.ljust(name_width), style="dim" if row.mean_return is None else "")
    for column in columns:
        if column is _RETURN:
            cell, style = number(row.mean_return), ""
        elif column is _NORMALIZED:
            cell, style = _percent(row.human_normalized), _normalized_style(row.human_normalized)
        elif column is _EPISODES:
            cell, style = f"{row.episodes:,}", "dim"
        else:
            cell, style = number(row.sigma), "dim"
        text.append(" " + cell.rjust(column.width), style=style)
    return text


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    return f"{fraction:.1%}" if abs(fraction) < 100 else f"{fraction:.0%}"


def _normalized_style(fraction: float | None) -> str:
    """Green from human level on, yellow for better than random play."""
    if fraction is None:
        return ""
    return "green" if fraction >= 1 else "yellow" if fraction > 0 else "dim"
