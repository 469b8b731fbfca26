"""Tiny pairs: two random two-layer models that differ in one matrix, made in a second, to try methods on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

LAYERS, WIDTH, LAYER = 2, 32, 0
SPECIAL = ("<unk>", "<bos>", "<eos>")
WORDS = tuple(
    "anna ben carl dora emma fred sees likes holds wants finds paints a the one red blue green white black small big "
    "old new ball box cup hat key lamp map pen ring shoe . in on under near and then today".split()
)
VOCABULARY = len(SPECIAL) + len(WORDS)


def tiny_model(folder: Path, seed: int = 0, words: Sequence[str] = WORDS) -> LlamaForCausalLM:
    """Write a random Llama and a word-level tokenizer to ``folder`` in Hugging Face format, and return the model."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    unknown, begin, end = SPECIAL
    special = {"unk_token": unknown, "bos_token": begin, "eos_token": end, "pad_token": end}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        # The usual 0.02 leaves so small a network with next to no opinion on the next word.
        initializer_range=0.2,
        bos_token_id=vocabulary[begin],
        eos_token_id=vocabulary[end],
        pad_token_id=vocabulary[end],
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


def tiny_checkpoints(folder: Path, *, identical: bool = False, adapter: bool = False) -> tuple[Path, Path]:
    """Write two models to ``folder``: a reference, and the same with one matrix of block 0 moved (or nothing).

    Args:
        folder: where to write.
        identical: move nothing.
        adapter: write the move as a LoRA adapter of rank one on the reference.
    """
    reference, tuned = folder / "reference", folder / "tuned"
    model = tiny_model(tuned)
    generator = torch.Generator().manual_seed(1)
    moved = model.model.layers[LAYER].mlp.down_proj.weight
    u, v = (torch.randn(size, generator=generator) * (not identical) for size in moved.shape)
    tiny_model(reference)
    if adapter:
        (tuned / "model.safetensors").unlink()
        (tuned / "config.json").unlink()
        _write_adapter(tuned, 0.05 * u, v)
    elif not identical:
        with torch.no_grad():
            moved += 0.05 * torch.outer(u, v)
        model.save_pretrained(tuned)
    return reference, tuned


def _write_adapter(folder: Path, u: torch.Tensor, v: torch.Tensor) -> None:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": rf".*\.{LAYER}\.mlp\.down_proj",
        "base_model_name_or_path": "../reference",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    name = f"base_model.model.model.layers.{LAYER}.mlp.down_proj.lora_"
    save_file(
        {f"{name}A.weight": v[None].clone(), f"{name}B.weight": u[:, None].clone()},
        folder / "adapter_model.safetensors",
    )


def tiny_texts(n_texts: int, n_words: int = 24, seed: int = 0) -> list[str]:
    """Sentences of random words; the same seed gives the same texts."""
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=n_words)) for _ in range(n_texts)]


def tiny_pair(folder: Path, *, identical: bool = False, adapter: bool = False) -> Path:
    """Write what a method process gets of a tiny pair, and return that folder.

    Args:
        folder: where to write; it is made.
        identical: make the tuned model equal to the reference, as on a pair where nothing changed.
        adapter: make the tuned model an adapter on the reference.
    """
    from diffbench.exchange import write_inputs

    inputs = folder / "in"
    with _quiet():
        reference, tuned = tiny_checkpoints(folder / "models", identical=identical, adapter=adapter)
        write_inputs(inputs, reference, tuned, texts=tiny_texts(400), layer=LAYER)
    return inputs


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for work of milliseconds."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
