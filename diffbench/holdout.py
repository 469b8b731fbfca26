"""Holdout: whether a probe is a near-copy of a text that a model was tuned on.

A probe is a near-copy when one training text holds nearly all of its runs of words (n-grams), as decontamination of
language-model benchmarks has it (Brown et al. 2020, appendix C, with 13-grams of much longer texts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

WORDS = 6
"""Length of a run; of a shorter text the whole is one run."""
SHARE = 0.8
"""Of a probe's runs, in one and the same training text, from which on it is a copy."""


class Holdout:
    """Training texts, asked whether they hold a near-copy of something."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Index ``texts`` by their runs of words."""
        self._holders: dict[tuple[str, ...], list[int]] = {}
        for index, text in enumerate(texts):
            for run in _runs(text):
                self._holders.setdefault(run, []).append(index)

    def copies(self, text: str) -> bool:
        """Whether some training text holds at least `SHARE` of the runs of ``text``."""
        runs = _runs(text)
        held = Counter(index for run in runs for index in self._holders.get(run, ()))
        return bool(held) and max(held.values()) >= SHARE * len(runs)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1))}
