"""Lines: what a stranger writes is shown as visible text of one bounded line."""

from __future__ import annotations

import pytest

from diffbench.errors import OptionError
from diffbench.line import error_line, one_line

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07x",
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mC1",
    "a\u202eb\u2066c\u200bd\ufeff",
    "line\r\nline\tx\x0b\x0c\u2028\u2029\x85y",
    "\x00\x07\x08\x7f",
    "\ud800",
    "\x1b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_one_line_leaves_one_line_of_visible_text(text: str) -> None:
    result = one_line(text)
    assert result.isprintable()
    assert "[31m" not in result
    assert "title" not in result
    result.encode()
    assert one_line(result) == result


def test_one_line_keeps_words_apart_and_bounds_length() -> None:
    assert one_line("a\nb\tc") == "a b c"
    assert one_line("  naïve 日本  ") == "naïve 日本"
    assert one_line("x" * 9, 5) == "xxxx…"


def test_a_very_long_text_is_cut() -> None:
    assert one_line("\x1b[31m" + "x " * 10_000_000, 10) == "x x x x x…"


@pytest.mark.parametrize(
    "error, line",
    [
        (OptionError("k: 9\nis more"), "k: 9 is more"),
        (ValueError("two\nlines\x1b[2J"), "ValueError: two lines"),
        (OptionError(), "OptionError"),
        (KeyError("a" * 600), "KeyError: '" + "a" * 498 + "…"),
    ],
)
def test_errors_made_for_people_stand_alone_and_others_say_their_kind(error: Exception, line: str) -> None:
    assert error_line(error) == line
