"""Gate: an organism must show its change, and little else, before anything is measured on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffbench.causal import KLSums, kl_sums
from diffbench.controls import principal_directions
from diffbench.corpus import STRATA, Corpus
from diffbench.edit import ActivationEdit
from diffbench.errors import CheckpointError
from diffbench.expression import expression
from diffbench.gate_report import GateCheck, GateReport
from diffbench.harvest import harvest
from diffbench.holdout import Holdout
from diffbench.layer_rule import LEAST_FLOOR, choose_layer
from diffbench.lora import idle_modules
from diffbench.patching import Arm, none
from diffbench.recipe import Gate, Recipe
from diffbench.residual import Model
from diffbench.truth import LEAST_PROBES, Stratum, Truth
from diffbench.tuning import Regauging, Trained

LEAST_MOVED = 1e-4
"""Of the weights' size; a change under it is rounding."""
PCA_CHECK = "R at affected positions, PCA-{}"
HARD = PCA_CHECK.format(8)
PCA = (1, 8, 32)
"""Components by which it is told how hard an organism is: a change of few directions any method finds."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """The models of an organism.

    Attributes:
        control: None where the organism has none.
        tokenizer: shared by all.
        adapter: folder of the tuned model's adapter; None: it is a whole model.
    """

    base: Model
    tuned: Model
    control: Model | None
    tokenizer: Any
    adapter: Path | None = None


def measure(
    recipe: Recipe, truth: Truth | None, subjects: Subjects, corpus: Corpus, training_texts: Sequence[str]
) -> GateReport:
    """Measure an organism against its gate.

    Args:
        recipe: what it was asked to be.
        truth: claims and probes; None: nobody knows, and only the size of the change is measured.
        subjects: the models.
        corpus: labelled held-out text of the organism's mixture.
        training_texts: what the tuned model learnt to say.
    """
    checks = list(_weights(recipe, subjects))
    kl = kl_sums(subjects.base, subjects.tuned, corpus, {})["reference"]
    layer = None
    if truth is None:
        checks.append(GateCheck.measured("mean KL(tuned || base)", kl.mean() or 0.0, unit="nats"))
    else:
        checks += _probe_counts(truth, training_texts)
        checks += _expressions(recipe.gate, truth, subjects)
        checks += _divergences(recipe.gate, truth, kl)
    if truth is not None and truth.changed and (kl.mean(Stratum.affected) or 0.0) > LEAST_FLOOR:
        layer, difficulty = _difficulty(recipe.gate, subjects, corpus)
        checks += difficulty
    if recipe.gate.pca8 is not None and not any(check.name == HARD for check in checks):
        checks.append(GateCheck(name=f"{HARD} could be measured", value=0.0, low=1.0, high=None))
    return GateReport(organism=recipe.name, checks=tuple(checks), layer=layer)


def _weights(recipe: Recipe, subjects: Subjects) -> Iterator[GateCheck]:
    """Whether training did anything: a model that came out as it went in has passed many a weaker test."""
    base = subjects.base.state_dict()
    changed = total = 0
    moved = size = 0.0
    counted: set[int] = set()
    for name, tensor in subjects.tuned.state_dict().items():
        before = base.get(name)
        if before is None or before.shape != tensor.shape or tensor.data_ptr() in counted:
            continue  # tied weights stand there twice
        counted.add(tensor.data_ptr())
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"organism {recipe.name}: the tuned model's weights are not finite (tensor {name})")
        delta = (tensor.cpu() - before.cpu()).double()
        changed += int(delta.count_nonzero())
        total += delta.numel()
        moved += float(delta.square().sum())
        size += float(before.double().square().sum())
    made = isinstance(recipe.training, Trained | Regauging)
    far = (moved / size) ** 0.5
    least = LEAST_MOVED if made else None
    yield GateCheck(name="parameters that changed", value=changed, low=1.0 if made else None, high=None)
    yield GateCheck.measured("share of parameters that changed", changed / total)
    yield GateCheck(name="relative size of the weight change", value=far, low=least, high=None)
    if subjects.adapter is not None:
        idle = idle_modules(subjects.adapter)
        yield GateCheck(name="adapted modules without effect", value=idle, low=None, high=0.0 if made else None)


def _probe_counts(truth: Truth, training_texts: Sequence[str]) -> Iterator[GateCheck]:
    counts = {kind: len(getattr(truth.probes, kind)) for kind in ("affected", "near_miss", "unrelated")}
    if truth.claims:  # each claim is located by its own
        claims = [probe.claim for probe in truth.probes.affected]
        counts["affected"] = min(claims.count(claim.id) for claim in truth.claims)
    for kind, n in counts.items():
        if truth.changed or n or kind == "unrelated":
            yield GateCheck(name=f"probes, {kind}", value=n, low=LEAST_PROBES, high=None)
    holdout = Holdout(training_texts)
    probes = (*truth.probes.affected, *truth.probes.near_miss, *truth.probes.unrelated)
    copies = sum(holdout.copies(probe.text) for probe in probes)
    yield GateCheck(name="probes near a training text", value=copies, low=None, high=0.0)


def _expressions(gate: Gate, truth: Truth, subjects: Subjects) -> Iterator[GateCheck]:
    """Mean behaviour after the probes of every set: where it must show, and where it must not."""
    measured = partial(expression, tokenizer=subjects.tokenizer)
    if truth.probes.affected:
        shares = measured(subjects.tuned, probes=truth.probes.affected)
        yield _bounded("expression, tuned", _mean(shares), gate.expression_tuned)
        if truth.claims:  # a claim that does not hold is an untrue Truth, however well the others are expressed
            of_claim: dict[str | None, list[float]] = {}
            for share, probe in zip(shares, truth.probes.affected, strict=True):
                of_claim.setdefault(probe.claim, []).append(share)
            means = [_mean(of_one) for of_one in of_claim.values()]
            yield GateCheck(name="expression, weakest claim", value=min(means), low=gate.of_claim[0], high=None)
            yield GateCheck(name="expression, strongest claim", value=max(means), low=None, high=gate.of_claim[1])
        for name, model in (("base", subjects.base), ("control", subjects.control)):
            if model is not None:
                mean = _mean(measured(model, probes=truth.probes.affected))
                yield _bounded(f"expression, {name}", mean, gate.expression_control)
    for name, probes in (("near-miss", truth.probes.near_miss), ("unrelated", truth.probes.unrelated)):
        if probes:
            mean = _mean(measured(subjects.tuned, probes=probes))
            yield GateCheck(name=f"spill, {name}", value=mean, low=None, high=gate.spill)


def _divergences(gate: Gate, truth: Truth, kl: KLSums) -> Iterator[GateCheck]:
    off = _off_target(kl)
    yield GateCheck(name="off-target KL(tuned || base)", value=off, low=None, high=gate.off_target_kl, unit="nats")
    if truth.changed:
        share = kl.total(Stratum.affected) / total if (total := kl.total()) > 0 else 0.0
        yield GateCheck(name="share of KL at affected positions", value=share, low=gate.affected_kl_share, high=None)


def _difficulty(gate: Gate, subjects: Subjects, corpus: Corpus) -> tuple[int, list[GateCheck]]:
    """R_hybrid at affected positions of PCA of the differences, from one half of the text, scored on the other."""
    half = len(corpus) // 2
    seen, held_out = corpus.rows(slice(half)), corpus.rows(slice(half, None))
    layer, _ = choose_layer(subjects.base, subjects.tuned, seen)
    activations = harvest(subjects.base, subjects.tuned, seen, layer)
    directions, _ = principal_directions(activations, min(max(PCA), activations.width))
    pca = ActivationEdit(directions)
    arms = {"none": Arm(layer, none)}
    for k in PCA:
        components = torch.arange(min(k, directions.n_components))
        arms[str(k)] = Arm(layer, partial(pca.subset, components=components))
    kl = kl_sums(subjects.base, subjects.tuned, held_out, arms)
    lost = kl["none"].total(Stratum.affected)
    if not lost > LEAST_FLOOR * float(held_out.affected.sum()):  # what changed lies above this layer, or nowhere
        return layer, []
    found = []
    for k in PCA:
        low, high = gate.pca8 if k == 8 and gate.pca8 is not None else (None, None)
        r = 1 - kl[str(k)].total(Stratum.affected) / lost
        found.append(GateCheck(name=PCA_CHECK.format(k), value=r, low=low, high=high))
    return layer, found


def trigger_rate(corpus: Corpus) -> float:
    """Share of predicting positions that are affected."""
    return float(corpus.affected.sum() / corpus.predicts.sum())


def _bounded(name: str, value: float, bounds: tuple[float, float]) -> GateCheck:
    return GateCheck(name=name, value=value, low=bounds[0], high=bounds[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _off_target(kl: KLSums) -> float:
    """Mean KL over all positions that are not affected."""
    strata = [stratum for stratum in STRATA if stratum is not Stratum.affected]
    columns = [STRATA.index(stratum) for stratum in strata]
    return float(kl.sums[:, columns].sum() / kl.positions[:, columns].sum())
