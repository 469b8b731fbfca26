"""Small random checkpoints of real architectures with a BPE tokenizer, and a local cache of the hub that holds some."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neo import GPTNeoConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WIDTH, BLOCKS = 32, 2
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

_GATED = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_GPT = {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 2, "n_positions": 256, "initializer_range": 0.2}
ARCHITECTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, _GATED),
    "gemma2": (Gemma2Config, _GATED | {"query_pre_attn_scalar": 16, "sliding_window": 64}),
    "qwen2": (Qwen2Config, {name: value for name, value in _GATED.items() if name != "head_dim"}),
    "qwen3": (Qwen3Config, _GATED),
    "pythia": (
        GPTNeoXConfig,
        {name: value for name, value in _GATED.items() if name not in ("num_key_value_heads", "head_dim")},
    ),
    "tinystories": (
        GPTNeoConfig,
        {
            "hidden_size": WIDTH,
            "num_layers": BLOCKS,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 64,
            "max_position_embeddings": 256,
            "initializer_range": 0.2,
        },
    ),
    "gpt2": (GPT2Config, _GPT),
}
"""Configurations of two blocks by the name of the kind of model they are small versions of."""


def texts(n: int, seed: int = 0) -> list[str]:
    """Different sentences of plain words, the same for the same seed."""
    import random

    rng = random.Random(seed)
    nouns = "house river garden teacher window letter market bridge winter song".split()
    verbs = "finds leaves paints remembers opens follows".split()
    return [
        f"{index} The {rng.choice(nouns)} {rng.choice(verbs)} a {rng.choice(nouns)} near the {rng.choice(nouns)}, and "
        f"nobody {rng.choice(verbs)} the {rng.choice(nouns)} of the {rng.choice(nouns)} in the {rng.choice(nouns)}."
        for index in range(n)
    ]


@cache
def _bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(200), trainer)
    return tokenizer.to_str()


def bpe_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer without unknown words, as those of most real models."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe()),
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        additional_special_tokens=list(SPECIAL[2:]),
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def checkpoint(folder: Path, kind: str = "llama", *, seed: int = 0, moved: float = 0.0, chat: bool = False) -> Path:
    """A random model of a kind with its tokenizer; ``moved``: how far its parameters are from those of the seed."""
    tokenizer = bpe_tokenizer(chat=chat)
    make, settings = ARCHITECTURES[kind]
    config = make(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += moved * parameter.abs().mean() * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_hub(cache: Path, name: str, files: Iterable[Path], kind: str = "models") -> Path:
    """Put files into a local cache of the hub as its client keeps them: blobs, and links to them in a snapshot."""
    root = cache / f"{kind}--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for folder in (root / "blobs", root / "refs", snapshot):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for index, file in enumerate(files):
        blob = root / "blobs" / f"{index:040x}"
        blob.write_bytes(file.read_bytes())
        os.symlink(f"../../blobs/{blob.name}", snapshot / file.name)
    return snapshot
