"""Interpretability of a cell: what the judge is asked, on which text, and what is subtracted from it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import dictionary_diff, one_of_each
from score_factory import NO_CONTROLS, TIER, Prepared, SilentJudge
from torch import Tensor

from diffbench import gathering
from diffbench.activations import Activations
from diffbench.activity import activity
from diffbench.canonical import digest
from diffbench.comparison import control_inputs
from diffbench.controls import random_dictionary
from diffbench.corpus import Corpus
from diffbench.diff import Diff, Finding
from diffbench.errors import JudgeError
from diffbench.evidence import Contexts, active_mask
from diffbench.evidence_file import EVIDENCE, read_evidence
from diffbench.figure import Figure
from diffbench.gathering import Scene, gather
from diffbench.interpretability import Controls, measure_controls, no_control, scene_of, show
from diffbench.judge import Reply
from diffbench.offline_judge import OfflineJudge
from diffbench.panel import VERDICTS, read_verdicts
from diffbench.question import Question
from diffbench.residual import load_model
from diffbench.score import Bench, score
from diffbench.scores import ControlScores
from diffbench.seeds import derive
from diffbench.sheet import SHEET, Sheet
from diffbench.trial import TESTS, Trial

pytest_plugins = ("score_factory",)

JUDGING = importlib.import_module("diffbench.interpretability")


class Watching(OfflineJudge):
    """The offline judge, remembering what it was asked."""

    name = "watching"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def answer(self, question: Question) -> Reply:
        self.asked.append(question)
        return super().answer(question)


def found_by(diff: Diff, order: Sequence[int]) -> Diff:
    """With findings whose words say which component they are of."""
    findings = tuple(
        Finding(rank=rank, component=c, score=0.0, tokens_up=(f"up{c}",), tokens_down=(f"down{c}",))
        for rank, c in enumerate(order, start=1)
    )
    return replace(diff, findings=findings)


@pytest.fixture
def bench(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A few contexts are enough for a judge in the small text of the stand-in."""
    monkeypatch.setattr("diffbench.judging.MIN_CONTEXTS", 2)
    monkeypatch.setattr("diffbench.trial.MIN_CONTEXTS", 2)
    monkeypatch.setattr("diffbench.trial.MIN_PICKS", 1)
    return replace(prepared.bench, judge=Watching())


def test_the_judge_is_asked_about_ten_findings_on_a_split_of_its_own(bench: Bench, tmp_path: Path) -> None:
    corpus = bench.corpus("judge")
    diff = dictionary_diff("delta", layer=bench.comparison.facts().layer)
    diff = found_by(diff, diff.order[:12].tolist())
    known = {test: Figure.of(0.4, 0.3, 0.5) for test in TESTS}
    controls = Controls(random=ControlScores(**known), untrained=no_control(Figure.undefined("not asked")))
    scores = score(bench, diff, 7, controls, tmp_path).interpretability
    shown = read_evidence(tmp_path / EVIDENCE)
    assert [(one.rank, one.component) for one in shown] == [(n + 1, int(c)) for n, c in enumerate(diff.order[:10])]
    strengths = activity(diff, bench.reference, bench.tuned, corpus, corpus.counts)
    text = {
        tuple(bench.tokenizer.convert_ids_to_tokens(ids[mask]))
        for ids, mask in zip(corpus.ids, corpus.mask, strict=True)
    }
    for one in shown:
        assert one.n_positions == corpus.n_tokens
        assert one.n_active == int((strengths[:, one.component] > 0).sum())
        assert one.evidence.tokens_up == (f"up{one.component}",)
        for excerpt in (*one.evidence.excerpts, *one.tests):
            assert any(
                excerpt.tokens == words[at : at + len(excerpt.tokens)] for words in text for at in range(len(words))
            )
    trials = read_verdicts(tmp_path / VERDICTS, Trial)
    assert isinstance(bench.judge, Watching)
    assert {trial.verdict.question for trial in trials} and len(bench.judge.asked) == scores.questions
    assert scores.unanswered == 0 and scores.judge == "watching 2"
    tested = [finding for finding in scores.findings if finding.detection.value is not None]
    assert tested and scores.detection.score.value is not None
    assert scores.detection.over_random.value == pytest.approx(scores.detection.score.value - 0.4)
    assert scores.detection.over_untrained.state == "undefined"
    sheet = Sheet.model_validate_json((tmp_path / SHEET).read_text())
    assert sheet.changed and scores.match.structured.value is not None


def test_nothing_that_names_method_pair_or_component_reaches_the_judge(bench: Bench, tmp_path: Path) -> None:
    diff = dictionary_diff("delta", layer=bench.comparison.facts().layer)
    diff = replace(found_by(diff, diff.order[:10].tolist()), notes={"canary": "canary-method"})
    score(bench, diff, 0, NO_CONTROLS, tmp_path)
    assert isinstance(bench.judge, Watching)
    asked = "".join(question.model_dump_json() for question in bench.judge.asked if question.kind != "grade")
    recipe = bench.comparison.organism.recipe
    for told in ("canary", recipe.name, recipe.family, '"component"', '"rank"', str(bench.comparison.path)):
        assert told not in asked, told


def test_findings_without_words_get_those_of_a_logit_lens(bench: Bench) -> None:
    activations = Activations.open(bench.comparison.path / "in" / "activations.safetensors")
    diff = random_dictionary(activations, 40, 8, 3)
    diff = found_by(diff, diff.order[:3].tolist())
    bare = [
        diff.findings[0],
        *(one.model_copy(update={"tokens_up": (), "tokens_down": ()}) for one in diff.findings[1:]),
    ]
    first, *others = show(bench, replace(diff, findings=tuple(bare)), 0).evidence
    assert first.evidence.tokens_up == diff.findings[0].tokens_up, "the method's own words stay"
    assert all(one.evidence.tokens_up and one.evidence.tokens_down for one in others)


def test_what_cannot_be_asked_is_not_applicable(bench: Bench, tmp_path: Path) -> None:
    diff = dictionary_diff("delta", layer=bench.comparison.facts().layer)
    none = score(bench, replace(diff, findings=()), 0, NO_CONTROLS, tmp_path).interpretability
    assert {getattr(none, test).score.state for test in TESTS} == {"n/a"} and none.findings == ()
    assert none.match.verdict is not None, "what the method concludes is heard all the same"
    assert read_evidence(tmp_path / EVIDENCE) == ()
    for kind in ("direction", "output"):
        other = one_of_each()[kind]
        other = replace(other, layer=diff.layer) if kind == "direction" else other
        found = score(bench, found_by(other, [0]), 0, NO_CONTROLS, tmp_path).interpretability
        assert len(found.findings) == 1


def test_a_judge_that_is_not_reached_leaves_the_cell_unfinished(bench: Bench, tmp_path: Path) -> None:
    class Gone(Watching):
        def answer(self, question: Question) -> Reply:
            if len(self.asked) > 5:
                raise JudgeError("no route")
            return super().answer(question)

    diff = dictionary_diff("delta", layer=bench.comparison.facts().layer)
    with pytest.raises(JudgeError, match=r"questions were not answered; the first: .*no route"):
        score(replace(bench, judge=Gone()), found_by(diff, diff.order[:4].tolist()), 0, NO_CONTROLS, tmp_path)


def test_equal_cells_leave_equal_bytes(bench: Bench, tmp_path: Path) -> None:
    diff = dictionary_diff("delta", layer=bench.comparison.facts().layer)
    diff = found_by(diff, diff.order[:4].tolist())
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        scores = score(replace(bench, judge=OfflineJudge()), diff, 0, NO_CONTROLS, tmp_path / name)
        files = {file: (tmp_path / name / file).read_bytes() for file in (EVIDENCE, VERDICTS, SHEET)}
        found.append((scores.interpretability, files))
    assert found[0] == found[1]


def test_evidence_says_what_the_models_do_where_the_component_is_active(bench: Bench) -> None:
    layer = bench.comparison.facts().layer
    scene = scene_of(bench)
    activations = Activations.open(bench.comparison.path / "in" / "activations.safetensors")
    diff = random_dictionary(activations, 40, 8, 3)
    diff = found_by(replace(diff, layer=layer), diff.order[:6].tolist())
    shown = show(bench, diff, 0).evidence
    assert any(one.evidence.kl_up for one in shown) and any(one.evidence.kl_down for one in shown)
    assert any(one.evidence.effect is not None for one in shown)
    assert all(one.evidence.effect is None or one.evidence.effect <= 1.0 + 1e-6 for one in shown)
    assert any(pair.plain != pair.steered for one in shown for pair in one.steered)
    same = replace(scene, tuned=scene.reference)
    for one in gather(same, diff, diff.findings, 0):
        assert (one.evidence.kl_up, one.evidence.kl_down, one.evidence.effect) == ((), (), None)


def test_components_are_steered_together_as_each_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that adds nothing and one that leads to NaN have nothing to show, and take nothing from the others."""
    scene = scene_of(bench)
    activations = Activations.open(bench.comparison.path / "in" / "activations.safetensors")
    diff = random_dictionary(activations, 40, 8, 3)
    first, silent, loud, last = diff.order[:4].tolist()
    together = gathering._Handle.of(scene, diff).steered([first, silent, loud, last])
    assert all(together) and len(set(together)) == 4
    assert together == [gathering._Handle.of(scene, diff).steered([one])[0] for one in (first, silent, loud, last)]
    assert gathering._Handle.of(scene, diff).steered([]) == []
    assert diff.decoder is not None
    decoder = diff.decoder.clone()
    decoder[silent] = 0
    length = gathering._Handle._length

    def of_length(self: Any, component: int) -> Any:
        found = length(self, component)
        return replace(found, size=float("inf")) if component == loud else found

    monkeypatch.setattr(gathering._Handle, "_length", of_length)
    found = gathering._Handle.of(scene, replace(diff, decoder=decoder)).steered([first, silent, loud, last])
    assert found == [together[0], (), (), together[3]]


def test_the_effect_is_what_hooks_of_ones_own_measure(bench: Bench) -> None:
    scene = scene_of(bench)
    activations = Activations.open(bench.comparison.path / "in" / "activations.safetensors")
    diff = random_dictionary(activations, 40, 8, 3)
    diff = found_by(diff, diff.order[:6].tolist())
    shown = gather(scene, diff, diff.findings, 0)
    contexts = Contexts.of(scene.tokens, scene.corpus.counts.nonzero(), 0)
    sizes = activity(diff, scene.reference, scene.tuned, scene.corpus, scene.corpus.counts).double().abs()
    checked = 0
    for one in shown:
        size = sizes[:, one.component]
        there = gathering._there(scene, contexts, size, active_mask(size, True))
        if there is None or one.evidence.effect is None:
            continue
        assert diff.decoder is not None
        plain, edited, tuned = _logits(scene, diff, there.batch, one.component)
        log_t = tuned[there.where].double().log_softmax(-1)

        def kl(logits: Tensor, log_t: Tensor = log_t, where: Tensor = there.where) -> float:
            return float((log_t.exp() * (log_t - logits[where].double().log_softmax(-1))).sum(-1).mean())

        assert one.evidence.effect == pytest.approx(1 - kl(edited) / kl(plain), abs=1e-4)
        checked += 1
    assert checked


def _logits(scene: Scene, diff: Diff, batch: Corpus, component: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, L, V] of the reference, of the reference with one latent added by a hook, and of the tuned model."""
    asked = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    with torch.no_grad():
        plain, tuned = (m(**asked, output_hidden_states=True) for m in (scene.reference, scene.tuned))
        h_b, h_t = (out.hidden_states[scene.layer + 1] for out in (plain, tuned))
        delta = h_t - h_b
        f = (delta @ diff.encoder[component] + diff.encoder_bias[component]).clamp_min(0)  # type: ignore[union-attr]
        f = f * (f > diff.threshold[component])  # type: ignore[union-attr,index]
        added = (f * batch.counts)[..., None] * diff.decoder[component]  # type: ignore[union-attr,index]

        def add(_module: Any, _args: Any, out: Any) -> Any:
            return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

        hook = scene.reference.model.layers[scene.layer].register_forward_hook(add)
        edited = scene.reference(**asked)
        hook.remove()
    return plain.logits, edited.logits, tuned.logits


def test_the_controls_are_a_random_dictionary_and_untrained_models(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Watching):
        name = "other"

    made: list[Any] = []

    def watch(activations: Activations, *passed: int) -> Any:
        made.append((passed, random_dictionary(activations, *passed)))
        return made[-1][1]

    seen: list[tuple[Any, Any]] = []
    judge_findings = JUDGING.judge_findings

    def judged(panel: Any, evidence: Any, seed: int) -> Any:
        found = judge_findings(panel, evidence, seed)
        seen.append((evidence, found))
        return found

    monkeypatch.setattr(JUDGING, "random_dictionary", watch)
    monkeypatch.setattr(JUDGING, "judge_findings", judged)
    monkeypatch.setattr("diffbench.untrained.BATCH", 64)
    small = replace(bench.comparison, tier=TIER.model_copy(update={"components": 40}))
    bench = replace(bench, comparison=small, judge=Other())
    controls = measure_controls(bench)
    [(passed, diff)] = made
    seed = derive(small.organism.recipe.seed, "random dictionary")
    assert passed == (40, 8, seed)
    (random, means), (untrained, others) = seen
    components = [one.component for one in random]
    assert components == diff.order[:10].tolist() and components != list(range(10))
    assert all(one.evidence.tokens_up and one.evidence.tokens_down for one in (*random, *untrained))
    assert controls.random == means.means() and controls.untrained == others.means()
    assert measure_controls(bench) == controls and len(made) == 1, "from the cache"


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
