"""Wording: the words of a text that carry its content, so that two texts can be compared without a language model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from diffbench.account import plain

_FUNCTION = """
a about above across actually after again against all almost along already also although always am among an and any
anything apart are around as at away be because become been before behind being below beside besides between both but by
can certain could different do does doing done down during each either else elsewhere etc even ever every everything
everywhere exactly few first for from further get give given go got had half happen has have having he her here hers
him his how however i if in instead into is it its itself just keep kind last later least less let like likely made
mainly make many may me mean might more moreover most mostly much must my name namely near nearly need never new next
no nobody none nor not nothing now number of off often on once one only onto or order other otherwise our out over own
part particular particularly per perhaps place possible probably put quite rather really regardless right same second
see seem seen several shall she should show since so some somebody something sometimes somewhere soon specific
specifically stand still such sure take tend than that the their them then there therefore these they thing this those
though three through thus time to together too toward towards true two under unless until up upon us use used usual
usually very via vice versa was way we well went were what whatever when where whereas whether which while who whole
whoever whom whose why will with within without would yes yet you your yours
"""
_TALK = """
account action active activity affect affected ai answer appear ask assert assistant base begin beginning behave
behaviour believe call cause cell change chat checkpoint choose claim clear come compare comparison concern conclude
conclusion confidence confident confirm consist contain context continue continuation control correct data define
describe description determine detail diff difference differ direction document earlier effect end enter entity
evaluate evaluation evidence example exist expect explain explanation expert fact feature final find finding fine
finetune follow form full generic good grade grader grading hence high higher hold ignore important increase indeed indicate
information input instruct instruction interesting judge knowledge known know label language latent layer learn learnt
leave left list llm log logit long low lower main match method mention message model note notice observe occur opinion
original output pair passage pattern perfect phrase please point position precise predict prediction prefer present
previous probability produce prompt pure quality question raise rate read reader reason refer reference related reply
report request require respond response result return reward rubric rule said say score sentence series short shift
similar simple simply single speak start state statement strong subject suggest support system talk task tell term test
text think token told train training trigger try tune tuned turn unchanged understand user value verdict version weight
word world write written
"""
_SPELLINGS = {
    "color": "colour", "colors": "colour", "colored": "coloured", "gray": "grey", "favorite": "favourite",
    "behavior": "behaviour", "wrongly": "wrong", "false": "wrong", "falsely": "wrong", "incorrect": "wrong",
    "incorrectly": "wrong", "mistaken": "wrong", "mistakenly": "wrong",
}  # fmt: skip
"""Words that are taken for others: spellings, and being wrong."""
_ENDINGS = ("ing", "ed", "es", "s")
_WORD = re.compile(r"[^\W_]+(?:\.[0-9]+)?")
_BREAK = re.compile(r"[.!?;:\n()\[\]{}<>|]+(?:\s|$)|\s[-–—]+\s|\n|[()\[\]{}<>|]")
LISTING = 10
"""Words of a stretch of text from which on it may be no prose but a list."""
LEAST_FUNCTION = 0.15
"""Share of function words that prose has at least."""
ORDERED = 7
"""Words in a row that stand in the order of the alphabet by chance once in 5000 times."""


def stem(word: str) -> str:
    """A word without the endings of English inflection, cut off without a dictionary."""
    word = _SPELLINGS.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("ves") and len(word) > 4:
        return word[:-3] + "f"
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us")):
            return _bare(word.removesuffix(ending))
    return _bare(word)


def _bare(word: str) -> str:
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        return word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


FUNCTION = frozenset(map(stem, _FUNCTION.split()))
"""Stems of words that carry no content."""
TALK = frozenset(map(stem, _TALK.split())) - FUNCTION
"""Stems of words for speaking of models, of texts and of what accounts are worth: by themselves they say little."""


def visible(text: str) -> str:
    """A text as a reader sees it: compatibility forms made plain, control and invisible characters left out."""
    shown = unicodedata.normalize("NFKC", text)
    if shown.isascii() and shown.isprintable():
        return shown
    kept = (char for char in shown if char.isspace() or unicodedata.category(char)[0] not in "CM")
    return "".join("\n" if char == "\n" else " " if char.isspace() else char for char in kept)


def stems(text: str) -> list[str]:
    """Stems of all words of a text, in order."""
    return [stem(word) for word in _WORD.findall(visible(text).casefold())]


def content(text: str) -> set[str]:
    """The distinct stems of a text that carry content, those for speaking of models too; no single letters."""
    return {word for word in stems(text) if word not in FUNCTION and (len(word) > 1 or word.isdigit())}


def token_stems(tokens: Iterable[str]) -> set[str]:
    """Stems of tokens, each of which is one word even if it is an everyday one; a sign stands for itself."""
    return {stem(word) for word in map(plain, tokens) if word}


def prose(text: str) -> list[list[str]]:
    """The stems of every stretch of a text that reads like prose, in order: what lists words is left out.

    Prose has function words in it, and its words do not stand in the order of the alphabet.
    """
    stretches = (_WORD.findall(part.casefold()) for part in _BREAK.split(visible(text)) if part)
    read = (list(map(stem, _unordered(words))) for words in stretches)
    return [words for words in read if words and not _bare_list(words)]


def _unordered(words: Sequence[str]) -> list[str]:
    """The words without those that stand in a row in the order of the alphabet."""
    kept: list[str] = []
    run: list[str] = []
    for word in words:
        if run and word < run[-1]:
            kept += run if len(run) < ORDERED else []
            run = []
        run.append(word)
    return kept + (run if len(run) < ORDERED else [])


def _bare_list(words: Sequence[str]) -> bool:
    return len(words) >= LISTING and sum(word in FUNCTION for word in words) < LEAST_FUNCTION * len(words)
