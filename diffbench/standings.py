"""Standings: methods over organisms, with intervals over the highest independent unit, and no rank that is not earned.

A pure function of the leaderboard's rows. Knows nothing of models or torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from diffbench.contenders import POOL, Contender, contenders, meeting, place_of
from diffbench.edition import current
from diffbench.errors import OptionError, UnknownName
from diffbench.figure import Figure
from diffbench.interval import LEAST_UNITS
from diffbench.score_columns import FIGURES
from diffbench.separation import Judged, Pair, Paired, holm, letters, paired, ranks, units_needed
from diffbench.standing import PairTest, Standing, StandingRow
from diffbench.summary import CONTROLS, Row, plain_rows
from diffbench.trivial import lift
from diffbench.units import Level, Place, Values, average, differences, estimate, level_of, stable, unit_means

if TYPE_CHECKING:
    import pandas as pd

METRICS = (
    "headline",
    "budget_mean",
    "claims_recall",
    "auroc_first",
    "direction_first",
    "installed",
    "removed",
    "detection_lift",
)
"""What standings are made of where nothing is asked for; the first is the main one.

None is the best of what several findings score: that grows by chance with the findings that a row has. Claims found
are those of the first ten.
"""
EVERYTHING = "all organisms"
BETTER = {column.name: column.better for column in FIGURES}
WORDS = {column.name: column.description for column in FIGURES}


def standings(
    frame: pd.DataFrame | Sequence[Row], metrics: Sequence[str] = METRICS, scope: str | None = None
) -> tuple[Standing, ...]:
    """All tables of `diffbench.columns.rows`: of each pool each metric, of each organism with three seeds the first.

    Three seeds of the organism or of a method. A table over all organisms is about the methods that were run on most
    of them; what was run here and there is named below it and stands in the tables of the organisms.

    Organisms in which nothing was changed on purpose, superseded versions of others, and rows of submissions that
    nobody scored again take no part.

    Args:
        frame: rows of the leaderboard's data.
        metrics: figures with a direction.
        scope: tables of this organism alone, all metrics.
    """
    pools: dict[tuple[str, ...], list[Row]] = {}
    for row in current(plain_rows(frame)):
        if row["changed"] is not False and row["null_class"] is None:
            pools.setdefault(tuple(str(row[name]) for name in POOL), []).append(row)
    found = []
    for key, rows in sorted(pools.items()):
        pool = dict(zip(POOL, key, strict=True))
        if scope is not None:
            rows = [row for row in rows if place_of(row).organism == scope]
            found += _tables(rows, metrics, pool, scope)
            continue
        found += _tables(rows, metrics, pool, EVERYTHING)
        at: dict[str, list[Row]] = {}
        for row in rows:
            at.setdefault(place_of(row).organism, []).append(row)
        for organism, here in sorted(at.items()):
            if len(at) > 1 and _seeds(here) >= LEAST_UNITS:
                found += _tables(here, metrics[:1], pool, organism)
    return tuple(found)


def chosen(asked: Sequence[str]) -> tuple[str, ...]:
    """The figures that somebody asks for: none is the main one, ``all`` the usual ones.

    Raises:
        UnknownName: for a figure that there is not.
        OptionError: for one of which neither more nor less is better.
    """
    if not asked:
        return METRICS[:1]
    if "all" in asked:
        return METRICS
    for name in asked:
        if name not in BETTER:
            raise UnknownName("figure", name, BETTER, "its names are the columns of leaderboard.csv")
        if BETTER[name] is None:
            raise OptionError(f"--metric {name}: neither more nor less of it is better, so nothing can be ranked by it")
    return tuple(dict.fromkeys(asked))


def organisms_of(frame: pd.DataFrame | Sequence[Row]) -> tuple[str, ...]:
    """Names that `standings` takes as a scope."""
    return tuple(sorted({place_of(row).organism for row in plain_rows(frame)}))


def _seeds(rows: Sequence[Row]) -> int:
    """The seeds of an organism, or of the methods on it, whichever are more."""
    return max(len({place_of(row).seed for row in rows}), len({row["seed"] for row in rows}))


def _tables(rows: Sequence[Row], metrics: Sequence[str], pool: Mapping[str, str], scope: str) -> list[Standing]:
    found = contenders(rows)
    return [table for metric in metrics if (table := _table(found, metric, pool, scope)) is not None]


def _table(found: Sequence[Contender], metric: str, pool: Mapping[str, str], scope: str) -> Standing | None:
    """One table; None where no row has the score anywhere."""
    labels, met = [each.label for each in found], meeting(found, metric)
    found, asked = met.here, met.places
    everywhere = {each.label: each.values(metric, asked) for each in found}
    competing = [each for each in found if each.ranked] or found
    places = frozenset(place for each in competing for place in everywhere[each.label])
    if not places:
        return None
    values = {
        label: {place: seeds for place, seeds in scored.items() if place in places}
        for label, scored in everywhere.items()
    }
    method_seeds = {seed for scored in values.values() for seeds in scored.values() for seed in seeds}
    level = level_of(places, len(method_seeds))
    score = _Field(metric, 1 if BETTER[metric] else -1, level, places, values)
    ranked = score.ranking(found)
    tests, rows = score.tests(ranked), {each.label: score.row(each, found) for each in found}
    judged = holm(tests)
    spans, groups = ranks(len(ranked), tests, judged), letters(len(ranked), judged)
    for at, each in enumerate(ranked):
        earned = {"rank_low": spans[at][0], "rank_high": spans[at][1], "group": None if groups is None else groups[at]}
        rows[each.label] = rows[each.label].model_copy(update=earned)
    one = level == "documents" and len(places) == len(method_seeds) == 1
    return Standing(
        scope=scope,
        **pool,
        metric=metric,
        higher_is_better=score.sign > 0,
        unit=level if level != "documents" or one else None,
        units=max(row.units for row in rows.values()),
        families=len({place.family for place in places}),
        organisms=len({(place.family, place.organism) for place in places}),
        places=len(places),
        left_out=tuple(str(place) for place in sorted({place for each in found for place in each.cells} - asked)),
        occasional=tuple(label for label in labels if label not in everywhere),
        rows=_in_order(found, rows, [each.label for each in ranked], score.sign),
        pairs=tuple(score.pair(ranked, pair, tests[pair], judged.get(pair), rows) for pair in sorted(tests)),
    )


@dataclass(frozen=True, slots=True)
class _Field:
    """One metric over the places of a table.

    Means over units are linear: where two rows have the same places and seeds, the differences of their unit means are
    the unit means of their differences, and need not be taken place by place.
    """

    metric: str
    sign: int
    level: Level
    places: frozenset[Place]
    values: Mapping[str, Values]
    _means: dict[str, list[float]] = field(default_factory=dict)
    _shapes: dict[str, dict[Place, Collection[int]]] = field(default_factory=dict)
    _apart: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def units(self, label: str) -> list[float]:
        """A row's unit means."""
        if label not in self._means:
            self._means[label] = list(unit_means(self.values[label], self.level).values())
        return self._means[label]

    def apart(self, first: str, second: str) -> list[float]:
        """First minus second over the units that both have; positive where the first is better."""
        pair = (first, second)
        if pair not in self._apart:
            if self._shape(first) == self._shape(second):
                found = [one - other for one, other in zip(self.units(first), self.units(second), strict=True)]
            else:
                shared = differences(self.values[first], self.values[second])
                found = list(unit_means(shared, self.level).values())
            self._apart[pair] = [self.sign * value for value in found]
        return self._apart[pair]

    def _shape(self, label: str) -> dict[Place, Collection[int]]:
        if label not in self._shapes:
            self._shapes[label] = {place: seeds.keys() for place, seeds in self.values[label].items()}
        return self._shapes[label]

    def ranking(self, found: Sequence[Contender]) -> list[Contender]:
        """The rows that can be ranked, best first.

        A row that misses places is put where its differences from the complete rows place it.
        """
        able = [
            each
            for each in found
            if each.ranked and self.level != "documents" and len(self.units(each.label)) >= LEAST_UNITS
        ]
        complete = {each.label for each in able if self.values[each.label].keys() == self.places}
        height = {each.label: self.sign * average(self.units(each.label)) for each in able}
        for label in height.keys() - complete:
            guesses = [height[other] + average(apart) for other in complete if (apart := self.apart(label, other))]
            height[label] = average(guesses) if guesses else height[label]
        return sorted(able, key=lambda each: (-stable(height[each.label]), each.label))

    def tests(self, ranked: Sequence[Contender]) -> dict[Pair, Paired]:
        """Every two rows that share a unit, paired."""
        exchangeable = self.level != "method seed"
        return {
            (i, j): paired(apart, exchangeable)
            for (i, one), (j, other) in combinations(enumerate(ranked), 2)
            if (apart := self.apart(one.label, other.label))
        }

    def row(self, each: Contender, found: Sequence[Contender]) -> StandingRow:
        """A row without its rank."""
        values = self.values[each.label]
        units = self.units(each.label)
        gaps = Counter(each.gap(self.metric, place) or "no score" for place in self.places if place not in values)
        why = ", ".join(f"{n} {word}" for word, n in sorted(gaps.items()))
        missing = f"misses {gaps.total()} of {len(self.places)}: {why}" if gaps else None
        missing = missing if values else f"no score: {why}"
        trivial = [(other.label, self.values[other.label]) for other in found if other.baseline and other is not each]
        gain = lift(values, trivial, self.sign)
        return StandingRow(
            label=each.label,
            row=each.row,
            variant=each.variant,
            kind="control" if each.control else "own track" if each.own_track else "ranked",
            baseline=each.baseline,
            verified=any(
                cell.get("verified") == "verified" for cells in each.cells.values() for cell in cells.values()
            ),
            figure=Figure.not_applicable(missing) if missing else self._mean(each, units),
            units=len(units),
            cells=each.n_cells(self.places),
            lift=gain.figure,
            lift_over=gain.over,
            lift_missed=gain.missed,
            gaps=missing,
        )

    def _mean(self, each: Contender, units: Sequence[float]) -> Figure:
        cells = [row for place in self.places for row in each.cells[place].values()]
        if self.level == "documents" and len(cells) == 1:
            [row] = cells
            return Figure.of(row[self.metric], row[f"{self.metric}_low"], row[f"{self.metric}_high"])
        found = estimate(units)
        return Figure.of(stable(found.mean), found.low, found.high)

    def pair(
        self,
        ranked: Sequence[Contender],
        pair: Pair,
        test: Paired,
        judged: Judged | None,
        rows: Mapping[str, StandingRow],
    ) -> PairTest:
        """What is said of two ranked rows."""
        first, second = (rows[ranked[at].label] for at in pair)
        found = estimate([self.sign * value for value in self.apart(first.label, second.label)])
        neighbours, needed = pair[1] == pair[0] + 1, None
        if neighbours and judged is not None and not judged.separated:
            needed = units_needed(test, judged.level)
        per_unit = (first.cells + second.cells) / (first.units + second.units)
        return PairTest(
            first=first.label,
            second=second.label,
            difference=Figure.of(stable(found.mean), found.low, found.high),
            units=test.n,
            p=None if test.p is None else stable(test.p),
            level=None if judged is None else stable(judged.level),
            separated=judged is not None and judged.separated,
            units_needed=needed,
            cells_more=None if needed is None else math.ceil((needed - test.n) * per_unit),
            neighbours=neighbours,
        )


def _in_order(
    found: Sequence[Contender], rows: Mapping[str, StandingRow], ranked: Sequence[str], sign: int
) -> tuple[StandingRow, ...]:
    """Controls in their order, ranked rows, those without a rank by their mean, those of their own track."""

    def key(each: Contender) -> tuple[float, ...]:
        row = rows[each.label]
        if each.control:
            return 0, CONTROLS.index(each.row) if each.row in CONTROLS else len(CONTROLS)
        if each.label in ranked:
            return 1, ranked.index(each.label)
        value = row.figure.value
        return 3 if each.own_track else 2, math.inf if value is None else -sign * value

    return tuple(rows[each.label] for each in sorted(found, key=lambda each: (key(each), each.label)))
