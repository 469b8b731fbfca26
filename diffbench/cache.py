"""Cache: content-addressed folders, published whole or not at all, never inside a method's reach."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffbench.atomic import new_folder
from diffbench.canonical import canonical_json, digest
from diffbench.errors import CacheError

INPUTS = "inputs.json"


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


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A new folder for one cell's work, on the cache's own file system so that files can be linked into it."""
    root = cache_root() / "work"
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True)


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
