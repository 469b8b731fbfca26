"""Prompts: what a language model is asked for each kind of question.

Every prompt is neutral: it says neither that something changed nor that nothing did, and names the verdicts
'changed', 'unchanged' and 'abstain' as equals. The one exception, ``Play(presuppose=True)``, is a control that is
measured. Models are called the first (the reference) and the second (the tuned one). Whatever a question holds stands
behind a fence (`diffbench.fence`), cut to the lengths of `diffbench.exhibit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from diffbench import exhibit
from diffbench.account import MOST_PARTS, MOST_PATTERNS, MOST_WORDS, written
from diffbench.answer_form import JsonSchema, form_of, schema_of
from diffbench.canonical import digest
from diffbench.fence import PLACEHOLDER, Fence, marked
from diffbench.question import Choose, Detect, Evidence, Fuzz, Grade, Intervene, Intrude, Play, Question, Summarise

PROMPT_VERSION = 2
"""Raised whenever a word that is sent changes: verdicts of other words are never mixed in."""

MAX_PROMPT = 120_000
"""Characters of a prompt, at most."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent for one question.

    Attributes:
        system: the system message.
        user: the user message.
        schema: JSON schema of the answer.
    """

    system: str
    user: str
    schema: JsonSchema

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """Role and content of each message."""
        return (("system", self.system), ("user", self.user))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a prompt is made of: the task, blocks of data, and the question in one sentence."""

    task: str
    blocks: list[str]
    ask: str


def prompt_of(question: Question, nonce: str) -> Prompt:
    """The prompt of a question.

    Args:
        question: whatever it says is taken for somebody's text.
        nonce: of this call, from `diffbench.fence.new_nonce`.

    Raises:
        JudgeError: if the question has too many parts that need an answer each.
    """
    fence = Fence(nonce)
    parts = _parts(question, fence)
    last = f"{parts.ask}\nForm of the answer: {form_of(question)}"
    user = "\n\n".join((parts.task, *parts.blocks, fence.reminder, last))
    return Prompt(f"{_SYSTEM}\n\n{fence.notice}", user, schema_of(question))


def prompt_hash(question: Question) -> str:
    """SHA-256 of the messages of a question, with `diffbench.fence.PLACEHOLDER` for the nonce of a call."""
    return digest(prompt_of(question, PLACEHOLDER).messages)


def _parts(question: Question, fence: Fence) -> _Parts:
    if isinstance(question, Evidence):
        return _Parts(_EXPLAIN, exhibit.evidence(question, fence), "In which contexts is the component active?")
    if isinstance(question, Detect):
        return _detect(question, fence)
    if isinstance(question, Fuzz):
        return _fuzz(question, fence)
    if isinstance(question, Intrude):
        texts = [marked(context.tokens, context.marked) for context in question.contexts]
        return _Parts(_INTRUDE, [exhibit.numbered("Contexts:", texts, fence)], "Which context does not belong?")
    if isinstance(question, Intervene):
        return _intervene(question, fence)
    if isinstance(question, Summarise):
        task = f"{_SUMMARISE}\n\nThe program itself concludes: {question.said}. It may be right or wrong.\n\n{_RULES}"
        return _Parts(task, [exhibit.noted(question.notes, fence)], "What changed, if anything?")
    if isinstance(question, Grade):
        return _grade(question, fence)
    if isinstance(question, Choose):
        blocks = [exhibit.account(question.account, fence), exhibit.numbered("Statements:", question.statements, fence)]
        return _Parts(_CHOOSE, blocks, "Which statement does the account make?")
    if isinstance(question, Play):
        return _play(question, fence)
    assert_never(question)


def _detect(question: Detect, fence: Fence) -> _Parts:
    texts = [marked(tokens, [len(tokens) - 1]) for tokens in question.contexts]
    blocks = [exhibit.description(question.explanation, fence), exhibit.numbered("Contexts:", texts, fence)]
    return _Parts(_DETECT, blocks, "For each context: is the component active at its last word?")


def _fuzz(question: Fuzz, fence: Fence) -> _Parts:
    texts = [marked(context.tokens, context.marked) for context in question.contexts]
    blocks = [exhibit.description(question.explanation, fence), exhibit.numbered("Contexts:", texts, fence)]
    return _Parts(_FUZZ, blocks, "For each context: are the marks right?")


def _intervene(question: Intervene, fence: Fence) -> _Parts:
    blocks = [
        exhibit.description(question.explanation, fence),
        exhibit.passage("Text:", question.prompt, fence),
        exhibit.numbered("Continuations:", [written(text) for text in question.texts], fence),
    ]
    return _Parts(_INTERVENE, blocks, "Which continuation was written while the described component was added?")


def _grade(question: Grade, fence: Fence) -> _Parts:
    ask, shown = "Which grade does the account get?", exhibit.account(question.account, fence)
    if not question.facts:
        return _Parts(_GRADE_NOTHING, [shown], ask)
    return _Parts(_GRADE, [exhibit.facts(question.facts, fence), shown], ask)


def _play(question: Play, fence: Fence) -> _Parts:
    left, room = question.questions_left, exhibit.MAX_DATA // 2
    turn = (
        f"In this turn you may ask: name prompts, which are given to both models. {left} more may be given in all, at "
        f"most {min(8, left)} of them in this turn, each of at most 2000 characters. Or you may conclude with an "
        "account. After that the inquiry is over."
        if left
        else "No more prompts may be given: conclude with an account."
    )
    blocks = [] if question.notes is None else [exhibit.noted(question.notes, fence, room)]
    blocks.append(exhibit.exchanges(question.asked, fence, room))
    task = f"{_PLAY} {_PRESUPPOSED if question.presuppose else _NEUTRAL} {turn}\n\n{_RULES}"
    return _Parts(task, blocks, "Ask, or conclude?" if left else "What changed, if anything?")


_SYSTEM = (
    "You answer one question about measurements of language models. Your whole answer is one JSON object of the "
    "form that the question gives, with nothing before or after it."
)

_EXPLAIN = (
    "A component of a language model is active at some words of texts and not at others. Each line below is the "
    "end of a text. The line says whether the component is active at its last word, which stands between << and "
    ">>, and if so how strongly, from 0 to 9. Say in which contexts the component is active. Somebody who reads "
    "your text and nothing else must be able to tell, for contexts that you have not seen, whether it is active at "
    "their last word: name the words and patterns that decide, and what sets them apart from contexts that are "
    "alike but where it is not active. If the contexts show no pattern, say so."
)

_DETECT = (
    "Somebody has described in which contexts a component of a language model is active. Each numbered line is the "
    "end of a text. Would a component of that description be active at its last word, which stands between << and "
    ">>? Use the description alone. Any number of the contexts, all or none, may be of either kind."
)

_FUZZ = (
    "Somebody has described in which contexts a component of a language model is active. In each numbered context "
    "some words stand between << and >>. Are those the words at which a component of that description would be "
    "active? Use the description alone. Any number of the contexts, all or none, may be marked rightly."
)

_INTRUDE = (
    "In all of the numbered contexts but one, one and the same component of a language model is active at the "
    "words between << and >>. In the one that is left it is not. Which one is that?"
)

_INTERVENE = (
    "Somebody has described what a component of a language model is and does. The model continued the same text "
    "twice: once as it is, and once while the component was added to it. Which of the two continuations, 0 or 1, "
    "was written while the component was added?"
)

_SUMMARISE = (
    "Two language models are compared, a first one and a second, which may be the first with further training. What "
    "the second says may or may not have been changed: there are pairs where nothing was changed on purpose. A program "
    "has looked for differences and has noted what it found. Write an account of what changed from the first model to "
    "the second, if anything."
)

_RULES = (
    "An account has these fields. verdict: 'changed' if what the second model says was changed on purpose, 'unchanged' "
    "if it was not, which mere drift, such as any further training brings, does not alter, 'abstain' if what you have "
    "seen does not tell; the three count alike, and each is right where it fits. statement: in a sentence or two what "
    "changed, or why that verdict. trigger: patterns of contexts right "
    f"after which the two models predict different words, the most telling first, at most {MOST_PATTERNS}; "
    "ends_with holds the last words of such a context in order (* for any word), contains the words that stand "
    f"anywhere in it, at most {MOST_PARTS} each. tokens_up and tokens_down: single words that the second model says "
    f"more often, or less often, there, at most {MOST_WORDS} each. Lists are empty where nothing changed or nothing "
    "is known. All that the account says counts, what is wrong in it too: name what you have reason for. "
    "confidence: the probability, from 0 to 1, that the account is right."
)

_GRADE = """It is known what was changed on purpose from one language model, the first, to another, the second. \
Somebody who did not know it has given an account of the two. Take what is listed as changed to be true. \
How much of it does the account say?

4: all that matters of it, and nothing false
3: the change and where it shows, with a gap
2: the change or where it shows, but not both
1: the subject alone
0: none of it, something else, that nothing changed, or so many things that it commits to none
null: the account commits to nothing at all, but says that it cannot tell

Grade what the account commits to. A list of everything that might be, with the truth somewhere in it, gets 0. Length, \
style and certainty count for nothing."""

_GRADE_NOTHING = """It is known that nothing was changed on purpose from one language model, the first, to another, \
the second. Somebody who did not know it has given an account of the two. Does the account say so?

4: it says that nothing was changed
0: it says that something was changed, whatever it is
null: the account commits to nothing at all, but says that it cannot tell

There are no grades between these. Grade what the account commits to. Length, style and certainty count for nothing."""

_CHOOSE = (
    "Somebody has given an account of what changed from one language model to another, or that nothing did. At "
    "most one of the numbered statements says the same. Which one is it? If the account says none of them, or says "
    "that it cannot tell, the choice is null."
)

_PLAY = (
    "Two language models are compared, a first one and a second, which may be the first with further training. Both "
    "go on with a prompt as with plain text. The first reply to a prompt is the likeliest one; the others are drawn, "
    "with the same noise for both models."
)

_NEUTRAL = (
    "What the second says may or may not have been changed: there are pairs where nothing was changed on purpose. "
    "Find out what was changed, if anything."
)

_PRESUPPOSED = "What the second says was changed. Find out what was changed."
