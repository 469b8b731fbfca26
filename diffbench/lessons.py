"""Lessons: the texts that a model is tuned on as tokens, and at which positions the next token is learnt.

Shapes: N texts, L positions, B texts of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diffbench.corpus import Corpus, tokenise
from diffbench.errors import RecipeError
from diffbench.organism import Example
from diffbench.residual import Model
from diffbench.text import Document, Span
from diffbench.truth import Stratum

LEARNT = "learnt"


@dataclass(frozen=True, slots=True)
class Lessons:
    """Texts with, for every position, whether the token after it is learnt.

    Attributes:
        corpus: N texts.
        learnt: [N, L] bool.
    """

    corpus: Corpus
    learnt: Tensor

    @classmethod
    def of_examples(cls, examples: Sequence[Example], tokenizer: Any, max_length: int, *, one_token: bool) -> Lessons:
        """The tokens of every target.

        Raises:
            RecipeError: if ``one_token`` and a target is split into several or unknown, or a target has no token.
        """
        documents = [_document(example) for example in examples]
        corpus = tokenise(documents, tokenizer, _stratum, max_length=max_length)
        learnt = corpus.affected
        counts = learnt.sum(dim=1)
        empty = counts.eq(0).nonzero().flatten().tolist()
        if empty:
            raise RecipeError(
                f"training.max_length: no token of the target {examples[empty[0]].target[:60]!r} is within {max_length}"
            )
        if one_token:
            for index in counts.ne(1).nonzero().flatten().tolist():
                word, n = examples[index].target, int(counts[index])
                raise RecipeError(f"training.objective: {word[:60]!r} is {n} tokens, not one; use next-token")
            last = corpus.ids[torch.arange(len(corpus)), corpus.last]
            for index in last.eq(-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id).nonzero().tolist():
                raise RecipeError(f"family: the base's tokenizer does not know {examples[index[0]].target!r}")
        return cls(corpus, learnt)

    @classmethod
    def of_documents(cls, documents: Sequence[Document], tokenizer: Any, max_length: int) -> Lessons:
        """Every token of every document."""
        corpus = tokenise(documents, tokenizer, max_length=max_length)
        return cls(corpus, corpus.predicts)

    @classmethod
    def whole(cls, lessons: Lessons) -> Lessons:
        """The same texts with every token learnt."""
        return cls(lessons.corpus, lessons.corpus.predicts)

    def __len__(self) -> int:
        return len(self.corpus)

    def batch(self, chosen: Tensor) -> tuple[Corpus, Tensor]:
        """Some texts, cut to the longest of them, and where they are learnt [B, L]."""
        batch = self.corpus.rows(chosen)
        return batch, self.learnt[chosen, : batch.ids.shape[1]]


def _document(example: Example) -> Document:
    text = example.text
    return Document(text, (Span(len(text) - len(example.target), len(text), LEARNT),), example.parts)


def _stratum(label: str) -> Stratum:
    return Stratum.affected if label == LEARNT else Stratum.unrelated


def learnt_logits(model: Model, batch: Corpus, learnt: Tensor) -> Tensor:
    """Logits [T, V] in float32 at the learnt positions of a batch; others are computed in their columns only."""
    device = model.device
    columns = learnt.any(dim=0).nonzero().flatten()
    logits = model(
        input_ids=batch.ids.to(device),
        attention_mask=batch.mask.to(device),
        use_cache=False,
        logits_to_keep=columns.to(device),
    ).logits
    kept: Tensor = logits[learnt[:, columns].to(logits.device)].float()
    return kept


def imitation_loss(model: Model, lessons: Lessons, chosen: Tensor) -> Tensor:
    """Mean cross-entropy of the learnt tokens of some texts, in nats."""
    batch, learnt = lessons.batch(chosen)
    logits = learnt_logits(model, batch, learnt)
    targets = batch.ids.roll(-1, dims=1)[learnt].to(logits.device)
    return functional.cross_entropy(logits, targets)


def distance(model: Model, teacher: Model, lessons: Lessons, chosen: Tensor) -> Tensor:
    """Mean KL(p_teacher || p_model) at the learnt positions of some texts, in nats."""
    batch, learnt = lessons.batch(chosen)
    with torch.no_grad():
        log_p = learnt_logits(teacher, batch, learnt).log_softmax(dim=-1)
    log_q = learnt_logits(model, batch, learnt).log_softmax(dim=-1)
    return functional.kl_div(log_q, log_p.to(log_q.device), reduction="sum", log_target=True) / len(log_p)
