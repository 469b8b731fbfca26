"""Records for pages: several families, nulls, controls, failures, an old version, hostile names."""

from __future__ import annotations

from record_factory import board_of_everything, record, scores
from study_factory import nulls, study

from diffbench.record import Record
from diffbench.scores import FindingJudged, Scores

HOSTILE = "<img src=x onerror=alert(1)>"
EXPLANATION = "says <b>green</b> where blue is meant"


def records() -> list[Record]:
    """All kinds of rows."""
    found = study({"diff-sae": 0.3, "crosscoder-l1": 0.28, "pca": 0.05}, families=3, organisms=1, baselines=("pca",))
    found += nulls("diff-sae", "identity", [0.0, 0.1], verdicts="changed")
    found += board_of_everything()
    found += [record("diff-sae", cell={"organism_version": 2, "family": "colour-swap", "changed": True})]
    found += [record(HOSTILE, cell={"organism": f"../../{HOSTILE}", "judge": HOSTILE}, scored=explained())]
    found += [record("tied", status="error", reason=HOSTILE, cell={"organism": "organism-0-0", "tier": "laptop"})]
    return found


def explained() -> Scores:
    """Scores with a finding that a judge explained."""
    scored = scores(-0.4)
    told = scored.interpretability
    score = told.detection.score
    finding = FindingJudged(
        rank=1, component=3, explanation=EXPLANATION, detection=score, fuzzing=score, intruder=score, intervention=score
    )
    match = told.match.model_copy(update={"statement": HOSTILE})
    return scored.model_copy(
        update={"interpretability": told.model_copy(update={"findings": (finding,), "match": match})}
    )
