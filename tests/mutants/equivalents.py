"""The wrong lines of ``equivalent.yaml``: each is one place of one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Equivalent(NamedTuple):
    """A wrong line that no test can distinguish from the right one."""

    file: str
    line: int
    before: str
    after: str


def placed(root: Path, entries: Iterable[Mapping[str, str]]) -> set[Equivalent]:
    """Entries with their lines.

    Args:
        root: of the tree.
        entries: ``file``, ``before``, ``after`` and ``why``; where the line stands several times in its file also
            ``below``, the line above the one that is meant. All without indentation.

    Raises:
        SystemExit: an entry means no place of its file, or several.
    """
    found = set()
    for entry in entries:
        lines = [line.strip() for line in (root / entry["file"]).read_text().splitlines()]
        places = [index for index, line in enumerate(lines) if line == entry["before"]]
        if "below" in entry:
            places = [index for index in places if index and lines[index - 1] == entry["below"]]
        if len(places) != 1:
            remedy = "say which by `below`, the line above it" if places else "correct it, or remove the entry"
            numbers = f" ({', '.join(str(index + 1) for index in places)})" if places else ""
            raise SystemExit(
                f"equivalent.yaml: {entry['before']!r} stands {len(places)} times{numbers} in {entry['file']}; {remedy}"
            )
        found.add(Equivalent(entry["file"], places[0] + 1, entry["before"], entry["after"]))
    return found
