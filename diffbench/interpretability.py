"""Interpretability: what a judge makes of a Diff's findings, beside what it makes of things that mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

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
from diffbench.exchange import ACTIVATIONS, TEXT
from diffbench.figure import Figure
from diffbench.finding_evidence import FindingEvidence
from diffbench.gathering import Scene, gather
from diffbench.interpretation import Controls, Shown, no_control, reached
from diffbench.judging import JudgedFindings, judge_findings, texts_of
from diffbench.lens import Lens
from diffbench.movement import movements
from diffbench.panel import Panel
from diffbench.residual import last_logits
from diffbench.scores import ControlScores, TruthMatch
from diffbench.seeds import derive
from diffbench.sheet import Sheet, sheet_of
from diffbench.untrained import MOST_PARAMETERS, untrained_dictionary, untrained_model

__all__ = ["Controls", "Shown", "measure_controls", "no_control", "scene_of", "show"]

TOP = 10
RANDOM_EXPANSION, RANDOM_K = 4, 8
FILE = "scores.json"
TOKENS = {"tokens_up", "tokens_down"}


def scene_of(bench: Bench) -> Scene:
    """The pair with the judge's split."""
    comparison = bench.comparison
    seed = derive(comparison.organism.recipe.seed, "scene")
    layer = comparison.facts().layer
    return Scene(bench.reference, bench.tuned, bench.tokenizer, bench.corpus("judge"), layer, seed)


def show(bench: Bench, diff: Diff, seed: int) -> Shown:
    """Gather the evidence of the first ten findings."""
    if not diff.findings:
        return Shown((), Figure.not_applicable("the Diff has no findings"), diff.verdict)
    if not has_activity(diff):
        return Shown((), Figure.not_applicable("the Diff has no per-token activity"), diff.verdict)
    scene = scene_of(bench)
    return Shown(gather(scene, diff, _worded(bench, scene, diff), derive(seed, "excerpts")), None, diff.verdict)


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


def measure_controls(bench: Bench) -> Controls:
    """The judge's controls on a pair, from the cache or measured now."""
    comparison = bench.comparison

    def fill(folder: Path) -> None:
        text = Corpus.load(comparison.path / "in" / TEXT)
        panel = Panel(bench.judge)
        random, match = _random(bench, panel, text)
        controls = Controls(random=random, untrained=_untrained(bench, panel, text, folder), match=match)
        reached(panel)
        (folder / FILE).write_text(controls.model_dump_json(), encoding="utf-8")

    path = cache.publish(CONTROLS, control_inputs(comparison, type(bench.judge)), fill)
    return Controls.model_validate(cache.read_json(path / FILE))


def _random(bench: Bench, panel: Panel, text: Corpus) -> tuple[ControlScores, TruthMatch]:
    """Of the first ten latents of a random dictionary; and what the judge concludes from them."""
    comparison = bench.comparison
    activations = Activations.open(comparison.path / "in" / ACTIVATIONS)
    n = min(RANDOM_EXPANSION * activations.width, comparison.tier.components)
    seed = derive(comparison.organism.recipe.seed, "random dictionary")
    diff = random_dictionary(activations, n, RANDOM_K, seed)
    evidence, found = _judged(panel, scene_of(bench), diff, text, seed)
    notes = notes_of(evidence, texts_of(found.trials))
    return found.means(), conclude(panel, notes, "abstain", _sheet(bench), derive(seed, "statements")).match


def _sheet(bench: Bench) -> Sheet | None:
    """What is true of the pair; None: nobody knows."""
    if bench.truth is None:
        return None

    def pair(batch: Corpus) -> Iterator[Tensor]:
        for model in (bench.reference, bench.tuned):
            yield last_logits(model, batch.ids, batch.mask)

    moved = movements(bench.truth, bench.tokenizer, pair) if bench.truth.changed else ()
    return sheet_of(bench.truth, bench.tokenizer, moved)


def _untrained(bench: Bench, panel: Panel, text: Corpus, scratch: Path) -> ControlScores:
    """Of the first ten latents of a dictionary trained on the difference of two untrained models."""
    if sum(parameter.numel() for parameter in bench.tuned.parameters()) > MOST_PARAMETERS:
        return no_control(Figure.not_applicable(f"the models have over {MOST_PARAMETERS:,} parameters"))
    comparison, scene = bench.comparison, scene_of(bench)
    seed = derive(comparison.organism.recipe.seed, "untrained")
    reference, tuned = (untrained_model(bench.tuned, derive(seed, role)) for role in ("reference", "tuned"))
    diff = untrained_dictionary(reference, tuned, text, scene.layer, comparison.tier.components, seed, scratch)
    return _judged(panel, replace(scene, reference=reference, tuned=tuned), diff, text, seed)[1].means()


def _judged(
    panel: Panel, scene: Scene, diff: DictionaryDiff, text: Corpus, seed: int
) -> tuple[tuple[FindingEvidence, ...], JudgedFindings]:
    """A dictionary's first ten latents, described as a method would describe its own."""
    components = [int(component) for component in diff.order[:TOP]]
    findings = _described(scene.tuned, scene, diff, components, text)
    evidence = gather(scene, diff, findings, derive(seed, "excerpts"))
    return evidence, judge_findings(panel, evidence, seed)


def _described(
    tuned: Model, scene: Scene, diff: DictionaryDiff | DirectionDiff, components: Sequence[int], text: Corpus
) -> tuple[Finding, ...]:
    vectors = difference_decoder(diff) if isinstance(diff, DictionaryDiff) else diff.directions
    words = Lens.of(tuned, scene.tokenizer, text).read(vectors[list(components)])
    return tuple(
        Finding(rank=rank, component=component, score=0.0, tokens_up=tuple(up), tokens_down=tuple(down))
        for rank, (component, (up, down)) in enumerate(zip(components, words, strict=True), start=1)
    )
