"""KL recovery against a slow float64 reading of SCIENCE section 4, one unpadded document at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from engine_factory import LAYERS, OUTLIER_WORD, dictionary_diff, labelled_corpus, small_pair, word
from test_dictionary import slow_added
from torch import Tensor

from diffbench import causal, patching
from diffbench.causal import KLSums, kl_sums, recovery, recovery_lift
from diffbench.corpus import STRATA, Corpus
from diffbench.edit import ActivationEdit
from diffbench.errors import DiffError
from diffbench.interval import ratio_interval
from diffbench.patching import Arm, none, true_delta
from diffbench.residual import hidden, logits_from
from diffbench.truth import Stratum

KINDS = ("delta", "both", "tuned", "base")
LAYER = 1
FLOOR = 1e-9


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    """Ragged, so that there is padding."""
    found = labelled_corpus(260)
    assert not found.mask.all()
    assert (found.ids == word(OUTLIER_WORD)).any()
    return found


@lru_cache(maxsize=1)
def doubles() -> tuple[Any, Any]:
    return tuple(copy.deepcopy(model).double() for model in small_pair())  # type: ignore[return-value]


def documents() -> list[Tensor]:
    return [ids[mask] for ids, mask in zip(corpus().ids, corpus().mask, strict=True)]


def forward(model: Any, ids: Tensor, layer: int | None = None, stream: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Stream leaving ``layer`` and log-probabilities; ``stream`` is put in its place."""
    kept: list[Tensor] = []

    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor | None:
        kept.append(output[0])
        return None if stream is None else stream[None]

    handle = model.model.layers[0 if layer is None else layer].register_forward_hook(hook)
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    handle.remove()
    return kept[0], logits.log_softmax(-1)


@lru_cache(maxsize=4)
def streams(layer: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per document h_b, h_t and where an edit applies: not at BOS, not at outliers of either model."""
    found = [(forward(doubles()[0], ids, layer)[0], forward(doubles()[1], ids, layer)[0]) for ids in documents()]
    medians = [torch.cat([pair[side][1:].norm(dim=1) for pair in found]).median() for side in (0, 1)]
    result = []
    for h_b, h_t in found:
        outlier = (h_b.norm(dim=1) > 10 * medians[0]) | (h_t.norm(dim=1) > 10 * medians[1])
        applies = ~outlier
        applies[0] = False
        result.append((h_b, h_t, applies))
    return result


def slow_kl(run: str, layer: int = LAYER, added: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """[N, S]: KL(tuned || run) summed per document and stratum of the *next* token."""
    reference, tuned = doubles()
    table = torch.zeros(len(corpus()), len(STRATA), dtype=torch.float64)
    for index, ids in enumerate(documents()):
        h_b, h_t, applies = streams(layer)[index]
        log_p = forward(tuned, ids)[1]
        if run == "reference":
            log_q = forward(reference, ids)[1]
        else:
            assert added is not None
            # A reference that runs on by itself keeps its own stream where nothing is edited.
            edited = torch.where(applies[:, None], h_b + added(h_b, h_t), h_b if run == "model" else h_t)
            log_q = forward(tuned if run == "hybrid" else reference, ids, layer, edited)[1]
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        for t in range(1, len(ids) - 1):
            table[index, int(corpus().stratum[index, t])] += kl[t]
    return table


def nothing(h_b: Tensor, h_t: Tensor) -> Tensor:
    return torch.zeros_like(h_b)


def everything(h_b: Tensor, h_t: Tensor) -> Tensor:
    return h_t - h_b


def assert_same(measured: KLSums, expected: Tensor) -> None:
    torch.testing.assert_close(measured.sums[:, : len(STRATA)], expected, atol=1e-5, rtol=1e-4)


def test_the_corpus_has_outliers_and_every_stratum() -> None:
    masked = [~applies[1:] for _, _, applies in streams(LAYER)]
    assert torch.cat(masked).any()
    here = corpus()
    assert {int(s) for s in here.stratum[here.predicts].unique()} == {0, 1, 2}


def test_reference_coverage_and_ceilings_agree_with_float64_at_every_layer() -> None:
    layers = tuple(range(LAYERS))
    arms = {f"none@{layer}": Arm(layer, none) for layer in layers}
    arms |= {f"delta@{layer}": Arm(layer, true_delta, "model") for layer in layers}
    kl = kl_sums(*small_pair(), corpus(), arms)
    assert_same(kl["reference"], slow_kl("reference"))
    for layer in layers:
        assert_same(kl[f"none@{layer}"], slow_kl("hybrid", layer, nothing))
        assert_same(kl[f"delta@{layer}"], slow_kl("model", layer, everything))


@pytest.mark.parametrize("kind", KINDS)
def test_recovery_of_a_dictionary_agrees_with_float64(kind: str) -> None:
    diff = dictionary_diff(kind, layer=LAYER)
    edit = ActivationEdit(diff)
    chosen = diff.order[:4]
    arms = {
        "none": none,
        "full": edit.full,
        "error": lambda rows: rows.h_t - rows.h_b - edit.full(rows),
        "set": lambda rows: edit.subset(rows, chosen),
        "bias": lambda rows: edit.bias().expand_as(rows.h_b),
    }
    kl = kl_sums(*small_pair(), corpus(), {name: Arm(LAYER, added) for name, added in arms.items()})
    expected = {
        "full": lambda b, t: slow_added(diff, b, t),
        "error": lambda b, t: t - b - slow_added(diff, b, t),
        "set": lambda b, t: slow_added(diff, b, t, chosen.tolist()),
        "bias": lambda b, t: slow_added(diff, b, t, [], with_bias=True),
    }
    base = slow_kl("hybrid", LAYER, nothing)
    for name, added in expected.items():
        slow = slow_kl("hybrid", LAYER, added)
        for stratum in (None, *STRATA):
            column = slice(None) if stratum is None else STRATA.index(stratum)
            r = 1 - float(slow[:, column].sum() / base[:, column].sum())
            assert recovery(kl[name], kl["none"], stratum, FLOOR).value == pytest.approx(r, abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_edit_in_both_runs_agrees_with_float64(kind: str) -> None:
    diff = dictionary_diff(kind, layer=LAYER)
    edit = ActivationEdit(diff)
    arms = {"hybrid": Arm(LAYER, edit.full), "model": Arm(LAYER, edit.full, "model")}
    kl = kl_sums(*small_pair(), corpus(), arms)
    for run in ("hybrid", "model"):
        assert_same(kl[run], slow_kl(run, LAYER, lambda b, t: slow_added(diff, b, t)))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_invariants(layer: int) -> None:
    arms = {"none": Arm(layer, none), "delta": Arm(layer, true_delta), "zero": Arm(layer, none)}
    arms["last"] = Arm(LAYERS - 1, true_delta, "model")
    arms |= {"still": Arm(layer, none, "model"), "kept": Arm(layer, none, "without", "reference")}
    kl = kl_sums(*small_pair(), corpus(), arms)
    for stratum in (None, *STRATA):
        assert recovery(kl["still"], kl["reference"], stratum, FLOOR).value == pytest.approx(0, abs=1e-5)
        assert recovery(kl["kept"], kl["tuned"], stratum, FLOOR).value == pytest.approx(0, abs=1e-5)
        assert recovery(kl["delta"], kl["none"], stratum, FLOOR).value == pytest.approx(1, abs=1e-3)
        assert recovery(kl["zero"], kl["none"], stratum, FLOOR).value == 0
        assert recovery(kl["last"], kl["reference"], stratum, FLOOR).value == pytest.approx(1, abs=1e-3)


def test_hybrid_with_the_true_delta_is_the_tuned_model() -> None:
    tuned, here = small_pair()[1], corpus()
    for layer in range(LAYERS):
        stream = hidden(tuned, here.ids, here.mask, layer)
        logits = logits_from(tuned, here.ids, here.mask, layer, stream)
        expected = tuned(input_ids=here.ids, attention_mask=here.mask, use_cache=False).logits
        torch.testing.assert_close(logits[here.mask], expected[here.mask], atol=1e-4, rtol=0)


def test_masked_positions_take_the_tuned_stream_in_every_arm() -> None:
    """What an arm is asked to add never covers BOS or an outlier, so `none` differs from plain h_b everywhere."""
    seen: list[int] = []

    def count(rows: Any) -> Tensor:
        seen.append(len(rows.h_b))
        assert (rows.position > 0).all()
        return torch.zeros_like(rows.h_b)

    kl_sums(*small_pair(), corpus(), {"count": Arm(LAYER, count)})
    # A document's last position predicts nothing, and nothing depends on it.
    assert sum(seen) == sum(int(applies[:-1].sum()) for _, _, applies in streams(LAYER))
    assert sum(seen) < corpus().n_tokens


def test_padding_and_company_change_nothing() -> None:
    plain = small_pair(0, outlier=False)  # outlier medians are those of the text
    arms = {"none": Arm(LAYER, none)}
    together = kl_sums(*plain, corpus(), arms)["none"].sums
    alone = torch.cat(
        [kl_sums(*plain, corpus().rows(slice(i, i + 1)), arms)["none"].sums for i in range(len(corpus()))]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_small_batches_and_chunks_of_positions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = small_pair(0, outlier=False)
    arms = {"none": Arm(LAYER, none)}
    whole = kl_sums(*plain, corpus(), arms)["none"]
    monkeypatch.setattr(causal, "MOST_BYTES", 4 * 50 * 3)
    monkeypatch.setattr(causal, "BATCH_TOKENS", 60)
    torch.testing.assert_close(kl_sums(*plain, corpus(), arms)["none"].sums, whole.sums, atol=1e-6, rtol=1e-5)


def test_positions_are_counted_per_document_and_stratum() -> None:
    kl = kl_sums(*small_pair(), corpus(), {})["reference"]
    here = corpus()
    for code in range(len(STRATA)):
        expected = ((here.stratum == code) & here.predicts).sum(dim=1)
        assert kl.positions[:, code].tolist() == expected.tolist()
    assert kl.mean() == pytest.approx(kl.total() / int(here.predicts.sum()))
    for code, stratum in enumerate(STRATA):
        assert kl.mean(stratum) == pytest.approx(float(kl.sums[:, code].sum() / kl.positions[:, code].sum()))


def test_an_edit_that_overflows_is_named() -> None:
    arms = {"mine": Arm(LAYER, lambda rows: torch.full_like(rows.h_b, float("inf")))}
    with pytest.raises(DiffError, match="the edit 'mine' gives NaN or infinite logits"):
        kl_sums(*small_pair(), corpus(), arms)


def test_equal_models_have_no_recovery() -> None:
    tuned = small_pair()[1]
    kl = kl_sums(tuned, tuned, corpus(), {"none": Arm(LAYER, none)})
    figure = recovery(kl["none"], kl["none"], None, 1e-6)
    assert figure.state == "undefined"
    assert "noise floor" in (figure.reason or "")


def test_a_stratum_without_positions_is_undefined() -> None:
    sums = KLSums(sums=torch.ones(4, 3), positions=torch.tensor([[1, 0, 1]] * 4))
    figure = recovery(sums, sums, Stratum.affected, 0.0)
    assert figure.state == "undefined"
    assert "no affected positions" in (figure.reason or "")


def table(affected: list[float]) -> KLSums:
    sums = torch.zeros(len(affected), 3, dtype=torch.float64)
    sums[:, 1] = torch.tensor(affected)
    return KLSums(sums=sums, positions=torch.ones_like(sums))


def test_recovery_by_hand_with_a_negative_value_kept() -> None:
    figure = recovery(table([3.0, 3.0, 6.0]), table([1.0, 2.0, 3.0]), Stratum.affected, 0.0)
    assert figure.value == pytest.approx(-1.0)
    residuals = [3 - 2 * 1, 3 - 2 * 2, 6 - 2 * 3]
    half = 4.302653 * math.sqrt(sum(r * r for r in residuals) * 3 / 2) / 6
    assert (figure.low, figure.high) == (pytest.approx(-1 - half, rel=1e-5), pytest.approx(-1 + half, rel=1e-5))


def test_lift_is_paired_by_document_and_averaged_over_budgets() -> None:
    base = table([10.0, 20.0, 30.0, 40.0])
    rivals = [table([5.0, 16.0, 9.0, 33.0]), table([4.0, 2.0, 21.0, 8.0])]
    arms = [
        KLSums(sums=rival.sums - share * base.sums, positions=rival.positions)
        for rival, share in zip(rivals, (0.1, 0.3), strict=True)
    ]
    figure = recovery_lift(arms, rivals, base, Stratum.affected, 0.0)
    assert figure.value == pytest.approx(0.2)
    # However ragged the documents are, the gain is the same share of each: a paired interval has no width.
    assert figure.low == pytest.approx(0.2, abs=1e-9)
    assert figure.high == pytest.approx(0.2, abs=1e-9)


def test_lift_is_the_mean_difference_of_recoveries() -> None:
    base, arm, rival = table([10, 20, 30, 40]), table([1, 9, 4, 16]), table([5, 3, 20, 8])
    r = [recovery(x, base, Stratum.affected, 0.0).value for x in (arm, rival)]
    assert r[0] is not None and r[1] is not None
    figure = recovery_lift([arm], [rival], base, Stratum.affected, 0.0)
    assert figure.value == pytest.approx(r[0] - r[1])
    gains = (rival.sums - arm.sums)[:, 1].tolist()
    expected = ratio_interval(gains, [10, 20, 30, 40])
    assert expected is not None and expected[1] < expected[2]
    assert (figure.low, figure.high) == pytest.approx(expected[1:])


def test_the_floor_is_per_position_of_the_stratum_and_counts_as_noise() -> None:
    base, arm, rival = table([10, 20, 30, 40]), table([1, 9, 4, 16]), table([5, 3, 20, 8])
    for floor, state in ((24.9, "ok"), (25.0, "undefined")):
        assert recovery(arm, base, Stratum.affected, floor).state == state
        assert recovery_lift([arm], [rival], base, Stratum.affected, floor).state == state


def test_outlier_limits_are_ten_medians_of_each_model_over_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "BATCH_TOKENS", 60)
    reference, tuned = small_pair()
    found = patching.outlier_limits(reference, tuned, corpus(), [0, LAYER])
    for layer in (0, LAYER):
        norms = [hidden(m, corpus().ids, corpus().mask, layer)[corpus().counts].norm(dim=1) for m in (reference, tuned)]
        assert found[layer] == pytest.approx([10 * float(norm.median()) for norm in norms], rel=1e-5)
