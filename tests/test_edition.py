"""Versions of organisms: what is superseded is shown, and pooled with nothing newer."""

from __future__ import annotations

from pathlib import Path

from record_factory import record, run_file
from study_factory import nulls, study

from diffbench import board_page
from diffbench.change_detection import change_detection
from diffbench.columns import rows
from diffbench.edition import current, kind_of, superseded
from diffbench.leaderboard import collect
from diffbench.run_folder import Run
from diffbench.standings import standings


def row(organism: str, version: int, reference: str = "base") -> dict[str, object]:
    return {"organism": organism, "organism_version": version, "reference": reference}


def test_an_older_version_is_superseded_at_every_seed_and_for_its_own_reference_alone() -> None:
    found = [row("a", 1), row("a@7", 1), row("a@8", 3), row("a", 1, "control"), row("b", 2), row("b", 10)]
    assert superseded(found) == {("a", "base", 1): 3, ("b", "base", 2): 10}
    assert current(found) == [row("a@8", 3), row("a", 1, "control"), row("b", 10)]
    assert superseded([]) == {} and current([]) == []
    assert kind_of("a@7") == kind_of("a") == "a"


def test_rows_that_nobody_scored_again_supersede_nothing_and_are_pooled_with_nothing() -> None:
    strange = row("a", 43) | {"verified": "unverified"}
    found = [row("a", 1), row("a", 2) | {"verified": "verified"}, strange]
    assert superseded(found) == {("a", "base", 1): 2} and current(found) == [found[1]]
    assert superseded([strange]) == {} and current([strange]) == []


def test_standings_and_detection_leave_them_out() -> None:
    methods = {"one": 0.3, "two": 0.1}
    known, strange = study(methods, families=4), study({"one": 9.0, "three": 1.0}, families=4, seed=5)
    frame = rows([*known, *strange])
    frame["verified"] = ["own"] * len(known) + ["unverified"] * len(strange)
    assert standings(frame, metrics=("headline",)) == standings(rows(known), metrics=("headline",))
    quiet, loud = nulls("one", "identity", [0.0] * 3), nulls("one", "identity", [5.0] * 3, seed=5, verdicts="changed")
    frame = rows([*quiet, *loud])
    frame["verified"] = ["verified"] * 3 + ["unverified"] * 3
    [table] = change_detection(frame)
    assert table.nulls == 3 and table.rows[0].alarms.value == 0


def test_standings_do_not_pool_versions() -> None:
    methods = {"one": 0.3, "two": 0.1}
    old, new = study(methods, families=4), study(methods, families=4, seed=1, organism_version=2)
    [both] = standings(rows([*old, *new]), metrics=("headline",))
    [alone] = standings(rows(new), metrics=("headline",))
    assert both == alone and both.places == 8


def test_detection_does_not_pool_versions() -> None:
    old = nulls("one", "identity", [5.0] * 4, verdicts="changed")
    new = nulls("one", "identity", [0.0] * 3, organism_version=2)
    [table] = change_detection(rows([*old, *new]))
    assert table.nulls == 3 and table.rows[0].alarms.value == 0


def test_the_page_keeps_and_labels_them() -> None:
    records = [record(cell={"organism_version": version}) for version in (1, 2)]
    page = board_page.page(collect([Run(Path("runs/demo"), run_file(), tuple(records), (), ())]))
    old, new = page.index("## halfswap v1"), page.index("## halfswap v2")
    assert "Superseded by version 2" in page[old:new] and "Superseded" not in page[new:]
