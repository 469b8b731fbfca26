"""Arithmetic: what a record says twice has to agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_factory import scores

from diffbench.arithmetic import contradictions
from diffbench.figure import Figure
from diffbench.merging import RECORDS
from diffbench.record import read_record
from diffbench.scores import Scores

PUBLISHED = Path(__file__).parent.parent / "leaderboard" / RECORDS


def test_every_published_record_agrees_with_itself() -> None:
    paths = sorted(PUBLISHED.glob("*/cells/*/record.json"))
    found = [read_record(path).scores for path in paths]
    scored = [each for each in found if each is not None]
    assert len(scored) > 200 and not [line for each in scored for line in contradictions(each)]


def _published() -> Scores:
    paths = sorted(PUBLISHED.glob("*every-method/cells/*--diff-sae--*/record.json"))
    found = read_record(paths[0]).scores
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("part", "name", "told"),
    [
        ("recovery", "headline", "recovery.headline: 0.5 is not the mean of its budgets"),
        ("recovery", "budget_mean", "recovery.budget_mean: 0.5 is not the mean of its budgets"),
        ("claims", "recall", "claims.recall: 0.5, where "),
        ("localisation", "auroc_first", "localisation.auroc_first: 0.5 lies outside its own interval [0.9, 1]"),
    ],
)
def test_a_figure_that_was_changed_alone_is_found_out(part: str, name: str, told: str) -> None:
    honest = _published()
    block = getattr(honest, part)
    changed = Figure.of(0.5, 0.9, 1.0) if name == "auroc_first" else Figure.of(0.5)
    if name == "recall":
        block = block.model_copy(update={"found": ()})
    forged = honest.model_copy(update={part: block.model_copy(update={name: changed})})
    assert not list(contradictions(honest))
    assert any(line.startswith(told) for line in contradictions(forged)), list(contradictions(forged))


def test_a_mean_over_parts_that_are_none_is_none() -> None:
    honest = _published()
    gone = [point.model_copy(update={"lift": Figure.undefined("no KL")}) for point in honest.recovery.budgets]
    recovery = honest.recovery.model_copy(update={"budgets": tuple(gone)})
    forged = honest.model_copy(update={"recovery": recovery})
    assert [line for line in contradictions(forged) if "some have no number" in line]


def test_records_of_tests_are_honest_too() -> None:
    assert not list(contradictions(scores(0.25)))
