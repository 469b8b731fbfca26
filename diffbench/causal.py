"""Causal scores: how much of KL(p_tuned || .) an edit of the residual stream takes away.

KL is in nats, from float32 log-softmax, in chunks of positions so that a large vocabulary fits in memory. All arms of
a comparison share one reference and one tuned forward. Masked positions (BOS, pads, outliers) take h_t in every
patched run, "none" included. Sums are kept per document and stratum: documents are the unit inside a cell.

Shapes: B documents of a batch, L positions, V vocabulary, N documents, S = 3 strata (`diffbench.corpus.STRATA`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.activations import outliers
from diffbench.corpus import STRATA, Corpus
from diffbench.edit import Streams
from diffbench.errors import DiffError
from diffbench.interval import ratio_interval
from diffbench.record import Figure
from diffbench.residual import Model, hidden_and_logits, logits_edited, logits_from
from diffbench.truth import Stratum

BATCH_DOCUMENTS = 32
CHUNK_BYTES = BATCH_BYTES = 1 << 28

Added = Callable[[Streams], Tensor]
"""What an arm adds to h_b at the rows that count, [T, d]."""


@dataclass(frozen=True, slots=True)
class KLSums:
    """KL sums of one arm: [N, S] float64 in nats, with the number of positions [N, S] behind them."""

    sums: Tensor
    positions: Tensor

    def total(self, stratum: Stratum | None = None) -> float:
        """Sum over all documents of one stratum (None: all strata)."""
        return float(self._column(self.sums, stratum).sum())

    def mean(self, stratum: Stratum | None = None) -> float | None:
        """Mean per position, None where there are no positions."""
        n = float(self._column(self.positions, stratum).sum())
        return self.total(stratum) / n if n else None

    def per_document(self, stratum: Stratum | None = None) -> list[float]:
        """Sum per document."""
        return [float(x) for x in self._column(self.sums, stratum)]

    @staticmethod
    def _column(table: Tensor, stratum: Stratum | None) -> Tensor:
        return table.sum(dim=1) if stratum is None else table[:, STRATA.index(stratum)]


@dataclass(frozen=True, slots=True)
class Arms:
    """What to compare with the tuned model in one sweep over a corpus.

    Attributes:
        hybrid: edits of h_b, continued by the tuned model.
        model: edits of the reference model, which runs on by itself; layer and what is added.
    """

    layer: int
    hybrid: Mapping[str, Added]
    model: Mapping[str, tuple[int, Added]]
    coverage_layers: tuple[int, ...] = ()


def none(streams: Streams) -> Tensor:
    """The arm that adds nothing."""
    return torch.zeros_like(streams.h_b)


def true_delta(streams: Streams) -> Tensor:
    """The arm that adds everything."""
    return streams.h_t - streams.h_b


@torch.inference_mode()
def kl_sums(reference: Model, tuned: Model, corpus: Corpus, arms: Arms) -> dict[str, KLSums]:
    """KL(p_tuned || p_arm) of every arm, and of the reference model itself under the name ``reference``.

    For each of ``arms.coverage_layers`` there are also the arms ``none@l`` (hybrid) and ``delta@l`` (reference model
    with the layer's true delta).

    Raises:
        DiffError: if an arm leads to NaN or infinite logits.
    """
    sums = {name: torch.zeros(len(corpus), len(STRATA), dtype=torch.float64) for name in _names(arms)}
    positions = torch.zeros(len(corpus), len(STRATA), dtype=torch.float64)
    logit_bytes = 4 * corpus.ids.shape[1] * tuned.get_output_embeddings().weight.shape[0]
    for start, batch in corpus.batches(max(1, min(BATCH_DOCUMENTS, BATCH_BYTES // logit_bytes))):
        sweep = _Batch(reference, tuned, batch, _layers(arms))
        rows = slice(start, start + len(batch))
        positions[rows] = sweep.count()
        sums["reference"][rows] = sweep.divergence(sweep.reference_logits)
        for name, added in arms.hybrid.items():
            sums[name][rows] = sweep.divergence(sweep.hybrid(arms.layer, added))
        for name, (layer, added) in arms.model.items():
            sums[name][rows] = sweep.divergence(sweep.by_itself(layer, added))
        for layer in arms.coverage_layers:
            sums[f"none@{layer}"][rows] = sweep.divergence(sweep.hybrid(layer, none))
            sums[f"delta@{layer}"][rows] = sweep.divergence(sweep.by_itself(layer, true_delta))
    broken = [name for name, table in sums.items() if not bool(torch.isfinite(table).all())]
    if broken:
        raise DiffError(f"the edit {broken[0]!r} gives NaN or infinite logits; nothing can be recovered with it")
    return {name: KLSums(sums=table, positions=positions) for name, table in sums.items()}


def recovery(arm: KLSums, baseline: KLSums, stratum: Stratum | None, floor: float) -> Figure:
    """R = 1 - sum KL(arm) / sum KL(baseline) with a 95% interval over documents; negative values are kept.

    Args:
        arm: KL of the edited run.
        baseline: KL of the run without the edit.
        stratum: positions to look at; None: all that count.
        floor: nats per position under which the baseline is noise and R has no meaning.
    """
    mean = baseline.mean(stratum)
    if mean is None:
        return Figure.undefined(f"no {stratum.value if stratum else 'scored'} positions in the evaluation text")
    if mean <= floor:
        return Figure.undefined(
            f"KL to recover is {mean:.1e} nats per position, at or under the noise floor {floor:.1e}"
        )
    a, b = arm.per_document(stratum), baseline.per_document(stratum)
    value = 1.0 - sum(a) / sum(b)
    interval = ratio_interval(a, b)
    return Figure.of(value) if interval is None else Figure.of(value, 1 - interval[2], 1 - interval[1])


def recovery_lift(arms: list[KLSums], rivals: list[KLSums], baseline: KLSums, stratum: Stratum, floor: float) -> Figure:
    """Mean over budgets of R(arm) - R(rival), paired by document, with a 95% interval over documents."""
    checked = recovery(arms[0], baseline, stratum, floor)
    if checked.state != "ok":
        return checked
    per_arm = [arm.per_document(stratum) for arm in arms]
    per_rival = [rival.per_document(stratum) for rival in rivals]
    gains = [
        sum(rival[i] - arm[i] for arm, rival in zip(per_arm, per_rival, strict=True)) / len(arms)
        for i in range(len(per_arm[0]))
    ]
    b = baseline.per_document(stratum)
    interval = ratio_interval(gains, b)
    value = sum(gains) / sum(b)
    return Figure.of(value) if interval is None else Figure.of(value, interval[1], interval[2])


class _Batch:
    """One batch with what all arms share: streams at the layers, tuned log-probabilities, the reference's logits."""

    def __init__(self, reference: Model, tuned: Model, batch: Corpus, layers: list[int]) -> None:
        self.reference, self.tuned, self.batch = reference, tuned, batch
        self.h_b, self.reference_logits = hidden_and_logits(reference, batch.ids, batch.mask, layers)
        self.h_t, tuned_logits = hidden_and_logits(tuned, batch.ids, batch.mask, layers)
        self.log_p = tuned_logits[batch.predicts].float().log_softmax(dim=-1)
        self.where = batch.predicts.nonzero()
        self.stratum = batch.stratum[batch.predicts].long()

    def count(self) -> Tensor:
        return self._table(torch.ones(len(self.where), dtype=torch.float64))

    def hybrid(self, layer: int, added: Added) -> Tensor:
        return logits_from(self.tuned, self.batch.ids, self.batch.mask, layer, self._edited(layer, added))

    def by_itself(self, layer: int, added: Added) -> Tensor:
        edited = self._edited(layer, added)
        return logits_edited(self.reference, self.batch.ids, self.batch.mask, layer, lambda _: edited)

    def divergence(self, logits: Tensor) -> Tensor:
        """KL(p_tuned || p) summed per document and stratum, [B, S] float64."""
        chosen = logits[self.batch.predicts]
        step = max(1, CHUNK_BYTES // (4 * chosen.shape[-1]))
        parts = []
        for start in range(0, len(chosen), step):
            log_p = self.log_p[start : start + step]
            log_q = chosen[start : start + step].float().log_softmax(dim=-1)
            parts.append((log_p.exp() * (log_p - log_q)).sum(dim=-1))
        return self._table(torch.cat(parts).double())

    def _edited(self, layer: int, added: Added) -> Tensor:
        h_b, h_t = self.h_b[layer], self.h_t[layer]
        counts = self.batch.counts.clone()
        counts[self.batch.counts] = ~outliers(h_b[self.batch.counts], h_t[self.batch.counts])
        position = counts.nonzero()[:, 1]
        edited = h_t.clone()
        edited[counts] = h_b[counts] + added(Streams(h_b[counts], h_t[counts], position))
        return edited

    def _table(self, values: Tensor) -> Tensor:
        table = torch.zeros(len(self.batch), len(STRATA), dtype=torch.float64)
        return table.index_put_((self.where[:, 0], self.stratum), values, accumulate=True)


def _names(arms: Arms) -> list[str]:
    at_layers = [f"{kind}@{layer}" for layer in arms.coverage_layers for kind in ("none", "delta")]
    return ["reference", *arms.hybrid, *arms.model, *at_layers]


def _layers(arms: Arms) -> list[int]:
    return sorted({arms.layer, *(layer for layer, _ in arms.model.values()), *arms.coverage_layers})
