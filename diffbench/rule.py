r"""Rule: the best short rule over words for when a component is active, and the sentence that states it.

A rule is a disjunction of clauses, a clause one condition or two joined by "and"::

    Active where the last word is "blue"; or where the last word is "a" and one of the last 12 words is "sky"
    (precision 0.96, recall 0.80); promotes "green"; suppresses "red".

It is found without any language model. The sentence is all that decisions use: it is parsed back by the grammar in
which it was written. Words stand in double quotes; a double quote, a backslash and whatever is not printable is
written as its code point, ``\u{22}``, so no word can end its own quotation or imitate the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from diffbench.question import Excerpt

LOOK_BACK = 12
MAX_CLAUSES = 8
MAX_EFFECTS = 10
MIN_SUPPORT = 2
WORD_PENALTY = 0.01
PSEUDO_ERRORS = 1
CAUTIONS = (1.0, 2.0, 4.0)
MAX_PAIRED = 200

Condition = tuple[int, tuple[str, ...]]
"""Index into `PHRASES`, and the words that stand in it."""

Clause = tuple[Condition, ...]
Rule = tuple[Clause, ...]

PHRASES = (
    'the last word is ""',
    'the word before it is ""',
    'the word two before it is ""',
    'the last words are "" ""',
    f'one of the last {LOOK_BACK} words is ""',
)
LAST, BEFORE, TWO_BEFORE, BIGRAM, AMONG = range(len(PHRASES))

_START, _OR, _AND, _NO_RULE = "Active where ", "; or where ", " and ", "No rule was found"
_UP, _DOWN = "; promotes ", "; suppresses "
_QUOTED = re.compile(r'"((?:[^"\\]|\\u\{[0-9a-f]{1,6}\})*)"')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}")
_CONDITION = f"(?:{'|'.join(PHRASES)})"
_CLAUSE = f"{_CONDITION}(?:{_AND}{_CONDITION})?"
_FIT = re.compile(r" \(precision (\d\.\d\d), recall (\d\.\d\d)\)")
_SKELETON = re.compile(
    rf"(?:{_NO_RULE}|{_START}(?P<rule>{_CLAUSE}(?:{_OR}{_CLAUSE})*)(?:{_FIT.pattern})?)"
    rf'(?:{_UP}(?P<up>""(?:, "")*))?(?:{_DOWN}(?P<down>""(?:, "")*))?\.'
)


def conditions_of(context: Sequence[str]) -> set[Condition]:
    """All conditions that hold in a context."""
    words = tuple(context[-LOOK_BACK:])
    found: set[Condition] = {(AMONG, (word,)) for word in words}
    for kind, back in ((LAST, 1), (BEFORE, 2), (TWO_BEFORE, 3)):
        if len(words) >= back:
            found.add((kind, (words[-back],)))
    if len(words) >= 2:
        found.add((BIGRAM, words[-2:]))
    return found


def find_rule(excerpts: Sequence[Excerpt]) -> Rule:
    """The rule of at most eight clauses with the highest balanced accuracy less its costs.

    Every word has a cost, and every clause is charged `PSEUDO_ERRORS` false alarms that were not seen, so that a clause
    which fits a few excerpts by chance does not enter. Clauses are added greedily, once for each `CAUTIONS`: at one,
    a broad first clause can block two exact ones.
    """
    active = np.array([excerpt.active for excerpt in excerpts], dtype=bool)
    if not active.any() or active.all():
        return ()
    clauses, holds = _candidates(excerpts, active)
    if not clauses:
        return ()
    costs = np.array([_cost(clause) for clause in clauses])
    best: list[int] = []
    best_worth = 0.0
    for caution in CAUTIONS:
        chosen = _grow(holds, active, costs, caution)
        covered = ~_rest(holds, chosen)[None]
        worth = _gain(covered, active, 1.0)[0] - costs[chosen].sum() - (len(chosen) - 1) * _charge(active)
        if chosen and worth > best_worth + 1e-9:
            best, best_worth = chosen, worth
    return tuple(clauses[index] for index in best)


def _grow(holds: NDArray[np.bool_], active: NDArray[np.bool_], costs: NDArray[np.float64], caution: float) -> list[int]:
    """Add clauses while they pay, false alarms counting ``caution`` times; then drop those that do not."""
    chosen: list[int] = []
    while len(chosen) < MAX_CLAUSES:
        gains = _gain(holds & _rest(holds, chosen), active, caution) - costs
        best = int(gains.argmax())
        if gains[best] <= 0:
            break
        chosen.append(best)
    for index in list(chosen):
        others = [place for place in chosen if place != index]
        if _gain(holds[[index]] & _rest(holds, others), active, 1.0)[0] <= costs[index]:
            chosen = others
    return chosen


def _rest(holds: NDArray[np.bool_], chosen: Sequence[int]) -> NDArray[np.bool_]:
    """Excerpts that none of the chosen clauses covers."""
    rest: NDArray[np.bool_] = np.logical_not(holds[list(chosen)].any(axis=0))
    return rest


def _gain(holds: NDArray[np.bool_], active: NDArray[np.bool_], caution: float) -> NDArray[np.float64]:
    """What each row of covered excerpts adds to balanced accuracy."""
    hits = np.count_nonzero(holds[:, active], axis=1) / active.sum()
    alarms = np.count_nonzero(holds[:, ~active], axis=1) / (~active).sum()
    gains: NDArray[np.float64] = (hits - caution * alarms) / 2 - caution * _charge(active)
    return gains


def _charge(active: NDArray[np.bool_]) -> float:
    return float(PSEUDO_ERRORS / (~active).sum() / 2)


def _candidates(excerpts: Sequence[Excerpt], active: NDArray[np.bool_]) -> tuple[list[Clause], NDArray[np.bool_]]:
    """Clauses with enough support, the plainest first (so that they win ties), and where each of them holds."""
    rows: dict[Condition, list[int]] = {}
    for index, excerpt in enumerate(excerpts):
        for condition in conditions_of(excerpt.tokens):
            rows.setdefault(condition, []).append(index)
    single = sorted(rows, key=lambda condition: (len(condition[1]), condition))
    single = [condition for condition in single if active[rows[condition]].sum() >= MIN_SUPPORT]
    holds = np.zeros((len(single), len(excerpts)), dtype=bool)
    for place, condition in enumerate(single):
        holds[place, rows[condition]] = True
    support = holds[:, active].sum(axis=1)
    # A clause of two holds in no more active excerpts than either part does.
    paired = np.sort(np.argsort(-support, kind="stable")[:MAX_PAIRED])
    pairs = np.array(list(combinations(paired.tolist(), 2)), dtype=np.int64).reshape(-1, 2)
    both = holds[pairs[:, 0]] & holds[pairs[:, 1]]
    enough = both[:, active].sum(axis=1) >= MIN_SUPPORT
    clauses: list[Clause] = [(condition,) for condition in single]
    clauses += [(single[first], single[second]) for first, second in pairs[enough].tolist()]
    holds = np.concatenate([holds, both[enough]])
    order = sorted(range(len(clauses)), key=lambda place: (_cost(clauses[place]), len(clauses[place]), place))
    return [clauses[place] for place in order], holds[order]


def _words(clause: Clause) -> int:
    return sum(len(words) for _, words in clause)


def _cost(clause: Clause) -> float:
    # "One of the last 12" has twelve chances to fit by accident.
    return WORD_PENALTY * (_words(clause) + sum(kind == AMONG for kind, _ in clause))


def applies(rule: Rule, context: Sequence[str]) -> bool:
    """Whether a rule holds at the last token of a context."""
    found = conditions_of(context)
    return any(all(condition in found for condition in clause) for clause in rule)


@dataclass(frozen=True, slots=True)
class Fit:
    """Precision and recall of a rule on the contexts that it was found on."""

    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a sentence says.

    Attributes:
        rule: empty: no rule was found.
        up: words that the component promotes, strongest first.
        down: words that it suppresses.
        fit: None where the sentence does not tell.
    """

    rule: Rule
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    fit: Fit | None = None


def fit_of(rule: Rule, excerpts: Sequence[Excerpt]) -> Fit | None:
    """Precision and recall of a rule; None of a rule that holds nowhere."""
    holds = [applies(rule, excerpt.tokens) for excerpt in excerpts]
    hits = sum(held and excerpt.active for held, excerpt in zip(holds, excerpts, strict=True))
    active = sum(excerpt.active for excerpt in excerpts)
    return Fit(hits / sum(holds), hits / active) if any(holds) and active else None


def write_sentence(rule: Rule, up: Sequence[str] = (), down: Sequence[str] = (), fit: Fit | None = None) -> str:
    """The rule and what the component promotes and suppresses, as one sentence."""
    text = _NO_RULE
    if rule:
        text = _START + _OR.join(_AND.join(_state(*condition) for condition in clause) for clause in rule)
        if fit is not None:
            text += f" (precision {fit.precision:.2f}, recall {fit.recall:.2f})"
    for lead, words in ((_UP, up), (_DOWN, down)):
        if words:
            text += lead + ", ".join(_quote(word) for word in words[:MAX_EFFECTS])
    return text + "."


def read_sentence(text: str) -> Sentence:
    """What a sentence of `write_sentence` states.

    Raises:
        ValueError: it is no such sentence.
    """
    words = iter([_unquote(match[1]) for match in _QUOTED.finditer(text)])
    skeleton = _SKELETON.fullmatch(_QUOTED.sub('""', text))
    if skeleton is None:
        raise ValueError(f"no sentence of the offline judge: {text[:80]!r}")
    rule: Rule = ()
    if skeleton["rule"] is not None:
        rule = tuple(
            tuple(
                (PHRASES.index(phrase), tuple(next(words) for _ in range(phrase.count('""'))))
                for phrase in clause.split(_AND)
            )
            for clause in skeleton["rule"].split(_OR)
        )
    up, down = (tuple(next(words) for _ in range((skeleton[way] or "").count('""'))) for way in ("up", "down"))
    told = _FIT.search(skeleton[0])
    return Sentence(rule, up, down, None if told is None else Fit(float(told[1]), float(told[2])))


def _state(kind: int, words: tuple[str, ...]) -> str:
    quoted = iter(words)
    return re.sub('""', lambda _: _quote(next(quoted)), PHRASES[kind])


def _quote(word: str) -> str:
    escaped = (c if c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in word)
    return f'"{"".join(escaped)}"'


def _unquote(inner: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), inner)
