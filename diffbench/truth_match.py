"""Truth match: does an account of what changed agree with what is known of the pair?

Once without any language model: the patterns that the account gives must tell contexts in which something was changed
from near-miss ones, and the words that it lists must be those that moved. And by a judge's verdicts on it.

A right trigger and right words are worth one half each. A wrong word takes as much as two right ones bring, and parts
that are worse than nothing count whole, not half: a trigger that fits every context is worth 0, and words that are
right half of the time, as those of all claims at once can be, take away what a right trigger beside them brings. (The
lesser of the two parts would do for that as well. But not every trigger can be stated as a pattern: of a model that
says green for blue, "the text asks for something that is blue" cannot, and all that is right about the words would
count for nothing.)

An account that says "unchanged" of a pair that was changed gets what abstaining gets, 0: it has found as much. Its
confidence is another matter, and is scored. Where nothing was changed on purpose, who asserts a change gets 0,
whatever a judge says of it. Verdicts that were not obtained give no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from diffbench.account import MOST_WORDS, Account, plain, words_of
from diffbench.choices import choices, n_choices
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.panel import Verdict
from diffbench.question import Choose, Grade, Graded, Pick, Stated
from diffbench.scores import MOST_STATED, TruthMatch
from diffbench.sheet import Moved, Place, Sheet
from diffbench.truth import LEAST_PROBES, Schema

HIGHEST = 4
"""Of the scale of `diffbench.question.Grade`."""
UNKNOWN = Figure.not_applicable("nobody knows what was changed")
NULL = Figure.not_applicable("nothing was changed on purpose")
ABSTAINS = Figure.not_applicable("the account abstains")
SAYS_NOTHING = Figure.not_applicable("the account says that nothing was changed")

__all__ = ["TruthMatch", "auroc", "match_questions", "tells", "truth_match"]

Answer = TypeVar("Answer", bound=Schema)


def match_questions(account: Account, sheet: Sheet, seed: int) -> tuple[Grade, Choose, int]:
    """What a judge is asked about an account, and the index of the right one of the statements."""
    statements, right = choices(sheet, seed)
    return Grade(facts=sheet.facts, account=account), Choose(account=account, statements=statements), right


def truth_match(
    sheet: Sheet | None, account: Verdict, grade: Verdict | None, choose: Verdict | None, right: int
) -> TruthMatch:
    """Score an account.

    Args:
        sheet: of the pair; None: nobody knows what was changed, and only what the account says is kept.
        account: the verdict that holds it, of a `Summarise` question or of the last turn of a game.
        grade: on its `Grade` question; None: it was not asked.
        choose: on its `Choose` question.
        right: index of the right one of the statements.
    """
    held = _answer(account, Stated)
    if isinstance(held, Figure):
        return TruthMatch.none(held)
    said = held.account
    told = {"verdict": said.verdict, "confidence": said.confidence, "statement": one_line(said.statement, MOST_STATED)}
    if sheet is None:
        return TruthMatch.none(UNKNOWN).model_copy(update=told)
    place, place_unrelated = _aurocs(said, sheet)
    words = _counted(said, sheet)
    precision, recall, f1, net = (words,) * 4 if isinstance(words, Figure) else words.figures()
    chosen = _choice(said, sheet, choose, right)
    return TruthMatch(
        auroc=place,
        auroc_unrelated=place_unrelated,
        precision=precision,
        recall=recall,
        f1=f1,
        net=net,
        structured=_structured(said, sheet, place, words),
        grade=_graded(said, sheet, grade),
        choice=chosen,
        chance=Figure.of(1 / n_choices(sheet)),
        brier=_brier(said, sheet, choose, right),
    ).model_copy(update=told)


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """P(positive > negative) + half of P(equal) for one drawn of each: Mann-Whitney's U, over how many pairs there are.

    Raises:
        ValueError: if there is none of either.
    """
    if not positive or not negative:
        raise ValueError("an AUROC needs values of both kinds")
    own, others = Counter(positive), Counter(negative)
    below, twice = 0, 0
    for value in sorted(own.keys() | others.keys()):
        twice += own[value] * (2 * below + others[value])
        below += others[value]
    return twice / (2 * len(positive) * len(negative))


def tells(account: Account, place: Place) -> float:
    """How telling the account finds a context: (n - i) / n of the first of its n patterns that fits, 0 if none does."""
    words, n = words_of(place.tokens), len(account.trigger)
    return next(((n - i) / n for i, pattern in enumerate(account.trigger) if pattern.matches(words)), 0.0)


def _aurocs(said: Account, sheet: Sheet) -> tuple[Figure, Figure]:
    """Of the account's patterns against near-miss contexts, and against unrelated ones as well."""
    why = _silent(said, sheet)
    affected = [place for place in sheet.places if place.stratum == "affected"]
    near = [place for place in sheet.places if place.stratum == "near_miss"]
    if why is None and min(len(affected), len(near)) < LEAST_PROBES:
        why = Figure.undefined(f"{len(affected)} affected and {len(near)} near-miss probes; {LEAST_PROBES} are needed")
    if why is not None:
        return why, why
    values = {
        s: [tells(said, p) for p in sheet.places if p.stratum == s] for s in ("affected", "near_miss", "unrelated")
    }
    positive, close = values["affected"], values["near_miss"]
    return Figure.of(auroc(positive, close)), Figure.of(auroc(positive, close + values["unrelated"]))


@dataclass(frozen=True, slots=True)
class _Counted:
    """How many words an account lists, each with its way, how many of them moved so, and how many moved."""

    hits: int
    listed: int
    moved: int

    def figures(self) -> tuple[Figure, Figure, Figure, Figure]:
        """Precision, recall, F1 and net."""
        hits, listed, moved = self.hits, self.listed, self.moved
        precision = Figure.of(hits / listed) if listed else Figure.none("the account lists no words")
        net = Figure.of((2 * hits - listed) / max(listed, moved))
        return precision, Figure.of(hits / moved), Figure.of(2 * hits / (listed + moved)), net

    @property
    def worth(self) -> float:
        """Of the words as a part of the structured score, -2..1."""
        return (3 * self.hits - 2 * self.listed) / max(self.listed, self.moved)


def _counted(said: Account, sheet: Sheet) -> _Counted | Figure:
    """Compare the words that an account lists with those that moved; or why there is nothing to be compared."""
    why = _silent(said, sheet)
    if why is None and not (sheet.moved_up or sheet.moved_down):
        why = Figure.undefined("no word's probability moved at the affected probes")
    if why is not None:
        return why
    hits = listed = moved = 0
    for words, true, way in (
        (said.tokens_up, sheet.moved_up, "tokens_up"),
        (said.tokens_down, sheet.moved_down, "tokens_down"),
    ):
        # Of many words that share a fall each may fall by less than is measured, and is no error.
        claimed = {plain(word) for fact in sheet.facts for word in getattr(fact, way)}
        keys = _keys(words, true) - claimed
        listed += len(keys)
        hits += sum(isinstance(key, int) for key in keys)
        moved += min(len(true), MOST_WORDS)
    return _Counted(hits, listed, moved)


def _keys(words: Sequence[str], true: Sequence[Moved]) -> set[int | str]:
    """The words that an account lists, each once however it is spelt: by index of what moved, or as it is written."""
    known = {plain(name): index for index, one in reversed(list(enumerate(true))) for name in one.names}
    return {known.get(word, word) for word in map(plain, words) if word}


def _silent(said: Account, sheet: Sheet) -> Figure | None:
    """Why there is nothing to be compared."""
    if not sheet.changed:
        return NULL
    return {"abstain": ABSTAINS, "unchanged": SAYS_NOTHING}.get(said.verdict)


def _structured(said: Account, sheet: Sheet, place: Figure, words: _Counted | Figure) -> Figure:
    if not sheet.changed:
        return Figure.of({"unchanged": 1.0, "abstain": 0.5, "changed": 0.0}[said.verdict])
    if said.verdict != "changed":
        return Figure.of(0.0)
    if place.value is None:
        return place
    if isinstance(words, Figure):
        return words
    return Figure.of(max(-1.0, _part(2 * place.value - 1) + _part(words.worth)))


def _part(worth: float) -> float:
    return worth / 2 if worth >= 0 else worth


def _graded(said: Account, sheet: Sheet, verdict: Verdict | None) -> Figure:
    """The grade over 4. An account of which a judge says that it commits to nothing counts as one that abstains."""
    nothing_said = 0.0 if sheet.changed else 0.5
    if said.verdict == "abstain":
        return Figure.of(nothing_said)
    if _contradicts(said, sheet):
        return Figure.of(0.0)
    held = _answer(verdict, Graded)
    if isinstance(held, Figure):
        return held
    return Figure.of(nothing_said if held.grade is None else held.grade / HIGHEST)


def _choice(said: Account, sheet: Sheet, verdict: Verdict | None, right: int) -> Figure:
    chance = Figure.of(1 / n_choices(sheet))
    if said.verdict == "abstain":
        return chance
    if _contradicts(said, sheet):
        return Figure.of(0.0)
    held = _answer(verdict, Pick)
    if isinstance(held, Figure):
        return held
    return chance if held.pick is None else Figure.of(float(held.pick == right))


def _brier(said: Account, sheet: Sheet, verdict: Verdict | None, right: int) -> Figure:
    """A choice that a judge cannot make is one that was not found right."""
    if said.verdict == "abstain":
        return ABSTAINS
    if _contradicts(said, sheet):
        return Figure.of(said.confidence**2)
    if not sheet.changed:
        return Figure.of((1 - said.confidence) ** 2)
    held = _answer(verdict, Pick)
    if isinstance(held, Figure):
        return held
    return Figure.of((said.confidence - float(held.pick == right)) ** 2)


def _contradicts(said: Account, sheet: Sheet) -> bool:
    """Whether the verdict alone makes an account wrong."""
    return said.verdict == ("unchanged" if sheet.changed else "changed")


def _answer(verdict: Verdict | None, form: type[Answer]) -> Answer | Figure:
    """The answer of a verdict, or why there is none."""
    if verdict is None:
        return Figure.undefined("the judge was not asked")
    if verdict.state == "ok" and isinstance(verdict.answer, form):
        return verdict.answer
    why = verdict.problem or f"the answer is no {form.__name__}"
    return Figure.undefined(one_line(f"{verdict.kind}: {verdict.state}: {why}", 300))
