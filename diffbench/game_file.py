"""Game file: a game as it lies on disk, for people and for whoever scores it again.

::

    RUN/games/<organism>--<row or models>--<access>--<framing>--g<seed>--<key8>/game.json         setting, notes, score
                                                                               /transcript.jsonl  one turn a line
                                                                               /sheet.json        what is true

Equal games give equal bytes. A game folder may come from a stranger: nothing in it is followed or believed unread.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from diffbench.atomic import new_folder
from diffbench.canonical import digest
from diffbench.errors import RecordError
from diffbench.game import Game, Manner, Turn
from diffbench.game_score import GameScore, matched
from diffbench.line import one_line
from diffbench.panel import read_verdicts, write_verdicts
from diffbench.question import question_key
from diffbench.record import read_document
from diffbench.run_folder import GAMES, refusal, safe_name
from diffbench.sheet import SHEET, Sheet
from diffbench.truth import Schema

GAME_FILE, TRANSCRIPT = "game.json", "transcript.jsonl"
GAME_BYTES = SHEET_BYTES = 1 << 26
ASKED_ONLY = "models"
"""In the place of the row, where a game was played on the two models alone."""


class Setting(Schema):
    """What a game is about. The agent is told nothing of it.

    Attributes:
        row: of the method whose evidence it is; None: there was none.
        cell: key of the cell that the evidence is of.
        pair: hashes of the reference's and the tuned model's weights.
        manner: how the models were asked; None: they were not.
        grader: identity of the judge that grades.
        grading: seed of the statements that are chosen among.
    """

    organism: str
    reference: Literal["base", "control"]
    row: str | None = None
    cell: str | None = None
    pair: tuple[str, str]
    manner: Manner | None = None
    grader: dict[str, str]
    grading: int = 0


class PlayedGame(Schema):
    """A game with its setting and score."""

    schema_version: Literal[1] = 1
    setting: Setting
    game: Game
    score: GameScore = Field(description="not a number where the game came to nothing, or no truth is known")

    @property
    def name(self) -> str:
        """Of its folder."""
        setting, game = self.setting, self.game
        framing = "presupposing" if game.presuppose else "neutral"
        row, key = setting.row or ASKED_ONLY, self.key[:8]
        parts = (safe_name(setting.organism), safe_name(row), game.access, framing, f"g{game.seed}", key)
        return "--".join(parts)

    @property
    def key(self) -> str:
        """SHA-256 of all that game and score follow from."""
        game = self.game.model_dump(mode="json", include={"agent", "access", "presuppose", "budget", "seed"})
        return digest({"setting": self.setting.model_dump(mode="json"), "game": game})


def write_game(run: Path, played: PlayedGame, sheet: Sheet | None) -> Path:
    """Write a game into its folder of a run, whole or not at all; one of the same key is replaced.

    Raises:
        RecordError: if it cannot be written.
    """
    folder = run / GAMES / played.name
    document = played.model_dump(mode="json", exclude={"game": {"turns"}})
    try:
        with new_folder(folder, replace=True) as draft:
            _write_json(draft / GAME_FILE, document)
            write_verdicts(draft / TRANSCRIPT, played.game.turns)
            if sheet is not None:
                _write_json(draft / SHEET, sheet.model_dump(mode="json"))
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror}); name another run folder") from None
    return folder


def read_game(folder: Path) -> tuple[PlayedGame, Sheet | None]:
    """Read what `write_game` wrote.

    Raises:
        RecordError: if something is missing, or is not what it must be.
    """
    for name in (GAME_FILE, TRANSCRIPT, SHEET):
        problem = refusal(folder / name, stat.S_ISREG)
        if problem is not None:
            raise RecordError(f"{folder / name}: {problem}")
    turns = [turn.model_dump(mode="json") for turn in read_verdicts(folder / TRANSCRIPT, Turn)]
    try:
        if (folder / GAME_FILE).stat().st_size > GAME_BYTES:
            raise RecordError(f"{folder / GAME_FILE}: larger than {GAME_BYTES} bytes")
        document = json.loads((folder / GAME_FILE).read_text(encoding="utf-8"))
        document["game"]["turns"] = turns
        played = PlayedGame.model_validate(document)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{folder / GAME_FILE}: {one_line(error, 200)}") from None
    sheet = read_document(folder / SHEET, Sheet, SHEET_BYTES) if (folder / SHEET).exists() else None
    return played, sheet


def unfounded(played: PlayedGame, sheet: Sheet | None) -> Iterator[str]:
    """What of a game does not follow from its transcript, verdicts and truth; nothing: all of it does."""
    for number, turn in enumerate(played.game.turns):
        if turn.left is not None and turn.verdict.question != question_key(played.game.question(number)):
            yield f"turn {number}: was given as the answer to another question"
    if played.score.match != matched(played.game, sheet, played.score.trials):
        yield "its score is another one than its verdicts give"


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
