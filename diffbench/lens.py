"""Lens: the tokens that directions of the residual stream promote and suppress, read off the unembedding.

Shapes: n directions, d residual width, V rows of the unembedding, S tokens that the text holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from diffbench.corpus import Corpus
from diffbench.residual import Model, final_gain

SEEN_AT_LEAST = 5
"""Times a token must occur in the text to be named: rarely trained rows of the unembedding would win otherwise."""
TOP = 10
TOKEN_BLOCK, VECTOR_BLOCK = 8192, 2048

Words = tuple[list[str], list[str]]
"""Tokens promoted and tokens suppressed, strongest first."""


@dataclass(frozen=True, slots=True)
class Lens:
    """Direct logit attribution through a model's final norm and unembedding (nostalgebraist 2020; Elhage et al. 2021).

    The final norm's gain is applied, its division is not: it is no function of a direction alone.

    Attributes:
        unembedding: [V, d].
        gain: [d], of the final norm.
        seen: [S] ids of the tokens that may be named.
        tokenizer: names them.
    """

    unembedding: Tensor
    gain: Tensor
    seen: Tensor
    tokenizer: Any
    _names: dict[int, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Model, tokenizer: Any, text: Corpus) -> Self:
        """The lens of a model that names tokens of ``text`` alone."""
        unembedding: Tensor = model.get_output_embeddings().weight.detach()
        counts = torch.bincount(text.ids[text.counts], minlength=len(unembedding))
        return cls(unembedding, final_gain(model), (counts >= SEEN_AT_LEAST).nonzero().flatten(), tokenizer)

    @torch.no_grad()
    def read(self, vectors: Tensor, top: int = TOP) -> list[Words]:
        """For each of ``vectors`` [n, d] the ``top`` tokens that it promotes and those that it suppresses most.

        Scores are made in blocks, so that beside what is returned at most 2048 x 8192 of them and 8192 rows of the
        unembedding are held, whatever n and V are.
        """
        top = min(top, len(self.seen))
        if not top or not len(vectors):
            return [([], []) for _ in range(len(vectors))]
        best = [_Best(part, top) for part in (vectors * self.gain.to(vectors)).split(VECTOR_BLOCK)]
        for ids in self.seen.split(TOKEN_BLOCK):
            rows = self.unembedding[ids].to(vectors).T
            for part in best:
                part.add(part.vectors @ rows, ids)
        return [
            (self.words(up), self.words(down))
            for part in best
            for up, down in zip(part.up_ids.tolist(), part.down_ids.tolist(), strict=True)
        ]

    def strongest(self, logits: Tensor, top: int = TOP) -> Words:
        """The ``top`` tokens that a change of the logits [V] promotes and those that it suppresses most."""
        seen = logits[self.seen]
        top = min(top, len(seen))
        up, down = (self.seen[seen.topk(top, largest=largest).indices].tolist() for largest in (True, False))
        return self.words(up), self.words(down)

    def words(self, ids: list[int]) -> list[str]:
        """Names of tokens, without the space before them."""
        for index in ids:
            if index not in self._names:
                self._names[index] = self.tokenizer.decode([index]).strip()
        return [self._names[index] for index in ids]


class _Best:
    """The strongest tokens so far of some directions."""

    def __init__(self, vectors: Tensor, top: int) -> None:
        self.vectors, self.top = vectors, top
        none, ids = vectors.new_empty(len(vectors), 0), torch.empty(len(vectors), 0, dtype=torch.int64)
        self.up, self.up_ids = none, ids
        self.down, self.down_ids = none, ids

    def add(self, scores: Tensor, ids: Tensor) -> None:
        """Take in the scores [n, block] of some tokens."""
        self.up, self.up_ids = self._merge(self.up, self.up_ids, scores, ids, largest=True)
        self.down, self.down_ids = self._merge(self.down, self.down_ids, scores, ids, largest=False)

    def _merge(
        self, held: Tensor, held_ids: Tensor, scores: Tensor, ids: Tensor, *, largest: bool
    ) -> tuple[Tensor, Tensor]:
        new = scores.topk(min(self.top, scores.shape[1]), dim=1, largest=largest)
        values = torch.cat([held, new.values], dim=1)
        named = torch.cat([held_ids, ids[new.indices]], dim=1)
        kept = values.topk(min(self.top, values.shape[1]), dim=1, largest=largest)
        return kept.values, named.gather(1, kept.indices)
