"""Contenders: the rows of the leaderboard's data put together over organisms, one contender per variant of a method.

A contender has a score at a place only if every one of its cells there has one: a mean over the method seeds that
went well would flatter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from diffbench.columns import precedence
from diffbench.interval import LEAST_UNITS
from diffbench.summary import OWN_TRACK, Row, label_of
from diffbench.units import LARGEST, Place, Values

POOL = ("reference", "tier", "judge", "terms")
"""What cells of different organisms share where they are put together."""
STATE_WORDS = {"error": "failed", "not_applicable": "n/a", "n/a": "n/a", "undefined": "undefined", "none": "none"}
NOT_RUN = "not run"
TOO_LARGE = "out of range"


@dataclass(frozen=True, slots=True)
class Contender:
    """One variant of a method, with its cells by place and method seed."""

    label: str
    row: str
    variant: str
    control: bool
    baseline: bool
    own_track: bool
    cells: Mapping[Place, Mapping[int, Row]]

    @property
    def ranked(self) -> bool:
        """Whether it competes: controls are pinned, and whoever reads the training data has a track of its own."""
        return not (self.control or self.own_track)

    def n_cells(self, places: Collection[Place]) -> int:
        """Cells at these places."""
        return sum(len(seeds) for place, seeds in self.cells.items() if place in places)

    def values(self, metric: str, places: Collection[Place]) -> Values:
        """The scores at those of the places where all cells have one."""
        return {
            place: {seed: float(row[metric]) for seed, row in self.cells[place].items()}
            for place in sorted(places)
            if self.gap(metric, place) is None
        }

    def gap(self, metric: str, place: Place) -> str | None:
        """Why there is no score at a place, in a word; None where there is one."""
        cells = self.cells.get(place)
        if not cells:
            return NOT_RUN
        for row in cells.values():
            if row["status"] != "ok":
                return STATE_WORDS[row["status"]]
            if row[f"{metric}_state"] != "ok":
                return STATE_WORDS[row[f"{metric}_state"]]
            if abs(row[metric]) > LARGEST:
                return TOO_LARGE
        return None


def place_of(row: Row) -> Place:
    """Where a cell stands: ``halfswap@7`` is the organism halfswap at seed 7. A pair of one's own is its own family."""
    kind, _, suffix = row["organism"].partition("@")
    organism = kind if row["organism_version"] in (1, None) else f"{kind} v{row['organism_version']}"
    seed = row["organism_seed"]
    seed = seed if seed is not None else int(suffix) if suffix.isdecimal() else 0
    return Place(row["family"] or f"own pair {organism}", organism, seed)


def contenders(rows: Iterable[Row]) -> tuple[Contender, ...]:
    """The contenders among rows that may be pooled; of two records of one cell the newest counts."""
    newest: dict[tuple[str, str], dict[Place, dict[int, Row]]] = {}
    for row in sorted(rows, key=precedence):
        places = newest.setdefault((row["row"], row["variant"]), {})
        places.setdefault(place_of(row), {})[row["seed"] or 0] = row
    found = []
    for (name, variant), places in sorted(newest.items()):
        ordered = {place: dict(sorted(places[place].items())) for place in sorted(places)}
        first = next(iter(next(iter(ordered.values())).values()))
        found.append(
            Contender(
                label=label_of(first),
                row=name,
                variant=variant,
                control=bool(first["control"]),
                baseline=bool(first["baseline"]),
                own_track=OWN_TRACK in first["access"],
                cells=ordered,
            )
        )
    return _told_apart(found)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where methods meet on a figure, and who is there.

    Attributes:
        places: the table's.
        here: contenders that the table is about; controls among them.
    """

    places: frozenset[Place]
    here: tuple[Contender, ...]


def meeting(found: Sequence[Contender], metric: str) -> Meeting:
    """The places that those who were run most widely share, and who was run in half of their families, or three.

    Whoever is run at a few places takes no place from a table: it is decided by the methods with as many families as
    the second widest has or more, and their variants have one vote together. Families are counted at places where two
    methods were run and somebody has the figure; a pair whose truth is unknown, or that one method alone knows, says
    nothing of who is better. A place stays if more than half of these methods were run there.
    """
    competing = [each for each in found if not each.control] or list(found)
    scored = {place for each in competing for place in each.cells if each.gap(metric, place) is None}
    methods: dict[str, set[Place]] = {}
    for each in competing:
        methods.setdefault(each.row, set()).update(scored.intersection(each.cells))
    votes = Counter(place for places in methods.values() for place in places)
    shared = {place for place, n in votes.items() if n > 1} or scored
    widths = {row: len(_families(places & shared)) for row, places in methods.items()}
    second = sorted(widths.values())[-2:][0] if widths else 0
    wide = [methods[row] & shared for row, width in widths.items() if width >= second]
    votes = Counter(place for places in wide for place in places)
    places = frozenset(place for place, n in votes.items() if 2 * n > len(wide)) or frozenset(votes)
    enough = min(len(_families(places)) / 2, LEAST_UNITS)
    here = tuple(each for each in found if each.control or len(_families(places.intersection(each.cells))) >= enough)
    return Meeting(places, here)


def _families(places: Collection[Place]) -> set[str]:
    return {place.family for place in places}


def _told_apart(found: Sequence[Contender]) -> tuple[Contender, ...]:
    """Contenders with labels of their own: what options do not tell apart carries its variant."""
    for digits in (4, 8):
        often = Counter(each.label for each in found)
        found = [
            replace(each, label=f"{each.label} #{each.variant[:digits]}") if often[each.label] > 1 else each
            for each in found
        ]
    numbered = {each.label: at for at, each in enumerate(found)}
    return tuple(
        each if numbered[each.label] == at else replace(each, label=f"{each.label} ({at})")
        for at, each in enumerate(found)
    )
