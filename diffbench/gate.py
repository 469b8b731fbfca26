"""Gate: an organism must show its change, and little else, before anything is measured on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffbench.causal import Arms, KLSums, kl_sums
from diffbench.corpus import STRATA, Corpus
from diffbench.finetune import word_id
from diffbench.gate_report import GateCheck, GateReport
from diffbench.recipe import Gate
from diffbench.residual import Model
from diffbench.truth import Probe, Stratum, Truth

LEAST_PROBES = 50
BATCH_PROBES = 64


@torch.inference_mode()
def expression(model: Model, tokenizer: Any, probes: Sequence[Probe]) -> list[float]:
    """P(other) / (P(answer) + P(other)) after each probe, in 0..1."""
    shares: list[float] = []
    pad = tokenizer.pad_token_id or 0
    for start in range(0, len(probes), BATCH_PROBES):
        batch = probes[start : start + BATCH_PROBES]
        rows = [tokenizer(probe.text, verbose=False)["input_ids"] for probe in batch]
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(width) < lengths[:, None]
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        p = logits[torch.arange(len(rows)), lengths - 1].float().softmax(dim=-1)
        for row, probe in zip(p, batch, strict=True):
            answer, other = float(row[word_id(tokenizer, probe.answer)]), float(row[word_id(tokenizer, probe.other)])
            shares.append(other / (answer + other))
    return shares


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
    checks = [
        GateCheck(name=f"probes, {kind}", value=len(getattr(truth.probes, kind)), low=LEAST_PROBES, high=None)
        for kind in ("affected", "near_miss", "unrelated")
    ]
    if truth.probes.affected:
        untouched = ("base", base) if control is None else ("control", control)
        for (name_of, model), (low, high) in (
            (("tuned", tuned), gate.expression_tuned),
            (untouched, gate.expression_control),
        ):
            shares = expression(model, tokenizer, truth.probes.affected)
            mean = sum(shares) / len(shares)
            checks.append(GateCheck(name=f"expression, {name_of}", value=mean, low=low, high=high))
    kl = kl_sums(base, tuned, corpus, Arms(layer=0, hybrid={}, model={}))["reference"]
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
