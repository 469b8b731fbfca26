"""Ablation: what a tied crosscoder loses if both models fire alike, and if both have the same vectors.

Without different firing, both models are reconstructed with f_s + (f_b + f_t) / 2; without different vectors, both with
(d_b + d_t) / 2 and their own firing. Biases stay; nothing is trained again. Shapes: T rows, m triples, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.activations import outlying
from diffbench.activity import BATCH_DOCUMENTS, streams
from diffbench.corpus import Corpus
from diffbench.dictionary import encode
from diffbench.diff import DictionaryDiff
from diffbench.errors import DiffError
from diffbench.figure import Figure
from diffbench.residual import Model
from diffbench.study import Reading

WHOLE, ALIKE_FIRING, ALIKE_VECTORS = range(3)


@dataclass(frozen=True, slots=True)
class Loss:
    """What an ablation costs.

    Attributes:
        error: squared errors of both streams over those of the whole dictionary, minus 1.
        delta: share of delta's variance that is explained no longer.
    """

    error: Reading
    delta: Reading


@dataclass(frozen=True, slots=True)
class Ablation:
    """Both ablations."""

    firing: Loss
    vectors: Loss


@torch.inference_mode()
def ablate(
    diff: DictionaryDiff, reference: Model, tuned: Model, corpus: Corpus, limits: tuple[float, float] | None = None
) -> Ablation:
    """Measure both at all positions of a corpus that count and are no outliers.

    Args:
        diff: a tied crosscoder.
        reference: gives h_b.
        tuned: gives h_t.
        corpus: what they read.
        limits: norms of h_b and h_t above which a position is an outlier; None: none is.

    Raises:
        DiffError: if the dictionary has no tied triples.
    """
    if diff.group is None:
        raise DiffError("the dictionary has no tied triples")
    sums = _Sums(diff.encoder.shape[1] // 2)
    for _, batch in corpus.batches(BATCH_DOCUMENTS):
        rows = streams(reference, tuned, batch, batch.counts, diff.layer)
        kept = slice(None) if limits is None else ~outlying(rows.h_b.norm(dim=1), rows.h_t.norm(dim=1), limits)
        sums.add(diff, rows.h_b[kept], rows.h_t[kept])
    return sums.ablation()


class _Sums:
    """Squared errors, and moments of delta and of its errors, in float64."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.errors = torch.zeros(3, dtype=torch.float64)
        self.first = torch.zeros(4, width, dtype=torch.float64)
        self.square = torch.zeros(4, dtype=torch.float64)

    def add(self, diff: DictionaryDiff, h_b: Tensor, h_t: Tensor) -> None:
        delta = (h_t - h_b).double()
        parts = [delta]
        for at, (base, tuned) in enumerate(reconstructions(diff, h_b, h_t)):
            e_b, e_t = (h_b - base).double(), (h_t - tuned).double()
            self.errors[at] += e_b.square().sum() + e_t.square().sum()
            parts.append(e_t - e_b)
        for at, part in enumerate(parts):
            self.first[at] += part.sum(dim=0)
            self.square[at] += part.square().sum()
        self.n += len(delta)

    def ablation(self) -> Ablation:
        left = self.square - self.first.square().sum(dim=1) / max(1, self.n)
        return Ablation(self._loss(left, ALIKE_FIRING), self._loss(left, ALIKE_VECTORS))

    def _loss(self, left: Tensor, at: int) -> Loss:
        whole = float(self.errors[WHOLE])
        error = Figure.of(float(self.errors[at]) / whole - 1) if whole > 0 else Figure.undefined("no error at all")
        varies = float(left[0]) > 0
        lost = float((left[1 + at] - left[1 + WHOLE]) / left[0]) if varies else None
        delta = Figure.undefined("the difference does not vary") if lost is None else Figure.of(lost)
        explained = f"explained {1 - float(left[1 + at] / left[0]):.3f}" if varies else ""
        return Loss(Reading(figure=error), Reading(figure=delta, detail=explained))


def reconstructions(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Of base and tuned stream, [T, d] each: by the whole dictionary, without different firing, without vectors."""
    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    assert diff.bias_base is not None and diff.bias_tuned is not None
    shared, base, tuned = encode(diff, h_b, h_t).view(len(h_b), -1, 3).unbind(dim=2)
    d_b, d_t = diff.decoder_base[::3], diff.decoder_tuned[::3]
    alike, between = shared + (base + tuned) / 2, (d_b + d_t) / 2
    bias_b, bias_t = diff.bias_base, diff.bias_tuned

    def made(f_b: Tensor, v_b: Tensor, f_t: Tensor, v_t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addmm(bias_b, f_b, v_b), torch.addmm(bias_t, f_t, v_t)

    return (
        made(shared + base, d_b, shared + tuned, d_t),
        made(alike, d_b, alike, d_t),
        made(shared + base, between, shared + tuned, between),
    )
