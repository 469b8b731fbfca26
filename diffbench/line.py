"""Line: anybody's text on one visible line, for messages, tables and records."""

from __future__ import annotations

import re
import unicodedata

from diffbench.errors import DiffbenchError

MESSAGE = 500
"""Characters that are kept of an exception's message."""

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]?", re.DOTALL)


def one_line(text: object, limit: int = 2000) -> str:
    """``text`` in one line, without terminal escapes, control, invisible or direction-changing characters."""
    shown = str(text)[: 16 * limit]  # a stranger's text may have any length; looking at it must not take long
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(
            " " if char.isspace() else char
            for char in _ESCAPES.sub("", shown)
            if char.isspace() or unicodedata.category(char)[0] != "C"
        )
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def error_line(error: BaseException) -> str:
    """``Kind: message`` of an exception on one line; for errors made for people the message alone."""
    text = one_line(error, MESSAGE)
    if isinstance(error, DiffbenchError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
