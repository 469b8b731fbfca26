"""Game file: a game is read as it was written, and what was forged or spoilt is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from game_factory import (
    TRUE,
    Agent,
    played,
    sheet,
    states,
)

from diffbench.errors import RecordError
from diffbench.game_file import GAME_FILE, TRANSCRIPT, read_game, unfounded, write_game
from diffbench.sheet import SHEET

pytest_plugins = ("game_factory",)
pytestmark = pytest.mark.usefixtures("own_verdicts")


def test_a_game_is_read_as_it_was_written_and_equal_games_are_equal_bytes(tmp_path: Path) -> None:
    one = played(of=sheet())
    folder = write_game(tmp_path, one, sheet())
    assert folder.parent == tmp_path / "games" and "/" not in one.name
    assert read_game(folder) == (one, sheet()) and list(unfounded(one, sheet())) == []
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {GAME_FILE, TRANSCRIPT, SHEET}
    assert write_game(tmp_path, played(of=sheet()), sheet()) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    lines = [json.loads(line) for line in before[TRANSCRIPT].decode().splitlines()]
    assert [line["verdict"]["kind"] for line in lines] == ["explain", "play", "play", "play"]
    assert [len(line["exchanges"]) for line in lines] == [0, 1, 1, 0]
    assert all({"question", "state", "usage", "answer", "raw", "judge"} <= set(line["verdict"]) for line in lines)
    unknown = write_game(tmp_path / "other", played(), None)
    assert not (unknown / SHEET).exists() and read_game(unknown) == (played(), None)


def test_a_lost_game_is_written_too_and_is_replaced_by_the_one_that_was_won(tmp_path: Path) -> None:
    lost = played(Agent(lambda question, number: "failed"))
    folder = write_game(tmp_path, lost, None)
    assert read_game(folder)[0] == lost
    won = played(Agent(states(TRUE)))
    assert write_game(tmp_path, won, None) == folder and read_game(folder)[0].game.state == "ok"


def test_what_was_forged_does_not_follow(tmp_path: Path) -> None:
    one, true = played(of=sheet()), sheet()
    better = one.score.match.model_copy(update={"grade": one.score.abstaining.grade})
    forged = one.model_copy(update={"score": one.score.model_copy(update={"match": better})})
    assert list(unfounded(forged, true)) == ["its score is another one than its verdicts give"]
    game = one.game.model_copy(update={"presuppose": True})
    assert len(list(unfounded(one.model_copy(update={"game": game}), true))) == 3
    assert list(unfounded(one, sheet(changed=False)))


def spoil_truncated(folder: Path) -> None:
    (folder / GAME_FILE).write_text((folder / GAME_FILE).read_text()[:200])


def spoil_link(folder: Path) -> None:
    (folder / TRANSCRIPT).rename(folder.parent / "elsewhere")
    (folder / TRANSCRIPT).symlink_to(folder.parent / "elsewhere")


def spoil_key(folder: Path) -> None:
    document = json.loads((folder / GAME_FILE).read_text())
    (folder / GAME_FILE).write_text(json.dumps(document | {"code": "import os"}))


def spoil_turns(folder: Path) -> None:
    (folder / TRANSCRIPT).write_text("")


def spoil_line(folder: Path) -> None:
    (folder / TRANSCRIPT).write_text('{"verdict": 3}\n')


def spoil_list(folder: Path) -> None:
    (folder / GAME_FILE).write_text("[1]")


def spoil_sheet(folder: Path) -> None:
    (folder / SHEET).write_text('{"schema_version": 1}')


def spoil_pipe(folder: Path) -> None:
    (folder / GAME_FILE).unlink()
    os.mkfifo(folder / GAME_FILE)


SPOILT = [spoil_truncated, spoil_link, spoil_key, spoil_turns, spoil_line, spoil_list, spoil_sheet, spoil_pipe]


@pytest.mark.parametrize("spoil", SPOILT)
def test_files_that_are_no_game_are_refused_in_one_line(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_game(tmp_path, played(of=sheet()), sheet())
    spoil(folder)
    with pytest.raises(RecordError) as caught:
        read_game(folder)
    assert len(str(caught.value).splitlines()) == 1
