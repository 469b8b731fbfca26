"""Feature dashboards: where a component is active in the judge's split, and what it writes.

Shapes: T positions, n components, m of them, d residual width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.activity import activity
from diffbench.attribution import directions_of
from diffbench.dashboard import LEAST_COSINE, FeatureDashboard, Neighbour, Shaded, rounded
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, order_of
from diffbench.evidence import active_mask
from diffbench.figure import Figure
from diffbench.gathering import Scene
from diffbench.kl_dashboard import histogram, window
from diffbench.lens import Lens

SHOWN = 6
NEIGHBOURS = 3
NEIGHBOUR_TOKENS = 3
NO_NORMS = Figure.not_applicable("only a dictionary with a decoder for each model has it")
NU = ("nu_activation", "nu_reconstruction", "nu_error")
"""Columns of latent scaling; which of them there are depends on the dictionary."""


@dataclass(frozen=True, slots=True)
class Active:
    """What some components do at the positions of a text that count.

    Attributes:
        where: [T, 2] document and position.
        values: [T, m] activity.
        sparse: whether zero means off.
    """

    where: Tensor
    values: Tensor
    sparse: bool

    @classmethod
    def of(cls, scene: Scene, diff: Diff, components: Sequence[int]) -> Active:
        """Their activity in the judge's split.

        Raises:
            DiffError: as `diffbench.activity.activity`.
        """
        corpus = scene.corpus
        values = activity(diff, scene.reference, scene.tuned, corpus, corpus.counts, list(components))
        return cls(corpus.counts.nonzero(), values, isinstance(diff, DictionaryDiff))

    def strongest(self, scene: Scene, column: int, inside: Tensor | None = None, most: int = SHOWN) -> list[Shaded]:
        """The pieces of text around the places where a component is most active, one of a document.

        Args:
            scene: whose judge's split it is.
            column: of `values`.
            inside: [N] bool, documents to look in; None: all.
            most: pieces.
        """
        size = self.values[:, column].abs().double()
        fit = active_mask(size, self.sparse)
        if inside is not None:
            fit = fit & inside[self.where[:, 0]]
        places = self.where[size.masked_fill(~fit, -1.0).argsort(descending=True, stable=True)][: int(fit.sum())]
        firsts: dict[int, int] = {}
        for document, position in places.tolist():
            if len(firsts) == most:
                break
            firsts.setdefault(document, position)
        return [self._piece(scene, column, document, position) for document, position in firsts.items()]

    def _piece(self, scene: Scene, column: int, document: int, position: int) -> Shaded:
        values: list[float | None] = [None] * scene.corpus.ids.shape[1]
        mine = (self.where[:, 0] == document).nonzero().flatten()
        for at, value in zip(self.where[mine, 1].tolist(), self.values[mine, column].tolist(), strict=True):
            values[at] = value
        return window(scene.corpus, values, document, position, scene.names)


def feature_dashboards(scene: Scene, diff: Diff, components: Sequence[int], lens: Lens) -> tuple[FeatureDashboard, ...]:
    """The feature dashboard of each of some components.

    Args:
        scene: the pair and the judge's split.
        diff: with an activity at each token.
        components: m of its components.
        lens: names the tokens that neighbours promote.

    Raises:
        DiffError: as `diffbench.activity.activity`.
    """
    active = Active.of(scene, diff, components)
    near = _neighbours(diff, components, lens)
    return tuple(
        _dashboard(scene, diff, component, active, column, near.get(component, ()))
        for column, component in enumerate(components)
    )


def _dashboard(
    scene: Scene, diff: Diff, component: int, active: Active, column: int, near: tuple[Neighbour, ...]
) -> FeatureDashboard:
    values = active.values[:, column]
    on = active_mask(values.abs().double(), active.sparse)
    n, fired = values.numel(), int(on.sum())
    dense = Figure.not_applicable("a dense component is never off")
    return FeatureDashboard(
        n_positions=n,
        n_active=fired,
        frequency=Figure.of(fired / n) if active.sparse and n else dense,
        contexts=tuple(active.strongest(scene, column)),
        activity=histogram(values[values != 0]),
        relative_norm=_column(diff, "relative_norm", component) or NO_NORMS,
        nu={name.removeprefix("nu_"): found for name in NU if (found := _column(diff, name, component)) is not None},
        neighbours=near,
    )


def _column(diff: Diff, name: str, component: int) -> Figure | None:
    """What a fit measured of a latent; None where it has no such column."""
    column = diff.columns.get(name) if isinstance(diff, DictionaryDiff) else None
    if column is None:
        return None
    value = float(column[component])
    return Figure.of(rounded(value)) if abs(value) < float("inf") else Figure.undefined("undefined for this latent")


def _neighbours(diff: Diff, components: Sequence[int], lens: Lens) -> dict[int, tuple[Neighbour, ...]]:
    """The components whose directions are most alike, if they are alike at all; weights have none that compare."""
    if not isinstance(diff, DictionaryDiff | DirectionDiff) or not len(components):
        return {}
    directions = directions_of(diff)
    cosine = (directions[list(components)] @ directions.T).nan_to_num(nan=-2.0)
    cosine[torch.arange(len(components)), list(components)] = -2.0
    best = cosine.topk(min(NEIGHBOURS, cosine.shape[1]), dim=1)
    rank = order_of(diff).argsort() + 1
    words = lens.read(directions[best.indices.flatten()].nan_to_num(), NEIGHBOUR_TOKENS)
    found: dict[int, tuple[Neighbour, ...]] = {}
    for row, component in enumerate(components):
        found[component] = tuple(
            Neighbour(
                component=other,
                rank=int(rank[other]),
                cosine=rounded(value),
                tokens_up=tuple(words[row * best.indices.shape[1] + at][0]),
            )
            for at, (value, other) in enumerate(zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True))
            if value >= LEAST_COSINE
        )
    return found
