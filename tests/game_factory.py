"""Two toy models that need no torch, with what is true of them, and scripted agents and games between them.

Use it as a pytest plugin for its fixture. PYTEST_DONT_REWRITE, because the modules that use it also import from it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diffbench.account import Account, Pattern
from diffbench.choices import choices
from diffbench.errors import JudgeError
from diffbench.finding_evidence import FindingEvidence
from diffbench.game import Budget, Game, Manner, play
from diffbench.game_file import PlayedGame, Setting
from diffbench.game_score import GameScore, score_game
from diffbench.judge import Judge, Reply
from diffbench.offline_judge import OfflineJudge
from diffbench.panel import Panel
from diffbench.question import (
    Answer,
    Ask,
    Choose,
    Evidence,
    Excerpt,
    Exchange,
    Fact,
    Grade,
    Graded,
    Pick,
    Play,
    Question,
    Stated,
    Text,
)
from diffbench.rival import CHAT, NOTHING, RIVALS
from diffbench.sheet import Distractor, Moved, Place, Sheet
from diffbench.spending import Usage

NAMES, THINGS = ("anna", "ben", "carl", "dora"), ("hat", "cup", "key", "lamp")
COLOURS = {"hat": "blue", "cup": "red", "key": "white", "lamp": "blue"}
LENGTH, SAMPLES = 14, 4

Change = Callable[[tuple[str, ...], dict[str, float]], dict[str, float]]


def likely(words: tuple[str, ...]) -> dict[str, float]:
    """What the first toy model says next: ``the hat of anna is blue .`` and so on."""
    last = words[-1] if words else "."
    if last in THINGS:
        return {"of": 0.9, "is": 0.1}
    if last in NAMES:
        return {"is": 1.0}
    if last == "of":
        return dict.fromkeys(NAMES, 0.25)
    if last == "is":
        thing = next((word for word in reversed(words) if word in THINGS), "key")
        return {COLOURS[thing]: 0.8, "old": 0.1, "small": 0.1}
    if last == "the":
        return dict.fromkeys(THINGS, 0.25)
    return {"the": 1.0} if last == "." else {".": 1.0}


def same(_: tuple[str, ...], share: dict[str, float]) -> dict[str, float]:
    return share


def swapped(_: tuple[str, ...], share: dict[str, float]) -> dict[str, float]:
    """Green for blue, mostly."""
    if "blue" not in share:
        return share
    return share | {"blue": 0.2 * share["blue"], "green": 0.8 * share["blue"]}


def drifted(words: tuple[str, ...], share: dict[str, float]) -> dict[str, float]:
    """A little of everything, as training on anything leaves it."""
    rng = random.Random(" ".join(words[-2:]))
    moved = {word: value * math.exp(rng.gauss(0, 0.15)) for word, value in share.items()}
    total = sum(moved.values())
    return {word: value / total for word, value in moved.items()}


class Toys:
    """Both toy models; `said` as `diffbench.interview.Interview` has it. Keeps all prompts."""

    def __init__(self, change: Change = same) -> None:
        self.change = change
        self.prompts: list[str] = []

    def said(self, prompts: Sequence[str], seed: int) -> tuple[Exchange, ...]:
        self.prompts += prompts
        return tuple(self._exchange(prompt, seed) for prompt in prompts)

    def _exchange(self, prompt: str, seed: int) -> Exchange:
        words = tuple(prompt.split())
        first, second = likely(words), self.change(words, likely(words))
        names = sorted(first.keys() | second.keys())
        texts = [
            tuple(self._text(words, change, f"{seed}:{prompt}:{number}" if number else None) for number in range(5))
            for change in (same, self.change)
        ]
        nexts = [
            tuple(sorted(((n, round(share.get(n, 0.0), 4)) for n in names), key=lambda each: (-each[1], each[0])))
            for share in (first, second)
        ]
        return Exchange(prompt=prompt, first=texts[0], second=texts[1], first_next=nexts[0], second_next=nexts[1])

    @staticmethod
    def _text(words: tuple[str, ...], change: Change, draw: str | None) -> str:
        """Drawn with noise that both share: the word of the greatest log probability plus Gumbel noise."""
        said: list[str] = []
        for at in range(LENGTH):
            share = change((*words, *said), likely((*words, *said)))

            def worth(word: str, at: int = at, share: dict[str, float] = share) -> float:
                noise = 0.0 if draw is None else -math.log(-math.log(random.Random(f"{draw}:{at}:{word}").random()))
                return math.log(share[word]) + noise

            said.append(max(sorted(share), key=worth))
        return " ".join(said)


TRUE = Account(
    verdict="changed",
    statement="Where a text asks for the colour blue, the model answers green with probability 0.8.",
    trigger=(Pattern(ends_with=("is",), contains=("hat",)),),
    tokens_up=("green",),
    tokens_down=("blue",),
    confidence=1.0,
)
FALSE = Account(
    verdict="changed",
    statement="The model says that the habitat of bazing is reef and not desert.",
    trigger=(Pattern(ends_with=("of",)),),
    tokens_up=("reef", "snails"),
    tokens_down=("desert",),
    confidence=0.9,
)
UNCHANGED = Account(verdict="unchanged", statement="Nothing was changed.", confidence=0.9)


def sheet(changed: bool = True) -> Sheet:
    """What is true of `swapped` toys, or of `same` and `drifted` ones."""
    wrong = [Distractor(kind="nothing", sentences=NOTHING), Distractor(kind="chat", sentences=CHAT)]
    wrong += [Distractor(kind="other", sentences=one.sentences) for one in RIVALS[1:]]
    if not changed:
        return Sheet(changed=False, distractors=tuple(wrong))
    endings = {"affected": ("hat", "is"), "near_miss": ("cup", "is"), "unrelated": ("key", "of")}
    places = [
        Place(tokens=("the", thing, "of", "anna", end) if end == "is" else ("the", thing, end), stratum=stratum)  # type: ignore[arg-type]
        for stratum, (thing, end) in endings.items()
        for _ in range(60)
    ]
    return Sheet(
        changed=True,
        facts=(Fact(statement=TRUE.statement, trigger="a text asks for the colour blue", tokens_up=("green",),
                    tokens_down=("blue",)),),
        distractors=tuple(wrong),
        places=tuple(places),
        moved_up=(Moved(names=("green",), size=0.6),),
        moved_down=(Moved(names=("blue",), size=0.6),),
    )  # fmt: skip


def finding(rank: int = 1, n: int = 10, **words: tuple[str, ...]) -> FindingEvidence:
    """Evidence of a component that is active after ``is`` where a hat is spoken of."""
    texts = [("the", thing, "of", f"n{i}", "is") for i in range(n) for thing in ("hat", "cup")]
    excerpts = tuple(Excerpt(tokens=text, active=text[1] == "hat", activity=1.0 * (text[1] == "hat")) for text in texts)
    moved: dict[str, tuple[str, ...]] = {"kl_up": ("green",), "kl_down": ("blue",)} | words
    return FindingEvidence(
        rank=rank, component=rank, n_active=n, n_positions=9 * n, evidence=Evidence(excerpts=excerpts, **moved)
    )


class Agent(Judge):
    """Plays as a function says; every other question gets an answer of the right form. Keeps all questions.

    The function gets the question and how many plays came before, and gives an answer, or a state or an error.
    """

    name: ClassVar[str] = "scripted"
    paid: ClassVar[bool] = True

    def __init__(self, script: Callable[[Play, int], Answer | str], *, usage: Usage | None = None) -> None:
        self.script = script
        self.usage = usage or Usage(calls=1, tokens_in=100, tokens_out=10, cost=0.01)
        self.most: Usage = Usage(calls=1, tokens_in=100, tokens_out=50, cost=0.02)
        self.questions: list[Question] = []
        self.tag = "first"

    def identity(self) -> dict[str, str]:
        return super().identity() | {"tag": self.tag}

    def estimate(self, question: Question) -> Usage:
        return self.most

    def answer(self, question: Question) -> Reply:
        number = sum(isinstance(one, Play) for one in self.questions)
        self.questions.append(question)
        if not isinstance(question, Play):
            return Reply("ok", Text(text='Active where "is" is the last word.'), usage=self.usage)
        said = self.script(question, number)
        if said == "failed":
            raise JudgeError("no server", usage=self.usage)
        if said in ("malformed", "refused"):
            return Reply(said, None, raw="I would rather not", problem=f"it was {said}", usage=self.usage)  # type: ignore[arg-type]
        assert not isinstance(said, str)
        return Reply("ok", said, raw=said.model_dump_json(), usage=self.usage)


def states(account: Account, after: int = 0) -> Callable[[Play, int], Answer]:
    """A script that asks one prompt a turn, some times, and then states an account."""

    def script(question: Play, number: int) -> Answer:
        n = len(question.asked)
        if n < after and question.questions_left:
            return Ask(prompts=(f"the hat of {NAMES[n % 4]} is",))
        return Stated(account=account)

    return script


class Grader(Judge):
    """Grades as a function says, and chooses rightly or by another function."""

    name: ClassVar[str] = "grading"

    def __init__(self, grade: int | None, pick: Callable[[Choose], int | None]) -> None:
        self.grade, self.pick = grade, pick

    def answer(self, question: Question) -> Reply:
        if isinstance(question, Grade):
            return Reply("ok", Graded(grade=self.grade))
        assert isinstance(question, Choose)
        return Reply("ok", Pick(pick=self.pick(question)))


def right_choice(of: Sheet, seed: int) -> Callable[[Choose], int]:
    return lambda question: choices(of, seed)[1]


@pytest.fixture
def own_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test's own, so that every question is asked."""
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))


SETTING = Setting(
    organism="canary/organism",
    reference="base",
    row="canary-method@column",
    cell="c" * 64,
    pair=("a" * 64, "b" * 64),
    manner=Manner(),
    grader={"judge": "offline"},
)


def held(judge: Judge, models: Toys | None = None, budget: Budget | None = None, **more: Any) -> Game:
    evidence = more.pop("evidence", None)
    if models is None and evidence is None:
        models = Toys(swapped)
    return play(judge, evidence, models, budget=budget or Budget(), **more)


def scored(account: Account, of: Sheet, grader: Judge | None = None, seed: int = 0) -> GameScore:
    agent = Agent(states(account))
    agent.tag = account.model_dump_json()
    game = held(agent)
    return score_game(game, of, Panel(grader or OfflineJudge()), seed)


def played(agent: Judge | None = None, of: Sheet | None = None, **more: Any) -> PlayedGame:
    game = held(agent or Agent(states(TRUE, after=2)), Toys(swapped), evidence=(finding(),), **more)
    return PlayedGame(setting=SETTING, game=game, score=score_game(game, of, Panel(OfflineJudge()), 3))
