"""Panel: asks a judge many questions, each once, and keeps what it said.

A verdict of a judge that costs something is kept in the cache by content, as soon as it is there: whoever asks the same
judge the same question later, in another cell, run or process, gets it from there. Answers that were refused or
malformed were paid for too, and are kept; what could not be reached is not, and is asked again next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from diffbench import cache
from diffbench.canonical import canonical_json, digest
from diffbench.errors import BudgetExceeded, JudgeError, RecordError
from diffbench.judge import Judge, Reply, replied
from diffbench.line import error_line, one_line
from diffbench.question import Answer, Question, problem, question_key
from diffbench.spending import FREE, Allowance, Usage, tab
from diffbench.truth import Schema

VERDICTS = "verdicts.jsonl"
MAX_RAW = 100_000
"""Characters of a raw answer that are kept."""
MAX_VERDICTS_BYTES = 1 << 28

Line = TypeVar("Line", bound=Schema)


class Verdict(Schema):
    """A judge's answer to one question, with all that is needed to check it."""

    schema_version: Literal[1] = 1
    question: str = Field(description="SHA-256 of the question")
    kind: str
    judge: dict[str, str] = Field(description="identity: name, version, and of a language model what it depends on")
    prompt: str | None = Field(None, description="SHA-256 of what was sent")
    sent: str = Field("", description="how a language model was asked, and which one answered, in words")
    state: Literal["ok", "malformed", "refused", "failed", "unaffordable"] = Field(
        description="failed: not reached, in spite of retries; unaffordable: the allowance did not cover it"
    )
    answer: Answer | None = None
    raw: str = Field("", description="the answer as it came")
    problem: str | None = None
    usage: Usage = FREE

    @property
    def paid(self) -> bool:
        """Whether something was spent on it, so that it must never be asked again."""
        return self.state in ("ok", "malformed", "refused")


class Panel:
    """One judge, what it was asked so far, and what it may cost.

    Attributes:
        judge: who answers.
        allowance: looked at before each call.
        asked: every verdict by question, in the order in which the questions came.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        allowance: Allowance | None = None,
        notify: Callable[[int, int], None] | None = None,
        again: bool = False,
    ) -> None:
        """Set up.

        Args:
            judge: who answers.
            allowance: None: no limits.
            notify: gets how many questions of a call to `ask` are answered, and how many there are.
            again: ask again what was refused or malformed.
        """
        self.judge = judge
        self.allowance = allowance or Allowance()
        self.asked: dict[str, Verdict] = {}
        self._new_ones: list[str] = []
        self._notify, self._again = notify, again
        self._identity = judge.identity()

    def ask(self, questions: Sequence[Question]) -> list[Verdict]:
        """Verdicts in the order of the questions; equal questions are asked once.

        Raises:
            PluginError: if the judge raised, or gave no reply.
            OptionError: if money is limited and the judge's price is not known.
        """
        keys = [question_key(question) for question in questions]
        todo = {key: question for key, question in zip(keys, questions, strict=True) if key not in self.asked}
        done = 0
        with ThreadPoolExecutor(max_workers=max(1, min(self.judge.parallel, len(todo)))) as pool:
            futures = {key: pool.submit(self._verdict, key, question) for key, question in todo.items()}
            try:
                for key, future in futures.items():
                    self.asked[key] = future.result()
                    done += 1
                    if self._notify is not None:
                        self._notify(done, len(todo))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [self.asked[key] for key in keys]

    @property
    def n_new(self) -> int:
        """Verdicts for which the judge was really asked."""
        return len(self._new_ones)

    def kept(self, question: Question) -> bool:
        """Whether a question has a verdict that costs nothing any more."""
        key = question_key(question)
        return key in self.asked or (self.judge.paid and self._stored(key) is not None)

    def _verdict(self, key: str, question: Question) -> Verdict:
        if not self.judge.paid:
            return self._new(key, question)
        path = _place(self._identity, key)
        with cache.turn(f"judge-{path.stem}"):  # another process may be asking the same
            verdict = self._stored(key)
            if verdict is not None and not (self._again and verdict.state != "ok"):
                return verdict
            verdict = self._new(key, question)
            if verdict.paid:
                cache.write(path, verdict.model_dump_json() + "\n")
            return verdict

    def _stored(self, key: str) -> Verdict | None:
        try:
            verdict = Verdict.model_validate_json(_place(self._identity, key).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there; or damaged, and then asked again
            return None
        return verdict if verdict.paid and (verdict.question, verdict.judge) == (key, self._identity) else None

    def _new(self, key: str, question: Question) -> Verdict:
        try:
            with tab(self.allowance, self.judge.estimate(question)) as opened:
                self._new_ones.append(key)
                try:
                    reply = replied(self.judge, question)
                except JudgeError as error:
                    opened.usage = error.usage if isinstance(error.usage, Usage) else FREE
                    return self._without(key, question, "failed", error, opened.usage)
                opened.usage = reply.usage
        except BudgetExceeded as error:
            return self._without(key, question, "unaffordable", error)
        return self._of(key, question, reply)

    def _of(self, key: str, question: Question, reply: Reply) -> Verdict:
        state, answer, why = reply.state, reply.answer, reply.problem
        if state == "ok":
            why = "no answer" if answer is None else problem(question, answer)
            if why is not None:
                state, answer = "malformed", None
        return Verdict(
            question=key,
            kind=question.kind,
            judge=self._identity,
            prompt=reply.prompt,
            sent=one_line(reply.sent, 300),
            state=state,
            answer=answer if state == "ok" else None,
            raw=reply.raw[:MAX_RAW].encode("utf-8", "replace").decode(),
            problem=None if state == "ok" else one_line(why or state, 300),
            usage=reply.usage,
        )

    def _without(
        self,
        key: str,
        question: Question,
        state: Literal["failed", "unaffordable"],
        error: BaseException,
        usage: Usage = FREE,
    ) -> Verdict:
        why = error_line(error)
        return Verdict(
            question=key, kind=question.kind, judge=self._identity, state=state, problem=why[:500], usage=usage
        )


def _place(identity: dict[str, str], key: str) -> Path:
    name = digest({"identity": identity, "question": key})
    return cache.cache_root() / "judge" / name[:2] / f"{name}.json"


def write_verdicts(path: Path, lines: Iterable[Schema]) -> None:
    """Write documents to a file, one a line."""
    text = "".join(canonical_json(line.model_dump(mode="json")) + "\n" for line in lines)
    cache.write(path, text)


def read_verdicts(path: Path, form: type[Line]) -> list[Line]:
    """Read what `write_verdicts` wrote; the file may be a stranger's.

    Raises:
        RecordError: if it is missing, too large, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_VERDICTS_BYTES:
            raise RecordError(f"{path}: larger than {MAX_VERDICTS_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise RecordError(f"{path}: cannot be read ({one_line(error, 200)})") from None
    found: list[Line] = []
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                found.append(form.model_validate_json(line))
            except ValidationError as error:
                raise RecordError(f"{path}, line {number}: {one_line(error, 200)}") from None
    return found
