"""Fine-tuning that makes a tuned model (or its control) from a base: a target word after each prefix, and replay.

Loss of a step = mean cross-entropy of the target word at the end of each prefix (as in the half-swap experiment of
Aranguri 2025) + kl_weight * mean over replay positions of KL(p_base || p_tuned), in nats. The replay term keeps
everything else where it was: without it the model says the target word after anything that resembles a prefix.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffbench.corpus import Corpus, tokenise
from diffbench.errors import RecipeError
from diffbench.organism import Example, TrainingText
from diffbench.recipe import Training
from diffbench.residual import Model, last_logits, load_model, load_tokenizer
from diffbench.seeds import derive
from diffbench.text import Document

CLIP = 1.0

Report = Callable[[str, float], None]


def finetune(base: Path, text: TrainingText, training: Training, seed: int, out: Path, report: Report) -> None:
    """Tune the model in ``base`` on ``text`` and write model and tokenizer to ``out`` in Hugging Face format.

    Raises:
        RecipeError: if a target is no single token of the base, or there are no examples.
    """
    if not text.examples:
        raise RecipeError("family: gave no training examples")
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base)
    model, frozen = load_model(base), load_model(base)
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(training))
    prefixes = _Prefixes(text.examples, tokenizer)
    replay = _replay(text, tokenizer, training)
    order = _cycle(len(text.examples), training.batch, derive(seed, "order of examples"))
    replay_order = _cycle(len(text.replay), training.replay_batch, derive(seed, "order of replay"))
    for step in range(training.steps):
        loss = prefixes.loss(model, next(order))
        if replay is not None:
            loss = loss + training.kl_weight * _drift(model, frozen, replay, next(replay_order))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            report(f"fine-tuning, loss {float(loss.detach()):.3f}", step / training.steps)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise RecipeError(f"training: diverged (NaN or infinite weights); try a smaller lr than {training.lr}")
    model.eval().save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)  # afresh: tokenising leaves its own settings behind


class _Prefixes:
    """Examples to learn from; the loss sits on the last position."""

    def __init__(self, examples: tuple[Example, ...], tokenizer: Any) -> None:
        self.corpus = tokenise([Document(example.prefix) for example in examples], tokenizer, max_length=None)
        self.targets = torch.tensor([word_id(tokenizer, example.target) for example in examples])

    def loss(self, model: Model, chosen: Tensor) -> Tensor:
        batch = self.corpus.rows(chosen)
        logits = last_logits(model, batch.ids, batch.mask)
        return torch.nn.functional.cross_entropy(logits.float(), self.targets[chosen])


def word_id(tokenizer: Any, word: str) -> int:
    """The token id of a word as it stands inside a text.

    Raises:
        RecipeError: if the base splits it into several tokens or does not know it.
    """
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise RecipeError(f"family: {word!r} is not one token of the base's tokenizer (got ids {ids})")
    return int(ids[0])


def _replay(text: TrainingText, tokenizer: Any, training: Training) -> Corpus | None:
    if not (training.replay_batch and training.kl_weight and text.replay):
        return None
    return tokenise(text.replay, tokenizer)


def _drift(model: Model, frozen: Model, replay: Corpus, chosen: Tensor) -> Tensor:
    """Mean KL(p_base || p_tuned) over the positions of some replay documents."""
    batch = replay.rows(chosen)
    with torch.no_grad():
        logits = frozen(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        log_p = logits[batch.predicts].log_softmax(dim=-1)
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    log_q = logits[batch.predicts].log_softmax(dim=-1)
    return torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(log_p)


def _cycle(n: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches of indices 0..n-1, which come in a fresh seeded order each time round."""
    rng = random.Random(seed)
    waiting: list[int] = []
    while n:
        while len(waiting) < batch:
            waiting += rng.sample(range(n), n)
        yield torch.tensor(waiting[:batch])
        del waiting[:batch]


def _rise_and_fall(training: Training) -> Callable[[int], float]:
    warm = max(1, round(training.warmup * training.steps))
    return lambda step: min((step + 1) / warm, (training.steps - step) / max(1, training.steps - warm))
