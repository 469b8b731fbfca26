"""Tally: how many of some continuations say a thing, with 95% intervals. Knows nothing of models or torch.

The interval of a share is Wilson's score interval (Wilson 1927), that of a difference of two independent shares
Newcombe's of the two (Newcombe 1998, method 10). Both stay in range and have a width where all or none say it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diffbench.figure import Figure

NORMAL = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""

At = Literal["start", "anywhere"]


@dataclass(frozen=True, slots=True)
class Count:
    """``hits`` of ``n``."""

    hits: int
    n: int

    @property
    def figure(self) -> Figure:
        """The share with its interval; undefined of nothing."""
        if self.n == 0:
            return Figure.undefined("there are no continuations")
        low, high = wilson(self.hits, self.n)
        return Figure.of(self.hits / self.n, low, high)

    def __str__(self) -> str:
        return f"{self.hits} of {self.n}"


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Ends of the 95% score interval of ``hits`` of ``n``."""
    share, square = hits / n, NORMAL * NORMAL
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = NORMAL * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def difference(one: Count, other: Count) -> Figure:
    """Share of ``one`` minus share of ``other`` with its 95% interval; the two are taken to be independent."""
    if not one.n or not other.n:
        return Figure.undefined("there are no continuations")
    p, q = one.hits / one.n, other.hits / other.n
    (p_low, p_high), (q_low, q_high) = wilson(one.hits, one.n), wilson(other.hits, other.n)
    return Figure.of(p - q, p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low))


def count_continuations(texts: Sequence[str], patterns: Sequence[str], at: At = "start") -> dict[str, Count]:
    """For each of ``patterns`` how many of ``texts`` say it; see `says`."""
    return {pattern: Count(sum(says(text, pattern, at) for text in texts), len(texts)) for pattern in patterns}


def says(text: str, pattern: str, at: At = "start") -> bool:
    """Whether a text begins with some words, or has them anywhere.

    Words are literal and whole, case counts, and any white space is as good as any other.
    """
    words = r"\s+".join(map(re.escape, pattern.split()))
    begin = r"\s*" if at == "start" else r"(?s:.*?)" + (r"(?<!\w)" if re.match(r"\w", pattern.strip()) else "")
    end = r"(?!\w)" if re.search(r"\w\s*$", pattern) else ""
    return re.match(begin + words + end, text) is not None


def beginnings(texts: Sequence[str], words: int = 2, most: int = 10) -> list[tuple[str, Count]]:
    """How texts begin: their first ``words`` words, the most frequent first, those of one count by the alphabet."""
    found = Counter(" ".join(text.split()[:words]) for text in texts)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [(begin, Count(hits, len(texts))) for begin, hits in ordered[:most]]
