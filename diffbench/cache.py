"""Cache: content-addressed folders, published whole or not at all, never inside a method's reach."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffbench.atomic import new_folder
from diffbench.canonical import canonical_json, digest
from diffbench.errors import CacheError

INPUTS = "inputs.json"
LOCK = ".lock"
YOUNG_SECONDS = 60.0


def cache_root() -> Path:
    """Where finished stages are kept: ``DIFFBENCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("DIFFBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffbench"


def entry(kind: str, inputs: dict[str, Any]) -> Path:
    """The folder for what follows from ``inputs``; it exists once it is finished."""
    return cache_root() / kind / digest(inputs)


def publish(kind: str, inputs: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Return the finished folder for ``inputs``, filling a new one first if there is none.

    A crash while filling leaves no entry; of two processes that fill the same entry the first one wins.
    """
    path = entry(kind, inputs)
    if (path / INPUTS).is_file():
        return path
    try:
        with new_folder(path) as draft:
            fill(draft)
            (draft / INPUTS).write_text(canonical_json(inputs) + "\n", encoding="utf-8")
    except OSError as error:
        raise CacheError(f"{path.parent}: cannot be written ({error}); set DIFFBENCH_CACHE to another folder") from None
    return path


def finished(kind: str, inputs: dict[str, Any]) -> Path | None:
    """The folder for ``inputs`` if it is finished."""
    path = entry(kind, inputs)
    return path if (path / INPUTS).is_file() else None


def read_json(path: Path) -> Any:
    """JSON of a finished entry.

    Raises:
        CacheError: if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: damaged ({error}); delete its folder and run again") from None


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder for one cell's work, on the cache's own file system so that files can be linked into it.

    It is gone afterwards; what a killed process left is removed by the next one.

    Raises:
        CacheError: if it cannot be made.
    """
    root = cache_root() / "work"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise CacheError(
            f"{root}: cannot be written ({error.strerror}); set DIFFBENCH_CACHE to another folder"
        ) from None
    with folder as name, (Path(name) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _sweep(root: Path) -> None:
    """Remove the folders whose owner is gone: nobody holds their lock."""
    for folder in root.iterdir():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue  # perhaps not locked yet
            with (folder / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=1)
def libraries() -> dict[str, str]:
    """Versions of the libraries that the numbers come from; a part of every stage's key."""
    return {name: version(name) for name in ("numpy", "safetensors", "tokenizers", "torch", "transformers")}


@lru_cache(maxsize=256)
def code_version(*modules: str) -> str:
    """SHA-256 over the source of modules and packages, found without importing them.

    Keys of stages hash it: whatever changes the code of a stage also makes its old results unfindable.
    """
    sources: dict[str, str] = {}
    for module in modules:
        for path in _sources(module):
            sources[f"{module}/{path.name}"] = path.read_text(encoding="utf-8")
    return digest(sources)


def _sources(module: str) -> list[Path]:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise CacheError(f"{module}: its source cannot be found, so results cannot be keyed")
    origin = Path(spec.origin)
    return sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
