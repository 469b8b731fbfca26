"""``diffbench game`` from end to end: what it prints, writes and refuses, and that the agent is told nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from game_factory import Agent, states
from run_factory import run, snapshot
from test_stored_cell import edit

from diffbench import arena, runner
from diffbench.account import abstention
from diffbench.campaign import RunConfig, foresee
from diffbench.cli import main
from diffbench.errors import RecordError
from diffbench.evidence_file import EVIDENCE, read_evidence
from diffbench.game_file import PlayedGame, read_game, unfounded
from diffbench.question import question_key
from diffbench.sheet import SHEET

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

ROW = "ranked"
FEW = ("--questions", "6")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("original") / "walrus-run"


@pytest.fixture
def folder(original: Path, recipe: Path, warm: runner.Workers, tmp_path: Path) -> Path:
    """A copy of a run, made once, with a second cell that differs in its seed alone."""
    if not original.exists():
        run(original, recipe, ROW)
        [cell] = (original / "cells").iterdir()
        other = shutil.copytree(cell, cell.with_name(cell.name.replace("--s0--", "--s1--")))
        edit(other, lambda document: document["cell"].update(seed=1))
        edit(other, lambda document: document.update(key="1" * 64))
    shutil.copytree(original, tmp_path / "walrus-run")
    return tmp_path / "walrus-run"


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(runner, "Workers", refuse)


def game(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["game", *map(str, arguments)])


def done(*arguments: object) -> Result:
    result = game(*arguments)
    assert result.exit_code == 0, result.output
    return result


def games(folder: Path) -> dict[str, PlayedGame]:
    """Every game of a run by the name of its folder, all of which follow from what is kept with them."""
    found = {}
    for path in (folder / "games").iterdir():
        played, sheet = read_game(path)
        assert list(unfounded(played, sheet)) == [] and played.name == path.name
        found[path.name] = played
    return found


def refused(*arguments: object) -> str:
    result = game(*arguments)
    assert result.exit_code == 2, result.output
    [line] = [line for line in result.stderr.splitlines() if "error" in line]
    return line


def test_a_game_of_questions_needs_no_run_and_gives_the_same_bytes_twice(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    arguments = (folder, "--organism", recipe, "--game-seed", "41", *FEW)
    first = done(*arguments)
    [(name, played)] = games(folder).items()
    setting = played.setting
    assert (setting.organism, setting.row, setting.cell, setting.reference) == ("quokka", None, None, "base")
    assert (played.game.access, played.game.seed, played.game.state) == ("questions", 41, "ok")
    assert len(played.game.asked) == 6 and played.game.budget.questions == 6
    assert all(exchange.first and exchange.remark is None for exchange in played.game.asked)
    before = snapshot(folder)
    second = done(*arguments)
    assert snapshot(folder) == before and second.stdout == first.stdout
    for text in ("verdict: ", "statement: ", "6 of 6 prompts", "ABSTAINING", "CHANCE", "structured", "nothing spent"):
        assert text in first.stdout, text
    assert len(first.stdout.splitlines()) < 24 and "games" in first.stderr
    other = done(folder, "--organism", recipe, "--game-seed", "42", *FEW, "--json")
    [told] = json.loads(other.stdout)["games"]
    assert told["name"] in games(folder) and told["name"] != name and told["game"]["seed"] == 42


def test_evidence_alone_needs_neither_the_pair_nor_its_organism(folder: Path, no_workers: None) -> None:
    """As of a run that somebody published: by name, of an organism that is not installed."""
    assert "quokka" in refused("--organism", "quokka", "--access", "questions")
    result = done(folder, "--organism", "quokka", "--method", ROW, "--seed", 1, "--access", "evidence", "--json")
    [played] = games(folder).values()
    assert played.game.access == "evidence" and played.game.asked == () and played.game.notes
    assert (played.setting.row, played.setting.manner) == (ROW, None)
    [told] = json.loads(result.stdout)["games"]
    assert told["score"]["match"]["verdict"] == played.game.last.answer.account.verdict  # type: ignore[union-attr]
    before = snapshot(folder)
    done(folder, "--organism", "quokka", "--method", ROW, "--seed", 1, "--access", "evidence")
    assert snapshot(folder) == before


def test_both_framings_on_the_same_pair(folder: Path, recipe: Path) -> None:
    result = done(folder, "--organism", recipe, "--method", ROW, "--seed", 0, "--framing", "both", "--repeats", 2, *FEW)
    found = list(games(folder).values())
    assert sorted((one.game.presuppose, one.game.seed) for one in found) == [
        (False, 0), (False, 1), (True, 0), (True, 1)
    ]  # fmt: skip
    assert {one.game.access for one in found} == {"both"} and all(one.game.notes for one in found)
    assert {one.game.agent.get("repeat") for one in found} == {None, "1"}
    assert len({one.setting.model_dump_json() for one in found}) == 1
    assert "presupposing minus neutral, 2 of 2 pairs of games" in result.stdout
    kept = found[0]
    [cell] = (folder / "cells").glob("*--s0--*")
    assert json.loads((cell / SHEET).read_text()) == json.loads((folder / "games" / kept.name / SHEET).read_text())


def test_no_question_says_what_the_game_is_about(folder: Path, recipe: Path) -> None:
    """All questions, as they follow from what was written down, and are known by their hashes to be those asked."""
    seed = 730_219
    done(folder, "--organism", recipe, "--method", ROW, "--seed", 1, "--game-seed", seed, *FEW)
    [played] = games(folder).values()
    assert played.setting.cell == "1" * 64
    [cell] = (folder / "cells").glob("*--s1--*")
    evidence = {question_key(found.evidence): found.evidence for found in read_evidence(cell / EVIDENCE)}
    texts = []
    for number, turn in enumerate(played.game.turns):
        asked = evidence[turn.verdict.question] if turn.left is None else played.game.question(number)
        assert question_key(asked) == turn.verdict.question
        texts.append(asked.model_dump_json())
    assert len(texts) >= 3 and {turn.verdict.kind for turn in played.game.turns} == {"explain", "play"}
    setting = played.setting
    canaries = ("quokka", "walrus", ROW, str(folder), recipe.name, str(seed), "tinyworld", "colour-swap")
    canaries += (*setting.pair, str(setting.cell), "reference", "component", "base", "tuned")
    for canary in canaries:
        assert not any(canary in text for text in texts), canary


def test_a_dry_run_tells_the_cost_and_does_nothing(folder: Path, no_workers: None) -> None:
    before = snapshot(folder)
    told = done(
        folder, "--organism", "quokka", "--method", ROW, "--seed", 0, "--access", "evidence", "--dry-run"
    ).stdout
    assert told.startswith("agent: judge offline: ") and "grader: judge offline: " in told and "nothing to pay" in told
    asked = done(
        folder, "--organism", "quokka", "--method", ROW, "--seed", 0, "--access", "evidence", "--dry-run", "--json"
    )
    assert set(json.loads(asked.stdout)) == {"agent", "grader"}
    assert snapshot(folder) == before


def test_a_game_without_an_account_is_an_error_and_no_score(
    folder: Path, no_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {"refuses": lambda: Agent(lambda *_: "refused"), "offline": lambda: Agent(states(abstention()))}
    monkeypatch.setattr(arena, "find_judge", lambda name: agents[name])
    arguments = (folder, "--organism", "quokka", "--method", ROW, "--seed", 0, "--access", "evidence")
    result = game(*arguments, "--agent", "refuses")
    assert result.exit_code == 1
    [played] = games(folder).values()
    assert played.game.state == "refused" and played.score.match.structured.state == "undefined"
    assert "no account: refused" in result.stdout and "1 without an account" in result.stderr


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "row": (("--organism", "quokka", "--method", "ranke", "--seed", "0"), "did you mean ranked?"),
    "organism": (("--organism", "quoka", "--method", ROW, "--seed", "0"), "did you mean quokka?"),
    "no row": (("--organism", "quokka", "--access", "evidence"), "needs the row whose evidence it is: --method ROW"),
    "needless row": (("--organism", "quokka", "--method", ROW, "--access", "questions"), "leave --method out"),
    "seed": (("--organism", "quokka", "--method", ROW), "there are cells of 0, 1; choose one with --seed"),
    "other seed": (("--organism", "quokka", "--method", ROW, "--seed", "7"), "no such cell of seed 7; there are 0, 1"),
    "reference": (
        ("--organism", "quokka", "--method", ROW, "--seed", "0", "--reference", "control"),
        "no such cell of reference control; there are base",
    ),
    "agent": (
        ("--organism", "quokka", "--method", ROW, "--seed", "0", "--access", "evidence", "--agent", "ofline"),
        "did you mean offline?",
    ),
    "grader": (
        ("--organism", "quokka", "--method", ROW, "--seed", "0", "--access", "evidence", "--grader", "offline:big"),
        "takes no model",
    ),
    "nothing to ask": (("--organism", "quokka", "--questions", "0"), "none are left to ask"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_played_is_refused_in_one_line(what: str, folder: Path, no_workers: None) -> None:
    arguments, message = REFUSED[what]
    assert message in refused(folder, *arguments)
    assert not (folder / "games").exists()


def test_evidence_that_is_not_what_it_was_is_refused(folder: Path, tmp_path: Path, no_workers: None) -> None:
    arguments: tuple[Any, ...] = (folder, "--organism", "quokka", "--method", ROW, "--seed", 0, "--access", "evidence")
    [file] = folder.glob(f"cells/*--s0--*/{EVIDENCE}")
    kept = file.read_bytes()
    file.write_bytes(kept + b"x")
    assert "changed since it was scored" in refused(*arguments)
    file.unlink()
    assert "changed since it was scored" in refused(*arguments)
    (tmp_path / "elsewhere").write_bytes(kept)
    file.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refused(*arguments)
    edit(file.parent, lambda document: document["hashes"].update(judged=None))
    assert "`diffbench rescore` makes it" in refused(*arguments)
    assert "no such folder" in refused(tmp_path / "nowhere", *arguments[1:])


def test_the_games_of_a_run_do_not_lead_out_of_it(folder: Path, tmp_path: Path, no_workers: None) -> None:
    (tmp_path / "outside").mkdir()
    (folder / "games").symlink_to(tmp_path / "outside")
    line = refused(folder, "--organism", "quokka", "--method", ROW, "--seed", 0, "--access", "evidence")
    assert "symbolic link" in line and not list((tmp_path / "outside").iterdir())


def test_games_do_not_keep_a_run_from_being_made_beside_them(recipe: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "new", RunConfig(organisms=(str(recipe),), methods=(ROW,), tier="nano")
    (folder / "games" / "some-game").mkdir(parents=True)
    assert foresee(config, folder).cells
    (folder / "other").mkdir()
    with pytest.raises(RecordError, match="is no run folder"):
        foresee(config, folder)
