"""Game score: what an agent states at the end of a game, held against what is true of the pair.

It stands beside what abstaining would have got, and is made from verdicts alone. A game that came to no account has no
score.
"""

from __future__ import annotations

from pydantic import Field

from diffbench.account import abstention
from diffbench.figure import Figure
from diffbench.game import Game
from diffbench.panel import Panel, Verdict
from diffbench.question import Stated
from diffbench.sheet import Sheet
from diffbench.spending import FREE, Usage
from diffbench.trial import Trial
from diffbench.truth import Schema
from diffbench.truth_match import TruthMatch, match_questions, truth_match

COMPARED = ("structured", "grade", "choice")
"""Scores of which the higher is the better, and which abstaining has too."""


class GameScore(Schema):
    """The score of a game.

    Attributes:
        trials: what the grader was asked, of tests grade and choice, and what it said; none where there is no account,
            or no truth.
        match: the account against the truth.
        abstaining: the same of an account that abstains.
    """

    trials: tuple[Trial, ...] = ()
    match: TruthMatch
    abstaining: TruthMatch = Field(description="what abstaining would have got")

    @property
    def usage(self) -> Usage:
        """Of the grading, when it was first done."""
        return sum((trial.verdict.usage for trial in self.trials), FREE)

    def beside_abstaining(self, name: str) -> Figure:
        """One of `COMPARED` minus what abstaining gets."""
        own, other = getattr(self.match, name), getattr(self.abstaining, name)
        return own if own.value is None else other if other.value is None else Figure.of(own.value - other.value)


def score_game(game: Game, sheet: Sheet | None, grader: Panel, seed: int) -> GameScore:
    """Score a game.

    Args:
        game: that is over.
        sheet: what is true of the pair; None: nobody knows.
        grader: the judge that grades, who may be another than the agent.
        seed: of the statements that are chosen among.
    """
    trials: tuple[Trial, ...] = ()
    if sheet is not None and game.account is not None:
        grade, choose, right = match_questions(game.account, sheet, seed)
        graded, chosen = grader.ask([grade, choose])
        trials = (Trial(test="grade", verdict=graded), Trial(test="choice", right=(right,), verdict=chosen))
    return GameScore(
        trials=trials,
        match=matched(game, sheet, trials),
        abstaining=truth_match(sheet, _abstains(), None, None, 0),
    )


def matched(game: Game, sheet: Sheet | None, trials: tuple[Trial, ...]) -> TruthMatch:
    """The score of a game's account from what was written down."""
    by = {trial.test: trial for trial in trials}
    graded, chosen = by.get("grade"), by.get("choice")
    return truth_match(
        sheet,
        game.last,
        None if graded is None else graded.verdict,
        None if chosen is None else chosen.verdict,
        chosen.right[0] if chosen is not None and chosen.right else 0,
    )


def _abstains() -> Verdict:
    """The verdict of somebody who abstains."""
    answer = Stated(account=abstention())
    return Verdict(question="0" * 64, kind="play", judge={"judge": "abstaining"}, state="ok", answer=answer)
