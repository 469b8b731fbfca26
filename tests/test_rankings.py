"""Rows that rank one fit in their own ways: the method runs once, whatever is asked for and whenever."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_factory import answers, command, records, run, snapshot
from test_run_cli import kill_when

from diffbench import cells, runner
from diffbench.campaign import RunOutcome
from diffbench.canonical import file_digest
from diffbench.comparison import SCORE_CODE
from diffbench.diff_file import load_diff, save_diff
from diffbench.errors import OptionError, UnknownName
from diffbench.fits import read_fit
from diffbench.latent_table import read_latents
from diffbench.record import Record, read_record

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

ROWS = ("ranked", "ranked@falling", "ranked@rising")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The method processes that this process has started, by method."""
    names: list[str] = []
    submit = cells.submit_method

    def counted(server: Any, inputs: Path, out: Path, method: Any, *rest: Any) -> Any:
        names.append(method.name)
        return submit(server, inputs, out, method, *rest)

    monkeypatch.setattr(cells, "submit_method", counted)
    return names


def by_row(outcome: RunOutcome) -> dict[str, Record]:
    return {record.cell.row: record for record in outcome.records}


def diff_of(folder: Path, row: str) -> Path:
    [path] = folder.glob(f"cells/*--{row}--s*/diff")
    return path


def test_three_rankings_are_one_fit_and_a_fourth_none(started: list[str], recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = run(folder, recipe, *ROWS)
    assert started == ["ranked"]
    assert {row: record.status for row, record in by_row(outcome).items()} == dict.fromkeys(ROWS, "ok")
    assert len({record.fit for record in outcome.records}) == 1 and len({r.key for r in outcome.records}) == 3
    [fit] = folder.glob("fits/*")
    before = snapshot(fit)
    assert (fit / "log.txt").read_text().count("fitted") == 1
    later = run(folder, recipe, *ROWS, "ranked@partly")
    assert started == ["ranked"] and later.reused == 3
    assert by_row(later)["ranked@partly"].status == "ok" and snapshot(fit) == before
    assert by_row(later)["ranked@partly"].timings.method_seconds == read_fit(fit).seconds > 0


def test_every_row_has_the_order_and_the_findings_of_its_column(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    found = by_row(run(folder, recipe, *ROWS, "ranked@partly"))
    own, falling, rising, partly = (load_diff(diff_of(folder, row)) for row in (*ROWS, "ranked@partly"))
    assert own.order.tolist() == list(range(24)) == falling.order.tolist()  # type: ignore[union-attr]
    assert rising.order.tolist() == list(range(24))[::-1]  # type: ignore[union-attr]
    assert partly.order.tolist()[:6] == [20, 15, 10, 5, 0, 1]  # type: ignore[union-attr]
    assert [diff.ranking for diff in (own, falling, rising, partly)] == [None, "falling", "rising", "partly"]  # type: ignore[union-attr]
    assert [(f.rank, f.component, f.score) for f in rising.findings[:2]] == [(1, 23, 23.0), (2, 22, 22.0)]
    assert [f.component for f in partly.findings] == [20, 15, 10, 5, 0]
    assert [f.tokens_up for f in falling.findings] == [f.tokens_up for f in own.findings] and own.findings[0].tokens_up
    assert [f.component for f in falling.findings] == [f.component for f in own.findings]
    scores = {row: record.scores for row, record in found.items()}
    assert all(scores.values())
    assert scores["ranked"].recovery == scores["ranked@falling"].recovery  # type: ignore[union-attr]
    assert scores["ranked"].recovery.r_full == scores["ranked@rising"].recovery.r_full  # type: ignore[union-attr]
    assert scores["ranked"].recovery.budgets != scores["ranked@rising"].recovery.budgets  # type: ignore[union-attr]
    tensors = [diff_of(folder, row) / "tensors.safetensors" for row in ROWS]
    assert len({path.stat().st_ino for path in tensors}) == 1 and tensors[0].stat().st_nlink == 5
    assert len({json.dumps(record.hashes.diff) for record in found.values()}) == 4


NOT_THERE = {
    "ranked@nu_error": "there is no ranking 'nu_error'; rankings: falling, partly, rising, kl_attribution",
    "ranked@undefined": "the ranking 'undefined' is undefined for every component; rankings: falling, partly, rising, "
    "kl_attribution",
    "mean-difference@energy": "a direction diff has no latents to rank by 'energy'; rankings: kl_attribution",
}


def test_a_ranking_that_is_not_there_is_not_applicable_and_says_what_is(
    started: list[str], recipe: Path, tmp_path: Path
) -> None:
    found = by_row(run(tmp_path / "run", recipe, "ranked@rising", *NOT_THERE))
    assert {row: (r.status, r.reason) for row, r in found.items() if row in NOT_THERE} == {
        row: ("not_applicable", reason) for row, reason in NOT_THERE.items()
    }
    assert found["ranked@rising"].status == "ok" and sorted(started) == ["mean-difference", "ranked"]
    assert all(found[row].hashes.diff is None for row in NOT_THERE)
    assert len(list((tmp_path / "run").glob("cells/*/diff"))) == 1
    assert run(tmp_path / "run", recipe, "ranked@rising", *NOT_THERE).reused == 4


def test_a_ranking_that_no_dictionary_has_is_an_error(recipe: Path, tmp_path: Path) -> None:
    [misspelt] = run(tmp_path / "run", recipe, "ranked@nowhere").records
    assert misspelt.status == "error" and "there is no ranking 'nowhere' for any dictionary" in str(misspelt.reason)


@pytest.mark.parametrize(
    "row", ["ranked@", "@rising", "ranked@a@b", "ranked@A", "ranked@a b", "ranked@" + "x" * 65, "@"]
)
def test_a_row_that_is_none_is_refused_before_anything_runs(row: str, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="write NAME or NAME@COLUMN") as caught:
        run(tmp_path / "run", recipe, "ranked", row)
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "run").exists()


def test_options_are_those_of_the_plain_name(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no method in this run named 'ranked@rising'"):
        run(tmp_path / "run", recipe, "ranked@rising", options={"ranked@rising": {"sleep": 0}})
    with pytest.raises(UnknownName, match="no method named 'rankd'; did you mean ranked"):
        run(tmp_path / "run", recipe, "rankd@rising")


def test_a_method_that_fails_fails_all_its_rows_and_leaves_no_fit(
    started: list[str], recipe: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"options": {"hostile": {"act": "raises"}, "hostile-2": {"act": "not-applicable"}}}
    rows = ("hostile", "hostile@x", "hostile-2@x")
    found = by_row(run(tmp_path / "run", recipe, *rows, **asked))
    assert [found[row].status for row in rows] == ["error", "error", "not_applicable"]
    assert found["hostile"].reason == found["hostile@x"].reason == "ValueError: three lines of words"
    assert sorted(started) == ["hostile", "hostile-2"] and not list((tmp_path / "run").glob("fits/*"))
    for row in rows[:2]:
        [log] = (tmp_path / "run").glob(f"cells/*--{row}--*/log.txt")
        assert "three\nlines" in log.read_text()
    again = run(tmp_path / "run", recipe, *rows, **asked)
    assert (again.reused, started.count("hostile"), started.count("hostile-2")) == (1, 2, 1)


def test_other_scoring_code_scores_again_but_fits_nothing(
    started: list[str], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffbench import cache

    first = run(tmp_path / "run", recipe, "ranked", "ranked@rising")
    code = cache.code_version
    monkeypatch.setattr(cache, "code_version", lambda *names: "other" if names == SCORE_CODE else code(*names))
    second = run(tmp_path / "run", recipe, "ranked", "ranked@rising")
    assert second.reused == 0 and started == ["ranked"]
    assert [r.fit for r in second.records] == [r.fit for r in first.records]
    assert not {r.key for r in second.records} & {r.key for r in first.records}


def test_overwrite_fits_again_once(started: list[str], recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, *ROWS)
    before = answers(tmp_path / "run")
    [fit] = (tmp_path / "run").glob("fits/*")
    inode = (fit / "fit.json").stat().st_ino
    outcome = run(tmp_path / "run", recipe, *ROWS, overwrite=True)
    assert outcome.reused == 0 and started == ["ranked", "ranked"]
    assert (fit / "fit.json").stat().st_ino != inode and answers(tmp_path / "run") == before


@pytest.mark.parametrize(
    "damage", ["fit.json", "diff/tensors.safetensors", "diff/diff.json", "latents.parquet", "gone"]
)
def test_a_damaged_fit_is_made_anew(damage: str, started: list[str], recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "ranked")
    [fit] = (tmp_path / "run").glob("fits/*")
    before = {name: content for name, content in snapshot(fit).items() if name != "fit.json"}
    if damage == "gone":
        shutil.rmtree(fit)
    else:
        content = (fit / damage).read_bytes()
        (fit / damage).unlink()
        (fit / damage).write_bytes(content[:-2])
    [_, record] = run(tmp_path / "run", recipe, "ranked", "ranked@rising").records
    assert record.status == "ok" and started == ["ranked", "ranked"]
    assert {name: content for name, content in snapshot(fit).items() if name != "fit.json"} == before


def test_a_fit_in_a_links_place_is_not_believed(recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "ranked")
    [fit] = (tmp_path / "run").glob("fits/*")
    fit.rename(tmp_path / "moved")
    fit.symlink_to(tmp_path / "moved")
    from diffbench.errors import RecordError

    with pytest.raises(RecordError, match="symbolic link"):
        run(tmp_path / "run", recipe, "ranked", "ranked@rising")


FORGED = {
    "NaN": (lambda diff: replace(diff, encoder=diff.encoder * math.nan), "encoder: holds NaN or infinite values"),
    "wide": (lambda diff: replace(diff, decoder=diff.decoder.repeat(1, 2)), "decoder: has shape"),
    "no column": (lambda diff: replace(diff, columns={}), "there is no ranking 'rising'"),
    "no words": (lambda diff: replace(diff, findings=()), None),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_fit_that_somebody_forged_costs_its_own_rows_at_most(
    what: str, started: list[str], recipe: Path, tmp_path: Path
) -> None:
    """Whoever publishes a run can write into it what no method process could leave; hashes agree with it."""
    folder = tmp_path / "run"
    run(folder, recipe, "ranked", "nothing")
    [fit] = folder.glob("fits/*--ranked--*")
    change, message = FORGED[what]
    save_diff(change(load_diff(fit / "diff")), fit / "diff")
    file = read_fit(fit)
    hashes = {name: file_digest(fit / name) for name in file.files}
    (fit / "fit.json").write_text(file.model_copy(update={"files": hashes}).model_dump_json())
    found = by_row(run(folder, recipe, "ranked", "ranked@rising", "nothing", "nothing@rising"))
    assert started == ["ranked", "nothing"], "the fit is believed to be finished"
    assert found["ranked"].status == found["nothing"].status == "ok", "which are finished"
    assert found["nothing@rising"].status == "not_applicable"
    record = found["ranked@rising"]
    assert record.status == ("ok" if what == "no words" else "error"), record.reason
    assert message is None or message in str(record.reason)


def test_seeds_and_jobs_change_no_row(started: list[str], recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", recipe, *ROWS, seeds=(0, 1), jobs=1)
    run(tmp_path / "two", recipe, *reversed(ROWS), seeds=(1, 0), jobs=3)
    assert answers(tmp_path / "one") == answers(tmp_path / "two")
    assert started == ["ranked"] * 4 and len(answers(tmp_path / "one")) == 6


def test_progress_counts_rows_and_names_them(recipe: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    fractions: list[float] = []

    def notify(phrase: str, fraction: float) -> None:
        if phrase.startswith("cells "):
            seen.append(phrase)
            fractions.append(fraction)

    run(tmp_path / "run", recipe, *ROWS, jobs=1, notify=notify)
    assert seen[0].startswith("cells 0/3 quokka ranked s0") and seen[-1].startswith("cells 3/3")
    assert any(phrase.startswith("cells 1/3 quokka ranked@falling s0") for phrase in seen), seen
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_the_fit_says_how_the_method_ran(recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "ranked", seeds=(3,))
    [fit] = (tmp_path / "run").glob("fits/*")
    file = read_fit(fit)
    [record] = records(tmp_path / "run").values()
    assert fit.name == f"quokka--ranked--s3--{file.key[:8]}" and file.key == record.fit
    assert (file.method, file.seed, file.tier) == ("ranked", 3, "nano")
    assert file.peak_memory_mb == record.timings.peak_memory_mb > 0 and file.usage == record.timings.usage
    assert file.sandbox == record.timings.sandbox
    assert set(file.files) == {"diff/diff.json", "diff/tensors.safetensors", "latents.parquet"}
    assert {path.name for path in fit.iterdir()} == {"diff", "fit.json", "latents.parquet", "log.txt"}
    table = read_latents(fit / "latents.parquet")
    assert table.column("rising").to_pylist() == list(range(24)) and table.column("rank")[0].as_py() == 1
    assert table.column("partly").to_pylist()[:2] == [0.0, None] and table.column("undefined").null_count == 24
    diff = load_diff(fit / "diff")
    first = diff.findings[0]
    assert tuple(table.column("tokens_up")[first.component].as_py()) == first.tokens_up


def test_a_run_killed_between_rows_keeps_its_fit(recipe: Path, tmp_path: Path) -> None:
    """The fit is finished before the first row is; rows that were done stay, and the method does not run again."""
    folder = tmp_path / "runs" / "quokka"
    rows = ("ranked", "ranked@falling", "ranked@partly", "ranked@rising")
    arguments = ("run", "--organism", recipe, "--tier", "nano", "--jobs", "1", "--runs-dir", tmp_path / "runs",
                 "--no-controls", *(word for row in rows for word in ("--method", row)))  # fmt: skip
    orphans = kill_when(command(*arguments), lambda: any(folder.glob("cells/*/record.json")), 0.0)
    [fit] = folder.glob("fits/*/fit.json")
    facts = fit.stat()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/record.json")}
    assert orphans == [] and 1 <= len(kept) < len(rows)
    with command(*arguments, "--json") as process:
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0 and f"4 cells ({len(kept)} reused, 0 failed)" in stderr, stderr
    after = fit.stat()
    assert (after.st_ino, after.st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns)
    assert all(os.stat(path).st_mtime_ns == time for path, time in kept.items())
    assert {read_record(path).fit for path in folder.glob("cells/*/record.json")} == {read_fit(fit.parent).key}
    assert not list(folder.rglob(".*"))


def test_the_servers_start_no_threads(servers: runner.Workers) -> None:
    """A process forked from one that has threads may hang; some libraries start one when they are imported."""
    assert servers.engine().ready()["threads"] == servers.methods().ready()["threads"] == 1
