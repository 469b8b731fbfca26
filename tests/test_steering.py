"""Steering in the reference, the tuned model and a hybrid, on several architectures, token by token."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attribution_reference import KINDS, LAYER, WIDTH, corpus, diffs, pair
from engine_factory import OUTLIER_WORD, dictionary_diff, labelled_corpus, small_pair, word
from torch import Tensor

from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, DirectionDiff, WeightDiff
from diffbench.edit import ActivationEdit, Streams
from diffbench.errors import DiffError, OptionError
from diffbench.residual import hidden, logits, logits_from
from diffbench.steering import Components, Direction, Speaker, Steer, Weights, active_size, stream_size
from diffbench.weight_edit import WeightEdit

RUNS = ("reference", "tuned", "hybrid")
LAST = 1


def whole_basis(layer: int) -> DirectionDiff:
    """Directions that together add all of delta."""
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
    return DirectionDiff(layer=layer, directions=basis, centre=torch.zeros(WIDTH), bias=torch.zeros(WIDTH))


def full_difference(kind: str) -> WeightDiff:
    names = tuple(name for name, _ in pair(kind)[0].named_parameters())
    return WeightDiff(sigma=torch.ones(len(names)), parameters=tuple((name,) for name in names))


def whats(kind: str) -> dict[str, Any]:
    dictionary = diffs(kind)["both"]
    assert isinstance(dictionary, DictionaryDiff)
    return {
        "nothing": None,
        "direction": Direction.of(dictionary, 2, 1.5),
        "components": Components(ActivationEdit(dictionary), torch.tensor([1, 4, 0])),
        "weights": Weights(WeightEdit(full_difference(kind), *pair(kind))),
    }


def plain(run: str, kind: str, text: Corpus, layer: int = LAYER) -> Tensor:
    """Logits [B, L, V] of a run that is not steered."""
    reference, tuned = pair(kind)
    with torch.inference_mode():
        if run != "hybrid":
            return logits(tuned if run == "tuned" else reference, text.ids, text.mask)
        h_b, h_t = (hidden(model, text.ids, text.mask, layer) for model in pair(kind))
        stream = torch.where(text.counts[..., None], h_b, h_t)
        return logits_from(tuned, text.ids, text.mask, layer, stream)


def said(steer: Steer, kind: str, text: Corpus) -> Tensor:
    """Logits [T, V] at all tokens."""
    return Speaker(steer, *pair(kind)).at(text, text.mask)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_at_strength_zero_a_run_is_what_it_is(kind: str, run: Any) -> None:
    text = corpus()
    expected = plain(run, kind, text)[text.mask]
    for what in whats(kind).values():
        for mode in ("add", "remove"):
            found = said(Steer(what, LAYER, 0.0, mode, run), kind, text)  # type: ignore[arg-type]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def steered_by_hand(steer: Steer, kind: str, text: Corpus) -> Tensor:
    """Logits [B, L, V] of a steered run of the stream, document by document and token by token in float64."""
    below = pair(kind)[steer.run == "tuned"]
    with torch.inference_mode():
        h_b, h_t = (hidden(model, text.ids, text.mask, steer.layer) for model in pair(kind))
        own = h_t if steer.run == "tuned" else h_b
        stream = (h_t if steer.run == "hybrid" else own).double().clone()
        for document, at in text.counts.nonzero().tolist():
            row = own[document, at].double()
            if isinstance(steer.what, Direction):
                v = steer.what.vector.double()
                move = steer.what.size * v if steer.mode == "add" else (row @ v) * v
            else:
                assert isinstance(steer.what, Components)
                rows = Streams(h_b[document, [at]], h_t[document, [at]], torch.tensor([at]))
                parts = [steer.what.edit.subset(rows, torch.tensor([int(i)]))[0] for i in steer.what.chosen]
                move = torch.stack(parts).double().sum(dim=0)
            stream[document, at] = row + (1 if steer.mode == "add" else -1) * steer.strength * move
        above = pair(kind)[0] if steer.run == "reference" else pair(kind)[1]
        assert below is not None
        return logits_from(above, text.ids, text.mask, steer.layer, stream.float())


@pytest.mark.parametrize("mode", ["add", "remove"])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ["direction", "components"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_the_patched_streams(kind: str, name: str, run: Any, mode: Any) -> None:
    """Also step by step, as texts grow: what comes later changes nothing of what was said before."""
    steer, text = Steer(whats(kind)[name], LAYER, 0.7, mode, run), corpus()
    expected = steered_by_hand(steer, kind, text)
    torch.testing.assert_close(said(steer, kind, text), expected[text.mask], atol=1e-4, rtol=1e-4)
    assert (expected - plain(run, kind, text))[text.counts].abs().max() > 1e-3
    speaker = Speaker(steer, *pair(kind))
    torch.testing.assert_close(speaker.after(text), expected[torch.arange(3), text.last], atol=1e-4, rtol=1e-4)
    for length in range(1, 6):
        begun = Corpus(*(getattr(text, field)[:, :length] for field in Corpus.__slots__))
        torch.testing.assert_close(speaker.after(begun), expected[:, length - 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, LAST])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hybrid_with_the_true_delta_is_the_tuned_model(kind: str, layer: int) -> None:
    text = corpus()
    edit = ActivationEdit(whole_basis(layer))
    steer = Steer(Components(edit, torch.arange(WIDTH)), layer)
    torch.testing.assert_close(said(steer, kind, text), plain("tuned", kind, text)[text.mask], atol=1e-4, rtol=1e-4)
    removed = replace(steer, mode="remove", run="tuned")
    hybrid = plain("hybrid", kind, text, layer)[text.mask]
    torch.testing.assert_close(said(removed, kind, text), hybrid, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_make_one_model_the_other_and_are_gone_afterwards(kind: str) -> None:
    text, models = corpus(), pair(kind)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    weights = Weights(WeightEdit(full_difference(kind), *models))
    for run, mode, other in (
        ("reference", "add", "tuned"),
        ("tuned", "remove", "reference"),
        ("hybrid", "add", "tuned"),
    ):
        found = said(Steer(weights, LAYER, 1.0, mode, run), kind, text)  # type: ignore[arg-type]
        torch.testing.assert_close(found, plain(other, kind, text)[text.mask], atol=1e-4, rtol=1e-4)
    for model, held in zip(models, before, strict=True):
        assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())


def rows() -> tuple[Tensor, Streams]:
    draw = torch.Generator().manual_seed(1)
    h_b, h_t, own = (torch.randn(7, WIDTH, generator=draw) for _ in range(3))
    return own, Streams(h_b, h_t, torch.arange(7))


def test_removing_and_adding_restores() -> None:
    own, streams = rows()
    steer = Steer(whats("llama")["components"], LAYER, 1.3)
    moved = replace(steer, mode="remove").moved(own, streams)
    assert (moved - own).abs().max() > 0.1
    torch.testing.assert_close(steer.moved(moved, streams), own, atol=1e-5, rtol=1e-5)
    direction = Steer(whats("llama")["direction"], LAYER, 0.8)
    torch.testing.assert_close(replace(direction, strength=-0.8).moved(direction.moved(own, streams), streams), own)


def test_a_direction_is_added_at_its_length_and_projected_out() -> None:
    own, streams = rows()
    direction = whats("llama")["direction"]
    added = Steer(direction, LAYER, 2.0).moved(own, streams) - own
    torch.testing.assert_close(added, (2.0 * 1.5 * direction.vector).expand_as(own), atol=1e-5, rtol=1e-5)
    left = Steer(direction, LAYER, 1.0, "remove").moved(own, streams)
    torch.testing.assert_close(left @ direction.vector, torch.zeros(7), atol=1e-5, rtol=0)
    half = Steer(direction, LAYER, 0.5, "remove").moved(own, streams)
    torch.testing.assert_close(half, (own + left) / 2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(direction.vector.norm(), torch.tensor(1.0))


def test_bos_is_left_alone() -> None:
    text = corpus()
    first = text.mask & ~text.counts
    for run in RUNS:
        steer = Steer(whats("llama")["direction"], LAYER, 3.0, "add", run)  # type: ignore[arg-type]
        found = Speaker(steer, *pair("llama")).at(text, first)
        model = "reference" if run == "reference" else "tuned"
        torch.testing.assert_close(found, plain(model, "llama", text)[first], atol=1e-5, rtol=1e-5)


def test_padding_and_company_change_nothing() -> None:
    text = corpus()
    for name in ("direction", "components", "weights"):
        for run in RUNS:
            speaker = Speaker(Steer(whats("gemma2")[name], LAYER, 1.0, "add", run), *pair("gemma2"))  # type: ignore[arg-type]
            alone = torch.cat([speaker.after(text.rows(slice(i, i + 1))) for i in range(3)])
            torch.testing.assert_close(speaker.after(text), alone, atol=1e-5, rtol=1e-5)


def test_scales_are_mean_lengths() -> None:
    reference, tuned = small_pair()
    text = labelled_corpus(260)
    assert (text.ids == word(OUTLIER_WORD)).any()
    norms = hidden(reference, text.ids, text.mask, 1)[text.counts].norm(dim=1)
    kept = norms[norms <= 10 * norms.median()]
    assert len(kept) < len(norms)
    assert stream_size(reference, text, 1) == pytest.approx(float(kept.mean()), rel=1e-5)
    edit = ActivationEdit(dictionary_diff("delta"))
    h_b, h_t = (hidden(model, text.ids, text.mask, 1)[text.counts] for model in (reference, tuned))
    for component in (0, 3):
        added = edit.subset(Streams(h_b, h_t, text.counts.nonzero()[:, 1]), torch.tensor([component])).norm(dim=1)
        assert 0 < int((added > 0).sum()) < len(added)
        expected = float(added[added > 0].mean())
        assert active_size(edit, component, reference, tuned, text) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_steered_with_is_refused() -> None:
    dictionary = dictionary_diff("delta", d=WIDTH, layer=LAYER)
    assert dictionary.decoder is not None and dictionary.threshold is not None
    dictionary.decoder[3] = 0
    with pytest.raises(DiffError, match="component 3 adds nothing, so it has no direction"):
        Direction.of(dictionary, 3, 1.0)
    with pytest.raises(DiffError, match="component 3 is never active in the text"):
        active_size(ActivationEdit(dictionary), 3, *pair("llama"), corpus())
    with pytest.raises(OptionError, match="layer: the components live at layer 0, not at 1"):
        Steer(Components(ActivationEdit(dictionary), torch.tensor([0])), 1)
    with pytest.raises(OptionError, match=r"layer: 5 does not exist"):
        Speaker(Steer(None, 5), *pair("llama"))


def test_a_pair_that_shares_its_weights_is_steered_as_two_models_are(tmp_path: Path) -> None:
    from engine_factory import word_tokenizer
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from diffbench.residual import load_model, load_pair

    small_pair(outlier=False)[0].save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), settings)
    model.save_pretrained(tmp_path / "adapter")
    text, switched = labelled_corpus(60), load_pair(tmp_path / "base", tmp_path / "adapter")
    apart = load_model(tmp_path / "base"), load_model(tmp_path / "adapter")
    what = Components(ActivationEdit(dictionary_diff("both")), torch.arange(5))
    for run in RUNS:
        steer = Steer(what, 1, 1.0, "add", run)  # type: ignore[arg-type]
        torch.testing.assert_close(
            Speaker(steer, *switched).after(text), Speaker(steer, *apart).after(text), atol=1e-4, rtol=1e-4
        )
