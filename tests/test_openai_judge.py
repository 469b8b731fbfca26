"""The judge behind a server: the real client over loopback HTTP against a server process that misbehaves."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, Client, serving

from diffbench import openai_judge
from diffbench.account import Account, abstention
from diffbench.chat_server import _wait
from diffbench.dialect import Dialect
from diffbench.errors import JudgeError
from diffbench.judge import Judge
from diffbench.judge_settings import JudgeSettings, read_settings
from diffbench.openai_judge import ASK_AGAIN, LOST_IN_A_ROW, OpenAIJudge
from diffbench.panel import Panel
from diffbench.plugins import find_judge
from diffbench.question import (
    Choose,
    Detect,
    Evidence,
    Excerpt,
    Fuzz,
    Grade,
    Graded,
    Intervene,
    Intrude,
    Marked,
    Marks,
    Note,
    Pick,
    Play,
    Question,
    Stated,
    Summarise,
    Text,
)
from diffbench.spending import Allowance, Usage

RETRIES = 3
ACCOUNT = Account(verdict="changed", statement="blue is said for green", confidence=0.7)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "OPENAI_CUSTOM_HEADERS",
        "OPENAI_ORG_ID",
        "OPENAI_ADMIN_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name, value in {"BACKOFF": "0.01", "RETRIES": str(RETRIES), "TIMEOUT": "10"}.items():
        monkeypatch.setenv(f"DIFFBENCH_JUDGE_{name}", value)


@pytest.fixture(scope="module")
def server_process() -> Iterator[Client]:
    with serving() as client:
        yield client


@pytest.fixture
def serve(server_process: Client, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the server a plan, and point the client to it."""
    monkeypatch.setenv("OPENAI_BASE_URL", server_process.address)
    return server_process.plan


def judge(model: str = "m") -> OpenAIJudge:
    found = OpenAIJudge.bound(model)()
    assert isinstance(found, OpenAIJudge)
    return found


def detect(number: int = 1, words: str = "blue green blue") -> Detect:
    return Detect(explanation=f"Q-{number}: active at blue", contexts=tuple(("a", word) for word in words.split()))


def test_a_model_answers(serve: Any) -> None:
    server = serve(key=KEY)
    reply = judge().answer(detect())
    assert (reply.state, reply.answer) == ("ok", Marks(marks=(True, False, True)))
    assert reply.prompt is not None and len(reply.prompt) == 64
    assert reply.sent == "response_format json_schema, temperature 0, max_tokens 4096; answered by m-2024"
    [sent] = server.requests
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("m", 0, 4096)
    assert sent["response_format"]["json_schema"]["strict"] is True
    size = sum(len(message["content"]) for message in sent["messages"]) // 4
    assert reply.usage == Usage(calls=1, tokens_in=size, tokens_out=len(reply.raw) // 4, cost=None)


MARKED = (Marked(tokens=("a", "blue"), marked=(1,)), Marked(tokens=("a", "green"), marked=(1,)))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            Evidence(excerpts=(Excerpt(tokens=("a", "blue"), active=True, activity=1.0),), tokens_up=("x",)),
            Text(text="active at blue"),
        ),
        (Fuzz(explanation="blue", contexts=MARKED), Marks(marks=(True, False))),
        (Intrude(contexts=MARKED), Pick(pick=0)),
        (Intervene(explanation="blue", prompt=("a",), texts=(("b",), ("c",))), Pick(pick=1)),
        (Choose(account=ACCOUNT, statements=("one", "two")), Pick(pick=None)),
        (Grade(facts=(), account=ACCOUNT), Graded(grade=0)),
        (
            Summarise(notes=(Note(explanation="blue"),), said="changed"),
            Stated(account=Account(verdict="unchanged", statement="nothing", confidence=0.5)),
        ),
        (
            Play(presuppose=False, notes=None, asked=(), questions_left=2),
            Stated(account=Account(verdict="unchanged", statement="nothing", confidence=0.5)),
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_kind_of_question_is_answered(serve: Any, question: Question, answer: object) -> None:
    serve()
    [verdict] = Panel(judge()).ask([question])
    assert (verdict.state, verdict.answer) == ("ok", answer)


def test_the_most_basic_server_will_do(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no response_format, no usage, no id, fields of its own."""
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve(basic=True, refuses=("response_format", "temperature", "max_tokens", "max_completion_tokens"))
    asked = judge()
    reply = asked.answer(detect())
    assert reply.state == "ok" and reply.answer == Marks(marks=(True, False, True))
    assert reply.sent == "no response_format (refused), temperature refused, no limit of tokens (refused)"
    assert set(server.requests[-1]) == {"model", "messages"}
    estimate = asked.estimate(detect())
    assert reply.usage.tokens_in == estimate.tokens_in and reply.usage.tokens_out == -(-len(reply.raw) // 3)
    before = len(server.requests)
    assert asked.answer(detect(2)).usage.calls == 1, "what a server does not take is remembered"
    assert len(server.requests) == before + 1


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        ("json_schema", "response_format json_object, temperature 0, max_tokens 4096"),
        ("response_format", "no response_format (refused), temperature 0, max_tokens 4096"),
        ("temperature", "response_format json_schema, temperature refused, max_tokens 4096"),
        ("max_tokens", "response_format json_schema, temperature 0, max_completion_tokens 4096"),
    ],
)
def test_what_a_server_does_not_take_is_left_out_and_recorded(serve: Any, refused: str, told: str) -> None:
    serve(refuses=(refused,))
    asked = judge()
    before = asked.identity()
    [verdict] = Panel(asked).ask([detect()])
    assert verdict.state == "ok" and verdict.sent == f"{told}; answered by m-2024"
    assert asked.identity() == before, "who is asked does not depend on the server"


def test_many_threads_find_out_together_what_a_server_takes(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_JUDGE_PARALLEL", "16")
    serve(refuses=("json_schema", "temperature"))
    verdicts = Panel(judge()).ask([detect(number) for number in range(48)])
    assert {verdict.sent for verdict in verdicts} == {
        "response_format json_object, temperature refused, max_tokens 4096; answered by m-2024"
    }


@pytest.mark.parametrize(
    "fault",
    ["429", "429-date", "500", "502", "503", "408", "409", "drop", "middle", "html", "garbage", "error-200", "echo"],
)
def test_errors_of_the_server_are_tried_again(serve: Any, fault: str) -> None:
    server = serve(script=(fault, fault))
    reply = judge().answer(detect())
    assert reply.state == "ok" and reply.usage.calls == 3 == len(server.requests)
    assert server.successes == {"Q-1": 1}


@pytest.mark.parametrize("fault", ["slow", "trickle"])
def test_slow_answers_are_not_waited_for(serve: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_JUDGE_TIMEOUT", "0.4")
    server = serve(script=(fault,))
    asked, start = judge(), time.monotonic()
    reply = asked.answer(detect())
    assert reply.state == "ok" and server.successes == {"Q-1": 1}
    assert time.monotonic() - start < 3
    most = asked.estimate(detect())
    assert reply.usage.tokens_out > most.tokens_out, "an answer that may have been written is reckoned with"


def test_retries_are_bounded(serve: Any) -> None:
    server = serve(script=("500",) * 50)
    with pytest.raises(
        JudgeError, match=r"judge 'openai:m': the server failed \(500\): try again; tried 4 times"
    ) as found:
        judge().answer(detect())
    assert len(server.requests) == RETRIES + 1
    assert found.value.usage == Usage(calls=RETRIES + 1, cost=None)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with pytest.raises(JudgeError, match=r"not reached \(ConnectError: .*refused\); tried 4 times") as found:
        judge().answer(detect())
    assert found.value.usage == Usage(calls=RETRIES + 1, cost=None), "nothing was sent, nothing can have been billed"


@pytest.mark.parametrize(
    ("fault", "state", "problem"),
    [
        ("prose", "malformed", "not one JSON object: Expecting value at character 0"),
        ("two", "malformed", "not one JSON object: Extra data at character"),
        ("schema", "malformed", "answers: Field required"),
        ("empty", "malformed", "an empty answer"),
        ("null", "malformed", "an empty answer"),
    ],
)
def test_answers_that_are_none_are_asked_for_again_twice(serve: Any, fault: str, state: str, problem: str) -> None:
    server = serve(script=(fault,) * 3)
    reply = judge().answer(detect())
    assert (reply.state, reply.answer) == (state, None) and (reply.problem or "").startswith(problem)
    assert reply.usage.calls == len(server.requests) == ASK_AGAIN + 1
    assert reply.usage.tokens_in == 3 * (reply.usage.tokens_in // 3) > 0
    messages = {request["messages"][1]["content"] for request in server.requests}
    assert len(messages) == 3, "each call has a nonce of its own"
    assert judge().answer(detect(2)).state == "ok"


def test_an_answer_that_is_one_at_last_counts(serve: Any) -> None:
    serve(script=("prose", "500", "empty"))
    reply = judge().answer(detect())
    assert reply.state == "ok" and reply.usage.calls == 4


@pytest.mark.parametrize(
    ("fault", "state", "problem"),
    [
        ("refusal", "refused", "I cannot help with that."),
        ("filter", "refused", "the server's filter held the answer back"),
        ("policy", "refused", "the server's filter held the question back: The prompt was filtered."),
        ("length", "malformed", "cut off after 4096 tokens; DIFFBENCH_JUDGE_MAX_TOKENS allows more"),
    ],
)
def test_refusals_and_cut_answers_are_not_asked_again(serve: Any, fault: str, state: str, problem: str) -> None:
    server = serve(script=(fault,))
    reply = judge().answer(detect())
    assert (reply.state, reply.answer, reply.problem) == (state, None, problem)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", r"does not take the key \(401\); set OPENAI_API_KEY"),
        ("404", r"has no model 'm' at this address \(404\); OPENAI_BASE_URL mostly ends in /v1"),
        ("402", r"wants to be paid \(402\)"),
        ("quota", r"wants to be paid \(429\): You exceeded"),
    ],
)
def test_where_no_question_can_do_better_none_is_asked(serve: Any, fault: str, message: str) -> None:
    server = serve(script=(fault,) * 200)
    asked = judge()
    asked.parallel = 1
    verdicts = Panel(asked).ask([detect(number) for number in range(100)])
    assert {verdict.state for verdict in verdicts} == {"failed"}
    assert len(server.requests) == 1
    with pytest.raises(JudgeError, match=message):
        asked.answer(detect())


def test_a_question_that_is_not_taken_leaves_the_others_alone(serve: Any) -> None:
    server = serve(script=("long", "403"))
    asked = judge()
    with pytest.raises(JudgeError, match=r"\(400\); if it is too long, lower DIFFBENCH_JUDGE_MAX_TOKENS"):
        asked.answer(detect(1))
    with pytest.raises(JudgeError, match=r"does not take the question \(403\)"):
        asked.answer(detect(2))
    reply = asked.answer(detect(3))
    assert reply.state == "ok" and "json_schema" in reply.sent and len(server.requests) == 3


def test_a_server_that_stays_away_is_given_up(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_JUDGE_PARALLEL", "4")
    server = serve(script=("503",) * 10_000)
    verdicts = Panel(judge()).ask([detect(number) for number in range(300)])
    assert {verdict.state for verdict in verdicts} == {"failed"}
    assert "8 questions in a row came to nothing" in (verdicts[-1].problem or "")
    assert LOST_IN_A_ROW <= len(server.requests) <= (LOST_IN_A_ROW + 4) * (RETRIES + 1)


def test_what_was_not_reached_is_asked_again_by_the_next_panel(serve: Any) -> None:
    server = serve(script=("500",) * (RETRIES + 1))
    [verdict] = Panel(judge()).ask([detect()])
    assert verdict.state == "failed" and verdict.usage.calls == RETRIES + 1
    [verdict] = Panel(judge()).ask([detect()])
    assert verdict.state == "ok" and server.successes == {"Q-1": 1}


FAULTS = ("429", "500", "502", "503", "drop", "middle", "garbage", "html", "prose", "schema", "empty", "error-200")


def test_all_verdicts_under_faults_and_none_twice(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 at once, every fifth request goes wrong."""
    monkeypatch.setenv("DIFFBENCH_JUDGE_PARALLEL", "32")
    monkeypatch.setenv("DIFFBENCH_JUDGE_RETRIES", "8")
    monkeypatch.setenv("DIFFBENCH_JUDGE_TIMEOUT", "30")
    server = serve(share=0.2, faults=FAULTS, seed=4, delay=0.02)
    questions = [detect(number, "blue green blue red") for number in range(256)]
    panel = Panel(judge())
    verdicts = panel.ask(questions)
    assert [verdict.state for verdict in verdicts] == ["ok"] * 256
    assert all(verdict.answer == Marks(marks=(True, False, True, False)) for verdict in verdicts)
    assert server.successes == {f"Q-{number}": 1 for number in range(256)}
    calls = sum(verdict.usage.calls for verdict in verdicts)
    assert calls == len(server.requests) and 256 * 1.1 < calls < 256 * 1.5, "a fifth of all requests went wrong"
    assert panel.allowance.spent.calls == calls

    again = Panel(judge())
    assert again.ask(questions) == verdicts and again.n_new == 0 and len(server.requests) == calls


def test_slow_and_broken_answers_in_parallel(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_JUDGE_PARALLEL", "32")
    monkeypatch.setenv("DIFFBENCH_JUDGE_RETRIES", "8")
    monkeypatch.setenv("DIFFBENCH_JUDGE_TIMEOUT", "1")
    server = serve(share=0.2, faults=("slow", "trickle", "middle"), seed=1)
    verdicts = Panel(judge()).ask([detect(number) for number in range(64)])
    assert {verdict.state for verdict in verdicts} == {"ok"}
    assert max(server.successes.values()) <= 2 and len(server.successes) == 64


@dataclass(frozen=True)
class Shown:
    """Everything that a person or a file may get to see."""

    text: str

    def check(self) -> None:
        assert KEY not in self.text and KEY[3:] not in self.text


@pytest.mark.parametrize("fault", ["echo", "401", "key", "ok"])
def test_the_key_is_shown_nowhere(
    serve: Any, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever a server echoes: in logs at any level, errors and what they were caused by, verdicts, and the cache."""
    monkeypatch.setenv("DIFFBENCH_JUDGE_RETRIES", "1")
    server = serve(script=(fault,) * 20, key="" if fault != "401" else "another")
    asked = judge()
    evidence = Evidence(excerpts=(Excerpt(tokens=("a", "blue"), active=True, activity=1.0),))
    with caplog.at_level(logging.DEBUG):
        panel = Panel(asked)
        [verdict] = panel.ask([evidence])
        seen = [verdict.model_dump_json(), repr(asked), str(asked), repr(panel.asked)]
        try:
            seen.append(repr(asked.answer(evidence)))
        except JudgeError as error:
            chain: BaseException | None = error
            while chain is not None:
                seen += [repr(chain), str(chain.args), *traceback.format_exception(chain)]
                chain = chain.__cause__ or chain.__context__
                assert chain is None, "nothing hangs on to the request"
    assert any("HTTP Request" in record.message or "send_request" in record.message for record in caplog.records)
    seen.append(caplog.text)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    seen += [path.read_text(errors="replace") for path in files]
    assert server.requests
    Shown("\n".join(seen)).check()
    if fault == "key":
        assert verdict.state == "ok" and verdict.answer == Text(text="sent Bearer [hidden]")
    if fault == "echo":
        assert "[hidden]" in (verdict.problem or "")


def test_user_and_password_of_an_address_are_shown_nowhere(
    serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script=("echo",) * 9)
    monkeypatch.setenv("OPENAI_BASE_URL", server.address.replace("//", "//alice:correct-horse@"))
    with caplog.at_level(logging.DEBUG), pytest.raises(JudgeError) as found:
        judge().answer(detect())
    text = caplog.text + str(found.value)
    assert "HTTP Request" in text
    for secret in ("correct-horse", "alice", "YWxpY2U6Y29ycmVjdC1ob3JzZQ"):
        assert secret not in text


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OPENAI_API_KEY": ""}, "no key is set: set OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": f"{KEY}\n{KEY}"}, "OPENAI_API_KEY holds characters that cannot be sent"),
        ({"OPENAI_API_KEY": "schlüssel"}, "OPENAI_API_KEY holds characters that cannot be sent"),
        ({"OPENAI_BASE_URL": f"localhost:8000/{KEY}"}, "OPENAI_BASE_URL is no address of a server"),
        ({"OPENAI_BASE_URL": "http://[::1"}, "OPENAI_BASE_URL is no address of a server"),
    ],
)
def test_what_is_set_wrongly_is_said(variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = judge()
    with pytest.raises(JudgeError, match=message) as found:
        asked.answer(detect())
    assert KEY not in str(found.value) and found.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PARALLEL", "many", "DIFFBENCH_JUDGE_PARALLEL=many: Input should be a valid integer"),
        ("PARALLEL", "0", "greater than or equal to 1"),
        ("TIMEOUT", "-1", "greater than 0"),
        ("TIMEOUT", "nan", "finite"),
        ("RETRIES", "1.5", "DIFFBENCH_JUDGE_RETRIES=1.5"),
        ("PRICE", "3", r"DIFFBENCH_JUDGE_PRICE=3: .* \(write IN,OUT per million tokens"),
        ("PRICE", "1,two", "DIFFBENCH_JUDGE_PRICE=1,two"),
        ("PRICE", "1,2,3", "DIFFBENCH_JUDGE_PRICE=1,2,3"),
        ("PRICE", "-1,2", "greater than or equal to 0"),
        ("MAX_TOKENS", "1e3", "DIFFBENCH_JUDGE_MAX_TOKENS=1e3"),
        ("TEMPERATURE", "3", "less than or equal to 2"),
    ],
)
def test_a_malformed_setting_is_one_line(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DIFFBENCH_JUDGE_{name}", value)
    with pytest.raises(JudgeError, match=message) as found:
        judge()
    assert "\n" not in str(found.value)


def test_settings_are_read_by_name() -> None:
    assert read_settings({}) == JudgeSettings() == read_settings({"DIFFBENCH_JUDGE_PRICE": " "})
    given = {"PARALLEL": "3", "PRICE": "0.5, 2", "MAX_TOKENS": "100", "TEMPERATURE": "0.7"}
    found = read_settings({f"DIFFBENCH_JUDGE_{name}": value for name, value in given.items()})
    assert found == JudgeSettings(parallel=3, price=(0.5, 2.0), max_tokens=100, temperature=0.7)
    assert found.cost(2_000_000, 500_000) == 2.0 and JudgeSettings().cost(1, 1) is None


def test_what_it_is_known_by(monkeypatch: pytest.MonkeyPatch) -> None:
    first = judge("a/b:c").identity()
    assert first["judge"] == "openai:a/b:c" and first["model"] == "a/b:c"
    assert judge("other").identity() != first
    for name, value in {"TEMPERATURE": "0.5", "MAX_TOKENS": "99"}.items():
        monkeypatch.setenv(f"DIFFBENCH_JUDGE_{name}", value)
        assert judge("a/b:c").identity() != first
        monkeypatch.delenv(f"DIFFBENCH_JUDGE_{name}")
    monkeypatch.setattr(openai_judge, "PROMPT_VERSION", 99)
    assert judge("a/b:c").identity() != first
    monkeypatch.undo()
    for name, value in {"OPENAI_BASE_URL": "http://elsewhere/v1", "OPENAI_API_KEY": "other"}.items():
        monkeypatch.setenv(name, value)
    assert judge("a/b:c").identity() == first


def test_found_by_name_with_a_model() -> None:
    found = find_judge("openai:llama3:8b")
    assert issubclass(found, Judge) and (found.name, found.model) == ("openai:llama3:8b", "llama3:8b")
    with pytest.raises(JudgeError, match="needs a model: openai:MODEL"):
        find_judge("openai")
    with pytest.raises(JudgeError, match="needs a model"):
        OpenAIJudge()


def test_estimates_hold(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_JUDGE_PRICE", "3,15")
    serve()
    asked = judge()
    for question in (detect(), Choose(account=abstention(), statements=("нет", "变了", "é"))):
        most, reply = asked.estimate(question), asked.answer(question)
        assert most.calls == 1 and reply.usage.tokens_in <= most.tokens_in and reply.usage.tokens_out <= most.tokens_out
        assert most.cost == pytest.approx((3 * most.tokens_in + 15 * 4096) / 1e6)
        assert reply.usage.cost == pytest.approx((3 * reply.usage.tokens_in + 15 * reply.usage.tokens_out) / 1e6)


def test_too_many_contexts_are_not_sent(serve: Any) -> None:
    server = serve()
    question = Detect(explanation="x", contexts=tuple((str(number),) for number in range(401)))
    [verdict] = Panel(judge()).ask([question])
    assert verdict.state == "failed" and "401 parts" in (verdict.problem or "") and not server.requests


def test_each_attempt_is_covered_before_it_is_made(serve: Any) -> None:
    server = serve(script=("500", "prose", "prose"))
    allowance = Allowance(calls=2)
    [verdict] = Panel(judge(), allowance=allowance).ask([detect()])
    assert verdict.state == "malformed" and "allowance covers no further" in (verdict.problem or "")
    assert len(server.requests) == 2 == allowance.spent.calls

    server = serve(script=("500",) * 9)
    allowance = Allowance(calls=2)
    [verdict] = Panel(judge(), allowance=allowance).ask([detect(2)])
    assert verdict.state == "failed" and "the allowance covers no further one" in (verdict.problem or "")
    assert len(server.requests) == 2 == allowance.spent.calls


def test_waits_grow_and_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_JUDGE_BACKOFF", "1")
    monkeypatch.setenv("DIFFBENCH_JUDGE_LONGEST_WAIT", "20")
    asked = judge()
    for n in range(1, 60):
        most = min(20.0, 2.0 ** (n - 1))
        waits = {asked._seconds(openai_judge.Lost("x"), n) for _ in range(20)}
        assert all(min(20.0, most / 2) <= wait <= most for wait in waits)
        assert len(waits) > 1 or most / 2 >= 10, "not all come back at once"
    assert 3 <= asked._seconds(openai_judge.Lost("x", wait=3.0), 1) <= 3.5
    assert asked._seconds(openai_judge.Lost("x", wait=9e9), 1) == 20


def test_retry_after_is_a_number_or_a_date() -> None:
    assert _wait({"retry-after": "2"}) == 2 and _wait({"retry-after-ms": "500", "retry-after": "9"}) == 0.5
    assert _wait({"retry-after": "-3"}) == 0
    for odd in ("", "soon", "nan", "inf", "Wed, 99 Foo"):
        assert _wait({"retry-after": odd}) is None
    assert _wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert _wait({}) is None


@pytest.mark.parametrize(
    ("complaint", "reason", "then"),
    [
        ("'max_tokens' is not supported; use 'max_completion_tokens'", None, Dialect(limit="max_completion_tokens")),
        ("max_tokens is too large: 4096", "max_tokens", None),
        ("the request exceeds the available context size", None, None),
        ("'temperature' does not support 0 with this model", "temperature", Dialect(temperature=False)),
        ("Extra inputs: {'temperature': 0, 'max_tokens': 9}", "('body', 'response_format')", Dialect("json_object")),
        ("failed to parse grammar", None, Dialect("json_object")),
        ("bad request", None, Dialect("json_object")),
    ],
)
def test_complaints_are_understood(complaint: str, reason: str | None, then: Dialect | None) -> None:
    assert Dialect().after(complaint, reason, sure=True) == then


def test_a_failure_is_no_refusal_unless_it_says_so() -> None:
    assert Dialect().after("internal error", sure=False) is None
    assert Dialect().after("json_schema is not implemented", sure=False) == Dialect("json_object")
    last = Dialect("none", "none", False)
    assert last.after("bad request: response_format, max_tokens, temperature", sure=True) is None
