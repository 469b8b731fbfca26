"""What seeds have in common, measured from Diffs of which it is known."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from test_alignment import crosscoder, directions, unit

from diffbench.agreement import SPANS, Agreement
from diffbench.consistency import agreement, compared_activity, over_pairs
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff
from diffbench.errors import DiffError
from diffbench.interval import t_quantile

WIDTH = 64


def found(*tokens: tuple[str, str], component: int | None = None) -> tuple[Finding, ...]:
    """Findings that each name one token up and one down."""
    return tuple(
        Finding(rank=rank, component=component if component is not None else rank - 1, score=1.0,
                tokens_up=(up,) if up else (), tokens_down=(down,) if down else ())
        for rank, (up, down) in enumerate(tokens, start=1)
    )  # fmt: skip


def random_diff(seed: int, n: int = 256, **more: Any) -> DictionaryDiff:
    rows = unit(torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)))
    diff = crosscoder(torch.zeros(n, WIDTH), rows, list(range(n)))
    return replace(diff, **more)


def weight(seed: int, n: int = 3, **more: Any) -> WeightDiff:
    vectors = torch.randn(2 * n, 8, generator=torch.Generator().manual_seed(seed))
    return WeightDiff(sigma=torch.ones(n), modules=("m",) * n, u=tuple(vectors[:n]), v=tuple(vectors[n:]), **more)


def values(result: Agreement) -> tuple[float | None, ...]:
    matching = result.matching
    return matching.cosine.value, matching.share.value, matching.chance_cosine.value, matching.chance_share.value


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_diffs_agree_in_all_and_nothing_contradicts(seeds: int) -> None:
    diff = random_diff(0, findings=found(("a", "b"), ("c", "d")), verdict="changed")
    result = agreement([diff] * seeds)
    assert values(result)[:2] == (pytest.approx(1.0), 1.0)
    assert [span.overlap.value for span in result.spans] == pytest.approx([1.0] * len(SPANS))
    assert result.words.jaccard.value == 1.0
    said = result.contradictions
    assert (said.matched, said.contradicting) == (2 * math.comb(seeds, 2), 0)
    assert said.verdicts == {"changed": seeds} and said.verdicts_differ.value == 0.0
    assert (result.matching.cosine.low is not None) == (seeds >= 3)


def test_random_dictionaries_agree_by_chance() -> None:
    result = agreement([random_diff(seed) for seed in range(4)])
    cosine, share, chance, chance_share = values(result)
    assert cosine == pytest.approx(chance, abs=0.01) and share == pytest.approx(chance_share, abs=0.01)
    assert 0.3 < float(chance or 0) < 0.5, "the best of 256 in 64 dimensions"
    for span in result.spans:
        assert span.chance.value == pytest.approx(span.k / WIDTH)
        assert span.overlap.value == pytest.approx(span.chance.value, abs=0.1)


def test_a_plain_loop_finds_the_same_matches() -> None:
    diffs = [random_diff(seed, 40) for seed in range(3)]
    best = []
    for a, b in combinations(diffs, 2):
        rows = [np.asarray(diff.decoder_tuned, dtype=np.float64) for diff in (a, b)]
        ways = []
        for one, other in (rows, rows[::-1]):
            for row in one[:32]:
                ways.append(
                    max(abs(float(row @ column)) / np.linalg.norm(row) / np.linalg.norm(column) for column in other)
                )
        best.append(ways)
    result = agreement(diffs)
    assert result.matching.cosine.value == pytest.approx(np.mean(best))
    assert result.matching.share.value == pytest.approx(np.mean([np.mean(np.array(ways) >= 0.7) for ways in best]))


def test_what_two_seeds_share_is_found_in_any_order_and_sense() -> None:
    shared = unit(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(9)))
    one, other = random_diff(1, 12), random_diff(2, 12)
    assert one.decoder_tuned is not None and other.decoder_tuned is not None
    first = replace(one, decoder_tuned=torch.cat([shared, one.decoder_tuned[4:]]))
    second = replace(other, decoder_tuned=torch.cat([-shared.flip(0), other.decoder_tuned[4:]]))
    result = agreement([first, second])
    assert result.matching.share.value == pytest.approx(4 / 12)
    spans = {span.k: span.overlap.value for span in result.spans}
    assert spans[4] == pytest.approx(1.0) and float(spans[1] or 0) < 0.2
    assert result.spans[-1].overlap.state == "n/a", "fewer than 32 directions"


def test_a_finding_that_says_the_opposite_of_the_same_direction_contradicts() -> None:
    rows = unit(torch.eye(4, WIDTH) + 0.05)
    one = directions(rows, findings=found(("blue", "red"), ("on", "off"), ("x", "y")))
    turned = directions(
        torch.cat([rows[:1], -rows[1:2], rows[2:]]), findings=found(("red", "green"), ("off", "on"), ("x", "z"))
    )
    said = agreement([one, turned]).contradictions
    assert (said.matched, said.contradicting, said.examples) == (2, 1, ("red",)), (
        "the second is turned, and so are its words"
    )


def test_lists_of_a_model_seen_from_outside_are_one_thing() -> None:
    one = OutputDiff(score=None, findings=(), verdict="abstain")
    up, down, other = (
        OutputDiff(score="kl", findings=found(pair, component=0), verdict=verdict)  # type: ignore[arg-type]
        for pair, verdict in ((("a", "b"), "changed"), (("b", "c"), "changed"), (("a", "d"), "unchanged"))
    )
    result = agreement([up, down, other])
    said = result.contradictions
    assert (said.matched, said.contradicting, said.examples) == (3, 1, ("b",))
    assert said.verdicts == {"changed": 2, "unchanged": 1} and said.verdicts_differ.value == pytest.approx(2 / 3)
    assert result.words.jaccard.value == pytest.approx((0 + 1 / 3 + 0) / 3)
    assert result.matching.cosine.state == "n/a" and "no directions of the stream" in str(result.matching.cosine.reason)
    assert result.activity.spearman.reason == "the pair is not prepared on this machine"
    assert agreement([one, one]).activity.spearman.reason == "a seed has no per-token activity"


def test_a_token_that_one_seed_names_both_ways_contradicts_nothing() -> None:
    """In half of the contexts a word goes up and in half of them down: both seeds say so."""
    both = OutputDiff(score="kl", findings=found(("blue", "green"), ("green", "blue"), ("x", "y"), component=0))
    said = agreement([both, both]).contradictions
    assert (said.matched, said.contradicting) == (1, 0)
    turned = OutputDiff(score="kl", findings=found(("blue", "green"), ("y", "x"), component=0))
    assert agreement([both, turned]).contradictions.examples == ("x", "y")


def test_words_stand_beside_those_of_the_random_dictionary() -> None:
    diffs = [
        random_diff(0, findings=found(("a", "b"), ("c", "d"))),
        random_diff(1, findings=found(("a", "b"), ("e", "f"))),
    ]
    controls = [random_diff(7, findings=found(("a", "x"))), random_diff(8, findings=found(("b", "a")))]
    words = agreement(diffs, None, controls, [(0, 0), (0, 1), (1, 0), (1, 1)]).words
    assert words.jaccard.value == pytest.approx(2 / 6)
    assert words.control.value == pytest.approx((1 / 5 + 0 + 1 / 5 + 0) / 4), "up and down are told apart"
    assert agreement(diffs, None, controls, [(0, 1)]).words.control.value == 0.0
    assert agreement(diffs).words.control.state == "n/a"


def test_seeds_that_found_nothing_are_told_apart_from_those_that_disagree() -> None:
    none = directions(torch.zeros(0, WIDTH), verdict="unchanged")
    result = agreement([none, none])
    assert result.matching.cosine.state == result.spans[0].overlap.state == result.words.jaccard.state == "n/a"
    assert result.contradictions.verdicts == {"unchanged": 2}
    half = agreement([none, directions(unit(torch.ones(1, WIDTH)), verdict="changed")])
    assert half.n_components == (0, 1) and half.contradictions.verdicts_differ.value == 1.0
    assert half.matching.cosine.reason == "a seed has no component with a direction"


BROKEN: dict[str, tuple[list[Diff], str]] = {
    "kinds": ([random_diff(0), weight(0)], "several kinds: dictionary, weight"),
    "widths": ([directions(torch.eye(2, 8)), directions(torch.eye(2, 9))], "several widths: 8, 9"),
    "nan": ([random_diff(0), random_diff(1, encoder_bias=torch.full((256,), math.nan))], "encoder_bias: holds NaN"),
    "shape": ([random_diff(0), random_diff(1, bias_tuned=torch.zeros(3))], "bias_tuned: has shape"),
    "finding": ([random_diff(0), random_diff(1, findings=found(("a", "b"), component=999))], "component 999 does not"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_diff_that_is_none_is_an_error(what: str) -> None:
    diffs, message = BROKEN[what]
    with pytest.raises(DiffError, match=message):
        agreement(diffs)


def test_components_of_weights_have_no_direction_and_whole_ones_no_activity() -> None:
    result = agreement([weight(0), weight(1)])
    assert result.matching.cosine.state == "n/a" and result.kind == "weight"
    assert result.activity.spearman.reason == "the pair is not prepared on this machine"
    whole = WeightDiff(sigma=torch.ones(1), parameters=(("w",),))
    assert agreement([whole, whole]).activity.spearman.reason == "a seed has no per-token activity"


def test_activity_is_compared_with_the_component_that_fits_best() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(2000, 3, generator=generator, dtype=torch.float64)
    found = compared_activity([one, one[:, [2, 0, 1]] ** 2])
    assert found.spearman.value == pytest.approx(1.0) and abs(float(found.chance.value or 0)) < 0.1
    apart = compared_activity([one, torch.rand(2000, 3, generator=generator, dtype=torch.float64)])
    assert abs(float(apart.spearman.value or 0)) < 0.1


def test_the_interval_is_a_jackknife_over_seeds_and_there_is_none_of_two() -> None:
    table = {(0, 1): 0.2, (0, 2): 0.5, (1, 2): 0.8, (0, 3): 0.4, (1, 3): 0.9, (2, 3): 0.6}
    figure = over_pairs(4, lambda a, b: table[a, b], (-math.inf, math.inf))
    without = [np.mean([v for pair, v in table.items() if seed not in pair]) for seed in range(4)]
    half = t_quantile(3) * math.sqrt(3 / 4 * sum((w - np.mean(without)) ** 2 for w in without))
    assert figure.value == pytest.approx(np.mean(list(table.values())))
    assert (figure.low, figure.high) == (pytest.approx(figure.value - half), pytest.approx(figure.value + half))
    cut = over_pairs(4, lambda a, b: table[a, b], (0.0, 0.6))
    assert (cut.value, cut.high) == (figure.value, 0.6) and cut.low == max(0.0, figure.value - half)
    two = over_pairs(2, lambda a, b: table[a, b])
    assert (two.value, two.low, two.high) == (0.2, None, None)


def test_the_jackknife_covers_what_pairs_of_seeds_estimate() -> None:
    """Seeds are drawn, and a pair's value is the product of its two: the mean over all pairs estimates the square."""
    source = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        seeds = source.normal(1.0, 0.3, size=6)
        figure = over_pairs(6, lambda a, b, seeds=seeds: float(seeds[a] * seeds[b]), (-9.0, 9.0))  # type: ignore[misc]
        hits += float(figure.low or 0) <= 1.0 <= float(figure.high or 0)
    assert 0.90 <= hits / 400 <= 0.99


def test_the_same_diffs_give_the_same_document(tmp_path: Any) -> None:
    diffs: list[DictionaryDiff | DirectionDiff] = [random_diff(seed, findings=found(("a", "b"))) for seed in range(3)]
    assert agreement(diffs).model_dump_json() == agreement(diffs).model_dump_json()
