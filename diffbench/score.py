"""Score: all that a cell is scored by, from its Diff and the organism's Truth. Imports no plugin's code.

Everything here runs in the engine, after the method process is gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffbench import cache
from diffbench.activations import Activations, outliers
from diffbench.activity import activity, streams
from diffbench.causal import Added, Arm, KLSums, kl_sums, recovery, recovery_lift
from diffbench.comparison import CONTROLS, Comparison, control_inputs, noise_floor
from diffbench.controls import random_dictionary
from diffbench.corpus import Corpus, tokenise
from diffbench.detection import detect_findings, mean_detection
from diffbench.dictionary import reconstruction
from diffbench.diff import DictionaryDiff, Diff, Finding
from diffbench.diff_file import load_diff, save_header
from diffbench.edit import ActivationEdit, Streams, edit_of
from diffbench.errors import BudgetExceeded
from diffbench.exchange import ACTIVATIONS, TEXT
from diffbench.judge import Judge
from diffbench.lens import Lens
from diffbench.localisation import localise
from diffbench.plugins import find_judge
from diffbench.precision import CONSTANT
from diffbench.ranking import NoRanking, ranked
from diffbench.record import BudgetPoint, DetectionScore, Figure, Fit, Interpretability, Localisation, Recovery, Scores
from diffbench.residual import Model, blocks, load_pair, load_tokenizer, vocabulary, width
from diffbench.seeds import derive
from diffbench.text import Document
from diffbench.tier import COMPONENT_BUDGETS, Tier
from diffbench.truth import Probe, Stratum, Truth

TOP = 10
CHUNK = 8192
NO_TRUTH = "no truth is known of this pair"
RANDOM_EXPANSION, RANDOM_K = 4, 8


@dataclass(frozen=True, slots=True)
class Bench:
    """What scoring a comparison needs in memory."""

    comparison: Comparison
    truth: Truth | None
    reference: Model
    tuned: Model
    tokenizer: Any
    judge: Judge

    @classmethod
    def open(cls, comparison: Comparison, judge: str) -> Bench:
        """Load models, Truth and judge."""
        base = comparison.organism.model_path("base")
        reference, tuned = load_pair(*comparison.models(), base=base)
        return cls(
            comparison=comparison,
            truth=comparison.truth(),
            reference=reference,
            tuned=tuned,
            tokenizer=load_tokenizer(comparison.models()[1], base=base),
            judge=find_judge(judge)(),
        )

    def corpus(self, name: str) -> Corpus:
        """The evaluation or judge split."""
        return Corpus.load(self.comparison.path / f"{name}.safetensors")


def score_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: score a Diff. Request: `Comparison.request`, judge, seed, diff (folder), ranking (column or None).

    With a ranking the Diff's latents are put into that order first, which is written into its header.
    """
    bench = Bench.open(Comparison.of(request), request["judge"])
    folder = Path(request["diff"])
    diff = load_diff(folder)
    if request["ranking"] is not None:
        text = Corpus.load(bench.comparison.path / "in" / TEXT)
        try:
            diff = ranked(diff, request["ranking"], Lens.of(bench.tuned, bench.tokenizer, text))
        except NoRanking as reason:
            return {"not_applicable": str(reason)}
        save_header(diff, folder)
    scores = score(bench, diff, request["seed"], control_detection(bench))
    return {"scores": scores.model_dump(mode="json")}


def control_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: have the judge score the random dictionary every cell is compared with."""
    bench = Bench.open(Comparison.of(request), request["judge"])
    return control_detection(bench).model_dump(mode="json")


def score(bench: Bench, diff: Diff, seed: int, control: Figure) -> Scores:
    """Score a Diff.

    Raises:
        DiffError: if the Diff does not fit the pair.
        BudgetExceeded: if it holds more components than the tier allows.
    """
    check(diff, bench.tuned, bench.comparison.tier)
    layer, edit = bench.comparison.facts().layer, edit_of(diff)
    if edit is None or edit.layer != layer:
        n_a = Figure.not_applicable(
            f"a {diff.kind} diff has no edit of the residual stream"
            if edit is None
            else f"the Diff is about layer {edit.layer}, the run about layer {layer}"
        )
        recovered, size = _no_recovery(n_a), n_a
        fit = Fit(fve=n_a, fve_delta=n_a, l0=n_a, dead_share=n_a, n_components=diff.n_components)
    else:
        corpus = bench.corpus("evaluation")
        rows = streams(bench.reference, bench.tuned, corpus, corpus.counts, layer)
        recovered = _recover(bench, edit, corpus, rows)
        fit, size = _fit(edit, rows)
    if bench.truth is None:
        recovered = _without_truth(recovered)
    return Scores(
        recovery=recovered,
        fit=fit,
        localisation=_localise(bench, diff, seed),
        interpretability=_interpret(bench, diff, seed, control),
        change_score=Figure.of(diff.change_score) if diff.change_score is not None else size,
        verdict=diff.verdict,
        n_findings=len(diff.findings),
    )


def check(diff: Diff, tuned: Model, tier: Tier) -> None:
    """Raise `DiffError` or `BudgetExceeded` if a Diff does not fit the pair or the tier."""
    diff.check(width(tuned), len(blocks(tuned)), vocabulary(tuned))
    if diff.n_components > tier.components:
        raise BudgetExceeded(f"the Diff has {diff.n_components} components, the tier allows {tier.components}")


def _recover(bench: Bench, edit: ActivationEdit, corpus: Corpus, rows: Streams) -> Recovery:
    """R_hybrid of the full edit, the error, the biases, and the top k of the order.

    Args:
        bench: models and what is stored of the pair.
        edit: what is scored.
        corpus: the evaluation split.
        rows: its streams at all positions that count.
    """
    stored = load_file(bench.comparison.path / "kl.safetensors")
    shared = {name: KLSums(sums=table, positions=stored["positions"]) for name, table in stored.items()}
    floor = noise_floor(bench.comparison.facts().kl_noise)
    same = recovery(shared["reference"], shared["reference"], None, floor)
    if same.state != "ok":  # the streams may differ all the same, as those of a model in another basis do
        return _no_recovery(Figure.undefined(f"the two models: {same.reason}"))
    none, affected = shared["none"], Stratum.affected
    order = edit.order()
    added: dict[str, Added] = {
        "full": edit.full,
        "error": lambda rows: rows.h_t - rows.h_b - edit.full(rows),
        "bias": lambda rows: edit.bias().expand_as(rows.h_b),
    }
    for k in COMPONENT_BUDGETS:
        added[f"top{k}"] = partial(edit.subset, components=order[:k])
    arms = {name: Arm(edit.layer, what) for name, what in added.items()}
    kl = kl_sums(bench.reference, bench.tuned, corpus, arms)
    active = _active(edit, rows.at(corpus.affected[corpus.counts]), order)
    budgets = tuple(
        BudgetPoint(
            k=k,
            r=recovery(kl[f"top{k}"], none, affected, floor),
            r_pca=recovery(shared[f"pca{k}"], none, affected, floor),
            lift=recovery_lift([kl[f"top{k}"]], [shared[f"pca{k}"]], none, affected, floor),
            active_per_token=active[k],
        )
        for k in COMPONENT_BUDGETS
    )
    tops, rivals = [kl[f"top{k}"] for k in COMPONENT_BUDGETS], [shared[f"pca{k}"] for k in COMPONENT_BUDGETS]
    return Recovery(
        r_full=recovery(kl["full"], none, None, floor),
        r_error=recovery(kl["error"], none, None, floor),
        r_full_affected=recovery(kl["full"], none, affected, floor),
        r_error_affected=recovery(kl["error"], none, affected, floor),
        r_bias_affected=recovery(kl["bias"], none, affected, floor),
        budgets=budgets,
        headline=recovery_lift(tops, rivals, none, affected, floor),
    )


def _no_recovery(why: Figure) -> Recovery:
    budgets = tuple(BudgetPoint(k=k, r=why, r_pca=why, lift=why, active_per_token=why) for k in COMPONENT_BUDGETS)
    names = ("r_full", "r_error", "r_full_affected", "r_error_affected", "r_bias_affected", "headline")
    return Recovery(**{name: why for name in names}, budgets=budgets)


def _active(edit: ActivationEdit, affected: Streams, order: Tensor) -> dict[int, Figure]:
    """Mean number of the top k components that are active at affected positions."""
    if not len(affected):
        return dict.fromkeys(COMPONENT_BUDGETS, Figure.undefined("no affected positions in the evaluation text"))
    if not edit.sparse:
        return {k: Figure.of(float(min(k, len(order)))) for k in COMPONENT_BUDGETS}
    on = edit.activity(affected)[:, order[: max(COMPONENT_BUDGETS)]] != 0
    return {k: Figure.of(float(on[:, :k].sum(dim=1).double().mean())) for k in COMPONENT_BUDGETS}


def _fit(edit: ActivationEdit, rows: Streams) -> tuple[Fit, Figure]:
    """How well the Diff describes held-out rows, and the default change score mean ‖predicted‖² / ‖h_b‖²."""
    diff, rows = edit.diff, rows.at(~outliers(rows.h_b, rows.h_t))
    own, delta = _Explained(), _Explained()
    fired = torch.zeros(diff.n_components, dtype=torch.bool)
    active, change = 0.0, 0.0
    for start in range(0, len(rows), CHUNK):
        part = rows.at(slice(start, start + CHUNK))
        added = edit.full(part)
        delta.add(part.h_t - part.h_b, added)
        change += float((added.pow(2).sum(1) / part.h_b.pow(2).sum(1).clamp_min(1e-12)).sum(dtype=torch.float64))
        if isinstance(diff, DictionaryDiff):
            own.add(*reconstruction(diff, part.h_b, part.h_t))
            on = edit.activity(part) > 0
            fired |= on.any(dim=0)
            active += float(on.sum())
    size = float(rows.h_b.pow(2).sum(dtype=torch.float64))
    dense = Figure.not_applicable("directions are no sparse dictionary")
    sparse = isinstance(diff, DictionaryDiff)
    fit = Fit(
        fve=own.figure(size) if sparse else dense,
        fve_delta=delta.figure(size),
        l0=Figure.of(active / len(rows)) if sparse else dense,
        dead_share=Figure.of(1 - float(fired.double().mean())) if sparse else dense,
        n_components=diff.n_components,
    )
    return fit, Figure.of(change / len(rows))


class _Explained:
    """Fraction of variance explained over streamed rows, in float64: 1 - sum Var(x - x̂) / sum Var(x)."""

    def __init__(self) -> None:
        self.n = 0
        self.moments: list[Tensor] = []

    def add(self, target: Tensor, hat: Tensor) -> None:
        x, e = target.double(), (target - hat).double()
        new = [x.sum(0), x.pow(2).sum(0), e.sum(0), e.pow(2).sum(0)]
        self.moments = [a + b for a, b in zip(self.moments, new, strict=True)] if self.n else new
        self.n += len(target)

    def figure(self, size: float) -> Figure:
        """The share, undefined where the target varies by no more than rounding.

        Args:
            size: sum of squares of the streams that the target was computed from.
        """
        x1, x2, e1, e2 = self.moments
        total, left = (float((square - first**2 / self.n).sum()) for first, square in ((x1, x2), (e1, e2)))
        if total <= CONSTANT * size:
            return Figure.undefined("the target does not vary: both models' activations are the same")
        return Figure.of(1 - left / total)


def _without_truth(recovered: Recovery) -> Recovery:
    """The same where nobody knows which positions are affected."""
    n_a = Figure.not_applicable(NO_TRUTH)
    budgets = tuple(
        point.model_copy(update={"r": n_a, "r_pca": n_a, "lift": n_a, "active_per_token": n_a})
        for point in recovered.budgets
    )
    affected = ("r_full_affected", "r_error_affected", "r_bias_affected", "headline")
    return recovered.model_copy(update={"budgets": budgets} | dict.fromkeys(affected, n_a))


def _localise(bench: Bench, diff: Diff, seed: int) -> Localisation:
    if bench.truth is None or not bench.truth.changed:
        nothing = "nothing was changed on purpose, so there is nothing to locate"
        n_a = Figure.not_applicable(NO_TRUTH if bench.truth is None else nothing)
        return Localisation(
            auroc_first=n_a, auroc_best10=n_a, first_hit=n_a, first_hit_shuffled=n_a, n_affected=0, n_near_miss=0
        )
    probes = bench.truth.probes
    affected = {
        claim.id: _probe_activity(bench, diff, tuple(probe for probe in probes.affected if probe.claim == claim.id))
        for claim in bench.truth.claims
    }
    near_miss = _probe_activity(bench, diff, probes.near_miss)
    components = [finding.component for finding in diff.findings]
    return localise(affected, near_miss, components, derive(seed, "shuffled rankings"))


def _probe_activity(bench: Bench, diff: Diff, probes: tuple[Probe, ...]) -> Tensor:
    """|activity| [P, n] at the last position of each probe."""
    if not probes:
        return torch.zeros(0, diff.n_components)
    corpus = tokenise([Document(probe.text) for probe in probes], bench.tokenizer, max_length=None)
    rows = torch.arange(corpus.ids.shape[1]) == corpus.last[:, None]
    return activity(diff, bench.reference, bench.tuned, corpus, rows).abs()


def _interpret(bench: Bench, diff: Diff, seed: int, control: Figure) -> Interpretability:
    name = f"{bench.judge.name} {bench.judge.version}"
    if not diff.findings:
        n_a = Figure.not_applicable("the Diff has no findings")
        return Interpretability(judge=name, detection=n_a, control=control, lift=n_a)
    if diff.n_components == 0:
        n_a = Figure.not_applicable("the Diff has no per-token activity")
        return Interpretability(judge=name, detection=n_a, control=control, lift=n_a)
    found = _detect(bench, diff, derive(seed, "excerpts"))
    mean = mean_detection(found)
    if mean.value is None or control.value is None:
        lift = mean if mean.value is None else control
    else:
        lift = _difference(mean, control)
    return Interpretability(judge=name, detection=mean, control=control, lift=lift, findings=found)


def _difference(mean: Figure, control: Figure) -> Figure:
    """Mean - control; the half-widths of two independent intervals add in squares."""
    assert mean.value is not None and control.value is not None
    value = mean.value - control.value
    ends = (mean.low, mean.high, control.low, control.high)
    if None in ends:
        return Figure.of(value)
    # An interval may be cut at 0 or 1 on one side: the other side tells its width.
    halves = (max(part.high - part.value, part.value - part.low) for part in (mean, control))  # type: ignore[operator]
    half = math.hypot(*halves)
    return Figure.of(value, value - half, value + half)


def _detect(bench: Bench, diff: Diff, seed: int) -> tuple[DetectionScore, ...]:
    corpus = bench.corpus("judge")
    findings = diff.findings[:TOP]
    vocabulary = bench.tokenizer.convert_ids_to_tokens(list(range(len(bench.tokenizer))))
    tokens = [[vocabulary[int(i)] for i in row[mask]] for row, mask in zip(corpus.ids, corpus.mask, strict=True)]
    components = [finding.component for finding in findings]
    activities = activity(diff, bench.reference, bench.tuned, corpus, corpus.counts, components)
    sparse = isinstance(diff, DictionaryDiff)
    return detect_findings(bench.judge, findings, tokens, activities, corpus.counts.nonzero(), sparse, seed=seed)


def control_detection(bench: Bench) -> Figure:
    """Mean detection of the first ten latents of a random dictionary, from the cache or measured now."""
    comparison = bench.comparison

    def fill(folder: Path) -> None:
        activations = Activations.open(comparison.path / "in" / ACTIVATIONS)
        n = min(RANDOM_EXPANSION * activations.width, comparison.tier.components)
        seed = derive(comparison.organism.recipe.seed, "random dictionary")
        diff = random_dictionary(activations, n, RANDOM_K, seed)
        order = [int(component) for component in diff.order[:TOP]]
        findings = [Finding(rank=rank, component=c, score=0.0) for rank, c in enumerate(order, start=1)]
        found = _detect(bench, replace(diff, findings=tuple(findings)), derive(seed, "excerpts"))
        (folder / "detection.json").write_text(mean_detection(found).model_dump_json(), encoding="utf-8")

    path = cache.publish(CONTROLS, control_inputs(comparison, type(bench.judge)), fill)
    return Figure.model_validate(cache.read_json(path / "detection.json"))
