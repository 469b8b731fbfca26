"""Causal scores: how much of KL(p_tuned || .) an edit of the residual stream takes away.

KL is in nats, from float32 log-softmax, in chunks of positions so that a large vocabulary fits in memory. All arms of
a comparison share one reference and one tuned forward. Masked positions (BOS, pads, outliers) take h_t in every
patched run, "none" included. Sums are kept per document and stratum: documents are the unit inside a cell.

Shapes: B documents of a batch, L positions, V vocabulary, N documents, S = 3 strata (`diffbench.corpus.STRATA`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from diffbench.activations import outliers
from diffbench.corpus import STRATA, Corpus
from diffbench.edit import Streams
from diffbench.errors import DiffError
from diffbench.interval import ratio_interval
from diffbench.record import Figure
from diffbench.residual import Model, hidden_and_logits, logits_from, vocabulary
from diffbench.truth import Stratum

BATCH_DOCUMENTS = 32
MOST_BYTES = 1 << 28
"""Of logits at once."""

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
class Arm:
    """One edited run to compare with the tuned model.

    Attributes:
        layer: the block whose output is edited.
        added: what is added to h_b there.
        run: who goes on from the edited stream: the tuned model (hybrid), or the reference model itself.
    """

    layer: int
    added: Added
    run: Literal["hybrid", "model"] = "hybrid"


def none(streams: Streams) -> Tensor:
    """The arm that adds nothing."""
    return torch.zeros_like(streams.h_b)


def true_delta(streams: Streams) -> Tensor:
    """The arm that adds everything."""
    return streams.h_t - streams.h_b


@torch.inference_mode()
def kl_sums(reference: Model, tuned: Model, corpus: Corpus, arms: Mapping[str, Arm]) -> dict[str, KLSums]:
    """KL(p_tuned || p_arm) of every arm, and of the reference model as it is under the name ``reference``.

    Raises:
        DiffError: if an arm leads to NaN or infinite logits.
    """
    names = ("reference", *arms)
    sums = {name: torch.zeros(len(corpus), len(STRATA), dtype=torch.float64) for name in names}
    positions = torch.zeros(len(corpus), len(STRATA), dtype=torch.float64)
    layers = sorted({arm.layer for arm in arms.values()})
    logit_bytes = 4 * corpus.ids.shape[1] * vocabulary(tuned)
    for start, batch in corpus.batches(max(1, min(BATCH_DOCUMENTS, MOST_BYTES // logit_bytes))):
        sweep = _Batch(reference, tuned, batch, layers)
        rows = slice(start, start + len(batch))
        positions[rows] = sweep.count()
        sums["reference"][rows] = sweep.divergence(sweep.reference_logits)
        for name, arm in arms.items():
            sums[name][rows] = sweep.divergence(sweep.logits(arm))
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
        h_b, self.reference_logits = hidden_and_logits(reference, batch.ids, batch.mask, layers)
        self.h_t, tuned_logits = hidden_and_logits(tuned, batch.ids, batch.mask, layers)
        self.log_p = tuned_logits[batch.predicts].float().log_softmax(dim=-1)
        self.where = batch.predicts.nonzero()
        self.stratum = batch.stratum[batch.predicts].long()
        self.edited = {layer: self._edited(h_b[layer], self.h_t[layer]) for layer in layers}

    def count(self) -> Tensor:
        return self._table(torch.ones(len(self.where), dtype=torch.float64))

    def logits(self, arm: Arm) -> Tensor:
        """Logits [B, L, V] of one arm."""
        counts, rows = self.edited[arm.layer]
        stream = self.h_t[arm.layer].clone()
        stream[counts] = rows.h_b + arm.added(rows)
        model = self.tuned if arm.run == "hybrid" else self.reference
        return logits_from(model, self.batch.ids, self.batch.mask, arm.layer, stream)

    def divergence(self, logits: Tensor) -> Tensor:
        """KL(p_tuned || p) summed per document and stratum, [B, S] float64."""
        chosen = logits[self.batch.predicts]
        step = max(1, MOST_BYTES // (4 * chosen.shape[-1]))
        parts = [
            token_kl(self.log_p[start : start + step], chosen[start : start + step])
            for start in range(0, len(chosen), step)
        ]
        return self._table(torch.cat(parts).double())

    def _edited(self, h_b: Tensor, h_t: Tensor) -> tuple[Tensor, Streams]:
        """Where arms edit, [B, L] bool, and the rows there."""
        counts = self.batch.counts.clone()
        counts[self.batch.counts] = ~outliers(h_b[self.batch.counts], h_t[self.batch.counts])
        return counts, Streams(h_b[counts], h_t[counts], counts.nonzero()[:, 1])

    def _table(self, values: Tensor) -> Tensor:
        table = torch.zeros(len(self.batch), len(STRATA), dtype=torch.float64)
        return table.index_put_((self.where[:, 0], self.stratum), values, accumulate=True)


def token_kl(log_p: Tensor, logits: Tensor) -> Tensor:
    """[T]: KL(p || softmax(logits)) in nats at each of T positions; log_p and logits are [T, V]."""
    log_q = logits.float().log_softmax(dim=-1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
