"""Confinement: what a process that runs a stranger's code may still touch.

``confine`` locks the calling process in, for good, just before the stranger's code is imported. Files are a list of
what is allowed; everything else fails with ``PermissionError``. Still open, whatever the list says: whether a path
exists, its size and times (``stat``), changing the mode of a file of the same owner (``chmod``), and the load of
the machine.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from diffbench import workseal
from diffbench.errors import PluginError

SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/localtime",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/nsswitch.conf", "/etc/passwd",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/driver/nvidia", "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu", "/sys/devices/system/node",
    "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom",
)  # fmt: skip

THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

PASSED_ON = (
    "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "DIFFBENCH_DEVICE",
    "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
)  # fmt: skip


@dataclass(frozen=True)
class Confinement:
    """What a confined process may touch.

    Attributes:
        read: files and folders to read, execute and list. Links are followed now, and links found inside later
            count as the file they lead to.
        write: folders to read and write; the first becomes HOME, TMPDIR and the working folder.
        network: whether sockets are allowed.
        memory_mb: how much memory the process may add to what it has when it is confined.
    """

    read: tuple[Path, ...]
    write: tuple[Path, ...]
    network: bool = False
    memory_mb: int | None = None


def confine(c: Confinement) -> str:
    """Lock this process into ``c`` and say what was achieved, for instance ``landlock+netns+seccomp``.

    ``landlock`` means files, TCP, signals and abstract sockets; ``landlock-abi3`` is the same word for a kernel whose
    Landlock lacks some of that. Without Landlock the answer is ``none``, because files stay open; the other
    locks are then still tried, and nothing fails.
    """
    if c.write:
        _move_to(c.write[0])
    listing = _library_folders()
    closed = [entry for entry in sys.path if entry and Path(entry) not in listing]
    sys.meta_path.append(_Remembered(closed))
    _limit(c.memory_mb)
    achieved = ["netns"] if not c.network and workseal.leave_network() else []
    workseal.prctl(workseal.PR_SET_NO_NEW_PRIVS, 1)
    abi = workseal.landlock_abi()
    if abi:
        own = (Path("/proc/self"),)
        workseal.landlock(abi, (*c.read, *own), c.write, listing, c.network)
        achieved.insert(0, "landlock" if abi >= workseal.FULL_ABI else f"landlock-abi{abi}")
    workseal.drop_capabilities()
    if workseal.refuse_calls(c.network):
        achieved.append("seccomp")
    return "+".join(achieved) if abi else "none"


def _move_to(folder: Path) -> None:
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = str(folder)
    tempfile.tempdir = None
    os.chdir(folder)


class _Remembered(MetaPathFinder):
    """Finds packages in folders of the import path by a listing from before they were closed.

    The usual finder lists a folder again whenever it has changed; where it may not, it finds nothing any more.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._files: dict[str, Path] = {}
        for folder in map(Path, folders):
            for path in folder.iterdir() if folder.is_dir() else ():
                file = path / "__init__.py" if path.suffix == "" else path
                if path.stem.isidentifier() and file.suffix == ".py" and file.is_file():
                    self._files.setdefault(path.stem, file)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a top-level module."""
        file = self._files.get(fullname)
        if file is None:
            return None
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=inside)


def _limit(memory_mb: int | None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb is None:
        return
    held = 0
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                held = int(line.split()[1]) * 1024
    # RLIMIT_DATA counts what is private and writable; RLIMIT_AS would also count mapped weight files.
    bound = held + memory_mb * 2**20
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or bound < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def _library_folders() -> list[Path]:
    """The folders that hold the standard library and the installed packages."""
    paths = sysconfig.get_paths()
    named = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")] + site.getsitepackages()
    # A folder that somebody put on the path counts when packages were installed into it, not when it is a checkout.
    found = [entry for entry in sys.path if entry and any(Path(entry).glob("*.dist-info"))]
    return [path for path in dict.fromkeys(Path(name) for name in (*named, *found)) if path.is_dir()]


def runtime_paths(exclude: Iterable[str] = ()) -> tuple[Path, ...]:
    """What any Python process has to read: interpreter, libraries, packages, a few files of the system.

    Args:
        exclude: packages whose files must not be among them. Their file names can still be listed if they lie in
            the same folder as the other packages.
    """
    hidden: set[Path] = set()
    for name in exclude:
        hidden.update(folder / f"{name}{end}" for folder in _library_folders() for end in ("", ".py"))
        with suppress(PluginError):
            hidden.add(package_path(name))
    hidden = {path.resolve() for path in hidden if path.exists()}
    prefixes = [Path(prefix, part) for prefix in (sys.prefix, sys.base_prefix) for part in ("bin", "lib", "lib64")]
    roots = [Path(sys.executable), *prefixes, *_library_folders(), *(Path(name) for name in SYSTEM)]
    roots += [Path(sys.prefix, "pyvenv.cfg"), package_path("diffbench"), *sorted(Path("/dev").glob("nvidia*"))]
    kept: dict[Path, None] = {}
    for root in roots:
        for path in _without(root.resolve(), hidden):
            kept.setdefault(path)
    return tuple(path for path in kept if not any(parent in kept for parent in path.parents))


def _without(root: Path, hidden: set[Path]) -> list[Path]:
    """``root``, or the largest parts of it that together leave out every hidden path."""
    if not root.exists() or any(root == path or path in root.parents for path in hidden):
        return []
    if not any(root in path.parents for path in hidden):
        return [root]
    parts: list[Path] = []
    for child in sorted(root.iterdir()):
        target = child.resolve()
        # A link that leads to where something is hidden is left out whole: following it could go in circles.
        if not child.is_symlink() or not any(target in path.parents for path in hidden):
            parts += _without(target, hidden)
    return parts


def package_path(name: str) -> Path:
    """The folder of an installed package (the file, for a single module), found without importing it.

    Raises:
        PluginError: no such package.
    """
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    found: Path | None = None
    if spec is not None and spec.submodule_search_locations:
        found = Path(next(iter(spec.submodule_search_locations))).joinpath(*rest)
        if not found.exists():
            found = found.with_name(f"{found.name}.py")
    elif spec is not None and spec.origin and not rest:
        found = Path(spec.origin)
    if found is None or not found.exists():
        raise PluginError(f"no package named {name!r} is installed")
    return found.resolve()


def scrubbed_environment() -> dict[str, str]:
    """The environment for a stranger's process: an allow-list, with no keys, no settings, no home."""
    home = "/nonexistent"  # until ``confine`` names one
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    fixed = {"HOME": home, "TMPDIR": home, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    return {"LANG": "C.UTF-8", "PATH": os.defpath} | kept | fixed | THREADS
