"""Interpretability: what a judge makes of a Diff's findings, beside what it makes of a random dictionary's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from diffbench import cache
from diffbench.activations import Activations
from diffbench.activity import activity, has_activity
from diffbench.bench import Bench
from diffbench.comparison import CONTROLS, control_inputs
from diffbench.controls import random_dictionary
from diffbench.detection import detect_findings, mean_detection
from diffbench.diff import DictionaryDiff, Diff, Finding
from diffbench.exchange import ACTIVATIONS
from diffbench.figure import Figure
from diffbench.scores import DetectionScore, Interpretability
from diffbench.seeds import derive

TOP = 10
RANDOM_EXPANSION, RANDOM_K = 4, 8


def interpret(bench: Bench, diff: Diff, seed: int, control: Figure) -> Interpretability:
    """Have the judge explain the first ten findings and tell held-out contexts by its explanations.

    Args:
        bench: judge, models and the judge's split.
        diff: what is judged.
        seed: of the contexts.
        control: `control_detection`.
    """
    name = f"{bench.judge.name} {bench.judge.version}"
    if not diff.findings:
        n_a = Figure.not_applicable("the Diff has no findings")
        return Interpretability(judge=name, detection=n_a, control=control, lift=n_a)
    if not has_activity(diff):
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
