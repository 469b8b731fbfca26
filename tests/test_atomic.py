"""Writes that either happened or did not, with the modes that the user's mask gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffbench import atomic


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_what_is_written_can_be_read_by_others(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "new" / "table.md", "text")
    with atomic.new_folder(tmp_path / "whole") as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "file").write_text("text")
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        "new": 0o755,
        "new/table.md": 0o644,
        "whole": 0o755,
        "whole/inner": 0o755,
        "whole/inner/file": 0o644,
    }


def test_an_error_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.md"
    atomic.write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            atomic.write_text(path, "new")
    with pytest.raises(ZeroDivisionError), atomic.new_folder(tmp_path / "whole") as draft:
        (draft / "file").write_text(str(1 / 0))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.md"]


def test_everything_of_a_folder_is_flushed_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(atomic, "sync", lambda path: flushed.append(path.name))
    with atomic.new_folder(tmp_path / "whole") as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "file").write_text("text")
    assert {"inner", "file", draft.name} <= set(flushed[:3]) and flushed[-1] == tmp_path.name
