"""PlantedPair: a planted pair of streams in the place of two models, so that any method on activations runs unchanged.

What needs a model is refused. A direction's "tokens" are the planted features that it promotes and suppresses.
Shapes: n features, d residual width.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from diffbench.corpus import Corpus
from diffbench.errors import AccessError
from diffbench.lens import Lens
from diffbench.method import Access
from diffbench.pair import ModelPair, Side
from diffbench.planted import Features, Planted


class PlantedPair(ModelPair):
    """Hands out a planted pair's activations, never its features but by their numbered names in the lens."""

    def __init__(self, planted: Planted, access: frozenset[Access]) -> None:
        self._access = access
        self._stored = planted.activations
        self._lens = feature_lens(planted.features)
        self.usage = {}
        self.layer = planted.activations.layer
        self.n_layers = planted.activations.layer + 1
        self.vocabulary = len(planted.features)

    @property
    def tokenizer(self) -> Any:
        """There is none.

        Raises:
            AccessError: always.
        """
        _refuse("a tokenizer")

    def text(self) -> Corpus:
        """There is none.

        Raises:
            AccessError: always.
        """
        _refuse("text")

    def _model(self, side: Side) -> Any:
        _refuse("models")


def _refuse(what: str) -> NoReturn:
    raise AccessError(f"the method used {what}, but a planted pair has activations alone")


class _Names:
    """What the lens asks of a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(Features.name, ids))


def feature_lens(features: Features) -> Lens:
    """A lens whose vocabulary are the planted directions, of the tuned model where it has them."""
    has = features.tuned.norm(dim=1, keepdim=True) > 0
    directions = torch.where(has, features.tuned, features.base)
    unit = directions / directions.norm(dim=1, keepdim=True)
    return Lens(unit, torch.ones(unit.shape[1]), torch.arange(len(unit)), _Names())
