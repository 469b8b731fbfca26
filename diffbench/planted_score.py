"""Planted score: which of the planted changes do the first components of a Diff name, exactly.

What a component says and what was planted are compared as footprints in the difference of the two streams. The
footprint of component i is what it alone adds to the difference, c_i(t) v_i over rows t; that of feature j is
a_j^t(t) d_j^t - a_j^b(t) d_j^b. Both are a vector times a coefficient per row, so their cosine as arrays [T, d], after
the mean over rows is taken off, is a product:

    S_ij = corr(c_i, e_j) * cos(v_i, w_j)

It is 1 only where a component writes the right direction at the right times. Constant offsets play no part, nor does a
component's scale, nor the sign of a direction that its coefficient undoes.

A component *matches* the feature with the largest S if S² >= 1/2: its footprint, scaled at best, explains at least
half of the feature's energy. Two orthogonal footprints can never both be matched by one component, and planted ones are
nearly orthogonal, so no assignment problem is left: a feature is found if some component matches it, and further
components that match it are *duplicates*, counted apart. They are no hits, because a reader who is told the same thing
twice has learnt one thing.

Rotated and recorrelated features stand in both models and differ in direction or in time, so one component may tell
them whole, or one may tell what the base model loses (-a^b d^b) and another what the tuned model gains (a^t d^t). Each
of the three counts as naming the feature.

Shapes: T held-out rows, n components, F footprints, d residual width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb, sqrt

import torch
from pydantic import Field
from torch import Tensor

from diffbench.dictionary import difference_decoder, encode
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff
from diffbench.edit import Streams, edit_of
from diffbench.figure import Figure
from diffbench.planted import CHANGED, Features, Kind, Planted, PlantedRows
from diffbench.truth import Schema

LEAST_COSINE = sqrt(0.5)
"""S from which on a component matches: at least half of the energy of what was planted."""
NULL_BUDGETS = (5, 10, 20)
"""Components that are looked at where nothing was changed."""

ROUNDING = 1e-9
"""Norms under which float64 holds nothing but rounding."""

NOBODY = -1


class KindRecall(Schema):
    """Features of one kind that were found."""

    kind: Kind
    planted: int
    found: int
    recall: Figure = Field(description="found / planted; undefined where none was planted")


class PlantedBudget(Schema):
    """What the first ``m`` components of a Diff's order name."""

    m: int = Field(description="components asked for")
    components: int = Field(description="components looked at: m, or all that there are")
    hits: int = Field(description="changed features that at least one of them matches")
    duplicates: int = Field(description="components that match a changed feature which an earlier one matches")
    false_alarms: tuple[str, ...] = Field(description="shared features that components name as changed, in their order")
    precision: Figure = Field(description="hits / components")
    recall: Figure = Field(description="hits / changed features")
    f1: Figure = Field(description="2 hits / (components + changed features)")
    f1_shuffled: Figure = Field(description="expected F1 of the same components in random order, exact")
    kinds: tuple[KindRecall, ...]


class PlantedScore(Schema):
    """All that a Diff scores on one planted pair."""

    changed: int = Field(description="planted features that are not shared")
    n_components: int
    dead: int = Field(description="components that are constant on the held-out rows; they match nothing")
    budgets: tuple[PlantedBudget, ...] = Field(
        description="half as many components as changed features, as many, twice"
    )
    recall_all: Figure = Field(description="share of the changed features that any component matches")
    energy: Figure = Field(
        description="mean over changed features of the largest S² (0 where S < 0) among as many components"
    )


@dataclass(frozen=True, slots=True)
class Footprints:
    """Rank-one arrays [T, d]: a coefficient per row times a vector.

    Attributes:
        coefficient: [T, F] float64.
        vector: [F, d] float64.
        owner: [F] int64, the component or feature that each belongs to.
    """

    coefficient: Tensor
    vector: Tensor
    owner: Tensor

    def cosines(self, others: Footprints) -> Tensor:
        """S [F, F'] float64; 0 where one of the two is constant over the rows or has no vector."""
        correlation = _unit(_centred(self.coefficient), 0).T @ _unit(_centred(others.coefficient), 0)
        return correlation * (_unit(self.vector, 1) @ _unit(others.vector, 1).T)

    @property
    def constant(self) -> Tensor:
        """[F] bool: those without anything left when the mean over rows is taken off."""
        return (_unit(_centred(self.coefficient), 0) == 0).all(dim=0) | (self.vector == 0).all(dim=1)


@dataclass(frozen=True, slots=True)
class Components:
    """What a Diff's components do on the held-out rows.

    Attributes:
        added: what each adds to the difference, one footprint per component.
        sides: what each stands for in one stream or the other, one or two per component.
        order: [n] int64, most changed first.
    """

    added: Footprints
    sides: Footprints
    order: Tensor


def score_diff(planted: Planted, diff: Diff) -> PlantedScore | None:
    """Score a Diff; None for a kind without footprints in the residual stream (weights, outputs)."""
    if not isinstance(diff, DictionaryDiff | DirectionDiff):
        return None
    return score_components(planted, components_of(diff, planted.held_out))


def score_components(planted: Planted, components: Components) -> PlantedScore:
    """Score components against what was planted."""
    features = planted.features
    n, order = len(components.order), components.order
    changed = planted.features.changed
    cosines = _best(components.added.cosines(changes(planted)), changes(planted).owner, len(features))
    matched = _matched(cosines)[order]
    alarm = _matched(_named(components, planted))[order]
    ms = sorted({max(1, len(changed) // 2), len(changed), 2 * len(changed)}) if changed else NULL_BUDGETS
    budgets = tuple(_budget(features, matched, alarm, m) for m in ms)
    if not changed or n == 0:
        why = "no feature was changed" if not changed else "there are no components"
        found = energy = Figure.undefined(why)
    else:
        found = Figure.of(len(set(matched.tolist()) - {NOBODY}) / len(changed))
        best = cosines[order[: len(changed)]][:, changed].amax(dim=0).clamp_min(0)
        energy = Figure.of(float(best.square().mean()))
    return PlantedScore(
        changed=len(changed),
        n_components=n,
        dead=int(components.added.constant.sum()),
        budgets=budgets,
        recall_all=found,
        energy=energy,
    )


def changes(planted: Planted) -> Footprints:
    """Footprints of all changed features: whole, and for rotated and recorrelated ones each side."""
    features, rows = planted.features, planted.held_out
    parts = [_whole(features, rows)]
    both = features.of("rotated", "recorrelated")
    owner = torch.tensor(both, dtype=torch.int64)
    parts.append(Footprints(rows.fired_tuned[:, both].double(), features.tuned[both].double(), owner))
    parts.append(Footprints(rows.fired_base[:, both].double(), -features.base[both].double(), owner))
    return Footprints(
        torch.cat([part.coefficient for part in parts], dim=1),
        torch.cat([part.vector for part in parts]),
        torch.cat([part.owner for part in parts]),
    )


def true_components(planted: Planted) -> Components:
    """The changed features themselves, as the best answer there is."""
    whole = _whole(planted.features, planted.held_out)
    own = torch.arange(len(whole.owner))
    added = replace(whole, owner=own)
    return Components(added=added, sides=added, order=own)


def components_of(diff: DictionaryDiff | DirectionDiff, rows: PlantedRows) -> Components:
    """What the components of a Diff do on some rows."""
    edit = edit_of(diff)
    assert edit is not None  # these two kinds have one
    n = diff.n_components
    own = torch.arange(n)
    activity = edit.activity(Streams(rows.h_b, rows.h_b + rows.delta, torch.zeros(len(rows.h_b), dtype=torch.int64)))
    activity = activity.double()
    if isinstance(diff, DirectionDiff):
        coefficient = activity if diff.constant is None else diff.constant.double().expand(len(activity), n)
        added = Footprints(coefficient, diff.directions.double(), own)
        return Components(added=added, sides=added, order=edit.order())
    vector = difference_decoder(diff).double()
    if diff.input == "both":
        assert diff.decoder_base is not None and diff.decoder_tuned is not None  # checked with the Diff
        sides = Footprints(
            activity.repeat(1, 2), torch.cat([diff.decoder_base, diff.decoder_tuned]).double(), own.repeat(2)
        )
        return Components(Footprints(activity, vector, own), sides, edit.order())
    sides = Footprints(activity, vector, own)
    if diff.input != "delta":  # its code of h_t less its code of h_b; "encode" reads whatever stands for h_t
        activity = activity - encode(diff, rows.h_b, rows.h_b).double()
    return Components(Footprints(activity, vector, own), sides, edit.order())


def _whole(features: Features, rows: PlantedRows) -> Footprints:
    changed = features.changed
    moved = [features.kind[index] == "recorrelated" for index in changed]
    base, tuned = rows.fired_base[:, changed].double(), rows.fired_tuned[:, changed].double()
    coefficient = torch.where(torch.tensor(moved, dtype=torch.bool), tuned - base, base)
    still = (features.tuned[changed] - features.base[changed]).double()
    vector = torch.where(torch.tensor(moved, dtype=torch.bool)[:, None], features.base[changed].double(), still)
    return Footprints(coefficient, vector, torch.tensor(changed, dtype=torch.int64))


def _named(components: Components, planted: Planted) -> Tensor:
    """S [n, features] of what components stand for with shared features; 0 for changed ones."""
    shared = planted.features.of("shared")
    truth = Footprints(
        planted.held_out.fired_base[:, shared].double(),
        planted.features.base[shared].double(),
        torch.tensor(shared, dtype=torch.int64),
    )
    per_side = _best(components.sides.cosines(truth), truth.owner, len(planted.features))
    return _largest(per_side.T, components.sides.owner, len(components.order)).T


def _best(cosines: Tensor, owner: Tensor, n: int) -> Tensor:
    """[components, n]: the largest S over the footprints of each feature; 0 for a feature without any."""
    found = _largest(cosines, owner, n)
    found[:, ~torch.isin(torch.arange(n), owner)] = 0.0
    return found


def _largest(values: Tensor, owner: Tensor, n: int) -> Tensor:
    """[rows, n]: the largest of the columns of each owner, -1 where it has none."""
    found = torch.full((len(values), n), -1.0, dtype=torch.float64)
    return found.scatter_reduce_(1, owner.expand(len(values), -1), values, "amax")


def _matched(cosines: Tensor) -> Tensor:
    """[components] int64: the feature that each matches, or NOBODY."""
    if not cosines.numel():
        return torch.full((len(cosines),), NOBODY)
    largest, which = cosines.max(dim=1)
    return torch.where(largest >= LEAST_COSINE, which, NOBODY)


def _budget(features: Features, matched: Tensor, alarm: Tensor, m: int) -> PlantedBudget:
    """Counts among the first m components; ``matched`` and ``alarm`` are in the Diff's order."""
    changed, n = features.changed, len(matched)
    seen = min(m, n)
    first = matched[:seen]
    found = set(first.tolist()) - {NOBODY}
    named = [int(index) for index in alarm[:seen][first == NOBODY] if index != NOBODY]
    nothing, empty = Figure.undefined("no feature was changed"), Figure.undefined("there are no components")
    counts = torch.bincount(matched[matched != NOBODY], minlength=len(features)).tolist()
    shuffled = sum(1 - comb(n - count, seen) / comb(n, seen) for count in counts if count)
    size = seen + len(changed)
    return PlantedBudget(
        m=m,
        components=seen,
        hits=len(found),
        duplicates=int((first != NOBODY).sum()) - len(found),
        false_alarms=tuple(map(Features.name, dict.fromkeys(named))),
        precision=Figure.of(len(found) / seen) if seen else empty,
        recall=empty if not seen else Figure.of(len(found) / len(changed)) if changed else nothing,
        f1=empty if not seen else Figure.of(2 * len(found) / size) if changed else nothing,
        f1_shuffled=empty if not seen else Figure.of(2 * shuffled / size) if changed else nothing,
        kinds=tuple(_kind(features, kind, found, seen) for kind in CHANGED),
    )


def _kind(features: Features, kind: Kind, found: set[int], seen: int) -> KindRecall:
    planted = features.of(kind)
    hits = len(found.intersection(planted))
    if not planted:
        recall = Figure.undefined("none was planted")
    else:
        recall = Figure.of(hits / len(planted)) if seen else Figure.undefined("there are no components")
    return KindRecall(kind=kind, planted=len(planted), found=hits, recall=recall)


def _centred(coefficient: Tensor) -> Tensor:
    return coefficient - coefficient.mean(dim=0)


def _unit(x: Tensor, dim: int) -> Tensor:
    """Unit slices along ``dim``; zero where there is nothing but rounding."""
    norm = x.norm(dim=dim, keepdim=True)
    return torch.where(norm > ROUNDING, x / norm.clamp_min(ROUNDING), 0.0)
