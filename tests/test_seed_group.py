"""Method seeds of a run compared: by whom, when, and where it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from record_factory import record
from run_factory import records, run, snapshot
from test_stored_cell import edit

from diffbench import runner
from diffbench.agreement import ConsistencyFile
from diffbench.canonical import file_digest
from diffbench.cli import main
from diffbench.diff import Diff, OutputDiff, WeightDiff
from diffbench.diff_file import load_diff, save_diff
from diffbench.record import Record
from diffbench.seed_group import SeedGroup, seed_groups, stored
from diffbench.seed_run import compare_run

pytest_plugins = ("run_factory",)

ROWS = ("mean-difference", "nothing", "random-dictionary", "random-dictionary@energy")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds") / "run"


@pytest.fixture
def folder(original: Path, recipe: Path, warm: runner.Workers, tmp_path: Path) -> Path:
    """A copy of a run of several seeds, made once."""
    if not original.exists():
        run(original, recipe, *ROWS, seeds=SEEDS)
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def groups(*found: Record) -> list[SeedGroup]:
    return seed_groups(found, lambda record: None)


def files(folder: Path) -> dict[str, ConsistencyFile]:
    read = (ConsistencyFile.model_validate_json(path.read_text()) for path in (folder / "consistency").iterdir())
    return {file.row: file for file in read}


def compared(folder: Path) -> dict[str, ConsistencyFile]:
    found = compare_run(folder, lambda phrase, fraction: None)
    assert all(each.problem is None for each in found), found
    return {each.file.row: each.file for each in found if each.file is not None}


def refuse(**_: object) -> None:
    raise AssertionError("a server was started")


# --- which cells are compared -----------------------------------------------------------------------------------


def test_cells_that_differ_in_their_seed_alone_are_compared() -> None:
    found = groups(
        *(record("a", seed) for seed in (2, 0, 1)),
        *(record("a", seed, cell={"ranking": "energy"}) for seed in (0, 1)),
        *(record("a", seed, cell={"options": {"k": 16}}) for seed in (0, 1)),
        *(record("a", seed, cell={"reference": "control"}) for seed in (0, 1)),
        record("b", 0),
        record("c", 0), record("c", 1, status="error", reason="no"),
    )  # fmt: skip
    told = [(g.cell.row, g.cell.reference, g.cell.options["k"], [r.cell.seed for r in g.records]) for g in found]
    assert sorted(told) == [
        ("a", "base", 8, [0, 1, 2]), ("a", "base", 16, [0, 1]), ("a", "control", 8, [0, 1]),
        ("a@energy", "base", 8, [0, 1]),
    ]  # fmt: skip
    assert len({group.key for group in found}) == 4


def test_a_seed_counts_once_and_the_newest_counts() -> None:
    old, new = (record("a", 0, timings={"started": f"2026-01-0{day}T00:00:00Z"}, key=str(day)) for day in (1, 2))
    [group] = groups(new, record("a", 1), old)
    assert (group.records[0].key, len(group.records)) == ("2", 2)


def test_the_random_dictionary_on_the_same_pair_is_the_control() -> None:
    random = [record("random-dictionary", seed) for seed in (0, 1)]
    elsewhere = record("random-dictionary", 0, cell={"reference": "control"})
    ranked = record("random-dictionary", 0, cell={"ranking": "energy"})
    found = {g.cell.method: g for g in groups(record("a", 0), record("a", 1), *random, elsewhere, ranked)}
    assert found["a"].controls == tuple(random) == found["random-dictionary"].controls


def test_the_key_follows_from_the_diffs_and_not_from_the_scores() -> None:
    a, b = record("a", 0), record("a", 1)
    [group], [again] = groups(a, b), groups(a.model_copy(update={"key": "other"}), b)
    assert group.key == again.key
    other = b.model_copy(update={"hashes": b.hashes.model_copy(update={"diff": {"diff.json": "0"}})})
    assert groups(a, other)[0].key != group.key


# --- at the end of a run ----------------------------------------------------------------------------------------


def test_a_run_of_several_seeds_compares_them(folder: Path) -> None:
    found = files(folder)
    assert set(found) == set(ROWS)
    mean, random = found["mean-difference"], found["random-dictionary"]
    assert (mean.seeds, mean.organism, mean.reference, mean.tier) == (SEEDS, "quokka", "base", "nano")
    assert mean.agreement.matching.cosine.value == pytest.approx(1.0), "nothing in it is random"
    assert mean.agreement.words.jaccard.value == 1.0 and mean.agreement.contradictions.contradicting == 0
    matching = random.agreement.matching
    assert matching.cosine.value == pytest.approx(matching.chance_cosine.value, abs=0.02), "everything in it is"
    assert random.agreement.words.control == random.agreement.words.jaccard.model_copy(
        update={"low": None, "high": None}
    ), "it is its own control, and no seed is compared with itself"
    assert found["random-dictionary@energy"].agreement.spans == random.agreement.spans, "which is its own order"
    assert found["nothing"].agreement.matching.cosine.state == "n/a"
    assert found["nothing"].agreement.contradictions.verdicts == {"unchanged": 3}


def test_the_same_run_again_compares_nothing_and_another_one_gives_the_same(
    folder: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(folder)
    run(tmp_path / "other", recipe, *reversed(ROWS), seeds=(2, 0, 1), jobs=1)
    assert snapshot(tmp_path / "other" / "consistency") == snapshot(folder / "consistency")
    monkeypatch.setattr(runner, "Workers", refuse)
    assert run(folder, recipe, *ROWS, seeds=SEEDS).reused == len(ROWS) * len(SEEDS)
    assert snapshot(folder) == before


@pytest.mark.parametrize("damage", ["gone", "{", "other key"])
def test_what_is_missing_is_compared_when_the_run_is_asked_for_again(damage: str, folder: Path, recipe: Path) -> None:
    before = snapshot(folder)
    [path] = (folder / "consistency").glob("*--mean-difference--*.json")
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(damage if damage == "{" else path.read_text().replace('"key": "', '"key": "0'))
    assert run(folder, recipe, *ROWS, seeds=SEEDS).reused == len(ROWS) * len(SEEDS)
    assert snapshot(folder) == before


def test_one_seed_has_nothing_to_be_compared_with(recipe: Path, tmp_path: Path, warm: runner.Workers) -> None:
    run(tmp_path / "run", recipe, "nothing")
    assert not (tmp_path / "run" / "consistency").exists()
    result = CliRunner().invoke(main, ["consistency", str(tmp_path / "run")])
    assert result.exit_code == 2 and "no row with two finished method seeds" in result.stderr


def test_seeds_that_cannot_be_compared_are_a_warning_and_cost_no_cell(
    folder: Path, recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder / "consistency")
    (folder / "consistency").symlink_to(folder / "fits")
    before = snapshot(folder / "fits")
    assert not run(folder, recipe, *ROWS, seeds=SEEDS).failed
    assert "seeds of quokka mean-difference seeds 0, 1, 2 cannot be compared" in caplog.text
    assert "symbolic link" in caplog.text and snapshot(folder / "fits") == before


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_shows_what_is_there_without_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Workers", refuse)
    result = CliRunner().invoke(main, ["consistency", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("quokka v1, tuned against base, tier nano\n")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()[2:6]}
    assert set(rows) == set(ROWS) and rows["mean-difference"][1:3] == ["3", "1.00"]
    assert "3 unchanged" in result.stdout and "In brackets is chance" in result.stdout
    document = json.loads(CliRunner().invoke(main, ["consistency", str(folder), "--json"]).stdout)
    assert {ConsistencyFile.model_validate(file).row for file in document} == set(ROWS)


def test_the_command_needs_neither_cache_nor_organism_for_what_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "empty"))
    file = json.loads((folder / "run.json").read_text())
    file["config"]["organisms"] = ["gone/quokka.yaml"]
    (folder / "run.json").write_text(json.dumps(file))
    monkeypatch.setattr(runner, "Workers", refuse)
    assert set(compared(folder)) == set(ROWS)
    assert not (tmp_path / "empty").exists()


def test_directions_are_compared_where_the_pair_is_not(folder: Path, warm: runner.Workers) -> None:
    before = files(folder)
    shutil.rmtree(folder / "consistency")
    file = json.loads((folder / "run.json").read_text())
    file["config"]["organisms"] = ["gone/quokka.yaml"]
    (folder / "run.json").write_text(json.dumps(file))
    found = compared(folder)
    assert {row: file.agreement for row, file in found.items()} == {row: file.agreement for row, file in before.items()}


def test_a_diff_that_changed_is_named_and_the_other_rows_are_shown(folder: Path) -> None:
    shutil.rmtree(folder / "consistency")
    [cell] = folder.glob("cells/*--mean-difference--s1--*")
    (cell / "diff" / "diff.json").write_text("{}")
    result = CliRunner().invoke(main, ["consistency", str(folder)])
    assert result.exit_code == 1 and "\nnothing " in result.stdout and "\nmean-difference " not in result.stdout
    [line] = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: quokka mean-difference seeds 0, 1, 2: seed 1: its Diff (")
    assert line.endswith("missing or changed since it was scored")


def replaced(folder: Path, diff: Callable[[Any, int], Diff]) -> None:
    """Put other Diffs into the cells of a row, as somebody would who publishes a run."""
    for seed in SEEDS:
        [cell] = folder.glob(f"cells/*--mean-difference--s{seed}--*")
        made = diff(load_diff(cell / "diff"), seed)
        shutil.rmtree(cell / "diff")
        (cell / "diff").mkdir()
        save_diff(made, cell / "diff")
        hashes = {path.name: file_digest(path) for path in (cell / "diff").iterdir()}
        edit(cell, lambda document, hashes=hashes: document["hashes"].update(diff=hashes))


MODULE = "model.layers.1.mlp.down_proj"


def weights(_: Any, seed: int) -> WeightDiff:
    """Two components that all seeds have, in another order and size, and one of each seed's own."""
    shared = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    own = torch.randn(1, 512, generator=torch.Generator().manual_seed(seed + 1))
    rows = torch.cat([shared.flip(0) * (seed + 1) if seed else shared, own])
    return WeightDiff(
        sigma=torch.ones(3), modules=(MODULE,) * 3, u=(torch.ones(128),) * 3, v=tuple(rows), verdict="changed"
    )


def test_activity_is_compared_where_components_have_no_direction(folder: Path, warm: runner.Workers) -> None:
    from transformers import AutoConfig

    from diffbench.build import resolve
    from diffbench.recipe import read_recipe

    config = json.loads((folder / "run.json").read_text())["config"]
    model = AutoConfig.from_pretrained(resolve(read_recipe(Path(config["organisms"][0]))).model_path("tuned"))
    wide = lambda diff, seed: WeightDiff(  # noqa: E731
        sigma=torch.ones(3), modules=(MODULE,) * 3, u=(torch.ones(model.hidden_size),) * 3,
        v=tuple(row[: model.intermediate_size] for row in weights(diff, seed).v), verdict="changed",
    )  # fmt: skip
    replaced(folder, wide)
    found = compared(folder)["mean-difference"].agreement
    spearman, chance = float(found.activity.spearman.value or 0), float(found.activity.chance.value or 0)
    assert found.kind == "weight" and found.matching.cosine.state == "n/a"
    assert 2 / 3 <= spearman < 1 and chance < 0.2, found.activity
    replaced(folder, lambda diff, seed: OutputDiff(score="kl", verdict="changed"))
    found = compared(folder)["mean-difference"].agreement
    assert found.activity.spearman.value == pytest.approx(1.0) and abs(float(found.activity.chance.value or 0)) < 0.2


@pytest.mark.parametrize("what", ["NaN", "kind", "module"])
def test_diffs_that_are_none_are_named(what: str, folder: Path, warm: runner.Workers) -> None:
    from dataclasses import replace

    broken: dict[str, Callable[[Any, int], Diff]] = {
        "NaN": lambda diff, seed: replace(diff, centre=diff.centre * float("nan")),
        "kind": lambda diff, seed: OutputDiff(score="kl") if seed else diff,
        "module": lambda diff, seed: WeightDiff(
            sigma=torch.ones(1), modules=("nowhere",), u=(torch.ones(4),), v=(torch.ones(4),)
        ),
    }
    replaced(folder, broken[what])
    found = {each.group.cell.row: each for each in compare_run(folder, lambda phrase, fraction: None)}
    assert str(found["mean-difference"].problem).startswith("DiffError: "), found["mean-difference"].problem
    assert all(found[row].file is not None for row in ROWS[1:])
    [group] = [each.group for row, each in found.items() if row == "mean-difference"]
    assert stored(folder, group) is None and len(records(folder)) == len(ROWS) * len(SEEDS)
