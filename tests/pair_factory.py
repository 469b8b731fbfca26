"""Small pairs of several architectures, as a method process finds them: GPT-2, Phi with a biased head, adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from engine_factory import LAYERS, WIDTH, small_pair, word_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from diffbench.exchange import write_inputs
from diffbench.method import ACCESS, Context, Method, resolve_options
from diffbench.pair import ModelPair
from diffbench.plugins import find_method
from diffbench.tier import TIERS
from diffbench.tiny import VOCABULARY, tiny_texts

Folder = Callable[[str], Path]
BIASED = 9
"""Id of the token that the planted bias makes likelier."""
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def drawn(cls: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return cls(config).eval().requires_grad_(False)


def gpt2() -> Any:
    """Its embedding is tied, and its matrices are stored as [d_in, d_out]."""
    config = GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=64, initializer_range=0.25, **SIZES)
    return drawn(GPT2LMHeadModel, config)


def llama(*, tied: bool) -> Any:
    if not tied:
        return copy.deepcopy(small_pair(outlier=False)[0])
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.25,
        tie_word_embeddings=True,
        **SIZES,
    )
    return drawn(LlamaForCausalLM, config)


def phi() -> Any:
    """Its unembedding has a bias."""
    config = PhiConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.25,
        **SIZES,
    )
    return drawn(PhiForCausalLM, config)


MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "llama": lambda: llama(tied=False),
    "tied-llama": lambda: llama(tied=True),
}
TARGETS = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "down_proj"], "tied-llama": ["v_proj", "o_proj"]}


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def moved(model: Any, strength: float = 0.05) -> Any:
    """A copy with every parameter moved."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    for parameter in tuned.parameters():
        parameter += strength * torch.randn(parameter.shape, generator=generator)
    return tuned


def adapter(base: Path, folder: Path, targets: list[str], seed: int = 0, **config: Any) -> Path:
    """A LoRA adapter on a base, as PEFT writes it, with a B of random numbers."""
    from diffbench.residual import load_model

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        settings: dict[str, Any] = {"r": 3, "lora_alpha": 5, "target_modules": targets} | config
        adapted = get_peft_model(load_model(base), LoraConfig(task_type="CAUSAL_LM", **settings))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.copy_(0.3 * torch.randn(parameter.shape))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def inputs(folder: Path, reference: Path, tuned: Path, n_texts: int = 80) -> Path:
    """The folder of a method process, on texts of 4 to 20 words."""
    texts = [" ".join(text.split()[: 4 + index % 17]) for index, text in enumerate(tiny_texts(n_texts))]
    write_inputs(folder, reference, tuned, texts, 1)
    return folder


def full(folder: Path, reference: Any, tuned: Any, n_texts: int = 80) -> Path:
    """The inputs folder of two models in memory."""
    return inputs(folder / "in", save(reference, folder / "reference"), save(tuned, folder / "tuned"), n_texts)


def made_in(places: Any) -> Folder:
    """Gives inputs folders by name, each made once: ``moved gpt2``, ``equal gpt2``, ``adapter gpt2``, ``biased``."""

    @cache
    def made(name: str) -> Path:
        place: Path = places.mktemp(name)
        what, _, kind = name.partition(" ")
        if what == "biased":
            tuned = copy.deepcopy(phi())
            tuned.lm_head.bias[BIASED] += 1.0
            return full(place, phi(), tuned)
        if what == "adapter":
            base = save(MODELS[kind](), place / "base")
            return inputs(place / "in", base, adapter(base, place / "adapter", TARGETS[kind]))
        reference = MODELS[kind]()
        return full(place, reference, moved(reference) if what == "moved" else reference)

    return made


def open_pair(folder: Path) -> ModelPair:
    return ModelPair(folder, frozenset(ACCESS))


def run(name: str, folder: Path, seed: int = 0, **options: Any) -> Any:
    """A method's Diff, checked against the models, with no more access than it declares."""
    method: type[Method] = find_method(name)
    pair = ModelPair(folder, method.access)
    context = Context(seed=seed, layer=1, budget=TIERS["smoke"], out=folder, report=lambda *_: None)
    diff = method(resolve_options(method, options)).run(pair, context)
    diff.check(pair.width, pair.n_layers, pair.vocabulary)
    scores = [finding.score for finding in diff.findings]
    assert scores == sorted(scores, reverse=True)
    return diff
