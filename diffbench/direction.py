"""Direction: do the words that findings name move as they say where the component is at work?

A finding's lists are read strongest first and as far as words really moved: of three words that rose the first three
that it names are looked at, and the share is of three, as in R-precision. So a long list of everything is worth no
more than its beginning, a list that is always of one length is not held against who must fill it, and a list of one
sure word leaves out the rest. Nothing is asked about a way in which no word moved, nor about one of which the finding
names nothing. A string that is no word of the models is a word that did not move.

``tokens_up`` are what a component promotes where its activity is positive: along a direction that is at work the
negative way at a claim's probes, what it promotes must fall.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from diffbench.diff import MAX_TOKENS, Finding
from diffbench.figure import Figure
from diffbench.localisation import HIT, SHUFFLES, TOP, Location
from diffbench.movement import WAYS, Movement, Way, Word
from diffbench.scores import Direction


@dataclass(frozen=True, slots=True)
class Held:
    """A claim whose words a finding is held to.

    Attributes:
        claim: its place among the claims.
        movement: what moved there.
        way: -1 where the finding's component is at work the negative way.
    """

    claim: int
    movement: Movement
    way: int

    def words(self, named: Way) -> tuple[Word, ...]:
        """Those that must stand in a finding's list of what goes up, or down."""
        return self.movement.words(self.really(named))

    def really(self, named: Way) -> Way:
        """Which way the words go that a finding's list must hold."""
        if self.way > 0:
            return named
        return "down" if named == "up" else "up"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a finding names, compared with what moved.

    Attributes:
        right: the list and the word of all that moves as it says.
        asked: how many words moved in the ways of which it names any; of each way no more than it can name.
    """

    right: frozenset[tuple[Way, str]]
    asked: int

    @property
    def agreement(self) -> float:
        """The share that is right; 0 where it says nothing of any way in which a word moved."""
        return len(self.right) / self.asked if self.asked else 0.0

    def tells(self, held: Held) -> int:
        """How many of a claim's words are among what is right."""
        return sum((named, word.shown) in self.right for named in WAYS for word in held.words(named))


def check(finding: Finding, held: Sequence[Held]) -> Checked:
    """Compare the words that a finding names with those that moved at the claims that it is held to."""
    right: set[tuple[Way, str]] = set()
    asked = 0
    for named, names in zip(WAYS, (finding.tokens_up, finding.tokens_down), strict=True):
        moved = [word for one in held for word in one.words(named)]
        known = {name: word.shown for word in moved for name in word.names}
        words = {word.shown for word in moved}
        keys = dict.fromkeys(known.get(name, known.get(name.strip(), name.strip())) for name in names)
        if keys:
            asked += min(len(words), MAX_TOKENS)
        right |= {(named, key) for key in list(keys)[: len(words)] if key in words}
    return Checked(frozenset(right), asked)


def held_to(component: int, location: Location, movements: Sequence[Movement]) -> list[Held]:
    """The claims whose words a component's finding is held to, if any word moved there.

    They are those that the component locates, the one of highest AUROC if it locates none, and all where the Diff has
    no activity.
    """
    moved = [index for index, movement in enumerate(movements) if movement.any]
    if location.why is None and moved:
        scores = {index: float(location.auroc[index, component]) for index in moved}
        located = [index for index in moved if scores[index] >= HIT]
        moved = located or [max(moved, key=lambda index: scores[index])]
    return [Held(index, movements[index], _way(location, index, component)) for index in moved]


def direct(findings: Sequence[Finding], location: Location, movements: Sequence[Movement], seed: int) -> Direction:
    """Score the words of findings, each held to the claims that `held_to` gives, all at once.

    By chance is what the lists of the other findings give in the same places.

    Args:
        findings: of the Diff.
        location: where its components are at work.
        movements: of every claim, in the order of the location's.
        seed: of the shuffled lists.
    """
    told = [finding for finding in findings if finding.tokens_up or finding.tokens_down]
    first = [finding for finding in told if finding.rank <= TOP]
    why = None
    if not any(movement.any for movement in movements):
        why = Figure.undefined("no word's probability moved at any claim's probes")
    elif not told:
        why = Figure.not_applicable("no finding names words" if findings else "the Diff has no findings")
    elif not first:
        why = Figure.not_applicable(f"none of the first {TOP} findings names words")
    if why is not None:
        return no_direction(why)
    held = [held_to(finding.component, location, movements) for finding in first]
    table = [[check(finding, claims).agreement for finding in told] for claims in held]
    own = [row[place] for place, row in enumerate(table)]
    alone = Figure.not_applicable("no other finding names words")
    silent = Figure.not_applicable("the first finding names no words")
    leads = first[0].rank == 1
    return Direction(
        agreement_first=Figure.of(own[0]) if leads else silent,
        agreement_best10=Figure.of(max(own)),
        agreement_shuffled=silent if not leads else Figure.of(fmean(table[0][1:])) if len(told) > 1 else alone,
        agreement_best10_shuffled=Figure.of(_shuffled(table, seed)) if len(told) > 1 else alone,
        moved_found=_moved_found(first, location, movements),
    )


def no_direction(why: Figure) -> Direction:
    """The score where there is none."""
    return Direction(**dict.fromkeys(Direction.model_fields, why))


def _way(location: Location, claim: int, component: int) -> int:
    return location.way(claim, component) if location.why is None else 1


def _shuffled(table: Sequence[Sequence[float]], seed: int) -> float:
    """Mean over shuffles of the best agreement, when the lists of all findings change places."""
    rng = random.Random(seed)
    places = range(len(table[0]))
    return fmean(
        max(row[place] for row, place in zip(table, rng.sample(places, len(table)), strict=True))
        for _ in range(SHUFFLES)
    )


def _moved_found(findings: Sequence[Finding], location: Location, movements: Sequence[Movement]) -> Figure:
    """The share of all claims' words that stand among as many as moved in all, in the list of any finding."""
    found: set[tuple[int, Way, str]] = set()
    for finding in findings:
        every = [Held(at, moved, _way(location, at, finding.component)) for at, moved in enumerate(movements)]
        right = check(finding, every).right
        places = ((one, named, word.shown) for one in every for named in WAYS for word in one.words(named))
        found |= {(one.claim, one.really(named), shown) for one, named, shown in places if (named, shown) in right}
    return Figure.of(len(found) / sum(len(moved.up) + len(moved.down) for moved in movements))
