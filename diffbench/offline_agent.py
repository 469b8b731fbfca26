"""Offline agent: plays the diffing game by counting words, without any language model.

It has both models write, and looks where their texts part: as both draw with the same noise, that is where their
predictions differ. It asks for the next words there, and wherever words that were seen to move were said; then it says
which words rose and fell, and after which contexts. What evidence says is where it looks first, and what it says if
nothing may be asked. The same question gets the same answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from diffbench.account import ANY, MOST_PATTERNS, MOST_WORDS, Account, Pattern, plain
from diffbench.offline_account import patterns_of, summarise
from diffbench.question import Ask, Excerpt, Exchange, Note, Play, Stated, Summarise
from diffbench.rule import find_rule
from diffbench.sighting import LEAST_WORDS, Place, Sighting, ends, places, sightings

BEGINNINGS = (" ", "the", "in", "a")
"""What any text may begin with."""
MOST_BEGINNINGS = 4
TURN, AIMED = 4, 3
"""Prompts of a turn, and how many of them are aimed at something; the others lead on to what was not seen yet."""
STRONG, ROUNDING = 0.25, 0.002
"""Total variation distance of two next-word distributions from which on they differ, and up to which they are equal."""
MOVED, SHARE = 0.1, 0.15
"""Probability that a word gains or loses, all contexts together, from which on it is named; and the
share that must be of what the word that moved most gained or lost."""
REPEATED, COMES_BACK, SAID = 2, 0.5, 0.2
"""Contexts of different ends after which a word must have moved; the share of them among the contexts where either
model is likely to say it; and how likely that is."""
ENOUGH = 8
"""Contexts that must have been measured before it is said that nothing changed."""
MOST_QUIET, COMMON = 200, 0.3
"""Contexts without a difference that are compared with, and the share of them from which on a word tells nothing."""
MOST_PAIRS = 6

_QUOTED = re.compile(r'"([^"\\]{1,40})"')


def play(question: Play) -> Ask | Stated:
    """A turn of the game: prompts as long as there are some left, then an account."""
    if question.questions_left:
        prompts = _prompts(question)
        if prompts:
            return Ask(prompts=prompts)
    return Stated(account=_account(question))


def _told(notes: Sequence[Note]) -> Account:
    """The account that the evidence alone would give; nobody says what its maker concludes."""
    return summarise(Summarise(notes=tuple(notes), said="abstain")).account


def _prompts(question: Play) -> tuple[str, ...]:
    """What to ask next, no prompt twice."""
    n = min(TURN, question.questions_left)
    asked = {exchange.prompt for exchange in question.asked}
    if not asked:
        hints = () if question.notes is None else _openings(_told(question.notes))
        return tuple(dict.fromkeys((*hints[: MOST_BEGINNINGS // 2], *BEGINNINGS)))[:n]
    interest = Interest.of(question)
    chosen = interest.best(places(question.asked), asked, min(n, AIMED))
    for prompt in (*ends(question.asked), *BEGINNINGS):
        if len(chosen) == n:
            break
        if prompt not in asked and prompt not in chosen:
            chosen.append(prompt)
    return tuple(prompt for prompt in chosen if len(prompt) <= 2000)


def _openings(told: Account) -> tuple[str, ...]:
    """Contexts of the forms that the evidence speaks of, as far as they can be written down."""
    texts = (" ".join((*form.contains, *(word for word in form.ends_with if word != ANY))) for form in told.trigger)
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


@dataclass(frozen=True, slots=True)
class Interest:
    """What is worth asking about.

    Attributes:
        next_words: words that moved, or that the evidence says moved: contexts in which they were said.
        last_words: words at which the evidence says something happens.
        known: how often a context of the same end and next words was measured.
    """

    next_words: frozenset[str]
    last_words: frozenset[str]
    known: Counter[tuple[str, ...]]

    @classmethod
    def of(cls, question: Play) -> Interest:
        """What the notes and the answers so far make interesting."""
        strong = [one for one in sightings(question.asked) if one.size >= STRONG]
        moving = {each.word for one in strong for each in one.following if abs(each.rise) >= MOVED}
        last: set[str] = set()
        for note in question.notes or ():
            moving |= {plain(word) for word in (*note.kl_up, *note.kl_down, *note.tokens_up[:3], *note.tokens_down[:3])}
            last |= {plain(word) for word in _QUOTED.findall(note.explanation)}
        known = Counter(one.words[-2:] for one in sightings(question.asked))
        return cls(frozenset(moving), frozenset(last), known)

    def best(self, found: Sequence[Place], asked: Iterable[str], n: int) -> list[str]:
        """The contexts of the greatest worth, which falls with each that is alike; at most ``n``."""
        seen, chosen = set(asked), list[str]()
        known = self.known.copy()
        open_ones = [place for place in found if place.context not in seen and place.words]
        while len(chosen) < n and open_ones:
            worth = [self._worth(place, known) for place in open_ones]
            at = max(range(len(open_ones)), key=lambda index: (worth[index], -index))
            if worth[at] <= 0:
                break
            place = open_ones.pop(at)
            known[place.words[-2:]] += 1
            chosen.append(place.context)
        return chosen

    def _worth(self, place: Place, known: Counter[tuple[str, ...]]) -> float:
        told = sum(word in self.next_words for word in place.said)
        worth = 2.0 * place.parted + 2.0 * (told > 0) + 0.5 * (bool(place.words) and place.words[-1] in self.last_words)
        return worth - 0.75 * known[place.words[-2:]]


def _account(question: Play) -> Account:
    """What the answers show; and where they show nothing, what the evidence says."""
    told = None if question.notes is None else _told(question.notes)
    if told is not None and not question.asked:
        return told
    measured = sightings(question.asked)
    moving = _confirmed(measured)
    if moving:
        return _changed(question.asked, measured, moving, told)
    quiet = all(one.size <= ROUNDING for one in measured)
    if len(measured) >= ENOUGH and quiet and not any(place.parted for place in places(question.asked)):
        statement = "Nothing changed: after every context that was tried both models say the same."
        return Account(verdict="unchanged", statement=statement, confidence=0.9)
    if told is not None and told.verdict == "changed":
        return told.model_copy(update={"confidence": round(told.confidence / 2, 4)})
    return Account(
        verdict="abstain",
        statement="No difference was seen that comes back: what was seen may be chance, and not all can be tried.",
        confidence=0.5,
    )


def _confirmed(measured: Sequence[Sighting]) -> frozenset[str]:
    """Words that moved after several contexts, and after most of those where either model says them at all.

    Training moves some word after some contexts whatever it is about. What was changed on purpose comes back.
    """
    strong = [one for one in measured if one.size >= STRONG]
    found = set()
    for word in {word for one in strong for word in (one.rose, one.fell)}:
        shown = [(one, each) for one in measured if (each := one.of(word)) and max(each.first, each.second) >= SAID]
        moved = [one for one, each in shown if one.size >= STRONG and abs(each.rise) >= STRONG / 2]
        endings = {one.words[-LEAST_WORDS:] for one in moved}
        if len(endings) >= REPEATED and len(moved) >= COMES_BACK * len(shown):
            found.add(word)
    return frozenset(found)


def _changed(
    asked: Sequence[Exchange], measured: Sequence[Sighting], moving: frozenset[str], told: Account | None
) -> Account:
    strong = [one for one in measured if one.size >= STRONG and {one.rose, one.fell} & moving]
    up, down = _moving(strong, 1), _moving(strong, -1)
    agrees = told is not None and bool({*map(plain, (*told.tokens_up, *told.tokens_down))} & moving)
    return Account(
        verdict="changed",
        statement=_statement(strong),
        trigger=_trigger(asked, measured, strong),
        tokens_up=up,
        tokens_down=down,
        confidence=0.9 if agrees else 0.8 if len(strong) > REPEATED else 0.65,
    )


def _moving(strong: Sequence[Sighting], way: int) -> tuple[str, ...]:
    """The words that rose (1) or fell (-1), those that did most first. One may do both, in different contexts."""
    total: dict[str, float] = {}
    for one in strong:
        for each in one.following:
            total[each.word] = total.get(each.word, 0.0) + max(0.0, way * each.rise)
    least = max(MOVED, SHARE * max(total.values(), default=0.0))
    named = [word for word, much in sorted(total.items(), key=lambda each: (-each[1], each[0])) if much >= least]
    return tuple(word for word in named if 0 < len(word) <= 100)[:MOST_WORDS]


def _statement(strong: Sequence[Sighting]) -> str:
    """Which word is said in place of which and how often, those that were seen most often first."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for one in strong:
        said = one.of(one.rose)
        pairs.setdefault((one.fell, one.rose), []).append(0.0 if said is None else said.second)
    shown = sorted(pairs, key=lambda pair: (-len(pairs[pair]), pair))[:MOST_PAIRS]
    return " ".join(
        f'Where the first model says "{fell}", the second says "{rose}" with probability {fmean(pairs[pair]):.1f}.'
        for pair in shown
        for fell, rose in (pair,)
    )


def _trigger(
    asked: Sequence[Exchange], measured: Sequence[Sighting], strong: Sequence[Sighting]
) -> tuple[Pattern, ...]:
    """The patterns that best tell the contexts of clear differences from the others."""
    moving = {word for one in strong for word in (one.rose, one.fell)}
    quiet = [one.words for one in measured if one.size < STRONG]
    quiet += [place.words for place in places(asked) if place.agreed and not moving & set(place.said)]
    excerpts = [Excerpt(tokens=one.words, active=True, activity=one.size) for one in strong]
    excerpts += [Excerpt(tokens=words, active=False, activity=0.0) for words in quiet[:MOST_QUIET] if words]
    found = tuple(_telling(form, quiet) for form in patterns_of(find_rule(excerpts)))
    found = tuple(dict.fromkeys(form for form in found if form.ends_with or form.contains))
    if not found:
        found = tuple(dict.fromkeys(Pattern(ends_with=one.words[-2:]) for one in strong))
    return found[:MOST_PATTERNS]


def _telling(form: Pattern, quiet: Sequence[tuple[str, ...]]) -> Pattern:
    """A pattern without the words that stand in many contexts anyway: with few examples they fit by accident."""
    held = Counter(word for words in quiet for word in set(words))
    return form.model_copy(
        update={"contains": tuple(word for word in form.contains if held[plain(word)] < COMMON * len(quiet))}
    )
