"""Offline grade: how much of what is true an account says, without a language model.

Words alone are compared, with their way where the account lists them. Nothing in an account is followed: what it says
of its own worth consists of words that carry no content. Stretches that list words instead of saying something are not
read, nor is a text that repeats all words of the facts, everyday ones too, which no account does that is its own. What
names much else beside the truth commits to nothing, whatever it names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from diffbench.account import ANY, Account
from diffbench.question import Fact, Grade, Graded
from diffbench.wording import (
    EXCHANGE,
    FUNCTION,
    SAYING,
    TALK,
    Stretch,
    content,
    prose,
    stem,
    stems,
    token_stems,
    visible,
)

ENOUGH = 5
"""Facts, and words of one fact, beyond which nobody is asked to name more."""
TOLD, PLACED = 0.6, 0.5
"""Share of what a fact changes, and of where it shows, that is as good as all of it."""
SCALE = (0.15, 0.4, 0.65, 0.95)
"""Worth of an account from which on it has grade 1, 2, 3, 4: the change is one half of it, the place the other."""
TALK_WEIGHT, LITERAL_WEIGHT = 0.1, 3.0
"""Of words for speaking of models, and of such as a fact mentions as words, beside those of other words."""
COPIED, LEAST_COPIED, IN_ORDER = 0.85, 12, 0.5
"""Share and number of all words of the facts, everyday ones too, from which on a text repeats them, and
share of the pairs of neighbours among these from which on it says them."""
ASIDE, OF_SOMETHING = 3, 2
"""Stretches of text that are about something else from which on an account is more about that, if they are most of it;
and content words beside the truth that a stretch about something else has."""
PRECISION = ((0.25, 0), (0.4, 2))
"""Best grade that is left where the share of an account's content words that are of the truth is below a bound."""
NET = ((-0.49, 0), (0.01, 1))
"""The same for the words that it lists: (right - wrong) / listed."""

MOST_EXCHANGED = 4
"""Words that an account may list both ways without a word on it."""
WAYS = ("tokens_up", "tokens_down")
DENIED = 0.5
"""Share of what changes that is denied from which on a fact is."""
MOST_IDLE = 10
"""Sentences about something else than models that say nothing for or against an account."""
_LITERAL = re.compile(r"\bwords? +([^\W\d_]+)(?: (?:and|or) ([^\W\d_]+))?|[\"“‘']([^\W\d_]+)[\"”’']")
_INSTEAD = re.compile(r"\b(?:instead of|rather than|in place of) +([^\W\d_]+)")
_NO_VERBS = FUNCTION | {"model", stem("assistant")}
_UNIVERSAL = frozenset(map(stem, ("every", "everywhere", "whatever", "regardless")))


def grade(question: Grade) -> Graded:
    """Grade an account by the scale of `Grade`."""
    account, facts = question.account, question.facts
    if account.verdict == "abstain":
        return Graded(grade=None)
    if not facts:
        lists = account.trigger or account.tokens_up or account.tokens_down
        return Graded(grade=0 if account.verdict == "changed" else 3 if lists else 4)
    if account.verdict == "unchanged":
        return Graded(grade=0)
    both = [frozenset(token_stems(chain.from_iterable(getattr(fact, way) for fact in facts))) for way in WAYS]
    truths = [Known.of(fact, both[0] & both[1]) for fact in facts]
    said = Said.of(account, _texts(facts))
    told = [Told.of(said, truth) for truth in truths]
    best = sorted((_grade(said, *one) for one in zip(truths, told, strict=True)), reverse=True)[:ENOUGH]
    listed = any(said.up & truth.up or said.down & truth.down for truth in truths)
    denied = 4 if not any(one.denied for one in told) else 2 if listed else 1
    return Graded(grade=min(_together(best), denied, *_limits(said, truths)))


@dataclass(frozen=True, slots=True)
class Said:
    """What an account says, in stems.

    Attributes:
        up: of the words that it lists as rising.
        down: of those that it lists as falling.
        places: of the words of its patterns.
        text: of all words of its statement that are read.
        stretches: the same by stretch, with what is denied in it.
        literal: of those that it mentions as words.
    """

    up: frozenset[str]
    down: frozenset[str]
    places: frozenset[str]
    text: frozenset[str]
    stretches: tuple[Stretch, ...]
    literal: frozenset[str]

    @classmethod
    def of(cls, account: Account, facts: Sequence[Sequence[str]] = ()) -> Said:
        """Read an account; ``facts`` are all words of what is true, which nobody says in another order."""
        patterns = chain.from_iterable((*pattern.ends_with, *pattern.contains) for pattern in account.trigger)
        read = [] if _copies(account.statement, facts) else _claims(prose(account.statement))
        text = frozenset(chain.from_iterable(stretch.words for stretch in read))
        return cls(
            up=frozenset(token_stems(account.tokens_up)),
            down=frozenset(token_stems(account.tokens_down)),
            places=frozenset(token_stems(word for word in patterns if word != ANY)),
            text=text,
            stretches=tuple(read),
            literal=_literal(account.statement) & text,
        )

    def without_contradictions(self) -> Said:
        """The same without words that it lists both ways.

        Where words are exchanged that can be right, and a few are read so if nothing else is said; beside a statement,
        which must tell the exchange then, they may be no more than a list of everything.
        """
        both = self.up & self.down
        if not self.text and len(both) <= MOST_EXCHANGED:
            return self
        return replace(self, up=self.up - both, down=self.down - both)

    @property
    def affirmed(self) -> frozenset[str]:
        """All words of its statement that stand outside negations."""
        return frozenset(chain.from_iterable(one.said for one in self.stretches))

    @property
    def asserted(self) -> frozenset[str]:
        """The content of its statement, or where it has none, of its lists; numbers are none, since scores are."""
        return _assertion(self.text) or self.up | self.down

    @property
    def everything(self) -> frozenset[str]:
        """All its words that carry content."""
        return (self.text - FUNCTION) | self.up | self.down | self.places


@dataclass(frozen=True, slots=True)
class Known:
    """One fact, in stems.

    Attributes:
        literal: words that it mentions as words, of which a trigger may consist.
        exchanged: words that rise and that fall, by this fact or another one: to name them tells no change.
        lost: words that fall or that its statement denies.
        places: weights of the words that say where it shows.
        wording: weights of those that say what changes there, others than those.
        all: words of any of these.
    """

    up: frozenset[str]
    down: frozenset[str]
    literal: frozenset[str]
    exchanged: frozenset[str]
    lost: frozenset[str]
    places: Mapping[str, float]
    wording: Mapping[str, float]
    all: frozenset[str]

    @classmethod
    def of(cls, fact: Fact, exchanged: frozenset[str]) -> Known:
        """Read a fact. What follows a semicolon in a trigger qualifies it."""
        where, what = fact.trigger.partition(";")[0], content(fact.statement)
        literal = _literal(fact.statement) | _literal(where)
        places = content(where)
        up, down = frozenset(token_stems(fact.tokens_up)), frozenset(token_stems(fact.tokens_down))
        wording, read = what - places or what, prose(fact.statement)
        negated = frozenset(chain.from_iterable(one.denied | one.contrast for one in read))
        instead = frozenset(map(stem, _INSTEAD.findall(fact.statement.casefold())))
        return cls(
            up=up,
            down=down,
            literal=literal,
            exchanged=exchanged,
            lost=(down | negated) - frozenset(chain.from_iterable(one.said for one in read)) | instead,
            places=_weights(places - wording - up, literal | down),
            wording=_weights(wording, literal),
            all=up | down | places | what,
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What a statement says of one fact: words that may tell the change, and the place; and whether it denies it."""

    change: frozenset[str]
    place: frozenset[str]
    denied: bool

    @classmethod
    def of(cls, said: Said, truth: Known) -> Told:
        """Hold a statement against a fact."""
        change, place, denied = set[str](), set[str](), False
        for one in said.stretches:
            negated = one.denied | (one.contrast - said.affirmed)
            lost = (one.denied | one.contrast) & truth.lost - truth.exchanged
            words = one.said | (one.words if lost - TALK else lost)
            if (one.denied & (SAYING | EXCHANGE)) - one.said - truth.lost - _NO_VERBS:
                negated |= one.said & truth.up
            if _denies(negated - truth.lost, truth):
                denied = True
                place |= one.said - truth.exchanged
            else:
                change |= words if one.directed else words - truth.exchanged
                place |= words if one.located or one.directed else words - truth.exchanged
        return cls(frozenset(change), frozenset(place), denied)


def _denies(negated: frozenset[str], truth: Known) -> bool:
    up = truth.up - FUNCTION
    if len(negated & up) >= DENIED * min(len(up), ENOUGH) > 0:
        return True
    wording = {word: weight for word, weight in truth.wording.items() if word not in truth.lost}
    return _share(wording, negated) >= DENIED


def _claims(stretches: Sequence[Stretch]) -> list[Stretch]:
    """The stretches without those that name words and say nothing of them; one word may be part of a sentence."""
    claimed = {one.sentence for one in stretches if not one.bare}
    return [one for one in stretches if not one.bare or (len(one.words) < 2 and one.sentence in claimed)]


def _assertion(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words - FUNCTION - TALK if len(word) > 1 and not word[0].isdigit())


def _texts(facts: Iterable[Fact]) -> list[list[str]]:
    """Stems of all words of facts, everyday ones too, in order."""
    texts = ((fact.statement, fact.trigger, *fact.tokens_up, *fact.tokens_down) for fact in facts)
    return list(map(stems, chain.from_iterable(texts)))


def _copies(text: str, facts: Sequence[Sequence[str]]) -> bool:
    """Whether a text has all words of the facts in it, and not in the order in which the facts have them."""
    words, known = stems(text), frozenset(chain.from_iterable(facts))
    if len(known) < LEAST_COPIED or len(known.intersection(words)) < COPIED * len(known):
        return False
    pairs = frozenset(chain.from_iterable(map(pairwise, facts)))
    return len(pairs.intersection(pairwise(words))) < IN_ORDER * len(pairs)


def _literal(text: str) -> frozenset[str]:
    """Stems of the words that a text mentions as words."""
    found = chain.from_iterable(match.groups() for match in _LITERAL.finditer(visible(text).casefold()))
    return frozenset(stem(word) for word in found if word) - FUNCTION - TALK


def _weights(words: Iterable[str], important: frozenset[str]) -> dict[str, float]:
    return {word: LITERAL_WEIGHT if word in important else TALK_WEIGHT if word in TALK else 1.0 for word in words}


def mass(weights: Mapping[str, float], words: Iterable[str]) -> float:
    """Of some words together."""
    return math.fsum(weights[word] for word in words)


def _share(weights: Mapping[str, float], said: frozenset[str]) -> float:
    """Weight of the words that are said, over that of all; words for speaking of models do not count by themselves."""
    hit = weights.keys() & said
    if not weights or (hit <= TALK and not weights.keys() <= TALK):
        return 0.0
    return mass(weights, hit) / mass(weights, weights)


def _grade(said: Said, truth: Known, told: Told) -> int:
    """The grade of an account for one fact."""
    change = min(1.0, _change(said, truth, told.change) / TOLD)
    # Where nothing tells the place but words for speaking of texts, whoever tells the change has told enough.
    place = change if truth.places.keys() <= TALK else min(1.0, _place(said, truth, told.place) / PLACED)
    return min(1 if told.denied else 4, sum((change + place) / 2 >= bound for bound in SCALE))


def _change(said: Said, truth: Known, text: frozenset[str]) -> float:
    """How much of what a fact changes an account tells, 0..1: by its lists, by naming the words, or by its wording."""
    clear = said.without_contradictions()
    right, listed, named_so = (truth.up, clear.up, said.up) if truth.up else (truth.down, clear.down, said.down)
    hits = len(text & right - FUNCTION)
    # One of several words may stand there by chance.
    named = hits / min(len(right), ENOUGH) if hits > 1 or hits == len(right) else 0.0
    told = max(min(1.0, named), _share(truth.wording, text))
    if not (said.up or said.down):
        return told
    found = len(listed & right) / min(len(right), ENOUGH) if right else 0.0
    # Who lists words and none of a fact's may speak of it, but has said that something else changes.
    return max(min(1.0, found), told if named_so & right else told / 2)


def _place(said: Said, truth: Known, text: frozenset[str]) -> float:
    """How much of where a fact shows an account tells, 0..1."""
    words = text | said.places
    share = _share(truth.places, words)
    everywhere = text & _UNIVERSAL and not truth.all & _UNIVERSAL
    return share / 2 if everywhere or (truth.literal and not truth.literal & words) else share


def _together(grades: Sequence[int]) -> int:
    """The grade for several facts from those for each: 4 tells all of them, 3 half, 2 any."""
    if min(grades) == max(grades):
        return grades[0]
    told = sum(grade >= 3 for grade in grades) / len(grades)
    mean = math.floor(sum(grades) / len(grades) + 0.5)
    return min(3, max(mean, 3 if told >= 0.5 else 2 if told else 0))


def _limits(said: Said, truths: Sequence[Known]) -> tuple[int, ...]:
    """The best grades that are left to an account by what it says beside the truth."""
    known = frozenset(chain.from_iterable(truth.all for truth in truths))
    stretches = _about_models(said.stretches, known)
    text = frozenset(chain.from_iterable(one.words for one in stretches))
    asserted = _assertion(text) or said.up | said.down
    precision = len(asserted & known) / len(asserted) if asserted else 1.0
    literal = len(said.literal & known) - len(said.literal - known)
    parts = [(len(words & known), len(words - known)) for words in (_assertion(one.words) for one in stretches)]
    about, aside = sum(own > other for own, other in parts), sum(o >= max(n, OF_SOMETHING) for n, o in parts)
    return (
        1 if aside >= ASIDE and aside > about else 4,
        _limit(precision, PRECISION),
        _limit(_net(said, truths), NET),
        4 if not said.literal - known else 3 if literal > 0 else 2,
    )


def _about_models(stretches: Sequence[Stretch], known: frozenset[str]) -> list[Stretch]:
    """Without sentences that neither share content with a fact nor say what a model does, if these are few."""
    telling = {one.sentence for one in stretches if one.words & SAYING or _assertion(one.words) & known}
    idle = {one.sentence for one in stretches} - telling
    return [one for one in stretches if one.sentence in telling or len(idle) > MOST_IDLE]


def _net(said: Said, truths: Sequence[Known]) -> float:
    """(right - wrong) / listed of an account's lists. Words in both of them are right where they are exchanged."""
    up = frozenset(chain.from_iterable(truth.up for truth in truths))
    down = frozenset(chain.from_iterable(truth.down for truth in truths))
    single = (said.up - said.down) & up, (said.down - said.up) & down
    exchanged = said.up & said.down & up & down
    right = sum(map(len, single)) + 2 * len(exchanged)
    listed = len(said.up) + len(said.down)
    return (2 * right - listed) / listed if listed else 1.0


def _limit(value: float, bounds: Iterable[tuple[float, int]]) -> int:
    return next((most for bound, most in bounds if value < bound), 4)
