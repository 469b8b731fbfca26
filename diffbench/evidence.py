"""Evidence: which contexts of one component a judge reads, and which it is tested on.

The judge split is cut by document into two halves. Excerpts to explain from come from one, excerpts to be tested on
from the other, and a window (as a tuple of tokens) that was drawn for explaining is never drawn for testing. What
remains in a small world, where text recurs: a test window may end like an explain window, or share any part of one;
and a window may stand for an active and an inactive position at once, because what sets them apart lies further
back than it reaches. Such windows are kept: dropping them from one class, or from both, would make how common a window
is tell its class, and so lift a component of pure noise above one half.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffbench.judge import Excerpt

WINDOW = 12
"""Tokens of an excerpt, the last one included."""

DENSE_SHARE = 0.02
"""Share of positions at which a component that is never zero counts as active."""

Indices = NDArray[np.int64]


def active_mask(activity: Tensor, sparse: bool) -> Tensor:
    """Where a component counts as active.

    Args:
        activity: |activity| of one component, [n_positions].
        sparse: whether zero means off, as for the latents of a dictionary.

    Returns:
        For a sparse component, where it is above zero; for a dense one, where it is above its 98th percentile or,
        if more than 2% of the positions share the largest value, where it has that value. A constant dense
        component is active nowhere.
    """
    if sparse:
        return activity > 0
    n = activity.numel()
    if n == 0 or bool(activity.max() == activity.min()):
        return torch.zeros_like(activity, dtype=torch.bool)
    threshold = activity.kthvalue(n - int(DENSE_SHARE * n)).values
    above = activity > threshold
    return above if bool(above.any()) else activity == activity.max()


@dataclass(frozen=True, slots=True)
class Contexts:
    """The positions of a judge split, indexed once for all components.

    Attributes:
        tokens: per document, its tokens as strings.
        where: document index and position, [n_positions, 2].
        last: a number for the token at each position.
        before: a number for the token before it, -1 where there is none.
        explain: whether each position lies in a document to explain from; the other documents are for testing.
    """

    tokens: Sequence[Sequence[str]]
    where: Indices
    last: Indices
    before: Indices
    explain: NDArray[np.bool_]

    @classmethod
    def of(cls, tokens: Sequence[Sequence[str]], where: Tensor, seed: int) -> Contexts:
        """Index the positions and draw which half of the documents is for explaining."""
        places: Indices = where.detach().cpu().numpy().astype(np.int64)
        numbers: dict[str, int] = {}
        last, before = [], []
        for document, position in places.tolist():
            words = tokens[document]
            last.append(numbers.setdefault(words[position], len(numbers)))
            before.append(numbers.setdefault(words[position - 1], len(numbers)) if position else -1)
        # Drawn, not odd against even: generators may write kinds of documents in turn.
        documents = np.random.default_rng([seed, 0]).permutation(np.unique(places[:, 0]))
        return cls(
            tokens=tokens,
            where=places,
            last=np.array(last, dtype=np.int64),
            before=np.array(before, dtype=np.int64),
            explain=np.isin(places[:, 0], documents[: (len(documents) + 1) // 2]),
        )

    def window(self, index: int) -> tuple[str, ...]:
        """The last tokens up to a position, itself included: all that a causal model's state there can know."""
        document, position = self.where[index].tolist()
        return tuple(self.tokens[document][max(0, position + 1 - WINDOW) : position + 1])


def sample_splits(
    contexts: Contexts, activity: Tensor, active: Tensor, n: int, seed: int
) -> tuple[tuple[Excerpt, ...], tuple[Excerpt, ...]]:
    """Draw the excerpts of one component to explain from, and those to be tested on.

    Args:
        contexts: the judge split.
        activity: |activity| of the component, [n_positions].
        active: where the component counts as active, bool [n_positions].
        n: excerpts wanted of either split, half of them active.
        seed: of the draw; equal arguments give equal excerpts.

    Returns:
        Excerpts in an order that says nothing of their class. Both classes are equally large, and smaller than
        n / 2 where one has too few distinct windows.
    """
    values: NDArray[np.float64] = activity.detach().cpu().double().numpy()
    mask: NDArray[np.bool_] = active.detach().cpu().numpy()
    explain = _Draw(contexts, values, np.random.default_rng([seed, 1]), frozenset())
    shown = explain.excerpts(contexts.explain, mask, n // 2)
    taken = frozenset(excerpt.tokens for excerpt in shown)
    test = _Draw(contexts, values, np.random.default_rng([seed, 2]), taken)
    return shown, test.excerpts(~contexts.explain, mask, n // 2)


@dataclass(frozen=True, slots=True)
class _Draw:
    """One draw: from which positions, in which random order, without which windows."""

    contexts: Contexts
    activity: NDArray[np.float64]
    rng: np.random.Generator
    taken: AbstractSet[tuple[str, ...]]

    def excerpts(self, inside: NDArray[np.bool_], active: NDArray[np.bool_], want: int) -> tuple[Excerpt, ...]:
        """Up to ``want`` excerpts of either class, as many of one as of the other, shuffled."""
        pool = np.flatnonzero(inside & active)
        chosen = self._active(pool, want)
        others = self._inactive(np.flatnonzero(inside & ~active), chosen, len(chosen))
        if len(others) < len(chosen):
            chosen = self._active(pool, len(others))
        drawn = [(index, True) for index in chosen] + [(index, False) for index in others]
        return tuple(
            Excerpt(self.contexts.window(index), is_active, float(self.activity[index]))
            for index, is_active in (drawn[place] for place in self.rng.permutation(len(drawn)))
        )

    def _active(self, pool: Indices, want: int) -> list[int]:
        """Half of them the strongest, the others one from each quantile of what is left."""
        order = self.rng.permutation(pool)
        order = order[np.argsort(-self.activity[order], kind="stable")]
        chosen: list[int] = []
        seen = set(self.taken)
        self._take(order, (want + 1) // 2, chosen, seen)
        left = order[~np.isin(order, chosen)]
        for quantile in np.array_split(left, max(1, want - len(chosen))):
            self._take(self.rng.permutation(quantile), min(want, len(chosen) + 1), chosen, seen)
        self._take(self.rng.permutation(left), want, chosen, seen)
        return chosen

    def _inactive(self, pool: Indices, chosen: Sequence[int], want: int) -> list[int]:
        """Half of them near misses, each for one active position: its token, or the token before, is the same.

        Matching one to one gives near misses the tokens of the active positions about as often as these have them;
        a token that occurs nowhere else has no match, so very rare ones stay slightly more common among the active.
        """
        drawn: list[int] = []
        seen = set(self.taken)
        last, before = self.contexts.last, self.contexts.before
        for turn, index in enumerate(self.rng.permutation(np.array(chosen, dtype=np.int64)).tolist()):
            if len(drawn) >= want // 2:
                break
            for numbers in (last, before) if turn % 2 == 0 else (before, last):
                alike = pool[numbers[pool] == numbers[index]]
                if self._take(self.rng.permutation(alike), len(drawn) + 1, drawn, seen):
                    break
        self._take(self.rng.permutation(pool), want, drawn, seen)
        return drawn

    def _take(self, order: Iterable[np.int64], total: int, chosen: list[int], seen: set[tuple[str, ...]]) -> bool:
        """Extend ``chosen`` to ``total`` by the first positions whose windows are new; whether that succeeded."""
        for index in map(int, order):
            if len(chosen) >= total:
                break
            window = self.contexts.window(index)
            if window not in seen:
                seen.add(window)
                chosen.append(index)
        return len(chosen) >= total
