"""Merging: a submission comes beside what is there, never in its place, and its rows are marked for what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from record_factory import record, scores, write_run
from submission_factory import choice, forged, packed, synthetic_records, synthetic_run
from test_verification import hide_cell, quiet

from diffbench import examination
from diffbench.board import Board, collect
from diffbench.canonical import file_digest
from diffbench.cli import main
from diffbench.errors import RecordError, SubmissionError
from diffbench.examination import examine
from diffbench.leaderboard import build
from diffbench.merging import RECORDS, beside, merge
from diffbench.record import Record
from diffbench.recount import Recounted
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name, read_run
from diffbench.summary import plain_rows


@pytest.fixture(autouse=True, scope="module")
def nothing_is_scored() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            examination, "recount", lambda inspected, *_, **__: dict.fromkeys(inspected.picked, Recounted(None, 9, 0.0))
        )
        yield


def verified(archive: Path, work: Path) -> Path:
    work.mkdir()
    beside(archive).write_text(examine(archive, work, quiet).model_dump_json())
    return archive


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, nothing_is_scored: None) -> Path:
    folder = tmp_path_factory.mktemp("original")
    run = synthetic_run(folder / "monday", synthetic_records()[:9])
    return verified(packed(run, folder / "a.tar.gz"), folder / "work")


@pytest.fixture
def archive(original: Path, tmp_path: Path) -> Path:
    for path in (original, beside(original)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / original.name


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A leaderboard that holds a run of one's own."""
    write_run(tmp_path / "leaderboard" / RECORDS / "ours", [record("pca", scored=scores(0.0))])
    return tmp_path / "leaderboard"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_submission_comes_beside_what_is_there(archive: Path, board: Path) -> None:
    before = tree(board)
    merged = merge(archive, board)
    assert merged.new and merged.folder == board / RECORDS / "monday"
    after = tree(board)
    assert {name: after[name] for name in before} == before
    new = sorted(name.removeprefix("records/monday/") for name in after.keys() - before.keys())
    assert [name for name in new if not name.endswith("/record.json")] == [
        "run.json",
        "submission.json",
        "verification.json",
    ] and len(new) == 12
    run = read_run(merged.folder)
    assert len(run.records) == 9 and run.damaged == () and run.file.name == "monday"
    rows = plain_rows(collect([read_run(path) for path in (board / RECORDS).iterdir()]).rows)
    assert {row["key"] for row in rows if row["verified"] == "verified"} == choice(archive)
    assert [row["method"] for row in rows if row["verified"] == "own"] == ["pca"]


def test_tables_say_which_rows_are_unverified(archive: Path, board: Path, tmp_path: Path) -> None:
    merge(archive, board)
    build((board / RECORDS).iterdir(), tmp_path / "out")
    document = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert document["columns"]["verified"]["description"].startswith("own, or of a submission")
    marks = {row["row"]: (row["verified"], row["notes"]) for row in document["summary"]}
    assert marks["pca"][0] == "own" and "unverified" not in marks["pca"][1]
    assert marks["diff-sae"][0] == "unverified" and "unverified" in marks["diff-sae"][1]
    assert "unverified" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_repeating_it_changes_nothing(archive: Path, board: Path, tmp_path: Path) -> None:
    merge(archive, board)
    before = {path: path.stat().st_mtime_ns for path in board.rglob("*")}
    assert not merge(archive, board).new
    assert {path: path.stat().st_mtime_ns for path in board.rglob("*")} == before
    told = json.loads(beside(archive).read_text())
    beside(archive).write_text(json.dumps(told | {"checked": "later"}))  # looked at once more
    assert not merge(archive, board).new
    kept = json.loads((board / RECORDS / "monday" / "verification.json").read_text())
    assert kept["checked"] == "later" and kept["since"] == told["since"] == told["checked"]
    beside(archive).write_text(json.dumps(told | {"checked": "later", "since": "2099-01-01T00:00:00Z"}))
    assert merge(archive, board).verification.since == told["since"]


@pytest.mark.parametrize("name", ["monday", "Monday", "ours"])
def test_a_name_that_is_taken_is_refused(name: str, archive: Path, board: Path, tmp_path: Path) -> None:
    merge(archive, board)
    before = tree(board)
    other = synthetic_run(tmp_path / "other" / "monday", synthetic_records()[:8])
    path = verified(packed(other, tmp_path / "b.tar.gz", name=name), tmp_path / "again")
    with pytest.raises(SubmissionError, match=r"the name is taken by .*submit under another with --name"):
        merge(path, board)
    assert tree(board) == before


def test_only_what_was_verified_is_merged(archive: Path, board: Path, tmp_path: Path) -> None:
    before = tree(board)
    told = json.loads(beside(archive).read_text())
    (tmp_path / "copy.tar.gz").write_bytes(archive.read_bytes())
    with pytest.raises(RecordError, match=r"no such file; `diffbench leaderboard verify` writes one"):
        merge(tmp_path / "copy.tar.gz", board)
    changed = forged(archive, lambda files: None)
    with pytest.raises(SubmissionError, match="is not the archive that was verified"):
        merge(changed, board, beside(archive))
    for change, message in (
        ({"accepted": False, "problems": ["it smells"]}, "was refused: it smells"),
        ({"rows": told["rows"][1:]}, "its verification is of other cells"),
        ({"submission": "tuesday"}, "its verification is of other cells"),
        ({"rows": [row | {"digest": None} for row in told["rows"]]}, "its verification is of other cells"),
    ):
        beside(archive).write_text(json.dumps(told | change))
        with pytest.raises(SubmissionError, match=message):
            merge(archive, board)
    assert tree(board) == before


def test_a_verification_that_somebody_wrote_by_hand_does_not_help_a_bad_archive(
    archive: Path, board: Path, tmp_path: Path
) -> None:
    bad = verified(forged(archive, hide_cell), tmp_path / "again")
    told = json.loads(beside(bad).read_text())
    beside(bad).write_text(json.dumps(told | {"accepted": True, "problems": []}))
    with pytest.raises(SubmissionError, match="a missing cell"):
        merge(bad, board)
    assert not (board / RECORDS / "monday").exists()


def test_nothing_is_written_through_a_link(archive: Path, board: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (board / RECORDS / "monday").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SubmissionError, match="a symbolic link, which is not followed; nothing is merged there"):
        merge(archive, board)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("same_key", [True, False])
def test_no_submission_takes_the_place_of_a_row_that_is_there(same_key: bool, tmp_path: Path) -> None:
    """A later start and better figures under the key, or in the place, of somebody else's cell gain nothing."""
    ours = record("pca", scored=scores(0.1))
    later: dict[str, Any] = {"timings": {"started": "2099-01-01T00:00:00Z"}}
    theirs = record("pca", scored=scores(0.9), key=ours.key if same_key else "f" * 64, **later)
    mine, other = write_run(tmp_path / "ours", [ours]), write_run(tmp_path / "theirs", [theirs])
    (other / "verification.json").write_text("{}")
    found = collect([read_run(other), read_run(mine)])
    [row] = [row for row in plain_rows(found.summary) if row["verified"] == "own"]
    assert row["headline"] == pytest.approx(0.1)
    assert len(found.rows) == len(found.summary) == (1 if same_key else 2)  # if at all, theirs is a row of its own


def submitted(folder: Path, records: list[Record], since: str, *verified: Record) -> Path:
    """A folder as `merge` leaves it: a submission that was looked at then, of which some rows are verified."""
    run = write_run(folder, records)
    rows = [
        {"organism": "o", "reference": "base", "row": "r", "seed": 0, "key": item.key,
         "state": "verified" if item in verified else "unverified",
         "digest": file_digest(run / CELLS / cell_folder_name(item.cell, item.key) / RECORD_FILE)}
        for item in records
    ]  # fmt: skip
    told = {"schema_version": 1, "submission": folder.name, "archive": "0" * 64, "diffbench": "0", "checked": since,
            "platform": "", "versions": {}, "tolerance": {}, "accepted": True, "problems": [], "rows": rows,
            "unfinished": [{"organism": "a", "reference": "base", "row": "b", "seed": 7}]}  # fmt: skip
    (run / "verification.json").write_text(json.dumps(told))
    return run


def board_of(*runs: Path) -> Board:
    return collect([read_run(run) for run in runs])


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_of_unverified_copies_the_one_that_was_seen_first_counts(name: str, tmp_path: Path) -> None:
    first = record("pca", scored=scores(0.1))
    later: dict[str, Any] = {"timings": {"started": "2099-01-01T00:00:00Z"}}
    copy = record("pca", scored=scores(0.9), key=first.key, **later)
    one = submitted(tmp_path / "monday", [first], "2026-01-02T00:00:00Z")
    other = submitted(tmp_path / name, [copy], "2026-01-03T00:00:00Z")
    assert [row["run"] for row in board_of(one, other).data] == ["monday"]
    proven = submitted(tmp_path / "proven", [copy], "2026-01-04T00:00:00Z", copy)
    assert [row["run"] for row in board_of(one, other, proven).data] == ["proven"]


def test_a_key_that_is_another_cells_takes_no_place(tmp_path: Path) -> None:
    """Not even that of a row which was scored again."""
    first, other = record("pca", scored=scores(0.1)), record("diff-sae", scored=scores(0.9))
    other = other.model_copy(update={"key": first.key})
    one = submitted(tmp_path / "one", [first], "2026-01-02T00:00:00Z")
    two = submitted(tmp_path / "two", [other], "2026-01-01T00:00:00Z", other)
    assert sorted(row["row"] for row in board_of(one, two).data) == ["diff-sae", "pca"]


def test_unverified_rows_are_put_together_with_no_others_and_cost_nothing(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "ours", [record("pca", seed, scored=scores(0.1 + seed / 100)) for seed in range(3)])
    strange = [record("pca", seed, scored=scores(-9.0)) for seed in range(3, 9)]
    theirs = submitted(tmp_path / "theirs", strange, "2026-01-02T00:00:00Z", strange[0])
    found = board_of(ours, theirs)
    by = {row["submission"]: row for row in plain_rows(found.summary)}
    assert by[None]["seeds"] == 4 and by[None]["verified"] == "verified"  # ours, and the one that was scored again
    assert by[None]["method_seconds"] == 12.5
    assert by["theirs"]["seeds"] == 5 and by["theirs"]["method_seconds"] is None
    assert by["theirs"]["label"] == "pca (theirs)" and "unverified, of theirs" in by["theirs"]["notes"]
    assert [row["path"] for row in found.unfinished] == ["a b s7 against base"]
    assert [row["unfinished"] for row in found.runs] == [0, 1]
    build([ours, theirs], tmp_path / "site")
    text = (tmp_path / "site" / "index.html").read_text()
    assert '<small class="mark">unverified</small>' in text and '<small class="mark">verified</small>' in text
    assert "1 unfinished" in text and "There are none: they need trusted rows" in text


def test_a_record_that_was_edited_after_it_was_merged_is_unverified(archive: Path, board: Path) -> None:
    folder = merge(archive, board).folder
    [key] = choice(archive)
    for path in folder.glob("cells/*/record.json"):
        told = json.loads(path.read_text())
        if told["key"] == key:
            told["scores"]["recovery"]["headline"]["value"] = 0.99
            path.write_text(json.dumps(told))
    assert {row["verified"] for row in board_of(folder).data} == {"unverified"}
    (folder / "verification.json").unlink()
    assert {row["verified"] for row in board_of(folder).data} == {"unverified"}


def test_the_command_says_what_to_do_next(archive: Path, board: Path) -> None:
    result = CliRunner().invoke(main, ["leaderboard", "merge", str(archive), "--into", str(board)])
    assert result.exit_code == 0 and result.stdout.strip() == str(board / RECORDS / "monday")
    assert "1 verified and 8 unverified rows added" in result.stderr
    assert "trusted as it is: " in result.stderr and "it must be your own" in result.stderr
    assert f"diffbench leaderboard build {board / RECORDS}/* --out {board}" in result.stderr
    told = json.loads(
        CliRunner().invoke(main, ["leaderboard", "merge", str(archive), "--into", str(board), "--json"]).stdout
    )
    assert told == {"folder": str(board / RECORDS / "monday"), "new": False}
    beside(archive).unlink()
    result = CliRunner().invoke(main, ["leaderboard", "merge", str(archive), "--into", str(board)])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
