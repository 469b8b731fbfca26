"""Handles against a slow float64 reading of SCIENCE section 4: every run of every kind of edit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_factory import LAYERS, dictionary_diff, one_of_each, small_pair
from test_causal import LAYER, corpus, documents, doubles, forward, nothing, slow_kl, streams
from test_dictionary import slow_added
from test_weight_edit import everything, planted
from torch import Tensor

from diffbench import causal
from diffbench.causal import kl_sums, recovery, sweep
from diffbench.corpus import STRATA
from diffbench.diff import DictionaryDiff, WeightDiff
from diffbench.handle import Handle, StreamHandle, handle_of
from diffbench.patching import Arm, Patch, last_logits, none, outlier_limits
from diffbench.truth import Stratum

SOME = torch.tensor([1, 0])


def handle(diff: Any, layer: int = LAYER) -> Handle:
    found = handle_of(diff, *small_pair(), layer)
    assert found is not None
    return found


def measured(patch: Patch) -> Tensor:
    return kl_sums(*small_pair(), corpus(), {"it": patch})["it"].sums[:, : len(STRATA)]


def edited(model: Any, diff: WeightDiff, chosen: list[int], factor: float) -> Any:
    """A copy in float64 with components added."""
    model = copy.deepcopy(model).double()
    weights = dict(model.named_parameters())
    for i in chosen:
        outer = float(diff.sigma[i]) * torch.outer(diff.u[i].double(), diff.v[i].double())
        weights[f"{diff.modules[i]}.weight"].data += factor * outer
    return model


def slow_table(log_p: Callable[[Tensor], Tensor], log_q: Callable[[int, Tensor], Tensor]) -> Tensor:
    table = torch.zeros(len(corpus()), len(STRATA), dtype=torch.float64)
    for index, ids in enumerate(documents()):
        p, q = log_p(ids), log_q(index, ids)
        kl = (p.exp() * (p - q)).sum(-1)
        for t in range(1, len(ids) - 1):
            table[index, int(corpus().stratum[index, t])] += kl[t]
    return table


@pytest.mark.parametrize("kind", ["delta", "both", "tuned", "base"])
def test_what_is_taken_out_of_the_tuned_model_is_compared_with_the_reference(kind: str) -> None:
    diff = dictionary_diff(kind, layer=LAYER)
    reference, tuned = doubles()

    def without(index: int, ids: Tensor) -> Tensor:
        h_b, h_t, applies = streams(LAYER)[index]
        left = torch.where(applies[:, None], h_t - slow_added(diff, h_b, h_t, SOME.tolist()), h_t)
        return forward(tuned, ids, LAYER, left)[1]

    expected = slow_table(lambda ids: forward(reference, ids)[1], without)
    patch = handle(diff).arm(SOME, run="without", towards="reference")
    torch.testing.assert_close(measured(patch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["delta", "both", "tuned", "base"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_doses_and_off_target_kl_of_the_reference(kind: str, factor: float) -> None:
    diff = dictionary_diff(kind, layer=LAYER)
    reference = doubles()[0]

    def dosed(index: int, ids: Tensor) -> Tensor:
        h_b, h_t, applies = streams(LAYER)[index]
        stream = torch.where(applies[:, None], h_b + factor * slow_added(diff, h_b, h_t, SOME.tolist()), h_b)
        return forward(reference, ids, LAYER, stream)[1]

    expected = slow_table(lambda ids: forward(reference, ids)[1], dosed)
    patch = handle(diff).arm(SOME, run="model", factor=factor, towards="reference")
    torch.testing.assert_close(measured(patch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["delta", "both", "tuned", "base"])
def test_the_additive_form_adds_tuned_decoders(kind: str) -> None:
    diff = dictionary_diff(kind, layer=LAYER)
    found = handle(diff)
    assert isinstance(found, StreamHandle)
    decoder = diff.decoder_tuned if kind == "both" else diff.decoder
    assert decoder is not None

    def additive(h_b: Tensor, h_t: Tensor) -> Tensor:
        x = {"delta": h_t - h_b, "both": torch.cat([h_b, h_t], 1)}.get(kind, h_t)
        pre = x @ diff.encoder.double().T + diff.encoder_bias.double()
        assert diff.threshold is not None
        f = pre * ((pre > diff.threshold.double()) & (pre > 0))
        return f[:, SOME] @ decoder.double()[SOME]

    torch.testing.assert_close(measured(found.additive(SOME)), slow_kl("hybrid", LAYER, additive), atol=1e-5, rtol=1e-4)
    assert found.additive_differs == (kind != "delta")


@pytest.mark.parametrize("run", ["hybrid", "model", "without"])
@pytest.mark.parametrize("layer", [0, LAYER, LAYERS - 1])
def test_edits_of_weights_in_every_run_agree_with_float64(run: str, layer: int) -> None:
    diff, chosen = planted(), [1, 2]
    reference, tuned = doubles()
    plus, minus = edited(reference, diff, chosen, 1.0), edited(tuned, diff, chosen, -1.0)
    limits = outlier_limits(*small_pair(), corpus(), [layer])

    def said(index: int, ids: Tensor) -> Tensor:
        if run == "model":
            return forward(plus, ids)[1]
        if run == "without":
            return forward(minus, ids)[1]
        _, h_t, applies = streams(layer)[index]
        moved = forward(plus, ids, layer)[0]
        return forward(tuned, ids, layer, torch.where(applies[:, None], moved, h_t))[1]

    target = reference if run == "without" else tuned
    expected = slow_table(lambda ids: forward(target, ids)[1], said)
    patch = handle(diff, layer).arm(
        torch.tensor(chosen),
        run=run,
        towards="reference" if run == "without" else "tuned",  # type: ignore[arg-type]
    )
    found = sweep(*small_pair(), corpus(), {"it": patch}, limits=limits).kl["it"].sums[:, : len(STRATA)]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)


def test_words_of_an_edited_model_are_compared_with_those_it_had_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks, where the model that is compared with is the one whose weights are edited, its head among them."""
    patch = handle(everything()).arm(None, run="model", factor=0.5, towards="reference")
    whole = measured(patch)
    assert float(whole.sum()) > 1e-2
    monkeypatch.setattr(causal, "MOST_BYTES", 4 * 50 * 3)
    torch.testing.assert_close(measured(patch), whole, atol=1e-6, rtol=1e-5)


def test_what_an_edit_of_weights_leaves_out_is_the_rest_of_the_difference() -> None:
    full = handle(everything())
    kl = kl_sums(*small_pair(), corpus(), {"none": Arm(LAYER, none), "full": full.arm(None), "error": full.error()})
    assert recovery(kl["full"], kl["none"], None, 0.0).value == pytest.approx(1, abs=1e-3)
    assert recovery(kl["error"], kl["none"], None, 0.0).value == pytest.approx(0, abs=1e-3)
    part = handle(planted())
    nothing_left = replace(planted(), sigma=torch.zeros(3))
    error = kl_sums(*small_pair(), corpus(), {"none": Arm(LAYER, none), "it": handle(nothing_left).error()})
    assert recovery(error["it"], error["none"], None, 0.0).value == pytest.approx(1, abs=1e-3)
    assert part.bias() is None


def test_the_full_weight_difference_is_the_tuned_model_and_without_it_the_reference() -> None:
    full = handle(everything())
    arms = {"model": full.arm(None, run="model"), "without": full.arm(None, run="without", towards="reference")}
    kl = kl_sums(*small_pair(), corpus(), arms)
    for stratum in (None, *STRATA):
        assert recovery(kl["model"], kl["reference"], stratum, 0.0).value == pytest.approx(1, abs=1e-3)
        assert recovery(kl["without"], kl["tuned"], stratum, 0.0).value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("diff", [dictionary_diff("both", layer=LAYER), planted()], ids=["stream", "weights"])
def test_noise_is_as_long_as_the_edit_and_the_same_again(diff: DictionaryDiff | WeightDiff) -> None:
    found, limits = handle(diff), outlier_limits(*small_pair(), corpus(), [LAYER])
    _, batch = next(iter(corpus().batches(len(corpus()))))
    seen: dict[str, Tensor] = {}

    def stream(patch: Patch) -> Tensor:
        from diffbench.patching import Clean

        clean = Clean.of(*small_pair(), batch, limits)
        held: list[Tensor] = []

        class Watched(Clean):
            def go_on(self, model: Any, layer: int, stream: Tensor) -> Tensor:
                held.append(stream)
                return stream

        watched = Watched(*(getattr(clean, name) for name in Clean.__slots__))
        with patch.inside(watched):
            pass
        return (held[0] - clean.h_b[LAYER])[clean.counts[LAYER]]

    seen["edit"], seen["noise"] = stream(found.arm(SOME)), stream(found.noise(SOME, 5))
    torch.testing.assert_close(seen["noise"].norm(dim=1), seen["edit"].norm(dim=1), atol=1e-4, rtol=1e-4)
    assert torch.equal(seen["noise"], stream(found.noise(SOME, 5)))
    assert not torch.allclose(seen["noise"], stream(found.noise(SOME, 6)))
    moved = seen["edit"].norm(dim=1) > 1e-4
    cosine = torch.cosine_similarity(seen["noise"][moved], seen["edit"][moved]).abs()
    assert float(cosine.mean()) < 0.5


def test_last_logits_are_those_of_the_runs() -> None:
    reference, tuned = small_pair()
    limits = outlier_limits(reference, tuned, corpus(), [LAYER])
    full = handle(everything()).arm(None, run="model")
    plain_b, plain_t, nothing_added, whole = last_logits(
        reference, tuned, corpus(), [Arm(LAYER, none, "without"), full], limits
    )
    rows = (torch.arange(len(corpus())), corpus().last)
    for found, model in ((plain_b, reference), (plain_t, tuned), (nothing_added, tuned), (whole, tuned)):
        expected = model(input_ids=corpus().ids, attention_mask=corpus().mask, use_cache=False).logits[rows]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_only_some_positions_cost_no_more_than_they_depend_on() -> None:
    seen: list[int] = []

    def count(rows: Any) -> Tensor:
        seen.append(len(rows.h_b))
        return torch.zeros_like(rows.h_b)

    affected = corpus().affected
    arms = {"count": Arm(LAYER, count), "none": Arm(LAYER, none)}
    whole = kl_sums(*small_pair(), corpus(), arms)
    every = sum(seen)
    seen.clear()
    limits = outlier_limits(*small_pair(), corpus(), [LAYER])
    part = sweep(*small_pair(), corpus(), arms, only=affected, limits=limits).kl
    assert 0 < sum(seen) < 0.8 * every
    for name in ("none", "reference", "tuned"):
        torch.testing.assert_close(
            part[name].per_document(Stratum.affected), whole[name].per_document(Stratum.affected), atol=1e-5, rtol=1e-4
        )
        assert part[name].count(Stratum.affected) == whole[name].count(Stratum.affected)
        assert part[name].count(Stratum.unrelated) == 0 == part[name].total(Stratum.unrelated)


def test_token_kl_is_what_the_sums_are_made_of() -> None:
    found = sweep(*small_pair(), corpus(), {})
    assert float(found.token_kl.sum()) == pytest.approx(found.kl["reference"].total(), rel=1e-5)
    assert not bool(found.token_kl[~corpus().predicts].any())
    torch.testing.assert_close(found.kl["reference"].sums[:, : len(STRATA)], slow_kl("reference"), atol=1e-5, rtol=1e-4)


def test_kinds_without_a_handle_and_of_whole_components() -> None:
    assert handle_of(one_of_each()["output"], *small_pair(), LAYER) is None
    assert not handle(everything()).directional and handle(planted()).directional
    assert handle(planted()).layer == LAYER and not handle(planted()).sparse
    base = kl_sums(*small_pair(), corpus(), {"none": handle(planted()).arm(SOME[:0])})["none"]
    torch.testing.assert_close(base.sums[:, : len(STRATA)], slow_kl("hybrid", LAYER, nothing), atol=1e-5, rtol=1e-4)


def test_a_large_vocabulary_is_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more logits at once than `MOST_BYTES`, however many positions and words there are."""
    sizes: list[int] = []
    real = causal.unembed

    def watch(model: Any, rows: Tensor) -> Tensor:
        found = real(model, rows)
        sizes.append(found.numel() * 4)
        return found

    monkeypatch.setattr(causal, "unembed", watch)
    monkeypatch.setattr(causal, "MOST_BYTES", 4 * 50 * 7)
    kl_sums(*small_pair(), corpus(), {"none": Arm(LAYER, none)})
    assert max(sizes) <= causal.MOST_BYTES
