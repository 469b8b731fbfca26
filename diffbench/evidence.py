"""Evidence: which contexts of one component a judge reads, and which it is tested on.

The judge split is cut by document into two halves. Excerpts to explain from come from one, excerpts to be tested on
from the other, and a window (as a tuple of tokens) that was drawn for explaining is never drawn for testing. What
remains in a small world, where text recurs: a test window may end like an explain window, or share any part of one;
and a window may stand for an active and an inactive position at once, because what sets them apart lies further
back than it reaches. Such windows are kept: dropping them from one class, or from both, would make how common a window
is tell its class, and so lift a component of pure noise above one half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffbench.question import Excerpt, Marked

WINDOW = 12
"""Tokens of an excerpt, the last one included."""

DENSE_SHARE = 0.02
"""Share of positions at which a component that is never zero counts as active."""

MOST_WAITING = 400
"""Windows that are held while others are looked for whose unmarked places take their marks."""

Indices = NDArray[np.int64]
Drawn = Literal["top", "range", "near miss", "random"]


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
        index: of the position in ``where`` by document and position, -1 where there is none, [n_documents, longest].
        explain: whether each position lies in a document to explain from; the other documents are for testing.
    """

    tokens: Sequence[Sequence[str]]
    where: Indices
    last: Indices
    before: Indices
    index: Indices
    explain: NDArray[np.bool_]

    @property
    def length(self) -> Indices:
        """Of the window that ends at each position, [n_positions]; shorter ones begin with the document."""
        return np.minimum(self.where[:, 1] + 1, WINDOW)

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
        index = np.full((len(tokens), max(map(len, tokens), default=0)), -1, dtype=np.int64)
        index[places[:, 0], places[:, 1]] = np.arange(len(places))
        # Drawn, not odd against even: generators may write kinds of documents in turn.
        documents = np.random.default_rng([seed, 0]).permutation(np.unique(places[:, 0]))
        return cls(
            tokens=tokens,
            where=places,
            last=np.array(last, dtype=np.int64),
            before=np.array(before, dtype=np.int64),
            index=index,
            explain=np.isin(places[:, 0], documents[: (len(documents) + 1) // 2]),
        )

    def window(self, index: int) -> tuple[str, ...]:
        """The last tokens up to a position, itself included: all that a causal model's state there can know."""
        document, start, end = self.span(index)
        return tuple(self.tokens[document][start:end])

    def span(self, index: int, behind: int = 0) -> tuple[int, int, int]:
        """Document, start and end of the window that ends ``behind`` tokens after a position, or with the document."""
        document, position = self.where[index].tolist()
        end = min(position + 1 + behind, len(self.tokens[document]))
        return document, max(0, end - WINDOW), end


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
    explain = _Draw(contexts, values, mask, np.random.default_rng([seed, 1]), frozenset())
    shown = explain.excerpts(contexts.explain, n // 2)
    taken = frozenset(excerpt.tokens for excerpt in shown)
    test = _Draw(contexts, values, mask, np.random.default_rng([seed, 2]), taken)
    return shown, test.excerpts(~contexts.explain, n // 2)


def sample_marked(
    contexts: Contexts, active: Tensor, n: int, seed: int, taken: AbstractSet[tuple[str, ...]] = frozenset()
) -> tuple[tuple[Marked, ...], tuple[Marked, ...]]:
    """Draw contexts of test documents, marked where a component is active, and others marked where it is not.

    A window ends at any distance behind the active position that it was drawn for. Every wrongly marked one has its
    marks at the places of a rightly marked one of the same length, so that neither where marks stand nor how many there
    are says anything.

    Args:
        contexts: the judge split.
        active: where the component counts as active, bool [n_positions].
        n: contexts wanted, half of them marked rightly.
        seed: of the draw.
        taken: windows that were drawn for explaining.

    Returns:
        Rightly and wrongly marked contexts, no window twice, as many of one as of the other.
    """
    mask: NDArray[np.bool_] = active.detach().cpu().numpy()
    rng = np.random.default_rng([seed, 3])
    windows = _windows_with(contexts, mask, rng, taken)
    pairs: list[tuple[Marked, Marked]] = []
    waiting: list[_Window] = []
    for window in windows:
        if len(pairs) >= n // 2:
            break
        found = (at for at, other in enumerate(waiting) if window.takes_marks_of(other))
        at = next(found, None) if window.others else None
        if at is None:
            if len(waiting) < MOST_WAITING:
                waiting.append(window)
            continue
        right = waiting.pop(at)
        marks = tuple(place for place in range(WINDOW) if right.held >> place & 1)
        pairs.append((Marked(tokens=right.tokens, marked=marks), Marked(tokens=window.tokens, marked=marks)))
    return tuple(right for right, _ in pairs), tuple(wrong for _, wrong in pairs)


@dataclass(frozen=True, slots=True)
class _Window:
    """Tokens, and which places are active and which of the others count, a bit for each."""

    tokens: tuple[str, ...]
    held: int
    others: int

    def takes_marks_of(self, other: _Window) -> bool:
        """Whether the marks of another window of the same length can stand in this one, all of them wrongly."""
        return len(self.tokens) == len(other.tokens) and not other.held & ~self.others


def _windows_with(
    contexts: Contexts, mask: NDArray[np.bool_], rng: np.random.Generator, taken: AbstractSet[tuple[str, ...]]
) -> Iterator[_Window]:
    """Windows of test documents with an active position."""
    seen = set(taken)
    for index in rng.permutation(np.flatnonzero(~contexts.explain & mask)).tolist():
        document, start, end = contexts.span(index, int(rng.integers(WINDOW)))
        window = tuple(contexts.tokens[document][start:end])
        numbers = contexts.index[document, start:end]
        active, counts = mask[numbers], numbers >= 0
        held = _bits(counts & active)
        if window not in seen and held:
            seen.add(window)
            yield _Window(window, held, _bits(counts & ~active))


def _bits(places: NDArray[np.bool_]) -> int:
    return sum(1 << place for place in np.flatnonzero(places).tolist())


@dataclass(frozen=True, slots=True)
class _Draw:
    """One draw: from which positions, in which random order, without which windows."""

    contexts: Contexts
    activity: NDArray[np.float64]
    active: NDArray[np.bool_]
    rng: np.random.Generator
    taken: AbstractSet[tuple[str, ...]]

    def excerpts(self, inside: NDArray[np.bool_], want: int) -> tuple[Excerpt, ...]:
        """Up to ``want`` excerpts of either class, as many of one as of the other, shuffled."""
        pool = np.flatnonzero(inside & self.active)
        chosen = self._active(pool, want)
        others, n_near = self._inactive(np.flatnonzero(inside & ~self.active), chosen, len(chosen))
        if len(others) < len(chosen):
            chosen = self._active(pool, len(others))
        n_top = (len(chosen) + 1) // 2
        drawn = [self._excerpt(index, "top" if at < n_top else "range") for at, index in enumerate(chosen)]
        drawn += [self._excerpt(index, "near miss" if at < n_near else "random") for at, index in enumerate(others)]
        return tuple(drawn[place] for place in self.rng.permutation(len(drawn)))

    def _excerpt(self, index: int, drawn: Drawn) -> Excerpt:
        document, start, end = self.contexts.span(index)
        numbers = self.contexts.index[document, start:end]
        known = numbers >= 0
        values = np.where(known, self.activity[numbers], 0.0)
        return Excerpt(
            tokens=self.contexts.window(index),
            active=bool(self.active[index]),
            activity=float(self.activity[index]),
            activities=tuple(float(f"{value:.6g}") for value in values),
            active_at=tuple(np.flatnonzero(known & self.active[numbers]).tolist()),
            drawn=drawn,
        )

    def _active(self, pool: Indices, want: int) -> list[int]:
        """Half of them the strongest, and these first; the others one from each quantile of what is left."""
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

    def _inactive(self, pool: Indices, chosen: Sequence[int], want: int) -> tuple[list[int], int]:
        """Half of them near misses, each for one active position: its token, or the token before, is the same.

        Near misses stand first; the second part of what is returned says how many there are. Windows are as long as
        those that they are matched with, as far as there are such, so that length says nothing.

        Matching one to one gives near misses the tokens of the active positions about as often as these have them;
        a token that occurs nowhere else has no match, so very rare ones stay slightly more common among the active.
        """
        drawn: list[int] = []
        seen = set(self.taken)
        last, before, length = self.contexts.last, self.contexts.before, self.contexts.length
        lasts, befores = (last, last[pool]), (before, before[pool])
        left: list[int] = []
        for turn, index in enumerate(self.rng.permutation(np.array(chosen, dtype=np.int64)).tolist()):
            for numbers, inside in (lasts, befores) if turn % 2 == 0 else (befores, lasts):
                alike = self.rng.permutation(pool[inside == numbers[index]])
                alike = alike[np.argsort(np.abs(length[alike] - length[index]), kind="stable")]
                if len(drawn) < want // 2 and self._take(alike, len(drawn) + 1, drawn, seen):
                    break
            else:
                left.append(index)
        n_near = len(drawn)
        for index in left:
            self._take(self.rng.permutation(pool[length[pool] == length[index]]), len(drawn) + 1, drawn, seen)
        self._take(self.rng.permutation(pool), want, drawn, seen)
        return drawn, n_near

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
