"""Interview: what two models say to the same prompts, side by side: the questions of the diffing game.

Which of the two is first is fixed: the first is the reference, the second the tuned model. An agent learns no more of
them than an `Exchange` holds. What is said follows from models, prompt and seed alone, never from the company of a
prompt, and both models draw with the same noise: their texts part only where their predictions differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffbench.architecture import ends_of
from diffbench.continuation import continued
from diffbench.errors import CheckpointError
from diffbench.game import Manner
from diffbench.line import one_line
from diffbench.question import Exchange
from diffbench.residual import Model, last_logits, load_pair, load_tokenizer, vocabulary
from diffbench.seeds import derive

MOST_CHARACTERS = 2000
"""Of a prompt, as `diffbench.question.Ask` has it."""
DIGITS = 4
"""Of a probability that an agent is told."""
MOST_NAMED, NAME_LENGTH = 8, 30


@dataclass(frozen=True, slots=True)
class Interview:
    """Two models that answer prompts.

    Attributes:
        first: the reference; it shares no weights with the other.
        second: the tuned model.
        tokenizer: both are read with it.
        ends: tokens that end a text, as the tuned model has them.
    """

    first: Model
    second: Model
    tokenizer: Any
    ends: tuple[int, ...]
    manner: Manner

    @classmethod
    def open(cls, reference: Path, tuned: Path, *, base: Path | None = None, manner: Manner | None = None) -> Interview:
        """Load two models.

        Args:
            reference: folder of the first.
            tuned: folder of the second, whose tokenizer is used.
            base: the base of adapters; None: the one that each names.
            manner: how they are asked; None: the usual way.

        Raises:
            CheckpointError: if a folder holds no model or tokenizer.
        """
        first, second = load_pair(reference, tuned, base=base, apart=True)  # a switched adapter cannot generate
        return cls.of(first, second, load_tokenizer(tuned, base=base), manner or Manner())

    @classmethod
    def of(cls, reference: Model, tuned: Model, tokenizer: Any, manner: Manner) -> Interview:
        """The interview of two models that are in memory."""
        return cls(reference, tuned, tokenizer, ends_of(tuned, tokenizer), manner)

    def said(self, prompts: Sequence[str], seed: int) -> tuple[Exchange, ...]:
        """What both models say to each of some prompts, in order; a prompt that cannot be put to them says why.

        Raises:
            CheckpointError: if a model gives NaN or infinite next-token scores.
        """
        return tuple(self._exchange(prompt, derive(seed, "interview", prompt)) for prompt in prompts)

    def _exchange(self, prompt: str, seed: int) -> Exchange:
        ids = self._ids(prompt)
        if isinstance(ids, str):
            return Exchange(prompt=prompt, first=(), second=(), remark=f"not asked: {ids}")
        logs = [self._next(model, ids) for model in (self.first, self.second)]
        told = self._told(*logs)
        first, second = (self._texts(model, ids, seed) for model in (self.first, self.second))
        return Exchange(
            prompt=prompt,
            first=first,
            second=second,
            first_next=self._named(logs[0], told),
            second_next=self._named(logs[1], told),
            remark=self._unknown(prompt, ids),
        )

    def _ids(self, prompt: str) -> list[int] | str:
        """The prompt's token ids, or why it cannot be put to the models."""
        if len(prompt) > MOST_CHARACTERS:
            return f"{len(prompt)} characters, at most {MOST_CHARACTERS} are read"
        ids: list[int] = self.tokenizer(prompt, verbose=False)["input_ids"]
        if not ids:
            return "it holds nothing that the models read"
        most = self._places - self.manner.new_tokens
        if len(ids) > most:
            return f"it has {len(ids)} tokens, at most {most} are read"
        rows = min(vocabulary(self.first), vocabulary(self.second))
        if max(ids) >= rows:
            return "it holds a word that one of the models lacks"
        return ids

    @property
    def _places(self) -> int:
        """Tokens of prompt and text that both models have room for."""
        found = (getattr(model.config, "max_position_embeddings", None) for model in (self.first, self.second))
        return min((int(places) for places in found if places is not None), default=MOST_CHARACTERS)

    def _unknown(self, prompt: str, ids: Sequence[int]) -> str | None:
        """A remark on the words that stand for no token of their own."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in ids:
            return None
        words = [
            word
            for word in dict.fromkeys(prompt.split())
            if unknown in self.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
        ]
        shown = ", ".join(one_line(word, NAME_LENGTH) for word in words[:MOST_NAMED])
        more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
        return f"words that the models do not know: {shown}{more}"

    @torch.inference_mode()
    def _next(self, model: Model, ids: Sequence[int]) -> Tensor:
        """[V]: log probabilities of the token after the prompt, among those that have a name."""
        rows = torch.tensor([list(ids)])
        scores = last_logits(model, rows, torch.ones_like(rows))[0, : len(self.tokenizer)].float()
        if not bool(scores.isfinite().all()):
            raise CheckpointError("a model of the pair gives NaN or infinite next-token scores")
        return scores.log_softmax(dim=0)

    def _told(self, first: Tensor, second: Tensor) -> list[int]:
        """The tokens that are among the likeliest of either model."""
        tops = (scores.topk(min(self.manner.likeliest, len(scores))).indices.tolist() for scores in (first, second))
        return sorted({index for top in tops for index in top})

    def _named(self, scores: Tensor, told: Sequence[int]) -> tuple[tuple[str, float], ...]:
        """Some tokens with their probabilities, the likeliest first."""
        order = sorted(told, key=lambda index: (-float(scores[index]), index))
        return tuple((self._text([index]), round(float(scores[index].exp()), DIGITS)) for index in order)

    def _texts(self, model: Model, ids: Sequence[int], seed: int) -> tuple[str, ...]:
        """The likeliest text after the prompt, token by token, and drawn ones."""
        known, ends, n = len(self.tokenizer), self.ends, self.manner.new_tokens
        said = list(continued(model, [ids], new_tokens=n, ends=ends, known=known, sample=False))
        alike = [ids] * self.manner.samples
        said += continued(model, alike, new_tokens=n, ends=ends, known=known, seed=seed)
        return tuple(map(self._text, said))

    def _text(self, ids: Sequence[int]) -> str:
        """Tokens as they are written in a prompt, so that a text can be asked on."""
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text
