"""What is prepared for all methods: facts by hand, whose rows and text a method gets, which layer the rule takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from score_factory import Prepared
from torch import Tensor

from diffbench import causal, comparison
from diffbench.activity import streams
from diffbench.causal import Arm, KLSums, kl_sums, none, recovery, true_delta
from diffbench.corpus import Corpus

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
    bench, whole = prepared.bench, kl_sums

    def noisy(*passed: Any) -> dict[str, KLSums]:
        found = whole(*passed)
        return found | {"self": KLSums(-2e-3 * found["self"].positions, found["self"].positions)}

    monkeypatch.setattr(causal, "kl_sums", noisy)
    corpus, rows = bench.corpus("judge"), prepared.method_rows()
    facts = comparison._measure(tmp_path, bench.reference, bench.tuned, corpus, rows, "by hand")
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

    def choose(_comparison: Any, _reference: Any, _tuned: Any, corpus: Corpus) -> tuple[int, str]:
        seen.append(corpus)
        return 1, "by hand"

    monkeypatch.setattr(comparison, "_layer", choose)
    monkeypatch.setattr(comparison, "_measure", lambda *_: here.facts())
    comparison._prepare(here, tmp_path, lambda *_: None)
    assert torch.equal(seen[0].ids, Corpus.load(tmp_path / "in" / "text.safetensors").ids)


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

    monkeypatch.setattr(causal, "kl_sums", planted)
    monkeypatch.setattr(comparison, "LAYER_TOKENS", 100)
    bench = prepared.bench
    found, rule = comparison._layer(bench.comparison, bench.reference, bench.tuned, bench.corpus("evaluation"))
    assert found == layer
    assert rule.startswith("smallest layer" if max(ceilings) >= 0.7 else "no layer reaches")
    assert 50 < sampled[0] < 150
