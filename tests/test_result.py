"""A run read back in Python: its frames, its pages and its Diffs, whatever a stranger wrote into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from record_factory import board_of_everything, record, scores, write_run

import diffbench
from diffbench.canonical import file_digest
from diffbench.cli import main
from diffbench.columns import rows
from diffbench.diff import DirectionDiff, Finding
from diffbench.diff_file import save_diff
from diffbench.errors import OptionError, RecordError, UnknownName
from diffbench.record import Record
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name
from diffbench.summary import summary


def with_diff(folder: Path, item: Record, size: float = 1.0) -> Record:
    """Put a record into a run folder beside a Diff that is what was scored."""
    cell = folder / CELLS / cell_folder_name(item.cell, item.key)
    (cell / "diff").mkdir(parents=True)
    diff = DirectionDiff(
        layer=1,
        directions=torch.eye(3, 4)[[2, 0, 1]] * size,
        centre=torch.zeros(4),
        bias=torch.zeros(4),
        findings=(Finding(rank=1, component=0, score=1.0, tokens_up=("green", "<b>"), tokens_down=("blue",)),),
        verdict="changed",
    )
    save_diff(diff, cell / "diff")
    digests = {path.name: file_digest(path) for path in (cell / "diff").iterdir()}
    item = item.model_copy(update={"hashes": item.hashes.model_copy(update={"diff": digests})})
    item.write(cell / RECORD_FILE)
    return item


def test_frames_are_those_of_the_leaderboard(tmp_path: Path) -> None:
    result = diffbench.load_run(write_run(tmp_path / "demo", board_of_everything()))
    assert len(result) == len(result.records) == len(result.frame) == len(board_of_everything())
    pd.testing.assert_frame_equal(result.frame, rows(result.records))
    assert list(result.summary["label"]) == list(summary(result.frame)["label"])
    assert {item.status for item in result.failures} == {"error"} and len(result.failures) == 3
    assert result.path == tmp_path / "demo" and result.damaged == result.unfinished == ()
    mine = result.summary
    mine["label"] = "mine"
    assert "mine" not in set(result.summary["label"])
    failed = result.frame[result.frame["status"] == "error"]
    assert failed["headline"].isna().all() and set(failed["headline_state"]) == {"error"}


def test_a_run_is_printed_as_the_command_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "demo", board_of_everything())
    shown = CliRunner().invoke(main, ["show", "demo"]).stdout
    assert shown.startswith(str(diffbench.load_run("demo")))
    assert str(diffbench.load_run("runs/demo/run.json")) == str(diffbench.load_run(Path("demo")))
    assert "3 failed" in repr(diffbench.load_run("demo"))


def test_a_notebook_shows_no_markup_of_a_stranger(tmp_path: Path) -> None:
    cell = {"organism": "<script>alert(1)</script>", "options_passed": {"x": "<img src=x>"}}
    folder = write_run(tmp_path / "<i>demo", [record("<b>pca</b>", cell=cell), record(status="error", reason="<u>no")])
    page = diffbench.load_run(folder)._repr_html_()
    assert not any(f"<{tag}" in page for tag in ("script", "img", "b>", "i>", "u>"))
    assert "&lt;script&gt;alert(1)" in page and "ERROR" in page and "<table" in page


def test_standings_and_detection_are_frames_with_states(tmp_path: Path) -> None:
    cells = [{"organism": name, "family": name, "changed": True, "organism_seed": 0} for name in "abc"]
    lifts = {"diff-sae": 0.3, "crosscoder-l1": 0.1}
    items = [
        record(method, cell=cell, scored=scores(lift + at / 50))
        for method, lift in lifts.items()
        for at, cell in enumerate(cells)
    ]
    nulls = [
        record("diff-sae", cell={"organism": "n", "family": "n", "changed": False, "null_class": "identity"}),
    ]
    result = diffbench.load_run(write_run(tmp_path / "demo", items + nulls))
    table = result.standings("headline", "claims_recall")
    assert set(table["metric"]) == {"headline", "claims_recall"} and set(table["label"]) == set(lifts)
    best = table[(table["metric"] == "headline") & (table["label"] == "diff-sae")].iloc[0]
    assert best["figure"] == pytest.approx(0.32) and best["figure_state"] == "ok" and best["unit"] == "family"
    assert best["figure_low"] < best["figure"] < best["figure_high"]
    assert len(result.standings(organism="a")) == 2
    found = result.detection()
    assert set(found["null_class"]) == {"identity"} and found.iloc[0]["tpr_5_state"] == "n/a"
    assert found.iloc[0]["table_nulls"] == found.iloc[0]["nulls"] == 1
    for asked, message in ((("headlin",), "did you mean headline"), (("verdict",), "no figure named")):
        with pytest.raises(UnknownName, match=message):
            result.standings(*asked)
    with pytest.raises(UnknownName, match="no organism in this run named 'z'"):
        result.standings(organism="z")
    with pytest.raises(OptionError, match="neither more nor less"):
        result.standings("kl")


def test_a_run_without_cells_has_empty_frames(tmp_path: Path) -> None:
    result = diffbench.load_run(write_run(tmp_path / "demo", []))
    assert len(result.frame) == len(result.summary) == len(result.standings()) == len(result.detection()) == 0
    assert "figure_state" in result.standings() and "alarms_state" in result.detection()
    assert "0 records" in result._repr_html_()
    with pytest.raises(RecordError, match="no finished cell"):
        result.diff("halfswap", "pca")


def test_the_diff_of_a_cell_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed = record("token-kl", status="error", reason="no")
    failed = failed.model_copy(update={"hashes": failed.hashes.model_copy(update={"diff": None})})
    write_run(tmp_path / "demo", [failed])
    both = [record("pca", seed, cell={"reference": name}) for seed in (0, 1) for name in ("base", "control")]
    items = [with_diff(tmp_path / "demo", item) for item in both]
    result = diffbench.load_run("demo")
    monkeypatch.chdir("/")
    found = result.diff("halfswap", "pca", 1, reference="control")
    assert isinstance(found, DirectionDiff) and found.findings[0].tokens_up == ("green", "<b>")
    assert torch.equal(found.directions[0], torch.tensor([0.0, 0.0, 1.0, 0.0]))
    with pytest.raises(OptionError, match=r"several cells are of that name .*reference base.*reference control"):
        result.diff("halfswap", "pca")
    wrong = {
        "no organism in this run named 'halfswop'; did you mean halfswap": ("halfswop", "pca", 0),
        "no method of that organism in this run named 'pcaa'; did you mean pca": ("halfswap", "pcaa", 0),
        "no seed of that method in this run named '7'": ("halfswap", "pca", 7),
    }
    for message, asked in wrong.items():
        with pytest.raises(UnknownName, match=message):
            result.diff(*asked)
    with pytest.raises(RecordError, match=r"keeps no Diff \(error\)"):
        result.diff("halfswap", "token-kl")
    cell = tmp_path / "demo" / CELLS / cell_folder_name(items[0].cell, items[0].key)
    (cell / "diff" / "diff.json").write_text("{}")
    with pytest.raises(RecordError, match="missing or changed since it was scored"):
        result.diff_of(items[0])


def test_a_link_in_a_run_is_not_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [])
    item = with_diff(tmp_path / "other", record("pca"))
    (folder / CELLS).mkdir()
    (folder / CELLS / cell_folder_name(item.cell, item.key)).symlink_to(
        tmp_path / "other" / CELLS / cell_folder_name(item.cell, item.key)
    )
    result = diffbench.load_run(folder)
    assert result.records == () and "symbolic link" in result.damaged[0][1]
    with pytest.raises(RecordError, match="symbolic link"):
        result.diff_of(item)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such folder"):
        diffbench.load_run(tmp_path / "nothing")
    with pytest.raises(RecordError, match="no run folder"):
        diffbench.load_run(tmp_path)


def test_a_run_is_read_and_shown_without_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "demo", board_of_everything())
    code = (
        "import sys, diffbench\nresult = diffbench.load_run('demo')\n"
        "str(result), result._repr_html_(), result.standings()\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
