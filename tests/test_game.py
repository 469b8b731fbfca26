"""The diffing game: who plays it how, what it may cost, how it ends, and what it is worth."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from game_factory import (
    FALSE,
    TRUE,
    UNCHANGED,
    Agent,
    Grader,
    Toys,
    finding,
    right_choice,
    sheet,
    states,
    swapped,
)

from diffbench.account import MOST_WORDS, Account, Pattern, abstention
from diffbench.errors import OptionError, RecordError
from diffbench.framing import framing
from diffbench.game import TYPICAL, Budget, Game, Manner, play, worst_last
from diffbench.game_file import GAME_FILE, TRANSCRIPT, PlayedGame, Setting, read_game, unfounded, write_game
from diffbench.game_prospect import prospect
from diffbench.game_score import COMPARED, GameScore, score_game
from diffbench.judge import Judge
from diffbench.offline_judge import OfflineJudge
from diffbench.openai_judge import OpenAIJudge
from diffbench.panel import Panel
from diffbench.proportion import share_interval
from diffbench.question import Answer, Ask, Exchange, Play, Stated, question_key
from diffbench.sheet import SHEET, Sheet
from diffbench.spending import FREE, Usage


@pytest.fixture(autouse=True)
def own_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))


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


def asks(n: int) -> Callable[[Play, int], Answer]:
    """A script that asks for ever, ``n`` prompts a turn."""
    return lambda question, number: Ask(prompts=tuple(f"the cup of anna is {number} {i}" for i in range(n)))


# Turns


def test_turns_go_on_until_there_is_an_account() -> None:
    agent, toys = Agent(states(TRUE, after=3)), Toys(swapped)
    game = held(agent, toys, Budget(questions=5), seed=7)
    assert (game.state, game.problem, game.account, game.access, game.seed) == ("ok", None, TRUE, "questions", 7)
    assert [turn.left for turn in game.turns] == [5, 4, 3, 2]
    assert game.asked == toys.said(tuple(toys.prompts), 7) and len(toys.prompts) == 6, "three, and the same three again"
    assert [len(turn.exchanges) for turn in game.turns] == [1, 1, 1, 0]
    assert game.usage == sum([agent.usage] * 4, FREE)
    for number, asked in enumerate(agent.questions):
        assert asked == game.question(number)
        assert game.turns[number].verdict.question == question_key(asked)
        assert game.turns[number].verdict.kind == "play" and game.turns[number].verdict.usage == agent.usage


def test_an_agent_is_told_what_was_said_before_and_what_is_left() -> None:
    agent = Agent(states(TRUE, after=2))
    held(agent, budget=Budget(questions=9), presuppose=True)
    first, second, third = (question for question in agent.questions if isinstance(question, Play))
    assert (first.asked, first.notes, first.presuppose) == ((), None, True)
    assert [len(question.asked) for question in (first, second, third)] == [0, 1, 2]
    assert third.asked[:1] == second.asked and third.asked[0].second_next[0][0] == "green"
    assert [question.questions_left for question in (first, second, third)] == [9, 8, 7]


def test_who_only_asks_comes_to_no_account() -> None:
    agent = Agent(asks(8))
    game = held(agent, budget=Budget(questions=20))
    assert [turn.left for turn in game.turns] == [20, 12, 4]
    assert (game.state, game.account) == ("malformed", None)
    assert game.problem == "8 prompts, 4 are left"
    slower = held(Agent(asks(2)), budget=Budget(questions=4))
    assert [turn.left for turn in slower.turns] == [4, 2, 0] and slower.state == "malformed"
    assert slower.problem == "2 prompts, 0 are left" and len(slower.asked) == 4


@pytest.mark.parametrize("state", ["malformed", "refused", "failed"])
@pytest.mark.parametrize("turn", [0, 2])
def test_a_turn_without_an_answer_ends_the_game_and_is_no_score(state: str, turn: int) -> None:
    script = states(TRUE, after=5)
    agent = Agent(lambda question, number: state if number == turn else script(question, number))
    game = held(agent)
    assert (game.state, game.account, len(game.turns)) == (state, None, turn + 1)
    assert game.problem and "\n" not in game.problem
    assert game.usage.calls == turn + 1, "what came to nothing was paid too"
    for of in (sheet(), sheet(changed=False), None):
        score = score_game(game, of, Panel(OfflineJudge()), 0)
        assert score.trials == ()
        figures = [getattr(score.match, name) for name in (*COMPARED, "auroc", "net", "brier")]
        assert {figure.state for figure in figures} == {"undefined"} and score.match.verdict is None
        assert score.beside_abstaining("structured").value is None


def test_an_answer_of_another_form_is_malformed() -> None:
    from diffbench.question import Graded

    assert held(Agent(lambda question, number: Graded(grade=4))).state == "malformed"


# Evidence


def test_evidence_is_explained_by_the_agent_itself() -> None:
    agent = Agent(states(TRUE))
    found = (finding(1), finding(2, kl_up=("black",)), finding(3, n=3))
    game = held(agent, evidence=found)
    assert game.access == "evidence" and game.state == "ok"
    assert [question.kind for question in agent.questions] == ["explain", "explain", "play"]
    assert agent.questions[:2] == [found[0].evidence, found[1].evidence]
    assert game.notes is not None
    text = 'Active where "is" is the last word.'
    assert [note.explanation for note in game.notes] == [text, text, ""], "the third has too few contexts"
    assert [note.kl_up for note in game.notes] == [("green",), ("black",), ("green",)]
    assert [turn.left for turn in game.turns] == [None, None, 0]
    play_question = agent.questions[2]
    assert isinstance(play_question, Play) and play_question.notes == game.notes


def test_both_gives_notes_and_questions() -> None:
    agent = Agent(states(TRUE, after=1))
    game = held(agent, Toys(swapped), evidence=(finding(),))
    assert game.access == "both" and [turn.left for turn in game.turns] == [None, 20, 19]
    assert game.question(2).notes == game.notes and len(game.question(2).asked) == 1
    assert [question_key(game.question(n)) for n in (1, 2)] == [turn.verdict.question for turn in game.turns[1:]]


def test_no_findings_are_no_notes_and_no_evidence_is_none() -> None:
    assert held(Agent(states(TRUE)), evidence=()).notes == ()
    assert held(Agent(states(TRUE))).notes is None
    with pytest.raises(ValueError, match="evidence or models"):
        play(Agent(states(TRUE)), None, None, budget=Budget())


def test_without_an_explanation_there_is_no_game() -> None:
    class Silent(Agent):
        def answer(self, question: Any) -> Any:
            reply = super().answer(question)
            return reply if isinstance(question, Play) else replace(reply, state="refused", answer=None, problem="no")

    game = held(Silent(states(TRUE)), Toys(swapped), evidence=(finding(), finding(2, kl_up=("black",))))
    assert (game.state, game.problem, game.notes, len(game.turns)) == ("refused", "no", None, 1)


def test_equal_findings_are_explained_once() -> None:
    agent = Agent(states(TRUE))
    game = held(agent, evidence=(finding(1), finding(2)))
    assert len(agent.questions) == 2 and game.notes is not None and len(game.notes) == 2
    assert game.usage.calls == 2


# Budget


def test_the_last_turn_is_kept_for_an_account() -> None:
    agent = Agent(states(TRUE, after=99))
    game = held(agent, budget=Budget(questions=20, calls=4))
    assert [turn.left for turn in game.turns] == [20, 19, 18, 0]
    assert (game.state, game.account, game.usage.calls) == ("ok", TRUE, 4)


@pytest.mark.parametrize(
    "budget", [Budget(calls=3), Budget(tokens=500), Budget(money=0.05), Budget(calls=9, tokens=500, money=1.0)]
)
def test_no_limit_is_ever_passed(budget: Budget) -> None:
    agent = Agent(states(TRUE, after=99))
    game = held(agent, budget=budget)
    assert game.state == "ok" and game.turns[-1].left == 0 and 2 <= len(game.turns) < 6
    usage = game.usage
    assert usage.cost is not None
    for spent, limit in ((usage.calls, budget.calls), (usage.tokens, budget.tokens), (usage.cost, budget.money)):
        assert limit is None or spent <= limit


def test_a_game_that_cannot_be_paid_for_is_not_begun() -> None:
    agent = Agent(states(TRUE))
    agent.most = Usage(calls=1, tokens_in=10**6, tokens_out=10**6, cost=99.0)
    for budget in (Budget(tokens=10**6), Budget(money=1.0)):
        game = held(agent, budget=budget)
        assert (game.state, game.account, game.usage, agent.questions) == ("unaffordable", None, FREE, [])
    evidence = held(agent, evidence=(finding(),), budget=Budget(money=1.0))
    assert (evidence.state, agent.questions) == ("unaffordable", [])
    assert evidence.notes is not None and [note.explanation for note in evidence.notes] == [""]


def test_explanations_leave_enough_for_an_account() -> None:
    agent = Agent(states(TRUE))
    game = held(agent, evidence=tuple(finding() for _ in range(3)), budget=Budget(calls=2))
    assert game.state == "ok" and game.account is not None and len(agent.questions) == 2
    assert game.notes is not None and [bool(note.explanation) for note in game.notes].count(True) >= 1
    assert [question.kind for question in agent.questions] == ["explain", "play"]


def test_a_last_turn_that_became_too_dear_is_not_asked() -> None:
    """Exchanges that are much longer than any before them: the reserve did not reckon with that."""

    class Growing(Agent):
        def estimate(self, question: Any) -> Usage:
            n = len(question.model_dump_json())
            return Usage(calls=1, tokens_in=n, tokens_out=10, cost=0.0)

    class Flood(Toys):
        def said(self, prompts: Sequence[str], seed: int) -> tuple[Exchange, ...]:
            return tuple(Exchange(prompt=prompt, first=("x" * 200_000,), second=()) for prompt in prompts)

    agent = Growing(states(TRUE, after=99), usage=Usage(calls=1, tokens_in=10))
    game = held(agent, Flood(swapped), Budget(questions=20, tokens=100_000))
    assert [turn.left for turn in game.turns] == [20, 0]
    assert (game.state, game.account, len(agent.questions)) == ("unaffordable", None, 1)


def test_the_reserve_reckons_with_the_largest_exchange_so_far() -> None:
    large = Exchange(prompt="x" * 9999, first=(), second=())
    question = Play(presuppose=False, notes=None, asked=(), questions_left=3)
    assert worst_last(question).asked == (TYPICAL,) * 3
    later = worst_last(question.model_copy(update={"asked": (large,), "questions_left": 20}))
    assert later.asked == (large,) * 9 and later.questions_left == 0


def test_money_without_a_price_is_refused_before_anything_is_asked() -> None:
    agent = Agent(states(TRUE))
    agent.most = Usage(calls=1, cost=None)
    with pytest.raises(OptionError, match="DIFFBENCH_JUDGE_PRICE"):
        held(agent, budget=Budget(money=1.0))
    assert not agent.questions


# Replay


def test_a_game_that_is_played_again_costs_nothing_and_is_the_same() -> None:
    for budget in (Budget(), Budget(calls=4), Budget(tokens=700), Budget(money=0.06)):
        first = Agent(states(TRUE, after=6))
        first.tag = str(budget)
        game = held(first, Toys(swapped), budget, evidence=(finding(),))
        again = Agent(states(FALSE))  # who would say something else
        again.tag = first.tag
        assert held(again, Toys(swapped), budget, evidence=(finding(),)) == game and not again.questions


def test_a_game_goes_on_where_it_was_cut_off() -> None:
    script = states(TRUE, after=4)
    broken = Agent(lambda question, number: "failed" if number == 3 else script(question, number))
    lost = held(broken)
    assert (lost.state, len(lost.turns)) == ("failed", 4)
    whole = Agent(script)
    game = held(whole)
    assert game.state == "ok" and len(game.turns) == 5
    assert len(whole.questions) == 2, "the first three turns were kept"
    assert game.turns[:3] == lost.turns[:3]


def test_another_agent_seed_or_framing_is_another_game() -> None:
    held(Agent(states(TRUE, after=1)))
    other = Agent(states(TRUE, after=1))
    other.tag = "second"
    assert held(other) and len(other.questions) == 2
    framed = Agent(states(TRUE, after=1))
    assert held(framed, presuppose=True).presuppose and len(framed.questions) == 2
    seeded = Agent(states(TRUE, after=1))
    assert held(seeded, seed=5) and len(seeded.questions) == 1, "the first turn says nothing of the seed"


def test_the_framing_alone_differs() -> None:
    neutral, told = Agent(states(TRUE, after=2)), Agent(states(TRUE, after=2))
    games = [held(neutral), held(told, presuppose=True)]
    assert [game.presuppose for game in games] == [False, True]
    for one, other in zip(neutral.questions, told.questions, strict=True):
        assert isinstance(one, Play) and isinstance(other, Play)
        assert one.model_copy(update={"presuppose": True}) == other != one


# Scores


def test_a_perfect_agent_scores_one() -> None:
    for of, account in ((sheet(), TRUE), (sheet(changed=False), UNCHANGED)):
        for seed in range(5):
            account = account.model_copy(update={"confidence": 1.0})
            score = scored(account, of, Grader(4, right_choice(of, seed)), seed)
            assert [getattr(score.match, name).value for name in COMPARED] == [1.0, 1.0, 1.0]
            assert score.match.brier.value == 0.0
            offline = scored(account, of, seed=seed)
            assert all(one.beside_abstaining(name).value > 0 for one in (score, offline) for name in COMPARED)


MADE_UP = {
    "false": FALSE,
    "the truth of another pair": TRUE,
    "a blank": Account(verdict="changed", confidence=0.5),
    "certain": Account(verdict="changed", statement="Something changed.", confidence=1.0),
    "everything": Account(
        verdict="changed",
        statement="Nothing was changed, or blue is green, or everything was changed.",
        trigger=(Pattern(),),
        tokens_up=tuple(f"w{n}" for n in range(MOST_WORDS)),
        tokens_down=tuple(f"w{n}" for n in range(MOST_WORDS)),
        confidence=0.5,
    ),
    "half": Account(verdict="changed", statement="Nothing was changed on purpose.", confidence=0.0),
}


@pytest.mark.parametrize("name", MADE_UP)
@pytest.mark.parametrize("grader", [OfflineJudge(), Grader(4, lambda question: 0), Grader(None, lambda question: None)])
def test_on_nulls_abstaining_scores_above_any_made_up_account(name: str, grader: Judge) -> None:
    for seed in range(6):
        score = scored(MADE_UP[name], sheet(changed=False), grader, seed)
        silent = scored(abstention(), sheet(changed=False), grader, seed)
        for what in COMPARED:
            own, other = getattr(score.match, what).value, getattr(silent.match, what).value
            assert own is not None and other is not None and own < other, (what, own, other)
            assert getattr(score.abstaining, what) == getattr(silent.match, what)
            assert score.beside_abstaining(what).value < 0


def test_always_changed_gains_nothing_over_as_many_nulls() -> None:
    """Half of the pairs changed, an account that fits none of them."""
    values = [scored(FALSE, sheet(changed), seed=seed).match for changed in (True, False) for seed in range(10)]
    silent = [scored(abstention(), sheet(changed)).match for changed in (True, False)]
    for name in COMPARED:
        mean = sum(getattr(match, name).value for match in values) / len(values)
        assert mean < sum(getattr(match, name).value for match in silent) / 2
    right = [match.verdict == ("changed" if changed else "unchanged")
             for match, changed in zip(values, [True] * 10 + [False] * 10, strict=True)]  # fmt: skip
    assert sum(right) / len(right) == 0.5


def test_a_coin_chooses_as_often_as_chance() -> None:
    import random

    rng = random.Random(0)
    n = 300
    found = [
        scored(TRUE, sheet(), Grader(2, lambda question: rng.randrange(len(question.statements))), seed).match
        for seed in range(n)
    ]
    low, high = share_interval(sum(match.choice.value or 0.0 for match in found), n)
    chance = found[0].chance.value
    assert chance is not None and low <= chance <= high


def test_the_grader_may_be_another_than_the_agent_and_may_fail() -> None:
    true = sheet()
    perfect = scored(FALSE, true, Grader(4, right_choice(true, 0)))
    assert perfect.match.grade.value == perfect.match.choice.value == 1.0, "it is believed"
    assert perfect.match.structured.value is not None and perfect.match.structured.value < 0, "which asks no judge"
    assert [trial.test for trial in perfect.trials] == ["grade", "choice"]

    class Broken(Grader):
        def answer(self, question: Any) -> Any:
            return replace(super().answer(question), state="malformed", answer=None, problem="no JSON")

    broken = scored(TRUE, true, Broken(4, lambda question: 0))
    assert broken.match.grade.state == broken.match.choice.state == broken.match.brier.state == "undefined"
    assert broken.match.structured.value == 1.0


def test_of_an_unknown_pair_there_is_an_account_and_no_score() -> None:
    score = score_game(held(Agent(states(TRUE))), None, Panel(OfflineJudge()), 0)
    assert score.trials == () and score.match.verdict == "changed" and score.match.structured.state == "n/a"


# Prospect


@pytest.mark.parametrize("questions", [0, 1, 5])
def test_the_prospect_covers_what_a_game_costs(questions: int) -> None:
    agent = Agent(states(TRUE, after=99))
    agent.most = agent.usage
    told = prospect(agent, (finding(),), asks=True, budget=Budget(questions=questions), presuppose=False)
    game = held(agent, Toys(swapped), Budget(questions=questions), evidence=(finding(),))
    assert told.usage.calls == questions + 2 == game.usage.calls and told.usage.tokens >= game.usage.tokens
    again = prospect(agent, (finding(),), asks=True, budget=Budget(questions=questions), presuppose=False)
    assert again.kept >= 1, "the explanation is there already"


# Files


SETTING = Setting(
    organism="canary/organism",
    reference="base",
    row="canary-method@column",
    cell="c" * 64,
    pair=("a" * 64, "b" * 64),
    manner=Manner(),
    grader={"judge": "offline"},
)


def played(agent: Judge | None = None, of: Sheet | None = None, **more: Any) -> PlayedGame:
    game = held(agent or Agent(states(TRUE, after=2)), Toys(swapped), evidence=(finding(),), **more)
    return PlayedGame(setting=SETTING, game=game, score=score_game(game, of, Panel(OfflineJudge()), 3))


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


# Blindness


def test_no_question_says_what_it_is_about() -> None:
    """What a game is about stands in its setting; nothing that is given to `play` has it."""
    agent = Agent(states(TRUE, after=3))
    one = played(agent, of=sheet(), seed=918273)
    texts = [question.model_dump_json() for question in agent.questions]
    assert len(texts) == 5
    for canary in ("canary", "918273", "component", "rank", SETTING.pair[0], SETTING.cell or "", "offline", "scripted"):
        assert not any(canary in text for text in texts), canary
    assert "canary" in one.model_dump_json()


# A language model behind a server


class Chat(BaseHTTPRequestHandler):
    """Asks a prompt in each of two turns, then concludes; the second request is answered by an error first."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Chat.seen.append(body)
        prompt = body["messages"][-1]["content"]
        turn = prompt.count(": prompt: ")
        said: dict[str, Any] = {"explanation": "active at is"}
        if '"action"' in prompt:
            said = {"action": "ask", "prompts": [f"the hat of {turn} is"], "account": None}
            if turn == 2 or "No more prompts may be given" in prompt:
                account = TRUE.model_dump(mode="json")
                said = {"action": "conclude", "prompts": [], "account": account}
        message = {"role": "assistant", "content": json.dumps(said), "refusal": None}
        document = {
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip
        content = json.dumps(document).encode()
        self.send_response(500 if len(Chat.seen) == 2 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


KEY = "sk-canary-5a1d"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The requests to a server on the loopback interface, to which the openai client is pointed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("DIFFBENCH_JUDGE_BACKOFF", "0.01")
        monkeypatch.setenv("DIFFBENCH_JUDGE_PRICE", "1000,1000")
        Chat.seen.clear()
        yield Chat.seen
        server.shutdown()


def test_a_language_model_plays_once_and_is_replayed_for_nothing(chat: list[Any], tmp_path: Path) -> None:
    agent = OpenAIJudge.bound("canary-model")
    game = held(agent(), Toys(swapped), evidence=(finding(),), seed=918273)
    assert game.state == "ok" and game.account is not None and game.account.tokens_up == ("green",)
    assert [turn.left for turn in game.turns] == [None, 20, 19, 18] and len(chat) == 5, "one error on the way"
    assert game.usage.tokens == 440 and all(turn.verdict.prompt for turn in game.turns)
    n = len(chat)
    assert held(agent(), Toys(swapped), evidence=(finding(),), seed=918273) == game and len(chat) == n
    sent = json.dumps([body["messages"] for body in chat])
    assert "green" in sent and not any(canary in sent for canary in (KEY, "918273", "canary"))
    one = PlayedGame(setting=SETTING, game=game, score=score_game(game, sheet(), Panel(OfflineJudge()), 0))
    write_game(tmp_path, one, sheet())
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_language_model_is_made_to_conclude_while_it_can_be_paid(chat: list[Any]) -> None:
    agent = OpenAIJudge.bound("canary-model")()
    question = Play(presuppose=False, notes=None, asked=(), questions_left=20)
    turn = agent.estimate(question).cost
    reserve = agent.estimate(worst_last(question)).cost
    assert turn is not None and reserve is not None
    game = held(agent, budget=Budget(money=turn + reserve))
    assert game.state == "ok" and game.turns[0].left == 20 and game.turns[-1].left == 0
    assert game.usage.cost is not None and game.usage.cost <= turn + reserve
    poor = held(agent, budget=Budget(money=turn / 2), seed=1, presuppose=True)
    assert poor.state == "unaffordable" and poor.usage == FREE


# Framing


def test_the_effect_of_the_framing_is_measured_on_the_same_seeds() -> None:
    def games(neutral: Account, told: Account, seeds: Sequence[int] = range(4)) -> list[PlayedGame]:
        agent = Agent(lambda question, number: Stated(account=told if question.presuppose else neutral))
        agent.tag = f"{neutral.verdict} {told.verdict}"
        return [played(agent, sheet(changed=False), presuppose=p, seed=s) for s in seeds for p in (False, True)]

    found = framing(games(UNCHANGED, FALSE))
    assert found is not None and (found.pairs, found.games) == (4, 4)
    assert found.changed.value == 1.0 and found.structured.value == -1.0 and found.confidence.value == 0.0
    none = framing(games(UNCHANGED, UNCHANGED))
    assert none is not None and none.changed.value == none.structured.value == 0.0
    assert framing(games(UNCHANGED, FALSE)[::2]) is None, "under one framing alone"
    lost = [played(Agent(lambda question, number: "refused"), presuppose=p) for p in (False, True)]
    empty = framing(lost)
    assert empty is not None and (empty.pairs, empty.games, empty.changed.state) == (0, 1, "undefined")
