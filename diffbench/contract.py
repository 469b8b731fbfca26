"""Contract: what can be seen from outside of a class that a plugin offers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import ValidationError

from diffbench.canonical import canonical_json
from diffbench.errors import PluginError
from diffbench.line import one_line
from diffbench.recipe import NAME, first_problem

Kind = Literal["method", "family", "base", "judge"]


def check_offer(kind: Kind, offered: object) -> type[Any]:
    """Return what a hook offered if it is a usable class of this kind.

    Raises:
        PluginError: saying which part of the contract is broken.
    """
    return _CHECKS[kind](offered)


def is_base(offered: object) -> bool:
    """Whether an offer of ``diffbench_organisms`` is a base model; whatever else it brings is meant as a family."""
    from diffbench.base import Base

    return isinstance(offered, type) and issubclass(offered, Base)


def _method(offered: object) -> type[Any]:
    from diffbench.method import ACCESS, Method, MethodOptions

    method = _subclass(offered, Method, "diffbench.Method")
    where = _where(method)
    for attribute, kind in (("summary", str), ("reference", str), ("version", int), ("control", bool)):
        if type(getattr(method, attribute, None)) is not kind:
            raise PluginError(f"{where}: class attribute `{attribute}` must be of type {kind.__name__}")
    wrong = set(method.access) - set(ACCESS)
    if wrong:
        raise PluginError(f"{where}: unknown access {sorted(wrong)}; known: {', '.join(ACCESS)}")
    if not (isinstance(method.Options, type) and issubclass(method.Options, MethodOptions)):
        raise PluginError(f"{where}: Options must be a subclass of diffbench.MethodOptions")
    try:
        canonical_json(method.Options().model_dump(mode="json"))
    except Exception as error:  # whatever a stranger's default does when it is looked at
        why = first_problem(error) if isinstance(error, ValidationError) else one_line(error, 200)
        raise PluginError(f"{where}: Options need defaults that are valid and plain: {why}") from None
    return method


def _family(offered: object) -> type[Any]:
    from diffbench.organism import Family, FamilyParameters

    family = _subclass(offered, Family, "diffbench.Family or diffbench.Base")
    if not (isinstance(family.Parameters, type) and issubclass(family.Parameters, FamilyParameters)):
        raise PluginError(f"{_where(family)}: Parameters must be a subclass of diffbench.FamilyParameters")
    return family


def _base(offered: object) -> type[Any]:
    from diffbench.base import Base

    return _subclass(offered, Base, "diffbench.Base")


def _judge(offered: object) -> type[Any]:
    from diffbench.judge import Judge

    return _subclass(offered, Judge, "diffbench.Judge")


def _subclass(offered: object, parent: type[Any], called: str) -> type[Any]:
    if not (isinstance(offered, type) and issubclass(offered, parent)):
        raise PluginError(f"{offered!r} is no subclass of {called}")
    name = getattr(offered, "name", None)
    if not (isinstance(name, str) and re.fullmatch(NAME, name)):
        raise PluginError(f"{_where(offered)}: name {name!r} must match {NAME}")
    abstract: frozenset[str] = getattr(offered, "__abstractmethods__", frozenset())
    if abstract:
        raise PluginError(f"{_where(offered)}: does not define {', '.join(sorted(abstract))}")
    return offered


def _where(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


_CHECKS: dict[Kind, Callable[[object], type[Any]]] = {
    "method": _method,
    "family": _family,
    "base": _base,
    "judge": _judge,
}
