"""Pairs that cannot be compared are refused in one line, from their shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import labelled_corpus, small_pair, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from diffbench.errors import CheckpointError, OptionError
from diffbench.pairing import check_pair, check_text
from diffbench.residual import outline
from diffbench.tiny import VOCABULARY

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def shaped(**changes: Any) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**SHAPE | changes))


def refusal(*models: Any, tokenizer: Any = None, layer: int | None = None) -> str:
    with pytest.raises((CheckpointError, OptionError)) as refused:
        check_pair(*models, tokenizer or word_tokenizer(), layer)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_pair_of_one_shape_passes() -> None:
    check_pair(*small_pair(), word_tokenizer(), 2)
    check_pair(shaped(), shaped(intermediate_size=64), word_tokenizer())


def test_widths_and_depths_must_agree() -> None:
    assert "the residual width differs, 16 in the reference and 32" in refusal(shaped(), shaped(hidden_size=32))
    assert "number of blocks differs, 3 in the reference and 4" in refusal(shaped(), shaped(num_hidden_layers=4))


def test_extra_rows_of_a_vocabulary_are_named() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<tool>", "<think>"])
    said = refusal(shaped(), shaped(vocab_size=VOCABULARY + 2), tokenizer=tokenizer)
    assert f"{VOCABULARY} embedding rows in the reference and {VOCABULARY + 2} in the tuned" in said
    assert f"extra rows {VOCABULARY}..{VOCABULARY + 1} ('<tool>', '<think>')" in said
    said = refusal(shaped(vocab_size=VOCABULARY + 64), shaped())
    assert f"rows {VOCABULARY}..{VOCABULARY + 63} (no token of the tokenizer)" in said


def test_a_head_of_another_size_is_another_vocabulary() -> None:
    odd = shaped()
    odd.lm_head = torch.nn.Linear(16, VOCABULARY + 1, bias=False, device="meta")
    assert f"{VOCABULARY} and {VOCABULARY + 1} in the tuned model" in refusal(shaped(), odd)


def test_the_tokenizer_must_stay_within_the_vocabulary() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    assert f"ids up to {VOCABULARY} ('<tool>')" in refusal(shaped(), shaped(), tokenizer=tokenizer)


@pytest.mark.parametrize("layer", [-1, 3])
def test_the_layer_must_exist(layer: int) -> None:
    assert f"layer: {layer} does not exist, the models have blocks 0..2" in refusal(shaped(), shaped(), layer=layer)


def test_text_must_stay_within_the_vocabulary() -> None:
    corpus = labelled_corpus()
    check_text(corpus, shaped())
    with pytest.raises(CheckpointError, match=r"token id .* is beyond the models' 5 embedding rows"):
        check_text(corpus, shaped(vocab_size=5))


def test_an_outline_has_the_shapes_and_none_of_the_weights(tmp_path: Path) -> None:
    model = small_pair()[0]
    model.save_pretrained(tmp_path)
    found = outline(tmp_path)
    assert {name: p.shape for name, p in found.named_parameters()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert all(parameter.is_meta for parameter in found.parameters())
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        outline(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal LM"):
        outline(tmp_path)
