"""Two states of a leaderboard: what came, what went, what moved, and nothing else."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from record_factory import ABSENT, figure, record, scores, write_run
from study_factory import study

from diffbench.board_diff import BoardDiff, compare_boards
from diffbench.cli import main
from diffbench.errors import RecordError
from diffbench.leaderboard import LEADERBOARD_SCHEMA, build
from diffbench.record import Record
from diffbench.verification import Tolerance

TOLERANCE = Tolerance(absolute=0.001, relative=0)


def some(**changed: Any) -> list[Record]:
    """Three rows; a change replaces the record of a method."""
    rows = {name: record(name, scored=scores(lift)) for name, lift in (("a-sae", 0.1), ("b-sae", 0.2), ("pca", 0.0))}
    return list({**rows, **changed}.values())


def diff(tmp_path: Path, before: list[Record], after: list[Record]) -> BoardDiff:
    one, two = write_run(tmp_path / "before", before), write_run(tmp_path / "after", after)
    return compare_boards(one, two, TOLERANCE)


def test_equal_states_differ_in_nothing_whatever_their_order(tmp_path: Path) -> None:
    shuffled = some()
    random.Random(0).shuffle(shuffled)
    found = diff(tmp_path, some(), shuffled)
    assert found.same and (found.rows_before, found.rows_after) == (3, 3)


def test_rows_come_and_go(tmp_path: Path) -> None:
    found = diff(tmp_path, some(), [*some()[1:], record("new-sae"), record("pca", seed=1)])
    assert [(row.row, row.seed) for row in found.added] == [("new-sae", 0), ("pca", 1)]
    assert [row.row for row in found.removed] == ["a-sae"] and found.changed == ()


def test_rows_that_differ_in_their_version_alone_are_told_apart(tmp_path: Path) -> None:
    found = diff(tmp_path, [record("pca")], [record("pca", cell={"method_version": 2, "organism_version": 2})])
    [new], [old] = found.added, found.removed
    assert (new.organism_version, old.organism_version) == (2, 1) and new.variant != old.variant


def test_a_row_of_other_code_is_the_same_row(tmp_path: Path) -> None:
    """It has another key and hashes, and its figures are what is compared."""
    old = record("pca", scored=scores(0.0))
    other = old.model_copy(update={"key": "f" * 64, "hashes": old.hashes.model_copy(update={"score_code": "new"})})
    assert diff(tmp_path, some(), some(pca=other)).same


def test_figures_that_moved_are_told_from_and_to(tmp_path: Path) -> None:
    moved = record("pca", scored=scores(0.0, r_full=figure(0.5), fve=ABSENT, verdict="unchanged", l0=figure(7.9005)))
    [row] = diff(tmp_path, some(), some(pca=moved)).changed
    assert row.row == "pca" and [(move.name, move.before, move.after) for move in row.moves] == [
        ("verdict", "changed", "unchanged"),
        ("r_full", 0.97, 0.5),
        ("fve", 0.91, "n/a"),
    ]


def test_a_cell_that_failed_is_a_change(tmp_path: Path) -> None:
    [row] = diff(tmp_path, some(), some(pca=record("pca", status="error", reason="killed"))).changed
    assert ("status", "ok", "error") in [(move.name, move.before, move.after) for move in row.moves]
    assert ("headline", 0.0, "error") in [(move.name, move.before, move.after) for move in row.moves]


def test_of_several_records_of_a_cell_the_one_that_counts_is_compared(tmp_path: Path) -> None:
    newer = record("pca", scored=scores(0.3), key="f" * 64, timings={"started": "2027-01-01T00:00:00Z"})
    [row] = diff(tmp_path, some(), [*some(), newer]).changed
    assert ("headline", 0.0, pytest.approx(0.3)) in [(move.name, move.before, move.after) for move in row.moves]


def test_what_is_verified_now_is_a_change(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "before", some()), write_run(tmp_path / "after", some())
    (two / "verification.json").write_text("{}")
    found = compare_boards(one, two, TOLERANCE)
    assert {(move.name, move.before, move.after) for row in found.changed for move in row.moves} == {
        ("verified", "own", "unverified")
    }


def test_ranks_that_moved_are_told(tmp_path: Path) -> None:
    good = {"diff-sae": 0.9, "crosscoder-l1": 0.1, "pca": 0.0}
    bad = {"diff-sae": -0.9, "crosscoder-l1": 0.1, "pca": 0.0}
    one, two = (
        write_run(tmp_path / name, study(methods, families=4, organism_seeds=1, baselines=("pca",)))
        for name, methods in (("before", good), ("after", bad))
    )
    found = compare_boards(one, two, TOLERANCE)
    moved = {rank.label.split()[0]: (rank.before, rank.after) for rank in found.ranks if "headline" in rank.table}
    assert moved["diff-sae"] == ("1", "3") and moved["crosscoder-l1"][0] != moved["crosscoder-l1"][1]


def test_a_state_is_a_file_or_a_folder_of_records(tmp_path: Path) -> None:
    run = write_run(tmp_path / "board" / "records" / "monday", some())
    build([run], tmp_path / "board")
    several = tmp_path / "several"
    write_run(several / "one", some()[:1])
    write_run(several / "two", some()[1:])
    states = (run, tmp_path / "board", tmp_path / "board" / "leaderboard.json", several)
    assert all(compare_boards(run, state, TOLERANCE).same for state in states)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "leaderboard.json").write_bytes((tmp_path / "board" / "leaderboard.json").read_bytes())
    assert compare_boards(tmp_path / "only", run, TOLERANCE).same


BAD = {
    "{": "no readable JSON",
    "[]": "schema_version is None",
    '{"schema_version": 1}': "schema_version is 1, this diffbench reads",
    f'{{"schema_version": {LEADERBOARD_SCHEMA}, "rows": 3}}': "rows: missing or malformed",
    f'{{"schema_version": {LEADERBOARD_SCHEMA}, "rows": [1], "standings": []}}': "rows: missing or malformed",
    "[" * 100_000: "no readable JSON",
}


@pytest.mark.parametrize("content", BAD)
def test_what_is_no_state_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    good = write_run(tmp_path / "run", some()[:1])
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RecordError, match=BAD[content]) as caught:
        compare_boards(good, tmp_path / "a.json", TOLERANCE)
    assert len(str(caught.value).splitlines()) == 1


def test_places_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    good = write_run(tmp_path / "run", some()[:1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "run" / "run.json")
    for path, message in (("empty", "holds no run folder"), ("gone", "no such file"), ("link.json", "symbolic link")):
        with pytest.raises(RecordError, match=message):
            compare_boards(tmp_path / path, good, TOLERANCE)


def test_values_of_any_kind_in_a_file_break_nothing(tmp_path: Path) -> None:
    good = write_run(tmp_path / "run", some()[:1])
    row = {"organism": ["x"], "row": {"a": 1}, "seed": "one", "headline": True, "headline_state": [1], "started": 3}
    table = {"metric": None, "rows": [{"label": "\x1b[31mred", "rank_low": 1, "rank_high": 2}, 5]}
    document = {"schema_version": LEADERBOARD_SCHEMA, "rows": [row, {}], "standings": [table, {"rows": 3}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = compare_boards(good, tmp_path / "a.json", TOLERANCE)
    assert len(found.added) == 2 and [rank.after for rank in found.ranks] == ["1-2"]
    result = CliRunner().invoke(main, ["leaderboard", "diff", str(good), str(tmp_path / "a.json")])
    assert result.exit_code == 0 and "\x1b" not in result.output


def test_the_command_prints_a_line_for_each_difference(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", some())
    two = write_run(tmp_path / "two", [*some()[1:2], record("pca", scored=scores(0.25)), record("new-sae")])
    result = CliRunner().invoke(main, ["leaderboard", "diff", str(one), str(two)])
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.output
    rest = r" #[0-9a-f]{8} s0 against base, tier smoke, judge ngram"
    assert re.fullmatch(f"added: halfswap v1 new-sae{rest}", lines[0])
    assert re.fullmatch(f"removed: halfswap v1 a-sae{rest}", lines[1])
    assert lines[2].startswith("changed: halfswap v1 pca #") and "headline 0 -> 0.25" in lines[2]
    assert result.stderr.startswith("3 rows before, 3 after: 1 added, 1 removed, 1 changed, ")
    told = json.loads(CliRunner().invoke(main, ["leaderboard", "diff", str(one), str(one), "--json"]).stdout)
    assert BoardDiff.model_validate(told).same
    assert CliRunner().invoke(main, ["leaderboard", "diff", str(one), str(one)]).stdout == "no difference\n"
