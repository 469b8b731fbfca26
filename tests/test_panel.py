"""Many questions to one judge: order, once each, kept as they come, resumed, paid once, within an allowance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import judge_asker
import pytest
from judge_asker import NotingJudge, evidence

from diffbench.errors import CacheError, JudgeError, OptionError, PluginError, RecordError
from diffbench.judge import Judge, Reply
from diffbench.panel import Panel, Verdict, read_verdicts, write_verdicts
from diffbench.question import Detect, Evidence, Intrude, Marked, Marks, Pick, Question, Text, question_key
from diffbench.quote import quote
from diffbench.spending import FREE, Allowance, Usage, cover


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


ONE = Usage(calls=1, tokens_in=10, tokens_out=2, cost=0.5)


class Scripted(Judge):
    """Answers as a function says; counts what it is asked."""

    name: ClassVar[str] = "scripted"
    paid: ClassVar[bool] = True

    def __init__(self, script: Callable[[str], Reply], parallel: int = 1, cost: float | None = 0.5) -> None:
        self.script, self.parallel, self.cost = script, parallel, cost
        self.words: list[str] = []
        self.kind = "first"

    def answer(self, question: Question) -> Reply:
        assert isinstance(question, Evidence)
        word = question.excerpts[0].tokens[0]
        self.words.append(word)
        return self.script(word)

    def identity(self) -> dict[str, str]:
        return super().identity() | {"kind": self.kind}

    def estimate(self, question: Question) -> Usage:
        return Usage(calls=1, tokens_in=10, tokens_out=10, cost=self.cost)


class Free(Scripted):
    name: ClassVar[str] = "free"
    paid: ClassVar[bool] = False


def at(word: str) -> Reply:
    return Reply("ok", Text(text=f"at {word}"), raw=word, usage=ONE, prompt="0" * 64, sent="in words")


def words(n: int) -> list[Evidence]:
    return [evidence(f"w{number}") for number in range(n)]


def stored(root: Path) -> list[Path]:
    return sorted((root / "judge").rglob("*.json"))


def test_verdicts_come_in_the_order_of_the_questions() -> None:
    def slow(word: str) -> Reply:
        time.sleep(0.03 * (5 - int(word[1:])))
        return at(word)

    seen: list[tuple[int, int]] = []
    asked = Scripted(slow, parallel=5)
    panel = Panel(asked, notify=lambda done, total: seen.append((done, total)))
    verdicts = panel.ask(words(5))
    assert [verdict.raw for verdict in verdicts] == ["w0", "w1", "w2", "w3", "w4"]
    assert list(panel.asked.values()) == verdicts and seen == [(number + 1, 5) for number in range(5)]
    first = verdicts[0]
    assert first.question == question_key(evidence("w0")) and first.kind == "explain" and first.usage == ONE
    assert first.judge == asked.identity() and (first.prompt, first.sent) == ("0" * 64, "in words")
    assert panel.allowance.spent == Usage(calls=5, tokens_in=50, tokens_out=10, cost=2.5)


def test_equal_questions_are_asked_once() -> None:
    asked = Scripted(at, parallel=3)
    panel = Panel(asked)
    verdicts = panel.ask([*words(2), *words(2), evidence("w0")])
    assert [verdict.raw for verdict in verdicts] == ["w0", "w1", "w0", "w1", "w0"]
    assert panel.ask(words(3))[:2] == verdicts[:2] and sorted(asked.words) == ["w0", "w1", "w2"] and panel.n_new == 3
    assert panel.ask([]) == []


def test_as_many_at_once_as_the_judge_allows() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def count(word: str) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return at(word)

    Panel(Scripted(count, parallel=3)).ask(words(12))
    assert most == 3


def test_what_was_paid_for_is_kept(root: Path) -> None:
    asked = Scripted(at)
    first = Panel(asked).ask(words(3))
    panel = Panel(Scripted(at))
    assert panel.ask(words(3)) == first and panel.n_new == 0 and panel.allowance.spent == FREE
    other = Scripted(at)
    other.kind = "second"
    assert Panel(other).ask(words(1))[0].judge["kind"] == "second" and other.words == ["w0"], "another judge"
    assert len(stored(root)) == 4
    free = Free(at)
    Panel(free).ask(words(2))
    Panel(free).ask(words(2))
    assert free.words == ["w0", "w1"] * 2 and len(stored(root)) == 4, "what costs nothing is not kept"


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "other": lambda text: "[]",
    "field": lambda text: json.dumps(json.loads(text) | {"extra": 1}),
    "answer": lambda text: json.dumps(json.loads(text) | {"answer": {"kind": "text", "text": 3}}),
    "moved": lambda text: json.dumps(json.loads(text) | {"question": "0" * 64}),
    "failed": lambda text: json.dumps(json.loads(text) | {"state": "failed", "answer": None}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_asked_again(damage: str, root: Path) -> None:
    first = Panel(Scripted(at)).ask(words(1))
    [path] = stored(root)
    path.write_text(DAMAGES[damage](path.read_text()))
    asked = Scripted(at)
    panel = Panel(asked)
    assert not panel.kept(evidence("w0"))
    assert panel.ask(words(1)) == first and asked.words == ["w0"]
    assert Panel(Scripted(at)).kept(evidence("w0")), "and is whole again"


@pytest.mark.parametrize("state", ["malformed", "refused"])
def test_what_was_no_answer_was_paid_for_too(state: str) -> None:
    def none(word: str) -> Reply:
        return Reply(state, None, raw="no", problem="no\nanswer", usage=ONE)  # type: ignore[arg-type]

    [verdict] = Panel(Scripted(none)).ask(words(1))
    assert (verdict.state, verdict.problem, verdict.answer, verdict.raw) == (state, "no answer", None, "no")
    asked = Scripted(at)
    assert Panel(asked).ask(words(1)) == [verdict] and not asked.words
    [better] = Panel(asked, again=True).ask(words(1))
    assert better.state == "ok" and asked.words == ["w0"]
    assert Panel(asked, again=True).ask(words(1)) == [better] and asked.words == ["w0"], (
        "an answer is never asked again"
    )
    assert Panel(asked).ask(words(1)) == [better]


def test_what_could_not_be_reached_is_asked_next_time(root: Path) -> None:
    def away(word: str) -> Reply:
        raise JudgeError("not\nreached", Usage(calls=3, tokens_in=7))

    panel = Panel(Scripted(away))
    [verdict] = panel.ask(words(1))
    assert (verdict.state, verdict.problem, verdict.usage) == ("failed", "not reached", Usage(calls=3, tokens_in=7))
    assert panel.allowance.spent == verdict.usage and not stored(root)
    assert Panel(Scripted(at)).ask(words(1))[0].state == "ok"


def test_an_answer_is_looked_at() -> None:
    for reply, why in (
        (Reply("ok", None), "no answer"),
        (Reply("ok", Pick(pick=1)), "a explain question takes Text"),
        (Reply("ok", Text(text=" ")), "an empty explanation"),
    ):
        [verdict] = Panel(Free(lambda word, reply=reply: reply)).ask(words(1))  # type: ignore[misc]
        assert (verdict.state, verdict.answer, verdict.problem) == ("malformed", None, why)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ValueError("secret\nvalue"),
            r"judge 'scripted': answer\(\) raised ValueError at a explain question: secret value",
        ),
        (RecursionError(), "raised RecursionError"),
        (KeyError("x"), "raised KeyError"),
    ],
)
def test_a_broken_judge_is_an_error_and_no_verdict(error: Exception, message: str, root: Path) -> None:
    def broken(word: str) -> Reply:
        if word == "w2":
            raise error
        return at(word)

    panel = Panel(Scripted(broken), allowance=Allowance(calls=9))
    with pytest.raises(PluginError, match=message):
        panel.ask(words(6))
    assert question_key(evidence("w2")) not in panel.asked
    assert panel.allowance._held == Usage(calls=0, cost=0.0), "nothing stays put aside"
    before = len(stored(root))
    asked = Scripted(at)
    assert [verdict.state for verdict in Panel(asked).ask(words(6))] == ["ok"] * 6
    assert len(asked.words) == 6 - before


def test_what_is_no_reply_is_an_error() -> None:
    with pytest.raises(PluginError, match="must return a Reply, got None"):
        Panel(Scripted(lambda word: None)).ask(words(1))  # type: ignore[arg-type,return-value]


def test_the_allowance_is_looked_at_before_each_call() -> None:
    asked = Scripted(at)
    panel = Panel(asked, allowance=Allowance(calls=2))
    verdicts = panel.ask(words(5))
    assert [verdict.state for verdict in verdicts] == ["ok", "ok", *["unaffordable"] * 3]
    assert len(asked.words) == 2 == panel.allowance.spent.calls and panel.n_new == 2
    assert "could bring calls to 3, 2 are allowed" in (verdicts[-1].problem or "")
    assert [verdict.state for verdict in Panel(Scripted(at)).ask(words(5))] == ["ok"] * 5

    asked = Scripted(at)
    asked.kind = "second"
    panel = Panel(asked, allowance=Allowance(tokens=45))
    states = [verdict.state for verdict in panel.ask(words(5))]
    assert states == ["ok"] * 3 + ["unaffordable"] * 2, "12 are spent by each, 20 put aside before"
    asked.kind = "third"
    panel = Panel(asked, allowance=Allowance(money=1.9))
    assert [verdict.state for verdict in panel.ask(words(5))] == ["ok"] * 3 + ["unaffordable"] * 2


def test_the_allowance_holds_with_many_threads() -> None:
    def slow(word: str) -> Reply:
        time.sleep(0.005)
        return at(word)

    asked = Scripted(slow, parallel=16)
    panel = Panel(asked, allowance=Allowance(calls=20))
    verdicts = panel.ask(words(100))
    assert len(asked.words) == 20 == panel.allowance.spent.calls
    assert Counter(verdict.state for verdict in verdicts) == {"ok": 20, "unaffordable": 80}


def test_what_is_kept_costs_nothing_of_the_allowance() -> None:
    Panel(Scripted(at)).ask(words(3))
    panel = Panel(Scripted(at), allowance=Allowance(calls=1))
    assert [verdict.state for verdict in panel.ask(words(4))] == ["ok"] * 4 and panel.allowance.spent.calls == 1


def test_a_limit_on_money_without_a_price_is_refused() -> None:
    asked = Scripted(at, cost=None)
    with pytest.raises(OptionError, match="set DIFFBENCH_JUDGE_PRICE=IN,OUT"):
        Panel(asked, allowance=Allowance(money=10)).ask(words(1))
    assert not asked.words


def test_further_attempts_are_covered_too() -> None:
    class Stubborn(Scripted):
        def answer(self, question: Question) -> Reply:
            usage = ONE
            for _ in range(9):
                cover(self.estimate(question))
                usage += ONE
            return at("x")

    panel = Panel(Stubborn(at), allowance=Allowance(calls=5))
    with pytest.raises(PluginError, match="BudgetExceeded"):  # a judge that does not mind what it is told
        panel.ask(words(1))
    assert panel.allowance._held == Usage(calls=0, cost=0.0)


def test_a_question_can_be_quoted_before_it_is_asked() -> None:
    Panel(Scripted(at)).ask(words(2))
    asked = Scripted(at)
    panel = Panel(asked)
    found = quote(panel, [*words(5), *words(5)])
    assert (found.questions, found.kept) == (5, 2) and not asked.words and panel.allowance.spent == FREE
    assert found.usage == Usage(calls=3, tokens_in=30, tokens_out=30, cost=1.5)
    assert str(found) == (
        "judge scripted: 5 questions, 2 of them answered already; 3 calls, at most 30 tokens in and 30 out without "
        "retries; cost at most 1.5000 in the currency of the prices"
    )
    both = found + quote(panel, [evidence("other")])
    assert (both.questions, both.kept, both.usage.calls, both.usage.cost) == (6, 2, 4, 2.0)
    assert "cost not known: set DIFFBENCH_JUDGE_PRICE" in str(quote(Panel(Scripted(at, cost=None)), words(3)))
    panel.ask(words(5))
    assert quote(panel, words(5)).usage == FREE and str(quote(panel, words(5))).endswith("nothing to pay")


def test_verdicts_are_written_and_read(tmp_path: Path) -> None:
    verdicts = Panel(Scripted(at)).ask(words(3))
    path = tmp_path / "verdicts.jsonl"
    write_verdicts(path, verdicts)
    assert read_verdicts(path, Verdict) == verdicts
    before = path.read_bytes()
    write_verdicts(path, verdicts)
    assert path.read_bytes() == before
    for text, why in (("{}\n", "line 1"), ("\n[1]\n", "line 2"), ('{"state": "ok', "line 1"), ("\x00\n", "line 1")):
        path.write_text(text)
        with pytest.raises(RecordError, match=why):
            read_verdicts(path, Verdict)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="cannot be read"):
        read_verdicts(path, Verdict)
    with pytest.raises(RecordError, match="cannot be read"):
        read_verdicts(tmp_path / "none", Verdict)


def test_a_raw_answer_of_any_kind_can_be_kept(tmp_path: Path) -> None:
    raw = "\ud800\x00\u2028" + "x" * 200_000

    def odd(word: str) -> Reply:
        return Reply("malformed", None, raw=raw, problem="\x1b[2J" + "p" * 9999, usage=ONE)

    [verdict] = Panel(Scripted(odd)).ask(words(1))
    assert len(verdict.raw) == 100_000 and len(verdict.problem or "") == 300
    assert Panel(Scripted(at)).ask(words(1)) == [verdict]
    write_verdicts(tmp_path / "v", [verdict])
    assert read_verdicts(tmp_path / "v", Verdict) == [verdict]


def test_a_cache_that_cannot_be_written_is_an_error(root: Path) -> None:
    root.parent.joinpath("cache").write_text("a file")
    with pytest.raises(CacheError, match="set DIFFBENCH_CACHE"):
        Panel(Scripted(at)).ask(words(1))


def test_questions_of_all_kinds_have_keys_of_their_own() -> None:
    contexts = (Marked(tokens=("a",), marked=(0,)), Marked(tokens=("b",), marked=(0,)))

    class Both(Judge):
        name: ClassVar[str] = "both"
        paid: ClassVar[bool] = True

        def answer(self, question: Question) -> Reply:
            return Reply("ok", Pick(pick=1) if isinstance(question, Intrude) else Marks(marks=(True, False)))

    questions = [Intrude(contexts=contexts), Detect(explanation="a", contexts=(("a",), ("b",)))]
    first = Panel(Both()).ask(questions)
    assert [verdict.answer for verdict in first] == [Pick(pick=1), Marks(marks=(True, False))]
    assert Panel(Both()).ask(questions[::-1]) == first[::-1]


N, SECONDS = 40, 0.05


def start(notes: Path) -> subprocess.Popen[str]:
    command = [sys.executable, judge_asker.__file__, str(notes), str(N), str(SECONDS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_pays_for_nothing_twice(tmp_path: Path, root: Path) -> None:
    notes = tmp_path / "notes"
    with start(notes) as process:
        assert process.stdout is not None and int(process.stdout.readline()) == process.pid
        while len(stored(root)) < N // 2:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finished = {Verdict.model_validate_json(path.read_text()).raw for path in stored(root)}
    assert N // 2 <= len(finished) < N
    panel = Panel(NotingJudge(notes))
    verdicts = panel.ask(words(N))
    assert [verdict.raw for verdict in verdicts] == [f"w{number}" for number in range(N)]
    times = Counter(notes.read_text().split())
    assert {times[word] for word in finished} == {1} and panel.n_new == N - len(finished)
    assert len(times) == N and sum(times.values()) <= N + NotingJudge.parallel, "only what was under way was lost"


def test_two_processes_pay_once(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with start(notes) as one, start(notes) as other:
        said = [process.communicate(timeout=60)[0].split("\n", 1)[1] for process in (one, other)]
    assert said[0] == said[1] == "".join(f"ok w{number}\n" for number in range(N))
    assert Counter(notes.read_text().split()) == {f"w{number}": 1 for number in range(N)}
