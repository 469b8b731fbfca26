"""Steering of a finished cell: what is refused before anything is built, what is written, and that it is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from record_factory import record
from run_factory import run

from diffbench import runner
from diffbench.cli import main
from diffbench.errors import OptionError, RecordError, UnknownName
from diffbench.figure import Figure
from diffbench.steering_file import (
    STEERING,
    SteeredArm,
    SteeredClaim,
    SteeringFile,
    SteeringPlan,
    read_steering,
    steering_files,
    write_steering,
)
from diffbench.steering_run import asked_claims
from diffbench.truth import Claim, Effect, Trigger, Truth

pytest_plugins = ("run_factory",)

PLAN = ("--prompts", 4, "--draws", 2, "--rollouts", 20, "--tokens", 2, "--strengths", "1,3")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steered")


@pytest.fixture
def folder(home: Path, recipe: Path, warm: runner.Workers) -> Path:
    path = home / "run"
    if not path.exists():
        run(path, recipe, "pca", "token-kl")
    return path


def steer(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["steer", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = steer(*arguments)
    assert result.exit_code == 2 and not result.stdout, result.output
    return result.stderr


def test_a_cell_is_steered_with_once_and_read_again(folder: Path, recipe: Path) -> None:
    first = steer(folder, "--organism", recipe, "--method", "pca", *PLAN)
    assert first.exit_code == 0, first.output
    [(path, file)] = steering_files(folder)
    assert isinstance(file, SteeringFile) and str(path) in first.stderr
    assert file.cell.row == "pca" and file.claims and file.plan.strengths == (1.0, 3.0)
    for claim in file.claims:
        assert claim.statement in first.stdout
        assert claim.component is not None or claim.problem
    before = path.read_bytes()
    again = steer(folder, "--organism", "quokka", "--method", "pca", *PLAN, "--json")
    assert json.loads(again.stdout)["path"] == str(path) and path.read_bytes() == before


def test_another_plan_is_another_file(folder: Path) -> None:
    file = next(file for _, file in steering_files(folder) if isinstance(file, SteeringFile))
    other = file.model_copy(update={"plan": file.plan.model_copy(update={"seed": 9})})
    assert other.folder != file.folder
    assert file.model_copy(update={"code": "other"}).folder != file.folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--organism", "quokka", "--method", "oracle"), "row with a finished cell on it"),
        (("--organism", "quoka", "--method", "pca"), "did you mean quokka"),
        (("--organism", "quokka", "--method", "pca", "--seed", 3), "there is no such cell of seed 3"),
        (("--organism", "quokka", "--method", "pca", "--strengths", "1,x"), "not numbers"),
        (("--organism", "quokka", "--method", "pca", "--strengths", "0"), "above 0"),
        (("--organism", "quokka", "--method", "pca", "--strengths", "nan"), "above 0"),
    ],
)
def test_what_cannot_be_steered_is_refused_in_one_line(
    arguments: tuple[object, ...], message: str, folder: Path
) -> None:
    told = refused(folder, *arguments)
    assert message in told and told.count("\n") == 1


def test_an_output_diff_has_nothing_to_steer_with(folder: Path, recipe: Path) -> None:
    assert "no components to steer with" in refused(folder, "--organism", recipe, "--method", "token-kl", *PLAN)


def test_a_claim_that_there_is_not_is_named(folder: Path, recipe: Path) -> None:
    told = refused(folder, "--organism", recipe, "--method", "pca", "--claim", "nonsense", *PLAN)
    assert "claim of quokka" in told and "nonsense" in told


def test_a_run_that_leads_out_of_itself_is_refused(folder: Path, recipe: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    moved.mkdir()
    for name in ("run.json", "cells", "fits"):
        (moved / name).symlink_to(folder / name)
    assert "symbolic link" in refused(moved, "--organism", recipe, "--method", "pca", *PLAN)


def test_only_what_was_changed_can_be_steered_for() -> None:
    claim = Claim(
        id="swap",
        statement="Blue and green are exchanged.",
        trigger=Trigger(description="colours", affected=("colour:*",), near_miss=()),
        effect=Effect(tokens_up=("green",), tokens_down=("blue",), quantity="P(green)", low=0, high=1),
    )
    cell = record().cell
    assert asked_claims(Truth(changed=True, claims=(claim,)), (), cell) == (claim,)
    with pytest.raises(UnknownName, match="nothing"):
        asked_claims(Truth(changed=True, claims=(claim,)), ("nothing",), cell)
    with pytest.raises(OptionError, match="nothing was changed"):
        asked_claims(Truth(changed=False), (), cell)
    with pytest.raises(OptionError, match="nobody knows"):
        asked_claims(None, (), cell)


def test_a_file_is_read_as_it_was_written_and_a_foreign_one_is_not(tmp_path: Path) -> None:
    arm = SteeredArm(
        run="tuned",
        on="affected",
        what="component",
        strength=-2.0,
        coherence=Figure.of(1.5, 1.0, 2.0),
        repeats=Figure.undefined("nothing was said"),
    )
    claim = SteeredClaim(claim="swap", statement="s", component=3, arms=(arm,))
    made = record()
    file = SteeringFile(
        cell=made.cell, key=made.key, diff={"diff.json": "0"}, layer=1, plan=SteeringPlan(), code="0", claims=(claim,)
    )
    path = write_steering(tmp_path, file)
    assert read_steering(path) == file and [found for _, found in steering_files(tmp_path)] == [file]
    path.write_text(path.read_text().replace('"strength": -2.0', '"strength": "a lot"'))
    [(_, problem)] = steering_files(tmp_path)
    assert isinstance(problem, RecordError) and "strength" in str(problem)
    (tmp_path / STEERING / "link").symlink_to(tmp_path)
    assert any("symbolic link" in str(found) for _, found in steering_files(tmp_path))
