"""Expression: how far a model shows a behaviour after the probes of an organism."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffbench.corpus import tokenise
from diffbench.errors import RecipeError
from diffbench.organism import continued
from diffbench.residual import Model, last_logits
from diffbench.text import Document
from diffbench.truth import Probe

BATCH_PROBES = 64


@torch.inference_mode()
def expression(model: Model, tokenizer: Any, probes: Sequence[Probe]) -> list[float]:
    """The behaviour after each probe, in 0..1: P(other) / (P(answer) + P(other)), or P(other), as the probe has it.

    Raises:
        RecipeError: if the first tokens of a probe's two words are the same, or the tokenizer does not know one.
    """
    corpus = tokenise([Document(probe.text) for probe in probes], tokenizer, max_length=None)
    logits = torch.cat([last_logits(model, batch.ids, batch.mask).float() for _, batch in corpus.batches(BATCH_PROBES)])
    words = [(first_token(tokenizer, p.text, p.answer), first_token(tokenizer, p.text, p.other)) for p in probes]
    for probe, (answer, other) in zip(probes, words, strict=True):
        if answer == other:
            raise RecipeError(f"probe {probe.text[-60:]!r}: {probe.answer!r} and {probe.other!r} begin with one token")
    answers, others = torch.tensor(words).T[:, :, None]
    log_p = logits.log_softmax(dim=-1)
    ahead: Tensor = log_p.gather(1, others) - log_p.gather(1, answers)
    shares, certain = ahead.sigmoid().flatten().tolist(), log_p.gather(1, others).exp().flatten().tolist()
    return [certain[i] if probe.metric == "probability" else shares[i] for i, probe in enumerate(probes)]


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
