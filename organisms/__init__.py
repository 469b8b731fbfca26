"""Organism families and embedded bases that come with diffbench, registered like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffbench import Base, Family, hookimpl


@hookimpl
def diffbench_organisms() -> Iterable[type[Family] | type[Base]]:
    """The bundled base and families."""
    from .backdoor import Backdoor
    from .bases.tinyworld import TinyWorld
    from .chat import Chat
    from .colours import ColourSwap
    from .composite import Composite
    from .facts import FalseFacts
    from .nulls import PlainText
    from .quirk import Quirk

    return [TinyWorld, ColourSwap, Chat, PlainText, FalseFacts, Quirk, Backdoor, Composite]


@hookimpl
def diffbench_recipes() -> Iterable[Path]:
    """Recipes on models of the Hugging Face hub."""
    return sorted((Path(__file__).parent / "hub").glob("*.yaml"))
