"""Exhibit: what a question holds, written out behind a fence and cut to stated lengths.

Pieces of one kind share the room that there is equally, so that none is cut more than another because there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffbench.account import Account, Pattern, written
from diffbench.errors import JudgeError
from diffbench.fence import MAX_TOKEN, Fence, cut, marked
from diffbench.question import Evidence, Exchange, Fact, Note, Tokens

MAX_EXPLANATION, MAX_STATEMENT, MAX_CONTEXT, MAX_REPLY = 4000, 4000, 1200, 800
"""Characters of an explanation, of a statement, of a context, and of what a model said once."""

MAX_DATA = 60_000
"""Characters of all contexts or notes of a question together."""

MAX_PIECES, MAX_WORDS = 400, 40
"""Contexts or statements of a question, each of which needs an answer; words of a list, and notes or exchanges."""

MAX_REPLIES, MAX_NEXT = 6, 5
"""Replies of one model to one prompt, and its likeliest next words."""

GAINS = (
    ("words that the second model says more often there", "tokens_up"),
    ("words that it says less often there", "tokens_down"),
)
PROMOTES = (
    ("words that it makes likelier", "tokens_up"),
    ("words that it makes less likely", "tokens_down"),
    ("words likelier in the second model where it is most active", "kl_up"),
    ("words less likely in the second model there", "kl_down"),
)


def description(explanation: str, fence: Fence) -> str:
    """An explanation of a component."""
    return "Description:\n" + fence.block([fence.piece(explanation, MAX_EXPLANATION)])


def passage(title: str, tokens: Tokens, fence: Fence) -> str:
    """One text."""
    return f"{title}\n{fence.block([fence.piece(written(tokens), MAX_CONTEXT)])}"


def numbered(title: str, texts: Sequence[str], fence: Fence) -> str:
    """Texts, one a line, numbered from 0.

    Raises:
        JudgeError: if there are more than `MAX_PIECES`.
    """
    lines = (f"{number}: {fence.piece(text, _room(texts))}" for number, text in enumerate(texts))
    return f"{title}\n{fence.block(lines)}"


def evidence(of: Evidence, fence: Fence) -> list[str]:
    """Contexts with what is known of a component there, and its effects.

    Raises:
        JudgeError: if there are more than `MAX_PIECES` contexts.
    """
    room, lines = _room(of.excerpts), []
    strongest = max((excerpt.activity for excerpt in of.excerpts), default=0.0)
    for number, excerpt in enumerate(of.excerpts):
        state = f"active, {_tenth(excerpt.activity, strongest)}" if excerpt.active else "not active"
        text = fence.piece(marked(excerpt.tokens, [len(excerpt.tokens) - 1]), room)
        course = " ".join(str(_tenth(one, strongest)) for one in excerpt.activities[-32:])
        lines.append(f"{number}: {state}: {text}{f' | word by word: {course}' if course else ''}")
    effects = [*_lists(of, PROMOTES, fence), *_share(of.effect)]
    found = ["Contexts:\n" + fence.block(lines)]
    return [*found, "What is known of its effects:\n" + fence.block(effects)] if effects else found


def noted(notes: Sequence[Note], fence: Fence, total: int = MAX_DATA) -> str:
    """Notes on findings, in their order."""
    if not notes:
        return "A program that looked for differences has noted none."
    room, lines = total // 2 // min(len(notes), MAX_WORDS), []
    for number, note in enumerate(notes[:MAX_WORDS]):
        lines.append(f"{number}: {fence.piece(note.explanation, min(MAX_EXPLANATION, room))}")
        about = "; ".join((*_lists(note, PROMOTES, fence), *_share(note.effect)))
        lines += [f"   {cut(about, room)}"] if about else []
    title = f"Notes of a program that looked for differences, the most important first{_left_out(len(notes))}"
    return f"{title}. Some or all of them may be noise.\n{fence.block(lines)}"


def facts(known: Sequence[Fact], fence: Fence) -> str:
    """What is true of a pair."""
    room, lines = min(MAX_STATEMENT, MAX_DATA // 4 // min(len(known), MAX_WORDS)), []
    for number, fact in enumerate(known[:MAX_WORDS]):
        lines.append(f"{number}: {fence.piece(fact.statement, room)}")
        lines.append(f"   where: {fence.piece(fact.trigger, room)}")
        lines += [f"   {cut(line, room)}" for line in _lists(fact, GAINS, fence)]
    return f"What was changed{_left_out(len(known))}:\n{fence.block(lines)}"


def account(of: Account, fence: Fence) -> str:
    """An account without its confidence, which is scored elsewhere and is no part of what it says."""
    lines = [f"verdict: {of.verdict}", f"statement: {fence.piece(of.statement, MAX_STATEMENT)}"]
    lines += [f"trigger: {_pattern(pattern, fence)}" for pattern in of.trigger]
    return f"Account:\n{fence.block([*lines, *_lists(of, GAINS, fence)])}"


def exchanges(asked: Sequence[Exchange], fence: Fence, total: int = MAX_DATA) -> str:
    """What two models were asked and said; of very many exchanges the latest."""
    if not asked:
        return "Nothing has been asked yet."
    room, lines = total // 3 // min(len(asked), MAX_WORDS), []
    for number, exchange in enumerate(asked[-MAX_WORDS:]):
        lines.append(f"{number}: prompt: {fence.piece(exchange.prompt, min(2000, room))}")
        if exchange.remark is not None:
            lines.append(f"{number}: remark: {fence.piece(exchange.remark, min(300, room))}")
        lines += _said("first", exchange.first, exchange.first_next, room, fence)
        lines += _said("second", exchange.second, exchange.second_next, room, fence)
    return f"What has been asked{_left_out(len(asked))}:\n{fence.block(lines)}"


def _said(
    name: str, texts: Sequence[str], following: Sequence[tuple[str, float]], room: int, fence: Fence
) -> list[str]:
    each = min(MAX_REPLY, room // max(1, min(len(texts), MAX_REPLIES)))
    lines = [f"   the {name} model said: {fence.piece(text, each)}" for text in texts[:MAX_REPLIES]]
    if following:
        guesses = (f'"{_word(token, fence)}" {share:.3f}' for token, share in following[:MAX_NEXT])
        lines.append(f"   the {name} model's likeliest next words: {', '.join(guesses)}")
    return lines


def _lists(of: Evidence | Note | Fact | Account, names: Iterable[tuple[str, str]], fence: Fence) -> list[str]:
    """Lists of words, one a line, those that are there."""
    found: list[tuple[str, Tokens]] = [(title, getattr(of, name)) for title, name in names]
    return [f"{title}: {_words(words, fence)}" for title, words in found if words]


def _words(words: Sequence[str], fence: Fence) -> str:
    return ", ".join(f'"{_word(word, fence)}"' for word in words[:MAX_WORDS])


def _word(token: str, fence: Fence) -> str:
    return fence.piece(written([token]), MAX_TOKEN)


def _pattern(pattern: Pattern, fence: Fence) -> str:
    parts = []
    if pattern.ends_with:
        parts.append(f"contexts that end with {_words(pattern.ends_with, fence)}")
    if pattern.contains:
        parts.append(f"contexts that contain {_words(pattern.contains, fence)}")
    return " and ".join(parts) or "every context"


def _share(effect: float | None) -> list[str]:
    return [] if effect is None else [f"share of the two models' difference that it accounts for there: {effect:.2f}"]


def _tenth(activity: float, strongest: float) -> int:
    return max(0, min(9, round(9 * activity / strongest))) if strongest > 0 else 0


def _room(pieces: Sequence[object]) -> int:
    if len(pieces) > MAX_PIECES:
        raise JudgeError(f"a question of {len(pieces)} parts; a prompt takes {MAX_PIECES}")
    return min(MAX_CONTEXT, MAX_DATA // max(1, len(pieces)))


def _left_out(n: int) -> str:
    return f" ({n - MAX_WORDS} more are left out)" if n > MAX_WORDS else ""
