"""Question: all that a judge may be asked, each with the form of its answer. A closed set, and data only.

A question is known by the hash of what it says, so that it is asked once, and a verdict can be found again for it.
Nothing in it names a method, a pair or a component.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from diffbench.account import Account
from diffbench.canonical import digest
from diffbench.truth import Schema

Tokens = tuple[str, ...]


class Excerpt(Schema):
    """A stretch of tokens; the question is always about its last one.

    Attributes:
        tokens: as the tokenizer has them, in order, at most `diffbench.evidence.WINDOW` of them; nothing after the
            last one, which a causal model has not seen there.
        activities: |activity| at each of them; empty: at the last one alone is known.
        active_at: indices of the tokens at which the component is active, as far as they are known.
        drawn: how it was chosen: among the strongest, from the whole range of activity, as a near miss (its last token,
            or the one before, is that of an active excerpt), or at random.
    """

    tokens: Tokens
    active: bool = Field(description="whether the component is active at the last token")
    activity: float = Field(description="|activity| there")
    activities: tuple[float, ...] = ()
    active_at: tuple[int, ...] = ()
    drawn: Literal["top", "range", "near miss", "random"] | None = None


class Evidence(Schema):
    """What a judge may read of one finding. It is never told which method, pair or component it reads of."""

    kind: Literal["explain"] = "explain"
    excerpts: tuple[Excerpt, ...] = Field(
        description="as many active ones as inactive ones, in an order that says nothing"
    )
    tokens_up: Tokens = Field((), description="tokens that the finding promotes")
    tokens_down: Tokens = Field((), description="tokens that it suppresses")
    kl_up: Tokens = Field((), description="tokens that are likelier in the tuned model where it is most active")
    kl_down: Tokens = Field((), description="tokens that are likelier in the reference there")
    effect: float | None = Field(
        None, description="share of KL(tuned || reference) there that adding it alone to the reference takes away"
    )


class Detect(Schema):
    """For each context: would the explained component be active at its last token?"""

    kind: Literal["detect"] = "detect"
    explanation: str
    contexts: tuple[Tokens, ...]


class Marked(Schema):
    """A context with some tokens marked as those at which a component is active."""

    tokens: Tokens
    marked: tuple[int, ...] = Field(description="indices into the tokens")


class Fuzz(Schema):
    """For each context: do the marks stand where the explained component is active?"""

    kind: Literal["fuzz"] = "fuzz"
    explanation: str
    contexts: tuple[Marked, ...]


class Intrude(Schema):
    """Which of the contexts does not belong: all but one make the same component active. No explanation is given."""

    kind: Literal["intrude"] = "intrude"
    contexts: tuple[Marked, ...]


class Intervene(Schema):
    """Which of two continuations of one prompt was written while the explained component was added to the model?"""

    kind: Literal["intervene"] = "intervene"
    explanation: str
    prompt: Tokens
    texts: tuple[Tokens, Tokens]


class Note(Schema):
    """What a judge has come to know of one finding."""

    explanation: str
    tokens_up: Tokens = ()
    tokens_down: Tokens = ()
    kl_up: Tokens = ()
    kl_down: Tokens = ()
    effect: float | None = None


class Summarise(Schema):
    """From the notes on all findings, the most important first: what changed, or that nothing did?"""

    kind: Literal["summarise"] = "summarise"
    notes: tuple[Note, ...]
    said: Literal["changed", "unchanged", "abstain"] = Field(description="what the findings' own maker concludes")


class Fact(Schema):
    """One thing that is true of a pair, as a grader is told it."""

    statement: str
    trigger: str = Field(description="in which contexts, in words")
    tokens_up: Tokens = ()
    tokens_down: Tokens = ()


class Grade(Schema):
    """How much of what is true does an account say? No fact: nothing was changed on purpose.

    The scale is 4: all that matters, and nothing false; 3: the change and where it shows, with a gap; 2: the change
    or where it shows; 1: the subject alone; 0: none of it, something else, or so much that it commits to nothing.
    An account that commits to nothing at all, saying that it cannot tell, has no grade.
    """

    kind: Literal["grade"] = "grade"
    facts: tuple[Fact, ...]
    account: Account


class Choose(Schema):
    """Which of some statements does an account speak of?"""

    kind: Literal["choose"] = "choose"
    account: Account
    statements: tuple[str, ...]


class Exchange(Schema):
    """A prompt that was given to both models, and what each of them said."""

    prompt: str
    first: tuple[str, ...] = Field(description="what the first model said, one text for each time it was asked")
    second: tuple[str, ...]
    first_next: tuple[tuple[str, float], ...] = Field((), description="its likeliest next tokens and probabilities")
    second_next: tuple[tuple[str, float], ...] = ()
    remark: str | None = Field(None, description="words that the models do not know, or why it was not put to them")


class Play(Schema):
    """A turn of the diffing game: ask the two models something, or state what changed from the first to the second.

    Attributes:
        presuppose: the agent is told that something was changed; else that nothing may have been.
        notes: a method's evidence; None: there is none to be had.
        asked: the exchanges so far.
        questions_left: prompts that may still be given to both models.
    """

    kind: Literal["play"] = "play"
    presuppose: bool
    notes: tuple[Note, ...] | None
    asked: tuple[Exchange, ...]
    questions_left: int = Field(ge=0)


Question: TypeAlias = Annotated[
    Evidence | Detect | Fuzz | Intrude | Intervene | Summarise | Grade | Choose | Play, Field(discriminator="kind")
]


class Text(Schema):
    """Answer to `Evidence`: in which contexts the component is active, and what it does."""

    kind: Literal["text"] = "text"
    text: str


class Marks(Schema):
    """Answer to `Detect` and `Fuzz`: yes or no for each context, in their order."""

    kind: Literal["marks"] = "marks"
    marks: tuple[bool, ...]


class Pick(Schema):
    """Answer to `Intrude`, `Intervene` and `Choose`: an index from 0; to `Choose` alone also None, none of them."""

    kind: Literal["pick"] = "pick"
    pick: int | None


class Graded(Schema):
    """Answer to `Grade`."""

    kind: Literal["graded"] = "graded"
    grade: int | None = Field(ge=0, le=4, description="None: the account commits to nothing")


class Stated(Schema):
    """Answer to `Summarise`, and a last turn of `Play`."""

    kind: Literal["stated"] = "stated"
    account: Account


class Ask(Schema):
    """A turn of `Play` that asks the models: prompts, all of which count against the budget."""

    kind: Literal["ask"] = "ask"
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(min_length=1, max_length=8)


Answer: TypeAlias = Annotated[Text | Marks | Pick | Graded | Stated | Ask, Field(discriminator="kind")]

ANSWERS: dict[str, tuple[type[Schema], ...]] = {
    "explain": (Text,),
    "detect": (Marks,),
    "fuzz": (Marks,),
    "intrude": (Pick,),
    "intervene": (Pick,),
    "summarise": (Stated,),
    "grade": (Graded,),
    "choose": (Pick,),
    "play": (Ask, Stated),
}
"""Forms of the answers to each kind of question."""

MAX_EXPLANATION = 20_000
"""Characters of an explanation."""


def question_key(question: Question) -> str:
    """SHA-256 of what a question says."""
    return digest(question.model_dump(mode="json"))


def problem(question: Question, answer: Answer) -> str | None:
    """What is wrong with an answer of whatever form, or None: forms first, then what fits this very question."""
    allowed = ANSWERS[question.kind]
    if not isinstance(answer, allowed):
        return f"a {question.kind} question takes {' or '.join(form.__name__ for form in allowed)}"
    if isinstance(answer, Text):
        return _text_problem(answer.text)
    if isinstance(answer, Marks) and isinstance(question, Detect | Fuzz):
        n = len(question.contexts)
        return None if len(answer.marks) == n else f"{len(answer.marks)} answers to {n} contexts"
    if isinstance(answer, Pick):
        return _pick_problem(question, answer.pick)
    if isinstance(answer, Ask) and isinstance(question, Play) and len(answer.prompts) > question.questions_left:
        return f"{len(answer.prompts)} prompts, {question.questions_left} are left"
    return None


def _text_problem(text: str) -> str | None:
    if not text.strip():
        return "an empty explanation"
    if len(text) > MAX_EXPLANATION:
        return f"{len(text)} characters, {MAX_EXPLANATION} are allowed"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "lone surrogates, which no file can hold"
    return None


def _pick_problem(question: Question, pick: int | None) -> str | None:
    if isinstance(question, Choose):
        n = len(question.statements)
        if pick is None:
            return None
    elif isinstance(question, Intrude):
        n = len(question.contexts)
    else:
        n = 2
    return None if pick is not None and 0 <= pick < n else f"{pick} is none of the {n} choices"
