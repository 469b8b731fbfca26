"""Studies: what is registered can be measured, and verdicts follow from intervals and margins alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import record_factory

from diffbench.errors import RecordError, UnknownName
from diffbench.figure import Figure
from diffbench.method import resolve_options
from diffbench.plugins import find_method
from diffbench.scores import Judged, Recovery, Scores, SetScore
from diffbench.study import (
    Inequality,
    Outcome,
    Reading,
    Study,
    Term,
    Unit,
    concluded,
    outcome,
    read_registration,
    registration,
    score_of,
    statistic,
)

REGISTERED = registration()
TERM = Term(fit="run/method", read="recovery.r_full")
TWO_SIDED_T = 4.302652729911275  # of 2 degrees of freedom, from tables


def inequality(**changes: Any) -> Inequality:
    asked: dict[str, Any] = {
        "id": "it",
        "says": "it is so",
        "published": "none",
        "first": TERM,
        "combine": "value",
        "direction": "above",
        "margin": 0.1,
    }
    return Inequality(**(asked | changes))


def unit(seed: int, first: float | Figure | None, second: float | None = None) -> Unit:
    def reading(value: float | Figure | None) -> Reading:
        if value is None:
            return Reading(error="it broke")
        return Reading(figure=value if isinstance(value, Figure) else Figure.of(value))

    return Unit(organism_seed=seed, first=reading(first), second=None if second is None else reading(second))


def judged(*values: float | Figure | None, **changes: Any) -> Outcome:
    return outcome(inequality(**changes), [unit(seed, value) for seed, value in enumerate(values, start=1)])


@pytest.mark.parametrize(
    ("values", "direction", "verdict"),
    [
        ((0.30, 0.32, 0.31), "above", "holds"),
        ((0.30, 0.32, 0.31), "below", "does not hold here"),
        ((-0.30, -0.32, -0.31), "above", "does not hold here"),
        ((-0.30, -0.32, -0.31), "below", "holds"),
        ((0.12, 0.30, 0.21), "above", "undecided"),  # .21 ± .22 holds .1
        ((0.12, 0.30, 0.21), "below", "undecided"),
        ((0.2, 0.2, 0.2), "above", "undecided"),  # where nothing varies t says nothing
        ((1.0, 1.0, 1.0, 1.0), "below", "undecided"),
        ((0.1 + 0.2, 0.3, 0.3), "above", "undecided"),  # they differ in their last digits
        ((1.0, 1.0, 2.0, 1.0, 1.0, 1.0), "above", "holds"),
    ],
)
def test_verdict_is_where_the_interval_lies(values: tuple[float, ...], direction: str, verdict: str) -> None:
    assert judged(*values, direction=direction).verdict == verdict


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.2, "holds"), (0.0, "does not hold here"), (0.1, "undecided")], ids=["over", "under", "at"]
)
def test_what_the_rule_on_equal_values_changes_can_be_told(value: float, verdict: str) -> None:
    found = judged(value, value, value)
    assert (found.verdict, found.by_the_interval) == ("undecided", verdict)
    varied = judged(value - 0.001, value, value + 0.001)
    assert varied.verdict == varied.by_the_interval


def test_interval_is_students_over_units() -> None:
    values = (0.1, 0.2, 0.6)
    mean = sum(values) / 3
    half = TWO_SIDED_T * math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3)
    found = judged(*values)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-9)


@pytest.mark.parametrize("values", [(), (5.0,), (5.0, 5.0), (5.0, 5.0, None), (5.0, 5.0, Figure.undefined("no"))])
def test_under_three_units_with_a_value_nothing_is_decided(values: tuple[float | None, ...]) -> None:
    found = judged(*values)
    numbers = [value for value in values if isinstance(value, float)]
    assert found.verdict == "undecided"
    assert (found.low, found.high) == (None, None)
    assert found.mean == (5.0 if numbers else None)
    assert found.undefined == len(values) - len(numbers)


def test_undefined_units_are_counted_and_no_zeros() -> None:
    found = judged(0.49, 0.5, 0.51, Figure.not_applicable("cannot be asked"), None)
    assert (found.mean, found.undefined, found.verdict) == (pytest.approx(0.5), 2, "holds")
    assert found.errors == ("it broke",)
    assert [value.state for value in found.values] == ["ok", "ok", "ok", "n/a", "undefined"]


@pytest.mark.parametrize(
    ("combine", "first", "second", "value"),
    [
        ("difference", 0.5, 0.2, 0.3),
        ("difference", -0.5, 0.2, -0.7),
        ("ratio", 0.4, 0.5, 0.8),
        ("ratio", -0.4, 0.5, -0.8),
    ],
)
def test_statistics(combine: str, first: float, second: float, value: float) -> None:
    test = inequality(combine=combine, second=TERM)
    assert statistic(test, unit(1, first, second)).value == pytest.approx(value)


@pytest.mark.parametrize("below", [0.0, -0.2])
def test_a_ratio_to_nothing_is_undefined(below: float) -> None:
    found = statistic(inequality(combine="ratio", second=TERM), unit(1, 0.4, below))
    assert found.state == "undefined" and "ratio" in str(found.reason)


def test_a_term_without_a_number_is_passed_on_with_its_reason() -> None:
    test = inequality(combine="difference", second=TERM)
    found = statistic(test, unit(1, Figure.not_applicable("no edit"), 0.3))
    assert (found.state, found.reason) == ("n/a", "no edit")
    assert statistic(test, unit(1, None, 0.3)).reason == "not measured: it broke"


def study(**decides: bool) -> Study:
    tests = tuple(inequality(id=name, decides=each) for name, each in decides.items())
    return Study(id="X1", version=1, claim="so it is", source="a paper", undefined="never", tests=tests)


HOLDS, FAILS, OPEN = (0.5, 0.5, 0.51), (-0.5, -0.5, -0.51), (-9.0, 0.0, 9.0)


@pytest.mark.parametrize(
    ("values", "decides", "verdict"),
    [
        ((HOLDS, HOLDS), (True, True), "holds"),
        ((HOLDS, FAILS), (True, True), "does not hold here"),
        ((OPEN, FAILS), (True, True), "does not hold here"),
        ((HOLDS, OPEN), (True, True), "undecided"),
        ((HOLDS, FAILS), (True, False), "holds"),
        ((FAILS, HOLDS), (True, False), "does not hold here"),
        ((OPEN, HOLDS), (True, False), "undecided"),
    ],
)
def test_a_study_rests_on_all_its_deciding_tests(
    values: tuple[tuple[float, ...], ...], decides: tuple[bool, bool], verdict: str
) -> None:
    units = [[unit(seed, value) for seed, value in enumerate(each)] for each in values]
    found = concluded(study(a=decides[0], b=decides[1]), units)
    assert found.verdict == verdict
    assert found.errors == ()


def test_a_study_in_which_nothing_decides_is_refused() -> None:
    with pytest.raises(ValueError, match="no test decides"):
        study(a=False)


def test_terms_fit_what_they_are_combined_by() -> None:
    with pytest.raises(ValueError, match="a value has one term"):
        inequality(combine="difference")
    with pytest.raises(ValueError, match="a value has one term"):
        inequality(second=TERM)


def test_a_set_has_a_bound_and_nothing_else_has_one() -> None:
    with pytest.raises(ValueError, match="has a bound"):
        Term(fit="a/b", read="set.additive")
    with pytest.raises(ValueError, match="has a bound"):
        Term(fit="a/b", read="fit.fve", below=0.3)


def test_a_reading_has_a_figure_or_an_error() -> None:
    with pytest.raises(ValueError, match="a figure or an error"):
        Reading()
    with pytest.raises(ValueError, match="a figure or an error"):
        Reading(figure=Figure.of(1.0), error="both")


# What is registered.


def test_the_claims_of_the_plan_are_all_registered() -> None:
    assert [each.id for each in REGISTERED.studies] == [*(f"C{n}" for n in range(1, 13)), "ETA", "ABLATION"]
    assert len(REGISTERED.organism_seeds) >= 3


ALL_TERMS = [
    pytest.param(term, id=f"{each.name}.{test.id}")
    for each in REGISTERED.studies
    for test in each.tests
    for term in test.terms
]


@pytest.mark.parametrize("term", ALL_TERMS)
def test_every_registered_term_can_be_read(term: Term) -> None:
    from diffbench.measurement import MEASURED

    part, _, name = term.read.partition(".")
    if part == "set":
        assert name in ("additive", "replace") and term.below is not None
    elif term.in_record:
        scores = record_factory.scores()
        figure = score_of(scores, term).figure
        found = getattr(getattr(scores, part), name)
        assert figure is not None and figure == (found.score if isinstance(found, Judged) else found)
    else:
        assert term.read in MEASURED


def test_everything_that_can_be_measured_is_registered() -> None:
    from diffbench.measurement import MEASURED

    read = {term.read for param in ALL_TERMS for term in param.values if isinstance(term, Term) and not term.in_record}
    assert set(MEASURED) == read


RUNS = [
    pytest.param(name, method, options, id=f"{name}-{method}")
    for name, run in REGISTERED.runs.items()
    for method, options in run.methods.items()
]


@pytest.mark.parametrize(("run", "method", "options"), RUNS)
def test_every_registered_method_is_installed_and_takes_its_options(
    run: str, method: str, options: dict[str, Any]
) -> None:
    resolved = resolve_options(find_method(method), options)
    assert {name: getattr(resolved, name) for name in options} == options
    assert any(term.fit == f"{run}/{method}" for param in ALL_TERMS for term in param.values if isinstance(term, Term))


def test_margins_are_those_that_were_registered() -> None:
    """A margin that is changed after a result is known would have to be changed here too."""
    margins = {
        (each.name, test.id): (test.direction, test.margin) for each in REGISTERED.studies for test in each.tests
    }
    assert margins == {
        ("C1", "full"): ("above", 0.05),
        ("C1", "error"): ("above", 0.05),
        ("C1", "fve"): ("above", 0.02),
        ("C1", "full-halfswap"): ("above", 0.05),
        ("C1", "error-halfswap"): ("above", 0.05),
        ("C2", "chat-sae-.3"): ("above", 0.05),
        ("C2", "chat-sae-.6"): ("above", 0.05),
        ("C2", "crosscoder-.3"): ("above", 0.05),
        ("C2", "crosscoder-.6"): ("above", 0.05),
        ("C2", "chat-sae-.6-halfswap"): ("above", 0.05),
        ("C2", "crosscoder-.6-halfswap"): ("above", 0.05),
        ("C3", "full"): ("above", 0.8),
        ("C3", "fve"): ("above", 0.8),
        ("C3", "set-.3"): ("above", 0.05),
        ("C3", "set-.6"): ("above", 0.05),
        ("C3", "full-halfswap"): ("above", 0.8),
        ("C4", "share"): ("above", 0.1),
        ("C4", "count"): ("above", 0.01),
        ("C5", "twins"): ("above", 0.9),
        ("C5", "shared"): ("above", 0.9),
        ("C5", "base"): ("below", 0.5),
        ("C6", "chat"): ("above", 0.05),
        ("C6", "halfswap"): ("above", 0.05),
        ("C6", "noswap"): ("above", 0.05),
        ("C7", "triples"): ("below", 1.5),
        ("C7", "against-pair"): ("below", -0.5),
        ("C7", "either"): ("below", 2.5),
        ("C8", "saes"): ("above", 0.05),
        ("C8", "triples"): ("above", 0.05),
        ("C9", "random"): ("above", 0.1),
        ("C9", "size"): ("above", 0.25),
        ("C10", "smooth"): ("above", 0.9),
        ("C10", "identity"): ("above", 0.1),
        ("C11", "batchtopk"): ("above", 0.1),
        ("C11", "l1"): ("above", 0.1),
        ("C12", "chat-sae"): ("above", 0.02),
        ("C12", "diff-sae"): ("above", 0.02),
        ("C12", "often-chat-sae"): ("above", 0.05),
        ("C12", "often-diff-sae"): ("above", 0.05),
        ("ETA", "exclusive"): ("above", 0.1),
        ("ETA", "readable"): ("above", 0.02),
        ("ETA", "new"): ("above", 0.01),
        ("ETA", "exclusive-4"): ("above", 0.02),
        ("ABLATION", "error"): ("above", 0.05),
        ("ABLATION", "delta"): ("above", 0.05),
        ("ABLATION", "error-halfswap"): ("above", 0.05),
        ("ABLATION", "delta-halfswap"): ("above", 0.05),
    }


def test_names_choose_studies() -> None:
    assert [each.id for each in REGISTERED.named(["c5", "C1"])] == ["C1", "C5"]
    assert REGISTERED.named([]) == REGISTERED.studies
    with pytest.raises(UnknownName, match="no study named 'C99'"):
        REGISTERED.named(["C99"])


TEXT = """
schema_version: 1
registered: 2026-01-02
known: nothing
tier: smoke
organism_seeds: [1, 2, 3]
method_seed: 0
runs:
  one: {organism: halfswap, reference: base, layer: null, methods: {diff-sae: {k: 4}}}
studies:
  - &study
    id: X1
    version: 1
    claim: so
    source: a paper
    undefined: never
    tests:
      - {id: a, says: so, published: none, first: {fit: one/diff-sae, read: fit.fve}, combine: value,
         direction: above, margin: 0.5}
"""


def test_a_second_version_stands_beside_the_first() -> None:
    found = read_registration(TEXT + "  - {<<: *study, version: 2}\n")
    assert [each.name for each in found.named(["X1"])] == ["X1", "X1-v2"]
    assert [each.name for each in found.named(["x1-v2"])] == ["X1-v2"]
    assert found.registered == "2026-01-02"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("one/diff-sae", "two/diff-sae"), "two/diff-sae is not among the runs"),
        (("one/diff-sae", "one/pca"), "one/pca is not among the runs"),
        (("margin: 0.5", "margin: much"), "margin"),
        (("direction: above, ", ""), "direction"),
        (("claim: so", "claim: [so"), "no YAML"),
        (("  - &study", "  - *study\n  - &study"), "no YAML"),
    ],
)
def test_a_broken_registration_is_refused(change: tuple[str, str], message: str) -> None:
    assert change[0] in TEXT
    with pytest.raises(RecordError, match=message):
        read_registration(TEXT.replace(*change))


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(RecordError, match="two studies have one id and version"):
        read_registration(TEXT + "  - *study\n")


# What a record says.


def sets(*found: SetScore) -> Scores:
    return Scores.model_construct(recovery=Recovery.model_construct(sets=found, r_full=Figure.of(0.4)))


def test_scores_are_read_by_name() -> None:
    assert score_of(sets(), TERM).figure == Figure.of(0.4)


def test_sets_are_read_by_their_bound() -> None:
    wide = SetScore(nu="nu_error", below=0.6, n=7, replace=Figure.of(0.2), additive=Figure.of(0.1))
    term = Term(fit="a/b", read="set.additive", below=0.6)
    assert score_of(sets(wide), term) == Reading(figure=Figure.of(0.1), detail="7 latents")
    assert score_of(sets(wide), term.model_copy(update={"read": "set.replace"})).figure == Figure.of(0.2)
    missing = score_of(sets(wide), term.model_copy(update={"below": 0.3})).figure
    assert missing is not None and missing.state == "undefined"


def test_an_empty_set_adds_nothing() -> None:
    why = Figure.undefined("nothing is in it")
    empty = SetScore(nu="nu_error", below=0.3, n=0, replace=why, additive=why)
    term = Term(fit="a/b", read="set.additive", below=0.3)
    assert score_of(sets(empty), term) == Reading(figure=Figure.of(0.0), detail="0 latents")
