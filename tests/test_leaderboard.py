"""Leaderboard: rows, means, order, files. Set DIFFBENCH_GOLDEN=1 to write tests/golden anew."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from pydantic import BaseModel
from record_factory import (
    ABSENT,
    board_of_everything,
    figure,
    pair_facts,
    record,
    run_file,
    scores,
    write_run,
)
from study_factory import nulls, study

from diffbench import board_page
from diffbench.cli import main
from diffbench.columns import COLUMNS, dictionary
from diffbench.figure import Figure
from diffbench.leaderboard import build, collect, document, rows, summary
from diffbench.record import Record
from diffbench.run_folder import CELLS, Run, read_run
from diffbench.summary import plain_rows

GOLDEN = Path(__file__).parent / "golden"
FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json")


def table(*records: Record) -> list[dict[str, Any]]:
    return plain_rows(summary(rows(records)))


def damaged_run(folder: Path) -> Path:
    run = write_run(folder / "demo", board_of_everything())
    for name in ("broken", "running"):
        (run / CELLS / name).mkdir()
    (run / CELLS / "broken" / "record.json").write_text('{"schema_version": 1')
    return run


def test_golden_files(tmp_path: Path) -> None:
    build([damaged_run(tmp_path)], tmp_path / "out")
    for name in FILES:
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        if os.environ.get("DIFFBENCH_GOLDEN"):
            (GOLDEN / name).write_text(text, encoding="utf-8")
        assert text == (GOLDEN / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text


def test_golden_page_of_several_organisms(tmp_path: Path) -> None:
    methods = {"diff-sae": 0.3, "crosscoder-l1": 0.26, "pca": 0.05, "mean-difference": -0.2}
    records = study(methods, families=4, organism_seeds=2, baselines=("pca", "mean-difference"))
    records += nulls("diff-sae", "identity", [0.0] * 20) + nulls("pca", "identity", [0.001, None, 0.05])
    records += nulls("diff-sae", "gauge", [2.0], verdicts="changed")
    build([write_run(tmp_path / "study", records)], tmp_path / "out")
    page = (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    page = page[: page.index("\n## organism-0-0")]
    if os.environ.get("DIFFBENCH_GOLDEN"):
        (GOLDEN / "several.md").write_text(page, encoding="utf-8")
    assert page == (GOLDEN / "several.md").read_text(encoding="utf-8")


def test_of_an_organism_at_several_seeds_one_is_shown_and_all_failures(tmp_path: Path) -> None:
    seeds = [f"halfswap{end}" for end in ("@10", "", "@9")]
    records = [record(cell={"organism": name}) for name in seeds]
    records.append(record("tied", status="error", reason="E: lost", cell={"organism": "halfswap@9"}))
    board = collect([Run(Path("runs/demo"), run_file(), tuple(records), (), ())])
    for page in (board_page.text(board), board_page.page(board)):
        assert page.count("v1, tuned against base") == 1
        assert "halfswap@9, halfswap@10" in page and "halfswap@9: tied seed 0" in page
    assert len(document(board)["pairs"]) == 3


def test_every_figure_of_the_scores_has_a_column() -> None:
    """What is scored is in the data, whoever adds it: figures as columns, lists of parts as JSON."""
    record_ = record()
    assert record_.scores is not None
    held = {id(figure): path for path, figure in figures_in(record_.scores)}
    read = [column.get(record_) for column in COLUMNS]
    missing = [path for each, path in held.items() if each not in map(id, read)]
    assert not missing
    lists = [path for path, part in fields_in(record_.scores) if isinstance(part, tuple) and path != "budgets"]
    assert {path.rpartition(".")[2] for path in lists} <= {
        *("curve", "strata", "sets", "claims", "dose", "found", "findings", "budgets")
    }


def fields_in(part: Any, path: str = "") -> list[tuple[str, Any]]:
    found = []
    for name in type(part).model_fields:
        value = getattr(part, name)
        found.append((f"{path}.{name}", value))
        if isinstance(value, BaseModel) and not isinstance(value, Figure):
            found += fields_in(value, f"{path}.{name}")
    return found


def figures_in(part: Any) -> list[tuple[str, Figure]]:
    return [(path, value) for path, value in fields_in(part) if isinstance(value, Figure)]


def test_every_column_is_read_and_described() -> None:
    everything = scores(
        **{name: figure(0.5, 0.1) for name in ("r_full", "fve", "auroc_first", "detection")}, fve_delta=ABSENT
    )
    organism = {
        "organism_seed": 7,
        "family": "colour-swap",
        "training": "lora",
        "null_class": "control",
        "changed": False,
    }
    organism |= {"difficulty": {"axis": "rank", "level": "full"}}
    frame = rows([record(scored=everything, reason="a remark", cell={"ranking": "energy"} | organism)])
    assert [name for name in frame.columns if frame[name].isna().all() and not name.endswith(("_low", "_high"))] == [
        "fve_delta"
    ]
    assert set(frame.columns) | {"run", "verified", "since"} == set(dictionary())
    assert all(entry["description"] for entry in dictionary().values())
    assert frame["missing"][0] == "fve_delta: no dictionary"
    assert (frame["fve"][0], frame["fve_low"][0], frame["fve_high"][0]) == (0.5, 0.4, 0.6)


def test_a_missing_number_is_null_and_says_why() -> None:
    frame = rows(
        [
            record(scored=scores(fve=ABSENT, r_full=Figure.undefined("noise"))),
            record(status="error", reason="E: x"),
            record(status="not_applicable", reason="no"),
        ]
    )
    assert frame["fve_state"].tolist() == ["n/a", "error", "n/a"]
    assert frame["r_full_state"].tolist() == ["undefined", "error", "n/a"]
    assert frame["kl_state"].tolist() == ["ok"] * 3
    for column in COLUMNS:
        if column.kind == "figure":
            assert frame[column.name].dtype == "Float64"
            assert (frame[column.name].notna() == (frame[f"{column.name}_state"] == "ok")).all()
    assert pd.isna(frame["fve"].mean())
    assert not frame.map(lambda value: isinstance(value, float) and value != value).any().any()


def test_no_records(tmp_path: Path) -> None:
    assert len(rows([])) == len(summary(rows([]))) == 0
    build([write_run(tmp_path / "empty", [])], tmp_path)
    assert (tmp_path / "leaderboard.md").read_text().startswith("# Leaderboard\n\n0 records of 1 run (empty)")


def test_t_interval_over_seeds() -> None:
    # mean 2, standard deviation 1, t(.975; 2) = 4.302653: 2 -+ 4.302653 / sqrt(3)
    (row,) = table(*(record(seed=i, scored=scores(lift)) for i, lift in enumerate((1.0, 2.0, 3.0))))
    assert row["headline"] == pytest.approx(2.0)
    assert (row["headline_low"], row["headline_high"]) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    assert (row["unit"], row["seeds"], row["seeds_ok"]) == ("method seeds", 3, 3)
    # mean .14, standard deviation .0547723, t(.975; 4) = 2.776445
    lifts = (0.1, 0.1, 0.1, 0.2, 0.2)
    (row,) = table(*(record(seed=i, scored=scores(lift)) for i, lift in enumerate(lifts)))
    assert (row["headline_low"], row["headline_high"]) == pytest.approx((0.071991, 0.208009), abs=1e-6)


def test_no_interval_over_two_seeds_and_documents_for_one() -> None:
    (row,) = table(*(record(seed=i, scored=scores(lift)) for i, lift in enumerate((0.1, 0.3))))
    assert (row["headline_low"], row["headline_high"], row["unit"]) == (None, None, None)
    assert row["headline"] == pytest.approx(0.2)
    (row,) = table(record(scored=scores(0.25)))
    assert (row["headline_low"], row["headline_high"]) == pytest.approx((0.2, 0.3))
    assert row["unit"] == "documents"


def test_seeds_that_make_no_difference_are_one_unit() -> None:
    (row,) = table(*(record(seed=i, scored=scores(0.25)) for i in range(5)))
    assert (row["seeds"], row["unit"]) == (5, "documents")
    assert (row["headline_low"], row["headline_high"]) == pytest.approx((0.2, 0.3))


def test_two_records_of_one_seed_are_one_unit() -> None:
    old = [record(seed=i, scored=scores(0.9), key=f"old{i}") for i in range(3)]
    new = [record(seed=i, scored=scores(i / 10), timings={"started": "2026-03-01T00:00:00Z"}) for i in range(2)]
    (row,) = table(*new, *old)
    assert row["seeds"] == 3
    assert row["headline"] == pytest.approx((0.0 + 0.1 + 0.9) / 3)


def test_failed_seeds_are_counted_and_left_out() -> None:
    failed = record("m", 9, status="error", reason="E: x")
    (row,) = table(failed, *(record("m", i, scored=scores(i / 10)) for i in range(2)))
    assert (row["status"], row["seeds"], row["seeds_ok"], row["reason"]) == ("partial", 3, 2, "E: x")
    assert row["headline"] == pytest.approx(0.05)
    assert row["headline_low"] is None


def test_a_mean_over_lucky_seeds_is_no_number() -> None:
    unlucky = scores(first_hit=Figure.undefined("no finding reaches .9"))
    (row,) = table(record(seed=0), record(seed=1, scored=unlucky))
    assert (row["first_hit"], row["first_hit_state"]) == (None, "undefined")
    assert row["headline_state"] == "ok"
    (row,) = table(record(seed=0, scored=scores(fve=ABSENT)), record(seed=1, scored=scores(fve=Figure.undefined("x"))))
    assert (row["fve"], row["fve_state"]) == (None, "undefined")


def test_where_seeds_are_one_unit_a_figure_that_they_change_has_no_interval() -> None:
    (row,) = table(*(record(seed=i, scored=scores(detection_lift=figure(0.2 + i / 10, 0.08))) for i in range(3)))
    assert (row["unit"], row["headline_low"]) == ("documents", pytest.approx(0.15))
    assert row["detection_lift"] == pytest.approx(0.3)
    assert (row["detection_lift_low"], row["detection_lift_high"]) == (None, None)


def test_seeds_of_different_options_pairs_or_versions_are_not_averaged() -> None:
    assert len(table(record(), record(seed=1, cell={"options": {"k": 9}}))) == 2
    assert len(table(record(), record(seed=1, cell={"method_version": 2}))) == 2
    assert len(table(record(), record(seed=1, pair=pair_facts(layer=2)))) == 2
    labels = [row["label"] for row in table(record(), record(seed=1, cell={"options": {"k": 9}}))]
    assert len(set(labels)) == 2 and all(label.startswith("diff-sae #") for label in labels)


def test_rankings_of_a_method_are_rows_of_their_own_with_readable_names() -> None:
    method = "crosscoder-batchtopk"
    rankings = (None, "nu_error", "nu_reconstruction")
    asked = [record(method, seed, cell={"ranking": ranking}) for ranking in rankings for seed in range(2)]
    found = table(*asked)
    names = [method, f"{method}@nu_error", f"{method}@nu_reconstruction"]
    assert sorted(row["label"] for row in found) == names == sorted(row["row"] for row in found)
    assert {(row["method"], row["seeds"]) for row in found} == {(method, 2)}
    assert len({row["variant"] for row in found}) == 3
    board = collect([Run(Path("runs/demo"), run_file(), tuple(asked), (), ())])
    for page in (board_page.text(board, 200), board_page.page(board)):
        assert all(f"{name} " in page.replace("|", " ") for name in names)


def test_order() -> None:
    found = [row["label"] for row in table(*board_of_everything()[:-1])]
    assert found == [
        "oracle",
        "nothing",
        "random-dictionary",
        "random-dictionary@energy",
        "added-noise",
        "diff-sae@nu_error",
        "crosscoder-l1 k=16",
        "diff-sae",
        "crosscoder-l1",
        "mean-difference",
        "flaky",
        "reads-data",
        "token-kl",
        "mean-difference@energy",
        "stitching",
        "tied",
    ]


def test_order_of_ties_is_by_name_and_never_by_an_unmatched_r() -> None:
    records = [record(name, scored=scores(0.1, r_full=figure(r))) for name, r in (("b", 0.99), ("a", 0.1), ("c", 0.5))]
    assert [row["method"] for row in table(*records)] == ["a", "b", "c"]


def test_versions_of_an_organism_are_in_numerical_order() -> None:
    records = [record(cell={"organism_version": version}) for version in (10, 9, 1)]
    assert [row["organism_version"] for row in table(*records)] == [1, 9, 10]


def test_equal_records_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    records = board_of_everything()
    half = len(records) // 2
    outputs = []
    for trial in range(3):
        shuffled = random.Random(trial).sample(records, len(records))
        parts = (sorted(shuffled[:half], key=records.index), shuffled[half:]) if trial else (records, [])
        runs = [
            write_run(tmp_path / str(trial) / f"{name}", list(part), run_file("same"))
            for name, part in zip(("x", "y"), parts, strict=True)
        ]
        frame = collect([read_run(run) for run in (reversed(runs) if trial == 2 else runs)])
        data = document(frame)
        outputs.append(json.dumps([data["rows"], data["summary"]]))
        build(runs, tmp_path / "a")
        build([*reversed(runs), runs[0] / "run.json"], tmp_path / "b")
        for name in FILES:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(set(outputs)) == 1


def test_duplicates_are_taken_once_and_stated(tmp_path: Path) -> None:
    old = record(scored=scores(0.1), timings={"started": "2026-01-02T04:00:00+02:00"})  # 02:00 in UTC
    new = record(scored=scores(0.2), timings={"started": "2026-01-02T03:30:00Z"})
    assert old.key == new.key
    runs = [write_run(tmp_path / "new", [new]), write_run(tmp_path / "old", [old])]
    for order in (runs, runs[::-1]):
        build(order, tmp_path / "out")
        data = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
        assert [row["headline"] for row in data["rows"]] == [0.2]
        assert data["rows"][0]["run"] == "new"
        (duplicate,) = data["duplicates"]
        assert duplicate["kept"]["run"] == "new"
        assert [copy["run"] for copy in duplicate["left_out"]] == ["old"]
        assert "1 cell is in several runs" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_json_documents_its_columns(tmp_path: Path) -> None:
    build([damaged_run(tmp_path)], tmp_path / "out")
    data = json.loads((tmp_path / "out" / "leaderboard.json").read_text(), parse_constant=pytest.fail)
    assert data["schema_version"] == 3
    assert set(data["rows"][0]) == set(data["columns"])
    assert set(data["summary"][0]) <= set(data["columns"]) | set(data["summary_columns"])
    assert {entry["higher_is_better"] for entry in data["columns"].values()} == {True, False, None}
    assert data["damaged"][0]["path"] == "cells/broken/record.json"
    assert data["unfinished"] == [{"run": "demo", "path": "cells/running"}]
    with (tmp_path / "out" / "leaderboard.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["key"] for line in lines] == [row["key"] for row in data["rows"]]


def test_markdown_shows_failures_and_escapes_strangers(tmp_path: Path) -> None:
    evil = record(
        "x|y`<b>",
        status="error",
        reason="<img src=x onerror=alert(1)> | [a](javascript:b)\n# \x1b[31mred\x1b[0m",
        cell={"organism": "<script>", "judge": "**j**", "options": {"\x1b[2J": [[["\u202e"]]]}},
        pair=pair_facts(layer_rule="`rule`|\n\n# big"),
    )
    run = write_run(tmp_path / "r", [evil], run_file("<i>run</i>"))
    (run / CELLS / "a<b>").mkdir()
    (run / CELLS / "a<b>" / "record.json").write_text("[]")
    build([run], tmp_path / "out")
    page = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not set(page) & set("<>\x1b\u202e")
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Leaderboard",
        "## &lt;script&gt; v1, tuned against base, tier smoke (" + page.split("smoke (")[1].split(")")[0] + ")",
        "## Damaged records",
        "## Legend",
    ]
    for name in FILES:
        assert not set((tmp_path / "out" / name).read_text()) & set("\x1b\u202e")


def test_hostile_values_do_not_stop_the_others(tmp_path: Path) -> None:
    odd = record("odd", cell={"options": {}, "seed": 10**30, "organism_version": 10**30})
    large = record("large", scored=scores(1e308), timings={"started": "yesterday", "method_seconds": 1e308})
    larger = [record("large", i, scored=scores(1e308 - i * 1e292)) for i in (1, 2, 3)]
    run = write_run(tmp_path / "r", [large, *larger, record("good")])
    (run / CELLS / "odd").mkdir()
    text = json.dumps(odd.model_dump(mode="json"))
    options = '{"k": NaN, "deep": ' + "[" * 400 + "]" * 400 + ', "s": "\\ud800"}'
    (run / CELLS / "odd" / "record.json").write_text(text.replace('"options": {}', f'"options": {options}'))
    copy = write_run(tmp_path / "copy", [record("good")])
    (copy / CELLS / "odd").mkdir()
    (copy / CELLS / "odd" / "record.json").write_bytes((run / CELLS / "odd" / "record.json").read_bytes())
    build([run, copy], tmp_path / "out")
    data = json.loads((tmp_path / "out" / "leaderboard.json").read_text(), parse_constant=pytest.fail)
    assert sorted({row["method"] for row in data["rows"]}) == ["good", "large", "odd"]
    assert [row["seed"] for row in data["rows"] if row["method"] == "odd"] == [None]


def test_two_thousand_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    records = [
        record(f"method-{i % 40}", i // 40, cell={"organism": f"o{i % 10}"}, scored=scores(i / 2000))
        for i in range(2000)
    ]
    run = write_run(tmp_path / "r", records)
    start, used = time.perf_counter(), time.process_time()
    build([run], tmp_path / "out")
    sys.stderr.write(f"2,000 records: {time.perf_counter() - start:.1f} s, {time.process_time() - used:.1f} s of CPU\n")
    assert len((tmp_path / "out" / "leaderboard.csv").read_text().splitlines()) == 2001


def test_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", [record()])
    code = (
        "import sys; from pathlib import Path; from diffbench.leaderboard import build\n"
        f"build([Path({str(run)!r})], Path({str(tmp_path / 'out')!r}))\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_command_build(tmp_path: Path) -> None:
    run, out = damaged_run(tmp_path), tmp_path / "out"
    done = CliRunner().invoke(main, ["leaderboard", "build", str(run), "--out", str(out)])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(out / name) for name in (*FILES, "schema.json", "index.html")]
    assert "1 damaged" in done.stderr
    done = CliRunner().invoke(main, ["leaderboard", "build", str(run), "--out", str(out), "--json"])
    files = json.loads(done.stdout)["files"]
    assert files[:3] == [str(out / name) for name in FILES]
    assert all(Path(file).is_file() for file in files) and str(out / "methods" / "diff-sae.html") in files


def test_command_show(tmp_path: Path) -> None:
    run = damaged_run(tmp_path)
    done = CliRunner().invoke(main, ["show", str(run)], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines()[2:20])) <= 80
    for text in ("oracle", "BudgetExceeded: 61.2 s of 60 s", "damaged: demo/cells/broken", str(run / CELLS)):
        assert text in done.stdout
    assert "\x1b" not in done.stdout
    done = CliRunner().invoke(main, ["show", str(run), "--details"], env={"COLUMNS": "120"})
    assert done.exit_code == 0 and "rand/noise" in done.stdout and "R@1 2 4 8" not in done.stdout
    done = CliRunner().invoke(main, ["show", str(run), "--json"])
    assert json.loads(done.stdout)["schema_version"] == 3


@pytest.mark.parametrize("arguments", [["show"], ["leaderboard", "build", "--out", "out"]])
def test_commands_refuse_what_is_no_run_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "none")])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no such folder" in done.stderr


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", [record()])
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["leaderboard", "build", str(run), "--out", str(tmp_path / "file" / "x")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1 and "cannot be written" in done.stderr
