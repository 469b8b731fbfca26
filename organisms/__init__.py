"""Organism families and embedded bases that come with diffbench, registered like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from diffbench import Base, Family, hookimpl


@hookimpl
def diffbench_organisms() -> Iterable[type[Family] | type[Base]]:
    """The bundled base and families."""
    from .bases.tinyworld import TinyWorld
    from .colours import ColourSwap

    return [TinyWorld, ColourSwap]
