"""Triples: how the latents of a tied crosscoder share the firing of a concept, beside those of a matched pair of SAEs.

The firing of a triple is mean (f_s + f_b) ‖d_b‖ + mean (f_s + f_t) ‖d_t‖ over held-out rows, with f_s, f_b, f_t of its
shared, base and tuned latent. Shapes: m triples, n latents.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffbench.errors import DiffError
from diffbench.figure import Figure
from diffbench.latents import LEAST_FIRING
from diffbench.study import Reading
from diffbench.worded import Worded

MOST_OF_IT = 0.9
"""Share of the firing that is looked for."""
LINKED = 0.9
"""Cosine from which on latents of two SAEs are one group."""


@dataclass(frozen=True, slots=True)
class Firing:
    """[m] float64 each: the firing of the members of every triple."""

    shared: Tensor
    base: Tensor
    tuned: Tensor

    @property
    def total(self) -> Tensor:
        """[m]: of the whole triple."""
        return self.shared + self.base + self.tuned


def firing(worded: Worded) -> Firing:
    """The firing of a tied crosscoder's triples.

    Raises:
        DiffError: if the dictionary has no triples.
    """
    diff = worded.diff
    if diff.group is None:
        raise DiffError("the dictionary has no tied triples")
    assert diff.decoder_base is not None and diff.decoder_tuned is not None  # triples have both
    mean = worded.column("activation_mean").double().view(-1, 3)
    norm_b, norm_t = (each.double().norm(dim=1).view(-1, 3) for each in (diff.decoder_base, diff.decoder_tuned))
    return Firing(mean[:, 0] * (norm_b[:, 0] + norm_t[:, 0]), mean[:, 1] * norm_b[:, 1], mean[:, 2] * norm_t[:, 2])


def triples_of(worded: Worded, words: Collection[str], *, every: bool) -> Reading:
    """The fewest triples that hold 90% of the firing of those that promote all (or any) of ``words``.

    A triple promotes what its tuned or its base decoder promotes.
    """
    total = firing(worded).total
    promoting = worded.promoting("tuned", words, every=every) | worded.promoting("base", words, every=every)
    return _fewest(total[promoting.view(-1, 3)[:, 0]], "triples")


def exclusive_firing(worded: Worded) -> Reading:
    """Share of the base and tuned latents in the firing of all triples."""
    found = firing(worded)
    own, total = float((found.base + found.tuned).sum()), float(found.total.sum())
    return Reading(figure=Figure.of(own / total) if total else Figure.undefined("no triple fires"))


def new(worded: Worded) -> Reading:
    """Share of the triples that fire at all often whose tuned latent fires in more rows than their shared one."""
    firing(worded)
    shared, base, tuned = worded.column("frequency").view(-1, 3).unbind(dim=1)
    often = shared + base + tuned >= LEAST_FIRING
    n, found = int(often.sum()), int((often & (tuned > shared)).sum())
    figure = Figure.of(found / n) if n else Figure.undefined("no triple fires often enough")
    return Reading(figure=figure, detail=f"{found} of {n}")


def pairs_of(worded: Worded, words: Collection[str]) -> Reading:
    """The fewest groups that hold 90% of the firing of latents of two SAEs that promote all of ``words``.

    Latents of the two are in one group where a chain of cosines of .9 or more, each across the two, links them.

    Raises:
        DiffError: if the dictionary is no pair of SAEs.
    """
    base, tuned = sides_of_pair(worded)
    mean = worded.column("activation_mean").double()
    assert worded.diff.decoder_base is not None and worded.diff.decoder_tuned is not None  # checked with the sides
    of_base = (base & worded.live & worded.promoting("base", words)).nonzero().flatten()
    of_tuned = (tuned & worded.live & worded.promoting("tuned", words)).nonzero().flatten()
    rows_b, rows_t = worded.diff.decoder_base[of_base].double(), worded.diff.decoder_tuned[of_tuned].double()
    masses = torch.cat([mean[of_base] * rows_b.norm(dim=1), mean[of_tuned] * rows_t.norm(dim=1)])
    linked = (normalize(rows_b, dim=1) @ normalize(rows_t, dim=1).T >= LINKED).nonzero().tolist()
    group = _groups(len(masses), [(b, len(of_base) + t) for b, t in linked])
    total = torch.zeros(len(masses), dtype=torch.float64).index_add_(0, torch.tensor(group, dtype=torch.int64), masses)
    return _fewest(total[total > 0], "groups")


def sides_of_pair(worded: Worded) -> tuple[Tensor, Tensor]:
    """[n] bool each: the latents of the base's SAE and those of the tuned model's.

    Raises:
        DiffError: if a latent writes into both models, or the dictionary has one decoder alone.
    """
    diff = worded.diff
    if diff.decoder_base is None or diff.decoder_tuned is None:
        raise DiffError("the dictionary is no pair of SAEs")
    base, tuned = (bool_rows(each) for each in (diff.decoder_base, diff.decoder_tuned))
    if bool((base & tuned).any()):
        raise DiffError("the dictionary is no pair of SAEs: a latent writes into both models")
    return base, tuned


def bool_rows(decoder: Tensor) -> Tensor:
    """[n] bool: rows that are not all zero."""
    return (decoder != 0).any(dim=1)


def _fewest(firing: Tensor, what: str) -> Reading:
    """How many of some firings, largest first, come to 90% of their sum."""
    sizes = firing.sort(descending=True).values
    total = float(sizes.sum())
    if total <= 0:
        return Reading(figure=Figure.undefined(f"no {what} of these words fire"), detail=f"{len(sizes)} {what}")
    held = sizes.cumsum(0) / total
    count = int((held < MOST_OF_IT - 1e-12).sum()) + 1
    return Reading(figure=Figure.of(float(count)), detail=f"of {int((sizes > 0).sum())}; first {float(held[0]):.2f}")


def _groups(n: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """For each of n nodes the smallest node that links lead to."""
    group = list(range(n))

    def root(node: int) -> int:
        while group[node] != node:
            node = group[node]
        return node

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        group[high] = low
    return [root(node) for node in range(n)]
