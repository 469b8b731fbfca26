"""The writer: words, labelled spans, and the nats of every random choice that led to them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from diffbench.text import Document, Span

T = TypeVar("T")


class Writer:
    """Collects the words of one document and counts the entropy of its derivation.

    Every random choice of the generator goes through :meth:`choose`, so ``nats`` is exactly
    ``-log p`` of the derivation. Two derivations may write the same text; ``nats`` is therefore an upper
    bound on ``-log p(text)``.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.nats = 0.0
        self.words: list[str] = []
        self._spans: list[Span] = []
        self._length = 0

    def choose(self, options: Sequence[T], weights: Sequence[float] | None = None, counted: bool = True) -> T:
        """Draw one of ``options`` and add ``-log p`` of the draw to ``nats``.

        Args:
            options: what to draw from; not empty.
            weights: relative weights, uniform without them.
            counted: False for draws that no word depends on (where a document ends: no token says so).
        """
        draw = self._rng.random()
        if weights is None:
            if counted:
                self.nats += math.log(len(options))
            return options[int(draw * len(options))]
        total = math.fsum(weights)
        mark = draw * total
        # The last option with weight takes what rounding leaves over.
        chosen = max(index for index, weight in enumerate(weights) if weight > 0)
        for index, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                chosen = index
                break
        if counted:
            self.nats -= math.log(weights[chosen] / total)
        return options[chosen]

    def chance(self, probability: float) -> bool:
        """True with ``probability``; counted."""
        return self.choose((True, False), (probability, 1.0 - probability))

    def write(self, words: str, label: str | None = None, about: str = "") -> None:
        """Append blank-separated ``words``; with a ``label`` they become a span, ``about`` something."""
        start = self._length + 1 if self.words else 0
        self.words.extend(words.split(" "))
        self._length = start + len(words)
        if label is not None:
            self._spans.append(Span(start, self._length, label, about))

    def document(self) -> Document:
        """What was written."""
        return Document(" ".join(self.words), tuple(self._spans))
