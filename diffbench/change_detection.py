"""Change detection: do methods alarm where something was changed, and keep quiet where nothing was?

Nulls are told apart by class and never pooled. A null is one organism at one seed, drawn anew; method seeds are
averaged and not counted. Seeds of a changed organism are no independent changes: shares of changed organisms are means
over families, or over organisms where there are fewer than three families. A pure function of the leaderboard's rows.
Knows nothing of models or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from diffbench.contenders import Contender, contenders, place_of
from diffbench.edition import current
from diffbench.figure import Figure
from diffbench.interval import LEAST_UNITS
from diffbench.proportion import share_interval
from diffbench.summary import CONTROLS, Row, plain_rows
from diffbench.truth import Schema
from diffbench.units import Place, average, estimate, stable, unit_means

if TYPE_CHECKING:
    import pandas as pd

UNCLASSED = "unclassed"
TRACKS: dict[str, Literal["false alarms", "specificity", "gauge"]] = {
    "identity": "false alarms",
    "continued": "specificity",
    "control": "specificity",
    "gauge": "gauge",
    UNCLASSED: "false alarms",
}
"""Null classes in the order of their tables, and what an alarm on one of them is."""
Unit = Literal["family", "organism"]
RATES = (0.05, 0.01)
POOL = ("tier", "terms")


class DetectionRow(Schema):
    """One variant of a method against the nulls of one class."""

    label: str
    row: str = Field(description="the method, or method@ranking")
    variant: str = Field(description="digest of row, version and resolved options")
    kind: Literal["method", "control", "own track"]
    nulls: int = Field(description="independent nulls at which the method has a change score")
    positives: int = Field(description="changed organisms at a seed at which it has one")
    resolution: float | None = Field(description="1 / nulls: the smallest false-positive rate they can show")
    auroc: Figure = Field(description="change score of changed organisms against nulls; ties count one half")
    pairs: int = Field(description="pairs of a changed organism and a null behind it")
    tpr_5: Figure = Field(description="share of changed organisms at or over threshold_5, mean over the table's unit")
    threshold_5: float | None = Field(
        description="the smallest observed change score that at most 5% of the nulls reach; null: they all reach more"
    )
    tpr_1: Figure = Field(description="the same at 1%")
    threshold_1: float | None
    alarms: Figure = Field(description="share of the nulls of which the method says changed, 95% Clopper-Pearson")
    abstains_nulls: Figure = Field(description="share of the nulls of which it says nothing, which is no alarm")
    answered_nulls: int = Field(description="nulls behind both")
    hits: Figure = Field(description="share of the changed organisms of which it says changed, mean over the unit")
    abstains_changed: Figure = Field(description="share of them of which it says nothing, mean over the unit; no hit")
    answered_changed: int = Field(description="changed organisms at a seed behind both")
    gaps: str | None = Field(None, description="nulls and changed organisms without a change score, and why")


class ChangeDetection(Schema):
    """One table: the nulls of one class against the changed organisms of one reference."""

    reference: str = Field(description="what the changed organisms are compared with")
    tier: str
    terms: str = Field(description="digest of layer rule, budget and scoring code")
    null_class: str = Field(description="identity, continued, control or gauge; unclassed: a null of no class")
    track: Literal["false alarms", "specificity", "gauge"] = Field(
        description="what an alarm is: false; of a change, but not of the claim; of another basis, expected of methods "
        "that compare both models in one"
    )
    nulls: int = Field(description="independent nulls of the class")
    positives: int = Field(description="changed organisms at a seed")
    unit: Unit = Field(
        description="what shares of changed organisms are over: families, with 95% t, or organisms where there are "
        "fewer than three families, with Clopper-Pearson, as where all families are alike"
    )
    rows: tuple[DetectionRow, ...]


def null_class(row: Row) -> str | None:
    """The class of a null; None for an organism in which something was changed, or nobody knows."""
    if row["null_class"] is not None:
        return str(row["null_class"])
    return UNCLASSED if row["changed"] is False else None


def change_detection(frame: pd.DataFrame | Sequence[Row]) -> tuple[ChangeDetection, ...]:
    """All tables of `diffbench.columns.rows`; none where there are no nulls.

    Superseded versions of organisms take no part.

    A null that is there with several references counts once, with that of the changed organisms if it has it.
    """
    pools: dict[tuple[str, ...], list[Row]] = {}
    for row in current(plain_rows(frame)):
        pools.setdefault(tuple(str(row[name]) for name in POOL), []).append(row)
    found = []
    for (tier, terms), rows in sorted(pools.items()):
        changed = [row for row in rows if null_class(row) is None and row["changed"]]
        for reference in sorted({row["reference"] for row in changed}) or ["base"]:
            positives = [row for row in changed if row["reference"] == reference]
            for name, track in TRACKS.items():
                nulls = _of_one_reference([row for row in rows if null_class(row) == name], reference)
                if nulls:
                    several = len({place_of(row).family for row in positives}) >= LEAST_UNITS
                    unit: Unit = "family" if several else "organism"
                    found.append(
                        ChangeDetection(
                            reference=reference,
                            tier=tier,
                            terms=terms,
                            null_class=name,
                            track=track,
                            nulls=len({place_of(row) for row in nulls}),
                            positives=len({place_of(row) for row in positives}),
                            unit=unit,
                            rows=_tested(positives, nulls, unit),
                        )
                    )
    return tuple(found)


def threshold(nulls: Sequence[float], positives: Sequence[float], rate: float) -> float | None:
    """The smallest observed score that at most a share ``rate`` of the nulls reach; a score equal to it is an alarm.

    None: every observed score is reached by more of them.
    """
    for score in sorted({*nulls, *positives}):
        if sum(null >= score for null in nulls) <= rate * len(nulls) + 1e-9:
            return score
    return None


def auroc(positives: Sequence[float], nulls: Sequence[float]) -> float:
    """P(positive > null) + P(equal) / 2 over all pairs."""
    difference = np.array(positives)[:, None] - np.array(nulls)[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def _of_one_reference(rows: Sequence[Row], reference: str) -> list[Row]:
    held: dict[Place, set[str]] = {}
    for row in rows:
        held.setdefault(place_of(row), set()).add(row["reference"])
    chosen = {place: reference if reference in found else min(found) for place, found in held.items()}
    return [row for row in rows if row["reference"] == chosen[place_of(row)]]


def _tested(positives: Sequence[Row], nulls: Sequence[Row], unit: Unit) -> tuple[DetectionRow, ...]:
    quiet = frozenset(place_of(row) for row in nulls)
    changed = frozenset(place_of(row) for row in positives) - quiet
    rows = [
        _row(each, changed, quiet, unit)
        for each in contenders([*positives, *nulls])
        if each.cells.keys() & quiet  # a method that was run on no null of the class says nothing of it
    ]

    def key(row: DetectionRow) -> tuple[int, int, str]:
        pinned = row.kind == "control"
        place = CONTROLS.index(row.row) if row.row in CONTROLS else len(CONTROLS)
        return 0 if pinned else 2 if row.kind == "own track" else 1, place if pinned else 0, row.label

    return tuple(sorted(rows, key=key))


def _row(each: Contender, changed: frozenset[Place], quiet: frozenset[Place], unit: Unit) -> DetectionRow:
    scored, silent = (_scores(each, places) for places in (changed, quiet))
    positive, null = list(scored.values()), list(silent.values())
    tpr = {rate: _tpr(scored, null, rate, unit) for rate in RATES}
    loud, missed = (_verdicts(each, places) for places in (quiet, changed))
    return DetectionRow(
        label=each.label,
        row=each.row,
        variant=each.variant,
        kind="control" if each.control else "own track" if each.own_track else "method",
        nulls=len(null),
        positives=len(positive),
        resolution=stable(1 / len(null)) if null else None,
        auroc=Figure.of(stable(auroc(positive, null)))
        if positive and null
        else Figure.not_applicable(_nobody(positive, null)),
        pairs=len(positive) * len(null),
        tpr_5=tpr[0.05][0],
        threshold_5=tpr[0.05][1],
        tpr_1=tpr[0.01][0],
        threshold_1=tpr[0.01][1],
        alarms=_of_nulls([says.get("changed", 0.0) for says in loud.values()]),
        abstains_nulls=_of_nulls([says.get("abstain", 0.0) for says in loud.values()]),
        answered_nulls=len(loud),
        hits=_of_changed({place: says.get("changed", 0.0) for place, says in missed.items()}, unit),
        abstains_changed=_of_changed({place: says.get("abstain", 0.0) for place, says in missed.items()}, unit),
        answered_changed=len(missed),
        gaps=_gaps(each, changed, quiet),
    )


def _scores(each: Contender, places: frozenset[Place]) -> dict[Place, float]:
    return {place: average(seeds.values()) for place, seeds in each.values("change_score", places).items()}


def _verdicts(each: Contender, places: frozenset[Place]) -> dict[Place, dict[str, float]]:
    """Of every place at which all of a method's cells answered: the share of its seeds by verdict."""
    found = {}
    for place in sorted(places):
        cells = [*each.cells.get(place, {}).values()]
        if cells and all(row["status"] == "ok" for row in cells):
            said = [row["verdict"] for row in cells]
            found[place] = {verdict: said.count(verdict) / len(said) for verdict in said}
    return found


def _tpr(
    positives: Mapping[Place, float], nulls: Sequence[float], rate: float, unit: Unit
) -> tuple[Figure, float | None]:
    needed = round(1 / rate)
    if len(nulls) < needed:
        return Figure.not_applicable(f"needs {needed} independent nulls, there are {len(nulls)}"), None
    if not positives:
        return Figure.not_applicable(_nobody(list(positives), nulls)), None
    bound = threshold(nulls, list(positives.values()), rate)
    reached = {place: float(bound is not None and score >= bound) for place, score in positives.items()}
    return _of_changed(reached, unit), bound


def _of_nulls(parts: Sequence[float]) -> Figure:
    return _share(parts) if parts else Figure.not_applicable("no answer on any null")


def _of_changed(parts: Mapping[Place, float], unit: Unit) -> Figure:
    """Mean over units, with t over families that differ: what is said of one place is 0, 1 or what seeds agree on."""
    if not parts:
        return Figure.not_applicable("no answer on any changed organism")
    means = list(unit_means({place: {0: part} for place, part in parts.items()}, unit).values())
    found = estimate(means)
    if unit == "organism" or found.low is None or found.high is None:
        return _share(means)
    return Figure.of(stable(found.mean), max(0.0, found.low), min(1.0, found.high))


def _share(parts: Sequence[float]) -> Figure:
    """Of independent units, with the interval of Clopper and Pearson."""
    hits = sum(parts)
    low, high = share_interval(min(hits, len(parts)), len(parts))
    return Figure.of(stable(hits / len(parts)), stable(low), stable(high))


def _nobody(positives: Sequence[object], nulls: Sequence[float]) -> str:
    return "no changed organism with a change score" if not positives else "no null with a change score"


def _gaps(each: Contender, changed: frozenset[Place], quiet: frozenset[Place]) -> str | None:
    parts = []
    for places, what in ((quiet, "nulls"), (changed, "changed")):
        why = [gap for place in places if (gap := each.gap("change_score", place)) is not None]
        if why:
            counted = ", ".join(f"{why.count(word)} {word}" for word in sorted(set(why)))
            parts.append(f"no score on {len(why)} of {len(places)} {what} ({counted})")
    return "; ".join(parts) or None
