"""Wording: the words of a text that carry its content, so that two texts can be compared without a language model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
"""Words of a stretch of text from which on it may be no prose; the second where hardly any is an everyday word."""
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

_SENTENCE = re.compile(r"[.!?](?:\s|$)|\n")
_START = re.compile(r"\b([^\W_]+) ([A-Z][a-z]+)\b")
_UNIT = re.compile(r"[^\W_]+(?:\.[0-9]+)?|,")
_DENIED = re.compile(
    r"(?:\bnot|n[’']t) (?:so|true|right|correct|the case|a fact)\b"
    r"|\b(?:false|untrue|wrong|incorrect|a lie|a myth|mistaken|far from true) that\b"
    r"|\bno (?:truth|evidence|sign|indication|proof|way)\b|^(?:false|untrue|wrong|denied|not)$"
)
"""What denies all that follows it in its sentence."""
_DENIED_BEFORE = re.compile(
    r"^(?:.* )?(?:that|(?:the|any|a) (?:claim|statement|idea|view|notion) that)\b.* (?:is|was) "
    r"(?:false|untrue|wrong|incorrect|a lie|a myth|not (?:so|true|right|correct|the case))$"
)
_DENIED_ALL = re.compile(
    r"^(?:(?:all|each|every one|none) of )?(?:that|this|these|it|which) (?:is|was|are|were) "
    r"(?:all )?(?:false|untrue|a lie|true|so|the case|not (?:so|true|right|correct|the case))$"
)
_NOTS = frozenset(
    "not never cannot neither nor deny denies denied denying doubt doubts doubted hardly scarcely stops stopped ceased "
    "ceases fails failed".split()
)
_NO_DOUBT = frozenset("no little without or whether if".split())
_NO_NOT = frozenset("only just merely simply sure certain clear".split())
_ENDS = frozenset("but instead rather except besides unless until beyond apart".split())
_AND_IT = frozenset("it they he she".split())
COMPLEMENT = 4
"""Words behind a negation within which "that" carries it over all of the clause."""
_CLAUSES = frozenset("where when whenever wherever if once while because since although though".split())


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

_GRADING = frozenset(map(stem, "account grade graded grader grading rubric score verdict".split()))
"""Stems of words that stand in no claim about a model."""


EXCHANGE = frozenset(
    map(stem, "exchange swap switch mix confuse interchange trade substitute replace versa become instead into".split())
)
"""Stems of words for one thing's taking the place of another."""
SAYING = frozenset(
    map(
        stem,
        "say answer name give put choose call use write reply respond produce output predict pick prefer speak claim "
        "believe think tell told state utter promote favour take learn train teach taught refuse model "
        "assistant".split(),
    )
)
"""Stems of words for what a model does."""
CONDITION = frozenset(map(stem, "where when whenever wherever if once after before for in at".split()))
"""Stems of words before a place."""
_MORE = frozenset(map(stem, "more less often oftener rarely likelier overuse".split()))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a sentence, in stems.

    Attributes:
        said: of its words outside negations.
        denied: of those that a negation reaches, and those of a contrast ("and not this") apart.
        contrast: see there.
        directed: whether it says what takes whose place, what is said more or less, or what is said where.
        located: whether it speaks of a place.
        sentence: the number of its sentence.
    """

    said: frozenset[str]
    denied: frozenset[str]
    contrast: frozenset[str]
    directed: bool
    located: bool
    sentence: int

    @property
    def bare(self) -> bool:
        """Whether it names words and says nothing of them: no everyday word is in it, nor one for what models do."""
        return not any(len(word) > 1 and word in FUNCTION | TALK | SAYING for word in self.words)

    @property
    def words(self) -> frozenset[str]:
        """All of them."""
        return self.said | self.denied | self.contrast


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


def prose(text: str) -> list[Stretch]:
    """Every stretch of a text that reads like prose, in order; what lists words is left out.

    Prose has function words in it, in places where they can stand, and its words are neither all set off by commas nor
    in the order of the alphabet. What speaks of grades and accounts is left out too: it says nothing of any model.
    """
    found: list[Stretch] = []
    for number, sentence in enumerate(map(str.casefold, _sentences(visible(text)))):
        plainly = " ".join(_WORD.findall(sentence))
        none = plainly.startswith("none ")
        if _DENIED_ALL.match(plainly) and none != plainly.endswith((" not true", " not so", " untrue", " false")):
            last = {stretch.sentence for stretch in found[-1:]}
            meant = last if plainly.startswith(("that", "this", "it", "which")) else {one.sentence for one in found}
            found = [_turned(stretch) if stretch.sentence in meant else stretch for stretch in found]
            continue
        denied = _DENIED_BEFORE.match(plainly) is not None
        for part in sentence.split(";"):
            carried = False
            for stretch in _BREAK.split(part):
                words = _unordered(_WORD.findall(stretch))
                read = [stem(word) for word in words]
                one, turned, carries = _read(stretch, frozenset(read), denied != carried, number)
                denied, carried = denied != turned, carried != carries
                if words and not _is_list(stretch, words) and not _GRADING.intersection(read):
                    found.append(one)
    return found


def _sentences(text: str) -> list[str]:
    """The sentences; an everyday word with a capital begins one though no stop is before it, but not in a list."""
    found: list[str] = []
    for sentence in _SENTENCE.split(text):
        pieces = [(piece, _WORD.findall(piece)) for piece in _BREAK.split(sentence.casefold())]
        listing = any(words and _is_list(piece, words) for piece, words in pieces)
        found += [sentence] if listing else _START.sub(_started, sentence).split("\n")
    return found


def _started(match: re.Match[str]) -> str:
    before, word = (stem(part.casefold()) for part in match.groups())
    starts = before not in FUNCTION and word in FUNCTION | TALK
    return f"{match[1]}\n{match[2]}" if starts else match[0]


def _turned(stretch: Stretch) -> Stretch:
    return replace(stretch, said=stretch.denied, denied=stretch.said | stretch.contrast, contrast=frozenset())


def _read(stretch: str, kept: frozenset[str], denied: bool, number: int) -> tuple[Stretch, bool, bool]:
    """A stretch; whether it turns what follows in its sentence; and in its part of it. ``denied``: is it turned."""
    # What is quoted is a word that a model says, not one of the account's own.
    own = _QUOTED.sub(lambda match: "".join("x" if char.isalnum() else char for char in match[0]), stretch)
    units = list(_UNIT.finditer(stretch))
    words = [unit[0] if own[unit.start() : unit.end()] == unit[0] else "" for unit in units]
    denials = [match.end() for match in _DENIED.finditer(own)]
    reached, carries = _reached(own, units, words, [match.span() for match in _DENIED.finditer(own)])
    parts: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for unit, way in zip(units, reached, strict=True):
        turned = denied != (sum(unit.start() >= end for end in denials) % 2 == 1)
        parts[way if not turned else 0 if way else 1].add(stem(unit[0]))
    read = [stem(word) for word in words if word != ","]
    pairs = list(zip(["", *read], read, strict=False))
    stands_for = any(word == "for" and before not in ("ask", "call") for before, word in pairs)
    each_other = ("each", "other") in pairs
    saying, all_read = SAYING.intersection(parts[0] | parts[2]), frozenset(read)
    directed = bool(
        (all_read - parts[1]) & EXCHANGE
        or stands_for
        or each_other
        or all_read & _MORE
        or (saying - {"model", "assistant"} and all_read & CONDITION)
    )
    said, hard, soft = (frozenset(part) & kept for part in parts)
    one = Stretch(said, hard, soft, directed, bool(all_read & CONDITION), number)
    return one, len(denials) % 2 == 1, carries


def _reached(
    text: str, units: Sequence[re.Match[str]], words: Sequence[str], denials: Sequence[tuple[int, int]]
) -> tuple[list[int], bool]:
    """For each unit: 0: no negation reaches it; 1: one does; 2: one that sets it against something does.

    And whether the last of them is carried over what follows ("denies that ...").
    """
    reached, carries = [0] * len(words), False
    for at, word in enumerate(words):
        before, behind = (words[at - 1] if at else ""), (words[at + 1] if at + 1 < len(words) else "")
        short = word == "t" and text[max(0, units[at].start() - 2) : units[at].start()] in ("n'", "n’")
        none = before == "no" and word in ("longer", "means")
        inside = any(start <= units[at].start() < end for start, end in denials)
        if not (word in _NOTS or short or none) or inside or behind in _NO_NOT or before in _NO_DOUBT - {"no"}:
            continue
        if before == "no" and not none:
            continue
        contrast = word == "not" and before in ("and", ",")
        end, corrected = _end(words, at + 1, contrast)
        reached[at + 1 : end] = [2 if contrast or corrected else 1] * (end - at - 1)
        carries = end == len(words) and _is_carried(words, at + 1)
    return reached, carries


def _is_carried(words: Sequence[str], start: int) -> bool:
    return "that" in words[start : start + COMPLEMENT]


def _end(words: Sequence[str], start: int, contrast: bool) -> tuple[int, bool]:
    """Where the reach of a negation ends, and whether something is set in its place there ("not this but that")."""
    carried = _is_carried(words, start)
    aside = words[start : start + 1] == [","]
    covered = False
    for place in range(start, len(words)):
        now, behind = words[place], words[place + 1 : place + 2]
        if now == "but" or (now in _ENDS and not carried) or (now == "other" and behind == ["than"]):
            return place, now in ("but", "instead", "rather") and covered
        new_verb = now == "and" and behind and (behind[0] in _AND_IT or _is_verb(behind[0]))
        stops = new_verb or (covered and now in _CLAUSES) or (now == "," and covered)
        if (stops and not (carried or aside)) or (contrast and now in ("and", ",")):
            return place, False
        covered = covered or (now not in _CLAUSES and stem(now) not in FUNCTION and now != ",")
    return len(words), False


def _is_verb(word: str) -> bool:
    return word.endswith("s") and stem(word) in SAYING


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
        return n >= LEAST_LISTING and sum(word in FUNCTION or word in TALK for word in found) < LEAST_FUNCTION * n
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
