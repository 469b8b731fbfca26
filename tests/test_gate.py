"""What the gate measures, by hand, and that it refuses with the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_factory import TRUTH, StandinBase, StandinFamily, labelled_corpus, small_pair, word, word_tokenizer

from diffbench.causal import kl_sums
from diffbench.corpus import STRATA
from diffbench.errors import GateError
from diffbench.gate import BATCH_PROBES, expression, measure, trigger_rate
from diffbench.gate_report import GateCheck, GateReport
from diffbench.recipe import Gate
from diffbench.truth import Probe, ProbeSets, Stratum, Truth

REFERENCE, TUNED = small_pair(0, outlier=False)
GATE = Gate(expression_tuned=(0, 1), expression_control=(0, 1), off_target_kl=50.0, affected_kl_share=0.0)
PROBES = StandinFamily._probes(StandinBase(Path("unused")), 0, ("blue", "green"), 70)
AFFECTED = tuple(probe.model_copy(update={"claim": "swap"}) for probe in PROBES[:60])
FULL = TRUTH.model_copy(update={"probes": ProbeSets(affected=AFFECTED, near_miss=PROBES[:50], unrelated=PROBES[:55])})


def share(model: Any, probe: Probe) -> float:
    ids = word_tokenizer()(probe.text, return_tensors="pt")["input_ids"]
    p = model(input_ids=ids).logits[0, -1].double().softmax(-1)
    answer, other = float(p[word(probe.answer)]), float(p[word(probe.other)])
    return other / (answer + other)


def run(gate: Gate = GATE, truth: Truth = FULL, control: Any = None) -> GateReport:
    return measure("mine", gate, truth, (REFERENCE, control, TUNED), word_tokenizer(), labelled_corpus(400))


def value(report: GateReport, name: str) -> float:
    return next(check.value for check in report.checks if check.name == name)


def test_expression_is_the_others_share_after_each_probe() -> None:
    assert len(PROBES) > BATCH_PROBES
    assert len({len(probe.text.split()) for probe in PROBES}) > 1  # padded batches
    measured = expression(TUNED, word_tokenizer(), PROBES)
    assert measured == pytest.approx([share(TUNED, probe) for probe in PROBES], abs=1e-5)


@pytest.mark.parametrize("name", ["base", "control"])
def test_expression_of_tuned_and_of_the_untouched_model(name: str) -> None:
    other = small_pair(1, outlier=False)[0]
    report = run(control=other if name == "control" else None)
    mean = sum(share(TUNED, probe) for probe in PROBES[:60]) / 60
    assert value(report, "expression, tuned") == pytest.approx(mean, abs=1e-5)
    untouched = other if name == "control" else REFERENCE
    mean = sum(share(untouched, probe) for probe in PROBES[:60]) / 60
    assert value(report, f"expression, {name}") == pytest.approx(mean, abs=1e-5)


def test_kl_off_target_and_its_share_at_affected_positions() -> None:
    corpus = labelled_corpus(400)
    kl = kl_sums(REFERENCE, TUNED, corpus, {})["reference"]
    affected = STRATA.index(Stratum.affected)
    rest = [column for column in range(3) if column != affected]
    report = run()
    off = float(kl.sums[:, rest].sum()) / int(((corpus.stratum != affected) & corpus.predicts).sum())
    assert value(report, "off-target KL(tuned || base)") == pytest.approx(off)
    at = float(kl.sums[:, affected].sum() / kl.sums.sum())
    assert value(report, "share of KL at affected positions") == pytest.approx(at)
    assert report.passed
    report.require("./mine.yaml")


def test_every_claim_needs_probes_of_its_own() -> None:
    other = TRUTH.claims[0].model_copy(update={"id": "other"})
    affected = tuple(
        probe.model_copy(update={"claim": "other"}) if index < 20 else probe for index, probe in enumerate(AFFECTED)
    )
    probes = FULL.probes.model_copy(update={"affected": affected})
    report = run(truth=FULL.model_copy(update={"claims": (*TRUTH.claims, other), "probes": probes}))
    assert value(report, "probes, affected") == 20 and not report.passed


def test_an_unchanged_organism_has_no_share() -> None:
    report = run(truth=Truth(changed=False, probes=FULL.probes))
    assert "share of KL at affected positions" not in {check.name for check in report.checks}


def test_it_refuses_with_every_number_that_failed() -> None:
    strict = Gate(expression_tuned=(0.99, 1), expression_control=(0, 1), off_target_kl=1e-6, affected_kl_share=0)
    few = FULL.model_copy(update={"probes": FULL.probes.model_copy(update={"near_miss": PROBES[:49]})})
    report = run(strict, few)
    assert not report.passed
    with pytest.raises(GateError) as caught:
        report.require("./mine.yaml")
    line = str(caught.value)
    shown = value(report, "expression, tuned")
    assert f"expression, tuned: 0.99 <= {shown:.4g} <= 1 [FAILED]" in line
    assert "off-target KL(tuned || base):" in line and "<= 1e-06 nats [FAILED]" in line
    assert "probes, near_miss: 50 <= 49 [FAILED]" in line
    assert "expression, base" not in line
    assert "diffbench organisms verify ./mine.yaml" in line


@pytest.mark.parametrize(
    ("low", "high", "number", "passed"),
    [
        (0.1, 0.5, 0.1, True),
        (0.1, 0.5, 0.5, True),
        (0.1, 0.5, 0.51, False),
        (None, 1.0, -5.0, True),
        (2.0, None, 1.0, False),
    ],
)
def test_ranges_hold_their_ends(low: float | None, high: float | None, number: float, passed: bool) -> None:
    assert GateCheck(name="x", value=number, low=low, high=high).passed is passed


# BUG gate.py: without probes `_mean` divides by zero before the probe counts can refuse the organism.
def test_no_probes_at_all_are_refused_and_no_crash() -> None:
    with pytest.raises(GateError, match="probes, affected: 50 <= 0"):
        run(truth=TRUTH).require("./mine.yaml")


# BUG gate.py: a tuned model that equals its base has no KL, and its share at affected positions divides by zero.
def test_a_tuned_model_that_did_not_move_is_refused_and_no_crash() -> None:
    gate = GATE.model_copy(update={"affected_kl_share": 0.4})
    models = (REFERENCE, None, REFERENCE)
    with pytest.raises(GateError, match="share of KL at affected positions"):
        measure("mine", gate, FULL, models, word_tokenizer(), labelled_corpus(400)).require("./mine.yaml")


def test_trigger_rate_is_of_predicting_positions() -> None:
    corpus = labelled_corpus(300)
    affected = sum(int(corpus.stratum[i, t] == 1) for i, t in corpus.predicts.nonzero().tolist())
    assert trigger_rate(corpus) == pytest.approx(affected / int(corpus.predicts.sum()))
