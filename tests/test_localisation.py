from __future__ import annotations

import itertools
import random
from statistics import median

import pytest
import torch
from torch import Tensor

from diffbench.localisation import HIT, SHUFFLES, auroc, localise
from diffbench.truth import LEAST_PROBES


def brute(positive: list[float], negative: list[float]) -> float:
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(positive, negative)]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
def test_auroc_is_the_share_of_won_pairs_with_ties_as_halves(levels: int) -> None:
    draw = torch.Generator().manual_seed(levels)
    positive = torch.randint(0, levels, (17, 5), generator=draw).float()
    negative = torch.randint(0, levels, (23, 5), generator=draw).float()
    expected = [brute(positive[:, j].tolist(), negative[:, j].tolist()) for j in range(5)]
    assert auroc(positive, negative).tolist() == pytest.approx(expected)


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
    for figure in (found.auroc_first, found.auroc_best10, found.first_hit, found.first_hit_shuffled):
        assert figure.state == "undefined"
        assert f"{affected} affected probes of a claim, {near_miss} near-miss" in (figure.reason or "")


def test_no_findings_and_no_activity_are_not_applicable() -> None:
    assert localise(*probes([1.0]), [], seed=0).auroc_first.state == "n/a"
    empty = torch.zeros(60, 0)
    figure = localise({"one": empty}, empty, [0], seed=0).first_hit
    assert (figure.state, figure.reason) == ("n/a", "the Diff has no per-token activity")
