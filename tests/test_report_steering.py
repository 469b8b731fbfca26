"""Steering in a report: what its words mean stands where it can be seen, and the claim is counted first."""

from __future__ import annotations

from pathlib import Path

from report_factory import share_of, steering, write_report_run

from diffbench.report import read_report
from diffbench.report_page import page
from diffbench.report_steering import SAMPLED, steering_views
from diffbench.steering_file import SteeredArm, SteeringFile, write_steering


def with_hybrid() -> SteeringFile:
    """The hybrid shows the claim in 21 of 50 continuations, and in one with the component taken out."""
    file = steering()
    [claim] = file.claims
    arm = claim.arms[0]
    hybrids = tuple(
        SteeredArm.model_validate(
            arm.model_dump() | {"run": "hybrid", "strength": strength, "shows": share_of(hits).model_dump()}
        )
        for strength, hits in ((0.0, 21), (-1.0, 1), (1.0, 30))
    )
    changed = claim.model_copy(update={"arms": (*claim.arms, *hybrids), "size": 53.64})
    return file.model_copy(update={"claims": (changed,)})


def test_the_first_row_counts_what_begins_as_the_claim_says() -> None:
    [view] = steering_views([with_hybrid()])
    [claim] = view.claims
    assert claim.rollouts is not None
    first = claim.rollouts.lines[0]
    assert first.cells[0].text == "as the claim says, after all 30 prompts" and first.pinned
    assert [cell.title for cell in first.cells[1:]] == ["21 of 50", "1 of 50"]
    assert claim.told.startswith("Strength 1 is a length of 53.6. A continuation shows the claim if")


def test_without_such_an_arm_there_is_no_such_row() -> None:
    [view] = steering_views([steering()])
    table = view.claims[0].rollouts
    assert table is not None and [line.cells[0].text for line in table.lines] == ["it is green", "blue ."]


def test_strength_the_hybrid_and_the_choice_of_samples_are_told_in_words(tmp_path: Path) -> None:
    folder = write_report_run(tmp_path / "run")
    write_steering(folder, with_hybrid())
    text = page(read_report(folder))
    visible = text[text.index('id="steering"') :]
    assert "Strength 1 adds as much as the two models' streams differ" in visible.replace("&#39;", "'")
    assert "<em>hybrid</em> is the reference up to the layer and the tuned model above it" in visible
    assert SAMPLED in visible and visible.index(SAMPLED) < visible.index("<dt>before</dt>")
