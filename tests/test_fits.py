"""Fits on disk: whole or not there, never followed through a link, and tended by whoever is alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from diffbench.canonical import file_digest
from diffbench.errors import RecordError
from diffbench.fits import (
    FitFile,
    checked_file,
    fits_of,
    place_diff,
    publish_fit,
    read_fit,
    stored_fit,
    tended,
)

KEY = "a" * 64
FILES = {"diff/diff.json": "{}", "diff/tensors.safetensors": "tensors", "latents.parquet": "table"}


def fit_file(key: str = KEY) -> FitFile:
    return FitFile(
        key=key, organism="o", reference="base", method="m", method_version=1, method_package="p 1", seed=0,
        options={"k": 8}, tier="nano", started="2026-01-02T03:04:05+00:00", seconds=1.5, peak_memory_mb=10.0,
        sandbox="none", usage={"tokens": 3}, files={},
    )  # fmt: skip


def left(folder: Path, *, table: bool = True) -> Path:
    """What a method process and the engine leave."""
    (folder / "diff").mkdir(parents=True)
    for name, content in FILES.items():
        if table or name != "latents.parquet":
            (folder / name).write_text(content)
    (folder / "log.txt").write_text("log")
    return folder


def published(tmp_path: Path, **asked: bool) -> Path:
    path = tmp_path / "run" / "fits" / "o--m--s0--aaaaaaaa"
    publish_fit(path, left(tmp_path / "left", **asked), fit_file())
    return path


@pytest.mark.parametrize("table", [True, False])
def test_published_and_found_again(table: bool, tmp_path: Path) -> None:
    path = published(tmp_path, table=table)
    found = stored_fit(path, KEY)
    assert found is not None and found.path == path and found.file == read_fit(path)
    names = [name for name in FILES if table or name != "latents.parquet"]
    assert found.file.files == {name: file_digest(path / name) for name in names}
    assert found.file == fit_file().model_copy(update={"files": found.file.files})
    assert stored_fit(path, "b" * 64) is None
    assert stored_fit(tmp_path / "nowhere", KEY) is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", [*FILES, "fit.json"])
@pytest.mark.parametrize("damage", ["changed", "gone", "linked"])
def test_a_damaged_fit_is_not_found(name: str, damage: str, tmp_path: Path) -> None:
    path = published(tmp_path)
    content = (path / name).read_text()
    (path / name).unlink()
    if damage == "changed":
        (path / name).write_text(content[:-1] + "x")
    elif damage == "linked":
        (tmp_path / "same").write_text(content)
        (path / name).symlink_to(tmp_path / "same")
    assert stored_fit(path, KEY) is None


def test_linked_folders_are_not_followed(tmp_path: Path) -> None:
    path = published(tmp_path)
    (path / "diff").rename(tmp_path / "diff")
    (path / "diff").symlink_to(tmp_path / "diff")
    assert stored_fit(path, KEY) is None
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(RecordError, match="symbolic link"):
        read_fit(link)
    found = {entry.name: problem for entry, _, problem in fits_of(tmp_path / "run")}
    assert found[path.name] == "" and "symbolic link" in found["link"]


def test_a_fit_that_names_other_files_is_not_believed(tmp_path: Path) -> None:
    path = published(tmp_path)
    file = read_fit(path)
    for files in ({}, {"diff/diff.json": file.files["diff/diff.json"]}, file.files | {"../../../etc/passwd": "0" * 64}):
        (path / "fit.json").write_text(file.model_copy(update={"files": files}).model_dump_json())
        assert stored_fit(path, KEY) is None


def test_a_fit_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = published(tmp_path)
    (path / "latents.parquet").write_text("damaged")
    (path / "stale").write_text("stale")
    again = left(tmp_path / "again", table=False)
    publish_fit(path, again, fit_file())
    assert stored_fit(path, KEY) is not None
    assert sorted(entry.name for entry in path.iterdir()) == ["diff", "fit.json", "log.txt"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    path = tmp_path / "run" / "fits" / "fit"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(OSError):
        publish_fit(path, left(tmp_path / "left"), fit_file())
    assert path.read_text() == "mine" and [entry.name for entry in path.parent.iterdir()] == ["fit"]


def test_rows_share_the_tensors_and_own_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published(tmp_path)
    fit = stored_fit(path, KEY)
    assert fit is not None
    cell = tmp_path / "run" / "cells" / "row"
    placed = place_diff(fit.path, cell)
    (placed / "stale").write_text("stale")
    placed = place_diff(fit.path, cell)
    assert placed == cell / "diff" and sorted(os.listdir(placed)) == ["diff.json", "tensors.safetensors"]
    assert os.path.samefile(placed / "tensors.safetensors", path / "diff" / "tensors.safetensors")
    (placed / "diff.json").write_text("other")
    assert (path / "diff" / "diff.json").read_text() == "{}"

    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    placed = place_diff(fit.path, tmp_path / "elsewhere")
    assert (placed / "tensors.safetensors").read_text() == "tensors"
    assert not os.path.samefile(placed / "tensors.safetensors", path / "diff" / "tensors.safetensors")


def test_drafts_are_removed_by_one_who_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    drafts = [folder / "fits" / ".o--m.0123", folder / "cells" / "row" / ".record.json.0123"]

    def make() -> None:
        drafts[0].mkdir(parents=True, exist_ok=True)
        drafts[1].parent.mkdir(parents=True, exist_ok=True)
        drafts[1].write_text("{")

    make()
    with tended(folder):
        assert not any(draft.exists() for draft in drafts)
        make()
        with tended(folder):
            assert all(draft.exists() for draft in drafts), "another process may still be writing them"
    with tended(folder):
        assert not any(draft.exists() for draft in drafts)
    handle = os.open(folder / "fits", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more
    os.close(handle)


def test_a_file_that_changed_is_named(tmp_path: Path) -> None:
    path = published(tmp_path)
    file = read_fit(path)
    assert checked_file(path, file, "latents.parquet") == path / "latents.parquet"
    (path / "latents.parquet").write_text("other")
    with pytest.raises(RecordError, match=r"latents\.parquet: changed or missing since the fit was finished"):
        checked_file(path, file, "latents.parquet")


def test_something_else_in_the_place_of_fits_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "fits").write_text("mine")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "fits").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(RecordError, match=r"fits: .*; make room or remove it") as caught, tended(tmp_path / name):
            pass
        assert len(str(caught.value).splitlines()) == 1
