"""Files are written whole or not at all, and what can't be written is one line."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from machina.checkpoint import files
from machina.checkpoint.files import write_or_refuse
from machina.errors import RunFailedError, UserError


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "page.md"
    for content in (b"old", b"new"):
        write_or_refuse(file, content, "report")
        assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("what", "begins"), [("", ""), ("report", "report ")])
def test_a_refusal_is_one_line_that_names_the_file(what: str, begins: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")
    file = tmp_path / "a" / "page.md"
    with pytest.raises(RunFailedError) as refused:
        write_or_refuse(file, b"new", what)
    assert str(refused.value) == f"{begins}'{file}' could not be written: File exists"
    assert isinstance(refused.value.__cause__, FileExistsError)
    with pytest.raises(UserError, match="could not be written"):
        write_or_refuse(file, b"new", what, UserError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_says_how_much_room_it_has(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.md"
    write_or_refuse(file, b"old")

    def refuse(path: Path, content: bytes) -> None:
        path.write_bytes(content[:1])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "write_synced", refuse)
    with pytest.raises(RunFailedError) as refused:
        write_or_refuse(file, b"new")
    room = "" if number == errno.EROFS else r" \([0-9.]+ [KMGT]?i?B free\)"
    whole = re.escape(f"'{file}' could not be written: {os.strerror(number)}") + room
    assert re.fullmatch(whole, str(refused.value))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file], "nothing half is left"
