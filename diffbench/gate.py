"""Gate: an organism must show its change, and little else, before anything is measured on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffbench.causal import KLSums, kl_sums
from diffbench.corpus import STRATA, Corpus, tokenise
from diffbench.finetune import word_id
from diffbench.gate_report import GateCheck, GateReport
from diffbench.recipe import Gate
from diffbench.residual import Model, last_logits
from diffbench.text import Document
from diffbench.truth import LEAST_PROBES, Probe, Stratum, Truth

BATCH_PROBES = 64


@torch.inference_mode()
def expression(model: Model, tokenizer: Any, probes: Sequence[Probe]) -> list[float]:
    """P(other) / (P(answer) + P(other)) after each probe, in 0..1."""
    corpus = tokenise([Document(probe.text) for probe in probes], tokenizer, max_length=None)
    logits = torch.cat([last_logits(model, batch.ids, batch.mask).float() for _, batch in corpus.batches(BATCH_PROBES)])
    answers, others = (
        torch.tensor([word_id(tokenizer, word) for word in words])[:, None]
        for words in ([probe.answer for probe in probes], [probe.other for probe in probes])
    )
    ahead: Tensor = logits.gather(1, others) - logits.gather(1, answers)
    return [float(share) for share in ahead.sigmoid()]


def measure(
    name: str,
    gate: Gate,
    truth: Truth,
    models: tuple[Model, Model | None, Model],
    tokenizer: Any,
    corpus: Corpus,
) -> GateReport:
    """Measure an organism against its gate.

    Args:
        name: for messages.
        gate: the thresholds.
        truth: claims and probes.
        models: base, control (None where the organism has none) and tuned.
        tokenizer: shared by all three.
        corpus: labelled held-out text of the organism's mixture.
    """
    base, control, tuned = models
    counts = {kind: len(getattr(truth.probes, kind)) for kind in ("affected", "near_miss", "unrelated")}
    if truth.claims:  # each claim is located by its own
        claims = [probe.claim for probe in truth.probes.affected]
        counts["affected"] = min(claims.count(claim.id) for claim in truth.claims)
    checks = [GateCheck(name=f"probes, {kind}", value=n, low=LEAST_PROBES, high=None) for kind, n in counts.items()]
    if truth.probes.affected:
        untouched = ("base", base) if control is None else ("control", control)
        for (name_of, model), (low, high) in (
            (("tuned", tuned), gate.expression_tuned),
            (untouched, gate.expression_control),
        ):
            shares = expression(model, tokenizer, truth.probes.affected)
            mean = sum(shares) / len(shares)
            checks.append(GateCheck(name=f"expression, {name_of}", value=mean, low=low, high=high))
    kl = kl_sums(base, tuned, corpus, {})["reference"]
    off = _off_target(kl)
    checks.append(
        GateCheck(name="off-target KL(tuned || base)", value=off, low=None, high=gate.off_target_kl, unit="nats")
    )
    if truth.changed:
        share = kl.total(Stratum.affected) / total if (total := kl.total()) > 0 else 0.0
        checks.append(
            GateCheck(name="share of KL at affected positions", value=share, low=gate.affected_kl_share, high=None)
        )
    return GateReport(organism=name, checks=tuple(checks))


def trigger_rate(corpus: Corpus) -> float:
    """Share of predicting positions that are affected."""
    return float(corpus.affected.sum() / corpus.predicts.sum())


def _off_target(kl: KLSums) -> float:
    """Mean KL over all positions that are not affected."""
    strata = [stratum for stratum in STRATA if stratum is not Stratum.affected]
    columns = [STRATA.index(stratum) for stratum in strata]
    return float(kl.sums[:, columns].sum() / kl.positions[:, columns].sum())
