"""The pretraining: tokenizer, weights and card of the base from nothing but a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffbench.atomic import new_folder, write_text
from diffbench.base import BaseCard, Progress
from diffbench.canonical import file_digest

from . import grammar, probe
from .tokenizer import make_tokenizer, save_tokenizer, vocabulary
from .world import World, make_world


@dataclass(frozen=True, slots=True)
class Settings:
    """Every choice that decides the weights, in one place."""

    seed: int = 1
    width: int = 128
    layers: int = 6
    heads: int = 4
    inner: int = 256
    positions: int = 256
    batch: int = 32
    steps: int = 3600
    warmup: int = 150
    peak: float = 3e-3
    floor: float = 0.01
    decay: float = 0.05
    clip: float = 1.0
    pool: int = 16
    threads: int = 1
    sample: int = 40_000
    heldout: int = 1000


def build(name: str, version: int, out: Path, settings: Settings, progress: Progress) -> BaseCard:
    """Build tokenizer, weights and card into the new folder ``out``.

    The result is ``out/card.json`` and ``out/model/``; the same settings give the same weights bit for bit
    on the same machine and library versions.
    """
    world = make_world(settings.seed)
    tokenizer = make_tokenizer(vocabulary(world, settings.seed, settings.sample))
    with new_folder(out) as draft, _torch_as(settings):
        model = make_model(settings, tokenizer)
        tokens = _train(model, tokenizer, world, settings, progress)
        progress("measuring", 0.98)
        save(model, tokenizer, draft / "model")
        card = _measure(name, version, draft / "model", model, tokenizer, world, settings, tokens)
        write_text(draft / "card.json", card.model_dump_json(indent=2) + "\n")
    progress("done", 1.0)
    return card


def make_model(settings: Settings, tokenizer: Any) -> Any:
    """An untrained ``LlamaForCausalLM``; its weights depend on torch's random state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.inner,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer in Hugging Face format, readable by everyone."""
    # Training needs no key-value cache; generation does.
    model.config.use_cache = True
    model.generation_config = type(model.generation_config).from_model_config(model.config)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    for file in folder.iterdir():
        file.chmod(0o644)


@contextmanager
def _torch_as(settings: Settings) -> Iterator[None]:
    """Torch with the seed and threads of ``settings``, and as it was afterwards."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _batches(world: World, settings: Settings) -> Iterator[list[str]]:
    """Endless batches of texts; within a pool of batches, texts of like length go together."""
    texts = (document.text for document, _ in grammar.stream(world, "pretrain", settings.seed))
    while True:
        pool = sorted(itertools.islice(texts, settings.batch * settings.pool), key=lambda text: text.count(" "))
        parts = [pool[start : start + settings.batch] for start in range(0, len(pool), settings.batch)]
        # A stride that is prime to the pool takes short and long batches in turn without more random numbers.
        yield from (parts[(7 * index) % len(parts)] for index in range(len(parts)))


def _rate(step: int, settings: Settings) -> float:
    """Learning rate: linear warm-up, then a half cosine down to ``floor`` of the peak."""
    if step < settings.warmup:
        return settings.peak * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.peak * (settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * done)))


def _train(model: Any, tokenizer: Any, world: World, settings: Settings, progress: Progress) -> int:
    """Train ``model`` in place; the number of predicted tokens it saw."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.peak,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    seen = 0
    for step, texts in enumerate(itertools.islice(_batches(world, settings), settings.steps)):
        ids, lengths = probe.padded(tokenizer, texts)
        targets = ids[:, 1:].masked_fill(torch.arange(1, ids.shape[1])[None] >= lengths[:, None], -100)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, settings)
        logits = model(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        seen += int(lengths.sum()) - len(texts)
        if step % 50 == 0:
            progress(f"step {step} of {settings.steps}, loss {loss.item():.3f}", 0.97 * step / settings.steps)
    model.eval()
    return seen


def _measure(
    name: str,
    version: int,
    folder: Path,
    model: Any,
    tokenizer: Any,
    world: World,
    settings: Settings,
    tokens: int,
) -> BaseCard:
    """The card of the weights that have just been written to ``folder``."""
    fit = probe.fit(model, tokenizer, world, settings.seed, settings.heldout)
    return BaseCard(
        name=name,
        version=version,
        seed=settings.seed,
        vocabulary=len(tokenizer),
        parameters=sum(p.numel() for p in model.parameters()),
        layers=settings.layers,
        width=settings.width,
        training_tokens=tokens,
        heldout_loss=round(fit.loss, 4),
        generator_entropy=round(fit.entropy, 4),
        probes=probe.accuracies(model, tokenizer, world),
        sha256=file_digest(folder / "model.safetensors"),
    )
