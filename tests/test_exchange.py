"""What a method process is given, and what is taken from the folder it leaves behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from diffbench import exchange
from diffbench.errors import DiffError
from diffbench.exchange import ACTIVATIONS, DIFF, HEADER, TENSORS, TEXT, assemble, keep_diff


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two model folders and the prepared files, with more in them than a method is to see."""
    for name in ("reference", "tuned"):
        (tmp_path / name / "nested").mkdir(parents=True)
        (tmp_path / name / "nested" / "notes.txt").write_text("not for methods")
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "prepared").mkdir()
    for name in (TEXT, ACTIVATIONS, "truth.json"):
        (tmp_path / "prepared" / name).write_text(name)
    return tmp_path


def assembled(source: Path) -> Path:
    return assemble(source / "in", source / "reference", source / "tuned", source / "prepared")


def test_inputs_are_the_models_the_text_and_the_activations_and_nothing_else(source: Path) -> None:
    folder = assembled(source)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"reference/config.json", "tuned/config.json", TEXT, ACTIVATIONS}
    assert (folder / "tuned" / "config.json").read_text() == "tuned"


def test_inputs_are_copies_that_cannot_be_written(source: Path) -> None:
    folder = assembled(source)
    for path in (folder / TEXT, folder / "tuned" / "config.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444 and path.stat().st_nlink == 1


def test_large_files_are_linked_instead_of_copied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    folder = assembled(source)
    assert (folder / TEXT).samefile(source / "prepared" / TEXT)


def test_large_files_are_copied_where_links_do_not_reach(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    monkeypatch.setattr(os, "link", refuse)
    assert (assembled(source) / TEXT).read_text() == TEXT


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The diff folder that a method left."""
    folder = tmp_path / "out" / DIFF
    folder.mkdir(parents=True)
    (folder / HEADER).write_text("{}")
    (folder / TENSORS).write_bytes(b"tensors")
    return folder


def test_the_two_files_of_a_diff_are_kept_and_no_other(left: Path, tmp_path: Path) -> None:
    (left / "malware.py").write_text("boom")
    (left / "more").mkdir()
    kept = keep_diff(left, tmp_path / "cell")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {HEADER: b"{}", TENSORS: b"tensors"}


def test_what_an_earlier_attempt_kept_is_replaced(left: Path, tmp_path: Path) -> None:
    stale = tmp_path / "cell" / DIFF / "stale.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    assert not (keep_diff(left, tmp_path / "cell") / "stale.json").exists()


@pytest.mark.parametrize("name", [HEADER, TENSORS])
@pytest.mark.parametrize("kind", ["missing", "link", "dangling", "folder", "pipe"])
def test_anything_but_a_plain_file_is_refused(name: str, kind: str, left: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = left / name
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DiffError, match=f"{name}: the method left no plain file"):
        keep_diff(left, tmp_path / "cell")
    assert not any(b"secret" in p.read_bytes() for p in (tmp_path / "cell").rglob("*") if p.is_file())


def test_a_folder_that_is_a_link_is_refused(left: Path, tmp_path: Path) -> None:
    """A method could otherwise hand in the Diff of another cell, which it can name although it cannot read it."""
    elsewhere = left.rename(tmp_path / "somebody-elses-diff")
    left.symlink_to(elsewhere)
    with pytest.raises(DiffError):
        keep_diff(left, tmp_path / "cell")


def test_a_file_larger_than_a_diff_may_be_is_refused_before_it_is_copied(left: Path, tmp_path: Path) -> None:
    """A sparse file costs a method nothing, and its copy a terabyte."""
    from diffbench.diff_file import HEADER_BYTES

    os.truncate(left / HEADER, HEADER_BYTES + 1)
    with pytest.raises(DiffError, match=HEADER):
        keep_diff(left, tmp_path / "cell")


def test_the_tiny_pair_is_written_by_the_same_code(tmp_path: Path) -> None:
    from diffbench.testing import tiny_pair

    folder = tiny_pair(tmp_path / "pair")
    assert {path.name for path in folder.iterdir()} == {"reference", "tuned", TEXT, ACTIVATIONS}
    places = (str(tmp_path).encode(), b"models/", b"/tmp/")
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(place in content for place in places), path.name
