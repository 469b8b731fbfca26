"""Spoken: texts that were said after prompts, and how coherent they are.

Shapes: P prompts, N texts, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from diffbench.architecture import Model, blocks
from diffbench.corpus import Corpus
from diffbench.figure import Figure, mean_figure
from diffbench.residual import hidden, unembed
from diffbench.steering_file import Share
from diffbench.tally import Count

BATCH = 64
NO_TEXT = Figure.undefined("nothing was said")


def joined(prompts: Corpus, said: Sequence[Sequence[int]]) -> tuple[Corpus, Tensor]:
    """Prompts with what is said after them as one text each, and the positions [P, L] that predict what is said."""
    starts = prompts.mask.sum(dim=1).tolist()
    length = max(start + len(one) for start, one in zip(starts, said, strict=True))
    ids = torch.zeros(len(prompts), length, dtype=torch.int64)
    mask, counts, where = (torch.zeros(len(prompts), length, dtype=torch.bool) for _ in range(3))
    for row, (start, one) in enumerate(zip(starts, said, strict=True)):
        end = start + len(one)
        ids[row, :start], counts[row, :start] = prompts.ids[row, :start], prompts.counts[row, :start]
        ids[row, start:end] = torch.tensor(list(one), dtype=torch.int64)
        mask[row, :end], counts[row, start:end], where[row, start - 1 : end - 1] = True, True, True
    predicts = counts & mask.roll(-1, dims=1)
    predicts[:, -1] = False
    codes = torch.zeros_like(ids, dtype=torch.int8)
    return Corpus(ids, mask, counts, predicts, codes, codes), where


@torch.inference_mode()
def nats(model: Model, corpus: Corpus, where: Tensor) -> Tensor:
    """[N] float64: mean of -log p over the tokens behind the positions ``where`` [N, L] of each text, in nats."""
    last, found = len(blocks(model)) - 1, torch.zeros(len(corpus), dtype=torch.float64)
    for start, batch in corpus.batches(BATCH):
        wanted = where[start : start + len(batch), : batch.ids.shape[1]]
        rows, places = wanted.nonzero(as_tuple=True)
        logits = unembed(model, hidden(model, batch.ids, batch.mask, last)[wanted]).float()
        log_p = logits.log_softmax(dim=-1).gather(1, batch.ids[rows, places + 1][:, None])[:, 0]
        sums = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, rows, -log_p.double())
        found[start : start + len(batch)] = sums / wanted.sum(dim=1)
    return found


def shared(shown: Sequence[Sequence[bool]]) -> Share:
    """How many of all draws, with an interval over prompts, of which each has draws of its own.

    A t interval of the prompts' shares, within 0..1; where all draws do it, or none, Wilson's of as many prompts.
    """
    hits, n = sum(map(sum, shown)), sum(map(len, shown))
    each = [fmean(map(float, drawn)) for drawn in shown if drawn]
    if not each:
        return Share(hits=hits, n=n, figure=NO_TEXT)
    if hits in (0, n):
        return Share(hits=hits, n=n, figure=Count(len(each) * (hits == n), len(each)).figure)
    found = mean_figure(each)
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (found.low, found.high))
    return Share(hits=hits, n=n, figure=found.model_copy(update={"low": low, "high": high}))


def repeats(said: Sequence[Sequence[Sequence[int]]]) -> Figure:
    """The share of neighbouring pairs of tokens that a continuation had before; the interval is over prompts."""
    each = []
    for drawn in said:
        pairs = [list(pairwise(one)) for one in drawn]
        n = sum(map(len, pairs))
        if n:
            each.append(sum(len(one) - len(set(one)) for one in pairs) / n)
    return mean_figure(each) if each else NO_TEXT
