"""Offline account: what the offline judge concludes from the notes on findings, by a vote over words.

Words that are likelier in one of the models where a finding is most active are evidence of what changed; words that a
finding promotes are a guess at it. A finding weighs the more the larger the share of the models' difference is that it
accounts for, and less the later it stands. Where what findings move is spread over many words, nothing in particular
was found: the account abstains, as it does where there is nothing to read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffbench.account import ANY, MOST_PARTS, MOST_PATTERNS, Account, Pattern, plain
from diffbench.offline_choice import choose
from diffbench.offline_grade import grade
from diffbench.question import Note, Stated, Summarise
from diffbench.rule import AMONG, BEFORE, BIGRAM, LAST, TWO_BEFORE, Clause, Rule, Sentence, read_sentence

REPEATED = 0.1
"""What a vote for a word is worth beside the best one for it."""
UNKNOWN_EFFECT, LEAST_EFFECT = 0.1, 0.02
LATER = 0.1
"""How much less every later finding, and every later word that it promotes, is worth."""
KEPT = 0.25
"""Share of the votes of the first of all words that the others need."""
MOST_LISTED = 10
POINTED = 0.4
"""Pointedness of the findings from which on they are taken to be about something in particular. One names five words at
most, so that .2 is the least there is; further training on ordinary text gives that (measured: .20 to .26, and .50 to 1
where two colours, five facts or an adjective were changed)."""
SUREST = 0.95
"""Confidence where all findings name one and the same word."""
LEAST_WORTH = 0.1
"""The same share for patterns."""
MOST_WORD = 100

__all__ = ["choose", "grade", "patterns_of", "summarise"]


def summarise(question: Summarise) -> Stated:
    """An account of all findings."""
    notes = [_Read.of(note, rank) for rank, note in enumerate(question.notes)]
    measured = [note for note in notes if note.up or note.down]
    if not measured:
        return Stated(account=_quiet(question, notes))
    votes = [
        _votes((note.weight, note.up, note.guessed_up) for note in notes),
        _votes((note.weight, note.down, note.guessed_down) for note in notes),
    ]
    if max(_pointedness(notes, "up"), _pointedness(notes, "down")) < POINTED:
        text = "What the findings move is spread over many words, which does not tell whether anything was changed."
        return Stated(account=Account(verdict="abstain", statement=text, confidence=0.5))
    least = KEPT * max(vote for ballot in votes for vote in ballot.values())
    up, down = (_most(ballot, least) for ballot in votes)
    trigger = _trigger(measured)
    return Stated(
        account=Account(
            verdict="changed",
            statement=_statement(trigger, up, down),
            trigger=trigger,
            tokens_up=up,
            tokens_down=down,
            confidence=round(0.5 + max(map(_concentration, votes)) * (SUREST - 0.5), 2),
        )
    )


def patterns_of(rule: Rule) -> tuple[Pattern, ...]:
    """The clauses of a rule as patterns, in their order; what no pattern can say is left out."""
    found = (_pattern(clause) for clause in rule)
    return tuple(dict.fromkeys(pattern for pattern in found if pattern is not None))


@dataclass(frozen=True, slots=True)
class _Read:
    """What a note says.

    Attributes:
        weight: of the finding among all.
        sentence: its explanation; one that is no sentence of this judge tells no rule.
        up: words that are likelier in the tuned model where it is most active, likeliest first.
        guessed_up: words that it promotes.
    """

    weight: float
    sentence: Sentence
    up: tuple[str, ...]
    down: tuple[str, ...]
    guessed_up: tuple[str, ...]
    guessed_down: tuple[str, ...]

    @classmethod
    def of(cls, note: Note, rank: int) -> _Read:
        """Read a note; ``rank`` counts from 0."""
        try:
            sentence = read_sentence(note.explanation)
        except ValueError:
            sentence = Sentence(())
        effect = UNKNOWN_EFFECT if note.effect is None else min(1.0, max(note.effect, LEAST_EFFECT))
        lists = (note.kl_up, note.kl_down, note.tokens_up, note.tokens_down)
        return cls(math.sqrt(effect) / (1 + LATER * rank), sentence, *map(_plain, lists))


def _plain(tokens: Iterable[str]) -> tuple[str, ...]:
    words = (plain(token)[:MOST_WORD] for token in tokens)
    return tuple(dict.fromkeys(word for word in words if word.isprintable() and word))


def _quiet(question: Summarise, notes: Sequence[_Read]) -> Account:
    """The account where no finding shows a difference of what the models say."""
    if question.said == "unchanged":
        text = "Nothing was changed: no finding shows a difference in what the models say."
        return Account(verdict="unchanged", statement=text, confidence=0.8)
    if any(note.sentence.rule for note in notes):
        text = "Nothing was changed: where the findings are active the models say the same."
        return Account(verdict="unchanged", statement=text, confidence=0.6)
    text = "There is no evidence of what the models say."
    return Account(verdict="abstain", statement=text, confidence=0.5)


def _votes(notes: Iterable[tuple[float, Sequence[str], Sequence[str]]]) -> dict[str, float]:
    """What each word has.

    A finding divides its vote among the words that it measures: the more there are, the less each of them tells. Its
    best finding counts whole for a word, all others in part, so that a word that many findings repeat does not drown
    those that one finding each is about. A guess backs a word that was measured somewhere, and is nothing by itself.
    """
    best: dict[str, float] = {}
    total: dict[str, float] = {}
    guesses: dict[str, float] = {}
    for weight, measured, guessed in notes:
        for word in measured:
            vote = weight / len(measured)
            best[word] = max(best.get(word, 0.0), vote)
            total[word] = total.get(word, 0.0) + vote
        for place, word in enumerate(guessed):
            guesses[word] = guesses.get(word, 0.0) + weight / (1 + LATER * place) / len(guessed)
    return {word: best[word] + REPEATED * (total[word] - best[word] + guesses.get(word, 0.0)) for word in best}


def _pointedness(notes: Sequence[_Read], way: Literal["up", "down"]) -> float:
    """Mean over the findings, by weight, of one over how many words rise, or fall, where a finding is most active."""
    lists = [(note.weight, note.up if way == "up" else note.down) for note in notes]
    weight = math.fsum(weight for weight, words in lists if words)
    return math.fsum(weight / len(words) for weight, words in lists if words) / weight if weight else 0.0


def _concentration(votes: Mapping[str, float]) -> float:
    """Sum of the squared shares: one over the number of words that share the votes, were these equal."""
    everything = math.fsum(votes.values())
    return math.fsum((vote / everything) ** 2 for vote in votes.values()) if everything else 0.0


def _most(votes: Mapping[str, float], least: float) -> tuple[str, ...]:
    order = sorted(votes, key=lambda word: (-votes[word], word))
    return tuple(word for word in order[:MOST_LISTED] if votes[word] >= least)


def _trigger(notes: Sequence[_Read]) -> tuple[Pattern, ...]:
    """The clauses of all findings' rules, those of the weightiest and most precise ones first."""
    worth: dict[Pattern, float] = {}
    for note in notes:
        precision = note.sentence.fit.precision if note.sentence.fit is not None else 1.0
        for place, pattern in enumerate(patterns_of(note.sentence.rule)):
            worth[pattern] = worth.get(pattern, 0.0) + note.weight * precision / (1 + place)
    order = sorted(worth, key=lambda pattern: (-worth[pattern], pattern.ends_with, pattern.contains))
    return tuple(pattern for pattern in order[:MOST_PATTERNS] if worth[pattern] >= LEAST_WORTH * worth[order[0]])


def _pattern(clause: Clause) -> Pattern | None:
    """A clause as a pattern; None: two of its conditions want different words at one place, or words are too long."""
    behind: dict[int, str] = {}
    within: list[str] = []
    for kind, words in clause:
        if any(not plain(word) or len(word) > MOST_WORD for word in words):
            return None
        if kind == AMONG:
            within += words
        places = {LAST: (0,), BEFORE: (1,), TWO_BEFORE: (2,), BIGRAM: (1, 0)}.get(kind, ())
        for place, word in zip(places, words, strict=False):
            if behind.setdefault(place, word) != word:
                return None
    ends = [behind.get(place, ANY) for place in range(max(behind, default=-1), -1, -1)]
    if len(ends) > MOST_PARTS or len(within) > MOST_PARTS:
        return None
    return Pattern(ends_with=tuple(ends), contains=tuple(dict.fromkeys(within)))


def _statement(trigger: Sequence[Pattern], up: Sequence[str], down: Sequence[str]) -> str:
    """The account in English."""
    said = [f"says {_listed(up)} more often"] if up else []
    said += [f"says {_listed(down)} less often"] if down else []
    where = "; or ".join(map(_where, trigger[:3]))
    return (
        f"{where[:1].upper()}{where[1:]} the tuned model " + " and ".join(said) + "."
        if where
        else ("The tuned model " + " and ".join(said) + ".")
    )


def _where(pattern: Pattern) -> str:
    parts = []
    if pattern.ends_with:
        parts.append("after " + " ".join("any word" if word == ANY else f'"{word}"' for word in pattern.ends_with))
    if pattern.contains:
        parts.append(f"in texts with {_listed(pattern.contains)}")
    return ", ".join(parts)


def _listed(words: Sequence[str]) -> str:
    *most, last = [f'"{word}"' for word in words]
    return f"{', '.join(most)} and {last}" if most else last
