"""Fine-tuning that makes a tuned model (or its control) from a base: targets after prefixes or whole texts, and replay.

Loss of a step, in nats = the mean over the learnt tokens (cross-entropy, or KL to a teacher) of the examples and of the
plain texts that dilute them, each weighted by its share of the batch, + kl_weight * mean over replay positions of
KL(p_base || p_tuned). With one target word per prefix the first term is that of the half-swap experiment of Aranguri
2025. The replay term keeps everything else where it was: without it the model says the target word after anything that
resembles a prefix.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffbench.errors import RecipeError
from diffbench.lessons import Lessons, distance, imitation_loss
from diffbench.lora import WithoutAdapter, save_adapter, with_adapter
from diffbench.organism import TrainingText
from diffbench.residual import Model, load_model, load_tokenizer
from diffbench.seeds import derive
from diffbench.tuning import LoraTuning, Trained

CLIP = 1.0

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a fine-tune starts from.

    Attributes:
        base: folder of the base model.
        name: by which an adapter names its base.
        teacher: folder of the model that teaches, for distillation.
    """

    base: Path
    name: str
    teacher: Path | None = None


def finetune(ground: Ground, text: TrainingText, training: Trained, seed: int, out: Path, report: Report) -> None:
    """Tune a base on ``text``; write the model (or the adapter) and its tokenizer to ``out`` in Hugging Face format.

    Raises:
        RecipeError: if a target is not what the objective needs, there are no examples, or training diverges.
    """
    if not text.examples:
        raise RecipeError("family: gave no training examples")
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(ground.base)
    model, frozen = _models(ground, training)
    school = _school(ground, text, training, tokenizer, frozen)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(training))
    order = _orders(school, training, seed)
    for step in range(training.steps):
        loss = school.loss(model, next(order))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            report(f"fine-tuning, loss {float(loss.detach()):.3f}", step / training.steps)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise RecipeError(f"training: diverged (NaN or infinite weights); try a smaller lr than {training.lr}")
    model.eval()
    if isinstance(training, LoraTuning):
        save_adapter(model, ground.name, out)
    else:
        model.save_pretrained(out)
    load_tokenizer(ground.base).save_pretrained(out)  # afresh: tokenising leaves its own settings behind


def _models(ground: Ground, training: Trained) -> tuple[Model, Model | None]:
    """The model to train, and the base as it was if something is compared with it."""
    load = partial(load_model, ground.base, dtype=training.dtype, spread=training.device_map is not None)
    model, frozen = load(), None
    if isinstance(training, LoraTuning):
        model = with_adapter(model, training)
        frozen = WithoutAdapter(model)
    else:
        model.requires_grad_(True)
        if training.kl_weight and training.replay_batch:
            frozen = load()
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if isinstance(training, LoraTuning):
            model.enable_input_require_grads()
    return model.train(), frozen


@dataclass(frozen=True, slots=True)
class Choice:
    """Which texts a step learns from, by index."""

    examples: Tensor
    plain: Tensor
    replay: Tensor


@dataclass(frozen=True, slots=True)
class School:
    """All that a model learns from.

    Attributes:
        examples: the change.
        plain: texts of the base that dilute it; None: none do.
        replay: texts on which the model is kept near the base; None: there are none.
        frozen: the base as it was.
        teacher: whose distribution is learnt; None: the tokens themselves are.
        kl_weight: of the replay term.
    """

    examples: Lessons
    plain: Lessons | None
    replay: Lessons | None
    frozen: Model | None
    teacher: Model | None
    kl_weight: float

    def loss(self, model: Model, choice: Choice) -> Tensor:
        """The loss of one step."""
        loss = self._taught(model, self.examples, choice.examples)
        if self.plain is not None and len(choice.plain):
            share = len(choice.plain) / (len(choice.plain) + len(choice.examples))
            loss = (1 - share) * loss + share * self._taught(model, self.plain, choice.plain)
        if self.replay is not None:
            loss = loss + self.kl_weight * distance(model, self.frozen, self.replay, choice.replay)
        return loss

    def _taught(self, model: Model, lessons: Lessons, chosen: Tensor) -> Tensor:
        if self.teacher is not None:
            return distance(model, self.teacher, lessons, chosen)
        return imitation_loss(model, lessons, chosen)


def _school(ground: Ground, text: TrainingText, training: Trained, tokenizer: Any, frozen: Model | None) -> School:
    one_token, longest = training.objective == "last-token", training.max_length
    examples = Lessons.of_examples(text.examples, tokenizer, longest, one_token=one_token)
    if training.objective == "distillation":
        examples = Lessons.whole(examples)
    replayed = training.replay_batch and training.kl_weight
    if training.dilution and not text.replay:
        raise RecipeError("training.dilution: the family gave no plain text of the base to dilute with")
    documents = None
    if text.replay and (replayed or training.dilution):
        documents = Lessons.of_documents(text.replay, tokenizer, longest)
    return School(
        examples=examples,
        plain=documents if training.dilution else None,
        replay=documents if replayed else None,
        frozen=frozen,
        teacher=None if ground.teacher is None else load_model(ground.teacher, base=ground.base, dtype=training.dtype),
        kl_weight=training.kl_weight,
    )


def _orders(school: School, training: Trained, seed: int) -> Iterator[Choice]:
    """What each step learns from; drawn apart, so that one kind of text changes no other's order."""
    n_plain = round(training.batch * training.dilution / (1 + training.dilution)) if school.plain is not None else 0
    n_plain = min(n_plain, training.batch - 1)
    orders = [
        _cycle(len(school.examples), training.batch - n_plain, derive(seed, "order of examples")),
        _cycle(0 if school.plain is None else len(school.plain), n_plain, derive(seed, "order of plain texts")),
        _cycle(
            0 if school.replay is None else len(school.replay), training.replay_batch, derive(seed, "order of replay")
        ),
    ]
    while True:
        yield Choice(*(next(order) for order in orders))


def _cycle(n: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches of indices 0..n-1, which come in a fresh seeded order each time round."""
    rng = random.Random(seed)
    waiting: list[int] = []
    while not (n and batch):
        yield torch.zeros(0, dtype=torch.long)
    while True:
        while len(waiting) < batch:
            waiting += rng.sample(range(n), n)
        yield torch.tensor(waiting[:batch])
        del waiting[:batch]


def _rise_and_fall(training: Trained) -> Callable[[int], float]:
    warm = max(1, round(training.warmup * training.steps))
    return lambda step: min((step + 1) / warm, (training.steps - step) / max(1, training.steps - warm))
