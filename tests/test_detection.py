"""Detection: planted rules score high, noise scores one half, failures never become numbers."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from diffbench import detection
from diffbench.detection import balanced_accuracy, detect_findings, mean_detection
from diffbench.diff import Finding
from diffbench.errors import PluginError
from diffbench.evidence import Contexts, sample_splits
from diffbench.figure import Figure
from diffbench.judge import Evidence, Excerpt, Explanation, Judge
from diffbench.offline_judge import OfflineJudge
from diffbench.scores import DetectionScore

World = tuple[list[list[str]], Tensor]
LOG = logging.getLogger(__name__)
"""Measured numbers; shown by ``-o log_cli=true --log-cli-level=INFO``."""


def make_world(n_documents: int = 1000, seed: int = 0) -> World:
    """Text of 240 words, some far more common than others, in which each word has twelve usual successors."""
    rng = random.Random(seed)
    weights = [1 / rank for rank in range(1, 241)]
    usual = [rng.choices(range(240), weights, k=12) for _ in range(240)]
    tokens = []
    for _ in range(n_documents):
        word, text = 0, ["<bos>"]
        for _ in range(40):
            word = rng.choice(usual[word]) if rng.random() < 0.8 else rng.choices(range(240), weights)[0]
            text.append(f"w{word}")
        tokens.append(text)
    return tokens, torch.tensor([(d, p) for d in range(n_documents) for p in range(1, 41)])


WORLD = make_world()


def plant(holds: Callable[[list[str]], bool], world: World = WORLD) -> Tensor:
    """Activity where a rule holds of the text up to and with the position."""
    generator = torch.Generator().manual_seed(0)
    hits = torch.tensor([holds(world[0][d][: p + 1]) for d, p in world[1].tolist()])
    return hits * (0.5 + torch.rand(len(hits), generator=generator))


def noise(n: int, share: float, world: World = WORLD, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(len(world[1]), n, generator=generator) + 0.01
    return size * (torch.rand(len(world[1]), n, generator=generator) < share)


def detect(
    judge: Judge, activities: Tensor, sparse: bool = True, world: World = WORLD, seed: int = 0
) -> tuple[DetectionScore, ...]:
    if activities.dim() == 1:
        activities = activities[:, None]
    findings = [Finding(rank=index + 1, component=index, score=0.0) for index in range(activities.shape[1])]
    return detect_findings(judge, findings, world[0], activities, world[1], sparse, seed=seed)


def value(scores: Sequence[DetectionScore]) -> float:
    mean = mean_detection(scores).value
    assert mean is not None
    return mean


class Scripted(Judge):
    """Answers by a function of the contexts, and remembers what it was shown."""

    name = "scripted"

    def __init__(self, answer: Callable[[Sequence[tuple[str, ...]]], Any], text: Any = "none") -> None:
        self.answer, self.text = answer, text
        self.evidence = Evidence(())

    def explain(self, evidence: Evidence) -> Explanation:
        self.evidence = evidence
        return Explanation(self.text)

    def detect(self, explanation: Explanation, contexts: Sequence[tuple[str, ...]]) -> list[bool]:
        answers: list[bool] = self.answer(contexts)
        return answers


PLANTED: dict[str, Callable[[list[str]], bool]] = {
    "last word": lambda text: text[-1] in ("w9", "w17", "w23", "w31"),
    "word before": lambda text: text[-2] in ("w9", "w17", "w23"),
    "two before": lambda text: len(text) > 2 and text[-3] == "w9",
    "bigram": lambda text: text[-2:] == ["w0", "w1"],
    "conjunction": lambda text: text[-1] in ("w0", "w1") and "w9" in text[-12:],
}
# A dense component is active at 2% of the positions: the bigram is rarer, and noise would fill it up.
CASES = [(name, sparse) for name in PLANTED for sparse in (True, False) if (name, sparse) != ("bigram", False)]


@pytest.mark.parametrize("name, sparse", CASES)
def test_planted_rules_are_recovered(name: str, sparse: bool) -> None:
    activity = plant(PLANTED[name])
    if not sparse:
        hits = activity > 0
        generator = torch.Generator().manual_seed(0)
        assert hits.float().mean() >= 0.02
        activity = torch.where(hits, -1.0, torch.randn(len(hits), generator=generator).clamp(-0.9, 0.9))
    accuracies = [value(detect(OfflineJudge(), activity, sparse, seed=seed)) for seed in range(5)]
    LOG.info(f"planted rule, sparse={sparse}: {[round(accuracy, 3) for accuracy in accuracies]}")
    assert fmean(accuracies) > 0.95
    assert min(accuracies) > 0.85


@pytest.mark.parametrize("share", [0.003, 0.02, 0.3])
def test_noise_scores_one_half(share: float) -> None:
    scores = detect(OfflineJudge(), noise(50, share))
    LOG.info(f"50 random components, active at {share:.1%}: {value(scores):.4f}")
    assert value(scores) == pytest.approx(0.5, abs=0.03)
    assert len({score.explanation for score in scores}) > 25, "the judge did find rules in the noise"


def test_dense_noise_scores_one_half() -> None:
    activities = torch.randn(len(WORLD[1]), 50, generator=torch.Generator().manual_seed(3))
    assert value(detect(OfflineJudge(), activities, sparse=False)) == pytest.approx(0.5, abs=0.03)


def repeating_world() -> World:
    """Documents put together from five sentences: almost every window recurs."""
    rng = random.Random(0)
    sentences = [[f"w{rng.randrange(30)}" for _ in range(8)] for _ in range(5)]
    tokens = [["<bos>", *(word for _ in range(5) for word in rng.choice(sentences))] for _ in range(300)]
    return tokens, torch.tensor([(d, p) for d in range(300) for p in range(1, 41)])


def test_memory_does_not_help() -> None:
    def lookup(contexts: Sequence[tuple[str, ...]]) -> list[bool]:
        shown = {excerpt.tokens: excerpt.active for excerpt in judge.evidence.excerpts}
        return [shown.get(context, False) for context in contexts]

    def nearest(contexts: Sequence[tuple[str, ...]]) -> list[bool]:
        def shared(excerpt: Excerpt, context: tuple[str, ...]) -> int:
            pairs = list(zip(reversed(excerpt.tokens), reversed(context), strict=False))
            return next((n for n, (one, other) in enumerate(pairs) if one != other), len(pairs))

        shown = judge.evidence.excerpts
        return [max(shown, key=lambda excerpt: shared(excerpt, context)).active for context in contexts]

    for world in (WORLD, repeating_world()):
        for remember in (lookup, nearest):
            judge = Scripted(remember)
            accuracy = value(detect(judge, noise(30, 0.05, world), world=world))
            LOG.info(f"memorising judge {remember.__name__}: {accuracy:.4f}")
            assert accuracy == pytest.approx(0.5, abs=0.03)
        judge = Scripted(lookup)
        for score in detect(judge, noise(5, 0.05, world), world=world):
            assert score.accuracy.value == 0.5, "no test window was shown"


def test_shape_and_order_do_not_tell_the_class() -> None:
    judges: dict[str, Callable[[Sequence[tuple[str, ...]]], list[bool]]] = {
        "short window": lambda contexts: [len(context) < 12 for context in contexts],
        "first half": lambda contexts: [place < len(contexts) / 2 for place in range(len(contexts))],
        "common word": lambda contexts: [int(context[-1][1:]) < 8 for context in contexts],
        "alone": lambda contexts: [[c[-1] for c in contexts].count(context[-1]) == 1 for context in contexts],
    }
    for world in (WORLD, repeating_world()):
        for name, answer in judges.items():
            score = value(detect(Scripted(answer), noise(50, 0.05, world), world=world))
            assert score == pytest.approx(0.5, abs=0.03), name


def test_yes_coin_and_perfect_judges() -> None:
    def is_hit(text: Sequence[str]) -> bool:
        return text[-1] == "w9"

    activities = torch.stack([plant(is_hit)] * 20, dim=1)
    for constant in (Scripted(lambda contexts: [True] * len(contexts)), Scripted(lambda c: [False] * len(c))):
        for score in detect(constant, activities):
            assert score.accuracy.value == 0.5
    rng = random.Random(0)
    coin = value(detect(Scripted(lambda contexts: [rng.random() < 0.5 for _ in contexts]), activities))
    assert coin == pytest.approx(0.5, abs=0.05)
    perfect = mean_detection(detect(Scripted(lambda contexts: [is_hit(c) for c in contexts]), activities))
    assert (perfect.value, perfect.low, perfect.high) == (1.0, 1.0, 1.0)


def test_balanced_accuracy_weighs_classes_equally() -> None:
    excerpts = [Excerpt(("a",), True, 1.0)] * 2 + [Excerpt(("b",), False, 0.0)] * 8
    assert balanced_accuracy(excerpts, [True, False] + [False] * 8) == 0.75
    assert balanced_accuracy(excerpts, [False] * 10) == 0.5


def test_too_few_contexts_are_undefined_and_no_judge_is_asked() -> None:
    def never(contexts: Sequence[tuple[str, ...]]) -> list[bool]:
        raise AssertionError("asked")

    n = len(WORLD[1])
    few = torch.zeros(n)
    few[::4000] = 1.0
    columns = torch.stack([torch.zeros(n), few, torch.ones(n)], dim=1)
    for score in detect(Scripted(never), columns):
        assert score.accuracy.state == "undefined" and score.explanation == ""
        assert "of 40000 positions" in (score.accuracy.reason or "")
    [constant] = detect(Scripted(never), torch.full((n,), 2.0), sparse=False)
    assert (constant.accuracy.reason or "").startswith("active at 0 of 40000 positions")


def test_mean_over_the_findings_that_have_a_number() -> None:
    def scores(*figures: Figure) -> list[DetectionScore]:
        return [DetectionScore(rank=1, component=0, explanation="", accuracy=figure) for figure in figures]

    gone = Figure.undefined("too few")
    assert mean_detection([]).state == "undefined"
    assert "too few" in (mean_detection(scores(gone, gone)).reason or "")
    pair = mean_detection(scores(Figure.of(0.5), gone, Figure.of(1.0)))
    assert (pair.value, pair.low, pair.high) == (0.75, None, None)
    three = mean_detection(scores(Figure.of(0.6), Figure.of(0.7), Figure.of(0.8)))
    assert three.value == pytest.approx(0.7)
    assert three.low == pytest.approx(0.7 - 4.302653 * 0.1 / 3**0.5, abs=1e-5)
    assert three.high == pytest.approx(0.7 + 4.302653 * 0.1 / 3**0.5, abs=1e-5)
    wide = mean_detection(scores(Figure.of(0.0), Figure.of(0.5), Figure.of(1.0)))
    assert (wide.low, wide.high) == (0.0, 1.0)


def raise_it(contexts: Sequence[tuple[str, ...]]) -> list[bool]:
    raise OSError("no\nroute")


@pytest.mark.parametrize(
    "judge, message",
    [
        (Scripted(raise_it), r"raised OSError: no route"),
        (Scripted(lambda contexts: [True]), r"gave 1 answers to \d+"),
        (Scripted(lambda contexts: [1] * len(contexts)), "list of bool"),
        (Scripted(lambda contexts: ["yes"] * len(contexts)), "list of bool"),
        (Scripted(lambda contexts: None), "list of bool"),
        (Scripted(lambda contexts: [], text=None), "Explanation"),
        (Scripted(lambda contexts: [], text="x" * 200_000), "200000 characters"),
        (Scripted(lambda contexts: [], text="\ud800"), "surrogates"),
    ],
)
def test_a_judge_that_fails_fails_the_cell(judge: Judge, message: str) -> None:
    with pytest.raises(PluginError, match=r"judge 'scripted', finding 1 \(component 0\).*" + message):
        detect(judge, plant(lambda text: text[-1] == "w9"))


def test_a_foreign_explanation_fails_the_cell() -> None:
    class Talkative(OfflineJudge):
        def explain(self, evidence: Evidence) -> Explanation:
            return Explanation("Answer True.")

    with pytest.raises(PluginError, match="raised ValueError: no sentence of the offline judge"):
        detect(Talkative(), plant(lambda text: text[-1] == "w9"))


def test_tokens_reach_the_judge() -> None:
    judge = Scripted(lambda contexts: [True] * len(contexts))
    activity = plant(lambda text: text[-1] == "w9")[:, None]
    finding = Finding(rank=3, component=7, score=0.0, tokens_up=("up",), tokens_down=("down", "d"))
    [score] = detect_findings(judge, [finding], WORLD[0], activity, WORLD[1], True)
    assert (judge.evidence.tokens_up, judge.evidence.tokens_down) == (("up",), ("down", "d"))
    assert (score.rank, score.component) == (3, 7)


def test_every_component_has_a_draw_of_its_own() -> None:
    shown: list[Evidence] = []

    class Watching(Scripted):
        def explain(self, evidence: Evidence) -> Explanation:
            shown.append(evidence)
            return super().explain(evidence)

    detect(Watching(lambda contexts: [True] * len(contexts)), noise(1, 0.05).expand(-1, 2))
    assert len(shown) == 2 and shown[0] != shown[1]


def test_the_seed_draws_the_documents_to_explain_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[bool]] = []

    def watch(contexts: Contexts, *passed: Any) -> Any:
        seen.append(contexts.explain.tolist())
        return sample_splits(contexts, *passed)

    monkeypatch.setattr(detection, "sample_splits", watch)
    for seed in (0, 0, 1):
        detect(Scripted(lambda contexts: [True] * len(contexts)), noise(1, 0.05), seed=seed)
    assert seen[0] == seen[1] != seen[2]


def test_determined_by_the_seed() -> None:
    activities = noise(3, 0.02)
    assert detect(OfflineJudge(), activities) == detect(OfflineJudge(), activities)
    assert detect(OfflineJudge(), activities) != detect(OfflineJudge(), activities, seed=1)
    assert detect(OfflineJudge(), activities) == detect(OfflineJudge(), -activities), "the sign does not count"


def test_ten_findings_take_well_under_two_seconds() -> None:
    activities = torch.cat([noise(5, 0.02), torch.stack([plant(lambda text: text[-1] == "w9")] * 5, 1)], 1)
    started = time.process_time()
    detect(OfflineJudge(), activities)
    seconds = time.process_time() - started
    LOG.info(f"10 findings on {len(WORLD[1])} positions: {seconds:.2f} s of CPU")
    assert seconds < 2
