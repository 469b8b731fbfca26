"""Slices: what is written down, what is run of it, and what is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from record_factory import record, run_file, write_run

from diffbench.campaign import RunConfig
from diffbench.cli import main
from diffbench.errors import DiffbenchError, OptionError, RecordError, SubmissionError
from diffbench.plugins import load_plugins
from diffbench.publishing import publish
from diffbench.recipe import read_recipe
from diffbench.run_folder import CELLS, read_run
from diffbench.slice_plan import Slice, read_slice

ROOT = Path(__file__).parent.parent
OURS = ROOT / "leaderboard" / "slice.yaml"
SMALL = """\
schema_version: 1
name: small
about: a test
parts:
  - {name: one, why: because, run: {organisms: [halfswap], methods: [pca], tier: smoke}}
  - {name: two, why: because, run: {organisms: [identity], methods: [pca], tier: smoke}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "slice.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["leaderboard", "slice", *map(str, arguments)])


def test_the_published_slice_holds_every_family_null_class_and_bundled_method() -> None:
    plan = read_slice(OURS)
    methods: set[str] = set()
    families: set[str] = set()
    nulls: set[str] = set()
    for part in plan.parts:
        assert len(part.run.seeds) >= 3 or len(part.run.organism_seeds) >= 3, part.name
        methods |= set(part.run.methods) or {name for name, method in load_plugins().methods.items()}
        for organism in part.run.found():
            families.add(organism.recipe.family or "")
            nulls |= {organism.recipe.null_class} if organism.recipe.null_class else set()
    bundled = {name for name, method in load_plugins().methods.items() if method.__module__.startswith("diffbench_")}
    assert bundled <= methods
    recipes = [read_recipe(path) for path in (ROOT / "organisms").glob("*/*.yaml") if path.parent.name != "hub"]
    assert {recipe.family for recipe in recipes} <= families
    assert {recipe.null_class for recipe in recipes if recipe.null_class} <= nulls
    assert len(nulls) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: two", "name: one"), "two parts have the same name"),
        (("name: two", "name: ../two"), "parts.1.name"),
        (("tier: smoke}}\n  -", "tiers: smoke}}\n  -"), "parts.0.run.tiers"),
        (("about: a test", "about: a test\nabout: another"), "stands twice"),
        (("schema_version: 1", "schema_version: 2"), "schema_version"),
        (("name: small", "name: &x small\nother: *x"), "aliases"),
    ],
)
def test_a_slice_that_cannot_be_used_is_refused_by_name(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert change[0] in SMALL
    path = written(tmp_path, SMALL.replace(*change))
    with pytest.raises(OptionError, match=message) as caught:
        read_slice(path)
    assert str(path) in str(caught.value)


def test_a_missing_slice_and_a_missing_part_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        read_slice(tmp_path / "slice.yaml")
    told = command(written(tmp_path, SMALL), "--part", "three", "--dry-run")
    assert told.exit_code == 2 and "no part of slice small; there are one, two" in told.stderr


def test_a_dry_run_counts_the_cells_of_each_part(tmp_path: Path) -> None:
    told = command(written(tmp_path, SMALL), "--dry-run", "--runs-dir", tmp_path / "runs", "--json")
    assert told.exit_code == 0, told.output
    parts = json.loads(told.stdout)["parts"]
    assert [part["part"] for part in parts] == ["one", "two"] and all(part["cells"] == 4 for part in parts)
    assert not (tmp_path / "runs").exists()


def test_what_has_landed_is_published_without_running(tmp_path: Path) -> None:
    runs, board = tmp_path / "runs", tmp_path / "board"
    write_run(runs / "small-one", [record("pca"), record("diff-sae")], run_file("small-one"))
    told = command(written(tmp_path, SMALL), "--publish-only", "--runs-dir", runs, "--into", board, "--json")
    assert told.exit_code == 0, told.output
    assert [part["published"] for part in json.loads(told.stdout)["parts"]] == [2, None]
    found = read_run(board / "records" / "small-one")
    assert sorted(one.cell.method for one in found.records) == ["diff-sae", "pca"] and not found.damaged


def test_a_fresh_run_takes_nothing_away_unless_asked(tmp_path: Path) -> None:
    runs, board = tmp_path / "runs", tmp_path / "board"
    write_run(tmp_path / "old", [record("pca"), record("diff-sae")], run_file("small-one"))
    publish(tmp_path / "old", board, "small-one")
    write_run(runs / "small-one", [record("oracle")], run_file("small-one"))
    asked = (written(tmp_path, SMALL), "--publish-only", "--runs-dir", runs, "--into", board, "--json")
    for more, methods in (((), ["diff-sae", "oracle", "pca"]), (("--prune",), ["oracle"])):
        assert command(*asked, *more).exit_code == 0
        found = read_run(board / "records" / "small-one").records
        assert sorted(one.cell.method for one in found) == methods


def test_publishing_again_adds_what_came_and_takes_away_what_went_if_asked(tmp_path: Path) -> None:
    run, board = write_run(tmp_path / "mine", [record("pca")]), tmp_path / "board"
    folder, n = publish(run, board, "mine")
    first = next((folder / CELLS).glob("*/record.json"))
    before = first.stat().st_mtime_ns
    write_run(run, [record("diff-sae")])
    assert publish(run, board, "mine") == (folder, 2) and n == 1
    assert first.stat().st_mtime_ns == before  # not written again
    gone = next((run / CELLS).glob("*pca*"))
    (gone / "record.json").unlink()
    assert publish(run, board, "mine") == (folder, 1)
    assert sorted(one.cell.method for one in read_run(folder).records) == ["diff-sae", "pca"]
    assert publish(run, board, "mine", prune=True) == (folder, 1)
    assert [one.cell.method for one in read_run(folder).records] == ["diff-sae"]


def test_nothing_of_the_machine_is_published(tmp_path: Path) -> None:
    file = run_file("mine")
    file = file.model_copy(update={"argv": ("/home/anna/.venv/bin/diffbench", "run"), "config": {"x": "/home/anna/x"}})
    failed = record("pca", status="error", reason="no file /home/anna/secret/x.json")
    folder, _ = publish(write_run(tmp_path / "mine", [failed], file), tmp_path / "board", "mine")
    for path in folder.rglob("*.json"):
        assert "/home/anna" not in path.read_text()


def test_a_submission_or_a_link_is_not_written_over(tmp_path: Path) -> None:
    run, board = write_run(tmp_path / "mine", [record("pca")]), tmp_path / "board"
    folder, _ = publish(run, board, "mine")
    (folder / "submission.json").write_text("{}")
    with pytest.raises(SubmissionError, match="holds a submission"):
        publish(run, board, "mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    folder, _ = publish(run, board, "linked")
    cell = next((folder / CELLS).iterdir())
    (cell / "record.json").unlink()
    cell.rmdir()
    cell.symlink_to(outside)
    with pytest.raises(RecordError, match="symbolic link"):
        publish(run, board, "linked")
    assert not list(outside.iterdir())  # nothing was written through it before it was refused
    (board / "records" / "other").symlink_to(tmp_path)
    with pytest.raises(SubmissionError, match="symbolic link"):
        publish(run, board, "other")
    with pytest.raises(DiffbenchError):
        publish(tmp_path / "nothing", board, "more")


def test_a_part_is_a_run_of_its_own() -> None:
    plan = Slice.model_validate(
        {"name": "s", "about": "", "parts": [{"name": "p", "why": "", "run": {"organisms": ["halfswap"]}}]}
    )
    assert plan.run_name(plan.parts[0]) == "s-p" and plan.chosen(()) == plan.parts
    assert plan.parts[0].run == RunConfig(organisms=("halfswap",))
