"""Interpretability of a cell: what the judge is asked, on which text, and what is subtracted from it."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
from engine_factory import dictionary_diff, one_of_each
from score_factory import NO_CONTROL, TIER, Prepared, SilentJudge

from diffbench.activations import Activations
from diffbench.activity import activity
from diffbench.canonical import digest
from diffbench.comparison import control_inputs
from diffbench.controls import random_dictionary
from diffbench.diff import Finding
from diffbench.figure import Figure
from diffbench.judge import Judge
from diffbench.offline_judge import OfflineJudge
from diffbench.residual import load_model
from diffbench.score import Bench, control_detection, score
from diffbench.scores import DetectionScore
from diffbench.seeds import derive

pytest_plugins = ("score_factory",)

JUDGING = importlib.import_module("diffbench.interpretability")
Asked = dict[str, Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the judge is asked; its accuracy grows with the rank."""
    seen: Asked = {}

    def watch(judge: Judge, *passed: Any, seed: int) -> tuple[DetectionScore, ...]:
        names = ("findings", "tokens", "activities", "where", "sparse")
        seen.update(zip(names, passed, strict=True), judge=judge, seed=seed)
        return tuple(
            DetectionScore(
                rank=finding.rank,
                component=finding.component,
                explanation="",
                accuracy=Figure.of(0.5 + finding.rank / 100),
            )
            for finding in seen["findings"]
        )

    monkeypatch.setattr(JUDGING, "detect_findings", watch)
    return seen


def test_the_judge_is_asked_about_ten_findings_on_a_split_of_its_own(prepared: Prepared, asked: Asked) -> None:
    bench = prepared.bench
    diff, corpus = dictionary_diff("delta", layer=bench.comparison.facts().layer), bench.corpus("judge")
    findings = tuple(
        Finding(rank=rank, component=int(c), score=0.0, tokens_up=(f"up {c}",), tokens_down=(f"down {c}",))
        for rank, c in enumerate(diff.order[:12], start=1)
    )
    found = score(bench, replace(diff, findings=findings), 7, Figure.of(0.4, 0.3, 0.5)).interpretability
    assert asked["findings"] == findings[:10]
    assert asked["sparse"] and asked["judge"] is bench.judge and asked["seed"] == derive(7, "excerpts")
    assert torch.equal(asked["where"], corpus.counts.nonzero())
    strengths = activity(diff, bench.reference, bench.tuned, corpus, corpus.counts)
    torch.testing.assert_close(asked["activities"], strengths[:, diff.order[:10]])
    words = [
        bench.tokenizer.convert_ids_to_tokens(ids[mask]) for ids, mask in zip(corpus.ids, corpus.mask, strict=True)
    ]
    assert asked["tokens"] == words
    mean = fmean(0.5 + rank / 100 for rank in range(1, 11))
    assert found.detection.value == pytest.approx(mean)
    assert found.lift.value == pytest.approx(mean - 0.4)
    half = math.hypot((found.detection.high - found.detection.low) / 2, 0.1)
    assert (found.lift.low, found.lift.high) == pytest.approx((mean - 0.4 - half, mean - 0.4 + half))
    assert score(bench, replace(diff, findings=findings), 7, NO_CONTROL).interpretability.lift == NO_CONTROL
    score(bench, replace(one_of_each()["direction"], layer=diff.layer), 7, NO_CONTROL)
    assert not asked["sparse"]


def test_the_control_is_a_random_dictionary_with_a_seed_of_the_organism(
    prepared: Prepared, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(SilentJudge):
        name = "other"

    made: list[Any] = []

    def watch(activations: Activations, *passed: int) -> Any:
        made.append((passed, random_dictionary(activations, *passed)))
        return made[-1][1]

    monkeypatch.setattr(JUDGING, "random_dictionary", watch)
    small = replace(prepared.bench.comparison, tier=TIER.model_copy(update={"components": 40}))
    bench = replace(prepared.bench, comparison=small, judge=Other())
    figure = control_detection(bench)
    [(passed, diff)] = made
    seed = derive(small.organism.recipe.seed, "random dictionary")
    assert passed == (40, 8, seed) and asked["seed"] == derive(seed, "excerpts")
    components = [finding.component for finding in asked["findings"]]
    assert components == diff.order[:10].tolist() and components != list(range(10))
    assert figure.value == pytest.approx(0.555)
    assert control_detection(bench) == figure and len(made) == 1


def test_a_control_is_keyed_by_the_pair_and_by_the_judge(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer(SilentJudge):
        __module__ = SilentJudge.__module__
        version = 2

    here = prepared.bench.comparison
    monkeypatch.setattr(OfflineJudge, "name", SilentJudge.name)  # the same name, other source
    asked = ((here, SilentJudge), (here, Newer), (here, OfflineJudge), (replace(here, reference="base"), SilentJudge))
    assert len({digest(control_inputs(*pair)) for pair in asked}) == len(asked)  # type: ignore[arg-type]


def test_a_bench_opens_the_pair_that_is_compared(prepared: Prepared) -> None:
    here = prepared.bench.comparison
    bench = Bench.open(here, "offline")
    for role, model in (("control", bench.reference), ("tuned", bench.tuned)):
        expected = load_model(here.organism.model_path(role)).state_dict()  # type: ignore[arg-type]
        torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)
    assert isinstance(bench.judge, OfflineJudge)
