"""Shading: tokens of a stranger as text with colours, in as little markup as it takes. Everything is escaped.

Shades are nine steps, classes ``h1`` to ``h9`` (below zero ``c1`` to ``c9``), whose colours are the page's.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from markupsafe import Markup, escape

from diffbench.account import MARKERS
from diffbench.table import precise

STEPS = 9
LEAST = 0.06
"""Share of the scale under which a token is not shaded."""
LONGEST = 60
_SEEN = {"\n": "↵", "\t": "⇥", "\u010a": "↵", "\r": "␍"}


def seen(token: str) -> str:
    """A token as a reader sees it: marks of word beginnings are blanks, and nothing is invisible or turns the text."""
    text = token
    for mark in MARKERS:
        text = text.replace(mark, " ")
    shown = "".join(_character(char) for char in text[:LONGEST])
    return shown + "…" if len(text) > LONGEST else shown


def word(token: str) -> str:
    """A token by itself: blanks around it are left out, and one of blanks alone is shown as such."""
    shown = seen(token)
    return shown.strip() or ("␣" if shown else "∅")


def shaded(tokens: Sequence[str], values: Sequence[float | None], top: float, at: int | None = None) -> Markup:
    """A piece of text with a shade for each token.

    Args:
        tokens: the text.
        values: one for each token; None: it has none.
        top: size of the value that has the deepest shade.
        at: the token that the text was chosen for, which is underlined.
    """
    glued = any(token.startswith((*MARKERS, " ")) for token in tokens)
    parts: list[Markup] = []
    for place, token in enumerate(tokens):
        value = values[place] if place < len(values) else None
        shown = seen(token) if glued else word(token)
        blank = Markup(" ") if parts and (not glued or shown.startswith(" ")) else Markup()
        parts.append(blank + _span(shown.lstrip(" ") if glued else shown, value, top, place == at))
    return Markup().join(parts)


def sentence(tokens: Sequence[str]) -> str:
    """Tokens as plain text, to be escaped like any other."""
    glued = any(token.startswith((*MARKERS, " ")) for token in tokens)
    return "".join(map(seen, tokens)).strip() if glued else " ".join(map(word, tokens))


def chip(token: str, value: float, top: float) -> Markup:
    """One token with its shade and value."""
    return Markup('<b class="tok {}" title="{}">{}</b>').format(_shade(value, top), precise(value), word(token))


def chips(tokens: Sequence[str], most: int, kind: str = "") -> Markup:
    """Tokens beside each other; how many more there are is said."""
    shown = Markup(" ").join(Markup('<b class="tok {}">{}</b>').format(kind, word(token)) for token in tokens[:most])
    return shown + Markup(" <small>+{}</small>").format(len(tokens) - most) if len(tokens) > most else shown


def largest(values: Sequence[float | None]) -> float:
    """Size of the largest value; 0 of none."""
    return max((abs(value) for value in values if value is not None), default=0.0)


def _span(text: str, value: float | None, top: float, chosen: bool) -> Markup:
    shade = _shade(value, top)
    if not shade and not chosen:
        return escape(text)
    tag = "u" if chosen else "i"
    named = Markup(' class="{}"').format(shade) if shade else Markup()
    told = Markup(' title="{}"').format(precise(value)) if value is not None else Markup()
    return Markup("<{0}{1}{2}>{3}</{0}>").format(Markup(tag), named, told, text)


def _shade(value: float | None, top: float) -> str:
    if value is None or not math.isfinite(value) or top <= 0 or abs(value) < LEAST * top:
        return ""
    return f"{'h' if value > 0 else 'c'}{min(STEPS, max(1, math.ceil(abs(value) / top * STEPS)))}"


def _character(char: str) -> str:
    if char in _SEEN:
        return _SEEN[char]
    if char.isspace():
        return " "
    return "\ufffd" if unicodedata.category(char)[0] == "C" else char
