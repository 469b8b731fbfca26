"""KL attribution against float64 and finite differences, on several architectures, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from attribution_reference import KINDS, LAYER, WIDTH, corpus, diffs, kl, pair, slow_each
from engine_factory import dictionary_diff, labelled_corpus, one_of_each, small_pair, word_tokenizer
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from diffbench import attribution, sensitivity, weight_sensitivity
from diffbench.adapter import Toggled
from diffbench.attribution import attribute, attribute_each, contexts, directions_of, responsibility, scored
from diffbench.corpus import PARTS, Corpus
from diffbench.diff import DirectionDiff, WeightDiff
from diffbench.errors import DiffError
from diffbench.residual import load_pair
from diffbench.text import Part

SORTS = ("delta", "both", "directions", "constants", "rank-one", "whole")
CASES = [(kind, sort) for kind in KINDS for sort in SORTS]


def close(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Equal to a share of the largest."""
    assert found.shape == expected.shape
    assert float((found.double() - expected).abs().max()) <= share * float(expected.abs().max())


@pytest.mark.parametrize(("kind", "sort"), CASES)
def test_each_and_summed_agree_with_float64(kind: str, sort: str) -> None:
    diff, text = diffs(kind)[sort], corpus()
    expected = slow_each(diff, kind, text, text.predicts)
    assert (expected.abs().amax(dim=0) > 1e-4).sum() >= diff.n_components - 1  # but for what holds at no position here
    close(attribute_each(diff, *pair(kind), text, text.predicts), expected)
    close(attribute(diff, *pair(kind), text, text.predicts), expected.sum(dim=0))


@pytest.mark.parametrize(("kind", "sort"), CASES)
def test_finite_differences(kind: str, sort: str) -> None:
    diff, text = diffs(kind)[sort], corpus((8,))
    where = torch.zeros_like(text.predicts)
    where[0, 6] = True
    at = partial(kl, diff, kind, text.ids[0, :7], text.counts[0, :7])

    def rise(component: int, step: float = 2e-2) -> float:
        """Central difference of fourth order: norms and softmax stay in float32, so steps cannot be tiny."""
        f = [float(at(component, torch.tensor(k * step, dtype=torch.float64))) for k in (-2, -1, 1, 2)]
        return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)

    close(
        attribute(diff, *pair(kind), text, where),
        torch.tensor([rise(i) for i in range(diff.n_components)]).double(),
        1e-3,
    )


def test_the_second_column_is_that_of_the_tuned_decoder() -> None:
    diff, text = diffs("llama")["both"], corpus()
    expected = slow_each(diff, "llama", text, text.predicts, "tuned")
    close(attribute_each(diff, *pair("llama"), text, text.predicts, decoder="tuned"), expected)
    assert (attribute_each(diff, *pair("llama"), text, text.predicts) - expected).abs().max() > 1e-3


def test_without_a_bos_every_token_is_edited() -> None:
    diff, text = diffs("llama")["delta"], corpus(bos=False)
    close(attribute(diff, *pair("llama"), text, text.predicts), slow_each(diff, "llama", text, text.predicts).sum(0))


def test_bos_is_left_alone() -> None:
    first = replace(directions(2), positions=torch.tensor([0, 1]))
    text = corpus()
    found = attribute(first, *pair("llama"), text, text.predicts)
    assert found[0] == 0 and found[1] != 0
    plain = corpus(bos=False)
    assert attribute(first, *pair("llama"), plain, plain.predicts)[0] != 0


@pytest.mark.parametrize("sort", SORTS)
def test_padding_company_batches_and_chunks_change_nothing(sort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    diff, text = diffs("gemma2")[sort], corpus((9, 5, 7, 9, 3))
    together = attribute_each(diff, *pair("gemma2"), text, text.predicts)
    rows = (text.rows(slice(i, i + 1)) for i in range(len(text)))
    alone = torch.cat([attribute_each(diff, *pair("gemma2"), row, row.predicts) for row in rows])
    close(alone, together.double())
    for module in (attribution, sensitivity):
        monkeypatch.setattr(module, "BATCH_TOKENS", 10)
    monkeypatch.setattr(sensitivity, "MOST_BYTES", 4 * 60 * 2)
    close(attribute_each(diff, *pair("gemma2"), text, text.predicts), together.double())
    close(attribute(diff, *pair("gemma2"), text, text.predicts), together.double().sum(dim=0))


def directions(n: int, seed: int = 0) -> DirectionDiff:
    draw = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(n, WIDTH, generator=draw), dim=1)
    return DirectionDiff(layer=LAYER, directions=unit, centre=torch.zeros(WIDTH), bias=torch.zeros(WIDTH))


def test_what_really_makes_the_tuned_behaviour_is_the_most_negative() -> None:
    """The tuned model is the reference with a vector added to the stream that leaves the layer."""
    import copy

    reference, text = pair("gpt2")[0], corpus((9, 8, 7, 9, 9, 6))
    found = directions(40)
    tuned = copy.deepcopy(reference)
    tuned.transformer.h[LAYER].mlp.c_proj.bias += 2 * found.directions[7]
    signed = replace(found, constant=torch.tensor([1.0] * 39 + [-1.0]), directions=found.directions.clone())
    signed.directions[39] = found.directions[7]  # the same vector, taken away
    slopes = attribute(signed, reference, tuned, text, text.predicts)
    assert int(slopes.argmin()) == 7 and int(slopes.argmax()) == 39
    assert float(slopes[7]) == pytest.approx(-float(slopes[39]), rel=1e-5) and slopes[7] < 0
    assert int(responsibility(signed, reference, tuned, text).argmax()) == 7


def test_equal_models_have_no_attribution() -> None:
    reference, text = pair("llama")[0], corpus()
    for diff in diffs("llama").values():
        if not (isinstance(diff, WeightDiff) and diff.whole):
            found = attribute(diff, reference, reference, text, text.predicts)
            assert float(found.abs().max()) < 1e-5
    assert attribute(diffs("llama")["whole"], reference, reference, text, text.predicts).isnan().all()


def test_no_context_has_no_attribution() -> None:
    diff, text = diffs("llama")["delta"], corpus()
    nowhere = torch.zeros_like(text.predicts)
    assert attribute(diff, *pair("llama"), text, nowhere).tolist() == [0.0] * 6
    assert attribute_each(diff, *pair("llama"), text, nowhere).shape == (0, 6)
    assert responsibility(diff, *pair("llama"), corpus((2, 2))).isnan().all()


def test_what_has_no_length_has_no_attribution() -> None:
    text = corpus()
    dictionary = dictionary_diff("delta", n=6, d=WIDTH, layer=LAYER)
    assert dictionary.decoder is not None
    dictionary.decoder[2] = 0
    constant = replace(directions(3), constant=torch.tensor([1.0, 0.0, 2.0]))
    rank_one = diffs("llama")["rank-one"]
    assert isinstance(rank_one, WeightDiff)
    rank_one.sigma[4] = 0
    for diff, empty in ((dictionary, 2), (constant, 1), (rank_one, 4)):
        found = attribute(diff, *pair("llama"), text, text.predicts)
        assert found.isnan().nonzero().flatten().tolist() == [empty]


def state(*models: Any) -> list[Any]:
    held: list[Any] = []
    for model in models:
        for module in model.modules():
            held += [len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module)]
            held.append(module.training)
        held += [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()]
    return held


@pytest.mark.parametrize("sort", SORTS)
def test_nothing_is_left_behind(sort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    diff, text = diffs("llama")[sort], corpus()
    before = state(*pair("llama"))
    attribute(diff, *pair("llama"), text, text.predicts)
    assert state(*pair("llama")) == before

    def fail(*_args: Any) -> Tensor:
        raise RuntimeError("no slope")

    for module in (sensitivity, weight_sensitivity):
        monkeypatch.setattr(module, "kl_slope", fail)
    with pytest.raises(RuntimeError, match="no slope"):
        attribute(diff, *pair("llama"), text, text.predicts)
    assert state(*pair("llama")) == before and torch.is_grad_enabled()
    assert not any(parameter.requires_grad for model in pair("llama") for parameter in model.parameters())


@pytest.mark.parametrize("sort", SORTS)
def test_it_can_be_asked_in_inference_mode(sort: str) -> None:
    diff, text = diffs("gpt2")[sort], corpus()
    expected = attribute(diff, *pair("gpt2"), text, text.predicts)
    with torch.inference_mode():
        made_here = Corpus(*(getattr(text, name).clone() for name in Corpus.__slots__))
        found = attribute(diff, *pair("gpt2"), made_here, made_here.predicts)
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and a LoRA adapter on it."""
    folder = tmp_path_factory.mktemp("adapted")
    small_pair(outlier=False)[0].save_pretrained(folder / "base")
    word_tokenizer().save_pretrained(folder / "base")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder / "base")
        settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(folder / "adapter")
    return folder


@pytest.mark.parametrize("kind", ["dictionary", "direction", "weight"])
def test_an_adapter_that_is_switched_gives_what_two_models_give(kind: str, adapted: Path) -> None:
    from diffbench.residual import load_model

    switched = load_pair(adapted / "base", adapted / "adapter")
    assert all(isinstance(model, Toggled) for model in switched)
    diff, text = one_of_each()[kind], labelled_corpus(100)
    expected = attribute_each(diff, load_model(adapted / "base"), load_model(adapted / "adapter"), text, text.predicts)
    close(attribute_each(diff, *switched, text, text.predicts), expected.double(), 1e-4)
    assert all(parameter.grad is None for parameter in switched[0].parameters())
    assert not any(module._forward_hooks for module in switched[0].modules())


def test_what_has_no_handle_is_refused() -> None:
    reference, tuned = small_pair(outlier=False)
    text = labelled_corpus(60)
    ask = partial(attribute, reference=reference, tuned=tuned, corpus=text, where=text.predicts)
    with pytest.raises(DiffError, match="an output diff has no handle"):
        ask(one_of_each()["output"])
    with pytest.raises(DiffError, match="encoder: has shape"):
        ask(dictionary_diff("delta", d=8))
    with pytest.raises(DiffError, match="layer: 7 does not exist"):
        ask(dictionary_diff("delta", layer=7))


def test_contexts_end_where_they_are_asked_about() -> None:
    text = corpus((9, 5))
    where = torch.zeros_like(text.predicts)
    where[0, [3, 6]] = where[1, 2] = True
    found = contexts(text, where)
    assert found.last.tolist() == [3, 6, 2]
    for row, (document, end) in enumerate([(0, 3), (0, 6), (1, 2)]):
        assert torch.equal(found.ids[row][found.mask[row]], text.ids[document, : end + 1])
        assert found.counts[row].tolist() == [0 < t <= end for t in range(7)]


def test_conversations_are_scored_at_their_responses() -> None:
    text = corpus((9, 5))
    template, prompt, response = (PARTS.index(part) for part in (Part.template, Part.prompt, Part.response))
    text.part[0] = torch.tensor([template, prompt, prompt, template, response, response, template, prompt, response])
    assert scored(text)[0].nonzero().flatten().tolist() == [3, 4, 7]
    assert torch.equal(scored(text)[1], text.predicts[1])


def test_responsibility_is_per_position_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus((9, 9, 9))
    fixed = diffs("llama")["constants"]
    for diff in (diffs("llama")["both"], fixed, diffs("llama")["rank-one"]):
        slopes = attribute(diff, *pair("llama"), text, text.predicts)
        torch.testing.assert_close(responsibility(diff, *pair("llama"), text), -slopes / int(text.predicts.sum()))
    either = diffs("llama")["directions"]
    either.directions[1] *= -1  # type: ignore[union-attr]
    each = attribute_each(either, *pair("llama"), text, text.predicts)
    assert ((each > 0).any(dim=0) & (each < 0).any(dim=0)).any()  # the two signs would cancel in a sum
    torch.testing.assert_close(responsibility(either, *pair("llama"), text), each.abs().mean(dim=0))
    monkeypatch.setattr(attribution, "TEXT_TOKENS", 8)
    first = text.rows(slice(0, 2))  # 7 positions are fewer than 8, 14 are not
    assert torch.equal(responsibility(fixed, *pair("llama"), text), responsibility(fixed, *pair("llama"), first))


def test_directions_point_to_where_components_add() -> None:
    found = directions_of(diffs("llama")["constants"])  # type: ignore[arg-type]
    listed = diffs("llama")["constants"].directions  # type: ignore[union-attr]
    torch.testing.assert_close(found, listed * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None])
    both = dictionary_diff("both", d=WIDTH)
    assert both.decoder_tuned is not None
    expected = torch.nn.functional.normalize(both.decoder_tuned, dim=1)
    torch.testing.assert_close(directions_of(both, "tuned"), expected)
