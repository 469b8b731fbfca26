"""From registered studies to verdicts on a mini organism: resumable, and what fails costs its own studies alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from run_factory import mini_recipe
from test_keys import DECIDES_NOTHING, reached

from diffbench import reproduction, runner, study
from diffbench.cli import main
from diffbench.errors import DiffbenchError
from diffbench.gate_report import GateCheck, GateReport
from diffbench.reproduction import Reproduction, reproduce
from diffbench.study import Registration, read_registration
from diffbench.study_plan import MEASURE_CODE, MEASUREMENTS, plan
from diffbench.workers import Workers

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

SMALL = {"expansion": 1, "tokens": 2000}
NEVER = 1e9


FIT = "mini/crosscoder-l1"


def value(name: str, read: str, margin: float, fit: str = FIT) -> dict[str, Any]:
    return {
        "id": name,
        "says": name,
        "published": "1",
        "first": {"fit": fit, "read": read},
        "combine": "value",
        "direction": "above",
        "margin": margin,
    }


def difference(name: str, first: str, second: str, margin: float) -> dict[str, Any]:
    return value(name, first, margin) | {"combine": "difference", "second": {"fit": FIT, "read": second}}


def claim(name: str, *tests: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "version": 1, "claim": name, "source": "here", "undefined": "never", "tests": list(tests)}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registration:
    organism = str(mini_recipe(tmp_path_factory.mktemp("studies"), "numbat"))
    methods = {"crosscoder-l1": {**SMALL, "penalty": 0.5}}
    run = {"organism": organism, "reference": "base", "layer": 1, "methods": methods}
    document = {
        "schema_version": 1,
        "registered": "2026-01-02",
        "known": "nothing",
        "tier": "nano",
        "organism_seeds": [1, 2, 3],
        "method_seed": 0,
        "runs": {"mini": run, "odd": run | {"methods": {"no-such-method": {}}}},
        "studies": [
            claim("ALWAYS", value("fve", "fit.fve", -NEVER), difference("l0", "fit.l0", "fit.dead_share", -NEVER)),
            claim("NEVER", difference("fve", "fit.fve", "fit.fve_delta", NEVER)),
            claim("COUNT", value("n", "colours.base_exclusive", -0.5)),
            claim("SHARE", difference("nu", "specific.share", "colours.base_exclusive", NEVER)),
            claim("GONE", value("no", "fit.fve", 0.0, "odd/no-such-method")),
        ],
    }
    return read_registration(yaml.safe_dump(document))


Carry = Callable[..., Reproduction]


@pytest.fixture
def carry(registered: Registration, runs: Path) -> Carry:
    def carry(*names: str, folder: Path | None = None) -> Reproduction:
        return reproduce(plan(registered, names, folder or runs, jobs=2), lambda phrase, fraction: None, ("test",))

    return carry


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests of this module: what one of them ran the next one finds finished."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed: no process may be asked for anything."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is run again")

    monkeypatch.setattr(runner, "Workers", refuse)


def verdicts(found: Reproduction) -> dict[str, str]:
    return {each.study.id: each.verdict for each in found.studies}


def test_verdicts_follow_from_what_was_measured(carry: Carry, runs: Path) -> None:
    found = carry("ALWAYS", "NEVER", "COUNT", "SHARE")
    assert found.errors == ()
    assert verdicts(found) == {
        "ALWAYS": "holds",
        "NEVER": "does not hold here",
        "COUNT": "undecided",  # of the three none has any such latent, and t says nothing where nothing varies
        "SHARE": "undecided",
    }
    assert [value.value for each in found.studies[2:] for value in each.outcomes[0].values] == [0.0] * 6
    assert (found.cells, found.reused) == (3, 0)
    assert {pair.organism for pair in found.pairs} == {"numbat@1", "numbat@2", "numbat@3"}
    never = found.studies[1].outcomes[0]
    assert len({value.value for value in never.values}) == 3  # three organisms
    for unit, value in zip(never.units, never.values, strict=True):
        [path] = runs.glob(f"reproduce-mini/cells/numbat@{unit.organism_seed}--*/record.json")
        fit = json.loads(path.read_text())["scores"]["fit"]
        assert value.value == pytest.approx(fit["fve"]["value"] - fit["fve_delta"]["value"])


@pytest.mark.usefixtures("no_work")
def test_what_is_finished_is_reused(carry: Carry) -> None:
    found = carry("ALWAYS", "NEVER", "COUNT", "SHARE")
    assert (found.cells, found.reused) == (3, 3)
    assert found.projected == 0
    assert verdicts(found)["NEVER"] == "does not hold here"
    assert [value.value for each in found.studies[2:] for value in each.outcomes[0].values] == [0.0] * 6


def test_a_lost_measurement_alone_is_measured_again(carry: Carry, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((runs / "reproduce-mini" / MEASUREMENTS).iterdir())
    before = {path: path.read_bytes() for path in files}
    assert len(files) == 6  # two quantities, three organisms
    files[4].unlink()
    files[5].write_text("{}")
    seen: list[str] = []
    monkeypatch.setattr(Workers, "run", _telling(Workers.run, seen))
    carry("COUNT", "SHARE")
    assert seen == ["measuring"]
    assert {path: path.read_bytes() for path in files} == before


def _telling(run: Any, seen: list[str]) -> Any:
    def told(self: object, what: str, works: Any, total: Any = None) -> Any:
        seen.append(what)
        return run(self, what, works, total)

    return told


def test_a_method_that_is_not_there_costs_its_own_study(carry: Carry) -> None:
    found = carry("GONE", "NEVER")
    assert verdicts(found) == {"GONE": "undecided", "NEVER": "does not hold here"}
    [error] = found.errors
    assert error.startswith("GONE: run odd: no method named 'no-such-method'")


def test_an_organism_that_does_not_pass_its_gate_is_no_unit(
    carry: Carry, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = GateReport(organism="x", checks=(GateCheck(name="off", value=3.0, low=0.0, high=2.0),))
    asked: list[int] = []

    def build(organisms: Any, workers: Any) -> list[GateReport]:
        asked.extend(each.recipe.seed for each in organisms)
        return [failing for _ in organisms]

    [record] = runs.glob("reproduce-mini/cells/numbat@2--*/record.json")
    held = record.read_bytes()
    record.unlink()
    monkeypatch.setattr(runner, "build", build)
    try:
        found = carry("NEVER")
    finally:
        record.write_bytes(held)
    assert asked == [2] and found.errors == ()
    [outcome] = found.studies[0].outcomes
    assert [value.state for value in outcome.values] == ["ok", "undefined", "ok"]
    assert "gate not passed" in str(outcome.values[1].reason)
    assert (outcome.undefined, outcome.verdict) == (1, "undecided")


def without_records(runs: Path, *seeds: int) -> dict[Path, bytes]:
    """Take some finished records away; returns them."""
    held = {
        path: path.read_bytes()
        for seed in seeds
        for path in runs.glob(f"reproduce-mini/cells/numbat@{seed}--*/record.json")
    }
    assert len(held) == len(seeds)
    for path in held:
        path.unlink()
    return held


def test_a_pair_that_cannot_be_prepared_costs_its_own_units(
    carry: Carry, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry("NEVER")
    held = without_records(runs, 1, 2)

    def prepare(cells: Any, workers: Any) -> dict[str, DiffbenchError]:
        return {c.comparison.key: DiffbenchError("words differ") for c in cells if c.cell.organism_seed == 2}

    monkeypatch.setattr(runner, "prepare", prepare)
    try:
        found = carry("NEVER")
    finally:
        for path, content in held.items():
            path.write_bytes(content)
    [error] = found.errors
    assert error == "NEVER: words differ"
    assert [value.state for value in found.studies[0].outcomes[0].values] == ["ok", "undefined", "ok"]


def test_what_is_finished_stands_whatever_ends_the_run(
    carry: Carry, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry("NEVER")
    held = without_records(runs, 3)

    def execute(*_: object, **__: object) -> None:
        raise DiffbenchError("the disk is full")

    monkeypatch.setattr(reproduction, "execute", execute)
    try:
        found = carry("NEVER")
    finally:
        for path, content in held.items():
            path.write_bytes(content)
    assert found.errors == ("NEVER: run mini: the disk is full",)
    assert [value.state for value in found.studies[0].outcomes[0].values] == ["ok", "ok", "undefined"]


def test_the_finished_fits_of_every_run_are_known(
    carry: Carry, registered: Registration, runs: Path, tmp_path: Path
) -> None:
    carry("NEVER")
    mini = tmp_path / "reproduce-mini"
    shutil.copytree(runs / "reproduce-mini", mini)
    shutil.rmtree(mini / "cells")
    document = registered.model_dump(mode="json")
    another = document["runs"]["mini"] | {"methods": {"mean-difference": {}}}
    document["runs"] = {"another": another, "mini": document["runs"]["mini"]}
    document["studies"] = [
        claim("NEVER", value("a", "fit.fve", 0.0), value("b", "fit.fve", 0.0, "another/mean-difference"))
    ]
    both = read_registration(yaml.safe_dump(document))

    def projected() -> float:
        return plan(both, (), tmp_path, jobs=1).projected()

    known = projected()
    shutil.rmtree(mini / "fits")
    assert 0 < known < projected()


def test_a_fit_that_was_damaged_is_told_and_not_measured(carry: Carry, runs: Path) -> None:
    fit = next((runs / "reproduce-mini" / "fits").glob("numbat@1--crosscoder-l1--*"))
    held = (fit / "latents.parquet").read_bytes()
    for path in (runs / "reproduce-mini" / MEASUREMENTS).iterdir():
        path.unlink()
    (fit / "latents.parquet").write_bytes(held[:-1])
    try:
        found = carry("COUNT")
        [error] = found.errors
        assert "changed or missing since the fit was finished" in error
        assert [value.state for value in found.studies[0].outcomes[0].values] == ["undefined", "ok", "ok"]
    finally:
        (fit / "latents.parquet").write_bytes(held)


@pytest.fixture
def asked(registered: Registration, monkeypatch: pytest.MonkeyPatch, runs: Path) -> Callable[..., Any]:
    monkeypatch.setattr(study, "registration", lambda: registered)
    return lambda *words: CliRunner().invoke(main, ["reproduce", *map(str, words)])


def test_the_command_writes_the_page_and_ends_well_whatever_the_verdicts(
    asked: Callable[..., Any], runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page" / "reproduction.md"
    result = asked("never", "ALWAYS", "--runs-dir", runs, "--out", out)
    assert result.exit_code == 0, result.output
    assert "does not hold here" in result.stdout
    assert "2 studies, 3 cells, 0 of them to run; projected: 0 min" in result.stderr
    assert "## NEVER: does not hold here" in out.read_text(encoding="utf-8")


def test_the_command_fails_where_something_could_not_be_measured(asked: Callable[..., Any], runs: Path) -> None:
    result = asked("GONE", "--runs-dir", runs, "--json")
    assert result.exit_code == 1
    assert "failed: GONE: run odd: no method named 'no-such-method'" in result.stderr
    assert Reproduction.model_validate_json(result.stdout).studies[0].verdict == "undecided"


def test_unknown_names_are_refused_before_anything_runs(asked: Callable[..., Any], tmp_path: Path) -> None:
    result = asked("ALWAIS", "--runs-dir", tmp_path)
    assert result.exit_code == 2 and "did you mean ALWAYS" in result.stderr
    result = asked("ALWAYS", "--runs-dir", tmp_path, "--tier", "smok")
    assert result.exit_code == 2 and "did you mean smoke" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_studies_are_listed(asked: Callable[..., Any]) -> None:
    result = asked("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "STUDY", "ALWAYS", "NEVER", "COUNT", "SHARE", "GONE",
    ]  # fmt: skip


def test_measurements_are_keyed_by_all_code_they_follow_from() -> None:
    needed = {f"diffbench.{module}" for module in reached("measurement") - DECIDES_NOTHING}
    assert needed <= set(MEASURE_CODE), sorted(needed - set(MEASURE_CODE))


def test_the_registered_studies_can_be_planned(tmp_path: Path) -> None:
    """All methods are installed, their options are known, their organisms have the layers and references."""
    whole = plan(study.registration(), (), tmp_path, jobs=2)
    assert {cell.cell.method for _, cell in plan(study.registration(), ["C10"], tmp_path).cells} == {"layer-stitching"}
    assert [run.problem for run in whole.runs] == [None] * len(whole.runs)
    registered = study.registration()
    methods = sum(len(run.methods) for run in registered.runs.values())
    assert len(whole.cells) == methods * len(registered.organism_seeds)
    assert whole.projected() > 0
