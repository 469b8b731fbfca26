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
from diffbench.board import collect
from diffbench.cli import main
from diffbench.errors import RecordError, SubmissionError
from diffbench.examination import examine
from diffbench.leaderboard import build
from diffbench.merging import RECORDS, beside, merge
from diffbench.recount import Recounted
from diffbench.run_folder import read_run
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
    assert json.loads((board / RECORDS / "monday" / "verification.json").read_text())["checked"] == "later"


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
    [row] = plain_rows(found.summary)
    assert row["headline"] == pytest.approx(0.1) and len(found.rows) == (1 if same_key else 2)


def test_the_command_says_what_to_do_next(archive: Path, board: Path) -> None:
    result = CliRunner().invoke(main, ["leaderboard", "merge", str(archive), "--into", str(board)])
    assert result.exit_code == 0 and result.stdout.strip() == str(board / RECORDS / "monday")
    assert "1 verified and 8 unverified rows added" in result.stderr
    assert f"diffbench leaderboard build {board / RECORDS}/* --out {board}" in result.stderr
    told = json.loads(
        CliRunner().invoke(main, ["leaderboard", "merge", str(archive), "--into", str(board), "--json"]).stdout
    )
    assert told == {"folder": str(board / RECORDS / "monday"), "new": False}
    beside(archive).unlink()
    result = CliRunner().invoke(main, ["leaderboard", "merge", str(archive), "--into", str(board)])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
