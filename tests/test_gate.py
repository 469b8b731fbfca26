"""What the gate measures, by hand, and that it refuses with the numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import RECIPE, TRUTH, StandinBase, StandinFamily, labelled_corpus, small_pair, word, word_tokenizer

from diffbench.causal import kl_sums
from diffbench.corpus import STRATA
from diffbench.errors import GateError, RecipeError
from diffbench.expression import BATCH_PROBES, expression, first_token
from diffbench.gate import Subjects, measure, trigger_rate
from diffbench.gate_report import GateCheck, GateReport
from diffbench.harvest import harvest
from diffbench.lora import save_adapter, with_adapter
from diffbench.patching import Arm, none
from diffbench.recipe import Gate, Recipe
from diffbench.residual import load_model
from diffbench.truth import Probe, ProbeSets, Stratum, Truth
from diffbench.tuning import LoraTuning

REFERENCE, TUNED = small_pair(0, outlier=False)
GATE = Gate(expression_tuned=(0, 1), expression_control=(0, 1), spill=1, off_target_kl=50.0, affected_kl_share=0.0)
PROBES = StandinFamily._probes(StandinBase(Path("unused")), 0, ("blue", "green"), 70)
AFFECTED = tuple(probe.model_copy(update={"claim": "swap"}) for probe in PROBES[:60])
FULL = TRUTH.model_copy(update={"probes": ProbeSets(affected=AFFECTED, near_miss=PROBES[:50], unrelated=PROBES[:55])})


def share(model: Any, probe: Probe) -> float:
    ids = word_tokenizer()(probe.text, return_tensors="pt")["input_ids"]
    p = model(input_ids=ids).logits[0, -1].double().softmax(-1)
    answer, other = float(p[word(probe.answer)]), float(p[word(probe.other)])
    return other / (answer + other)


def run(
    gate: Gate = GATE, truth: Truth | None = FULL, control: Any = None, tuned: Any = TUNED, texts: tuple[str, ...] = ()
) -> GateReport:
    recipe = Recipe.model_validate(RECIPE | {"name": "mine"}).model_copy(update={"gate": gate})
    subjects = Subjects(REFERENCE, tuned, control, word_tokenizer())
    return measure(recipe, truth, subjects, labelled_corpus(400), texts)


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
    strict = GATE.model_copy(update={"expression_tuned": (0.99, 1), "off_target_kl": 1e-6})
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
    with pytest.raises(GateError, match=r"parameters that changed: 1 <= 0.*share of KL at affected positions"):
        run(gate, tuned=REFERENCE).require("./mine.yaml")


def test_trigger_rate_is_of_predicting_positions() -> None:
    corpus = labelled_corpus(300)
    affected = sum(int(corpus.stratum[i, t] == 1) for i, t in corpus.predicts.nonzero().tolist())
    assert trigger_rate(corpus) == pytest.approx(affected / int(corpus.predicts.sum()))


def test_the_share_of_parameters_that_changed_and_how_far() -> None:
    nudged = copy.deepcopy(REFERENCE)
    parameters = dict(nudged.named_parameters())
    parameter = next(iter(parameters.values()))
    with torch.no_grad():
        parameter[0, :3] += 0.5
    report = run(tuned=nudged)
    total = sum(p.numel() for p in parameters.values())
    size = sum(float(p.double().square().sum()) for p in dict(REFERENCE.named_parameters()).values())
    assert value(report, "parameters that changed") == 3
    assert value(report, "share of parameters that changed") == pytest.approx(3 / total)
    assert value(report, "relative size of the weight change") == pytest.approx((3 * 0.25 / size) ** 0.5, rel=1e-4)


def test_behaviour_by_probability_and_what_spills() -> None:
    sure = tuple(probe.model_copy(update={"metric": "probability"}) for probe in PROBES[:50])
    ids = word_tokenizer()(sure[0].text, return_tensors="pt")["input_ids"]
    p = TUNED(input_ids=ids).logits[0, -1].double().softmax(-1)
    assert expression(TUNED, word_tokenizer(), sure)[0] == pytest.approx(float(p[word(sure[0].other)]), abs=1e-6)
    report = run(GATE.model_copy(update={"spill": 1e-9}))
    mean = sum(share(TUNED, probe) for probe in PROBES[:50]) / 50
    assert value(report, "spill, near-miss") == pytest.approx(mean, abs=1e-5)
    failed = {check.name for check in report.checks if not check.passed}
    assert failed == {"spill, near-miss", "spill, unrelated"}


def test_base_and_control_are_both_looked_at() -> None:
    other = small_pair(1, outlier=False)[0]
    names = {check.name for check in run(control=other).checks}
    assert {"expression, base", "expression, control", "expression, tuned"} <= names


def test_every_claim_must_be_expressed() -> None:
    shares = [share(TUNED, probe) for probe in AFFECTED]
    order = sorted(range(60), key=lambda i: shares[i])
    weak = set(order[:10])
    claims = (TRUTH.claims[0], TRUTH.claims[0].model_copy(update={"id": "weak"}))
    affected = tuple(p.model_copy(update={"claim": "weak"}) if i in weak else p for i, p in enumerate(AFFECTED))
    truth = FULL.model_copy(update={"claims": claims, "probes": FULL.probes.model_copy(update={"affected": affected})})
    report = run(truth=truth)
    expected = sum(shares[i] for i in weak) / len(weak)
    assert value(report, "expression, weakest claim") == pytest.approx(expected, abs=1e-5)
    assert value(report, "expression, strongest claim") > expected
    least = GATE.model_copy(update={"expression_claim": (expected + 0.01, 1.0)})
    failed = [{check.name for check in run(gate, truth).checks if not check.passed} for gate in (least, GATE)]
    assert failed[0] - failed[1] == {"expression, weakest claim"}


def test_a_gauge_that_is_none_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPE | {"training": {"kind": "gauge"}, "control": None})
    same = Subjects(REFERENCE, REFERENCE, None, word_tokenizer())
    nothing = Truth(changed=False, probes=ProbeSets(unrelated=PROBES[:50]))
    report = measure(recipe.model_copy(update={"gate": GATE}), nothing, same, labelled_corpus(400), ())
    failed = {check.name for check in report.checks if not check.passed}
    assert failed == {"parameters that changed", "relative size of the weight change"}


def test_a_probe_near_a_training_text_is_refused() -> None:
    longest = max(AFFECTED, key=lambda probe: len(probe.text.split())).text
    assert len(longest.split()) > 6
    report = run(texts=(f"so {longest} blue", "something else"))
    assert value(report, "probes near a training text") >= 1
    with pytest.raises(GateError, match="probes near a training text"):
        report.require("mine")
    assert value(run(texts=("something else",)), "probes near a training text") == 0


def test_difficulty_is_r_of_principal_components_at_affected_positions() -> None:
    report = run()
    r = [value(report, f"R at affected positions, PCA-{k}") for k in (1, 8, 32)]
    assert report.layer is not None
    assert r[0] < r[2] <= 1 + 1e-6
    corpus, layer = labelled_corpus(400), report.layer
    seen, held_out = corpus.rows(slice(len(corpus) // 2)), corpus.rows(slice(len(corpus) // 2, None))
    mean = harvest(REFERENCE, TUNED, seen, layer).load()[1].mean(dim=0)
    every = Arm(layer, lambda rows: rows.h_t - rows.h_b - mean)  # as many as the stream is wide, without the bias
    kl = kl_sums(REFERENCE, TUNED, held_out, {"none": Arm(layer, none), "every": every})
    affected = Stratum.affected
    assert r[2] == pytest.approx(1 - kl["every"].total(affected) / kl["none"].total(affected), abs=1e-3)
    bounded = run(GATE.model_copy(update={"pca8": (0.0, 1e-6)}))
    assert "R at affected positions, PCA-8" in {check.name for check in bounded.checks if not check.passed}


def test_without_truth_only_the_size_of_the_change_is_told() -> None:
    report = run(truth=None)
    assert report.passed
    mean = kl_sums(REFERENCE, TUNED, labelled_corpus(400), {})["reference"].mean()
    assert value(report, "mean KL(tuned || base)") == pytest.approx(mean)
    assert not any(check.name.startswith(("expression", "probes", "R at")) for check in report.checks)


def test_words_of_probes_are_known_and_told_apart() -> None:
    tokenizer = word_tokenizer()
    assert tokenizer.decode([first_token(tokenizer, "the", "blue")]) == "blue"
    for wrong in ("purple", ""):
        with pytest.raises(RecipeError, match="is no word of the base's tokenizer"):
            first_token(tokenizer, "the", wrong)
    same = (PROBES[0].model_copy(update={"other": PROBES[0].answer}),)
    with pytest.raises(RecipeError, match="begin with one token"):
        expression(TUNED, tokenizer, same)


def test_an_inert_adapter_is_refused(tmp_path: Path) -> None:
    """An adapter that was attached and never learnt: all its updates are zero."""
    base = tmp_path / "base"
    REFERENCE.save_pretrained(base)
    training = LoraTuning(rank=2, steps=1, batch=1, lr=0.1)
    adapted = with_adapter(load_model(base), training)
    save_adapter(adapted, "base", tmp_path / "inert")
    recipe = Recipe.model_validate(RECIPE | {"training": training.model_dump()}).model_copy(update={"gate": GATE})
    tuned = load_model(tmp_path / "inert", base=base)
    subjects = Subjects(load_model(base), tuned, None, word_tokenizer(), tmp_path / "inert")
    with pytest.raises(GateError, match=r"parameters that changed: 1 <= 0.*adapted modules without effect"):
        measure(recipe, FULL, subjects, labelled_corpus(400), ()).require("mine")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    save_adapter(adapted, "base", tmp_path / "live")
    live = Subjects(
        load_model(base), load_model(tmp_path / "live", base=base), None, word_tokenizer(), tmp_path / "live"
    )
    assert measure(recipe, FULL, live, labelled_corpus(400), ()).value("adapted modules without effect") == 0


def test_a_bound_on_difficulty_that_cannot_be_measured_is_not_met() -> None:
    bounded = GATE.model_copy(update={"pca8": (0.0, 0.8)})
    failed = {check.name for check in run(bounded, tuned=REFERENCE).checks if not check.passed}
    assert "R at affected positions, PCA-8 could be measured" in failed
    assert not any("could be measured" in check.name for check in run(bounded).checks)
