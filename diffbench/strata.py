"""Strata: the sets of positions that scores are told apart by. All follow from the pair and its text, never an outcome.

A position is judged by the token after it, which it predicts. Shapes: N documents, L positions, S strata.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffbench.corpus import PARTS, STRATA, Corpus
from diffbench.text import Part

RESPONSE_START, RESPONSE_REST, TEMPLATE, HIGH_KL = "response_start", "response_rest", "template", "high_kl"
NAMES = (*(stratum.value for stratum in STRATA), RESPONSE_START, RESPONSE_REST, TEMPLATE, HIGH_KL)
"""A stratum's column. The first three divide all positions among them; the others cut across."""
FIRST_TOKENS = 9
"""Response tokens that are looked at apart: there the models differ most (Minder et al. 2025)."""
TOP_SHARE = 0.1
"""Of the positions, those with the largest KL(tuned || reference)."""


def inside(corpus: Corpus, token_kl: Tensor | None = None) -> Tensor:
    """[N, L, S] bool: in which strata each predicting position is.

    Args:
        corpus: labelled text.
        token_kl: [N, L], KL(tuned || reference) at each predicting position; without it no position is of high KL.
    """
    columns = [corpus.predicts & (corpus.stratum == code) for code in range(len(STRATA))]
    part = torch.zeros_like(corpus.part)
    part[:, :-1] = corpus.part[:, 1:]  # of the token that is predicted
    response = corpus.predicts & (part == PARTS.index(Part.response))
    start = response & (_run_length(response) <= FIRST_TOKENS)
    columns += [start, response & ~start, corpus.predicts & (part == PARTS.index(Part.template))]
    high = torch.zeros_like(corpus.predicts)
    if token_kl is not None and bool(corpus.predicts.any()):
        limit = token_kl[corpus.predicts].double().quantile(1 - TOP_SHARE)
        high = corpus.predicts & (token_kl >= limit)
    return torch.stack([*columns, high], dim=-1)


def _run_length(mask: Tensor) -> Tensor:
    """[N, L]: how many positions in a row, this one included, are True."""
    count = mask.long().cumsum(dim=1)
    before = torch.where(mask, torch.zeros_like(count), count).cummax(dim=1).values
    return count - before
