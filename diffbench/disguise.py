"""Disguise: ways of writing a text so that it looks like something else, or like nothing at all."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable
from typing import Literal

Disguise = Literal[
    "none", "base64", "rot13", "spaced", "homoglyph", "full-width", "zero-width", "bidi", "tags", "combining"
]

_LATIN = "aceiopsxyABCEHIKMOPTX"
_CYRILLIC = "асеіорѕхуАВСЕНІКМОРТХ"
_ALIKE = str.maketrans(_LATIN, _CYRILLIC)
_WIDE = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
_TAGS = str.maketrans({chr(code): chr(code + 0xE0000) for code in range(0x20, 0x7F)})
_RIGHT_TO_LEFT, _POP, _ZERO_WIDTH, _STRIKE = "\u202e", "\u202c", "\u200b", "\u0336"


def disguised(text: str, how: Disguise) -> str:
    """A text in some other form.

    Args:
        text: what it says.
        how: none; base64; rot13; spaced, a blank after each letter; homoglyph, Cyrillic letters that look like Latin
            ones; full-width forms; zero-width, an invisible blank after each letter; bidi, written backwards behind a
            character that turns the direction round; tags, the invisible tag characters of Unicode (U+E0020 and
            up); combining, each letter struck through.
    """
    return _FORMS[how](text)


_FORMS: dict[Disguise, Callable[[str], str]] = {
    "none": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "spaced": " ".join,
    "homoglyph": lambda text: text.translate(_ALIKE),
    "full-width": lambda text: text.translate(_WIDE),
    "zero-width": _ZERO_WIDTH.join,
    "bidi": lambda text: _RIGHT_TO_LEFT + text[::-1] + _POP,
    "tags": lambda text: text.translate(_TAGS),
    "combining": lambda text: "".join(character + _STRIKE for character in text),
}
