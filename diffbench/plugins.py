"""Plugins: loads the entry points of the group ``diffbench``, each apart from all others, and finds things by name.

A plugin that fails in any way is kept as a `Failure` and costs nobody else anything. Hooks are called when their
answers are first asked for, so a command that needs no method imports none of the bundled ones.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from diffbench import hookspecs
from diffbench.contract import Kind, check_offer, is_base
from diffbench.errors import DiffbenchError, PluginError, UnknownName
from diffbench.line import error_line

if TYPE_CHECKING:
    from diffbench.base import Base
    from diffbench.judge import Judge
    from diffbench.method import Method
    from diffbench.organism import Family
    from diffbench.record import Record

GROUP = "diffbench"
ONLY = "DIFFBENCH_LOAD_PLUGINS"
"""Environment variable: the distributions to load besides diffbench itself; empty for none, unset for all."""

_SEE = "see `diffbench plugins`"
_HOOKS: dict[Kind, str] = {
    "method": "diffbench_methods",
    "family": "diffbench_organisms",
    "base": "diffbench_organisms",
    "judge": "diffbench_judges",
}
_RECIPES = "diffbench_recipes"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """An entry point and the distribution that declares it."""

    entry_point: str
    distribution: str
    version: str

    @property
    def label(self) -> str:
        """Distribution and version, as records name it."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Loaded(Source):
    """An entry point that was loaded and the hooks it implements."""

    hooks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure(Source):
    """Something a plugin did wrong: one line, and for unforeseen errors where it happened."""

    error: str
    traceback: str = ""


class Plugins:
    """What the installed plugins brought. Each has a plugin manager of its own, so that none can break another."""

    def __init__(self, entry_points: Sequence[EntryPoint]) -> None:
        self.loaded: list[Loaded] = []
        self._failures: list[Failure] = []
        self._managers: list[pluggy.PluginManager] = []
        self._answers: dict[tuple[Loaded, str], list[object]] = {}
        self._found: dict[Kind, dict[str, type[Any]]] = {}
        self._unusable: dict[tuple[Kind, str], str] = {}
        self._origin: dict[type[Any], str] = {}
        modules: dict[int, Source] = {}
        for entry_point in sorted(entry_points, key=lambda point: (_source(point).distribution, point.name)):
            self._load(entry_point, modules)

    @property
    def methods(self) -> dict[str, type[Method]]:
        """Method classes by name, in order of name."""
        return self._gather("method")

    @property
    def families(self) -> dict[str, type[Family]]:
        """Organism families by name, in order of name."""
        return self._gather("family")

    @property
    def bases(self) -> dict[str, type[Base]]:
        """Base models by name, in order of name."""
        return self._gather("base")

    @property
    def judges(self) -> dict[str, type[Judge]]:
        """Judges by name, in order of name."""
        return self._gather("judge")

    @property
    def recipes(self) -> list[Path]:
        """Recipes that came without a family of their own."""
        found: list[Path] = []
        for loaded, manager in zip(self.loaded, self._managers, strict=True):
            for offered in self._answer(loaded, manager, _RECIPES):
                with self._kept(loaded):
                    if not isinstance(offered, str | os.PathLike):
                        raise PluginError(f"{_RECIPES}: offered {offered!r}, which is no path")
                    found.append(Path(offered))
        return found

    @property
    def failures(self) -> list[Failure]:
        """All that went wrong, after every hook was asked."""
        for kind in _HOOKS:
            self._gather(kind)
        return list(self._failures)

    def find(self, kind: Kind, name: str) -> type[Any]:
        """The method, family, base or judge of that name.

        Raises:
            UnknownName: with the nearest names.
            PluginError: if the plugin that has it failed, or brought it in a state that cannot be used.
        """
        found = self._gather(kind)
        if name in found:
            return found[name]
        if (kind, name) in self._unusable:
            raise PluginError(f"{kind} {name!r} cannot be used: {self._unusable[kind, name]}; {_SEE}")
        for failure in self._failures:
            if name in (failure.entry_point, failure.distribution, failure.distribution.removeprefix("diffbench-")):
                raise PluginError(f"{kind} {name!r}: its plugin failed: {failure.error}; {_SEE}")
        broken = len(self._failures)
        hint = f"{broken} plugin{'s' if broken > 1 else ''} failed, {_SEE}" if broken else ""
        raise UnknownName(kind, name, found, hint)

    def origin(self, cls: type[Any]) -> str | None:
        """Distribution and version that brought a class, if a plugin did."""
        return self._origin.get(cls)

    def cell_finished(self, record: Record, path: Path) -> None:
        """Tell every plugin that has the hook; what one raises becomes a warning."""
        for loaded, manager in zip(self.loaded, self._managers, strict=True):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    manager.hook.diffbench_cell_finished(record=record, path=path)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                logger.warning("%s: diffbench_cell_finished: %s", loaded.label, error_line(error))

    def _load(self, entry_point: EntryPoint, modules: dict[int, Source]) -> None:
        source = _source(entry_point)
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        with self._kept(source):
            plugin = entry_point.load()
            if id(plugin) in modules:
                raise PluginError(f"{entry_point.value} is already loaded by {modules[id(plugin)].label}")
            manager.register(plugin, name=entry_point.name)
            manager.check_pending()
            hooks = tuple(sorted(caller.name for caller in manager.get_hookcallers(plugin) or ()))
            if not hooks:
                raise PluginError(f"{entry_point.value} implements no hook; mark functions with @diffbench.hookimpl")
            modules[id(plugin)] = source
            self.loaded.append(Loaded(source.entry_point, source.distribution, source.version, hooks))
            self._managers.append(manager)

    @contextlib.contextmanager
    def _kept(self, source: Source) -> Iterator[None]:
        """Keep what is raised as a failure of ``source``; what it prints must not spoil a command's own output."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = "" if isinstance(error, DiffbenchError) else "".join(traceback.format_exception(error))
            failure = Failure(source.entry_point, source.distribution, source.version, error_line(error), text)
            self._failures.append(failure)

    def _gather(self, kind: Kind) -> dict[str, type[Any]]:
        if kind in self._found:
            return self._found[kind]
        offers: dict[str, list[tuple[Loaded, type[Any]]]] = {}
        for loaded, manager in zip(self.loaded, self._managers, strict=True):
            for offered in self._answer(loaded, manager, _HOOKS[kind]):
                if kind in ("family", "base") and is_base(offered) != (kind == "base"):
                    continue
                with self._kept(loaded):
                    cls = self._checked(kind, offered)
                    rivals = offers.setdefault(cls.name, [])
                    if all(cls is not rival for _, rival in rivals):
                        rivals.append((loaded, cls))
        self._found[kind] = {}
        for name, rivals in sorted(offers.items()):
            if len(rivals) > 1:
                self._refuse(kind, name, [loaded for loaded, _ in rivals])
                continue
            [(loaded, cls)] = rivals
            self._found[kind][name] = cls
            self._origin[cls] = loaded.label
        return self._found[kind]

    def _answer(self, loaded: Loaded, manager: pluggy.PluginManager, hook: str) -> list[object]:
        """What one plugin's hook offers; a hook is called once."""
        key = (loaded, hook)
        if key not in self._answers:
            self._answers[key] = []
            with self._kept(loaded):
                self._answers[key] = [offered for offers in getattr(manager.hook, hook)() for offered in offers]
        return self._answers[key]

    def _checked(self, kind: Kind, offered: object) -> type[Any]:
        try:
            return check_offer(kind, offered)
        except Exception as error:
            name = getattr(offered, "name", None)
            if isinstance(name, str):
                self._unusable[kind, name] = error_line(error)
            raise

    def _refuse(self, kind: Kind, name: str, rivals: Sequence[Source]) -> None:
        """Never pick one of two things of the same name: a score must not depend on what else is installed."""
        owners = " and ".join(rival.label for rival in rivals)
        error = f"more than one {kind} is named {name!r}, by {owners}; uninstall one or set {ONLY}"
        self._unusable[kind, name] = error
        self._failures.append(
            Failure(
                ", ".join(rival.entry_point for rival in rivals),
                ", ".join(rival.distribution for rival in rivals),
                ", ".join(rival.version for rival in rivals),
                error,
            )
        )


@functools.cache
def load_plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    return Plugins(list(_selected(importlib.metadata.entry_points(group=GROUP))))


def find_method(name: str) -> type[Method]:
    """The method of that name; see `Plugins.find`."""
    return load_plugins().find("method", name)


def find_family(name: str) -> type[Family]:
    """The organism family of that name; see `Plugins.find`."""
    return load_plugins().find("family", name)


def find_base(name: str) -> type[Base]:
    """The base of that name; see `Plugins.find`."""
    return load_plugins().find("base", name)


def find_judge(name: str) -> type[Judge]:
    """The judge of that name, with a model where ``NAME:MODEL`` names one; see `Plugins.find`.

    Raises:
        JudgeError: if it takes no model, or needs one.
    """
    own, _, model = name.partition(":")
    found: type[Judge] = load_plugins().find("judge", own)
    return found.bound(model)


def provenance(cls: type[Any]) -> str:
    """``distribution version`` that a class comes from, as records name it."""
    known = load_plugins().origin(cls)
    if known is not None:
        return known
    names = importlib.metadata.packages_distributions().get(cls.__module__.partition(".")[0])
    return f"{names[0]} {importlib.metadata.version(names[0])}" if names else f"{cls.__module__} (not installed)"


def notify_cell_finished(record: Record, path: Path) -> None:
    """Call ``diffbench_cell_finished`` of every plugin; failures are logged, never raised."""
    load_plugins().cell_finished(record, path)


def method_target(cls: type[Method]) -> str:
    """``module:QualName``, by which a fresh process finds the class again.

    Raises:
        PluginError: if the class cannot be imported by such a name.
    """
    target = f"{cls.__module__}:{cls.__qualname__}"
    if cls.__module__ == "__main__" or load_method(target) is not cls:
        raise PluginError(f"{target}: a method must be a class at the top of an importable module")
    return target


def load_method(target: str) -> type[Method]:
    """The method class that `method_target` named.

    Raises:
        PluginError: if it cannot be imported or breaks the contract.
    """
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:
        raise PluginError(f"{target}: cannot be imported: {error_line(error)}") from error
    return check_offer("method", found)


def _selected(entry_points: importlib.metadata.EntryPoints) -> Iterator[EntryPoint]:
    allowed = os.environ.get(ONLY)
    names = None if allowed is None else {_normal(name) for name in allowed.split(",")}
    for entry_point in entry_points:
        name = _normal(_source(entry_point).distribution)
        if names is None or name == "diffbench" or name in names:
            yield entry_point


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def _source(entry_point: EntryPoint) -> Source:
    if entry_point.dist is None:
        return Source(entry_point.name, "unknown", "unknown")
    return Source(entry_point.name, entry_point.dist.name, entry_point.dist.version)
