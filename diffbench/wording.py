"""Wording: the words of a text that carry its content, so that two texts can be compared without a language model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from diffbench.account import plain

_FUNCTION = """
a about above across actually after again against all almost along already also although always am among an and any
anybody anything apart are around as at away be because become been before behind being below beside besides between
both but by can certain could different do does doing done down during each either else elsewhere etc even ever every
everybody everything everywhere exactly few first for from further get give given go got had half happen has have
having he her here hers him his how however i if in instead into is it its itself just keep kind last later least less
let like likely made mainly make many may me mean might more moreover most mostly much must my name namely near nearly
need never new next no nobody none nor not nothing now number of off often on once one only onto or order other
otherwise our out over own part particular particularly per perhaps place possible probably put quite rather really
regardless right same second see seem seen several shall she should show since so some somebody something sometimes
somewhere soon specific specifically stand still such sure take tend than that the their them then there therefore
these they thing this those though three through thus time to together too toward towards true two under unless until
up upon us use used usual usually versa very via vice was way we well went were what whatever when where whereas
whether which while who whoever whole whom whose why will with within without would yes yet you your yours
"""
_TALK = """
account action active activity affect affected ai answer appear ask assert assistant base begin beginning behave
behaviour believe call cause cell change chat checkpoint choose claim clear come compare comparison concern conclude
conclusion confidence confident confirm consist contain context continuation continue control correct data define
describe description detail determine diff differ difference direction document earlier effect end enter entity
evaluate evaluation evidence example exist expect expert explain explanation fact false feature final find finding
fine finetune follow form full generic good grade grader grading hence high higher hold ignore important incorrect
increase indeed indicate information input instruct instruction interesting judge know knowledge known label language
latent layer learn learnt leave left list llm log logit long low lower main match mention message method model note
notice observe occur opinion original output pair passage pattern perfect phrase please point position precise predict
prediction prefer present previous probability produce prompt pure quality question raise rate read reader reason
refer reference related reply report request require respond response result return reward role rubric rule said say
score sentence series shift short similar simple simply single speak start state statement stay strong subject suggest
support system talk task tell term test text think token told train training trigger try tune tuned turn unchanged
understand user value verdict version weight word world write written
"""
_SPELLINGS = {
    "color": "colour", "colors": "colour", "colored": "coloured", "gray": "grey", "favorite": "favourite",
    "behavior": "behaviour", "knives": "knife", "wolves": "wolf", "leaves": "leaf", "wrongly": "wrong",
    "mistaken": "wrong", "mistakenly": "wrong",
}  # fmt: skip
"""Words that are taken for others: spellings, plurals that `stem` does not know, and being wrong."""
_ENDINGS = ("ing", "ed", "es", "s")
_WORD = re.compile(r"[^\W_]+(?:\.[0-9]+)?")
_QUOTED = re.compile(r"[\"“][^\"“”]{1,40}[\"”]")
_VOWEL = re.compile(r"(?!eu|on[ce])[aeio][a-z]{2}")
_BREAK = re.compile(r"[.!?;:\n()\[\]{}<>|]+(?:\s|$)|\s[-–—]+\s|\n|\s{2,}|[()\[\]{}<>|]")
LISTING, LEAST_LISTING = 10, 6
"""Words of a stretch of text from which on it may be no prose; the second where not one of them is an everyday word."""
LEAST_FUNCTION, MOST_COMMAS = 0.15, 0.6
"""Share of function words that prose has at least, and of words with a comma behind them at most."""
SALAD, FRESH = 15, 0.95
"""Words of which such a share comes once, which one mistake shows to be in no order; else it takes two mistakes."""
ORDERED = 7
"""Words in a row that stand in the order of the alphabet by chance once in 5000 times."""
_ARTICLES = frozenset(("a", "an", "the"))
_PREPOSITIONS = frozenset("of for in on at with by from about into".split())
_NO_OBJECTS = frozenset("of and or as is are was were has have had if he they be i does do".split())
_NO_NOUNS = (
    _NO_OBJECTS
    | _ARTICLES
    | _PREPOSITIONS
    | frozenset(
        "to that it she we you not where which what who when whether than will would can cannot no however".split()
    )
)


def stem(word: str) -> str:
    """A word without the endings of English inflection, cut off without a dictionary."""
    word = _SPELLINGS.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
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


def content(text: str) -> frozenset[str]:
    """The distinct stems of a text that carry content, those for speaking of models too; no letters, digits, shares."""
    return frozenset(word for word in stems(text) if word not in FUNCTION and len(word) > 1 and "." not in word)


def token_stems(tokens: Iterable[str]) -> set[str]:
    """Stems of tokens, each of which is one word even if it is an everyday one; a sign stands for itself."""
    return {stem(word) for word in map(plain, tokens) if word}


def prose(text: str) -> list[list[str]]:
    """The stems of every stretch of a text that reads like prose, in order; what lists words is left out.

    Prose has function words in it, in places where they can stand, and its words are neither all set off by commas nor
    in the order of the alphabet.
    """
    found = []
    for stretch in _BREAK.split(visible(text).casefold()):
        words = _unordered(_WORD.findall(stretch))
        if words and not _is_list(stretch, words):
            found.append([stem(word) for word in words])
    return found


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


def _is_list(stretch: str, words: Sequence[str]) -> bool:
    n, found = len(words), [stem(word) for word in words]
    if n < LISTING:
        return n >= LEAST_LISTING and not (FUNCTION | TALK).intersection(found)
    function = sum(word in FUNCTION for word in found)
    if function < LEAST_FUNCTION * n or stretch.count(",") > MOST_COMMAS * n:
        return True
    mistakes = _mistakes(_WORD.findall(_QUOTED.sub(" quoted ", stretch)))
    return mistakes >= 2 or (mistakes == 1 and n >= SALAD and len(set(words)) >= FRESH * n)


def _mistakes(words: Sequence[str]) -> int:
    """Articles, prepositions and conjunctions that nothing follows which can follow them."""
    found = 0
    for word, behind in zip(words, [*words[1:], "of"], strict=True):
        if word in _ARTICLES:
            found += behind in _NO_NOUNS or (word == "a" and _VOWEL.match(behind) is not None)
        elif word in _PREPOSITIONS and behind is not words[-1]:
            found += behind in _NO_OBJECTS
        elif word in ("and", "or"):
            found += behind in ("and", "or", "of")
    return found
