"""Cache: content-addressed folders, published whole or not at all, never inside a method's reach."""

from __future__ import annotations

import ast
import errno
import fcntl
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from diffbench.atomic import new_folder, write_once, write_text
from diffbench.canonical import canonical_json, digest, file_digest
from diffbench.errors import CacheError

INPUTS, FILES = "inputs.json", "files.json"
SECRET = ".secret"
BUNDLED = ("diffbench_methods", "diffbench_organisms")


def cache_root() -> Path:
    """Where finished stages are kept: ``DIFFBENCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("DIFFBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffbench"


def entry(kind: str, inputs: dict[str, Any]) -> Path:
    """The folder for what follows from ``inputs``; it exists once it is finished."""
    return cache_root() / kind / _hidden(digest(inputs))


def _hidden(key: str) -> str:
    """A name that only who reads the cache can compute; a key is known to all, and what exists tells what was built."""
    return hmac.new(_secret(cache_root()), key.encode(), "sha256").hexdigest()


@lru_cache(maxsize=8)
def _secret(root: Path) -> bytes:
    path = root / SECRET
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_once(path, secrets.token_bytes(32))
        return path.read_bytes()
    except OSError as error:
        raise _unwritable(root, error) from None


def publish(kind: str, inputs: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Return the finished folder for ``inputs``, filling a new one first if there is none.

    A crash while filling leaves no entry; of two processes that fill the same entry the first one wins.
    """
    path = entry(kind, inputs)
    if _whole(path):
        return path
    with _lock(f"{kind}-{path.name}") as alone:
        if alone and _whole(path):  # whoever held the lock has just published it
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if alone and path.exists() and not _whole(path):  # another run may just have published it
                shutil.rmtree(path)
            if not os.access(path.parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise _unwritable(path.parent, error) from None
        for stale in path.parent.glob(f".{path.name[:16]}.*") if alone else ():
            shutil.rmtree(stale, ignore_errors=True)  # left by a process that was killed
        with new_folder(path) as draft:
            fill(draft)
            (draft / INPUTS).write_text(canonical_json(inputs) + "\n", encoding="utf-8")
            held = {name: _describe(file) for name, file in _files(draft).items()}
            (draft / FILES).write_text(canonical_json(held) + "\n", encoding="utf-8")
    return path


def finished(kind: str, inputs: dict[str, Any]) -> Path | None:
    """The folder for ``inputs`` if it is finished."""
    return held(kind, digest(inputs))


def held(kind: str, key: str) -> Path | None:
    """The finished folder for inputs whose digest is ``key``."""
    if not (cache_root() / SECRET).exists():  # nothing was ever finished here, and asking leaves no trace
        return None
    path = cache_root() / kind / _hidden(key)
    return path if _whole(path) else None


def _whole(path: Path) -> bool:
    """Whether an entry was finished and all its files are still what they were then.

    A file of the same size and time as then is believed to be the same; of any other the content is compared.
    """
    try:
        stored = json.loads((path / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = _files(path)
    if not (path / INPUTS).is_file() or stored.keys() != files.keys():
        return False
    facts = {name: file.stat() for name, file in files.items()}
    if any(facts[name].st_size != stored[name]["bytes"] for name in files):
        return False
    moved = [name for name in files if facts[name].st_mtime_ns != stored[name]["mtime_ns"]]
    if any(file_digest(files[name]) != stored[name]["sha256"] for name in moved):
        return False
    if moved:  # a copy of a cache, for example; it need not be compared again
        stored |= {name: stored[name] | {"mtime_ns": facts[name].st_mtime_ns} for name in moved}
        with suppress(OSError):
            write_text(path / FILES, canonical_json(stored) + "\n")
    return True


def _describe(file: Path) -> dict[str, Any]:
    facts = file.stat()
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": file_digest(file)}


def _files(path: Path) -> dict[str, Path]:
    """Every file of an entry but those that describe it."""
    own = (INPUTS, FILES, f".{FILES}")  # and drafts of the second
    return {
        str(file.relative_to(path)): file
        for file in path.rglob("*")
        if file.is_file() and not (file.parent == path and file.name.startswith(own))
    }


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
    name = secrets.token_hex(8)
    with _lock(name):
        try:
            root.mkdir(parents=True, exist_ok=True)
            for folder in root.iterdir():
                with _lock(folder.name) as alone:
                    if alone:
                        shutil.rmtree(folder, ignore_errors=True)
            (root / name).mkdir(mode=0o700)
        except OSError as error:
            raise _unwritable(root, error) from None
        try:
            yield root / name
        finally:
            shutil.rmtree(root / name, ignore_errors=True)


def _locked(path: Path) -> tuple[IO[str], bool]:
    """A lock's open file, and whether it is held now.

    Whoever held it last has removed its file: a lock on a file that is no longer there keeps nobody out.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("a")
        except OSError as error:
            raise _unwritable(path.parent, error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return handle, False
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle, True
        handle.close()


@contextmanager
def _lock(name: str) -> Iterator[bool]:
    """Hold the lock of that name while the block runs; yields whether nobody else holds it."""
    path = cache_root() / "locks" / name
    handle, alone = _locked(path)
    with handle:
        if not alone:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Wait until nobody else, in any process, is inside a block of that name, and be inside.

    Few other names share a lock with it: there are 4096 of them, so that they can stay.
    """
    path = cache_root() / "turns" / digest(name)[:3]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        CacheError: if it cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path}: cannot be written ({error.strerror}); set DIFFBENCH_CACHE to another folder")


@lru_cache(maxsize=1)
def libraries() -> dict[str, str]:
    """Versions of the libraries that the numbers come from; a part of every stage's key."""
    return {name: version(name) for name in ("numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")}


@lru_cache(maxsize=256)
def code_version(*modules: str) -> str:
    """SHA-256 over the source of modules and packages, found without importing them.

    Keys of stages hash it: whatever changes the code of a stage also makes its old results unfindable.
    """
    return digest({module: _sources(module) for module in modules})


def plugin_version(cls: type[Any]) -> str:
    """SHA-256 over the source that a plugin class may use: its whole distribution's package, helpers included.

    Of a class in the engine itself it is the class's module and those that it names in ``code``; stages name the engine
    code that they use. Of a bundled
    one it is what its module reaches by import statements, the only way in which bundled modules find each other, so
    that a change in one family does not make the others' results unfindable.
    """
    top = cls.__module__.partition(".")[0]
    if top in BUNDLED:
        return code_version(*reached(cls.__module__))
    return code_version(cls.__module__, *getattr(cls, "code", ())) if top == "diffbench" else code_version(top)


@lru_cache(maxsize=256)
def reached(module: str) -> tuple[str, ...]:
    """The modules and packages of its own top package that a module imports, in turn, wherever the statements stand.

    A package below the top one counts as a whole.
    """
    top = module.partition(".")[0]
    found: set[str] = set()
    pending = [module]
    while pending:
        name = _home(pending.pop())
        if name is None or name in found:
            continue
        found.add(name)
        for path, source in _sources(name).items():
            inside = name if path == "__init__.py" or not _is_package(name) else f"{name}.{_dotted(path)}"
            pending += [target for target in _targets(source, inside, path) if target.partition(".")[0] == top]
    return tuple(sorted(found))


def _home(name: str) -> str | None:
    """The package below the top one that holds a module, the module itself where there is none, None of no module."""
    parts = name.split(".")
    for length in range(2, len(parts)):
        if _is_package(".".join(parts[:length])):
            return ".".join(parts[:length])
    return name if _exists(name) else _home(name.rpartition(".")[0]) if "." in name else None


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside a module
        return False


def _is_package(name: str) -> bool:
    spec = find_spec(name) if _exists(name) else None
    return spec is not None and spec.submodule_search_locations is not None


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _targets(source: str, inside: str, path: str) -> Iterator[str]:
    """What the import statements of a module name, absolutely."""
    package = inside if path.endswith("__init__.py") else inside.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            stem = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def _sources(module: str) -> dict[str, str]:
    """Source by path within the module's package."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise CacheError(f"{module}: its source cannot be found, so results cannot be keyed")
    origin = Path(spec.origin)
    paths = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return {str(path.relative_to(origin.parent)): path.read_text(encoding="utf-8") for path in paths}
