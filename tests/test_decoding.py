"""Texts read token by token against whole forward passes: several architectures, all that can be steered with."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from attribution_reference import LAYER, WIDTH, WORDS, corpus
from engine_factory import dictionary_diff, labelled_corpus, small_pair
from own_factory import ARCHITECTURES
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, LlamaForCausalLM, MistralConfig

from diffbench import decoding, rollout
from diffbench.corpus import Corpus
from diffbench.decoding import cacheable, together
from diffbench.diff import DirectionDiff, WeightDiff
from diffbench.edit import ActivationEdit
from diffbench.errors import DiffError
from diffbench.rollout import Sampling, rollouts, rollouts_each, whole_rollouts
from diffbench.steering import Components, Direction, Speaker, Steer, Weights
from diffbench.weight_edit import WeightEdit

RUNS = ("reference", "tuned", "hybrid")
NARROW = {
    "gemma2": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "tinystories": {"window_size": 4},
}
"""Windows that the texts here do not fit into."""
NAMES = ("nothing", "direction", "components", "positions", "weights")
KINDS = (*ARCHITECTURES, "mistral")
_MISTRAL = {name: value for name, value in ARCHITECTURES["llama"][1].items()} | {"sliding_window": 3}


@cache
def pair(kind: str) -> tuple[Any, Any]:
    make, settings = ARCHITECTURES.get(kind, (MistralConfig, _MISTRAL))
    return made(make(vocab_size=WORDS, **settings | NARROW.get(kind, {})))


def made(config: Any) -> tuple[Any, Any]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        reference = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
        tuned = copy.deepcopy(reference)
        for parameter in tuned.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return reference, tuned


def constants() -> DirectionDiff:
    """What is added depends on the position."""
    unit = torch.nn.functional.normalize(torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(5)), dim=1)
    zero = torch.zeros(WIDTH)
    positions, constant = torch.tensor([-1, 6, 9]), torch.tensor([2.0, -6.0, 5.0])
    return DirectionDiff(layer=LAYER, directions=unit, centre=zero, bias=zero, constant=constant, positions=positions)


def whats(kind: str) -> dict[str, Any]:
    dictionary = dictionary_diff("both", n=6, d=WIDTH, layer=LAYER)
    names = tuple(name for name, _ in pair(kind)[0].named_parameters())
    whole = WeightDiff(sigma=torch.full((len(names),), 0.6), parameters=tuple((name,) for name in names))
    return {
        "nothing": None,
        "direction": Direction.of(dictionary, 2, 1.5),
        "components": Components(ActivationEdit(dictionary), torch.tensor([1, 4, 0])),
        "positions": Components(ActivationEdit(constants()), torch.arange(3)),
        "weights": Weights(WeightEdit(whole, *pair(kind))),
    }


def grown(text: Corpus, row: int, more: list[int]) -> Corpus:
    """One text with tokens behind it, by itself."""
    length = int(text.mask[row].sum())
    ids = torch.cat([text.ids[row, :length], torch.tensor(more, dtype=torch.int64)])[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    counts = torch.cat([text.counts[row, :length], torch.ones(len(more), dtype=torch.bool)])[None]
    codes = torch.zeros_like(mask, dtype=torch.int8)
    return Corpus(ids, mask, counts, mask, codes, codes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_whole_texts(kind: str, name: str) -> None:
    """Rows of unequal length, one of them without a BOS; they change places, part, and are dropped."""
    text, turn = corpus(), KINDS.index(kind) + NAMES.index(name)
    text.counts[1, 0] = True
    assert cacheable(*pair(kind))
    for run in RUNS if kind in ("llama", "gemma2") else RUNS[turn % 3 :][:1]:
        mode = ("add", "remove")[(turn + RUNS.index(run)) % 2]
        speaker = Speaker(Steer(whats(kind)[name], LAYER, 0.7, mode, run), *pair(kind))  # type: ignore[arg-type]
        said: list[tuple[int, list[int]]] = [(0, []), (1, []), (2, [])]
        with decoding.decoding([speaker]) as reads:
            found = [reads.begin(text, torch.zeros(3, dtype=torch.int64))]
            expected = [said]
            for rows, tokens in (
                ([0, 1, 2], [7, 8, 9]),
                ([2, 0, 2], [3, 3, 4]),
                ([1, 2], [5, 59]),
                ([0, 1], [1, 2]),
            ):
                found.append(reads.go_on(torch.tensor(rows), torch.tensor(tokens)))
                said = [(said[r][0], [*said[r][1], token]) for r, token in zip(rows, tokens, strict=True)]
                expected.append(said)
        for logits, texts in zip(found, expected, strict=True):
            slow = torch.cat([speaker.after(grown(text, row, more)) for row, more in texts])
            torch.testing.assert_close(logits, slow, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_is_said(kind: str) -> None:
    text = corpus((6, 3, 8))
    for number, (name, what) in enumerate(whats(kind).items()):
        steer = Steer(what, LAYER, 0.8, ("add", "remove")[number % 2], RUNS[number % 3])  # type: ignore[arg-type]
        speaker = Speaker(steer, *pair(kind))
        for sampling in (
            Sampling(new_tokens=5, temperature=0),
            Sampling(new_tokens=6, n=4, seed=number, ends=tuple(range(0, WORDS, 9)), words=WORDS - 5),
        ):
            found = rollouts(speaker, text, sampling)
            assert found == whole_rollouts(speaker, text, sampling), name
        assert len({len(said) for each in found for said in each}) > 2


def test_speakers_in_one_batch_say_what_each_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text, sampling, what = corpus((6, 3, 8)), Sampling(new_tokens=5, n=3, ends=(4, 9)), whats("llama")
    other = pair("qwen3")
    speakers = [
        *(Speaker(Steer(what[name], LAYER, 1.0, "add", "reference"), *pair("llama")) for name in what),
        Speaker(Steer(what["direction"], LAYER, 1.0, "remove", "reference"), *pair("llama")),
        Speaker(Steer(what["direction"], LAYER, 3.0, "add", "reference"), *pair("llama")),
        Speaker(Steer(what["direction"], LAYER, 3.0, "add", "hybrid"), *pair("llama")),
        Speaker(Steer(None, LAYER, run="reference"), *other),
        Speaker(Steer(replace(what["direction"], size=9.0), 1, run="reference"), *pair("llama")),
    ]
    assert together(speakers) == [[0, 1, 2, 3, 5, 6], [4], [7], [8], [9]]
    alone = [whole_rollouts(speaker, text, sampling) for speaker in speakers]
    assert rollouts_each(speakers, text, sampling) == alone
    assert len({str(said) for said in alone}) == len(alone)
    monkeypatch.setattr(rollout, "BATCH_TOKENS", 20)
    monkeypatch.setattr(rollout, "KEPT_BYTES", 40_000)
    assert rollouts_each(speakers, text, sampling) == alone
    assert rollouts_each([], text, sampling) == []


def test_nothing_is_left_behind_in_the_models() -> None:
    text, models = corpus((5,)), pair("llama")
    before = [copy.deepcopy(model.state_dict()) for model in models]
    loud = Speaker(Steer(Direction(torch.full((WIDTH,), float("nan")), 1.0), LAYER), *models)
    for speaker in (loud, Speaker(Steer(whats("llama")["weights"], LAYER, float("inf"), run="tuned"), *models)):
        with pytest.raises(DiffError, match="NaN or infinite"):
            rollouts(speaker, text, Sampling(new_tokens=2))
    for model, held in zip(models, before, strict=True):
        assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())


def test_a_pair_that_shares_its_weights_says_the_same(tmp_path: Path) -> None:
    from engine_factory import word_tokenizer
    from peft import LoraConfig, get_peft_model

    from diffbench.residual import load_pair

    small_pair(outlier=False)[0].save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), settings)
    model.save_pretrained(tmp_path / "adapter")
    models, sampling = load_pair(tmp_path / "base", tmp_path / "adapter"), Sampling(new_tokens=5, n=3)
    assert cacheable(*models)
    text = labelled_corpus(60).rows(slice(0, 4))
    for run in RUNS:
        what = Components(ActivationEdit(dictionary_diff("both")), torch.arange(5))
        speaker = Speaker(Steer(what, 1, 1.0, "add", run), *models)  # type: ignore[arg-type]
        assert rollouts(speaker, text, sampling) == whole_rollouts(speaker, text, sampling)


def spoilt(model: Any) -> Any:
    """Every block's output depends on how many positions are computed at once."""
    found = copy.deepcopy(model)
    for block in found.model.layers:
        block.register_forward_hook(lambda _module, _args, output: output - 0.05 * output.mean(dim=1, keepdim=True))
    return found


def llama(**more: Any) -> Any:
    return made(LlamaConfig(vocab_size=WORDS, **ARCHITECTURES["llama"][1] | more))[0]


def test_models_that_cannot_be_read_token_by_token_are_read_whole() -> None:
    bloom = made(BloomConfig(vocab_size=WORDS, hidden_size=WIDTH, n_layer=2, n_head=2))
    assert not cacheable(bloom[0])  # it takes no positions
    chunked, mixed = llama(), llama()
    chunked.config.attention_chunk_size = 8
    mixed.config.layer_types = ["full_attention", "linear_attention"]
    growing = llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    scaled = llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})
    refused = [chunked, mixed, growing, spoilt(llama())]
    assert not any(cacheable(model) for model in refused) and cacheable(scaled) and cacheable(llama())
    assert not cacheable(scaled, refused[0])
    text, sampling = corpus((5, 3)), Sampling(new_tokens=3, n=2)
    for models in (bloom, (refused[-1], llama())):
        speaker = Speaker(Steer(Direction(torch.eye(WIDTH)[0], 3.0), LAYER), *models)
        assert rollouts(speaker, text, sampling) == whole_rollouts(speaker, text, sampling)


def test_whether_a_model_can_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def agrees(model: Any) -> bool:
        asked.append(model)
        return True

    monkeypatch.setattr(decoding, "_agrees", agrees)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **ARCHITECTURES["llama"][1]))
    assert cacheable(model) and cacheable(model, model) and asked == [model]


def test_what_is_kept_of_a_token_is_no_more_than_is_said() -> None:
    for kind in KINDS:
        reference, tuned = pair(kind)
        speaker = Speaker(Steer(whats(kind)["components"], LAYER, run="hybrid"), reference, tuned)
        with decoding.decoding([speaker]) as reads:
            reads.begin(corpus((5, 5)), torch.zeros(2, dtype=torch.int64))
            layers: list[Any] = [layer for reader in reads._readers for layer in reader._kept.layers]
        held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        assert 0 < sum(tensor.nbytes for tensor in held) <= 10 * decoding.token_bytes(speaker)
