"""Interpretability: what a judge makes of a Diff's findings, beside what it makes of things that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffbench import cache
from diffbench.activations import Activations
from diffbench.activity import has_activity
from diffbench.architecture import Model
from diffbench.bench import Bench
from diffbench.comparison import CONTROLS, control_inputs
from diffbench.conclusion import conclude, notes_of
from diffbench.controls import random_dictionary
from diffbench.corpus import Corpus
from diffbench.dictionary import difference_decoder
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding
from diffbench.errors import JudgeError
from diffbench.exchange import ACTIVATIONS, TEXT
from diffbench.figure import Figure
from diffbench.finding_evidence import FindingEvidence
from diffbench.gathering import Scene, gather
from diffbench.judging import JudgedFindings, asked_for, judge_findings, texts_of
from diffbench.lens import Lens
from diffbench.panel import Panel
from diffbench.scores import ControlScores, Interpretability
from diffbench.seeds import derive
from diffbench.sheet import Sheet
from diffbench.trial import TESTS, Trial
from diffbench.truth import Schema
from diffbench.untrained import MOST_PARAMETERS, untrained_dictionary, untrained_model
from diffbench.workwire import report

TOP = 10
RANDOM_EXPANSION, RANDOM_K = 4, 8
FILE = "scores.json"
TOKENS = {"tokens_up", "tokens_down"}
OVER = ("over_shuffled", "over_random", "over_untrained")


class Controls(Schema):
    """What a judge makes, on one pair, of what means nothing."""

    random: ControlScores
    untrained: ControlScores


@dataclass(frozen=True, slots=True)
class Shown:
    """The evidence of a Diff's findings; or why there is none."""

    evidence: tuple[FindingEvidence, ...]
    why: Figure | None = None


def scene_of(bench: Bench) -> Scene:
    """The pair with the judge's split."""
    comparison = bench.comparison
    seed = derive(comparison.organism.recipe.seed, "scene")
    layer = comparison.facts().layer
    return Scene(bench.reference, bench.tuned, bench.tokenizer, bench.corpus("judge"), layer, seed)


def show(bench: Bench, diff: Diff, seed: int) -> Shown:
    """Gather the evidence of the first ten findings."""
    if not diff.findings:
        return Shown((), Figure.not_applicable("the Diff has no findings"))
    if not has_activity(diff):
        return Shown((), Figure.not_applicable("the Diff has no per-token activity"))
    scene = scene_of(bench)
    return Shown(gather(scene, diff, _worded(bench, scene, diff), derive(seed, "excerpts")))


def _worded(bench: Bench, scene: Scene, diff: Diff) -> tuple[Finding, ...]:
    """The first ten findings; of those that name no tokens, the ones that a logit lens reads off their direction."""
    first = diff.findings[:TOP]
    if all(one.tokens_up or one.tokens_down for one in first) or not isinstance(diff, DictionaryDiff | DirectionDiff):
        return first
    text = Corpus.load(bench.comparison.path / "in" / TEXT)
    read = _described(scene.tuned, scene, diff, [one.component for one in first], text)
    return tuple(
        one if one.tokens_up or one.tokens_down else one.model_copy(update=words.model_dump(include=TOKENS))
        for one, words in zip(first, read, strict=True)
    )


def interpret(
    bench: Bench, diff: Diff, shown: Shown, sheet: Sheet | None, seed: int, controls: Controls
) -> tuple[Interpretability, tuple[Trial, ...]]:
    """Have the judge explain findings, be tested on them, and conclude; its scores, and all it was asked.

    Args:
        bench: judge and pair.
        diff: what is judged.
        shown: its evidence.
        sheet: what is true of the pair; None: nobody knows.
        seed: of orders and pairings.
        controls: of the pair.

    Raises:
        JudgeError: if the judge could not be reached for some question, so that the cell is not finished.
        PluginError: if it raised anything else.
    """
    panel = Panel(bench.judge, notify=lambda done, n: report("judging", done / n))
    found = judge_findings(panel, shown.evidence, derive(seed, "judging"))
    notes = notes_of(shown.evidence, texts_of(found.trials))
    conclusion = conclude(panel, notes, diff.verdict, sheet, derive(seed, "statements"))
    reached(panel)
    trials = (*found.trials, *conclusion.trials)
    asked = asked_for(trials)
    tests = {test: found.judged(test, controls.random, controls.untrained) for test in TESTS}
    if shown.why is not None:
        none = shown.why
        tests = {
            test: one.model_copy(update=dict.fromkeys(("score", "shuffled", *OVER), none))
            for test, one in tests.items()
        }
    judged = Interpretability(
        judge=f"{bench.judge.name} {bench.judge.version}",
        **tests,
        findings=found.findings,
        match=conclusion.match,
        questions=asked.questions,
        unanswered=asked.unanswered,
        usage=asked.usage,
    )
    return judged, trials


def reached(panel: Panel) -> None:
    """Raise `JudgeError` where a judge did not get to answer; what it did answer is kept."""
    lost = [verdict for verdict in panel.asked.values() if verdict.state in ("failed", "unaffordable")]
    if lost:
        raise JudgeError(
            f"judge {panel.judge.name}: {len(lost)} of {len(panel.asked)} questions were not answered; the first: "
            f"{lost[0].problem}; run again: what was answered is kept"
        )


def no_control(why: Figure) -> ControlScores:
    """Where a control is not there."""
    return ControlScores(**{test: why for test in TESTS})


def measure_controls(bench: Bench) -> Controls:
    """The judge's controls on a pair, from the cache or measured now."""
    comparison = bench.comparison

    def fill(folder: Path) -> None:
        text = Corpus.load(comparison.path / "in" / TEXT)
        panel = Panel(bench.judge)
        controls = Controls(random=_random(bench, panel, text), untrained=_untrained(bench, panel, text, folder))
        reached(panel)
        (folder / FILE).write_text(controls.model_dump_json(), encoding="utf-8")

    path = cache.publish(CONTROLS, control_inputs(comparison, type(bench.judge)), fill)
    return Controls.model_validate(cache.read_json(path / FILE))


def _random(bench: Bench, panel: Panel, text: Corpus) -> ControlScores:
    """Of the first ten latents of a random dictionary."""
    comparison = bench.comparison
    activations = Activations.open(comparison.path / "in" / ACTIVATIONS)
    n = min(RANDOM_EXPANSION * activations.width, comparison.tier.components)
    seed = derive(comparison.organism.recipe.seed, "random dictionary")
    diff = random_dictionary(activations, n, RANDOM_K, seed)
    return _judged(panel, scene_of(bench), diff, text, seed).means()


def _untrained(bench: Bench, panel: Panel, text: Corpus, scratch: Path) -> ControlScores:
    """Of the first ten latents of a dictionary trained on the difference of two untrained models."""
    if sum(parameter.numel() for parameter in bench.tuned.parameters()) > MOST_PARAMETERS:
        return no_control(Figure.not_applicable(f"the models have over {MOST_PARAMETERS:,} parameters"))
    comparison, scene = bench.comparison, scene_of(bench)
    seed = derive(comparison.organism.recipe.seed, "untrained")
    reference, tuned = (untrained_model(bench.tuned, derive(seed, role)) for role in ("reference", "tuned"))
    diff = untrained_dictionary(reference, tuned, text, scene.layer, comparison.tier.components, seed, scratch)
    return _judged(panel, replace(scene, reference=reference, tuned=tuned), diff, text, seed).means()


def _judged(panel: Panel, scene: Scene, diff: DictionaryDiff, text: Corpus, seed: int) -> JudgedFindings:
    """A dictionary's first ten latents, described as a method would describe its own."""
    components = [int(component) for component in diff.order[:TOP]]
    findings = _described(scene.tuned, scene, diff, components, text)
    evidence = gather(scene, diff, findings, derive(seed, "excerpts"))
    return judge_findings(panel, evidence, seed)


def _described(
    tuned: Model, scene: Scene, diff: DictionaryDiff | DirectionDiff, components: Sequence[int], text: Corpus
) -> tuple[Finding, ...]:
    vectors = difference_decoder(diff) if isinstance(diff, DictionaryDiff) else diff.directions
    words = Lens.of(tuned, scene.tokenizer, text).read(vectors[list(components)])
    return tuple(
        Finding(rank=rank, component=component, score=0.0, tokens_up=tuple(up), tokens_down=tuple(down))
        for rank, (component, (up, down)) in enumerate(zip(components, words, strict=True), start=1)
    )
