"""Answer form: the JSON object that answers each kind of question, as a schema for servers and as a strict reader.

An answer is one JSON object of the form, and nothing else is one. Two things that servers for local models leave
around it are taken off: ``<think>...</think>`` blocks before it, and one Markdown code fence around all of it. Prose,
a second object, a field too many or too few, a key that stands twice, NaN, numbers as text: all malformed. No score is
ever looked for in free text.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NoReturn, assert_never

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffbench.account import Account, Pattern
from diffbench.fence import restored
from diffbench.line import one_line
from diffbench.question import (
    Answer,
    Ask,
    Choose,
    Detect,
    Evidence,
    Fuzz,
    Grade,
    Graded,
    Intervene,
    Intrude,
    Marks,
    Pick,
    Play,
    Question,
    Stated,
    Summarise,
    Text,
    problem,
)

MAX_CONTENT = 200_000
"""Characters of an answer, thinking included."""

JsonSchema = dict[str, Any]

_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_CODE = re.compile(r"\A```(?:json|JSON)?[ \t]*\r?\n(.*?)\r?\n?```\Z", re.DOTALL)


class Malformed(ValueError):
    """Something else than an answer; the message says on one line what is wrong, and quotes nothing."""


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Explained(_Form):
    explanation: str


class _Active(_Form):
    index: int
    active: bool


class _Detected(_Form):
    answers: list[_Active]


class _Right(_Form):
    index: int
    right: bool


class _Fuzzed(_Form):
    answers: list[_Right]


class _Intruder(_Form):
    intruder: int


class _Continuation(_Form):
    continuation: int


class _Choice(_Form):
    choice: int | None


class _Grading(_Form):
    reason: str
    grade: int | None = Field(ge=0, le=4)


class _Contexts(_Form):
    ends_with: list[str]
    contains: list[str]


class _Account(_Form):
    verdict: Literal["changed", "unchanged", "abstain"]
    statement: str
    trigger: list[_Contexts]
    tokens_up: list[str]
    tokens_down: list[str]
    confidence: float


class _Turn(_Form):
    action: Literal["ask", "conclude"]
    prompts: list[str]
    account: _Account | None


def read_answer(question: Question, content: str) -> Answer:
    """The answer that a text is.

    Raises:
        Malformed: if it is none.
    """
    document = _document(content)
    try:
        answer = _answer(question, document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Malformed(one_line(f"{where}: {first['msg']}" if where else first["msg"], 200)) from None
    why = problem(question, answer)
    if why is not None:
        raise Malformed(why)
    return answer


def _document(content: str) -> dict[str, Any]:
    if len(content) > MAX_CONTENT:
        raise Malformed(f"{len(content)} characters, {MAX_CONTENT} are allowed")
    text = content
    while thinking := _THINKING.match(text):
        text = text[thinking.end() :]
    text = text.strip()
    if code := _CODE.match(text):
        text = code[1]
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(document, ensure_ascii=False).encode()  # lone surrogates, which no file can hold
    except Malformed:
        raise
    except json.JSONDecodeError as error:
        raise Malformed(f"not one JSON object: {error.msg} at character {error.pos}") from None
    except UnicodeError:
        raise Malformed("lone surrogates, which no file can hold") from None
    except (ValueError, RecursionError):
        raise Malformed("not one JSON object: numbers too long or nested too deeply") from None
    if not isinstance(document, dict):
        raise Malformed("JSON, but no object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON number")


def _answer(question: Question, document: dict[str, Any]) -> Answer:
    if isinstance(question, Evidence):
        return Text(text=_Explained.model_validate(document).explanation)
    if isinstance(question, Detect):
        detected = _Detected.model_validate(document).answers
        return Marks(marks=_in_order({one.index: one.active for one in detected}, len(detected), question))
    if isinstance(question, Fuzz):
        fuzzed = _Fuzzed.model_validate(document).answers
        return Marks(marks=_in_order({one.index: one.right for one in fuzzed}, len(fuzzed), question))
    if isinstance(question, Intrude):
        return Pick(pick=_Intruder.model_validate(document).intruder)
    if isinstance(question, Intervene):
        return Pick(pick=_Continuation.model_validate(document).continuation)
    if isinstance(question, Choose):
        return Pick(pick=_Choice.model_validate(document).choice)
    if isinstance(question, Grade):
        return _graded(_Grading.model_validate(document).grade, question)
    if isinstance(question, Summarise):
        return Stated(account=_account(_Account.model_validate(document)))
    if isinstance(question, Play):
        return _turn(_Turn.model_validate(document))
    assert_never(question)


def _in_order(answers: dict[int, bool], n_given: int, question: Detect | Fuzz) -> tuple[bool, ...]:
    n = len(question.contexts)
    if n_given != n or answers.keys() != set(range(n)):
        raise Malformed(f"{n_given} answers, of {len(answers)} contexts; each of 0 to {n - 1} needs one")
    return tuple(answers[index] for index in range(n))


def _graded(grade: int | None, question: Grade) -> Graded:
    if not question.facts and grade not in (0, 4, None):
        raise Malformed(f"grade {grade}, where nothing was changed: there are 0, 4 and null")
    return Graded(grade=grade)


def _turn(turn: _Turn) -> Ask | Stated:
    if turn.action == "ask":
        if turn.account is not None:
            raise Malformed("asks and concludes at once")
        return Ask(prompts=tuple(turn.prompts))
    if turn.account is None:
        raise Malformed("concludes without an account")
    if turn.prompts:
        raise Malformed("concludes and asks at once")
    return Stated(account=_account(turn.account))


def _account(form: _Account) -> Account:
    return Account(
        verdict=form.verdict,
        statement=form.statement,
        trigger=tuple(
            Pattern(
                ends_with=tuple(map(restored, contexts.ends_with)), contains=tuple(map(restored, contexts.contains))
            )
            for contexts in form.trigger
        ),
        tokens_up=tuple(map(restored, form.tokens_up)),
        tokens_down=tuple(map(restored, form.tokens_down)),
        confidence=form.confidence,
    )


def _object(**properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: JsonSchema) -> JsonSchema:
    return {"type": "array", "items": items}


# Only what every server's grammar knows: lengths and ranges are looked at by the reader.
_STRING: JsonSchema = {"type": "string"}
_BOOLEAN: JsonSchema = {"type": "boolean"}
_INTEGER: JsonSchema = {"type": "integer"}
_INTEGER_OR_NULL: JsonSchema = {"type": ["integer", "null"]}
_ACCOUNT = _object(
    verdict={"type": "string", "enum": ["changed", "unchanged", "abstain"]},
    statement=_STRING,
    trigger=_list(_object(ends_with=_list(_STRING), contains=_list(_STRING))),
    tokens_up=_list(_STRING),
    tokens_down=_list(_STRING),
    confidence={"type": "number"},
)
_SCHEMAS: dict[str, JsonSchema] = {
    "explain": _object(explanation=_STRING),
    "detect": _object(answers=_list(_object(index=_INTEGER, active=_BOOLEAN))),
    "fuzz": _object(answers=_list(_object(index=_INTEGER, right=_BOOLEAN))),
    "intrude": _object(intruder=_INTEGER),
    "intervene": _object(continuation=_INTEGER),
    "choose": _object(choice=_INTEGER_OR_NULL),
    "grade": _object(reason=_STRING, grade=_INTEGER_OR_NULL),
    "summarise": _ACCOUNT,
    "play": _object(
        action={"type": "string", "enum": ["ask", "conclude"]},
        prompts=_list(_STRING),
        account={"anyOf": [_ACCOUNT, {"type": "null"}]},
    ),
}

_ACCOUNT_SHOWN = (
    '{"verdict": "changed" or "unchanged" or "abstain", "statement": "...", '
    '"trigger": [{"ends_with": ["..."], "contains": ["..."]}], '
    '"tokens_up": ["..."], "tokens_down": ["..."], "confidence": 0 to 1}'
)
_SHOWN = {
    "explain": '{"explanation": "..."}',
    "detect": '{"answers": [{"index": 0, "active": true or false}, ...]}, one for each context',
    "fuzz": '{"answers": [{"index": 0, "right": true or false}, ...]}, one for each context',
    "intrude": '{"intruder": number of a context}',
    "intervene": '{"continuation": 0 or 1}',
    "choose": '{"choice": number of a statement, or null}',
    "grade": '{"reason": "one or two sentences", "grade": 0, 1, 2, 3, 4 or null}',
    "summarise": _ACCOUNT_SHOWN,
    "play": '{"action": "ask", "prompts": ["...", ...], "account": null} or '
    f'{{"action": "conclude", "prompts": [], "account": {_ACCOUNT_SHOWN}}}',
}


def schema_of(question: Question) -> JsonSchema:
    """JSON schema of the answer, of the strict kind: closed objects, every property required."""
    return _SCHEMAS[question.kind]


def form_of(question: Question) -> str:
    """The same for people, and for models whose server knows no schemas."""
    return _SHOWN[question.kind]
