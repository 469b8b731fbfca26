"""Judging: planted rules score high, noise scores one half, failures never become numbers."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from statistics import fmean

import pytest
import torch
from torch import Tensor

from diffbench.diff import Finding
from diffbench.errors import JudgeError, PluginError
from diffbench.evidence import Contexts
from diffbench.figure import Figure
from diffbench.finding_evidence import FindingEvidence, Steered
from diffbench.gathering import draw
from diffbench.judge import Judge, Reply
from diffbench.judging import JudgedFindings, difference, judge_findings, mean_over_findings, scored
from diffbench.offline_judge import OfflineJudge
from diffbench.panel import Panel
from diffbench.question import Detect, Evidence, Fuzz, Intervene, Intrude, Marks, Pick, Question, Text, Tokens
from diffbench.scores import ControlScores
from diffbench.trial import TESTS, Test, Trial

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


def evidence_of(activities: Tensor, sparse: bool = True, world: World = WORLD, seed: int = 0) -> list[FindingEvidence]:
    if activities.dim() == 1:
        activities = activities[:, None]
    contexts = Contexts.of(*world, seed)
    return [
        draw(contexts, Finding(rank=n + 1, component=n, score=0.0), column.double().abs(), sparse, seed)
        for n, column in enumerate(activities.unbind(1))
    ]


def judge(judge: Judge, activities: Tensor, sparse: bool = True, world: World = WORLD, seed: int = 0) -> JudgedFindings:
    return judge_findings(Panel(judge), evidence_of(activities, sparse, world, seed), seed)


def value(found: JudgedFindings, test: Test = "detection") -> float:
    mean = mean_over_findings(found.of(test)).value
    assert mean is not None
    return mean


class Scripted(Judge):
    """Detects and fuzzes by a function of a context, picks by a function of the question, and remembers."""

    name = "scripted"

    def __init__(
        self,
        holds: Callable[[Tokens], bool] = lambda context: True,
        pick: Callable[[Intrude | Intervene], int] = lambda question: 0,
    ) -> None:
        self.holds, self.pick = holds, pick
        self.shown: list[Evidence] = []

    def answer(self, question: Question) -> Reply:
        match question:
            case Evidence():
                self.shown.append(question)
                return Reply("ok", Text(text=f"explanation {len(self.shown)}"))
            case Detect():
                return Reply("ok", Marks(marks=tuple(self.holds(context) for context in question.contexts)))
            case Fuzz():
                marks = (all(self.holds(c.tokens[: at + 1]) for at in c.marked) for c in question.contexts)
                return Reply("ok", Marks(marks=tuple(marks)))
            case Intrude() | Intervene():
                return Reply("ok", Pick(pick=self.pick(question)))
        raise AssertionError(question.kind)


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
    found = [judge(OfflineJudge(), activity, sparse, seed=seed) for seed in range(5)]
    accuracies = [value(one) for one in found]
    LOG.info(f"planted rule, sparse={sparse}: {[round(accuracy, 3) for accuracy in accuracies]}")
    assert fmean(accuracies) > 0.95
    assert min(accuracies) > 0.85
    # A mark early in a window has fewer words before it than the rule may look back on.
    assert fmean(value(one, "fuzzing") for one in found) > 0.8
    picks = fmean(value(one, "intruder") for one in found)
    LOG.info(f"planted rule, intruder: {picks:.2f}")
    assert picks > (0.4 if name == "last word" else 0.15), "four words in turn are less alike than one"


def test_an_intruder_among_contexts_of_one_word_is_found() -> None:
    assert value(judge(OfflineJudge(), plant(lambda text: text[-1] == "w9")), "intruder") > 0.8


@pytest.mark.parametrize("share", [0.003, 0.02, 0.3])
def test_noise_scores_chance(share: float) -> None:
    found = judge(OfflineJudge(), noise(50, share))
    LOG.info(f"50 random components, active at {share:.1%}: {[value(found, test) for test in TESTS[:3]]}")
    assert value(found) == pytest.approx(0.5, abs=0.03)
    assert value(found, "fuzzing") == pytest.approx(0.5, abs=0.04)
    assert value(found, "intruder") == pytest.approx(0.2, abs=0.06)
    assert len({finding.explanation for finding in found.findings}) > 25, "the judge did find rules in the noise"


def test_dense_noise_scores_one_half() -> None:
    activities = torch.randn(len(WORLD[1]), 50, generator=torch.Generator().manual_seed(3))
    assert value(judge(OfflineJudge(), activities, sparse=False)) == pytest.approx(0.5, abs=0.03)


def repeating_world() -> World:
    """Documents put together from five sentences: almost every window recurs."""
    rng = random.Random(0)
    sentences = [[f"w{rng.randrange(30)}" for _ in range(8)] for _ in range(5)]
    tokens = [["<bos>", *(word for _ in range(5) for word in rng.choice(sentences))] for _ in range(300)]
    return tokens, torch.tensor([(d, p) for d in range(300) for p in range(1, 41)])


class Remembering(Scripted):
    """Answers by what it was shown: the very window, or the one that ends most alike."""

    def __init__(self, nearest: bool) -> None:
        super().__init__(self._known)
        self.nearest = nearest

    def _known(self, context: Tokens) -> bool:
        shown = self.shown[-1].excerpts
        if not self.nearest:
            return any(excerpt.tokens == context and excerpt.active for excerpt in shown)

        def shared(tokens: Tokens) -> int:
            pairs = list(zip(reversed(tokens), reversed(context), strict=False))
            return next((n for n, (one, other) in enumerate(pairs) if one != other), len(pairs))

        return max(shown, key=lambda excerpt: shared(excerpt.tokens)).active


def one_by_one(make: Callable[[], Judge], activities: Tensor, world: World) -> list[JudgedFindings]:
    """Every finding judged by a judge of its own, which so remembers nothing of others."""
    return [judge_findings(Panel(make()), [one], 0) for one in evidence_of(activities, world=world)]


@pytest.mark.parametrize("nearest", [False, True])
def test_memory_does_not_help(nearest: bool) -> None:
    for world in (WORLD, repeating_world()):
        found = one_by_one(lambda: Remembering(nearest), noise(30, 0.05, world), world)
        accuracy = fmean(value(one) for one in found)
        LOG.info(f"memorising judge, nearest={nearest}: {accuracy:.4f}")
        assert accuracy == pytest.approx(0.5, abs=0.03)
        if not nearest:
            assert {value(one) for one in found} == {0.5}, "no test window was shown"


def test_shape_does_not_tell_the_class() -> None:
    judges: dict[str, Callable[[Tokens], bool]] = {
        "short window": lambda context: len(context) < 12,
        "common word": lambda context: context[-1] != "<bos>" and int(context[-1][1:]) < 8,
    }
    for world in (WORLD, repeating_world()):
        for name, holds in judges.items():
            assert value(judge(Scripted(holds), noise(50, 0.05, world), world=world)) == pytest.approx(0.5, abs=0.03), (
                name
            )


def with_texts(findings: Sequence[FindingEvidence], n: int = 10) -> list[FindingEvidence]:
    texts = tuple(Steered(prompt=("a",), plain=("b", f"{i}"), steered=("c", f"{i}")) for i in range(n))
    return [finding.model_copy(update={"steered": texts}) for finding in findings]


def is_hit(text: Sequence[str]) -> bool:
    return text[-1] == "w9"


def odd_one_out(question: Intrude | Intervene) -> int:
    """What a perfect judge picks: the only one without the planted word, or the text with the steered one."""
    if isinstance(question, Intervene):
        return [text[0] for text in question.texts].index("c")
    return [is_hit(context.tokens) for context in question.contexts].index(False)


def twenty() -> list[FindingEvidence]:
    return with_texts(evidence_of(torch.stack([plant(is_hit)] * 20, dim=1)))


def test_a_perfect_judge_scores_one() -> None:
    found = judge_findings(Panel(Scripted(is_hit, odd_one_out)), twenty(), 0)
    for test in TESTS:
        mean = mean_over_findings(found.of(test))
        assert (mean.value, mean.low, mean.high) == (1.0, 1.0, 1.0), test


def test_a_judge_that_always_says_the_same_scores_chance() -> None:
    for constant in (True, False):
        found = judge_findings(Panel(Scripted(lambda context, said=constant: said)), twenty(), 0)
        for test in ("detection", "fuzzing"):
            assert all(figure.value == 0.5 for figure in found.of(test))
    for place in range(2):
        found = judge_findings(Panel(Scripted(pick=lambda question, said=place: said)), twenty(), 0)
        assert all(figure.value == 0.5 for figure in found.of("intervention"))
        assert all(figure.value == pytest.approx(0.2) for figure in found.of("intruder"))


def test_a_coin_scores_chance_within_its_interval() -> None:
    rng = random.Random(0)
    coin = Scripted(
        lambda context: rng.random() < 0.5,
        lambda question: rng.randrange(5 if isinstance(question, Intrude) else 2),
    )
    found = judge_findings(Panel(coin), twenty(), 0)
    for test, chance in (("detection", 0.5), ("intruder", 0.2), ("intervention", 0.5)):
        mean = mean_over_findings(found.of(test))
        LOG.info(f"a coin, {test}: {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]")
        assert mean.low <= chance <= mean.high


def test_another_findings_explanation_is_the_control() -> None:
    """Twenty components of which each is active at a word of its own: other explanations tell nothing."""
    columns = [plant(lambda text, word=f"w{n}": text[-1] == word) for n in range(1, 13)]
    found = judge(OfflineJudge(), torch.stack(columns, dim=1))
    none = ControlScores(**{test: Figure.undefined("not asked") for test in TESTS})
    judged = found.judged("detection", none, none)
    assert judged.score.value > 0.95 and judged.shuffled.value == pytest.approx(0.5, abs=0.05)
    values = [
        own.value - other.value for own, other in zip(found.of("detection"), found.shuffled["detection"], strict=True)
    ]
    assert judged.over_shuffled.value == pytest.approx(fmean(values))
    assert judged.over_random == none.detection and judged.over_untrained == none.detection
    intruder = found.judged("intruder", none, none)
    assert intruder.shuffled.state == intruder.over_shuffled.state == "n/a"
    assert {figure.state for figure in found.of("intervention")} == {"n/a"}, "there are no texts of these"
    alone = judge(OfflineJudge(), columns[0]).judged("detection", none, none)
    assert alone.shuffled.state == alone.over_shuffled.state == "undefined"


def test_too_few_contexts_are_undefined_and_no_judge_is_asked() -> None:
    def never(context: Tokens) -> bool:
        raise AssertionError("asked")

    n = len(WORLD[1])
    few = torch.zeros(n)
    few[::4000] = 1.0
    columns = torch.stack([torch.zeros(n), few, torch.ones(n)], dim=1)
    found = judge(Scripted(never), columns)
    assert found.trials == ()
    for finding in found.findings:
        assert finding.detection.state == finding.fuzzing.state == "undefined" and finding.explanation == ""
        assert "of 40000 positions" in (finding.detection.reason or "")
    [constant] = judge(Scripted(never), torch.full((n,), 2.0), sparse=False).findings
    assert (constant.detection.reason or "").startswith("active at 0 of 40000 positions")


def test_mean_over_the_findings_that_have_a_number() -> None:
    gone = Figure.undefined("too few")
    assert mean_over_findings([]).state == "undefined"
    assert "too few" in (mean_over_findings([gone, gone]).reason or "")
    pair = mean_over_findings([Figure.of(0.5), gone, Figure.of(1.0)])
    assert (pair.value, pair.low, pair.high) == (0.75, None, None)
    three = mean_over_findings([Figure.of(0.6), Figure.of(0.7), Figure.of(0.8)])
    assert three.value == pytest.approx(0.7)
    assert three.low == pytest.approx(0.7 - 4.302653 * 0.1 / 3**0.5, abs=1e-5)
    assert three.high == pytest.approx(0.7 + 4.302653 * 0.1 / 3**0.5, abs=1e-5)
    wide = mean_over_findings([Figure.of(0.0), Figure.of(0.5), Figure.of(1.0)])
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_a_difference_of_independent_means() -> None:
    found = difference(Figure.of(0.9, 0.8, 0.95), Figure.of(0.5, 0.47, 0.53))
    half = (0.1**2 + 0.03**2) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4 - half, 0.4 + half))
    assert difference(Figure.of(0.9, 0.8, 1.0), Figure.of(0.5)) == Figure.of(0.4)
    gone = Figure.undefined("gone")
    assert difference(gone, Figure.of(0.5)) == gone == difference(Figure.of(0.5), gone)


class Failing(Scripted):
    """Does something wrong with every nth question of a kind."""

    def __init__(self, kind: str, how: Callable[[], Reply], every: int = 1) -> None:
        super().__init__(is_hit, odd_one_out)
        self.kind, self.how, self.every, self.n = kind, how, every, 0

    def answer(self, question: Question) -> Reply:
        if question.kind == self.kind:
            self.n += 1
            if self.n % self.every == 0:
                return self.how()
        return super().answer(question)


def unreachable() -> Reply:
    raise JudgeError("no route to it")


WRONG: dict[str, Callable[[], Reply]] = {
    "refused": lambda: Reply("refused", None, problem="I cannot help with that"),
    "malformed": lambda: Reply("ok", Marks(marks=(True,))),
    "another form": lambda: Reply("ok", Pick(pick=0)),
    "nothing": lambda: Reply("ok", None),
    "unreachable": unreachable,
}


@pytest.mark.parametrize("how", WRONG)
def test_failed_questions_are_never_scores(how: str) -> None:
    found = judge_findings(Panel(Failing("detect", WRONG[how])), twenty(), 0)
    for finding in found.findings:
        assert finding.detection.state == "undefined" and "10 of 10 questions" in (finding.detection.reason or "")
        assert finding.fuzzing.value == finding.intruder.value == finding.intervention.value == 1.0
    few = judge_findings(Panel(Failing("detect", WRONG[how], every=20)), twenty(), 0)
    assert all(figure.value == 1.0 for figure in few.of("detection")), "a tenth of the questions may be missing"
    some = judge_findings(Panel(Failing("detect", WRONG[how], every=4)), twenty(), 0)
    assert all(figure.state == "undefined" for figure in some.of("detection"))


@pytest.mark.parametrize(
    "how",
    [
        lambda: Reply("ok", Text(text=" ")),
        lambda: Reply("ok", Text(text="x" * 200_000)),
        lambda: Reply("refused", None),
        unreachable,
    ],
)
def test_without_an_explanation_only_the_intruder_is_asked_for(how: Callable[[], Reply]) -> None:
    found = judge_findings(Panel(Failing("explain", how)), twenty(), 0)
    for finding in found.findings:
        assert finding.intruder.value == 1.0
        for test in ("detection", "fuzzing", "intervention"):
            assert "gave no explanation" in (getattr(finding, test).reason or "")


@pytest.mark.parametrize("how", [lambda: 1 / 0, lambda: "yes"])
def test_what_a_broken_judge_raises_or_returns_fails_the_cell(how: Callable[[], Reply]) -> None:
    with pytest.raises(PluginError, match="judge 'scripted'"):
        judge_findings(Panel(Failing("detect", how)), twenty()[:1], 0)


def test_every_component_has_a_draw_of_its_own() -> None:
    one, other = evidence_of(noise(1, 0.05).expand(-1, 2))
    assert one.evidence != other.evidence and one.tests != other.tests


def test_determined_by_the_seed() -> None:
    activities = noise(3, 0.02)
    assert judge(OfflineJudge(), activities) == judge(OfflineJudge(), activities)
    assert judge(OfflineJudge(), activities) != judge(OfflineJudge(), activities, seed=1)
    assert judge(OfflineJudge(), activities) == judge(OfflineJudge(), -activities), "the sign does not count"


def test_a_judge_is_tested_on_as_many_contexts_as_it_takes() -> None:
    class Dear(Scripted):
        contexts = 20

    found = judge_findings(Panel(Dear(is_hit, odd_one_out)), twenty()[:2], 0)
    for test in ("detection", "fuzzing"):
        rights = [mark for trial in found.trials if trial.test == test and trial.arm == "own" for mark in trial.right]
        assert len(rights) == 40 and sum(rights) == 20


def test_scores_follow_from_the_trials_alone() -> None:
    columns = [plant(lambda text, word=f"w{n}": text[-1] == word) for n in range(1, 5)]
    found = judge(OfflineJudge(), torch.stack(columns, dim=1))
    again = [Trial.model_validate_json(trial.model_dump_json()) for trial in found.trials]
    ranks = [(finding.rank, finding.component) for finding in found.findings]
    whole = scored(again, ranks, {})
    assert whole.of("detection") == found.of("detection") and whole.of("fuzzing") == found.of("fuzzing")
    assert whole.shuffled == found.shuffled
    other = [trial.model_copy(update={"right": tuple(1 - mark for mark in trial.right)}) for trial in again]
    assert scored(other, ranks, {}).of("detection") != found.of("detection")
