"""Table: how numbers, missing numbers and untrusted text look in a terminal, in Markdown and in CSV."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Generic, TypeVar

from rich.cells import cell_len, set_cell_size

from diffbench.line import one_line

Row = Mapping[str, Any]
FULL_WIDTH = 120
LABEL_WIDTH = 44
NOTE_WIDTH = 48
DEEPEST = 20
LONGEST = 2000
"""Characters that one line may have."""
KNOWN_KEY = 64
"""Characters of a key that is remembered as it looks on one line."""
Shown = TypeVar("Shown")
STATES = {"none": "none", "n/a": "n/a", "undefined": "undef.", "error": "ERROR"}

_SPECIAL = re.compile(r"([\\`*\[\]|~$])|(?<!\w)_|_(?!\w)")
_BRACKET = re.compile(r"[\[\]{}]")
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def plain(value: Any, depth: int = 0) -> Any:
    """JSON of a stranger with clean texts, finite numbers and a bounded depth; what is so already is returned as is."""
    if not depth and isinstance(value, dict | list | tuple) and _is_plain(value):
        return value
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if depth > DEEPEST:
        return "…"
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, dict):
        known = _known_key
        return {
            known(key) if type(key) is str and len(key) <= KNOWN_KEY else one_line(str(key)): plain(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    return value


def _is_plain(value: Any) -> bool:
    """Whether nothing needs to be cleaned, by a look at the whole, which is faster than one at every part."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        return False
    if not (text.isascii() and text.isprintable()) or any(part in text for part in ("\\", "  ", '" ', ' "')):
        return False
    pieces = text.split('"')  # nothing is escaped: what stands between quotes is every other one
    if max(map(len, pieces)) > LONGEST:
        return False
    brackets = _BRACKET.findall("".join(pieces[::2]))
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets)) <= DEEPEST


# Keys repeat from record to record.
_known_key = lru_cache(maxsize=4096)(one_line)


def number(value: float, state: str = "ok") -> str:
    """A score: ``.85``, ``-.12``, ``12.3``, ``1,234``; or ``n/a``, ``undef.``, ``ERROR``."""
    if state != "ok":
        return STATES[state]
    size = abs(value)
    if size >= 1e6:
        return f"{value:.2g}"
    text = f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
    if text.startswith("0."):
        return text[1:]
    if text.startswith("-0."):
        return ".00" if text == "-0.00" else f"-{text[2:]}"
    return text


def precise(value: float, state: str = "ok") -> str:
    """A quantity that may be tiny, with three significant digits."""
    return f"{value:.3g}" if state == "ok" else STATES[state]


def count(value: float, state: str = "ok") -> str:
    """A rank or a count; a mean of several may have a fraction."""
    if state != "ok":
        return STATES[state]
    return f"{value:,.0f}" if math.isclose(value, round(value)) else f"{value:,.1f}"


def share(value: float, state: str = "ok") -> str:
    """A share as per cent."""
    return f"{100 * value:.3g}%" if state == "ok" else STATES[state]


@dataclass(frozen=True, slots=True)
class Column(Generic[Shown]):
    """One column of a table that people read; ``text`` marks words, which are left-aligned and may be hostile."""

    head: str
    cell: Callable[[Shown], str]
    legend: str
    text: bool = False


def text_table(
    columns: Sequence[Column[Any]], cells: Sequence[Sequence[str]], width: int, dropped: Sequence[str]
) -> str:
    """Plain text with as many columns as fit; those named in ``dropped`` go first, in that order."""
    for n in range(len(dropped) + 1):
        kept = [i for i, column in enumerate(columns) if column.head not in dropped[:n]]
        lines = align([columns[i] for i in kept], [[row[i] for i in kept] for row in cells])
        if max(map(cell_len, lines)) <= width:
            break
    text = "\n".join(clip(line.rstrip(), width) for line in lines) + "\n"
    gone = {column.head for column in columns}.intersection(dropped[:n])
    left_out = ", ".join(head for head in dropped[:n] if head in gone)
    return text + (clip(f"(too narrow for: {left_out})", width) + "\n" if left_out else "")


def markdown_table(columns: Sequence[Column[Any]], cells: Sequence[Sequence[str]]) -> str:
    """A GitHub table whose source is aligned as well; all text is escaped here."""
    escaped = [
        [escape_markdown(cell) if column.text else cell for column, cell in zip(columns, row, strict=True)]
        for row in cells
    ]
    head, *body = align(columns, escaped, "|")
    widths = [len(part) for part in head.split("|")]
    rule = [
        (":" + "-" * (width - 1)) if column.text else ("-" * (width - 1) + ":")
        for column, width in zip(columns, widths, strict=True)
    ]
    return "".join(f"|{line}|\n" for line in (head, "|".join(rule), *body))


def align(columns: Sequence[Column[Any]], cells: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Heads and cells as lines of equal width."""
    table = [[column.head for column in columns], *cells]
    widths = [max(2, *(cell_len(row[i]) for row in table)) for i in range(len(columns))]
    lines = []
    for row in table:
        parts = []
        for column, width, cell in zip(columns, widths, row, strict=True):
            blank = " " * (width - cell_len(cell))
            parts.append(cell + blank if column.text else blank + cell)
        lines.append(gap.join(parts))
    return lines


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` terminal cells."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def escape_markdown(text: str) -> str:
    """``text`` as it is, wherever it stands in a Markdown document: no markup, no HTML, no new cell or line."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(lambda found: "\\" + found.group(), text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def csv_cell(value: Any) -> Any:
    """A CSV value that no spreadsheet takes for a formula; a quote in front marks text that looks like one."""
    if not isinstance(value, str) or not value.lstrip(" '\"").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
