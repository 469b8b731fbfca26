"""Archives: equal files give equal bytes, and whatever a stranger may put into one is refused by name."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diffbench.archive import BLOCK, LONGEST_NAME, odd_name, read_archive, write_archive
from diffbench.errors import SubmissionError

FILES = [("b/two.txt", b"two"), ("a.txt", b"one" * 1000), ("b/empty", b"")]


def anything(name: str, size: int) -> None:
    """Lets everything in."""


def packed(path: Path, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Path:
    """An archive of any members, written by somebody else."""
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            archive.addfile(info, io.BytesIO(content))
    return path


def file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(kind: bytes, name: str = "thing", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def refusal(path: Path, into: Path) -> str:
    into.mkdir(exist_ok=True)
    with pytest.raises(SubmissionError) as caught:
        read_archive(path, into, anything)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 500
    return message


def test_equal_files_give_equal_bytes_whenever_and_whosever_they_are(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    write_archive(tmp_path / "one.tar.gz", [*FILES, ("c", source)])
    os.utime(source, (1, 1))
    source.chmod(0o600)
    write_archive(tmp_path / "two.tar.gz", [*FILES, ("c", source)])
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as archive:  # anybody's tar reads it
        members = archive.getmembers()
    assert [member.name for member in members] == ["b/two.txt", "a.txt", "b/empty", "c"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.tar.gz", FILES)
    (tmp_path / "out").mkdir()
    asked: list[tuple[str, int]] = []
    found = read_archive(tmp_path / "a.tar.gz", tmp_path / "out", lambda name, size: asked.append((name, size)))
    assert [(member.name, member.size) for member in found] == asked == [(name, len(data)) for name, data in FILES]
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in FILES)


def test_an_archive_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"before")
    with pytest.raises(OSError, match="gone"):
        write_archive(tmp_path / "a.tar.gz", [("a", b"x"), ("b", tmp_path / "gone")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    assert (tmp_path / "a.tar.gz").read_bytes() == b"before"
    with pytest.raises(SubmissionError, match=r"\.\./a: a path that leads out"):
        write_archive(tmp_path / "b.tar.gz", [("../a", b"x")])


ODD = {
    "/etc/passwd": "absolute",
    "C:/x": "absolute",
    "a\\b": "absolute",
    "../x": "leads out",
    "a/../../x": "leads out",
    "cafe\u0301": "odd name",
    "caf\u00e9": "odd name",
    "a\nb": "odd name",
    "a\x1b[31mb": "odd name",
    "": "odd name",
    "a//b": "odd name",
    "./a": "odd name",
    ".hidden": "odd name",
    "a/.git": "odd name",
    "a b": "odd name",
    "-rf": "odd name",
    "a/": "odd name",
    "a/b/c/d/e": "too long or too deep",
    "a" * (LONGEST_NAME + 1): "too long or too deep",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_told(name: str) -> None:
    assert ODD[name] in (odd_name(name) or "")
    assert odd_name("cells/half-swap@7--a_b+c.d--s0--01234567/diff/tensors.safetensors") is None


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/tmp/diffbench-escaped", "cafe\u0301", "a/.b"])
def test_nothing_leaves_the_folder_it_is_unpacked_to(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", file("good"), file(name))
    assert ODD.get(name, "") in refusal(path, tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["a.tar.gz", "good", "out"]
    assert not Path("/tmp/diffbench-escaped").exists()


KINDS: dict[str, tarfile.TarInfo] = {
    "a symbolic link": special(tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": special(tarfile.LNKTYPE, link="good"),
    "a character device": special(tarfile.CHRTYPE),
    "a block device": special(tarfile.BLKTYPE),
    "a pipe": special(tarfile.FIFOTYPE),
    "a folder": special(tarfile.DIRTYPE),
    "a sparse file": special(tarfile.GNUTYPE_SPARSE),
    "an extended header": special(tarfile.XHDTYPE),
    "of a kind that is not known": special(b"Z"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_plain_files_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as stream:
        info, content = file("good")
        for member, data in ((info, content), (KINDS[kind], b"")):
            stream.write(member.tobuf(tarfile.USTAR_FORMAT) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0"))
        stream.write(bytes(2 * BLOCK))
    assert refusal(path, tmp_path / "out") == f"thing: {kind}, no plain file"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["good"]


def test_a_long_name_of_pax_or_gnu_is_refused_before_its_header_is_read(tmp_path: Path) -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=form) as archive:
            info, content = file("d/" * 30 + "x" * 150)
            archive.addfile(info, io.BytesIO(content))
        assert "an extended header, no plain file" in refusal(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("second", ["a.txt", "A.TXT"])
def test_a_name_comes_once(second: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", file("a.txt"), file(second, b"other"))
    assert refusal(path, tmp_path / "out").startswith(f"{second}: twice in the archive")
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"x"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    assert "a file and a folder at once" in refusal(
        packed(tmp_path / "a.tar.gz", file("a"), file("a/b")), tmp_path / "out"
    )


def test_whoever_is_not_admitted_is_not_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", file("small"), file("large", b"y" * 5000))
    (tmp_path / "out").mkdir()
    with pytest.raises(SubmissionError, match=r"^large: 5000 is too much$"):
        read_archive(path, tmp_path / "out", lambda name, size: f"{size} is too much" if size > 100 else None)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["small"]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda data: data[: len(data) // 2], "cut off or damaged"),
    "cut off at the end": (lambda data: data[:-4], "cut off or damaged"),
    "no gzip": (lambda data: b"hello" * 100, "no whole .tar.gz"),
    "empty": (lambda data: b"", "cut off or damaged"),
    "flipped": (lambda data: data[:-8] + bytes(4) + data[-4:], "no whole .tar.gz"),
    "no tar": (lambda data: gzip.compress(b"hello" * 500), "a header is malformed"),
    "no end": (lambda data: gzip.compress(gzip.decompress(data)[: 3 * BLOCK]), "cut off or damaged"),
    "something behind": (lambda data: data + gzip.compress(b"more"), "something follows the end"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_archive_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    change, message = DAMAGE[what]
    write_archive(tmp_path / "a.tar.gz", [("a", os.urandom(700)), ("b", os.urandom(9000))])
    path = tmp_path / "b.tar.gz"
    path.write_bytes(change((tmp_path / "a.tar.gz").read_bytes()))
    assert message in refusal(path, tmp_path / "out")


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    info, _ = file("a")
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" * 12  # minus one, in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(2 * BLOCK)))
    assert refusal(tmp_path / "a.tar.gz", tmp_path / "out") == "a: its header is malformed"
