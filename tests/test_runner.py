"""Many cells: one that fails costs no other, what is finished is not done again, and nothing depends on the order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_factory import answers, records, run, snapshot

from diffbench import cache, duration, runner, workseal
from diffbench.build import resolve
from diffbench.campaign import RunOutcome
from diffbench.errors import DiffbenchError
from diffbench.plugins import find_method
from diffbench.recipe import read_recipe
from diffbench.record import Record
from diffbench.tier import TIERS

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

ASKED: dict[str, Any] = {
    "options": {
        "hostile": {"act": "raises"},
        "hostile-2": {"act": "not-applicable", "argument": "this pair has no adapter"},
        "hostile-3": {"act": "dies"},
    },
}
METHODS = ("hostile", "hostile-2", "hostile-3", "mean-difference", "pca")


def mixed(folder: Path, recipe: Path, **asked: Any) -> RunOutcome:
    """Two cells that are fine between three that are not."""
    return run(folder, recipe, *METHODS, **ASKED | {"jobs": 2} | asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that several tests look at; whoever runs in it runs the same cells."""
    return tmp_path_factory.mktemp("runs") / "mixed"


@pytest.fixture
def finished(folder: Path, recipe: Path, warm: runner.Workers) -> dict[str, Record]:
    """The cells of `mixed`, run once."""
    if not folder.exists():
        mixed(folder, recipe)
    return {record.cell.method: record for record in records(folder).values()}


def act(folder: Path, recipe: Path, act: str, argument: str = "") -> tuple[Record, Record]:
    """One hostile cell and one that must not mind."""
    outcome = run(folder, recipe, "hostile", "nothing", options={"hostile": {"act": act, "argument": argument}})
    hostile, nothing = outcome.records
    assert nothing.status == "ok"
    return hostile, nothing


def test_every_cell_ends_in_a_record_of_its_own(finished: dict[str, Record]) -> None:
    assert {name: (record.status, record.reason) for name, record in finished.items()} == {
        "hostile": ("error", "ValueError: three lines of words"),
        "hostile-2": ("not_applicable", "this pair has no adapter"),
        "hostile-3": ("error", "WorkerError: killed by SIGKILL (out of memory?)"),
        "mean-difference": ("ok", None),
        "pca": ("ok", None),
    }
    assert all((record.scores is not None) == (record.status == "ok") for record in finished.values())


def test_a_cell_keeps_its_record_its_diff_and_its_log(finished: dict[str, Record], folder: Path) -> None:
    kept = {path.parent.name.split("--")[1]: path.parent for path in folder.glob("cells/*/record.json")}
    assert {path.name for path in kept["pca"].iterdir()} >= {"record.json", "diff", "log.txt"}
    assert "ValueError: three\nlines" in (kept["hostile"] / "log.txt").read_text()
    assert not (kept["hostile"] / "diff").exists()
    assert not list(folder.rglob(".*"))


def test_a_record_can_be_read_without_the_run(finished: dict[str, Record]) -> None:
    record = finished["pca"]
    assert record.cell.tier == "nano" and record.budget.components == TIERS["nano"].components
    assert record.hashes.diff is not None and finished["hostile"].hashes.diff is None
    assert record.timings.method_seconds > 0 and record.timings.score_seconds > 0
    assert set(record.timings.versions) >= {"diffbench", "torch"}
    assert "landlock" in record.timings.sandbox or workseal.landlock_abi() < 1


def test_a_hook_that_fails_costs_nothing_but_a_warning(
    tmp_path: Path, recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [record] = run(tmp_path / "run", recipe, "nothing").records
    assert record.status == "ok"
    assert "diffbench-plugin-hostile 1.0: diffbench_cell_finished: RuntimeError: this hook always fails" in caplog.text


def test_the_same_again_runs_only_what_failed(finished: dict[str, Record], folder: Path, recipe: Path) -> None:
    before = snapshot(folder)
    outcome = mixed(folder, recipe)
    assert outcome.reused == 3 and [r.cell.method for r in outcome.failed] == ["hostile", "hostile-3"]
    changed = {name for name, content in snapshot(folder).items() if before.get(name) != content}
    assert {name.split("/")[1].split("--")[1] for name in changed if name.startswith("cells/")} <= {
        "hostile",
        "hostile-3",
    }


def test_a_finished_run_starts_no_process(tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run", recipe, "nothing")

    def refuse(**_: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(runner, "Workers", refuse)
    outcome = run(tmp_path / "run", recipe, "nothing")
    assert (outcome.reused, [record.status for record in outcome.records]) == (1, ["ok"])


def test_overwrite_runs_everything_again(tmp_path: Path, recipe: Path) -> None:
    [first] = run(tmp_path / "run", recipe, "nothing").records
    outcome = run(tmp_path / "run", recipe, "nothing", overwrite=True)
    assert outcome.reused == 0
    assert outcome.records[0].scores == first.scores and len(records(tmp_path / "run")) == 1


def test_neither_jobs_nor_order_change_a_score(
    finished: dict[str, Record], folder: Path, recipe: Path, tmp_path: Path
) -> None:
    run(tmp_path / "run", recipe, *reversed(METHODS), **ASKED, jobs=1)
    assert answers(tmp_path / "run") == answers(folder)


@pytest.mark.parametrize("change", ["option", "seed", "tier", "version"])
def test_a_changed_question_is_another_cell_and_leaves_the_old_record_alone(
    change: str, tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"options": {"hostile": {"act": "not-applicable", "argument": "why"}}}
    run(tmp_path / "run", recipe, "hostile", **asked)
    before = snapshot(tmp_path / "run" / "cells")
    if change == "option":
        asked["options"] = {"hostile": {"act": "not-applicable", "argument": "because"}}
    elif change == "seed":
        asked["seeds"] = (7,)
    elif change == "tier":
        monkeypatch.setitem(TIERS, "nano", TIERS["nano"].model_copy(update={"seconds": 30.0}))
    else:
        monkeypatch.setattr(find_method("hostile"), "version", 2)
    assert run(tmp_path / "run", recipe, "hostile", **asked).reused == 0
    after = snapshot(tmp_path / "run" / "cells")
    assert before.items() <= after.items()
    assert len(records(tmp_path / "run")) == 2


def test_a_diff_over_the_budget_is_an_error(tmp_path: Path, recipe: Path) -> None:
    record, _ = act(tmp_path / "run", recipe, "many")
    assert record.status == "error"
    assert "BudgetExceeded: the Diff has 257 components, the tier allows 256" in str(record.reason)


@pytest.mark.parametrize(
    "reason",
    ["", "x" * 5000, "   ", "\n\t", "\u2028"],
    ids=["empty", "long", "spaces", "lines", "separator"],
)
def test_any_reason_of_a_method_fits_a_record(reason: str, tmp_path: Path, recipe: Path) -> None:
    answer = {"answer": {"not_applicable": reason}}
    record, _ = act(tmp_path / "run", recipe, "forges", json.dumps(answer))
    assert record.status == "not_applicable" and record.reason


def test_the_diff_of_another_cell_cannot_be_handed_in(
    finished: dict[str, Record], folder: Path, recipe: Path, tmp_path: Path
) -> None:
    [victim] = folder.glob("cells/*--pca--*/diff")
    record, _ = act(tmp_path / "run", recipe, "steals", str(victim))
    assert record.status == "error" and record.scores is None


def test_a_vandal_harms_neither_the_cache_nor_the_others(tmp_path: Path, recipe: Path) -> None:
    act(tmp_path / "first", recipe, "fine")
    before = snapshot(cache.cache_root())
    record, _ = act(tmp_path / "second", recipe, "vandal")
    assert record.status == "ok"
    after = snapshot(cache.cache_root())
    assert after.pop(duration.FILE) != before.pop(duration.FILE), "the engine itself notes how long it took"
    assert after == before


def test_nothing_is_left_of_the_work_folders(tmp_path: Path, recipe: Path) -> None:
    work = cache.cache_root() / "work"
    before = set(work.iterdir())
    act(tmp_path / "run", recipe, "links", str(tmp_path))
    assert set(work.iterdir()) == before


@pytest.mark.parametrize("damage", ["{", "", "[]", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_damaged_record_is_run_again(damage: str, tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "run"
    run(folder, recipe, "hostile", options={"hostile": {"act": "not-applicable", "argument": "why"}})
    [record] = folder.glob("cells/*/record.json")
    before = answers(folder)
    record.write_text(damage)
    outcome = run(folder, recipe, "hostile", options={"hostile": {"act": "not-applicable", "argument": "why"}})
    assert outcome.reused == 0 and answers(folder) == before


def test_a_record_of_another_key_is_not_believed(tmp_path: Path, recipe: Path) -> None:
    folder = tmp_path / "run"
    asked: dict[str, Any] = {"options": {"hostile": {"act": "not-applicable", "argument": "why"}}}
    [record] = run(folder, recipe, "hostile", **asked).records
    [path] = folder.glob("cells/*/record.json")
    record.model_copy(update={"key": record.key[:8] + "0" * 56}).write(path)
    outcome = run(folder, recipe, "hostile", **asked)
    assert outcome.reused == 0 and outcome.records[0].key == record.key


@pytest.mark.parametrize("where", ["cells", "cell", "record.json", "log.txt"])
def test_something_foreign_in_the_way_is_one_line(where: str, tmp_path: Path, recipe: Path) -> None:
    """A file where a folder belongs, or a folder where a file does."""
    folder = tmp_path / "run"
    run(folder, recipe, "nothing")
    [cell] = folder.glob("cells/*")
    if where in ("cells", "cell"):
        path = folder / "cells" if where == "cells" else cell
        path.rename(tmp_path / "moved")
        path.write_text("mine")
    else:
        (cell / "record.json").unlink()
        (cell / where).unlink(missing_ok=True)
        (cell / where).mkdir()
        (cell / where / "mine").write_text("mine")
    before = snapshot(folder)
    with pytest.raises(DiffbenchError) as caught:
        run(folder, recipe, "nothing")
    assert str(folder) in str(caught.value)
    before.pop("run.json")
    assert before.items() <= snapshot(folder).items()


def test_weights_cut_short_in_the_cache_are_made_anew(tmp_path: Path, recipe: Path) -> None:
    run(tmp_path / "run", recipe, "nothing")
    weights = resolve(read_recipe(recipe)).model_path("tuned") / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"damaged")
    [record] = run(tmp_path / "run", recipe, "nothing", seeds=(99,)).records
    assert record.status == "ok"
    assert weights.read_bytes() == content


def test_scoring_imports_no_method(finished: dict[str, Record], diary: Path) -> None:
    """DESIGN section 1: scoring imports no plugin. One that it does import can hand out its own scores."""
    assert not diary.exists() or "imported where scores are made" not in diary.read_text()
