"""What is prepared for all methods: facts by hand, whose rows and text a method gets, which layer the rule takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import labelled_corpus
from score_factory import Prepared
from torch import Tensor

from diffbench import causal, comparison, layer_rule, residual, rounding
from diffbench.activations import Activations
from diffbench.activity import streams
from diffbench.causal import KLSums, Sweep, kl_sums, recovery
from diffbench.comparison import Comparison
from diffbench.corpus import Corpus
from diffbench.errors import AccessError, CacheError, OptionError
from diffbench.exchange import ACTIVATIONS, TEXT, assemble
from diffbench.pair import ModelPair
from diffbench.patching import Arm, none, true_delta

pytest_plugins = ("score_factory",)


def test_coverage_ceilings_and_noise_by_hand(prepared: Prepared) -> None:
    bench, facts = prepared.bench, prepared.bench.comparison.facts()
    arms = {f"none@{layer}": Arm(layer, none) for layer in range(3)}
    arms |= {f"delta@{layer}": Arm(layer, true_delta, "model") for layer in range(3)}
    kl = kl_sums(bench.reference, bench.tuned, bench.corpus("evaluation"), arms)
    for layer in facts.layers:
        coverage = kl[f"none@{layer.layer}"].total() / kl["reference"].total()
        assert layer.coverage.value == pytest.approx(coverage, rel=1e-4)
        ceiling = recovery(kl[f"delta@{layer.layer}"], kl["reference"], None, 0.0)
        assert layer.ceiling.value == pytest.approx(ceiling.value, rel=1e-4, abs=1e-5)
    assert [layer.layer for layer in facts.layers] == [0, 1, 2]


def test_the_noise_of_the_patching_path_is_measured(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, whole = prepared.bench, causal.sweep

    def noisy(*passed: Any, **more: Any) -> Sweep:
        found = whole(*passed, **more)
        if "self" in found.kl:
            positions = found.kl["self"].positions
            found.kl["self"] = KLSums(-2e-3 * positions, positions)
        return found

    monkeypatch.setattr(causal, "sweep", noisy)
    corpus, rows = bench.corpus("judge"), prepared.method_rows()

    def both() -> tuple[Any, Any]:
        return bench.reference, bench.tuned

    facts = comparison._measure(tmp_path, both, both, corpus, rows, "by hand")
    assert facts.kl_noise == pytest.approx(2e-3)
    assert (facts.layer, facts.layer_rule) == (rows.layer, "by hand")


def test_a_method_reads_the_rows_of_its_own_text(prepared: Prepared) -> None:
    bench, rows = prepared.bench, prepared.method_rows()
    text = Corpus.load(prepared.folder / "in" / "text.safetensors")
    assert text.n_tokens >= bench.comparison.tier.tokens
    chosen = torch.zeros_like(text.counts)
    chosen[rows.document.long(), rows.position.long()] = True
    assert int(chosen.sum()) == len(rows) > 0.9 * text.n_tokens
    found = streams(bench.reference, bench.tuned, text, chosen, rows.layer)
    base, delta = rows.load()
    torch.testing.assert_close(base, found.h_b, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(delta, found.h_t - found.h_b, rtol=1e-3, atol=1e-3)


def test_the_layer_is_chosen_on_method_text(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, seen = prepared.bench.comparison, []

    def choose(_reference: Any, _tuned: Any, corpus: Corpus) -> tuple[int, str]:
        seen.append(corpus)
        return 1, "by hand"

    monkeypatch.setattr(layer_rule, "choose_layer", choose)
    monkeypatch.setattr(comparison, "_measure", lambda *_: here.facts())
    comparison._prepare(here, tmp_path, lambda *_: None)
    assert torch.equal(seen[0].ids, Corpus.load(tmp_path / "in" / "text.safetensors").ids)


def prepare(prepared: Prepared, **changes: Any) -> Comparison:
    """The stand-in's comparison with something else asked for, prepared."""
    asked = replace(prepared.bench.comparison, **changes)
    again = Comparison.of(json.loads(json.dumps(asked.request())))
    assert again.key == asked.key
    assert Path(comparison.prepare_task(asked.request())["path"]) == asked.path
    return asked


def test_how_activations_are_read_is_in_the_key(prepared: Prepared) -> None:
    here = prepared.bench.comparison
    asked = [{}, {"harvest_dtype": "auto"}, {"harvest_dtype": "bfloat16"}, {"streaming": True}, {"layer": 1}]
    assert len({replace(here, **changes).key for changes in asked}) == len(asked)  # type: ignore[arg-type]


def test_the_facts_say_what_was_harvested_in(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = prepared.bench.comparison.facts()
    assert (facts.harvest_dtype, facts.harvest_ratio.state, facts.streamed) == ("float32", "n/a", False)
    monkeypatch.setattr(rounding, "LEAST_RATIO", 0.0)
    asked = prepare(prepared, harvest_dtype="bfloat16")
    facts = asked.facts()
    assert facts.harvest_dtype == Activations.open(asked.path / "in" / ACTIVATIONS).dtype == "bfloat16"
    assert facts.harvest_ratio.value is not None and facts.harvest_ratio.value > 0
    assert facts.kl == prepared.bench.comparison.facts().kl  # which is measured in float32 all the same


def test_bfloat16_is_refused_where_it_is_too_coarse(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "LEAST_RATIO", 1e9)
    with pytest.raises(OptionError, match="harvest-dtype: bfloat16 moves delta by"):
        prepare(prepared, harvest_dtype="bfloat16", layer=0)
    asked = prepare(prepared, harvest_dtype="auto", layer=0)
    assert (asked.facts().harvest_dtype, asked.facts().layer_rule) == ("float32", "chosen by hand")


def test_a_streamed_comparison_stores_a_sample(prepared: Prepared, tmp_path: Path) -> None:
    asked, here = prepare(prepared, streaming=True), prepared.bench.comparison
    assert asked.facts().streamed
    inputs = assemble(tmp_path / "in", *asked.models(), asked.path / "in", asked.organism.model_path("base"))
    pair = ModelPair(inputs, frozenset({"activations"}))
    text, (train, held_out) = pair.text(), pair.training_rows()
    first = held_out.first_document
    assert torch.equal(text.ids, Corpus.load(here.path / "in" / TEXT).ids)
    assert 0 < first <= int(held_out.document.min())
    assert 0.15 < len(held_out) / text.n_tokens < 0.3
    assert torch.equal(held_out.base, pair.activations().base)
    assert len(train) == int(text.counts[:first].sum())
    whole = prepared.method_rows()
    stored = whole.document < first
    h_b, delta = next(train.batches(200, 0))
    for some, every in zip((h_b, delta), whole.load(), strict=True):
        near = torch.cdist(some.double(), every[stored].double()).min(dim=1).values
        assert float((near / some.norm(dim=1).double()).max()) < 5e-3
    assert pair.usage["tokens"] > 2 * 200
    assert pair.usage["flops"] > 0
    assert pair.usage["activation_rows"] == len(held_out)


def test_stored_rows_are_split_for_training(prepared: Prepared, tmp_path: Path) -> None:
    here = prepared.bench.comparison
    inputs = assemble(tmp_path / "in", *here.models(), here.path / "in")
    train, held_out = ModelPair(inputs, frozenset({"activations"})).training_rows()
    assert isinstance(train, Activations)
    assert len(train) + len(held_out) == len(prepared.method_rows())
    assert int(train.document.max()) < int(held_out.document.min())
    with pytest.raises(AccessError, match="used 'activations'"):
        ModelPair(inputs, frozenset()).training_rows()


def test_one_document_cannot_be_streamed() -> None:
    with pytest.raises(CacheError, match="streaming: one document"):
        comparison._first_stored(labelled_corpus().rows(slice(1)))


def test_pairs_that_do_not_correspond_are_refused_before_work(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("work was begun")

    monkeypatch.setattr(comparison, "split", never)
    monkeypatch.setattr(residual, "load_model", never)
    with pytest.raises(OptionError, match="layer: 9 does not exist"):
        comparison._prepare(replace(prepared.bench.comparison, layer=9), tmp_path, never)


@pytest.mark.parametrize(("ceilings", "layer"), [((0.69, 0.7, 0.9), 1), ((0.9, 0.2, 0.9), 0), ((0.1, 0.2, 0.69), 1)])
def test_the_rule_takes_the_smallest_layer_that_carries_enough(
    ceilings: tuple[float, ...], layer: int, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[int] = []

    def planted(_reference: Any, _tuned: Any, corpus: Corpus, arms: dict[str, Arm]) -> dict[str, KLSums]:
        sampled.append(corpus.n_tokens)
        ones = torch.ones(4, 3, dtype=torch.float64)

        def sums(kl: float) -> KLSums:
            table: Tensor = kl * ones
            return KLSums(table, ones)

        assert {(arm.added, arm.run) for arm in arms.values()} == {(true_delta, "model")}
        return {name: sums(1 - ceilings[arm.layer]) for name, arm in arms.items()} | {"reference": sums(1.0)}

    monkeypatch.setattr(layer_rule, "kl_sums", planted)
    monkeypatch.setattr(layer_rule, "LAYER_TOKENS", 100)
    bench = prepared.bench
    found, rule = layer_rule.choose_layer(bench.reference, bench.tuned, bench.corpus("evaluation"))
    assert found == layer
    assert rule.startswith("smallest layer" if max(ceilings) >= 0.7 else "no layer reaches")
    assert 50 < sampled[0] < 150
