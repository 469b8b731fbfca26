"""Run folder: what is read, what is refused, and that one bad cell hides no other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from record_factory import record, run_file, write_run

from diffbench.errors import RecordError
from diffbench.record import RECORD_BYTES
from diffbench.run_folder import CELLS, RUN_BYTES, cell_folder_name, fit_folder_name, read_run, write_run_file


def test_round_trip_by_folder_and_by_file(tmp_path: Path) -> None:
    records = [record("b"), record("a", 1), record("a", 0), record("a", cell={"reference": "control"})]
    folder = write_run(tmp_path / "demo", records)
    run = read_run(folder)
    assert run == read_run(folder / "run.json")
    assert run.file == run_file("demo")
    assert [(r.cell.reference, r.cell.method, r.cell.seed) for r in run.records] == [
        ("base", "a", 0),
        ("base", "a", 1),
        ("base", "b", 0),
        ("control", "a", 0),
    ]
    assert (run.damaged, run.unfinished) == ((), ())


def test_layout(tmp_path: Path) -> None:
    item = record("diff-sae", 3)
    write_run(tmp_path / "demo", [item])
    name = f"halfswap--diff-sae--s3--{item.key[:8]}"
    assert (tmp_path / "demo" / "cells" / name / "record.json").is_file()
    ranked = record(cell={"ranking": "nu_error"})
    assert cell_folder_name(ranked.cell, "b" * 64) == "halfswap--diff-sae@nu_error--s0--bbbbbbbb"
    assert fit_folder_name(ranked.cell, "b" * 64) == "halfswap--diff-sae--s0--bbbbbbbb"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "/root", "..", "", "a\x00b\n", "x" * 500, "ä é", "."])
def test_cell_folder_names_stay_in_their_folder(name: str) -> None:
    cell = record(cell={"organism": name, "method": name}).cell
    folder = cell_folder_name(cell, name or "../" * 9)
    assert fit_folder_name(cell, name or "../" * 9) == folder
    assert Path(folder).name == folder
    assert folder not in (".", "..")
    assert not folder.startswith(".")
    assert len(folder) < 200
    assert folder.isascii()


def test_a_run_without_cells_is_empty(tmp_path: Path) -> None:
    write_run_file(tmp_path, run_file())
    assert read_run(tmp_path).records == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ("[1]", "schema_version is None"),
        ('{"schema_version": 7}', "schema_version is 7"),
        ('{"schema_version": 1}', "name: Field required"),
        ('{"name": "npm", "version": "1.0"}', "schema_version is None"),
    ],
)
def test_a_malformed_or_foreign_run_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError) as caught:
        read_run(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path / "run.json") in str(caught.value)
    assert "; " in str(caught.value)


def test_missing_folder_and_missing_run_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such folder; name a run folder"):
        read_run(tmp_path / "none")
    with pytest.raises(RecordError, match=r"it has no run\.json"):
        read_run(tmp_path)


def test_an_oversized_run_file(tmp_path: Path) -> None:
    with (tmp_path / "run.json").open("wb") as stream:
        stream.truncate(RUN_BYTES + 1)
    with pytest.raises(RecordError, match="larger than"):
        read_run(tmp_path)


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    real = write_run(tmp_path / "real", [record()])
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "run.json").symlink_to(real / "run.json")
    with pytest.raises(RecordError, match="symbolic link"):
        read_run(fake)
    (fake / "run.json").unlink()
    os.mkfifo(fake / "run.json")
    with pytest.raises(RecordError, match="neither a plain file"):
        read_run(fake)


def test_linked_cells_are_refused_as_a_whole(tmp_path: Path) -> None:
    real = write_run(tmp_path / "real", [record()])
    fake = tmp_path / "fake"
    write_run_file(fake, run_file("fake"))
    (fake / CELLS).symlink_to(real / CELLS)
    run = read_run(fake)
    assert run.records == ()
    assert run.damaged == ((Path(CELLS), "a symbolic link, which is not followed"),)


def test_damaged_cells_hide_no_other(tmp_path: Path) -> None:
    good = record("good")
    folder = write_run(tmp_path / "demo", [good])
    cells = folder / CELLS
    for name in ("broken", "huge", "linked", "pipe", "running", ".draft"):
        (cells / name).mkdir()
    (cells / "broken" / "record.json").write_text("{")
    with (cells / "huge" / "record.json").open("wb") as stream:
        stream.truncate(RECORD_BYTES + 1)
    (cells / "linked" / "record.json").symlink_to("/dev/zero")
    os.mkfifo(cells / "pipe" / "record.json")
    (cells / "loop").symlink_to(cells)
    (cells / "README").write_text("not a cell")
    run = read_run(folder)
    assert run.records == (good,)
    assert run.unfinished == (Path(CELLS, "running"),)
    problems = {path.relative_to(CELLS).parts[0]: message for path, message in run.damaged}
    assert sorted(problems) == ["broken", "huge", "linked", "loop", "pipe"]
    assert problems["broken"].startswith("no readable JSON")
    assert problems["huge"].startswith("larger than")
    assert "symbolic link" in problems["linked"]
    assert str(tmp_path) not in json.dumps(problems)
