"""Prediction: what two models expect next at positions of the same text.

Shapes: T positions, V vocabulary, B documents of a batch, L positions of a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffbench.corpus import Corpus

MOST_BYTES = 1 << 26
"""Of log probabilities of one model at once; they are made and handed out in blocks of positions."""
MOST_POSITIONS = 4096
"""Of a batch; larger ones only leave the processor's cache."""

Logits = Callable[[Literal["reference", "tuned"], Tensor, Tensor], Tensor]
"""Gives the logits [B, L, V] of a model from ids and mask [B, L]."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Positions that have a next token, with what both models expect there.

    Attributes:
        reference: [T, V] float32, natural logarithms of the reference's next-token probabilities.
        tuned: [T, V] float32, those of the tuned model.
        token: [T] the token at the position, the last one that was read.
        following: [T] the token that comes next.
        document: [T] its document in the text.
        position: [T] its place in the document.
    """

    reference: Tensor
    tuned: Tensor
    token: Tensor
    following: Tensor
    document: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.token)

    @property
    def kl(self) -> Tensor:
        """[T]: KL(p_tuned || p_reference) in nats."""
        return (self.tuned.exp() * (self.tuned - self.reference)).sum(dim=-1)

    @property
    def rise(self) -> Tensor:
        """[T]: by how many nats the next token is likelier under the tuned model than under the reference."""
        index = self.following[:, None]
        return (self.tuned.gather(1, index) - self.reference.gather(1, index))[:, 0]


def spread(text: Corpus, tokens: int) -> Tensor:
    """Indices of documents, spread evenly over a text, that have about ``tokens`` positions with a next token.

    It is at least one document, and all of them where the text has no more.
    """
    mean = int(text.predicts.sum()) / len(text)
    n = len(text) if mean == 0 else min(len(text), max(1, round(tokens / mean)))
    return torch.linspace(0, len(text) - 1, n).round().long()


def predictions(text: Corpus, logits: Logits, vocabulary: int, chosen: Tensor | None = None) -> Iterator[Predictions]:
    """Both models' predictions at every position of ``text`` that has a next token, long documents first.

    Args:
        text: the documents.
        logits: runs a model.
        vocabulary: V.
        chosen: indices of the documents to read; None: all.
    """
    block = max(1, MOST_BYTES // (4 * vocabulary))
    index = torch.arange(len(text)) if chosen is None else chosen
    for documents, batch in text.rows(index).packed(min(MOST_POSITIONS, block)):
        wanted = batch.predicts
        if not bool(wanted.any()):
            continue
        row, position = wanted.nonzero(as_tuple=True)
        found = [logits(side, batch.ids, batch.mask) for side in ("reference", "tuned")]
        for part in torch.arange(len(row)).split(block):
            rows, at = row[part], position[part]
            reference, tuned = (each[rows, at].float().log_softmax(-1) for each in found)
            yield Predictions(
                reference=reference,
                tuned=tuned,
                token=batch.ids[rows, at],
                following=batch.ids[rows, at + 1],
                document=index[documents[rows]],
                position=at,
            )
