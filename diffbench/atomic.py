"""Writes that either happened or did not: temporary name, fsync, ``os.replace``."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader or a crash sees the old file or the new one, never a part."""
    with new_file(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes become ``path`` when the block ends without an error; else nothing is left of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        with draft.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends without an error.

    If ``path`` exists by then (another process was faster), the new folder is discarded, or takes its place if
    ``replace`` says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, old = _draft(path), _draft(path)
    draft.mkdir()
    try:
        yield draft
        for part in (*draft.rglob("*"), draft):
            if part.is_file() or part.is_dir():
                sync(part)
        if replace and path.is_dir() and not path.is_symlink():
            os.replace(path, old)
        try:
            os.replace(draft, path)
        except OSError:
            if not path.is_dir():
                raise
        sync(path.parent)
    finally:
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)


def _draft(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody else has."""
    return path.parent / f".{path.name[:16]}.{secrets.token_hex(8)}"


def sync(path: Path) -> None:
    """Flush a file, or a folder's own entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_once(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, unless it is there already: of two writers the first one wins."""
    draft = _draft(path)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)
