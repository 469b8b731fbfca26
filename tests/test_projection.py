"""What a run is going to do and how long it will take, told before, and what it took, after."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from run_factory import run, snapshot

from diffbench import projection, runner
from diffbench.campaign import RunConfig, foresee
from diffbench.canonical import digest
from diffbench.cli import main
from diffbench.duration import DEFAULTS, LEAST_SCALE, Durations
from diffbench.errors import OptionError, RecordError, UnknownName
from diffbench.run_folder import read_run_file

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("hostile")

ROWS = ("ranked", "ranked@rising", "nothing")
METHOD, SCORE, PREPARE = (LEAST_SCALE * DEFAULTS[kind] for kind in ("method", "score", "prepare"))
"""What is expected in the nano tier, of which nothing is known."""


def plan(folder: Path, recipe: Path, *methods: str, overwrite: bool = False, **asked: Any) -> projection.Projection:
    asked = {"organisms": (str(recipe),), "methods": methods, "controls": False, "tier": "nano", "jobs": 2, **asked}
    return foresee(RunConfig.model_validate(asked), folder, overwrite)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def steps(found: projection.Projection) -> dict[str, str]:
    return {f"{step.cell.row} s{step.cell.seed}": step.step for step in found.cells}


def test_all_is_to_be_done_where_nothing_is(empty: Path, recipe: Path, tmp_path: Path) -> None:
    found = plan(tmp_path / "run", recipe, *ROWS, seeds=(0, 1))
    assert steps(found) == {
        "ranked s0": "run", "ranked s1": "run", "ranked@rising s0": "score", "ranked@rising s1": "score",
        "nothing s0": "run", "nothing s1": "run",
    }  # fmt: skip
    assert sorted(found.models) == ["quokka control", "quokka tuned"] and found.comparisons == ("quokka against base",)
    assert found.fits == 4 and not (tmp_path / "run").exists() and not empty.exists()
    time = found.time
    assert time.building == pytest.approx(DEFAULTS["train"] + DEFAULTS["gate"]), "two models side by side, one gate"
    assert time.preparing == pytest.approx(PREPARE), "which is longer than half of it and the control"
    assert time.methods == pytest.approx(4 * METHOD / 2) and time.scoring == pytest.approx(6 * SCORE / 2)
    assert time.comparing == pytest.approx(3 * DEFAULTS["consistency"] / 2), "three rows of two seeds"
    parts = ("starting", "building", "preparing", "methods", "scoring", "comparing")
    assert time.total == pytest.approx(sum(getattr(time, part) for part in parts)) and time.measured is None
    assert found.told() == (
        "2 min for 6 cells (2 models to train, 1 pair to prepare, 4 methods to run, 6 Diffs to score), 2 side by side"
    )


def test_it_follows_from_what_took_how_long_here(empty: Path, recipe: Path, tmp_path: Path) -> None:
    durations = Durations()
    options = {"weights": None, "sleep": 0.0}
    durations.note(("method", "tinyworld", "nano", "ranked", digest(options)), 100.0)
    durations.note(("score", "tinyworld", "nano", "offline", "ranked"), 7.0)
    durations.note(("train", "tinyworld", "quokka", "tuned"), 1000.0)
    durations.save()
    found = plan(tmp_path / "run", recipe, "ranked", jobs=1)
    assert found.time.methods == 100.0 and found.time.scoring == 7.0
    assert found.time.building == pytest.approx(2000.0 + DEFAULTS["gate"]), "the control is trained alike"
    assert found.cells[0].seconds == 107.0
    other = plan(tmp_path / "run", recipe, "ranked", jobs=1, options={"ranked": {"sleep": 1.0}})
    assert other.time.methods == 100.0, "the nearest that is known"


def test_a_damaged_file_of_durations_is_no_reason_to_stop(empty: Path, recipe: Path, tmp_path: Path) -> None:
    empty.mkdir()
    (empty / "durations.json").write_text('{"seconds": {"x": [[]]}}')
    assert plan(tmp_path / "run", recipe, "ranked", jobs=1).time.methods == METHOD


def test_what_is_there_is_not_done_again(warm: runner.Workers, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, recipe, *ROWS)
    before = snapshot(folder)
    found = plan(folder, recipe, *ROWS)
    assert set(steps(found).values()) == {"finished"} and found.time.total == 0.0
    assert found.models == found.comparisons == () and found.fits == 0 and not found.worth_telling
    [record] = folder.glob("cells/*--ranked--*/record.json")
    kept = record.read_text()
    record.unlink()
    found = plan(folder, recipe, *ROWS, "ranked@falling")
    assert steps(found) == {"ranked s0": "score", "ranked@rising s0": "finished", "nothing s0": "finished",
                            "ranked@falling s0": "score"}  # fmt: skip
    assert (found.fits, found.models, found.comparisons) == (0, (), ())
    record.write_text(kept)
    assert snapshot(folder) == before
    again = plan(folder, recipe, *ROWS, overwrite=True)
    assert steps(again) == {"ranked s0": "run", "ranked@rising s0": "score", "nothing s0": "run"} and again.fits == 2


def test_fits_of_a_copied_run_tell_how_long_methods_take(
    warm: runner.Workers, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(folder, recipe, "ranked")
    [path] = folder.glob("fits/*/fit.json")
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"seconds": 500.0}))
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "empty"))
    assert plan(folder, recipe, "ranked", seeds=(7,)).time.methods == pytest.approx(500.0)


@pytest.mark.parametrize(
    ("asked", "error"),
    [({"tier": "huge"}, UnknownName), ({"layer": 99}, OptionError), ({"options": {"nothing": {"x": 1}}}, OptionError)],
)
def test_what_cannot_run_cannot_be_planned(asked: dict[str, Any], error: Any, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(error):
        plan(tmp_path / "run", recipe, "nothing", **asked)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecordError, match="no run folder"):
        plan(tmp_path, recipe, "nothing")


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(recipe: Path, tmp_path: Path) -> Callable[..., Result]:
    def ask(*arguments: str) -> Result:
        fixed = ("run", "--organism", str(recipe), "--tier", "nano", "--runs-dir", str(tmp_path / "runs"))
        return CliRunner().invoke(main, [*fixed, "--no-controls", "--jobs", "1", *arguments])

    return ask


def test_a_dry_run_prints_the_plan_and_does_nothing(
    empty: Path, ask: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(runner, "Workers", refuse)
    result = ask("--method", "ranked", "--method", "ranked@rising", "--dry-run")
    assert result.exit_code == 0 and result.stderr == "", result.output
    lines = result.stdout.splitlines()
    assert re.split("  +", lines[1]) == ["quokka", "base", "ranked", "0", "run the method, score", "7 s"]
    assert re.split("  +", lines[2]) == ["quokka", "base", "ranked@rising", "0", "score the fit", "4 s"]
    assert "to be trained: quokka tuned, quokka control" in lines and "to be prepared: quokka against base" in lines
    assert lines[-1].startswith("projected: ") and "for 2 cells (2 models to train, 1 pair to prepare" in lines[-1]
    document = json.loads(ask("--method", "ranked", "--dry-run", "--json").stdout)
    assert [cell["step"] for cell in document["cells"]] == ["run"] and document["time"]["total"] > 0
    assert document["models"] == ["quokka tuned", "quokka control"]
    assert not (tmp_path / "runs").exists() and not empty.exists()
    assert ask("--method", "rankd", "--dry-run").exit_code == 2


def test_the_time_is_told_before_and_after_and_kept(
    warm: runner.Workers, ask: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "LEAST_TOLD", 0.0)
    result = ask("--method", "nothing", "--method", "mean-difference", "--json")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    [before] = [
        line
        for line in lines
        if re.fullmatch(r"projected: .* for 2 cells \(.*2 Diffs to score\), 1 side by side", line)
    ]
    [after] = [line for line in lines if re.fullmatch(r"projected: \d+ \w+; measured: \d+ \w+", line)]
    assert lines.index(before) < lines.index(after) == len(lines) - 2
    time = json.loads(result.stdout)["time"]
    assert time["measured"] > 0 and time["jobs"] == 1
    kept = read_run_file(tmp_path / "runs" / "quokka").time
    assert kept is not None and kept.model_dump() == time
    again = ask("--method", "nothing", "--method", "mean-difference", "--json")
    assert "projected" not in again.stderr and json.loads(again.stdout)["time"] is None
    assert read_run_file(tmp_path / "runs" / "quokka").time == kept


def test_a_short_run_is_not_announced(
    warm: runner.Workers, ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "LEAST_TOLD", 1e6)
    result = ask("--method", "nothing")
    assert result.exit_code == 0 and "projected" not in result.stderr


def test_the_next_one_is_projected_by_the_last_one(warm: runner.Workers, recipe: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path / "run", recipe, "mean-difference", jobs=1)
    [record] = outcome.records
    found = plan(tmp_path / "run", recipe, "mean-difference", seeds=(4,), jobs=1)
    assert found.time.methods != METHOD and found.time.methods >= record.timings.method_seconds / 8
    assert found.time.building == found.time.preparing == 0.0
