"""From what is asked for to a run folder: what cannot work is said in one line and harms nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_factory import mini_recipe, records, run, snapshot

from diffbench import runner
from diffbench.campaign import verify
from diffbench.errors import DiffbenchError, GateError, OptionError, RecordError, UnknownName
from diffbench.gate_report import GateCheck, GateReport
from diffbench.plugins import load_plugins

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "organism": ({"organisms": ("halfswop",)}, "no organism named 'halfswop'; did you mean halfswap or halfswap-lora"),
    "method": ({"methods": ("pcaa",)}, "no method named 'pcaa'; did you mean pca"),
    "judge": ({"judge": "ofline"}, "no judge named 'ofline'; did you mean offline"),
    "tier": ({"tier": "smok"}, "no tier named 'smok'; did you mean smoke"),
    "option": ({"options": {"pca": {"component": 3}}}, "pca: no option 'component'; options: components"),
    "value": ({"options": {"pca": {"components": "many"}}}, "pca: option components: .*got 'many'"),
    "owner": ({"options": {"pcaa": {"components": 3}}}, "no method in this run named 'pcaa'; did you mean pca"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_things_are_refused_with_what_is_near(what: str, recipe: Path, tmp_path: Path) -> None:
    asked, message = UNKNOWN[what]
    with pytest.raises((UnknownName, OptionError), match=message) as caught:
        run(tmp_path / "run", recipe, *asked.pop("methods", ("pca",)), **asked)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


BROKEN: dict[str, dict[str, Any]] = {
    "base: .*got 7": {"base": 7},
    "no base named 'tinywurld'; did you mean tinyworld": {"base": "tinywurld"},
    "no family named 'color-swap'; did you mean colour-swap": {"family": "color-swap"},
    "parameters.exchange: .*got 2": {"parameters": {"exchange": 2}},
    "training.steps": {"training": {"steps": 0}},
    "name: .*got '../quokka'": {"name": "../quokka"},
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_recipe_is_refused_in_one_line(message: str, tmp_path: Path) -> None:
    changes = dict(BROKEN[message])
    path = mini_recipe(tmp_path, "broken")
    if "name" in changes:
        path.write_text(path.read_text().replace("name: broken", f"name: {changes['name']}"))
    else:
        path = mini_recipe(tmp_path, "broken", **changes)
    with pytest.raises(DiffbenchError, match=message) as caught:
        run(tmp_path / "run", path, "nothing")
    assert len(str(caught.value).splitlines()) == 1, caught.value
    assert not list(tmp_path.rglob("record.json"))


def test_two_recipes_of_one_name_are_refused(recipe: Path, tmp_path: Path) -> None:
    other = mini_recipe(tmp_path, "quokka", seed=1)
    with pytest.raises(OptionError, match="two different recipes are named 'quokka'; rename one"):
        run(tmp_path / "run", recipe, "nothing", organisms=(str(recipe), str(other)))


def test_a_control_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = mini_recipe(tmp_path, "loner", control=None)
    with pytest.raises(OptionError, match="organism loner has no control; use --reference base"):
        run(tmp_path / "run", path, "nothing", references=("base", "control"))


def test_a_layer_that_does_not_exist_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(DiffbenchError, match=r"layer: 17 does not exist, the models have blocks 0..5") as caught:
        run(tmp_path / "run", recipe, "nothing", layer=17)
    assert len(str(caught.value).splitlines()) == 1


def test_a_gate_that_is_not_passed_says_its_numbers_and_leaves_no_cell(tmp_path: Path) -> None:
    """The gate alone differs from the organism that the other tests use, so nothing has to be trained."""
    path = mini_recipe(tmp_path, "quokka", gate={"expression_tuned": [0.99, 1]})
    with pytest.raises(GateError, match=r"organism quokka: gate not passed: .*: 0\.99 <= 0\.\d+ <= 1 \[FAILED\]"):
        run(tmp_path / "run", path, "nothing")
    assert not (tmp_path / "run" / "cells").exists()
    [(_, report)] = verify((str(path),), (), lambda phrase, fraction: None)
    assert isinstance(report, GateReport)
    assert not report.passed and {check.name for check in report.checks if not check.passed} == {
        "expression, tuned",
        "expression, weakest claim",
    }


def test_a_refused_run_leaves_a_finished_one_as_it_was(recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "nothing")
    before = snapshot(tmp_path / "run")
    for asked in ({"layer": 17}, {"tier": "huge"}, {"options": {"nothing": {"x": 1}}}):
        with pytest.raises(DiffbenchError):
            run(tmp_path / "run", recipe, "nothing", **asked)
        assert snapshot(tmp_path / "run") == before, asked


@pytest.mark.parametrize(
    "name, content",
    [
        ("notes.txt", "mine"),
        ("run.json", "mine"),
        ("run.json", '{"name": "my own tool", "value": 1}'),
    ],
)
def test_a_folder_of_somebody_else_is_refused_and_left_alone(
    name: str, content: str, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text(content)
    with pytest.raises(RecordError, match=str(folder)):
        run(folder, recipe, "nothing")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: content}


def test_what_a_killed_run_left_is_no_foreign_folder(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".run.json.0123abcd").write_text("{")
    assert len(run(folder, recipe, "nothing").records) == 1
    (folder / "run.json").write_text('{"name": ')
    with pytest.raises(RecordError, match="delete it and run again"):
        run(folder, recipe, "nothing")
    (folder / "run.json").unlink()
    assert run(folder, recipe, "nothing", "mean-difference").reused == 1


def test_a_run_that_is_refused_leaves_no_folder(recipe: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.yaml"
    text = recipe.read_text().replace("name: quokka", "name: strict")
    document = yaml.safe_load(text)
    document["gate"]["expression_tuned"] = [0.999999, 1.0]
    strict.write_text(yaml.safe_dump(document))
    with pytest.raises(GateError):
        run(tmp_path / "run", strict, "nothing")
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_not_there_is_refused_before_anything_is_built(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"layer: 6 does not exist, the models have blocks 0\.\.5"):
        run(tmp_path / "run", recipe, "nothing", layer=6)
    assert not (tmp_path / "run").exists()


def test_a_file_beside_the_cells_of_a_finished_run_stays(recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "nothing")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run(tmp_path / "run", recipe, "nothing").reused == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/run", "file", "/proc/run"])
def test_a_place_that_cannot_be_written_is_refused(place: str, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecordError, match="choose another") as caught:
        run(tmp_path / place, recipe, "nothing")
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["..", "-run", "a b", "x" * 200, "run\n"])
def test_a_name_that_is_none_is_refused(name: str, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no name for a run"):
        run(tmp_path / name, recipe, "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_run_file_says_what_was_asked(recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "nothing", seeds=(3,))
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["config"]["seeds"] == [3] and document["config"]["tier"] == "nano"
    assert document["name"] == "run" and document["argv"] == ["test"]


def test_two_organisms_against_two_references(recipe: Path, tmp_path: Path) -> None:
    """The second one is the first one's control, so that it has to be trained no more, and is the same as its own."""
    null = mini_recipe(tmp_path, "numbat", parameters={"exchange": 0.0})
    seen: list[str] = []
    outcome = run(
        tmp_path / "run", recipe, "nothing", "pca",
        organisms=(str(recipe), str(null)), references=("base", "control"), jobs=2,
        notify=lambda phrase, fraction: seen.append(phrase),
    )  # fmt: skip
    rows = [(r.cell.organism, r.cell.reference, r.cell.method, r.status) for r in outcome.records]
    assert rows == [
        (organism, reference, method, "ok")
        for organism in ("quokka", "numbat")
        for reference in ("base", "control")
        for method in ("nothing", "pca")
    ]
    assert len(records(tmp_path / "run")) == 8 and len(list((tmp_path / "run" / "cells").iterdir())) == 8
    same = [r for r in outcome.records if (r.cell.organism, r.cell.reference) == ("numbat", "control")]
    assert {r.pair.kl.value for r in same} == {0.0} and {r.hashes.tuned_model for r in same} == {
        r.hashes.reference_model for r in same
    }
    assert all(r.scores is not None and r.scores.recovery.r_full.state != "ok" for r in same)
    assert any(phrase.startswith("cells 8/8") for phrase in seen)


def test_a_finished_run_needs_no_cache(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run", recipe, "nothing")
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "empty"))
    assert run(tmp_path / "run", recipe, "nothing").reused == 1
    assert not (tmp_path / "empty").exists()


def test_a_cache_that_cannot_be_written_is_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DiffbenchError, match="DIFFBENCH_CACHE") as caught:
        run(tmp_path / "run", recipe, "nothing")
    assert len(str(caught.value).splitlines()) == 1


def test_all_installed_methods_are_run_where_none_is_named(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    passed = GateReport(organism="quokka", checks=(GateCheck(name="any", value=1.0, low=None, high=None),))
    monkeypatch.setattr(runner, "build", lambda organisms, workers: [passed])
    monkeypatch.setattr(runner, "prepare", lambda cells, workers: {})
    monkeypatch.setattr(runner, "run_cells", lambda cells, *_, **__: asked.extend(c.cell.method for c in cells) or [])
    run(tmp_path / "run", recipe)
    assert asked == sorted(load_plugins().methods)
