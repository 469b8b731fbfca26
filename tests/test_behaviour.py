"""Behaviour: shares of what fine-tuning did, by hand and with intervals over probes; what is spilt elsewhere."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from probe_factory import TOKENIZER, N, Said, claim, speaking, truth_of

from diffbench.behaviour import (
    LEAST_CHANGE,
    LEAST_OF_CLAIM,
    STRENGTHS,
    WHOLE,
    Spill,
    behave,
    mean_of,
    no_behaviour,
    share_moved,
)
from diffbench.figure import Figure
from diffbench.interval import t_quantile
from diffbench.scores import Behaviour
from diffbench.truth import ProbeSets, Truth

FLOOR = 1e-6
TRUTH = truth_of([claim("one"), claim("two")], {"one": ["ball", "box"], "two": ["cup"]})
NOTHING = Spill([0.0] * 4, [5] * 4, [0.0] * 4, [20] * 4)


def says(one: tuple[float, float], two: float) -> Said:
    """P(blue) after the probes of claim one, which end with two words in turn, and of claim two."""
    return {"ball": {"blue": one[0]}, "box": {"blue": one[1]}, "cup": {"blue": two}}


def behaviour(
    without: Said, added: Sequence[Said], spills: Sequence[Spill] = (NOTHING,) * 5, truth: Truth = TRUTH
) -> Behaviour:
    reference, tuned = says((0.1, 0.2), 0.0), says((0.5, 0.8), 0.4)
    return behave(truth, TOKENIZER, speaking(reference, tuned, without, *added), spills, FLOOR)


def test_shares_of_every_claim_and_their_mean() -> None:
    added = [
        says((0.1, 0.2), 0.0),
        says((0.2, 0.3), 0.1),
        says((0.3, 0.4), 0.5),
        says((0.9, 0.9), 0.9),
        says((0, 0), 0),
    ]
    found = behaviour(says((0.4, 0.8), 0.0), added)
    one, two = found.claims
    assert (one.claim, one.n_probes, two.claim, two.n_probes) == ("one", N, "two", N)
    assert (one.reference.value, one.tuned.value) == pytest.approx((0.15, 0.65))
    assert one.installed.value == pytest.approx((0.35 - 0.15) / 0.5)
    assert one.removed.value == pytest.approx((0.65 - 0.6) / 0.5)
    assert two.installed.value == pytest.approx(0.5 / 0.4)  # more than fine-tuning did
    assert two.removed.value == pytest.approx(1)
    assert found.installed.value == pytest.approx((0.4 + 1.25) / 2)
    assert found.removed.value == pytest.approx((0.1 + 1) / 2)
    shares = [(point.strength, point.installed.value) for point in found.dose]
    expected = [0, (0.2 + 0.25) / 2, (0.4 + 1.25) / 2, (1.5 + 2.25) / 2, (-0.3 + 0) / 2]
    assert [strength for strength, _ in shares] == list(STRENGTHS) == [0, 0.5, 1, 2, 4]
    assert [share for _, share in shares] == pytest.approx(expected)
    assert found.dose[WHOLE].installed == found.installed


def test_the_true_change_installs_and_removes_all_of_it_and_nothing_does_nothing() -> None:
    reference, tuned = says((0.1, 0.2), 0.0), says((0.5, 0.8), 0.4)
    whole = behaviour(reference, [tuned] * 5)
    assert (whole.installed.value, whole.removed.value) == (pytest.approx(1), pytest.approx(1))
    nothing = behaviour(tuned, [reference] * 5)
    assert (nothing.installed.value, nothing.removed.value) == (pytest.approx(0), pytest.approx(0))
    assert nothing.selectivity.state == "undefined" and "no more than noise" in (nothing.selectivity.reason or "")


def test_a_probe_is_measured_as_it_says() -> None:
    shares = tuple(probe.model_copy(update={"metric": "share"}) for probe in TRUTH.probes.affected)
    truth = TRUTH.model_copy(update={"probes": ProbeSets(affected=shares)})
    said = {name: {"blue": 0.3, "green": 0.1} for name in ("ball", "box", "cup")}
    other = {name: {"blue": 0.1, "green": 0.3} for name in ("ball", "box", "cup")}
    found = behave(truth, TOKENIZER, speaking(other, said, said, *[other] * 5), [NOTHING] * 5, FLOOR)
    assert (found.claims[0].reference.value, found.claims[0].tuned.value) == pytest.approx((0.25, 0.75))


def test_a_behaviour_that_was_hardly_moved_has_no_shares_and_does_not_weigh_in_the_mean() -> None:
    reference, tuned = says((0.1, 0.2), 0.3), says((0.5, 0.8), 0.3 + 0.9 * LEAST_CHANGE)
    arms = speaking(reference, tuned, reference, *[tuned] * 5)
    found = behave(TRUTH, TOKENIZER, arms, [NOTHING] * 5, FLOOR)
    assert found.claims[1].installed.state == found.claims[1].removed.state == "undefined"
    assert "moved the behaviour by 0.045" in (found.claims[1].installed.reason or "")
    assert (found.installed.value, found.removed.value) == (pytest.approx(1), pytest.approx(1))
    still = behave(TRUTH, TOKENIZER, speaking(*[reference] * 8), [NOTHING] * 5, FLOOR)
    assert {still.installed.state, still.removed.state, still.dose[3].installed.state} == {"undefined"}


def test_probes_of_many_claims_are_shared_out() -> None:
    for n_claims, expected in ((2, 70), (5, 48), (30, LEAST_OF_CLAIM)):
        claims = [claim(str(index)) for index in range(n_claims)]
        truth = truth_of(claims, {one.id: ["ball"] for one in claims}, n=70)
        reference, tuned = says((0.1, 0.2), 0.0), says((0.5, 0.8), 0.4)
        found = behave(truth, TOKENIZER, speaking(reference, tuned, reference, *[tuned] * 5), [NOTHING] * 5, FLOOR)
        assert {one.n_probes for one in found.claims} == {expected}


def test_a_claim_without_probes_is_undefined() -> None:
    probes = ProbeSets(affected=TRUTH.probes.of("one"))
    found = behaviour(
        says((0.1, 0.2), 0.0), [says((0.5, 0.8), 0)] * 5, truth=TRUTH.model_copy(update={"probes": probes})
    )
    assert found.claims[1].tuned.reason == "two has no affected probes" and found.claims[1].n_probes == 0
    assert found.installed.value == pytest.approx(1)
    empty = behaviour({}, [{}] * 5, truth=TRUTH.model_copy(update={"probes": ProbeSets()}))
    assert empty.installed.state == empty.removed.state == empty.dose[0].installed.state == "undefined"


def test_a_share_is_a_ratio_of_means_with_an_interval_over_probes() -> None:
    rng = random.Random(0)
    start, end = [rng.random() * 0.2 for _ in range(40)], [0.5 + rng.random() * 0.4 for _ in range(40)]
    values = [a + rng.uniform(0.2, 0.8) * (b - a) for a, b in zip(start, end, strict=True)]
    found = share_moved(start, values, end)
    moved, way = ([b - a for a, b in zip(start, other, strict=True)] for other in (values, end))
    ratio = math.fsum(moved) / math.fsum(way)
    errors = [(m - ratio * w) / (math.fsum(way) / 40) for m, w in zip(moved, way, strict=True)]
    half = t_quantile(39) * math.sqrt(math.fsum(e * e for e in errors) / 39 / 40)
    assert (found.value, found.low, found.high) == pytest.approx((ratio, ratio - half, ratio + half))
    assert share_moved(end, values, start).value == pytest.approx(1 - ratio)
    few = share_moved([0.0, 0.0], [0.1, 0.3], [0.5, 0.5])
    assert (few.value, few.low) == (pytest.approx(0.4), None)


def test_the_interval_of_a_mean_of_shares_covers() -> None:
    """Of three claims with 60 probes each; their true mean share is .5."""
    rng = random.Random(3)
    inside = 0
    for _ in range(400):
        shares = []
        for true in (0.2, 0.5, 0.8):
            way = [rng.uniform(0.3, 0.9) for _ in range(N)]
            shares.append(share_moved([0.0] * N, [true * w + rng.gauss(0, 0.2) for w in way], way))
        found = mean_of(shares)
        assert found.low is not None and found.high is not None
        inside += found.low <= 0.5 <= found.high
    assert 0.92 <= inside / 400 <= 0.975


def test_means_leave_out_what_has_no_number() -> None:
    why = Figure.undefined("hardly moved")
    assert mean_of([why, Figure.of(0.4, 0.3, 0.5), Figure.of(0.8, 0.6, 1.0)]).value == pytest.approx(0.6)
    found = mean_of([Figure.of(0.4, 0.3, 0.5), Figure.of(0.8, 0.6, 1.0)])
    assert found.low is not None and found.low == pytest.approx(0.6 - math.hypot(0.1, 0.2) / 2)
    assert mean_of([Figure.of(0.4, 0.3, 0.5), Figure.of(0.8)]).low is None
    assert mean_of([why, why]) == why


def spill(seed: int, on: float, off: float, documents: int = 30) -> Spill:
    rng = random.Random(seed)
    n_on = [rng.randint(0, 4) for _ in range(documents)]
    n_off = [rng.randint(10, 30) for _ in range(documents)]
    return Spill(
        affected=[math.fsum(rng.expovariate(1 / on) for _ in range(n)) for n in n_on],
        n_affected=n_on,
        elsewhere=[math.fsum(rng.expovariate(1 / off) for _ in range(n)) for n in n_off],
        n_elsewhere=n_off,
    )


def test_what_is_spilt_is_a_mean_per_position() -> None:
    found = Spill([1.0, 3.0, 0.0], [2, 2, 0], [0.5, 0.3, 0.2], [10, 20, 10])
    assert found.off_target().value == pytest.approx(1.0 / 40)
    assert found.selectivity(FLOOR).value == pytest.approx(1.0 / (1.0 + 0.025))
    everywhere = Spill([1.0, 3.0, 2.0], [2, 6, 4], [5.0, 10.0, 5.0], [10, 20, 10])
    assert everywhere.selectivity(FLOOR).value == pytest.approx(0.5)
    added = behaviour({}, [{}] * 5, [NOTHING, NOTHING, found, everywhere, NOTHING])
    assert added.off_target_kl == found.off_target() and added.selectivity == found.selectivity(FLOOR)
    assert [point.off_target_kl.value for point in added.dose] == pytest.approx([0, 0, 0.025, 0.5, 0])


def test_intervals_of_what_is_spilt_cover() -> None:
    inside = [0, 0]
    for seed in range(300):
        one = spill(seed, on=0.6, off=0.2, documents=60)
        for place, (figure, true) in enumerate(((one.off_target(), 0.2), (one.selectivity(FLOOR), 0.75))):
            assert figure.low is not None and figure.high is not None
            inside[place] += figure.low <= true <= figure.high
    assert all(0.91 <= count / 300 <= 0.98 for count in inside), inside


@pytest.mark.parametrize("shared", [False, True])
def test_the_interval_of_selectivity_is_that_of_leaving_out_one_document(shared: bool) -> None:
    """Also where documents that are moved a lot are so at affected positions and elsewhere alike."""
    rng = random.Random(4)
    one = spill(1, on=0.6, off=0.2, documents=80)
    much = [rng.choice((0.2, 3.0)) if shared else 1.0 for _ in range(80)]
    one = replace(
        one,
        affected=[a * m for a, m in zip(one.affected, much, strict=True)],
        elsewhere=[b * m for b, m in zip(one.elsewhere, much, strict=True)],
    )
    found = one.selectivity(FLOOR)
    columns = (one.affected, one.n_affected, one.elsewhere, one.n_elsewhere)
    without = []
    for left_out in range(80):
        a, n_a, b, n_b = (math.fsum(column) - column[left_out] for column in columns)
        without.append((a / n_a) / (a / n_a + b / n_b))
    middle = math.fsum(without) / 80
    half = t_quantile(79) * math.sqrt(79 / 80 * math.fsum((value - middle) ** 2 for value in without))
    assert found.value is not None and found.high is not None
    assert found.high - found.value == pytest.approx(half, rel=0.05)


def test_what_is_spilt_nowhere_or_on_nothing_is_undefined() -> None:
    no_trigger = Spill([0.0] * 3, [0] * 3, [1.0] * 3, [9] * 3)
    assert no_trigger.selectivity(FLOOR).reason == "the evaluation text has no affected positions"
    assert no_trigger.off_target().value == pytest.approx(1 / 9)
    trigger = Spill([1.0] * 3, [9] * 3, [0.0] * 3, [0] * 3)
    assert trigger.selectivity(FLOOR).reason == "the evaluation text has no unaffected positions"
    assert trigger.off_target().state == "undefined"
    assert spill(0, 1e-8, 1e-8).selectivity(FLOOR).state == "undefined"
    two = Spill([1.0, 1.0], [1, 1], [1.0, 1.0], [1, 1])
    assert (two.selectivity(FLOOR).value, two.selectivity(FLOOR).low, two.off_target().low) == (0.5, None, None)


def test_no_behaviour_says_why() -> None:
    why = Figure.not_applicable("an output diff has no edit")
    found = no_behaviour(why)
    assert {found.installed, found.removed, found.off_target_kl, found.selectivity} == {why}
    assert found.claims == found.dose == ()
