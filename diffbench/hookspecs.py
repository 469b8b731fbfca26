"""The five hooks of the plugin group ``diffbench``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from diffbench.base import Base
    from diffbench.judge import Judge
    from diffbench.method import Method
    from diffbench.organism import Family
    from diffbench.record import Record

PROJECT = "diffbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def diffbench_methods() -> Iterable[type[Method]]:  # type: ignore[empty-body]
    """Method classes."""


@hookspec
def diffbench_organisms() -> Iterable[type[Family] | type[Base]]:  # type: ignore[empty-body]
    """Organism families, with their recipes, and the bases they stand on."""


@hookspec
def diffbench_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Recipe files of organisms of any installed family, or of none."""


@hookspec
def diffbench_judges() -> Iterable[type[Judge]]:  # type: ignore[empty-body]
    """Judge classes."""


@hookspec
def diffbench_cell_finished(record: Record, path: Path) -> None:
    """Called in the main process after a cell's record was written to ``path``."""
