"""Finished runs scored anew from their Diffs: without a method, of any version, and losing nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from run_factory import command, records, run, snapshot
from test_run_cli import kill_when
from test_stored_cell import edit, older

from diffbench import cache, cells, runner
from diffbench import rescore as module
from diffbench.canonical import file_digest
from diffbench.cli import main
from diffbench.comparison import SCORE_CODE
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff
from diffbench.diff_file import load_diff, save_diff
from diffbench.ending import Ending
from diffbench.errors import RecordError
from diffbench.grid import METHOD_CODE
from diffbench.judge import Judge
from diffbench.plugins import load_plugins
from diffbench.record import Record
from diffbench.rescore import RescoreOutcome, foresee, rescore
from diffbench.stored_cell import VERSION, stored_cells

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

ROWS = ("ranked", "ranked@rising", "ranked@undefined", "mean-difference", "hostile", "hostile-2")
ASKED: dict[str, Any] = {
    "options": {"hostile": {"act": "raises"}, "hostile-2": {"act": "not-applicable", "argument": "no adapter"}}
}
SCORED = ("ranked", "ranked@rising", "mean-difference")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("original") / "run"


@pytest.fixture
def folder(original: Path, recipe: Path, warm: runner.Workers, tmp_path: Path) -> Path:
    """A copy of a run with every kind of ending, made once."""
    if not original.exists():
        run(original, recipe, *ROWS, **ASKED)
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_method(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package that brought the methods is not installed any more, and no method process may be started."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a method process was started")

    monkeypatch.setattr(cells, "submit_method", refuse)
    monkeypatch.setenv("DIFFBENCH_LOAD_PLUGINS", "")
    load_plugins.cache_clear()
    assert "ranked" not in load_plugins().methods
    yield
    load_plugins.cache_clear()


def anew(folder: Path, **asked: Any) -> RescoreOutcome:
    return rescore(folder, lambda phrase, fraction: None, **asked)


def by_row(found: Any) -> dict[str, Record]:
    return {record.cell.row: record for record in found}


def cell_of(folder: Path, row: str) -> Path:
    [path] = folder.glob(f"cells/*--{row}--s*")
    return path


def other_code(monkeypatch: pytest.MonkeyPatch, *changed: tuple[str, ...]) -> None:
    code = cache.code_version
    monkeypatch.setattr(cache, "code_version", lambda *names: "other" if names in changed else code(*names))


def test_a_run_that_is_up_to_date_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(folder)

    def refuse(**_: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(runner, "Workers", refuse)
    outcome = anew(folder)
    assert (outcome.reused, len(outcome.records), outcome.refused, outcome.failed) == (6, 6, (), ())
    assert snapshot(folder) == before


def test_what_a_paid_judge_would_cost_is_told_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foresee(folder) == (0, None)
    monkeypatch.setenv("DIFFBENCH_JUDGE_PRICE", "1,2")
    before = snapshot(folder)
    n, judging = foresee(folder, "openai:some-model")
    assert n == len(ROWS) and judging is not None and judging.judge == "openai:some-model"
    assert judging.usage.calls > 300 and judging.usage.cost is not None and judging.usage.cost > 0
    result = CliRunner().invoke(main, ["rescore", str(folder), "--judge", "openai:some-model", "--dry-run"])
    assert result.exit_code == 0 and f"{n} cells to score; judge openai:some-model" in result.stdout
    assert snapshot(folder) == before


def test_other_scoring_code_scores_every_diff_again_and_run_finds_it(
    folder: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = by_row(records(folder).values())
    other_code(monkeypatch, SCORE_CODE)
    outcome = anew(folder)
    assert (outcome.reused, outcome.refused, outcome.failed) == (0, (), ())
    second = by_row(outcome.records)
    assert set(second) == set(ROWS)
    for row in ROWS:
        old, new = first[row], second[row]
        assert (new.scores, new.status, new.reason, new.fit) == (old.scores, old.status, old.reason, old.fit)
        assert new.key != old.key and new.rescored is not None and new.rescored.from_key == old.key
        assert new.hashes.diff == old.hashes.diff and new.cell == old.cell
        kept = ("method_seconds", "usage", "sandbox", "peak_memory_mb", "harvest_seconds")
        assert [getattr(new.timings, name) for name in kept] == [getattr(old.timings, name) for name in kept]
    assert by_row(records(folder).values()) == second, "the old ones are gone"
    assert len(list((folder / "cells").iterdir())) == len(ROWS)
    monkeypatch.setattr(cells, "submit_method", None)
    reused = run(
        folder, recipe, *(row for row in ROWS if row != "hostile"), options={"hostile-2": ASKED["options"]["hostile-2"]}
    )
    assert reused.reused == len(ROWS) - 1
    again = anew(folder)
    assert again.reused == len(ROWS)


def test_the_code_that_made_the_diffs_need_not_be_there(
    folder: Path, no_method: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = by_row(records(folder).values())
    other_code(monkeypatch, SCORE_CODE, METHOD_CODE)
    outcome = anew(folder)
    assert not outcome.refused and outcome.reused == 0
    assert {row: (r.status, r.scores) for row, r in by_row(outcome.records).items()} == {
        row: (record.status, record.scores) for row, record in first.items()
    }
    assert {row: r.cell.method_package for row, r in by_row(outcome.records).items()}["ranked"].startswith(
        "diffbench-plugin-hostile"
    )


def test_records_of_the_first_version_become_todays(folder: Path, no_method: None) -> None:
    first = by_row(records(folder).values())
    for path in (folder / "cells").iterdir():
        fit = json.loads((path / "record.json").read_text())["fit"]
        edit(path, older)
        edit(path, lambda document, fit=fit: document.update(fit=fit))
    assert not records(folder)
    outcome = anew(folder)
    assert (outcome.reused, outcome.refused) == (0, ())
    second = by_row(records(folder).values())
    assert set(second) == set(ROWS)
    for row, new in second.items():
        assert new.schema_version == VERSION and new.scores == first[row].scores and new.status == first[row].status
        assert new.key == first[row].key, "fit, ranking, judge and code are the same"
        assert new.cell.changed is True, "a fact of the organism, which older records do not have"


def test_a_diff_is_taken_from_its_fit_if_the_cell_lost_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = by_row(records(folder).values())
    for row in SCORED:
        shutil.rmtree(cell_of(folder, row) / "diff")
    other_code(monkeypatch, SCORE_CODE)
    second = by_row(anew(folder).records)
    assert {row: second[row].scores for row in SCORED} == {row: first[row].scores for row in SCORED}
    assert all((cell_of(folder, row) / "diff" / "tensors.safetensors").is_file() for row in SCORED)


def test_another_text_of_the_same_pair_is_another_key(folder: Path) -> None:
    """The comparison is made by other code than then; the models are the same."""
    cell = cell_of(folder, "ranked")
    edit(cell, lambda d: d["hashes"].update(pair="0" * 64))
    old = json.loads((cell / "record.json").read_text())["key"]
    outcome = anew(folder)
    record = by_row(outcome.records)["ranked"]
    assert outcome.reused == len(ROWS) - 1 and record.key != old
    assert record.rescored is not None and record.rescored.pair == "0" * 64 and record.hashes.pair != "0" * 64
    assert anew(folder).reused == len(ROWS)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "tuned": (lambda d: d["hashes"].update(tuned_model="0" * 64), "its tuned model (000000000000) is not the one"),
    "reference": (lambda d: d["hashes"].update(reference_model="0" * 64), "its base model (000000000000)"),
    "base": (lambda d: d["hashes"].update(base="0" * 64), "its base model (000000000000)"),
    "diff": (lambda d: d["hashes"]["diff"].update({"diff.json": "0" * 64}), "missing or changed since it was scored"),
    "organism": (lambda d: d["cell"].update(organism="nowhere"), "no organism named 'nowhere'"),
    "path": (lambda d: d["cell"].update(organism="/etc/x.yaml"), "its organism has the name of a file"),
    "tier": (lambda d: d["cell"].update(tier="huge"), "no tier named 'huge'"),
    "judge": (lambda d: d["cell"].update(judge="oracle 9"), "no judge named 'oracle'"),
    "budget": (lambda d: d["budget"].update(components=7), "tier nano allowed 2000 tokens and 7 components then"),
    "layer": (
        lambda d: d.update(key="0" * 64, pair=d["pair"] | {"layer": d["pair"]["layer"] + 1}),
        "and the rule chooses",
    ),
    "malformed": (lambda d: d.pop("cell"), "cell: missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_cell_that_is_not_what_it_was_is_refused_by_name_and_the_others_go_on(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = REFUSED[what]
    cell = cell_of(folder, "mean-difference")
    edit(cell, change)
    before = snapshot(cell)
    outcome = anew(folder)
    [refused] = outcome.refused
    assert "mean-difference" in refused.name and message in refused.reason, refused
    assert len(refused.reason.splitlines()) == 1
    assert snapshot(cell) == before and outcome.reused == len(ROWS) - 1


def test_models_that_other_code_made_alike_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys differ; the entry of then is still in the cache, and holds the very same files."""
    [stored] = [
        cell for _, cell in stored_cells(folder) if not isinstance(cell, RecordError) and cell.cell.method == "ranked"
    ][:1]
    then = "5" * 64
    held = cache.held

    def entry(kind: str, key: str) -> Path | None:
        return held(kind, stored.hashes.tuned_model if key == then else key)

    monkeypatch.setattr(cache, "held", entry)
    edit(cell_of(folder, "ranked"), lambda d: d["hashes"].update(tuned_model=then, pair="6" * 64))
    outcome = anew(folder)
    assert not outcome.refused and by_row(outcome.records)["ranked"].hashes.tuned_model == stored.hashes.tuned_model
    monkeypatch.setattr(cache, "held", lambda kind, key: Path("/nowhere") if key == then else held(kind, key))
    edit(cell_of(folder, "ranked"), lambda d: d["hashes"].update(tuned_model=then))
    edit(cell_of(folder, "ranked"), lambda d: d.update(key="0" * 64))
    [refused] = anew(folder).refused
    assert "its tuned model (555555555555) is not the one" in refused.reason


def replaced(folder: Path, row: str, diff: Callable[[Any], Diff]) -> Path:
    """Put another Diff into a cell, as somebody would who publishes a run: record and hashes agree with it."""
    cell = cell_of(folder, row)
    made = diff(load_diff(cell / "diff"))
    shutil.rmtree(cell / "diff")
    shutil.rmtree(folder / "fits")
    (cell / "diff").mkdir()
    save_diff(made, cell / "diff")
    hashes = {path.name: file_digest(path) for path in (cell / "diff").iterdir()}
    edit(cell, lambda document: document["hashes"].update(diff=hashes))
    edit(cell, lambda document: document.update(key="0" * 64))
    return cell


def finding(component: int = 0, **more: Any) -> Finding:
    return Finding(rank=1, component=component, score=1.0, **more)


MALFORMED: dict[str, tuple[Callable[[Any], Diff], str]] = {
    "NaN": (lambda d: replace(d, centre=d.centre * math.nan), "DiffError: centre: holds NaN or infinite values"),
    "infinite": (lambda d: replace(d, bias=d.bias + math.inf), "DiffError: bias: holds NaN or infinite values"),
    "wide": (lambda d: replace(d, directions=d.directions.repeat(1, 2)), "DiffError: directions: has shape"),
    "double": (lambda d: replace(d, bias=d.bias.double()), "DiffError: bias: is torch.float64"),
    "long": (lambda d: replace(d, directions=d.directions * 7), "rows must have unit norm"),
    "many": (
        lambda d: replace(d, directions=d.directions.repeat(257, 1), constant=d.constant.repeat(257)),
        "BudgetExceeded: the Diff has 257 components, the tier allows 256",
    ),
    "layer": (lambda d: replace(d, layer=99), "DiffError: layer: 99 does not exist"),
    "component": (lambda d: replace(d, findings=(finding(5),)), "DiffError: findings: component 5 does not exist"),
    "finding of nothing": (lambda d: OutputDiff(score=None, findings=(finding(),)), "component 0 does not exist"),
    "module": (
        lambda d: WeightDiff(sigma=torch.ones(1), modules=("nowhere",), u=(torch.ones(4),), v=(torch.ones(4),),
                             findings=(finding(),)),
        "DiffError: modules: 'nowhere' is no module",
    ),
    "words": (lambda d: OutputDiff(score="tokens", token_scores=torch.ones(3)), "token_scores: has shape [3]"),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_diff_that_is_none_ends_in_an_error_record(what: str, folder: Path) -> None:
    diff, message = MALFORMED[what]
    replaced(folder, "mean-difference", diff)
    outcome = anew(folder)
    record = by_row(outcome.records)["mean-difference"]
    assert record.status == "error" and message in str(record.reason) and record.scores is None, record.reason
    assert [failed.key for failed in outcome.failed] == [record.key] and not outcome.refused
    assert by_row(records(folder).values())["mean-difference"] == record
    assert {by_row(outcome.records)[row].status for row in ("ranked", "ranked@rising")} == {"ok"}


def silent(diff: DirectionDiff) -> DirectionDiff:
    """It has an edit and says nothing."""
    return replace(diff, findings=(), change_score=None, verdict="abstain")


def outside(diff: DirectionDiff) -> OutputDiff:
    """It says something and has no edit."""
    return OutputDiff(score="kl", findings=(finding(tokens_up=("blue",)),), change_score=0.5, verdict="changed")


def speechless(diff: DirectionDiff) -> OutputDiff:
    """It answers nothing but whether something changed."""
    return OutputDiff(score=None, verdict="changed")


def empty(diff: DirectionDiff) -> DirectionDiff:
    return replace(diff, directions=diff.directions[:0], constant=None, findings=(), verdict="unchanged")


def dead(diff: DirectionDiff) -> DictionaryDiff:
    """A dictionary of which no latent ever fires, and which has more findings than it has words for."""
    width = diff.directions.shape[1]
    return DictionaryDiff(
        layer=diff.layer, input="delta", activation="relu", encoder=torch.zeros(4, width),
        encoder_bias=-torch.ones(4), decoder=torch.zeros(4, width), bias=torch.zeros(width), order=torch.arange(4),
        findings=tuple(Finding(rank=i + 1, component=i, score=0.0) for i in range(4)), verdict="abstain",
    )  # fmt: skip


def elsewhere(diff: DirectionDiff) -> DirectionDiff:
    """About another layer than the run."""
    return replace(diff, layer=(diff.layer + 1) % 4)


PARTIAL = (silent, outside, speechless, empty, dead, elsewhere)


@pytest.mark.parametrize("diff", PARTIAL)
def test_a_diff_that_answers_some_questions_is_scored_on_those(diff: Callable[[Any], Diff], folder: Path) -> None:
    replaced(folder, "mean-difference", diff)
    outcome = anew(folder)
    record = by_row(outcome.records)["mean-difference"]
    assert record.status == "ok" and not outcome.refused, record.reason
    scores = record.scores
    assert scores is not None
    assert scores.recovery.r_full.state == ("ok" if diff in (silent, empty, dead) else "n/a"), scores.recovery.r_full
    if diff is not dead:  # nothing is detected where nothing is said; else as far as the text shows
        assert (scores.interpretability.detection.score.state == "n/a") == (diff not in (outside, elsewhere))
    for figure in figures(json.loads(record.model_dump_json())["scores"]):
        assert (figure["value"] is None) == (figure["state"] != "ok")
        assert figure["state"] == "ok" or figure["reason"], figure


def figures(document: Any) -> Iterator[dict[str, Any]]:
    """Every figure in a document."""
    if isinstance(document, dict):
        if {"state", "value"} <= set(document):
            yield document
        for part in document.values():
            yield from figures(part)
    elif isinstance(document, list):
        for part in document:
            yield from figures(part)


FILES = {
    "no tensors": lambda diff: (diff / "tensors.safetensors").write_bytes(b"\x00" * 100),
    "no json": lambda diff: (diff / "diff.json").write_text("{"),
    "unknown key": lambda diff: (diff / "diff.json").write_text('{"schema_version": 1, "code": "import os"}'),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_diff_end_in_an_error_record(what: str, folder: Path) -> None:
    cell = replaced(folder, "mean-difference", lambda diff: diff)
    FILES[what](cell / "diff")
    hashes = {path.name: file_digest(path) for path in (cell / "diff").iterdir()}
    edit(cell, lambda document: document["hashes"].update(diff=hashes))
    record = by_row(anew(folder).records)["mean-difference"]
    assert record.status == "error" and "DiffError: " in str(record.reason)


def test_a_cell_whose_scoring_was_killed_keeps_its_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(cell_of(folder, "mean-difference"), lambda document: document.update(key="0" * 64))
    before = snapshot(folder)

    def killed(*_: object) -> Iterator[Any]:
        return Ending("error", "scoring: WorkerError: killed by SIGKILL", lasting=False)
        yield

    monkeypatch.setattr(module, "score_diff", killed)
    outcome = anew(folder)
    [refused] = outcome.refused
    assert refused.reason == "scoring: WorkerError: killed by SIGKILL; its old record stays"
    assert snapshot(folder) == before


def test_an_error_of_scoring_is_tried_again(folder: Path) -> None:
    cell = cell_of(folder, "mean-difference")
    first = by_row(records(folder).values())["mean-difference"]
    edit(cell, lambda document: document.update(status="error", reason="scoring: MemoryError", scores=None))
    outcome = anew(folder)
    record = by_row(outcome.records)["mean-difference"]
    assert outcome.reused == len(ROWS) - 1 and record.status == "ok" and record.scores == first.scores
    assert cell_of(folder, "mean-difference") == cell


def test_another_judges_rows_stand_beside_the_old_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_of(folder, "mean-difference").rename(folder / "cells" / "by-somebody")
    edit(cell, lambda document: document["cell"].update(judge="somebody 3"))
    edit(cell, lambda document: document.update(key="1" * 64))
    before = snapshot(cell)
    outcome = anew(folder, judge="offline")
    assert snapshot(cell) == before and not outcome.refused
    judges = sorted(r.cell.judge for r in records(folder).values() if r.cell.row == "mean-difference")
    assert judges == [f"offline {load_plugins().judges['offline'].version}", "somebody 3"]
    assert issubclass(load_plugins().judges["offline"], Judge)


def test_cells_that_older_code_left_are_replaced_as_one(folder: Path) -> None:
    """`diffbench run` writes beside what older code wrote; the Diff is the same."""
    cell = cell_of(folder, "ranked")
    copy = cell.with_name(cell.name[:-8] + "00000000")
    shutil.copytree(cell, copy)
    edit(copy, lambda document: document.update(key="0" * 64))
    outcome = anew(folder)
    assert outcome.reused == len(ROWS) and not copy.exists() and cell.exists()
    assert len(records(folder)) == len(ROWS)


def test_a_cell_with_another_diff_stays_beside_the_one_that_is_read(folder: Path) -> None:
    cell = cell_of(folder, "ranked")
    copy = cell.with_name(cell.name[:-8] + "00000000")
    shutil.copytree(cell, copy)
    (copy / "diff" / "diff.json").write_text((copy / "diff" / "diff.json").read_text() + "\n")
    hashes = {path.name: file_digest(path) for path in (copy / "diff").iterdir()}
    edit(copy, lambda document: document.update(key="0" * 64, hashes=document["hashes"] | {"diff": hashes}))
    before = snapshot(copy)
    outcome = anew(folder)
    [refused] = outcome.refused
    assert outcome.reused == len(ROWS) and f"another Diff than {cell.name}" in refused.reason
    assert snapshot(copy) == before and cell.exists()


def test_unfinished_cells_are_left_alone(folder: Path) -> None:
    (cell_of(folder, "ranked") / "record.json").unlink()
    outcome = anew(folder)
    assert len(outcome.records) == len(ROWS) - 1 and not outcome.refused
    assert cell_of(folder, "ranked").is_dir()


def test_an_organism_may_be_named_where_the_run_does_not_know_it(folder: Path, recipe: Path) -> None:
    file = json.loads((folder / "run.json").read_text())
    file["config"]["organisms"] = ["gone/quokka.yaml"]
    (folder / "run.json").write_text(json.dumps(file))
    outcome = anew(folder)
    assert len(outcome.refused) == len(ROWS) and "name its recipe with --organism" in outcome.refused[0].reason
    assert anew(folder, organisms=(str(recipe),)).reused == len(ROWS)


def test_what_is_no_run_is_one_line(tmp_path: Path, folder: Path) -> None:
    for path, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "no run folder")):
        with pytest.raises(RecordError, match=message):
            anew(path)
    result = CliRunner().invoke(main, ["rescore", str(folder), "--judge", "ofline"])
    assert result.exit_code == 2 and "did you mean offline" in result.stderr


def test_the_command_prints_the_table_and_who_was_refused(folder: Path) -> None:
    edit(cell_of(folder, "mean-difference"), lambda d: d["hashes"].update(tuned_model="0" * 64))
    result = CliRunner().invoke(main, ["rescore", str(folder)])
    assert result.exit_code == 1 and "\nranked@rising " in result.stdout, result.output
    lines = result.stderr.splitlines()
    assert lines[-2].startswith("0 cells re-scored, 5 reused, 0 failed, 1 refused in ")
    assert lines[-1].startswith("refused: quokka mean-difference s0 against base: its tuned model (000000000000)")
    document = json.loads(CliRunner().invoke(main, ["rescore", str(folder), "--json"]).stdout)
    assert document["reused"] == 5 and [cell["cell"] for cell in document["refused"]] == [
        "quokka mean-difference s0 against base"
    ]
    assert {row["row"] for row in document["rows"]} == set(ROWS) - {"mean-difference"}


def test_a_run_that_was_killed_while_it_was_re_scored_has_lost_nothing(folder: Path) -> None:
    for path in (folder / "cells").iterdir():
        fit = json.loads((path / "record.json").read_text())["fit"]
        edit(path, older)
        edit(path, lambda document, fit=fit: document.update(fit=fit))

    def versions() -> dict[str, int]:
        found = (json.loads(path.read_text()) for path in folder.glob("cells/[!.]*/record.json"))
        return {
            document["cell"]["method"] + str(document["cell"]["ranking"]): document["schema_version"]
            for document in found
        }

    orphans = kill_when(command("rescore", folder, "--jobs", "1"), lambda: VERSION in versions().values(), 0.0)
    assert orphans == [] and len(versions()) == len(ROWS) and set(versions().values()) == {1, VERSION}
    with command("rescore", folder, "--json") as process:
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert len(json.loads(stdout)["rows"]) == len(ROWS) and set(versions().values()) == {VERSION}
    assert not list(folder.rglob(".*"))
