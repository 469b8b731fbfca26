"""Expression: how far a model shows a behaviour after the probes of an organism.

Shapes: B probes of a batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffbench.corpus import Corpus, tokenise
from diffbench.errors import DiffError, RecipeError
from diffbench.organism import continued
from diffbench.residual import Model, last_logits
from diffbench.text import Document
from diffbench.truth import Probe

BATCH_PROBES = 64
MOST_BYTES = 1 << 28
"""Of logits at once, of as many positions as there are probes for each probe."""

Arms = Callable[[Corpus], Iterable[Tensor]]
"""Several models on one batch of probes: of each, in turn, the next-token logits [B, V] after the last tokens."""


def expression(model: Model, tokenizer: Any, probes: Sequence[Probe]) -> list[float]:
    """The behaviour after each probe, in 0..1: P(other) / (P(answer) + P(other)), or P(other), as the probe has it.

    Raises:
        RecipeError: if the first tokens of a probe's two words are the same, or the tokenizer does not know one.
    """
    [values] = expressions(lambda batch: (last_logits(model, batch.ids, batch.mask),), tokenizer, probes)
    return values


@torch.inference_mode()
def expressions(arms: Arms, tokenizer: Any, probes: Sequence[Probe]) -> list[list[float]]:
    """The same of several models: a list over the probes for each.

    Args:
        arms: yields the models' logits in the same order for every batch.
        tokenizer: of the models.
        probes: at least one.

    Raises:
        RecipeError: as `expression` does.
        DiffError: if a model's logits are NaN, which those of an edited one can be.
    """
    words = [(first_token(tokenizer, p.text, p.answer), first_token(tokenizer, p.text, p.other)) for p in probes]
    for probe, (answer, other) in zip(probes, words, strict=True):
        if answer == other:
            raise RecipeError(f"probe {probe.text[-60:]!r}: {probe.answer!r} and {probe.other!r} begin with one token")
    wanted = torch.tensor(words)
    found: list[list[float]] = []
    for start, batch in probe_batches(tokenizer, probes):
        answers, others = wanted[start : start + len(batch)].T[:, :, None]
        for index, logits in enumerate(arms(batch)):
            log_p = logits.float().log_softmax(dim=-1)
            ahead: Tensor = log_p.gather(1, others) - log_p.gather(1, answers)
            if bool(ahead.isnan().any()):
                raise DiffError("an edited model predicts NaN after some probe")
            shares, certain = ahead.sigmoid().flatten().tolist(), log_p.gather(1, others).exp().flatten().tolist()
            if index == len(found):
                found.append([])
            found[index] += [
                certain[i] if probe.metric == "probability" else shares[i]
                for i, probe in enumerate(probes[start : start + len(batch)])
            ]
    return found


def probe_batches(tokenizer: Any, probes: Sequence[Probe]) -> Iterator[tuple[int, Corpus]]:
    """Tokenised probes in order, few enough at a time for any vocabulary, each with the index of its first."""
    corpus = tokenise([Document(probe.text) for probe in probes], tokenizer, max_length=None)
    yield from corpus.batches(max(1, min(BATCH_PROBES, math.isqrt(MOST_BYTES // (4 * len(tokenizer))))))


def first_token(tokenizer: Any, text: str, word: str) -> int:
    """The id of the first token of a word that goes on after ``text``.

    Raises:
        RecipeError: if the tokenizer does not know it.
    """
    written = continued(text, word)[len(text) :]
    ids = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids or ids[0] == tokenizer.unk_token_id:
        raise RecipeError(f"family: {word!r} is no word of the base's tokenizer (got ids {ids})")
    return int(ids[0])
