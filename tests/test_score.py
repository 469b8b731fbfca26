"""A stand-in organism from recipe to scores: what oracle, nothing and known Diffs must get."""

from __future__ import annotations

import importlib
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each, standin
from safetensors.torch import load_file, save_file
from score_factory import NO_CONTROLS, TIER, Prepared, quiet

from diffbench import cache, comparison
from diffbench.activity import activity, streams
from diffbench.causal import KLSums, recovery, sweep
from diffbench.comparison import Comparison, noise_floor
from diffbench.controls import principal_directions
from diffbench.corpus import Corpus
from diffbench.dictionary import added_by_all, reconstruction
from diffbench.diff import DirectionDiff, OutputDiff
from diffbench.edit import ActivationEdit, Streams
from diffbench.errors import BudgetExceeded, DiffError, OptionError
from diffbench.figure import Figure
from diffbench.findings import no_change
from diffbench.fit_score import Explained
from diffbench.judging import difference
from diffbench.patching import Arm, none
from diffbench.score import check, score
from diffbench.tier import COMPONENT_BUDGETS
from diffbench.truth import Stratum

pytest_plugins = ("score_factory",)

SCORE = importlib.import_module("diffbench.score")  # the package has a function of that name


@dataclass
class Moved:
    """A comparison whose files lie somewhere else."""

    path: Path
    original: Comparison

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def test_facts_of_the_pair(prepared: Prepared) -> None:
    facts, corpus = prepared.bench.comparison.facts(), prepared.bench.corpus("evaluation")
    assert facts.n_documents == len(corpus)
    assert facts.n_positions == int(corpus.predicts.sum())
    assert facts.kl.value is not None and facts.kl.value > 1e-3
    assert facts.kl_noise < 1e-6
    assert facts.layers[-1].ceiling.value == pytest.approx(1, abs=0.35)  # the heads differ, nothing else
    ceilings = [facts.layers[layer].ceiling.value or 0 for layer in range(3)]
    expected = next((layer for layer in range(3) if ceilings[layer] >= 0.7), 1)
    assert facts.layer in (expected, *[layer for layer in range(3) if abs(ceilings[layer] - 0.7) < 0.15])
    stored = load_file(prepared.folder / "kl.safetensors")
    table = KLSums(stored["reference"], stored["positions"])
    share = table.total(Stratum.affected) / table.total()
    assert facts.kl_affected_share.value == pytest.approx(share)
    assert facts.kl_affected.value == pytest.approx(table.mean(Stratum.affected))


def test_methods_get_no_labels_and_their_own_text(prepared: Prepared) -> None:
    inside = sorted(path.name for path in (prepared.folder / "in").iterdir())
    assert inside == ["activations.safetensors", "text.safetensors"]
    assert "stratum" not in load_file(prepared.folder / "in" / "text.safetensors")
    blind = Corpus.load(prepared.folder / "in" / "text.safetensors")
    held_out = prepared.bench.corpus("evaluation")
    one, other = ({tuple(row.tolist()) for row in corpus.ids} for corpus in (blind, held_out))
    assert len(one & other) < 0.1 * len(other)


def test_the_oracle_recovers_everything_and_its_head_is_pca(prepared: Prepared) -> None:
    found = prepared.scores(principal_directions(prepared.method_rows(), WIDTH)[0])
    assert found.recovery.r_full.value == pytest.approx(1, abs=1e-3)
    assert found.recovery.r_full_affected.value == pytest.approx(1, abs=1e-3)
    assert found.recovery.r_error.value == pytest.approx(0, abs=1e-3)
    for point in found.recovery.budgets:
        assert point.r.value == pytest.approx(point.r_pca.value, abs=1e-4)
        assert point.lift.value == pytest.approx(0, abs=1e-4)
        assert point.active_per_token.value == point.k
    assert found.recovery.headline.value == pytest.approx(0, abs=1e-4)
    assert found.fit.fve_delta.value == pytest.approx(1, abs=1e-3)
    assert found.fit.l0.state == found.fit.fve.state == "n/a"
    assert found.localisation.auroc_first.state == "n/a"


def test_nothing_recovers_nothing(prepared: Prepared) -> None:
    found = prepared.scores(no_change(prepared.bench.comparison.facts().layer, WIDTH))
    assert found.recovery.r_full.value == pytest.approx(0, abs=1e-6)
    assert found.recovery.r_error.value == pytest.approx(1, abs=1e-3)
    assert found.fit.fve_delta.value == pytest.approx(0, abs=1e-6)
    assert found.change_score.value == 0
    assert (found.verdict, found.n_findings) == ("unchanged", 0)
    for point in found.recovery.budgets:
        assert point.lift.value == pytest.approx(-point.r_pca.value, abs=1e-6)
        assert point.active_per_token.value == 0


def test_budgets_take_the_first_of_the_order_and_the_headline_is_their_mean(prepared: Prepared) -> None:
    layer = prepared.bench.comparison.facts().layer
    pca, _ = principal_directions(prepared.method_rows(), WIDTH)
    backwards = quiet(replace(pca, directions=pca.directions.flip(0)))
    found = prepared.scores(backwards)
    for point in found.recovery.budgets[:2]:
        first = prepared.scores(quiet(replace(pca, directions=pca.directions.flip(0)[: point.k])))
        assert point.r.value == pytest.approx(first.recovery.budgets[-1].r.value, abs=1e-6)
        assert abs(point.r.value - point.r_pca.value) > 1e-4
    mean = sum(point.r.value - point.r_pca.value for point in found.recovery.budgets) / len(COMPONENT_BUDGETS)
    assert found.recovery.headline.value == pytest.approx(mean, abs=1e-6)
    assert layer == backwards.layer  # type: ignore[union-attr]


def test_fit_of_a_dictionary_by_hand(prepared: Prepared) -> None:
    bench = prepared.bench
    diff = dictionary_diff("delta", layer=bench.comparison.facts().layer)
    found = prepared.scores(diff)
    corpus = bench.corpus("evaluation")
    rows = streams(bench.reference, bench.tuned, corpus, corpus.counts, diff.layer)
    added = ActivationEdit(diff).full(rows).double()
    delta = (rows.h_t - rows.h_b).double()
    residual = delta - added
    fve = 1 - float((residual - residual.mean(0)).pow(2).sum() / (delta - delta.mean(0)).pow(2).sum())
    assert found.fit.fve_delta.value == found.fit.fve.value == pytest.approx(fve, rel=1e-4)
    size = (added.pow(2).sum(1) / rows.h_b.double().pow(2).sum(1)).mean()
    assert found.change_score.value == pytest.approx(float(size), rel=1e-4)
    f = ActivationEdit(diff).activity(rows)
    assert found.fit.l0.value == pytest.approx(float((f > 0).double().sum(1).mean()))
    assert found.fit.dead_share.value == pytest.approx(float((~(f > 0).any(0)).double().mean()))
    affected = corpus.predicts & (corpus.stratum == 1)
    on = activity(diff, bench.reference, bench.tuned, corpus, affected) != 0
    for point in found.recovery.budgets:
        expected = float(on[:, diff.order[: point.k]].sum(1).double().mean())
        assert point.active_per_token.value == pytest.approx(expected)


def test_a_change_score_of_the_methods_own_is_kept(prepared: Prepared) -> None:
    found = prepared.scores(replace(OutputDiff(score="kl"), change_score=0.75, verdict="changed"))
    assert found.change_score.value == 0.75
    assert found.recovery.r_full.state == found.recovery.headline.state == found.fit.l0.state == "n/a"
    assert prepared.scores(OutputDiff(score="kl")).change_score.state == "n/a"


def test_a_diff_of_another_layer_is_not_applicable(prepared: Prepared) -> None:
    layer = (prepared.bench.comparison.facts().layer + 1) % 3
    found = prepared.scores(quiet(replace(one_of_each()["direction"], layer=layer)))
    assert found.recovery.r_full.state == "n/a"
    assert f"is about layer {layer}" in found.recovery.r_full.reason


def test_what_does_not_fit_is_refused(prepared: Prepared) -> None:
    with pytest.raises(DiffError, match="layer: 7"):
        check(dictionary_diff("delta", layer=7), prepared.bench.tuned, TIER)
    with pytest.raises(BudgetExceeded, match="65 components, the tier allows 64"):
        check(dictionary_diff("delta", n=65), prepared.bench.tuned, TIER)
    check(dictionary_diff("delta", n=64), prepared.bench.tuned, TIER)


# BUG score.py: finite tensors that overflow give NaN, and Figure then fails with pydantic's ValidationError.
def test_a_diff_that_overflows_is_the_diffs_fault(prepared: Prepared) -> None:
    layer = prepared.bench.comparison.facts().layer
    diff = dictionary_diff("delta", "relu", layer=layer)
    with pytest.raises(DiffError):
        prepared.scores(replace(diff, encoder=diff.encoder * 1e37, decoder=1e37 * torch.ones_like(diff.encoder)))


def test_a_huge_edit_has_huge_finite_figures(prepared: Prepared) -> None:
    layer = prepared.bench.comparison.facts().layer
    vector = torch.zeros(WIDTH)
    vector[0] = 1.0
    zero = torch.zeros(WIDTH)
    huge = DirectionDiff(layer=layer, directions=vector[None], centre=zero, bias=zero, constant=torch.tensor([1e20]))
    found = prepared.scores(huge)
    assert found.change_score.value is not None and found.change_score.value > 1e30
    assert found.recovery.r_full.value is not None and found.recovery.r_full.value < 0


def test_models_that_say_the_same_have_nothing_to_recover(prepared: Prepared, tmp_path: Path) -> None:
    """As after a change of basis: the streams differ and the logits do not."""
    bench, folder = prepared.bench, prepared.folder
    stored = load_file(folder / "kl.safetensors")
    same = replace(bench, comparison=Moved(tmp_path, bench.comparison))  # type: ignore[arg-type]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    save_file(stored | {"reference": 1e-12 * stored["reference"]}, tmp_path / "kl.safetensors")
    found = score(same, dictionary_diff("delta", layer=bench.comparison.facts().layer), 0, NO_CONTROLS, tmp_path)
    figures = [found.recovery.r_full, found.recovery.headline, *(point.r for point in found.recovery.budgets)]
    assert {figure.state for figure in figures} == {"undefined"}
    assert "noise floor" in (found.recovery.r_full.reason or "")
    assert found.fit.fve_delta.state == "ok"


def test_the_interval_of_a_lift_is_not_narrowed_by_the_ends_of_the_scale() -> None:
    free, cut = Figure.of(0.96, 0.87, 1.05), Figure.of(0.96, 0.87, 1.0)
    control = Figure.of(0.5, 0.5, 0.5)
    assert difference(cut, control).low == pytest.approx(difference(free, control).low)
    lift = difference(cut, Figure.of(0.5, 0.38, 0.62))
    assert lift.value == pytest.approx(0.46) and lift.high == pytest.approx(0.46 + math.hypot(0.09, 0.12))


def test_explained_streams_to_the_same_number() -> None:
    draw = torch.Generator().manual_seed(0)
    x, hat = torch.randn(100, 5, generator=draw) + 1000, torch.randn(100, 5, generator=draw)
    whole, parts = Explained(), Explained()
    whole.add(x, hat)
    for start in range(0, 100, 7):
        parts.add(x[start : start + 7], hat[start : start + 7])
    assert parts.figure(1.0).value == pytest.approx(whole.figure(1.0).value, rel=1e-9)


def test_nothing_is_explained_of_what_varies_by_rounding_alone() -> None:
    h_b = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    moved = torch.full_like(h_b, 0.1)
    for h_t, state in ((h_b, "undefined"), (h_b + moved, "undefined"), (h_b + moved * h_b, "ok")):
        delta = Explained()
        delta.add(h_t - h_b, moved)
        assert delta.figure(float(h_b.pow(2).sum())).state == state


def test_a_comparison_is_prepared_once_and_keyed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = prepared.bench.comparison
    assert comparison.prepare_task(here.request()) == {"path": str(here.path)}
    organism = here.organism
    keys = {
        Comparison(organism, "control", TIER).key,
        Comparison(organism, "base", TIER).key,
        Comparison(organism, "control", TIER, layer=1).key,
        *(
            Comparison(organism, "control", TIER.model_copy(update={name: getattr(TIER, name) + 1})).key
            for name in ("tokens", "evaluation_tokens", "judge_tokens")
        ),
        Comparison(standin(tmp_path, seed=9), "control", TIER).key,
    }
    assert len(keys) == 7 and here.key in keys
    free = TIER.model_copy(update={"name": "x", "seconds": 1.0, "components": 1})
    assert Comparison(organism, "control", free).key == here.key
    again = Comparison.of(here.request())
    assert again.key == here.key
    monkeypatch.setattr(cache, "libraries", lambda: {"torch": "0.1"})
    assert again.key not in keys


def test_a_layer_that_is_not_there_is_refused(prepared: Prepared) -> None:
    wrong = replace(prepared.bench.comparison, layer=3)
    with pytest.raises(OptionError, match=r"layer: 3 does not exist, the models have blocks 0\.\.2"):
        comparison.prepare_task(wrong.request())
    assert cache.finished("comparisons", wrong.inputs()) is None


def test_the_noise_floor_is_ten_times_the_noise_and_never_nothing() -> None:
    assert noise_floor(0.0) == 1e-6
    assert noise_floor(1e-3) == pytest.approx(1e-2)


def test_streams_are_rows_of_equal_length() -> None:
    rows = Streams(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1, 2]))
    edit = ActivationEdit(DirectionDiff(layer=0, directions=torch.eye(3), centre=torch.zeros(3), bias=torch.zeros(3)))
    assert torch.equal(edit.full(rows), torch.ones(2, 3))


def test_every_recovery_is_of_its_own_edit_and_positions(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = prepared.bench
    edit = ActivationEdit(dictionary_diff("delta", layer=bench.comparison.facts().layer))
    arms = {
        "none": none,
        "full": edit.full,
        "error": lambda rows: rows.h_t - rows.h_b - edit.full(rows),
        "bias": lambda rows: edit.bias().expand_as(rows.h_b),
    }
    added = {name: Arm(edit.layer, what) for name, what in arms.items()}
    limits = {edit.layer: bench.comparison.facts().outlier_norms}
    kl = sweep(bench.reference, bench.tuned, bench.corpus("evaluation"), added, limits=limits).kl
    found = prepared.scores(edit.diff).recovery
    names = {"r_full": None, "r_error": None} | dict.fromkeys(
        ("r_full_affected", "r_error_affected", "r_bias_affected"), Stratum.affected
    )
    expected = {name: recovery(kl[name.split("_")[1]], kl["none"], at, 0.0).value for name, at in names.items()}
    assert len({f"{value:.3f}" for value in expected.values()}) == len(expected)
    for name, value in expected.items():
        assert getattr(found, name).value == pytest.approx(value, rel=1e-4, abs=1e-5), name
    monkeypatch.setattr("diffbench.ground.noise_floor", lambda noise: 1e9)
    assert prepared.scores(edit.diff).recovery.r_full.state == "undefined"


def test_fit_has_no_outliers_and_a_target_of_its_own(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = prepared.bench
    diff, corpus = dictionary_diff("tuned", layer=bench.comparison.facts().layer), bench.corpus("evaluation")
    monkeypatch.setattr("diffbench.fit_score.outlying", lambda h_b, h_t, limits: torch.arange(len(h_b)) % 3 == 0)
    fit = prepared.scores(diff).fit
    rows = streams(bench.reference, bench.tuned, corpus, corpus.counts, diff.layer)
    kept = torch.arange(len(rows.h_b)) % 3 != 0
    h_b, h_t = rows.h_b[kept], rows.h_t[kept]
    own, delta = reconstruction(diff, h_b, h_t), (h_t - h_b, added_by_all(diff, h_b, h_t))
    for figure, (target, hat) in ((fit.fve, own), (fit.fve_delta, delta)):
        expected = 1 - float((target - hat).double().var(0).sum() / target.double().var(0).sum())
        assert figure.value == pytest.approx(expected, rel=1e-4)
