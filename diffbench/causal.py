"""Causal scores: how much of KL(p_tuned || .) an edit takes away, summed per document and stratum.

KL is in nats, from float32 log-softmax, in chunks of positions, so that 256 k words need less than 1 GiB.
All arms of a sweep share one clean run of both models. Masked positions (BOS, pads, outliers) take h_t wherever the
tuned model goes on, "none" included, and stay as they are in a reference that runs on by itself, so that R of nothing
is 0 in every run. Documents are the unit inside a cell.

Shapes: N documents, L positions, V vocabulary, S strata (`diffbench.strata.NAMES`), T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diffbench.corpus import STRATA, Corpus
from diffbench.errors import DiffError
from diffbench.figure import Figure
from diffbench.interval import ratio_interval
from diffbench.patching import BATCH_TOKENS, Clean, Limits, Patch, Towards, outlier_limits
from diffbench.residual import Model, unembed, vocabulary
from diffbench.strata import NAMES, inside
from diffbench.truth import Stratum

MOST_BYTES = 1 << 27
"""Of logits at once; what is computed from them takes about five times as much."""


@dataclass(frozen=True, slots=True)
class KLSums:
    """KL sums of one arm: [N, S] float64 in nats, with the number of positions [N, S] behind them."""

    sums: Tensor
    positions: Tensor

    def total(self, stratum: str | None = None) -> float:
        """Sum over all documents of one stratum (None: all positions)."""
        return float(self._column(self.sums, stratum).sum())

    def mean(self, stratum: str | None = None) -> float | None:
        """Mean per position, None where there are no positions."""
        n = self.count(stratum)
        return self.total(stratum) / n if n else None

    def count(self, stratum: str | None = None) -> int:
        """Positions."""
        return int(self._column(self.positions, stratum).sum())

    def per_document(self, stratum: str | None = None) -> list[float]:
        """Sum per document."""
        return [float(x) for x in self._column(self.sums, stratum)]

    @staticmethod
    def _column(table: Tensor, stratum: str | None) -> Tensor:
        return table[:, : len(STRATA)].sum(dim=1) if stratum is None else table[:, NAMES.index(stratum)]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep of arms gives.

    Attributes:
        kl: KL(p_towards || p_arm) by arm, and two more: ``reference``, KL(p_tuned || p_reference), and ``tuned``,
            KL(p_reference || p_tuned).
        token_kl: [N, L] float32, KL(p_tuned || p_reference) at the measured positions, 0 elsewhere.
    """

    kl: dict[str, KLSums]
    token_kl: Tensor


@torch.inference_mode()
def sweep(
    reference: Model,
    tuned: Model,
    corpus: Corpus,
    arms: Mapping[str, Patch],
    *,
    strata: Tensor | None = None,
    limits: Limits | None = None,
    only: Tensor | None = None,
) -> Sweep:
    """Run every arm over a text.

    Args:
        reference: the model of h_b.
        tuned: the model of h_t.
        corpus: the text.
        arms: by name.
        strata: [N, L, S] bool: the strata of each position; None: those that the text says.
        limits: outlier norms by layer; None: from the text itself.
        only: [N, L] bool: positions that are measured; whatever they do not depend on is not computed. None: all.

    Raises:
        DiffError: if an arm leads to NaN or infinite logits.
    """
    measured = corpus.predicts if only is None else only & corpus.predicts
    strata = inside(corpus) if strata is None else strata
    layers = sorted({arm.layer for arm in arms.values()})
    limits = limits or outlier_limits(reference, tuned, corpus, layers)
    names = ("reference", "tuned", *arms)
    tables = {name: torch.zeros(len(corpus), strata.shape[-1], dtype=torch.float64) for name in names}
    per_token = torch.zeros(corpus.ids.shape)
    for documents, batch in _until(corpus, measured).packed(BATCH_TOKENS):
        length = batch.ids.shape[1]
        chosen = measured[documents, :length]
        clean = Clean.of(reference, tuned, batch, {layer: limits[layer] for layer in layers})
        part = _Part(clean, chosen, strata[documents, :length][chosen].double())
        rows = documents[part.where[:, 0]]
        for name in names:
            values = part.divergence(name, arms.get(name))
            tables[name].index_add_(0, rows, values[:, None] * part.strata)
            if name == "reference":
                per_token[rows, part.where[:, 1]] = values.float()
    broken = [name for name, table in tables.items() if not bool(torch.isfinite(table).all())]
    if broken:
        raise DiffError(f"the edit {broken[0]!r} gives NaN or infinite logits; nothing can be recovered with it")
    positions = (strata & measured[..., None]).sum(dim=1).double()
    return Sweep({name: KLSums(table, positions) for name, table in tables.items()}, per_token)


def kl_sums(reference: Model, tuned: Model, corpus: Corpus, arms: Mapping[str, Patch]) -> dict[str, KLSums]:
    """`sweep` over a whole text, without what each token adds.

    Raises:
        DiffError: if an arm leads to NaN or infinite logits.
    """
    return sweep(reference, tuned, corpus, arms).kl


class _Part:
    """The measured positions of one batch, and what models say there."""

    def __init__(self, clean: Clean, chosen: Tensor, strata: Tensor) -> None:
        self.clean, self.chosen, self.strata = clean, chosen, strata
        self.where = chosen.nonzero()
        self._step = max(1, MOST_BYTES // (4 * vocabulary(clean.tuned)))
        self._known: dict[Towards, Tensor] = {}

    def divergence(self, name: str, patch: Patch | None) -> Tensor:
        """[T] float64: KL at each measured position; without a patch of the plain models."""
        if patch is None:
            towards: Towards = "tuned" if name == "reference" else "reference"
            other: Towards = "reference" if name == "reference" else "tuned"
            return self._compare(nullcontext(self._plain(other)), towards, slice(None))
        if len(self.where) <= self._step or not patch.edits_weights:
            return self._compare(patch.inside(self.clean), patch.towards, slice(None))
        # The model that is compared with may be the one whose weights are edited: its words come first, chunk by chunk.
        chunks = self._chunks(slice(None))
        return torch.cat([self._compare(patch.inside(self.clean), patch.towards, chunk) for chunk in chunks])

    def _plain(self, side: Towards) -> tuple[Model, Tensor]:
        clean = self.clean
        return (clean.tuned, clean.h_t[clean.last]) if side == "tuned" else (clean.reference, clean.h_b[clean.last])

    def _compare(self, run: AbstractContextManager[tuple[Model, Tensor]], towards: Towards, which: slice) -> Tensor:
        """[T'] float64, at some of the positions."""
        chunks = list(self._chunks(which))
        if not chunks:
            return torch.zeros(0, dtype=torch.float64)
        first = self._log_p(towards, chunks[0])  # before the run may edit the weights that it follows from
        with run as (model, stream):
            rows = stream[self.chosen]
            parts = [token_kl(first, unembed(model, rows[chunks[0]])).double()]
            for part in chunks[1:]:
                parts.append(token_kl(self._log_p(towards, part), unembed(model, rows[part])).double())
        return torch.cat(parts)

    def _chunks(self, which: slice) -> Iterator[slice]:
        start, end, _ = which.indices(len(self.where))
        return (slice(at, min(at + self._step, end)) for at in range(start, end, self._step))

    def _log_p(self, towards: Towards, part: slice) -> Tensor:
        """Log-probabilities of an unedited model; kept for the next arm where all of them fit."""
        if len(self.where) > self._step:
            return self._said(towards, part)
        if towards not in self._known:
            self._known[towards] = self._said(towards, slice(None))
        return self._known[towards]

    def _said(self, towards: Towards, part: slice) -> Tensor:
        model, stream = self._plain(towards)
        return unembed(model, stream[self.chosen][part]).float().log_softmax(dim=-1)


def _until(corpus: Corpus, measured: Tensor) -> Corpus:
    """The corpus without what comes after each document's last measured position: nothing there is of influence."""
    later = measured.flip(1).long().cumsum(dim=1).flip(1) == 0
    if not bool((later & corpus.mask).any()):
        return corpus
    cut = {name: getattr(corpus, name) & ~later for name in ("mask", "counts", "predicts")}
    return Corpus(ids=corpus.ids, stratum=corpus.stratum, part=corpus.part, **cut)


def recovery(arm: KLSums, baseline: KLSums, stratum: str | None, floor: float) -> Figure:
    """R = 1 - sum KL(arm) / sum KL(baseline) with a 95% interval over documents; negative values are kept.

    Args:
        arm: KL of the edited run.
        baseline: KL of the run without the edit.
        stratum: positions to look at; None: all that count.
        floor: nats per position under which the baseline is noise and R has no meaning.
    """
    mean = baseline.mean(stratum)
    if mean is None:
        return Figure.undefined(f"no {'scored' if stratum is None else str(stratum)} positions in the evaluation text")
    if mean <= floor:
        return Figure.undefined(
            f"KL to recover is {mean:.1e} nats per position, at or under the noise floor {floor:.1e}"
        )
    a, b = arm.per_document(stratum), baseline.per_document(stratum)
    value = 1.0 - sum(a) / sum(b)
    interval = ratio_interval(a, b)
    return Figure.of(value) if interval is None else Figure.of(value, 1 - interval[2], 1 - interval[1])


def mixed(arms: Sequence[KLSums], weights: Sequence[float] | None = None) -> KLSums:
    """Weighted mean of arms, which sum to 1: its recovery is the weighted mean of theirs, with a paired interval."""
    shares = weights or [1 / len(arms)] * len(arms)
    return KLSums(sum((w * arm.sums for w, arm in zip(shares, arms, strict=True)), 0 * arms[0].sums), arms[0].positions)


def recovery_lift(arms: list[KLSums], rivals: list[KLSums], baseline: KLSums, stratum: Stratum, floor: float) -> Figure:
    """Mean over budgets of R(arm) - R(rival), paired by document, with a 95% interval over documents."""
    checked = recovery(arms[0], baseline, stratum, floor)
    if checked.state != "ok":
        return checked
    ours, theirs = mixed(arms).per_document(stratum), mixed(rivals).per_document(stratum)
    gains = [rival - arm for arm, rival in zip(ours, theirs, strict=True)]
    b = baseline.per_document(stratum)
    interval = ratio_interval(gains, b)
    value = sum(gains) / sum(b)
    return Figure.of(value) if interval is None else Figure.of(value, interval[1], interval[2])


def token_kl(log_p: Tensor, logits: Tensor) -> Tensor:
    """[T]: KL(p || softmax(logits)) in nats at each of T positions; log_p and logits are [T, V]."""
    log_q = logits.float().log_softmax(dim=-1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
