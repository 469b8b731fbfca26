"""OpenAI judge: any language model behind a server with the chat completions interface.

Hosted ones, vLLM, Ollama, llama.cpp, ``transformers serve``: named ``openai:MODEL``, found by the variables of the
openai client (``OPENAI_BASE_URL``, ``OPENAI_API_KEY``), asked as `diffbench.judge_settings` says. What a server does
not take (a JSON schema, a temperature, a name for the length) is left out, and every verdict says so.

What can go wrong, and what is done: errors of the server, time-outs and dropped connections are waited out and tried
again, a bounded number of times; an answer that is none is asked for again at most twice, and is malformed then; a
refusal is kept as one; an answer that was cut off is malformed. Where no other question can do better (the key, the
model, the bill), or many in a row came to nothing, all others fail at once.
"""

from __future__ import annotations

import math
import random
import threading
from dataclasses import dataclass, field
from typing import ClassVar

from diffbench.answer_form import Malformed, read_answer
from diffbench.chat_server import ChatServer, Denied, Lost, Said
from diffbench.dialect import Dialect
from diffbench.errors import BudgetExceeded, JudgeError
from diffbench.fence import new_nonce
from diffbench.judge import Judge, Reply
from diffbench.judge_settings import read_settings
from diffbench.prompts import PROMPT_VERSION, Prompt, prompt_hash, prompt_of
from diffbench.question import Question
from diffbench.spending import FREE, Usage, cover

ASK_AGAIN = 2
"""Times that a question is asked again whose answer was none."""

LOST_IN_A_ROW = 8
"""Questions in a row that came to nothing, after which no more are asked."""

BYTES_PER_TOKEN, OVERHEAD = 3, 16
"""Of prompts, for estimates from above; tokens that a server adds to every prompt."""


@dataclass(slots=True)
class _Course:
    """What has become of one question so far.

    Attributes:
        prompt: SHA-256 of its prompt.
        began: how it was asked at first.
        dialect: how it is asked now.
        usage: of all attempts.
        tries: attempts.
        lost: those that brought nothing.
        wrong: those that brought something else than an answer.
        said: what came back.
    """

    prompt: str
    began: Dialect
    dialect: Dialect
    usage: Usage = FREE
    tries: int = 0
    lost: int = 0
    wrong: int = 0
    said: list[Said] = field(default_factory=list)


class OpenAIJudge(Judge):
    """A language model behind a server; the same question gets the same prompt, but for the nonce of its fence."""

    name: ClassVar[str] = "openai"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "a language model behind any OpenAI-compatible server, named openai:MODEL"
    takes_model: ClassVar[bool] = True
    paid: ClassVar[bool] = True
    contexts: ClassVar[int] = 20
    code: ClassVar[tuple[str, ...]] = (
        "diffbench.answer_form",
        "diffbench.chat_server",
        "diffbench.dialect",
        "diffbench.exhibit",
        "diffbench.fence",
        "diffbench.judge_settings",
        "diffbench.prompts",
        "diffbench.secret",
    )

    def __init__(self) -> None:
        """Read the settings; the server is looked for when the first question is asked.

        Raises:
            JudgeError: if a setting is malformed, or the class was bound to no model.
        """
        if not self.model:
            raise JudgeError(f"judge {self.name!r} needs a model: {self.name}:MODEL, as its server names it")
        self._settings = read_settings()
        self.parallel = self._settings.parallel
        self._server = ChatServer(self._settings)
        self._lock = threading.Lock()
        self._dialect = Dialect()
        self._lost_in_a_row = 0
        self._closed = threading.Event()
        self._why_closed = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    def identity(self) -> dict[str, str]:
        """Model, prompts, and what the answers are drawn by; never the server, which may move."""
        return super().identity() | {
            "model": self.model,
            "prompts": str(PROMPT_VERSION),
            "temperature": f"{self._settings.temperature:g}",
            "max_tokens": str(self._settings.max_tokens),
        }

    def estimate(self, question: Question) -> Usage:
        """One attempt with the longest answer allowed; a further one is covered when it is made."""
        try:
            prompt = prompt_of(question, new_nonce())
        except JudgeError:  # will not be sent
            return FREE
        return self._attempt(prompt)

    def answer(self, question: Question) -> Reply:
        """Ask until there is an answer or a reason to stop.

        Raises:
            JudgeError: with what was spent, if the server could not be reached or did not take the question.
        """
        self._check_open(FREE)
        course = _Course(prompt_hash(question), self._dialect, self._dialect)
        while True:
            prompt = prompt_of(question, new_nonce())
            if course.tries and not self._covered(prompt, course):
                return self._stopped(course)
            course.tries += 1
            found = self._server.complete(self.model, prompt, course.dialect)
            course.usage += self._spent(found, prompt)
            if isinstance(found, Said):
                self._heard(course)
                reply = self._reply(question, found, course)
                if reply is not None:
                    return reply
            elif isinstance(found, Denied):
                self._adapt(found, course)
            else:
                self._wait(found, course)

    def _heard(self, course: _Course) -> None:
        """Ask all others from now on in the way that was answered."""
        with self._lock:
            self._lost_in_a_row = 0
            if self._dialect == course.began:
                self._dialect = course.dialect

    def _covered(self, prompt: Prompt, course: _Course) -> bool:
        try:
            cover(self._attempt(prompt))
        except BudgetExceeded:
            return False
        return True

    def _stopped(self, course: _Course) -> Reply:
        """The end of a question of which no further attempt is covered."""
        if not course.said:
            self._fail(f"no answer in {_times(course.tries)}, and the allowance covers no further one", course)
        return self._with(course, "malformed", "no answer of the form, and the allowance covers no further attempt")

    def _reply(self, question: Question, said: Said, course: _Course) -> Reply | None:
        """What a completion comes to; None: ask again."""
        course.said.append(said)
        if said.refusal is not None:
            return self._with(course, "refused", said.refusal)
        if said.finish == "length":
            more = f"cut off after {self._settings.max_tokens} tokens; DIFFBENCH_JUDGE_MAX_TOKENS allows more"
            return self._with(course, "malformed", more)
        why = "an empty answer"
        if said.content is not None and said.content.strip():
            try:
                answer = read_answer(question, said.content)
            except Malformed as error:
                why = str(error)
            else:
                return Reply("ok", answer, said.content, None, course.usage, course.prompt, self._told(said, course))
        course.wrong += 1
        return None if course.wrong <= ASK_AGAIN else self._with(course, "malformed", why)

    def _with(self, course: _Course, state: str, why: str) -> Reply:
        said = course.said[-1]
        raw, told = said.content or said.refusal or "", self._told(said, course)
        return Reply(
            "refused" if state == "refused" else "malformed", None, raw, why, course.usage, course.prompt, told
        )

    def _told(self, said: Said, course: _Course) -> str:
        return course.dialect.told(self._settings) + (f"; answered by {said.model}" if said.model else "")

    def _adapt(self, denied: Denied, course: _Course) -> None:
        """Ask in another way, or end the question."""
        if denied.dialect is not None:
            course.dialect = denied.dialect
            return
        if denied.every:
            self._close(denied.why)
        self._fail(denied.why, course)

    def _wait(self, lost: Lost, course: _Course) -> None:
        """Wait before the next try, or end the question."""
        course.lost += 1
        course.wrong += lost.answered
        if course.lost > self._settings.retries or course.wrong > ASK_AGAIN:  # each of the latter has been paid for
            self._fail(f"{lost.why}; tried {_times(course.lost)}", course)
        self._closed.wait(self._seconds(lost, course.lost))
        self._check_open(course.usage)

    def _seconds(self, lost: Lost, n: int) -> float:
        """As long as the server asks, else twice as long each time; drawn, so that not all come back at once."""
        longest, share = self._settings.longest_wait, random.random()
        if lost.wait is not None:
            return min(longest, lost.wait * (1 + share / 10) + share * self._settings.backoff / 10)
        return min(longest, self._settings.backoff * 2.0 ** min(n - 1, 30)) * (1 + share) / 2

    def _fail(self, why: str, course: _Course) -> None:
        with self._lock:
            self._lost_in_a_row += 1
            many = self._lost_in_a_row >= LOST_IN_A_ROW
        if many:
            self._close(f"{LOST_IN_A_ROW} questions in a row came to nothing, the last one so: {why}")
        raise JudgeError(f"judge {self.name!r}: {why}", course.usage)

    def _close(self, why: str) -> None:
        with self._lock:
            self._why_closed = self._why_closed or why
        self._closed.set()

    def _check_open(self, usage: Usage) -> None:
        if self._closed.is_set():
            raise JudgeError(f"judge {self.name!r}: not asked: {self._why_closed}", usage)

    def _attempt(self, prompt: Prompt) -> Usage:
        size = sum(len(content.encode("utf-8", "replace")) for _, content in prompt.messages) + len(str(prompt.schema))
        return self._usage(math.ceil(size / BYTES_PER_TOKEN) + OVERHEAD, self._settings.max_tokens)

    def _spent(self, found: Said | Lost | Denied, prompt: Prompt) -> Usage:
        """What an attempt cost: as the server counts, else from above where the model may have answered."""
        most = self._attempt(prompt)
        if isinstance(found, Said):
            tokens_in = most.tokens_in if found.tokens_in is None else found.tokens_in
            written = math.ceil(len((found.content or "").encode("utf-8", "replace")) / BYTES_PER_TOKEN)
            return self._usage(tokens_in, written if found.tokens_out is None else found.tokens_out)
        return most if isinstance(found, Lost) and found.billed else self._usage(0, 0)

    def _usage(self, tokens_in: int, tokens_out: int) -> Usage:
        cost = self._settings.cost(tokens_in, tokens_out)
        return Usage(calls=1, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
