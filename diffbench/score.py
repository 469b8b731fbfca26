"""Score: all that a cell is scored by, from its Diff and the organism's Truth. Imports no plugin's code.

Everything here runs in the engine, after the method process is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffbench.activity import streams
from diffbench.atomic import write_text
from diffbench.attribution import Decoder, responsibility
from diffbench.attribution_score import score_attribution
from diffbench.behaviour import STRENGTHS, behave, no_behaviour
from diffbench.bench import Bench
from diffbench.causal_score import TOP, Causal, no_recovery, score_causal, without_truth
from diffbench.comparison import Comparison
from diffbench.corpus import Corpus
from diffbench.dashboard import DASHBOARD
from diffbench.diff import Diff, WeightDiff
from diffbench.diff_file import load_diff, save_header
from diffbench.disentangling import disentangle, no_disentangling
from diffbench.errors import BudgetExceeded
from diffbench.exchange import TEXT
from diffbench.expression import Arms
from diffbench.figure import Figure
from diffbench.fit_score import no_fit, score_fit
from diffbench.ground import Ground
from diffbench.handle import Handle, StreamHandle, handle_of
from diffbench.interpretability import measure_controls, show
from diffbench.interpretation import Controls, interpret, reached
from diffbench.lens import Lens
from diffbench.panel import VERDICTS, Panel, write_verdicts
from diffbench.patching import Patch, last_logits
from diffbench.picture import picture
from diffbench.probing import TruthScores, no_truth_scores, truth_scores
from diffbench.ranking import NoRanking, ranked
from diffbench.residual import Model, blocks, vocabulary, width
from diffbench.scores import Behaviour, Disentangling, Fit, Interpretability, Scores
from diffbench.seeds import derive
from diffbench.sheet import SHEET, sheet_of
from diffbench.tier import Tier
from diffbench.workwire import report

NO_TRUTH = Figure.not_applicable("no truth is known of this pair")
NO_CHANGE = Figure.not_applicable("nothing was changed on purpose, so there is nothing to find")


def score_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: score a Diff. Request: `Comparison.request`, judge, seed, diff (folder), ranking (column or None).

    With a ranking the Diff's components are put into that order first, which is written into its header.
    """
    folder = Path(request["diff"])
    diff = load_diff(folder)
    bench = Bench.open(Comparison.of(request), request["judge"], apart=isinstance(diff, WeightDiff))
    if request["ranking"] is not None:
        text = Corpus.load(bench.comparison.path / "in" / TEXT)
        check(diff, bench.tuned, bench.comparison.tier)
        try:
            lens = Lens.of(bench.tuned, bench.tokenizer, text)
            decoder: Decoder = "tuned" if request["ranking"].endswith("_tuned") else "difference"
            measure = partial(responsibility, reference=bench.reference, tuned=bench.tuned, text=text, decoder=decoder)
            diff = ranked(diff, request["ranking"], lens, measure)
        except NoRanking as reason:
            return {"not_applicable": str(reason)}
        save_header(diff, folder)
    scores = score(bench, diff, request["seed"], measure_controls(bench), folder.parent)
    return {"scores": scores.model_dump(mode="json")}


def control_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: have the judge score the random dictionary every cell is compared with."""
    bench = Bench.open(Comparison.of(request), request["judge"])
    return measure_controls(bench).model_dump(mode="json")


def score(bench: Bench, diff: Diff, seed: int, controls: Controls, kept: Path) -> Scores:
    """Score a Diff.

    Args:
        bench: the pair and the judge.
        diff: what is scored.
        seed: of all that is drawn.
        controls: the judge's on this pair.
        kept: folder that takes what the judge was shown, what was true, what it said, and what is drawn of the cell.

    Raises:
        DiffError: if the Diff does not fit the pair.
        BudgetExceeded: if it holds more components than the tier allows.
    """
    check(diff, bench.tuned, bench.comparison.tier)
    layer = bench.comparison.facts().layer
    ground = Ground.of(bench.comparison, bench.reference, bench.tuned)
    handle = _handle(diff, ground, layer)
    causal = Causal(no_recovery(handle), ()) if isinstance(handle, Figure) else _causal(ground, handle, seed)
    fit, size = _fit(ground, diff, handle)
    truth = _truth_scores(bench, diff, seed)
    localisation, direction, claims = (
        no_truth_scores(truth) if isinstance(truth, Figure) else (truth.localisation, truth.direction, truth.claims)
    )
    picture(bench, ground, diff).write(kept / DASHBOARD)
    return Scores(
        recovery=causal.recovery if bench.truth is not None else without_truth(causal.recovery, NO_TRUTH),
        behaviour=_behave(bench, ground, handle, causal),
        disentangling=_disentangle(bench, ground, handle, truth, seed),
        attribution=score_attribution(ground, diff, layer, derive(seed, "attribution")),
        fit=fit,
        localisation=localisation,
        direction=direction,
        claims=claims,
        interpretability=_interpret(bench, diff, truth, seed, controls, kept),
        change_score=Figure.of(diff.change_score) if diff.change_score is not None else size,
        verdict=diff.verdict,
        n_findings=len(diff.findings),
    )


def check(diff: Diff, tuned: Model, tier: Tier) -> None:
    """Raise `DiffError` or `BudgetExceeded` if a Diff does not fit the pair or the tier."""
    diff.check(width(tuned), len(blocks(tuned)), vocabulary(tuned))
    if diff.n_components > tier.components:
        raise BudgetExceeded(f"the Diff has {diff.n_components} components, the tier allows {tier.components}")


def _handle(diff: Diff, ground: Ground, layer: int) -> Handle | Figure:
    """The handle of a Diff, or why nothing causal can be asked of it."""
    handle = handle_of(diff, ground.reference, ground.tuned, layer)
    if handle is None:
        return Figure.not_applicable(f"a {diff.kind} diff has no edit of the models")
    if handle.layer != layer:
        return Figure.not_applicable(f"the Diff is about layer {handle.layer}, the run about layer {layer}")
    return handle


def _causal(ground: Ground, handle: Handle, seed: int) -> Causal:
    affected = streams(ground.reference, ground.tuned, ground.corpus, ground.corpus.affected, handle.layer)
    return score_causal(ground, handle, affected, derive(seed, "causal"))


def _fit(ground: Ground, diff: Diff, handle: Handle | Figure) -> tuple[Fit, Figure]:
    """How the Diff describes held-out rows, and its default change score."""
    if not isinstance(handle, StreamHandle):
        none = Figure.not_applicable(f"a {diff.kind} diff describes no activations")
        why = handle if isinstance(handle, Figure) else none
        return no_fit(why, diff.n_components), why
    rows = streams(ground.reference, ground.tuned, ground.corpus, ground.corpus.counts, handle.layer)
    return score_fit(handle.edit, rows, ground.limits[handle.layer])


def _truth_scores(bench: Bench, diff: Diff, seed: int) -> TruthScores | Figure:
    """Scores against the truth, or why there are none."""
    if bench.truth is None or not bench.truth.changed:
        return NO_TRUTH if bench.truth is None else NO_CHANGE
    return truth_scores(diff, bench.truth, bench.reference, bench.tuned, bench.tokenizer, seed)


def _interpret(
    bench: Bench, diff: Diff, truth: TruthScores | Figure, seed: int, controls: Controls, kept: Path
) -> Interpretability:
    """What the judge makes of the findings; evidence, truth and verdicts are written into ``kept``."""
    from diffbench.evidence_file import EVIDENCE, write_evidence

    shown = show(bench, diff, seed)
    sheet = None
    if bench.truth is not None:
        moved = () if isinstance(truth, Figure) else truth.moved
        sheet = sheet_of(bench.truth, bench.tokenizer, moved)
        write_text(kept / SHEET, sheet.model_dump_json(indent=1) + "\n")
    write_evidence(shown.evidence, kept / EVIDENCE)
    small = len(shown.evidence) + 2  # explanations come before the tests of them, an account and its grades after

    def told(done: int, n: int) -> None:
        if n > small:
            report("judging", done / n)

    report("judging", 0.0)
    panel = Panel(bench.judge, notify=told)
    judged, trials = interpret(panel, shown, sheet, seed, controls)
    reached(panel)
    write_verdicts(kept / VERDICTS, trials)
    return judged


def _behave(bench: Bench, ground: Ground, handle: Handle | Figure, causal: Causal) -> Behaviour:
    """What the top components do to the behaviour that the probes measure."""
    if bench.truth is None or not bench.truth.changed:
        return no_behaviour(NO_TRUTH if bench.truth is None else NO_CHANGE)
    if isinstance(handle, Figure):
        return no_behaviour(handle)
    if (same := ground.same()) is not None:
        return no_behaviour(same)
    top = handle.order()[:TOP]
    patches = [handle.arm(top, run="without")]
    patches += [handle.arm(top, run="model", factor=strength) for strength in STRENGTHS]
    return behave(bench.truth, bench.tokenizer, _arms(ground, patches), causal.spills, ground.floor)


def _disentangle(
    bench: Bench, ground: Ground, handle: Handle | Figure, truth: TruthScores | Figure, seed: int
) -> Disentangling:
    """Whether what finds one claim can be taken out alone."""
    if isinstance(truth, Figure) or bench.truth is None:
        return no_disentangling(truth if isinstance(truth, Figure) else NO_TRUTH)
    if isinstance(handle, Figure):
        return no_disentangling(handle)
    if (same := ground.same()) is not None:
        return no_disentangling(same)

    def without(sets: Sequence[tuple[int, ...]]) -> Arms:
        chosen = (torch.tensor(components) for components in sets)
        return _arms(ground, [handle.arm(components, run="without") for components in chosen])

    draw = derive(seed, "disentangling")
    return disentangle(bench.truth, bench.tokenizer, truth.location, handle.order(), without, draw)


def _arms(ground: Ground, patches: Sequence[Patch]) -> Arms:
    """Logits of the reference, of the tuned model, and of each edited run."""

    def said(batch: Corpus) -> Iterator[Tensor]:
        return last_logits(ground.reference, ground.tuned, batch, patches, ground.limits)

    return said
