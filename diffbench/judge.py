"""Judge: answers questions about evidence and accounts, one at a time, each for itself."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from diffbench.errors import JudgeError, PluginError
from diffbench.hookspecs import hookimpl
from diffbench.line import one_line
from diffbench.question import Answer, Question
from diffbench.spending import FREE, Usage


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one question.

    Attributes:
        state: ok, or: malformed, something else than an answer; refused, the judge would not answer.
        answer: None unless ok.
        raw: the answer as it came, for people and for the record.
        problem: one line, unless ok.
        usage: all attempts together.
        prompt: SHA-256 of what was sent; None where nothing is.
        sent: of a language model, how it was asked (what its server refused to be told), and which one answered.
    """

    state: Literal["ok", "malformed", "refused"]
    answer: Answer | None
    raw: str = ""
    problem: str | None = None
    usage: Usage = FREE
    prompt: str | None = None
    sent: str = ""


class Judge(ABC):
    """Answers questions.

    The same question must get the same answer as far as the judge can help it. What a judge raises is no answer:
    `diffbench.errors.JudgeError` (it cannot be reached) costs the question, anything else the cell.

    Attributes:
        model: of a judge that is a language model, which; set by `bound`.
        takes_model: whether it can be named as ``NAME:MODEL``, and must be.
        paid: whether answers cost time or money enough to be kept in the cache.
        parallel: questions that may be asked at once, from as many threads.
        code: engine modules, besides its own, that answers follow from; of judges of the engine alone.
        contexts: that it is tested on for each finding in detection and in fuzzing, at most 100.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    summary: ClassVar[str] = ""
    model: ClassVar[str] = ""
    takes_model: ClassVar[bool] = False
    paid: ClassVar[bool] = False
    code: ClassVar[tuple[str, ...]] = ()
    parallel: int = 1
    contexts: ClassVar[int] = 100

    @abstractmethod
    def answer(self, question: Question) -> Reply:
        """Answer one question.

        Raises:
            JudgeError: if the judge cannot be reached; the question may be asked again later.
        """

    def identity(self) -> dict[str, str]:
        """All that a verdict may depend on besides the question: verdicts of another identity are never mixed in."""
        return {"judge": self.name, "version": str(self.version)}

    def estimate(self, question: Question) -> Usage:
        """What an answer will cost at most, as far as it can be told before; nothing is spent."""
        return FREE

    @classmethod
    def bound(cls, model: str) -> type[Judge]:
        """This judge with a model.

        Raises:
            JudgeError: if it takes none, or none is named.
        """
        if cls.takes_model and not model:
            raise JudgeError(f"judge {cls.name!r} needs a model: {cls.name}:MODEL, as its server names it")
        if model and not cls.takes_model:
            raise JudgeError(f"judge {cls.name!r} takes no model; name it {cls.name}")
        if not model.isprintable() or " " in model or len(model) > 120:
            raise JudgeError(f"judge {cls.name!r}: {model[:120]!r} is no name of a model")
        return _bound(cls, model) if model else cls


@cache
def _bound(cls: type[Judge], model: str) -> type[Judge]:
    """One class for each model, so that it can stand wherever a judge's class does."""
    names = {"name": f"{cls.name}:{model}", "model": model, "__module__": cls.__module__, "__doc__": cls.__doc__}
    bound: type[Judge] = types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(names))
    return bound


def replied(judge: Judge, question: Question) -> Reply:
    """The reply of a judge that may be anybody's code.

    Raises:
        JudgeError: if it cannot be reached.
        PluginError: if it raised anything else, or gave no `Reply`.
    """
    try:
        reply = judge.answer(question)
    except JudgeError:
        raise
    except Exception as error:
        raise PluginError(
            f"judge {judge.name!r}: answer() raised {type(error).__name__} at a {question.kind} question: "
            f"{one_line(error, 300)}"
        ) from error
    if not isinstance(reply, Reply):
        raise PluginError(f"judge {judge.name!r}: answer() must return a Reply, got {reply!r:.80}")
    return reply


@hookimpl
def diffbench_judges() -> Iterable[type[Judge]]:
    """The judges that come with diffbench."""
    from diffbench.offline_judge import OfflineJudge
    from diffbench.openai_judge import OpenAIJudge

    return [OfflineJudge, OpenAIJudge]
