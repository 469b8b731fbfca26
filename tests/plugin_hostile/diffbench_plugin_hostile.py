"""Methods of a stranger that break every rule they can; `act` says which. Tests install it as a distribution."""

from __future__ import annotations

import gc
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

import diffbench
from diffbench import (
    Context,
    DictionaryDiff,
    DirectionDiff,
    Field,
    FileField,
    Method,
    MethodOptions,
    ModelPair,
    NotApplicable,
    describe,
    hookimpl,
)

DIARY = os.environ.get("HOSTILE_DIARY")
if DIARY:
    with open(DIARY, "a", encoding="utf-8") as stream:
        stream.write("imported where scores are made\n" if "diffbench.score" in sys.modules else "imported elsewhere\n")


def _write_and_remove(path: Path) -> None:
    path.write_text("mine")
    path.unlink()


class Hostile(Method):
    """Does what it is told."""

    name = "hostile"
    summary = "does what its option says"

    class Options(MethodOptions):
        """What to do."""

        act: str = "fine"
        argument: str = ""

    def run(self, pair: ModelPair, ctx: Context) -> DirectionDiff:
        """Do it."""
        return ACTS[self.options.act](pair, ctx, self.options.argument)


class Second(Hostile):
    """The same under another name, so that one run can hold several."""

    name = "hostile-2"


class Third(Hostile):
    """The same under yet another name."""

    name = "hostile-3"


class Ranked(Method):
    """A small random dictionary that can be ranked in several ways; the one method here that behaves."""

    name = "ranked"
    summary = "a random dictionary with several columns"

    class Options(MethodOptions):
        """What to read, and how long to take."""

        weights: str | None = FileField(description="a file or folder whose content goes into the notes")
        sleep: float = Field(0.0, ge=0, description="seconds to wait at the end")

    def run(self, pair: ModelPair, ctx: Context) -> DictionaryDiff:
        """Draw it; columns run against each other, and two of them have holes."""
        sys.stdout.write("fitted\n")
        draw, n, d = torch.Generator().manual_seed(ctx.seed), 24, pair.width
        rising = torch.arange(n, dtype=torch.float32)
        partly = torch.where(rising % 5 == 0, rising, float("nan"))
        diff = DictionaryDiff(
            layer=ctx.layer,
            input="delta",
            activation="relu",
            encoder=torch.randn(n, d, generator=draw),
            encoder_bias=torch.zeros(n),
            decoder=torch.randn(n, d, generator=draw) / d,
            bias=torch.zeros(d),
            order=torch.arange(n),
            columns={"rising": rising, "falling": -rising, "partly": partly, "undefined": partly * float("nan")},
            notes=_read(self.options.weights, pair),
        )
        time.sleep(self.options.sleep)
        return describe(diff, pair, -rising)


def _read(place: str | None, pair: ModelPair) -> dict[str, str | float | int | bool | None]:
    """What lies there, and whether it can be changed."""
    if place is None:
        return {}
    path = Path(place)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    try:
        files[0].write_text("mine")
        changed = True
    except OSError:
        changed = False
    content = {str(file.relative_to(path.parent)): file.read_text() for file in files}
    return {"read": json.dumps(content), "inside": path.is_relative_to(pair._folder), "changed": changed}


def fine(pair: ModelPair, ctx: Context, argument: str = "") -> DirectionDiff:
    """The mean difference, as a proper method would return it."""
    _, delta = pair.activations().load()
    mean = delta.mean(dim=0)
    size = mean.norm()
    return DirectionDiff(
        layer=ctx.layer,
        directions=(mean / size)[None],
        centre=mean * 0,
        bias=mean * 0,
        constant=size[None],
        notes={"said": argument},
    )


def raises(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    raise ValueError(argument or "three\nlines\x1b[31m of words")


def not_applicable(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    raise NotApplicable(argument)


def hangs(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    while True:
        time.sleep(1)


def ends(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    os._exit(int(argument or 0))


def dies(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    os.kill(os.getpid(), signal.SIGKILL)
    return fine(pair, ctx)


def nothing(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    return None  # type: ignore[return-value]


def words(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    return {"directions": []}  # type: ignore[return-value]


def nan(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    diff = fine(pair, ctx)
    return replace(diff, centre=diff.centre + float("nan"))


def wide(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    diff = fine(pair, ctx)
    return replace(diff, directions=diff.directions.repeat(1, 2))


def many(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    diff, n = fine(pair, ctx), ctx.budget.components + 1
    return replace(diff, directions=diff.directions.repeat(n, 1), constant=diff.constant.repeat(n))


def undeclared(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    pair.generate("tuned", ["anna"], new_tokens=1)
    return fine(pair, ctx)


def chatters(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Prints megabytes."""
    for _ in range(24):
        sys.stdout.write("x" * (1 << 20))
    sys.stderr.write("the last words\n")
    return fine(pair, ctx)


def links(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Leaves links to a file and to a folder of somebody else, and odd things besides."""
    (ctx.out / "file").symlink_to(Path(argument) / "secret.txt")
    (ctx.out / "folder").symlink_to(argument)
    (ctx.out / "log.txt").symlink_to(Path(argument) / "secret.txt")
    (ctx.out / "closed").mkdir(mode=0)
    os.mkfifo(ctx.out / "pipe")
    return fine(pair, ctx)


def steals(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Leaves a link to somebody else's Diff where its own belongs, and an answer without having returned."""
    (ctx.out / "diff").symlink_to(argument)
    from diffbench import workwire

    workwire.send({"answer": {"usage": {}}})
    os._exit(0)


def forges(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Answers with whatever JSON the test likes, and leaves no Diff."""
    from diffbench import workwire

    os.write(workwire._sink, argument.encode() + b"\n")
    os._exit(0)


def vandal(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Changes, empties and deletes its inputs, as far as it is let."""
    diff = fine(pair, ctx)
    attacks: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(b"mine"),
        lambda path: os.truncate(path, 0),
        os.remove,
    ]
    for path in sorted(pair._folder.rglob("*"), reverse=True):
        for attack in attacks:
            try:
                attack(path)
            except OSError:
                continue
    shutil.rmtree(pair._folder, ignore_errors=True)
    return diff


def spies(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Notes all that a process is told about itself."""
    seen = {
        "environment": dict(os.environ),
        "arguments": [*sys.argv, *sys.orig_argv, Path("/proc/self/cmdline").read_text()],
        "folders": [os.getcwd(), str(ctx.out), str(pair._folder)],
        "path": sys.path,
        "files": [str(path) for path in sorted(pair._folder.rglob("*"))],
        "open": [_target(name) for name in os.listdir("/proc/self/fd")],
        "modules": sorted(name for name in sys.modules if name.startswith("diffbench")),
        "context": repr(ctx),
    }
    return fine(pair, ctx, json.dumps(seen))


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return "closed"


def nosy(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Tries to read, list and write what the test names, and to reach what it can guess; notes how each ended."""
    attempts: dict[str, Callable[[], object]] = {
        "import the organisms": lambda: __import__("diffbench_organisms"),
        "the parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "the parent's arguments": lambda: Path(f"/proc/{os.getppid()}/cmdline").read_bytes(),
        "list the processes": lambda: os.listdir("/proc"),
        "list the folder above": lambda: os.listdir(ctx.out.parent),
        "list the other cells": lambda: os.listdir(ctx.out.parent.parent),
        "tcp": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        "a socket": lambda: socket.socket(socket.AF_UNIX).bind(str(ctx.out / "socket")),
        "signal the parent": lambda: os.kill(os.getppid(), 0),
        "write to the inputs": lambda: (pair._folder / "mine").write_text("mine"),
        "write beside the package": lambda: _write_and_remove(Path(diffbench.__file__).with_name("mine.py")),
    }
    for name, place in json.loads(argument).items():
        path = Path(place)
        attempts |= {
            f"read {name}": lambda path=path: _first_bytes(path),
            f"list {name}": lambda path=path: os.listdir(path if path.is_dir() else path.parent),
            f"link {name}": lambda path=path, name=name: _through_a_link(path, ctx.out / f"link-{name}"),
        }
    return fine(pair, ctx, json.dumps({name: _outcome(attempt) for name, attempt in attempts.items()}))


def _first_bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else next(p for p in sorted(path.rglob("*")) if p.is_file()).read_bytes()


CHANNELS: dict[str, Callable[[ModelPair, Context], Iterable[object]]] = {
    "own arguments": lambda pair, ctx: [sys.argv, sys.orig_argv, Path("/proc/self/cmdline").read_bytes()],
    "own environment": lambda pair, ctx: [dict(os.environ), Path("/proc/self/environ").read_bytes()],
    "arguments of processes": lambda pair, ctx: _files(Path("/proc").glob("[0-9]*/cmdline")),
    "environments of processes": lambda pair, ctx: _files(Path("/proc").glob("[0-9]*/environ")),
    "arguments of parents": lambda pair, ctx: [Path(f"/proc/{os.getppid()}/cmdline").read_bytes()],
    "folders and files of processes": lambda pair, ctx: _links(Path("/proc").glob("[0-9]*/[cf][wd]*")),
    "modules in memory": lambda pair, ctx: [
        name for name in sys.modules if name.split(".")[0] not in ("diffbench", __name__)
    ],
    "objects in memory": lambda pair, ctx: _strings(),
    "pages of memory": lambda pair, ctx: _pages(),
    "open files": lambda pair, ctx: [*_links(Path("/proc/self/fd").iterdir()), *_open_files()],
    "kernel's facts of the process": lambda pair, ctx: _files(
        Path("/proc/self", name) for name in ("maps", "mountinfo", "cgroup", "status", "sched")
    ),
    "working folder": lambda pair, ctx: [os.getcwd(), os.listdir(), *os.walk(".")],
    "folders above": lambda pair, ctx: _walk(ctx.out.parent, 2),
    "run folder": lambda pair, ctx: _walk(ctx.out.parent.parent, 3),
    "cache": lambda pair, ctx: _walk(pair._folder.parent.parent.parent, 4),
    "names of the inputs": lambda pair, ctx: pair._folder.rglob("*"),
    "inputs, all but the weights and the words": lambda pair, ctx: _files(
        path for path in pair._folder.rglob("*") if path.suffix != ".safetensors" and "token" not in path.name
    ),
    "headers of the weights": lambda pair, ctx: (_header(path) for path in pair._folder.rglob("*.safetensors")),
    "installed recipes": lambda pair, ctx: [
        path.read_bytes() for entry in sys.path for path in Path(entry).glob("*organisms/**/*.yaml")
    ],
    "source of the organisms": lambda pair, ctx: [vars(__import__("diffbench_organisms.colours"))],
    "checkout of the engine": lambda pair, ctx: _walk(Path(diffbench.__file__).parents[1] / "organisms", 2),
    "home": lambda pair, ctx: _walk(Path(pwd.getpwuid(os.getuid()).pw_dir), 3),
    "history of the shell": lambda pair, ctx: _files(Path(pwd.getpwuid(os.getuid()).pw_dir).glob(".*history")),
    "folder of temporary files": lambda pair, ctx: _walk(Path("/tmp"), 3),
    "shared memory": lambda pair, ctx: _walk(Path("/dev/shm"), 1),
    "messages of the kernel": lambda pair, ctx: _files(
        Path(name) for name in ("/dev/kmsg", "/proc/keys", "/proc/sysvipc/shm")
    ),
    "network": lambda pair, ctx: [
        socket.create_connection(("127.0.0.1", 9), timeout=1), socket.getaddrinfo("example.org", 80),
    ],
}  # fmt: skip
"""By which ways a process could come to know what it is not told: each gives whatever it can get hold of."""
MASK = 0x55
MOST_BYTES, MOST_FILES = 1 << 28, 2000


def channels(pair: ModelPair, ctx: Context, argument: str) -> DirectionDiff:
    """Try every channel, and say in which of them which of some words stand.

    The words come masked: no object of this process holds one of them unless a channel brings it here.
    """
    masked = [bytes.fromhex(word) for word in json.loads(argument)]
    told = {}
    for name, channel in CHANNELS.items():
        found: set[int] = set()
        size, error = 0, None
        try:
            for piece in channel(pair, ctx):
                content = piece if isinstance(piece, bytes) else str(piece).encode(errors="replace")
                size += len(content)
                turned = (
                    (torch.frombuffer(bytearray(content), dtype=torch.uint8) ^ MASK).numpy().tobytes()
                    if content
                    else b""
                )
                found |= {index for index, word in enumerate(masked) if word in turned}
        except BaseException as failure:
            error = type(failure).__name__
        told[name] = {"bytes": size, "found": sorted(found), "error": error}
    times = sorted({path.stat().st_mtime_ns for path in pair._folder.rglob("*") if path.is_file()})
    return fine(pair, ctx, json.dumps({"channels": told, "times": times}))


def _files(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in islice(paths, MOST_FILES):
        try:
            with path.open("rb", buffering=0) as stream:
                os.set_blocking(stream.fileno(), False)
                yield stream.read(1 << 20) or b""
        except OSError:
            continue


def _links(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        for one in [path, *(path.iterdir() if path.name == "fd" and path.is_dir() else ())]:
            try:
                yield os.readlink(one)
            except OSError:
                continue


def _walk(folder: Path, depth: int) -> Iterator[bytes]:
    """Names below a folder, and the beginnings of small files."""
    seen = 0
    for where, folders, names in os.walk(folder):
        if len(Path(where).relative_to(folder).parts) >= depth:
            folders.clear()
        for name in names:
            seen += 1
            if seen > MOST_FILES:
                return
            yield os.path.join(where, name).encode(errors="replace")
            if name.endswith((".json", ".yaml", ".txt")):
                yield from _files([Path(where, name)])
        yield where.encode(errors="replace")


def _strings() -> Iterator[str]:
    """Every string that hangs on an object the collector knows, and on modules."""
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            yield from (one for pair in list(thing.items()) for one in pair if isinstance(one, str))
        elif isinstance(thing, list | tuple | set | frozenset):
            yield from (one for one in list(thing) if isinstance(one, str))


def _pages() -> Iterator[bytes]:
    """Private writable memory, heap and stack included."""
    left = MOST_BYTES
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps.read().splitlines():
            place, rights, *_ = line.split()
            start, end = (int(part, 16) for part in place.split("-"))
            if not rights.startswith("rw") or "[v" in line or left <= 0:
                continue
            try:
                memory.seek(start)
                content = memory.read(min(end - start, left, 1 << 26))
            except OSError:
                continue
            left -= len(content)
            yield content


def _open_files() -> Iterator[bytes]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield os.pread(int(name), 1 << 20, 0)
        except OSError:
            continue


def _header(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(int.from_bytes(stream.read(8), "little"))


def _through_a_link(path: Path, link: Path) -> object:
    link.symlink_to(path)
    return os.listdir(link) if path.is_dir() else link.read_bytes()


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
        return "worked"
    except BaseException as error:
        return type(error).__name__


ACTS: dict[str, Callable[[ModelPair, Context, str], DirectionDiff]] = {
    act.__name__.replace("_", "-"): act
    for act in (
        fine, raises, not_applicable, hangs, ends, dies, nothing, words, nan, wide, many, undeclared, chatters,
        links, steals, forges, vandal, spies, nosy, channels,
    )
}  # fmt: skip


@hookimpl
def diffbench_methods() -> Iterable[type[Method]]:
    """Three names for the same hostility, and a harmless one."""
    return [Hostile, Second, Third, Ranked]


@hookimpl
def diffbench_cell_finished(record: object, path: Path) -> None:
    """A hook that always fails."""
    raise RuntimeError("this hook always fails")
