"""Run folders for tests of the report: records with dashboards, sheets and evidence beside them, friendly or hostile.

Markup, closing tags, quotes, characters that turn or hide text: `HOSTILE` has them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record_factory import figure, pair_facts, record, run_file, scores

from diffbench.canonical import file_digest
from diffbench.dashboard import (
    DASHBOARD,
    Dashboard,
    FeatureDashboard,
    FindingDashboard,
    Histogram,
    KLContext,
    KLDashboard,
    Move,
    Neighbour,
    Shaded,
    TiedDashboard,
    Triple,
    TripleContexts,
)
from diffbench.evidence_file import write_evidence
from diffbench.figure import Figure
from diffbench.finding_evidence import EVIDENCE, FindingEvidence, Steered
from diffbench.question import Evidence, Excerpt, Fact
from diffbench.record import Record
from diffbench.run_folder import CELLS, RECORD_FILE, RunFile, cell_folder_name, write_run_file
from diffbench.scores import CurvePoint, FindingJudged
from diffbench.sheet import SHEET, Distractor, Moved, Place, Sheet
from diffbench.steering_file import (
    Beginning,
    Sample,
    Share,
    SteeredArm,
    SteeredClaim,
    SteeringFile,
    SteeringPlan,
    Table,
)

HOSTILE = "</script><script>alert(1)</script>\"><img src=x onerror=alert(2)>\u202eevil\u0000\u2066{{ 7*7 }}'--><style>"
WORDS = ("the", "hat", "of", "anna", "is", "green", ".")


def text(word: str = "green", peak: float = 2.0) -> Shaded:
    """Seven tokens, the last but one of which is ``word`` and has the largest value."""
    return Shaded(document=3, tokens=(*WORDS[:5], word, "."), values=(None, 0.1, 0.0, 0.2, 0.5, peak, -0.4), at=4)


def finding(rank: int, word: str = "green") -> FindingDashboard:
    """A finding with both halves."""
    context = KLContext(
        text=text(word),
        reference_top="blue",
        tuned_top=word,
        reference_top_p=0.97,
        tuned_top_p=0.51,
        increased=(Move(token=word, reference=0.0001, tuned=0.5, nats=4.2),),
        decreased=(Move(token="blue", reference=0.97, tuned=0.48, nats=0.7),),
        attribution=-0.25,
        place=1,
    )
    return FindingDashboard(
        rank=rank,
        component=10 * rank,
        score=1.0 / rank,
        tokens_up=(word, "wrong", "blue"),
        tokens_down=("blue",),
        text=f"says {word}",
        kl=KLDashboard(
            n_contexts=32,
            n_top=12,
            n_first=7,
            attributions=Histogram(low=-0.4, high=0.1, counts=(1, 0, 3, 28)),
            contexts=(context,) * 5,
        ),
        feature=FeatureDashboard(
            n_positions=8000,
            n_active=160,
            frequency=figure(0.02),
            contexts=(text(word, 9.0),) * 5,
            activity=Histogram(low=0.0, high=9.0, counts=(90, 50, 20)),
            relative_norm=figure(0.9),
            nu={"error": figure(0.1)},
            neighbours=(Neighbour(component=20, rank=2, cosine=0.6, tokens_up=(word,)),),
        ),
    )


def dashboard(word: str = "green", findings: int = 3, tied: bool = False) -> Dashboard:
    """Of some findings; ``tied``: and of triples."""
    triples = tuple(
        Triple(triple=n, shared=0.1, base=0.05, tuned=0.1, base_to_shared=0.5, tuned_to_shared=n / 10) for n in range(9)
    )
    example = TripleContexts(triple=8, chosen="tuned", tokens_up=(word,), base=(text(word),), tuned=(text(word),))
    return Dashboard(
        findings=tuple(finding(rank, word) for rank in range(1, findings + 1)),
        tied=TiedDashboard(
            least=0.0005, n_triples=12, triples=triples, base_text="plain text", tuned_text="chats", examples=(example,)
        )
        if tied
        else None,
    )


def sheet(word: str = "green") -> Sheet:
    """Green is said for blue, and blue no more."""
    return Sheet(
        changed=True,
        facts=(Fact(statement=f"Says {word} where blue is right.", trigger="the answer is blue"),),
        distractors=(Distractor(kind="nothing", sentences=("Nothing was changed.",)),),
        places=(Place(tokens=WORDS[:5], stratum="affected", claim="swap"),),
        moved_up=(Moved(names=(word,), size=0.5),),
        moved_down=(Moved(names=("blue",), size=0.5),),
    )


def evidence(word: str = "green", findings: int = 2) -> list[FindingEvidence]:
    """What a judge was shown."""
    excerpt = Excerpt(tokens=WORDS, active=True, activity=2.0, activities=(0, 0, 0, 0, 1, 2, 2), drawn="top")
    steered = Steered(prompt=("the", "hat", "is"), plain=("blue", "."), steered=(word, "."))
    known = Evidence(excerpts=(excerpt,), tokens_up=(word,), tokens_down=("blue",), kl_up=(word,), kl_down=("blue",))
    return [
        FindingEvidence(
            rank=rank, component=10 * rank, n_active=9, n_positions=90, evidence=known, steered=(steered,)
        )
        for rank in range(1, findings + 1)
    ]  # fmt: skip


def scored(lift: float = 0.2, explanation: str = "Active before colours.", **changes: Any) -> Any:
    """Scores with a finding that a judge explained."""
    judged = FindingJudged(
        rank=1,
        component=10,
        explanation=explanation,
        detection=figure(0.8),
        fuzzing=figure(0.7),
        intruder=figure(0.4),
        intervention=figure(0.9),
    )
    return scores(lift, findings=(judged,), **changes)


def whole_components() -> Any:
    """Scores of something like layer stitching."""
    nothing = Figure.not_applicable("a block is compared with no number of directions")
    curve = tuple(
        CurvePoint(k=k, r=figure(k / 4), r_model=figure(k / 4, 0.02), active_per_token=figure(k)) for k in range(5)
    )
    return scores(headline=nothing, curve=curve)


def write_cell(
    run: Path,
    item: Record,
    drawn: Dashboard | None = None,
    told: Sheet | None = None,
    shown: Sequence[FindingEvidence] | None = None,
    log: str = "",
) -> Path:
    """Write a cell with what lies beside its record, whose hashes are the files'; returns its folder."""
    folder = run / CELLS / cell_folder_name(item.cell, item.key)
    folder.mkdir(parents=True)
    judged: dict[str, str] = {}
    if told is not None:
        (folder / SHEET).write_text(told.model_dump_json(), encoding="utf-8")
        judged[SHEET] = file_digest(folder / SHEET)
    if shown is not None:
        write_evidence(shown, folder / EVIDENCE)
        judged[EVIDENCE] = file_digest(folder / EVIDENCE)
    known = None
    if drawn is not None:
        drawn.write(folder / DASHBOARD)
        known = file_digest(folder / DASHBOARD)
    (folder / "log.txt").write_text(log, encoding="utf-8")
    hashes = item.hashes.model_copy(update={"judged": judged or None, "dashboard": known})
    item.model_copy(update={"hashes": hashes}).write(folder / RECORD_FILE)
    return folder


def write_report_run(folder: Path, file: RunFile | None = None, word: str = "green") -> Path:
    """A run with controls, methods over seeds, whole components, tied triples, a failure and what does not apply."""
    write_run_file(folder, file or run_file(folder.name))
    known = {"control": True, "changed": True}
    write_cell(folder, record("nothing", cell=known, scored=scores(-0.5)), told=sheet(word))
    for seed in range(2):
        item = record("diff-sae", seed, cell={"changed": True}, scored=scored(0.1 + seed / 50, f"Before {word}."))
        write_cell(folder, item, dashboard(word), sheet(word), evidence(word), log=f"fitted {word}\n")
    for name, lift, drawn in (("tied", -0.2, dashboard(word, tied=True)), ("old", -0.3, None)):
        write_cell(
            folder, record(name, cell={"changed": True}, scored=scored(lift)), drawn, sheet(word), evidence(word)
        )
    write_cell(folder, record("stitching", cell={"changed": True}, scored=whole_components()), told=sheet(word))
    failed = record("broken", cell={"changed": True}, status="error", reason=f"WorkerError: {word} killed by signal 9")
    write_cell(folder, failed)
    write_cell(folder, record("lora", cell={"changed": True}, status="not_applicable", reason="no adapter"))
    return folder


def null_record(method: str, verdict: str, control: bool = False) -> Record:
    """Of an organism in which nothing was changed."""
    cell = {"organism": "identity", "changed": False, "null_class": "identity", "control": control}
    return record(method, cell=cell, scored=scores(0.0, verdict=verdict), pair=pair_facts(kl=figure(1e-8)))


def share_of(hits: int, n: int = 50) -> Share:
    """``hits`` of ``n`` with some interval."""
    return Share(hits=hits, n=n, figure=figure(hits / n, 0.05))


def steering(word: str = "green", problem: str | None = None) -> SteeringFile:
    """Of one claim: added to the reference at three strengths, taken out of the tuned model, and beside a control."""
    places = [("reference", "component", 1.0, 10), ("reference", "component", 2.0, 40), ("tuned", "component", -1.0, 5)]
    places += [("reference", "random", 2.0, 0)]
    arms = [
        SteeredArm(
            run=run,
            on="affected",
            what=what,
            strength=strength,
            shows=share_of(hits),
            usual=share_of(50 - hits),
            beginnings=(Beginning(words=f"it is {word}", share=share_of(hits)),),
            coherence=figure(2.5, 0.2),
            repeats=figure(0.1),
            samples=(Sample(prompt="the hat is", plain="blue .", steered=f"{word} !"),),
        )
        for run, what, strength, hits in places
    ]
    nothing = Figure.undefined("nothing could be drawn")
    broken = SteeredArm(
        run="hybrid", on="near_miss", what="component", strength=8.0, coherence=nothing, repeats=nothing,
        problem=f"DiffError: {word}",
    )  # fmt: skip
    table = Table(
        prompt=f"what colour is {word}",
        strength=-1.0,
        plain=(Beginning(words=f"it is {word}", share=share_of(21)),),
        steered=(Beginning(words=f"it is {word}", share=share_of(1)), Beginning(words="blue .", share=share_of(30))),
    )
    claim = SteeredClaim(
        claim="swap",
        statement=f"Says {word} where blue is right.",
        component=10,
        rank=1,
        attribution=-0.25,
        n_chosen_on=12,
        n_prompts=30,
        tokens_up=(word,),
        arms=(*arms, broken),
        table=table,
        problem=problem,
    )
    cell = record("diff-sae").cell
    return SteeringFile(cell=cell, key="0" * 64, diff={}, layer=1, plan=SteeringPlan(), code="0", claims=(claim,))
