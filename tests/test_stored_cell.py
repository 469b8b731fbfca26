"""Cells of any version, from anybody, as re-scoring reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from record_factory import record, write_run

from diffbench.canonical import file_digest
from diffbench.errors import RecordError
from diffbench.fits import FitFile, publish_fit
from diffbench.record import Record
from diffbench.run_folder import RECORD_FILE, fit_folder_name
from diffbench.stored_cell import VERSION, StoredCell, kept_diff, stored_cells

FIT = "f" * 64
NAMES = ("diff.json", "tensors.safetensors")


def cell_with_diff(folder: Path, *, ranking: str | None = None, status: str = "ok", fit: bool = True) -> Path:
    """A run of one cell with a Diff of its own, and the fit that it ranks; the folder of the cell."""
    made = record(
        cell={"ranking": ranking, "organism": "quokka"}, status=status, reason=None if status == "ok" else "x"
    )
    left = folder / "left" / "diff"
    left.mkdir(parents=True)
    for name in NAMES:
        (left / name).write_text(f"{name} of the fit")
    (left.parent / "log.txt").write_text("log")
    hashes = {name: file_digest(left / name) for name in NAMES}
    run = folder / "run"
    if ranking is not None:
        (folder / "header").write_text("ranked")
        hashes["diff.json"] = file_digest(folder / "header")
    made = made.model_copy(update={"fit": FIT, "hashes": made.hashes.model_copy(update={"diff": hashes})})
    write_run(run, [made])
    [cell] = (run / "cells").iterdir()
    shutil.copytree(left, cell / "diff")
    if ranking is not None:
        shutil.move(folder / "header", cell / "diff" / "diff.json")
    if fit:
        publish_fit(run / "fits" / fit_folder_name(made.cell, FIT), left.parent, fit_file(made))
    return cell


def fit_file(made: Record) -> FitFile:
    asked = made.cell
    return FitFile(
        key=FIT, organism=asked.organism, reference=asked.reference, method=asked.method,
        method_version=asked.method_version, method_package=asked.method_package, seed=asked.seed,
        options=asked.options, tier=asked.tier, started="2026-01-02T03:04:05+00:00", seconds=1.0, peak_memory_mb=1.0,
        sandbox="none", usage={}, files={},
    )  # fmt: skip


def only(run: Path) -> StoredCell:
    [(_, stored)] = stored_cells(run)
    assert isinstance(stored, StoredCell), stored
    return stored


def edit(cell: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((cell / RECORD_FILE).read_text())
    change(document)
    (cell / RECORD_FILE).write_text(json.dumps(document))


def test_what_is_needed_of_a_record_is_read(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    made, stored = Record.model_validate_json((cell / RECORD_FILE).read_text()), only(tmp_path / "run")
    assert (stored.path, stored.version, stored.key, stored.fit, stored.status) == (cell, VERSION, made.key, FIT, "ok")
    assert (stored.cell, stored.hashes, stored.budget) == (made.cell, made.hashes, made.budget)
    assert stored.cost.method_seconds == 12.5 and stored.cost.usage == {"tokens": 20000}
    assert stored.cost.harvest_seconds == 2.0 and stored.current
    assert stored.layer == made.pair.layer and stored.handling.layer is None and not stored.handling.streaming
    assert stored.origin.from_key == made.key and stored.origin.pair == made.hashes.pair
    assert stored.name == "quokka diff-sae s0 against base"


def test_a_layer_that_was_named_is_asked_for_again(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    edit(cell, lambda d: d["pair"].update(layer_rule="chosen by hand", harvest_dtype="bfloat16", streamed=True))
    handling = only(tmp_path / "run").handling
    assert (handling.layer, handling.harvest_dtype, handling.streaming) == (1, "bfloat16", True)


def older(document: dict[str, Any]) -> None:
    """As the first version wrote it: less about the cell, other scores, and things that nobody knows any more."""
    document["schema_version"] = 1
    for name in ("baseline", "changed"):
        document["cell"].pop(name)
    document["cell"]["mood"] = "good"
    document["scores"] = {"forgotten": True}
    document.pop("rescored", None)
    document.pop("fit")


def test_an_older_record_is_read_as_far_as_it_is_needed(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    edit(cell, older)
    stored = only(tmp_path / "run")
    assert (stored.version, stored.current) == (1, False)
    assert stored.fit == stored.key, "a record from before there were fits"
    assert stored.cell.baseline is False and stored.cell.method == "diff-sae"


def test_where_scores_came_from_is_kept_when_they_are_made_again(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    edit(cell, lambda d: d.update(rescored={"from_key": "first", "pair": "then"}))
    assert only(tmp_path / "run").origin.model_dump() == {"from_key": "first", "pair": "then"}


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema_version is 99": lambda d: d.update(schema_version=99),
    "schema_version is None": lambda d: d.pop("schema_version"),
    "schema_version is True": lambda d: d.update(schema_version=True),
    "cell: missing": lambda d: d.pop("cell"),
    "cell.seed: ": lambda d: d["cell"].update(seed="x"),
    "hashes.tuned_model: ": lambda d: d["hashes"].pop("tuned_model"),
    "timings: missing": lambda d: d.update(timings=[]),
    "key, fit or status: ": lambda d: d.update(status="splendid"),
    "pair.layer: ": lambda d: d["pair"].update(layer=-1),
    "pair.harvest_dtype": lambda d: d["pair"].update(harvest_dtype="float8"),
    "budget.tokens": lambda d: d["budget"].update(tokens=None),
    "rescored.pair": lambda d: d.update(rescored={"from_key": "x"}),
}


@pytest.mark.parametrize("message", BAD)
def test_a_record_that_is_none_is_named_and_hides_no_other(message: str, tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    shutil.copytree(cell, cell.with_name("zzz"))
    edit(cell, BAD[message])
    (path, broken), (_, whole) = stored_cells(tmp_path / "run")
    assert path == cell and isinstance(broken, RecordError) and message in str(broken)
    assert len(str(broken).splitlines()) == 1 and isinstance(whole, StoredCell)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "[" * 100_000])
def test_damaged_records_are_named(content: str, tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    (cell / RECORD_FILE).write_text(content)
    [(_, found)] = stored_cells(tmp_path / "run")
    assert isinstance(found, RecordError) and len(str(found)) < 400


def test_nothing_is_read_through_a_link(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    (cell / RECORD_FILE).rename(tmp_path / RECORD_FILE)
    (cell / RECORD_FILE).symlink_to(tmp_path / RECORD_FILE)
    [(_, found)] = stored_cells(tmp_path / "run")
    assert isinstance(found, RecordError) and "symbolic link" in str(found)


def test_a_cell_that_is_not_finished_is_left_alone(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    (cell / RECORD_FILE).unlink()
    assert list(stored_cells(tmp_path / "run")) == []


@pytest.mark.parametrize("ranking", [None, "energy"])
def test_the_diff_is_the_cells_own_or_else_its_fits(ranking: str | None, tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path, ranking=ranking)
    stored, run = only(tmp_path / "run"), tmp_path / "run"
    kept = kept_diff(run, stored)
    assert kept is not None and kept.folder == cell and kept.tensors == (stored.hashes.diff or {})[NAMES[1]]
    shutil.rmtree(cell / "diff")
    kept = kept_diff(run, stored)
    assert kept is not None and kept.folder.parent == run / "fits"
    (kept.folder / "diff" / "tensors.safetensors").write_text("another")
    with pytest.raises(RecordError, match="missing or changed since it was scored"):
        kept_diff(run, stored)


@pytest.mark.parametrize("what", ["changed", "linked", "folder linked", "header of a fit"])
def test_a_diff_that_is_not_what_was_scored_is_refused(what: str, tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path, fit=what == "header of a fit")
    stored, tensors = only(tmp_path / "run"), cell / "diff" / "tensors.safetensors"
    if what == "changed":
        tensors.write_text("another")
    elif what == "linked":
        tensors.rename(tmp_path / "elsewhere")
        tensors.symlink_to(tmp_path / "elsewhere")
    elif what == "folder linked":
        (cell / "diff").rename(tmp_path / "elsewhere")
        (cell / "diff").symlink_to(tmp_path / "elsewhere")
    else:  # another header than the fit's, and no column that would have written it anew
        (cell / "diff" / "diff.json").write_text("another")
        edit(cell, lambda d: d["hashes"]["diff"].update({"diff.json": "0" * 64}))
        stored = only(tmp_path / "run")
    with pytest.raises(RecordError, match="missing or changed since it was scored"):
        kept_diff(tmp_path / "run", stored)


def test_a_record_names_the_two_files_of_a_diff(tmp_path: Path) -> None:
    cell = cell_with_diff(tmp_path)
    edit(cell, lambda d: d["hashes"].update(diff={"../../secret": "0"}))
    with pytest.raises(RecordError, match="other files than those of a Diff"):
        kept_diff(tmp_path / "run", only(tmp_path / "run"))
    edit(cell, lambda d: d["hashes"].update(diff=None))
    with pytest.raises(RecordError, match="names no Diff"):
        kept_diff(tmp_path / "run", only(tmp_path / "run"))


@pytest.mark.parametrize("fit", [True, False])
def test_a_cell_without_scores_has_its_fits_diff_or_none(fit: bool, tmp_path: Path) -> None:
    """A ranking that was not there is asked for again; a method that left nothing has left nothing."""
    cell = cell_with_diff(tmp_path, status="not_applicable", fit=fit)
    edit(cell, lambda d: d["hashes"].update(diff=None))
    kept = kept_diff(tmp_path / "run", only(tmp_path / "run"))
    assert (kept is not None) == fit
