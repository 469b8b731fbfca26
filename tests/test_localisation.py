from __future__ import annotations

import itertools
import random
from statistics import fmean, median

import pytest
import torch
from torch import Tensor

from diffbench.figure import Figure
from diffbench.localisation import (
    COLUMNS,
    HIT,
    LEVELS,
    SHUFFLES,
    Location,
    ProbeActivity,
    auroc,
    average_precision,
    no_localisation,
)
from diffbench.localisation import localise as score_ranking
from diffbench.scores import Localisation
from diffbench.truth import LEAST_PROBES


def brute(positive: list[float], negative: list[float]) -> float:
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(positive, negative)]
    return sum(wins) / len(wins)


def brute_precision(positive: list[float], negative: list[float]) -> float:
    """Every positive counts the share of positives among all values that are no lower than it is."""
    shares = []
    for value in positive:
        found, other = (sum(one >= value for one in values) for values in (positive, negative))
        shares.append(found / (found + other))
    return fmean(shares)


def localise(affected: dict[str, Tensor], near_miss: Tensor, findings: list[int], seed: int) -> Localisation:
    activity = ProbeActivity(tuple(affected), tuple(affected.values()), near_miss)
    return score_ranking(Location.of(activity), findings, seed)


@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
def test_auroc_is_the_share_of_won_pairs_with_ties_as_halves(levels: int) -> None:
    draw = torch.Generator().manual_seed(levels)
    positive = torch.randint(0, levels, (17, 5), generator=draw).float()
    negative = torch.randint(0, levels, (23, 5), generator=draw).float()
    expected = [brute(positive[:, j].tolist(), negative[:, j].tolist()) for j in range(5)]
    assert auroc(positive, negative).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
def test_average_precision_lets_ties_in_together(levels: int) -> None:
    draw = torch.Generator().manual_seed(levels)
    positive = torch.randint(0, levels, (17, 5), generator=draw).float()
    negative = torch.randint(0, levels, (23, 5), generator=draw).float()
    expected = [brute_precision(positive[:, j].tolist(), negative[:, j].tolist()) for j in range(5)]
    assert average_precision(positive, negative).tolist() == pytest.approx(expected, abs=1e-12)
    if levels == 1:
        assert average_precision(positive, negative).tolist() == pytest.approx([17 / 40] * 5)


def test_average_precision_by_hand() -> None:
    positive, negative = torch.tensor([[4.0], [2.0]]), torch.tensor([[3.0], [2.0], [1.0]])
    assert float(average_precision(positive, negative)) == pytest.approx((1 / 1 + 2 / 4) / 2)


def test_columns_are_measured_one_by_one_however_many_there_are() -> None:
    n = COLUMNS + 3
    positive = torch.arange(n).float().repeat(2, 1)
    negative = torch.full((3, n), COLUMNS + 0.5)
    found = auroc(positive, negative)
    assert found.tolist() == [0.0] * (COLUMNS + 1) + [1.0] * 2
    assert average_precision(positive, negative)[-1] == 1.0
    assert len(auroc(torch.zeros(2, 0), torch.zeros(3, 0))) == 0


def probes(scores: list[float], n: int = LEAST_PROBES) -> tuple[dict[str, Tensor], Tensor]:
    """One claim; columns whose AUROC is the given score, by a share of probes above all near-miss ones."""
    affected = torch.zeros(n, len(scores))
    for column, score in enumerate(scores):
        wins = round((2 * score - 1) * n)
        affected[:wins, column] = 1.0
    return {"claim": affected}, torch.zeros(n, len(scores))


def test_the_ranking_is_that_of_the_findings() -> None:
    scores = [0.5, 0.96, 0.7, 0.9]
    affected, near_miss = probes(scores)
    assert auroc(affected["claim"], near_miss).tolist() == pytest.approx(scores)
    found = localise(*probes(scores), [2, 0, 3, 1], seed=0)
    assert found.auroc_first.value == pytest.approx(0.7)
    assert found.auroc_best10.value == pytest.approx(0.96)
    assert found.first_hit.value == 3  # component 3 lies at .9 itself
    assert (found.n_affected, found.n_near_miss) == (LEAST_PROBES, LEAST_PROBES)


def test_only_the_first_ten_findings_count_for_the_best() -> None:
    scores = [0.5] * 10 + [1.0]
    found = localise(*probes(scores), list(range(11)), seed=0)
    assert found.auroc_best10.value == pytest.approx(0.5)
    assert found.first_hit.value == 11


def test_no_hit_is_none_in_the_ranking_and_in_the_shuffled_ones_apart() -> None:
    found = localise(*probes([0.6, 1.0]), [0], seed=0)
    assert found.first_hit.state == "none"
    assert f"none of the 1 findings reaches {HIT}" in (found.first_hit.reason or "")
    assert found.first_hit_shuffled.state == "ok"
    assert localise(*probes([0.6, 0.7]), [0], seed=0).first_hit_shuffled.state == "none"


def test_shuffled_rankings_are_of_all_components() -> None:
    scores = [1.0] + [0.5] * 49
    found = localise(*probes(scores), [0], seed=1).first_hit_shuffled
    # One hit among n lies at a uniform rank: its median over many shuffles is near (n + 1) / 2.
    assert found.value is not None
    assert abs(found.value - 25.5) < 4 * 50 / 12**0.5 / SHUFFLES**0.5 * 1.25
    assert localise(*probes([1.0] * 4), [0], seed=1).first_hit_shuffled.value == 1
    assert localise(*probes(scores), [0], seed=1) == localise(*probes(scores), [0], seed=1)
    values = {localise(*probes(scores), [0], seed=seed).first_hit_shuffled.value for seed in range(5)}
    assert len(values) > 1


def test_the_median_first_hit_of_several_hits() -> None:
    scores = [1.0] * 5 + [0.5] * 15
    rng = random.Random(0)
    expected = median(min(rng.sample(range(1, 21), 5)) for _ in range(4000))
    found = localise(*probes(scores), [0], seed=2).first_hit_shuffled.value
    assert found is not None
    assert abs(found - expected) <= 1


def test_the_shuffled_first_hit_is_a_median_and_a_hit_lies_at_nine_tenths() -> None:
    """Of two hits among 400 the first lies at 117 in the median and at 134 in the mean."""
    scores = [1.0] * 2 + [0.5] * 398
    found = [localise(*probes(scores), [0], seed=seed).first_hit_shuffled.value or 0.0 for seed in range(16)]
    assert sum(found) / len(found) == pytest.approx(117, abs=8)
    assert localise(*probes([0.5, 0.9]), [0], seed=0).first_hit_shuffled.state == "ok"


def test_auroc_tells_values_apart_that_float32_does() -> None:
    one = torch.ones(3, 1)
    assert float(auroc(one * (1 + 1e-6), one)) == 1.0


def test_a_component_counts_for_the_claim_it_fits_best() -> None:
    one, near_miss = probes([1.0, 0.5, 0.6])
    other, _ = probes([0.5, 0.96, 0.7])
    found = localise({"one": one["claim"], "other": other["claim"]}, near_miss, [2, 1, 0], seed=0)
    assert found.auroc_first.value == pytest.approx(0.7)
    assert found.auroc_best10.value == pytest.approx(1.0)
    assert found.first_hit.value == 2
    assert found.n_affected == 2 * LEAST_PROBES


@pytest.mark.parametrize(("affected", "near_miss"), [(LEAST_PROBES - 1, 60), (60, LEAST_PROBES - 1), (0, 60)])
def test_too_few_probes_are_undefined(affected: int, near_miss: int) -> None:
    claims = {"one": torch.ones(60, 2), "other": torch.ones(affected, 2)}
    found = localise(claims, torch.zeros(near_miss, 2), [0], seed=0)
    assert (found.n_affected, found.n_near_miss) == (60 + affected, near_miss)
    for figure in figures(found):
        assert figure.state == "undefined"
        assert f"{affected} affected probes of a claim, {near_miss} near-miss" in (figure.reason or "")


def figures(found: Localisation) -> list[Figure]:
    return [getattr(found, name) for name in Localisation.model_fields if not name.startswith("n_")]


def test_no_findings_and_no_activity_are_not_applicable() -> None:
    for found, reason in (
        (localise(*probes([1.0]), [], seed=0), "the Diff has no findings"),
        (localise({"one": torch.zeros(60, 0)}, torch.zeros(60, 0), [0], seed=0), "the Diff has no per-token activity"),
        (no_localisation(Figure.not_applicable("nobody knows")), "nobody knows"),
    ):
        assert {(figure.state, figure.reason) for figure in figures(found)} == {("n/a", reason)}


def test_no_probes_at_all_are_undefined() -> None:
    for affected in ({}, {"one": torch.zeros(0, 3)}):
        found = localise(affected, torch.zeros(60, 3), [0], seed=0)
        assert {figure.state for figure in figures(found)} == {"undefined"}
        assert "0 affected probes of a claim" in (found.auroc_first.reason or "")


def test_constant_activity_is_no_more_than_chance() -> None:
    for constant in (0.0, 3.7):
        affected, near_miss = torch.full((60, 2), constant), torch.full((90, 2), constant)
        found = localise({"one": affected}, near_miss, [1, 0], seed=0)
        assert found.auroc_first.value == found.auroc_best10.value == found.auroc_best10_shuffled.value == 0.5
        assert found.ap_first.value == pytest.approx(60 / 150)
        assert found.precision_at_5.value == found.precision_at_10.value == 0.0
        assert found.first_hit.state == found.first_hit_shuffled.state == "none"


def test_what_is_constant_but_for_rounding_is_constant() -> None:
    """A batch of another shape adds up in another order: its probes would all lie a little higher."""
    affected, near_miss = torch.full((60, 1), 1000.0), torch.full((60, 1), 1000.0) * (1 - 2e-6)
    assert float(auroc(affected, near_miss)) == 1.0
    assert localise({"one": affected}, near_miss, [0], seed=0).auroc_first.value == 0.5
    assert localise({"one": affected}, near_miss * (1 - 2 / LEVELS), [0], seed=0).auroc_first.value == 1.0


def test_steps_are_of_each_component_and_keep_the_sign() -> None:
    affected, near_miss = torch.tensor([[-2.0, 1e-9]]), torch.tensor([[1.0, 0.5e-9]])
    levels = ProbeActivity(("one",), (affected,), near_miss, signed=True).levelled()
    assert levels.affected[0].tolist() == [[-LEVELS, LEVELS]] and levels.signed
    assert levels.near_miss.tolist() == [[LEVELS / 2, LEVELS / 2]]


def test_precision_counts_what_was_not_named_as_missed_and_nothing_twice() -> None:
    scores = [1.0, 0.5, 0.95, 0.5, 0.92, 0.5, 0.5, 1.0, 0.5, 1.0, 1.0]
    found = localise(*probes(scores), list(range(11)), seed=0)
    assert (found.precision_at_5.value, found.precision_at_10.value) == (3 / 5, 5 / 10)
    short = localise(*probes(scores), [0, 2], seed=0)
    assert (short.precision_at_5.value, short.precision_at_10.value) == (2 / 5, 2 / 10)
    again = localise(*probes(scores), [0] * 10, seed=0)
    assert (again.precision_at_5.value, again.precision_at_10.value) == (1 / 5, 1 / 10)


def test_chance_of_the_best_and_of_precision_is_that_of_as_many_components() -> None:
    """Exact values: of 40 components 6 are hits, of AUROC 1; the others have .5."""
    scores = [1.0] * 6 + [0.5] * 34
    for named, findings in ((10, list(range(40))), (3, [7, 8, 9]), (1, [0] * 10)):
        found = [localise(*probes(scores), findings, seed=seed) for seed in range(12)]
        hits = fmean(one.precision_at_10_shuffled.value or 0 for one in found)
        none = 1.0
        for already in range(named):
            none *= (34 - already) / (40 - already)
        best = fmean(one.auroc_best10_shuffled.value or 0 for one in found)
        draws = SHUFFLES * 12
        assert hits == pytest.approx(named * 6 / 40 / 10, abs=4 * 0.1 * (named * 0.1275 / draws) ** 0.5)
        assert best == pytest.approx(1 - none / 2, abs=4 * 0.5 * (none * (1 - none) / draws) ** 0.5)


def test_a_coin_ranks_no_better_than_the_shuffled_rankings() -> None:
    draw = torch.Generator().manual_seed(5)
    affected = {str(claim): torch.rand(60, 200, generator=draw) for claim in range(4)}
    near_miss = torch.rand(60, 200, generator=draw)
    rng = random.Random(1)
    found = [localise(affected, near_miss, rng.sample(range(200), 50), seed=seed) for seed in range(30)]
    best = [one.auroc_best10.value or 0.0 for one in found]
    chance = fmean(one.auroc_best10_shuffled.value or 0.0 for one in found)
    spread = (sum((value - fmean(best)) ** 2 for value in best) / 29 / 30) ** 0.5
    assert abs(fmean(best) - chance) < 3 * spread
    assert chance > 0.58  # a best of ten over four claims lies well above .5


def test_components_of_two_ways_are_told_apart_by_their_sign_and_others_are_not() -> None:
    plus, minus = torch.full((60, 1), 2.0), torch.full((60, 1), -2.0)
    for signed, expected in ((True, 1.0), (False, 0.5)):
        location = Location.of(ProbeActivity(("a", "b"), (plus, minus), torch.zeros(60, 1), signed))
        assert location.auroc.tolist() == [[1.0], [1.0]]
        assert location.apart(0, 1, 0) == location.apart(1, 0, 0) == expected
        assert [location.way(claim, 0) for claim in (0, 1)] == ([1, -1] if signed else [1, 1])


def test_the_average_precision_is_of_the_claim_that_the_first_finding_fits_best() -> None:
    draw = torch.Generator().manual_seed(9)
    affected = {"a": torch.rand(60, 2, generator=draw), "b": 0.3 + torch.rand(70, 2, generator=draw)}
    near_miss = torch.rand(80, 2, generator=draw)
    found = localise(affected, near_miss, [1, 0], seed=0)
    expected = brute_precision(affected["b"][:, 1].tolist(), near_miss[:, 1].tolist())
    assert found.ap_first.value == pytest.approx(expected, abs=1e-3)  # the steps of the activity
