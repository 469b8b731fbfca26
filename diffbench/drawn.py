"""Drawn: what a recipe leaves open, drawn from its seed once and kept: to draw is to read much of the base's text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from diffbench import cache
from diffbench.atomic import write_text
from diffbench.base import Base
from diffbench.organism import Family
from diffbench.own_data import OwnData

KIND, FILE = "parameters", "parameters.json"


@dataclass(frozen=True, slots=True)
class Draw:
    """What a family draws from.

    Attributes:
        family: that draws.
        base: whose text it reads.
        given: its parameters as the recipe has them.
        seed: of the draw.
        code: hash of the engine's code that the draw follows from.
    """

    family: Family
    base: Base
    given: Any
    seed: int
    code: str

    def parameters(self) -> Any:
        """The family's parameters with nothing left open; nothing is written."""
        path = None if isinstance(self.family, OwnData) else cache.finished(KIND, self._inputs())
        if path is None:
            return self.family.draw(self.base, self.given, self.seed)
        return type(self.given).model_validate(cache.read_json(path / FILE))

    def keep(self, parameters: Any) -> None:
        """Keep what was drawn for whoever asks next; what would not be read as it was is drawn each time instead."""
        document = parameters.model_dump(mode="json")
        if isinstance(self.family, OwnData) or not _same(parameters, document):
            return
        content = _ordered(document) + "\n"
        cache.publish(KIND, self._inputs(), lambda folder: write_text(folder / FILE, content))

    def _inputs(self) -> dict[str, Any]:
        return {
            "stage": "parameters",
            "family": self.family.name,
            "family_code": cache.plugin_version(type(self.family)),
            "text": self.base.text_key(),
            "base_code": cache.plugin_version(type(self.base)),
            "given": self.given.model_dump(mode="json"),
            "seed": self.seed,
            "code": self.code,
        }


def _same(parameters: Any, document: Any) -> bool:
    """Whether a document stands for the parameters: a family may draw what its own schema refuses or changes."""
    try:
        again = type(parameters).model_validate(json.loads(_ordered(document)))
    except (ValidationError, ValueError):
        return False
    return bool(again == parameters) and _ordered(again.model_dump(mode="json")) == _ordered(document)


def _ordered(document: Any) -> str:
    """As JSON, its keys in the order they were drawn in: claims may follow it, and equal mappings need not share it."""
    return json.dumps(document, allow_nan=False, ensure_ascii=False)
