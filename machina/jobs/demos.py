"""What a set of demonstrations holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from machina.demonstrations import DemonstrationSet, RecordedEpisode, Who, load_set


class EpisodeRow(NamedTuple):
    """One episode of a set, for a table."""

    number: int
    file: str
    environment: str
    episode_return: float
    length: int
    who: str
    """Kind of player and its share of the steps: ``policy 80 %, person 20 %``; its name where it acted alone."""
    end: str
    seed: int | None
    pictures: str
    protocol: str


def demos_info(folder: Path) -> tuple[list[EpisodeRow], DemonstrationSet]:
    """A row of every episode of a set, and the set itself, which names the files that were refused.

    Raises:
        UserError: no such folder, or no good episode in it.
    """
    demonstrations = load_set(folder)
    return [_row(episode) for episode in demonstrations.episodes], demonstrations


def _row(episode: RecordedEpisode) -> EpisodeRow:
    header, arrays = episode.header, episode.arrays()
    ends = [name for name in ("terminated", "truncated") if arrays[name][-1]]
    height, width, _ = header.picture_shape or (0, 0, 0)
    return EpisodeRow(
        number=episode.index,
        file=episode.path.name,
        environment=header.spec.name,
        episode_return=header.episode_return,
        length=header.length,
        who=_who(header.players, arrays["who"].tolist()),
        end=" and ".join(ends) or "neither flag",
        seed=header.seed,
        pictures=f"{width}x{height}" if header.picture_shape else "none",
        protocol=", ".join(f"{name} {value}" for name, value in header.spec.protocol.items()),
    )


def _who(players: dict[str, str], acted: list[int]) -> str:
    kinds = [(Who(number).name.lower(), count) for number, count in Counter(acted).most_common()]
    if len(kinds) == 1:
        kind = kinds[0][0]
        return kind if players.get(kind, kind) == kind else f"{kind} {players[kind]}"
    return ", ".join(f"{kind} {count / len(acted):.0%}" for kind, count in kinds)
