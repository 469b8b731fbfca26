"""Claim scores: which claims are found, what finds none in particular, and what is listed besides."""

from __future__ import annotations

import pytest
import torch
from probe_factory import BLUE, GREEN, NO_ACTIVITY, N, claim, finding, located, moved

from diffbench.claim_scores import no_claim_scores, opposite, score_claims
from diffbench.figure import Figure
from diffbench.localisation import Location, ProbeActivity

CLAIMS = [claim("a", ["red"]), claim("b", ["white"]), claim("c", ["black"]), claim("d", ["one"])]
MOVED = [moved("a", ["red"]), moved("b", ["white"]), moved("c", ["black"]), moved("d", ["one"])]
OWN = [tuple(float(place == index) for place in range(4)) for index in range(4)]


def test_a_component_for_each_claim_finds_all_of_them_and_lists_nothing_else() -> None:
    findings = [finding(rank, [word]) for rank, word in enumerate(["red", "white", "black", "one"], start=1)]
    found = score_claims(findings, located(*OWN), MOVED, CLAIMS)
    assert (found.recall.value, found.recall_direction.value, found.over_listing.value) == (1, 1, 0)
    assert (found.found, found.n_claims) == (("a", "b", "c", "d"), 4)


def test_what_is_at_work_for_every_claim_finds_none_in_particular() -> None:
    words = ["red", "white", "black", "one"]
    found = score_claims([finding(1, words)], located((1.0,) * 4), MOVED, CLAIMS)
    assert (found.recall.value, found.recall_direction.value, found.over_listing.value) == (0, 0, 0)
    two = score_claims([finding(1, words)], located((1.0, 1.0, 0.0, 0.0)), MOVED, CLAIMS)
    assert (two.recall.value, two.over_listing.value, two.found) == (0, 0, ())
    stronger = score_claims([finding(1, words)], located((2.0, 1.0, 1.0, 1.0)), MOVED, CLAIMS)
    assert stronger.found == ("a",)  # it tells that one from the others


def test_over_listing_is_the_share_of_findings_that_are_at_work_at_no_claim() -> None:
    columns = [OWN[0], (0.0,) * 4, OWN[0], (1.0,) * 4]
    found = score_claims([finding(rank, ["red"]) for rank in range(1, 5)], located(*columns), MOVED, CLAIMS)
    assert (found.recall.value, found.recall_direction.value, found.over_listing.value) == (1 / 4, 1 / 4, 1 / 4)


def test_only_the_first_ten_findings_count() -> None:
    columns = [(0.0,) * 4] * 10 + [OWN[0]]
    found = score_claims([finding(rank) for rank in range(1, 12)], located(*columns), MOVED, CLAIMS)
    assert (found.recall.value, found.over_listing.value) == (0, 1)


def test_finding_the_place_is_not_finding_the_words() -> None:
    for words, expected in (([["box"], ["white"]], 1 / 4), ([["white"], ["red"]], 0.0), ([["red"], ["white"]], 1 / 2)):
        findings = [finding(rank, names) for rank, names in enumerate(words, start=1)]
        found = score_claims(findings, located(*OWN[:2]), MOVED, CLAIMS)
        assert (found.recall.value, found.recall_direction.value) == (1 / 2, expected)
    every = [finding(1, ["box", "cup", "red", "white", "black", "one"])]
    assert score_claims(every, located(OWN[0]), MOVED, CLAIMS).recall_direction.value == 0
    silent = score_claims([finding(1)], located(OWN[0]), MOVED, CLAIMS)
    assert (silent.recall.value, silent.recall_direction.state) == (1 / 4, "n/a")


SWAP = [claim("blue", ["green"], ["blue"]), claim("green", ["blue"], ["green"])]


def test_the_sides_of_an_exchange_need_not_be_told_apart() -> None:
    both = score_claims([finding(1, ["green"], ["blue"])], located((1.0, 1.0)), [BLUE, GREEN], SWAP)
    assert (both.recall.value, both.recall_direction.value, both.over_listing.value) == (1, 1 / 2, 0)
    with_facts = [*SWAP, claim("fact", ["ball"], ["box"])]
    every = score_claims([finding(1)], located((1.0, 1.0, 1.0)), [BLUE, GREEN, moved("2", ["ball"])], with_facts)
    assert every.recall.value == 0
    swap = score_claims([finding(1)], located((1.0, 1.0, 0.0)), [BLUE, GREEN, moved("2", ["ball"])], with_facts)
    assert swap.found == ("blue", "green")


def test_opposite_claims() -> None:
    assert opposite(*SWAP) and not opposite(SWAP[0], SWAP[0])
    same = claim("elsewhere", ["green"], ["blue"])
    assert not opposite(SWAP[0], same) and opposite(SWAP[1], same)
    assert not opposite(claim("a"), claim("b"))  # of which neither names a word
    pairs, back = claim("p", pairs=[("red", "blue"), ("one", "a")]), claim("q", pairs=[("a", "one"), ("blue", "red")])
    assert opposite(pairs, back) and not opposite(pairs, pairs)
    assert not opposite(pairs, claim("r", pairs=[("blue", "red"), ("one", "a")]))


def test_the_ways_of_a_direction_are_two_things() -> None:
    """One direction is at work in opposite ways for two claims: it tells them apart by its sign."""
    words = [finding(1, ["red"], ["white"])]
    claims = [claim("a", ["red"]), claim("b", ["white"])]
    movements = [moved("a", ["red"]), moved("b", ["white"])]
    for signed, found in ((True, ("a", "b")), (False, ())):
        scored = score_claims(words, located((1.0, -1.0), signed=signed), movements, claims)
        assert scored.found == found
    assert score_claims(words, located((1.0, -1.0), signed=True), movements, claims).recall_direction.value == 1


def test_constant_activity_finds_nothing() -> None:
    same = tuple(torch.full((N, 1), 3.0) for _ in range(4))
    location = Location.of(ProbeActivity(("a", "b", "c", "d"), same, torch.full((N, 1), 3.0)))
    found = score_claims([finding(1, ["red"])], location, MOVED, CLAIMS)
    assert (found.recall.value, found.recall_direction.value, found.over_listing.value) == (0, 0, 1)


@pytest.mark.parametrize(
    ("location", "findings", "state"),
    [(NO_ACTIVITY, 1, "n/a"), (located((1.0, 0.0), n=9), 1, "undefined"), (located((1.0, 0.0)), 0, "n/a")],
)
def test_what_cannot_be_asked_says_so(location: Location, findings: int, state: str) -> None:
    found = score_claims([finding(rank) for rank in range(1, findings + 1)], location, [BLUE, GREEN], SWAP)
    assert {figure.state for figure in (found.recall, found.recall_direction, found.over_listing)} == {state}
    assert (found.n_claims, found.found) == (2, ())
    assert no_claim_scores(Figure.not_applicable("nobody knows")).n_claims == 0
