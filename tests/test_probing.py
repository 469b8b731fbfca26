"""Probing: activity after probes for every kind of Diff, and what oracles, coins and kitchen sinks get."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each, small_pair
from probe_factory import GREEN, TOKENIZER, N, claim, finding, located, moved, speaking, truth_of

from diffbench.activity import activity
from diffbench.claim_scores import score_claims
from diffbench.corpus import tokenise
from diffbench.diff import MAX_TOKENS, Diff, DirectionDiff, OutputDiff, WeightDiff
from diffbench.direction import direct
from diffbench.figure import Figure
from diffbench.localisation import LEVELS, Location, ProbeActivity, localise
from diffbench.movement import movements
from diffbench.probing import TruthScores, no_truth_scores, probe_activity, truth_scores
from diffbench.text import Document
from diffbench.tiny import WORDS
from diffbench.truth import Probe, ProbeSets, Truth

REFERENCE, TUNED = small_pair(0, outlier=False)
TRUTH = truth_of([claim("a", ["red"]), claim("b", ["white"])], {"a": ["ball", "box", "red"], "b": ["cup", "lamp near"]})


def scored(diff: Diff, truth: Truth = TRUTH) -> TruthScores:
    return truth_scores(diff, truth, REFERENCE, TUNED, TOKENIZER, 0)


def by_hand(diff: Diff, probes: Sequence[Probe]) -> torch.Tensor:
    """One probe at a time, without pads."""
    found = []
    for probe in probes:
        corpus = tokenise([Document(probe.text)], TOKENIZER, max_length=None)
        rows = torch.zeros_like(corpus.mask)
        rows[0, -1] = True
        found.append(activity(diff, REFERENCE, TUNED, corpus, rows))
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["dictionary", "direction", "weight", "output"])
def test_activity_is_that_of_the_last_position_of_each_probe(kind: str) -> None:
    diff = one_of_each()[kind]
    found = probe_activity(diff, REFERENCE, TUNED, TOKENIZER, TRUTH)
    assert found.claims == ("a", "b")
    sets = (TRUTH.probes.of("a"), TRUTH.probes.of("b"), TRUTH.probes.near_miss)
    for rows, probes in zip((*found.affected, found.near_miss), sets, strict=True):
        assert rows.shape == (N, diff.n_components)
        torch.testing.assert_close(rows, by_hand(diff, probes), rtol=1e-4, atol=1e-5)


def test_directions_and_weights_have_two_ways_unless_their_size_is_constant() -> None:
    kinds = one_of_each()
    constant = kinds["direction"]
    assert isinstance(constant, DirectionDiff) and constant.constant is not None
    given = {**kinds, "free": replace(constant, constant=None)}
    signed = {name: probe_activity(diff, REFERENCE, TUNED, TOKENIZER, TRUTH).signed for name, diff in given.items()}
    assert signed == {"dictionary": False, "direction": False, "free": True, "weight": True, "output": False}


@pytest.mark.parametrize("kind", ["dictionary", "direction", "weight", "output"])
def test_every_kind_of_diff_is_scored_and_the_same_way_twice(kind: str) -> None:
    diff = replace(one_of_each()[kind], findings=(finding(1, ["ball"], ["the"], 0),))
    found = scored(diff)
    assert found.localisation.auroc_first.state == found.claims.recall_direction.state == "ok"
    assert found.direction.agreement_first.state == found.direction.moved_found.state == "ok"
    assert (found.localisation.n_affected, found.localisation.n_near_miss, found.claims.n_claims) == (2 * N, N, 2)
    again = scored(diff)
    assert (found.localisation, found.direction, found.claims) == (again.localisation, again.direction, again.claims)


def test_the_location_is_of_whole_steps() -> None:
    diff = dictionary_diff("delta", "relu")
    found = scored(replace(diff, findings=(finding(1),)))
    values = torch.cat([*found.location.activity.affected, found.location.activity.near_miss])
    assert torch.equal(values, values.round()) and float(values.abs().max()) == LEVELS


@pytest.mark.parametrize(
    "diff",
    [
        OutputDiff(score=None, findings=()),
        WeightDiff(sigma=torch.ones(1), parameters=(("model.norm.weight",),), findings=(finding(1, ["ball"]),)),
    ],
)
def test_a_diff_without_activity_has_no_place_but_may_have_words(diff: Diff) -> None:
    found = scored(diff)
    assert found.localisation.auroc_first.state == found.claims.recall.state == found.claims.over_listing.state == "n/a"
    assert found.location.why is not None and "no per-token activity" in (found.location.why.reason or "")
    assert found.direction.agreement_first.state == ("ok" if diff.findings else "n/a")


def test_no_probes_no_near_misses_and_too_few_are_undefined() -> None:
    diff = replace(one_of_each()["dictionary"], findings=(finding(1, ["ball"]),))
    few = TRUTH.probes.model_copy(update={"near_miss": TRUTH.probes.near_miss[:49]})
    for probes in (ProbeSets(), ProbeSets(affected=TRUTH.probes.affected), few):
        found = scored(diff, TRUTH.model_copy(update={"probes": probes}))
        assert found.localisation.auroc_first.state == found.claims.recall.state == "undefined"
    assert scored(diff, TRUTH.model_copy(update={"probes": ProbeSets()})).direction.agreement_first.state == "undefined"


def test_a_pair_without_truth_or_change_says_so_everywhere() -> None:
    why = Figure.not_applicable("no truth is known of this pair")
    for part in no_truth_scores(why):
        assert {figure for _, figure in part if isinstance(figure, Figure)} == {why}


CLAIMS = [claim("a", ["red"], ["one"]), claim("b", ["white"], ["one"]), claim("c", ["black", "blue"], ["the"])]
ORACLE = [tuple(float(place == index) for place in range(3)) for index in range(3)]


def test_the_oracle_scores_one_everywhere() -> None:
    truth = truth_of(CLAIMS, {"a": ["ball"], "b": ["box"], "c": ["cup", "hat"]})
    before = {"ball": {"one": 0.9}, "box": {"one": 0.9}, "cup": {"the": 0.9}, "hat": {"the": 0.9}}
    after = {"ball": {"red": 0.9}, "box": {"white": 0.9}, "cup": {"black": 0.9}, "hat": {"blue": 0.9}}
    real = movements(truth, TOKENIZER, speaking(before, after))
    effects = [one.effect for one in CLAIMS]
    findings = [finding(rank, one.tokens_up, one.tokens_down) for rank, one in enumerate(effects, start=1)]
    location = located(*ORACLE)
    place = localise(location, [0, 1, 2], 0)
    assert (place.auroc_first.value, place.ap_first.value, place.first_hit.value) == (1, 1, 1)
    direction = direct(findings, location, real, 0)
    assert (direction.agreement_first.value, direction.agreement_best10.value, direction.moved_found.value) == (1, 1, 1)
    claims = score_claims(findings, location, real, CLAIMS)
    assert (claims.recall.value, claims.recall_direction.value, claims.over_listing.value) == (1, 1, 0)


def test_the_kitchen_sink_scores_low_everywhere() -> None:
    """Components that are at work everywhere, each with fifty words either way in the same order."""
    n = 40
    everywhere = tuple(torch.rand(N, n, generator=torch.Generator().manual_seed(seed)) for seed in range(4))
    location = Location.of(ProbeActivity(("a", "b", "c"), everywhere[:3], everywhere[3]))
    words = [word for word in WORDS if word not in ("red", "white", "black", "blue", "one", "the")][:4] + list(WORDS)
    findings = [finding(rank, words[:MAX_TOKENS], words[:MAX_TOKENS]) for rank in range(1, n + 1)]
    real = [moved("a", ["red"], ["one"]), moved("b", ["white"], ["one"]), moved("c", ["black", "blue"], ["the"])]
    place = localise(location, list(range(n)), 0)
    assert place.precision_at_10.value == 0 and place.first_hit.state == "none"
    direction = direct(findings, location, real, 0)
    assert direction.agreement_best10.value == direction.moved_found.value == 0
    claims = score_claims(findings, location, real, CLAIMS)
    assert (claims.recall.value, claims.recall_direction.value, claims.over_listing.value) == (0, 0, 1)


def test_a_coin_scores_its_chance() -> None:
    """Random components and words: the best of ten lies where shuffled rankings and lists have it."""
    gaps: list[list[float]] = [[], []]
    real = [moved(name, ["red", "hat"], ["one"]) for name in "abc"] + [GREEN]
    for seed in range(30):
        draw, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        rows = tuple(torch.rand(N, 60, generator=draw) for _ in range(5))
        location = Location.of(ProbeActivity(("a", "b", "c", "d"), rows[:4], rows[4]))
        order = rng.sample(range(60), 60)
        findings = [
            finding(rank, rng.sample(WORDS, 8), rng.sample(WORDS, 8), component)
            for rank, component in enumerate(order, start=1)
        ]
        place, direction = localise(location, order, seed), direct(findings, location, real, seed)
        pairs = (
            (place.auroc_best10, place.auroc_best10_shuffled),
            (direction.agreement_best10, direction.agreement_best10_shuffled),
        )
        for gap, (own, chance) in zip(gaps, pairs, strict=True):
            assert own.value is not None and chance.value is not None
            gap.append(own.value - chance.value)
    for gap in gaps:
        mean = fmean(gap)
        assert abs(mean) < 3 * (sum((value - mean) ** 2 for value in gap) / 29 / 30) ** 0.5


def test_constant_components_give_chance_and_no_nan() -> None:
    zero = torch.zeros(WIDTH)
    flat = DirectionDiff(
        layer=1, directions=torch.eye(WIDTH)[:2], centre=zero, bias=zero, findings=(finding(1, ["ball"]), finding(2))
    )
    same = truth_scores(flat, TRUTH, REFERENCE, REFERENCE, TOKENIZER, 0)  # delta is 0 everywhere
    assert same.localisation.auroc_first.value == same.localisation.auroc_best10_shuffled.value == 0.5
    assert same.localisation.ap_first.value == 0.5
    assert same.claims.over_listing.value == 1 and same.claims.recall.value == 0
    assert same.direction.agreement_first.state == "undefined"
