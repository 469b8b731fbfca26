"""Archive: plain files in one .tar.gz, written so that equal files give equal bytes, and read without being believed.

Only the plainest form of tar is read: ustar headers of regular files under short, ordinary, relative names, each once.
Everything else that tar knows (links, devices, folders, sparse files, extended headers) is refused by name before a
byte of it is kept, and `tarfile` itself never gets to follow an extension: it parses single headers alone.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from diffbench.atomic import new_file
from diffbench.errors import SubmissionError
from diffbench.line import one_line

BLOCK, CHUNK = 512, 1 << 20
LONGEST_NAME, DEEPEST = 240, 4
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*")
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.AREGTYPE: "a file in the form of before ustar",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.GNUTYPE_LONGNAME: "an extended header",
    tarfile.GNUTYPE_LONGLINK: "an extended header",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}

Admit = Callable[[str, int], str | None]
"""Gets a member's name and bytes before they are read and says why it is not let in, if so."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A member that was read: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


def write_archive(path: Path, files: Sequence[tuple[str, Path | bytes]]) -> None:
    """Write files under their names, in the order given, atomically; no time, owner or mode of theirs is told.

    Raises:
        SubmissionError: for a name that `read_archive` would refuse.
        OSError: if something cannot be read or written.
    """
    for name, _ in files:
        if (why := odd_name(name)) is not None:
            raise SubmissionError(f"{one_line(name, 200)}: {why}; it cannot go into an archive")
    with (
        new_file(path) as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed,
    ):
        for name, source in files:
            info = tarfile.TarInfo(name)
            info.size = len(source) if isinstance(source, bytes) else source.stat().st_size
            try:
                packed.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
            except ValueError:
                raise SubmissionError(f"{one_line(name, 200)}: a name too long for an archive") from None
            packed.write(source) if isinstance(source, bytes) else _copy(source, info.size, packed)
            packed.write(bytes(-info.size % BLOCK))
        packed.write(bytes(2 * BLOCK))


def read_archive(path: Path, into: Path, admit: Admit) -> list[Unpacked]:
    """Unpack an archive of a stranger into an empty folder, one member after the other.

    Args:
        path: the archive.
        into: an empty folder.
        admit: asked about each member before it is read; the members before it lie in ``into`` by then.

    Raises:
        SubmissionError: naming the member that is not what it should be, or what is wrong with the whole.
    """
    found: list[Unpacked] = []
    taken: set[str] = set()
    try:
        with gzip.open(path, "rb") as stream:
            while (info := _header(stream)) is not None:
                name = _checked(info, taken)
                if (why := admit(name, info.size)) is not None:
                    raise SubmissionError(f"{name}: {why}")
                found.append(Unpacked(name, info.size, _unpack(stream, name, info.size, into / name)))
            if stream.read(CHUNK).strip(b"\0") or stream.read(1):  # tar fills its last record with zeros, no more
                raise SubmissionError("something follows the end of the archive")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = f" after {found[-1].name}" if found else ""
        raise SubmissionError(f"no whole .tar.gz: it is cut off or damaged{where} ({one_line(error, 100)})") from None
    return found


def odd_name(name: str) -> str | None:
    """Why a member must not have that name; None: it may."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name:
        return "an absolute path, or one of another system"
    if ".." in parts:
        return "a path that leads out of the archive"
    if unicodedata.normalize("NFC", name) != name or not name.isascii() or not name.isprintable():
        return "an odd name: only plain ASCII letters, digits, '.', '_', '@', '+' and '-' are read"
    if len(name) > LONGEST_NAME or len(parts) > DEEPEST:
        return "a name that is too long or too deep"
    if not all(PART.fullmatch(part) for part in parts):
        return "an odd name: a part of it is empty, hidden, or holds other characters"
    return None


def _header(stream: BinaryIO | gzip.GzipFile) -> tarfile.TarInfo | None:
    """The next header; None at the end."""
    block = _exactly(stream, BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, ArithmeticError) as error:
        raise SubmissionError(f"no archive: a header is malformed ({one_line(error, 100)})") from None


def _checked(info: tarfile.TarInfo, taken: set[str]) -> str:
    """The name of a regular file's header that may be read."""
    name = info.name
    shown = one_line(name.encode("utf-8", "replace").decode(), 200)
    if info.type != tarfile.REGTYPE:
        raise SubmissionError(f"{shown}: {KINDS.get(info.type, 'of a kind that is not known')}, no plain file")
    if (why := odd_name(name)) is not None:
        raise SubmissionError(f"{shown}: {why}")
    if info.size < 0 or info.linkname:
        raise SubmissionError(f"{shown}: its header is malformed")
    folded = name.casefold()
    if folded in taken:
        raise SubmissionError(f"{shown}: twice in the archive, as far as some file systems can tell")
    taken.add(folded)
    return name


def _unpack(stream: BinaryIO | gzip.GzipFile, name: str, size: int, target: Path) -> str:
    """Write one member's bytes to a new file; its SHA-256."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as kept:
            known = hashlib.sha256()
            left = size
            while left:
                chunk = _exactly(stream, min(left, CHUNK))
                known.update(chunk)
                kept.write(chunk)
                left -= len(chunk)
    except (FileExistsError, NotADirectoryError):
        raise SubmissionError(f"{name}: a file and a folder at once") from None
    _exactly(stream, -size % BLOCK)
    return known.hexdigest()


def _exactly(stream: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = stream.read(left)
        if not part:
            raise EOFError("the archive ends too early")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _copy(source: Path, size: int, target: gzip.GzipFile) -> None:
    with source.open("rb") as stream:
        shutil.copyfileobj(stream, target, CHUNK)
        if stream.tell() != size:
            raise SubmissionError(f"{source}: changed while it was packed; try again")
