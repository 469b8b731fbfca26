"""Tokens with shades: nothing is invisible, nothing turns the text, nothing becomes markup."""

from __future__ import annotations

import unicodedata

import pytest

from diffbench.shading import chip, chips, largest, seen, sentence, shaded, word


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("\u0120green", "green"),
        ("\u2581green", "green"),
        ("\n", "↵"),
        ("\u010a", "↵"),
        ("\t", "⇥"),
        ("", "∅"),
        (" ", "␣"),
        ("\u0120", "␣"),
        ("a\u202eb", "a\ufffdb"),
        ("\x00", "\ufffd"),
        ("\ud800", "\ufffd"),
        ("\u200b", "\ufffd"),
        ("\x1b[31m", "\ufffd[31m"),
    ],
)
def test_a_token_is_shown_as_a_reader_sees_it(token: str, expected: str) -> None:
    assert word(token) == expected


def test_no_token_brings_markup_or_invisible_characters() -> None:
    bad = ["<script>", '"><img src=x onerror=y>', "&amp;", "\u202e", "\ud800", "</i>"]
    for found in (shaded(bad, [1.0] * 6, 1.0, 2), chips(bad, 9), chip(bad[0], 1.0, 1.0), chip(bad[1], -1.0, 1.0)):
        assert "<script" not in found and "<img" not in found
        assert all(unicodedata.category(char)[0] != "C" for char in found)
        found.encode("utf-8")
    assert "&amp;amp;" in shaded(bad, [None] * 6, 0.0)


def test_words_are_parted_as_the_tokenizer_parts_them() -> None:
    assert shaded(["the", "hat"], [None, None], 1.0) == "the hat"
    assert shaded(["\u0120the", "\u0120h", "at"], [None] * 3, 1.0) == "the hat"
    assert sentence(["\u2581the", "\u2581h", "at", "\n"]) == "the hat↵"
    assert sentence(["the", "<bos>"]) == "the <bos>"


def test_shades_follow_size_and_sign_and_small_values_cost_no_markup() -> None:
    found = shaded(list("abcde"), [1.0, 0.5, 0.001, -1.0, None], 1.0, at=4)
    assert found == (
        '<i class="h9" title="1">a</i> <i class="h5" title="0.5">b</i> c <i class="c9" title="-1">d</i> <u>e</u>'
    )
    assert shaded(["a"], [float("inf")], 1.0) == "a"
    assert shaded(["a", "b"], [1.0], 0.0) == "a b", "no scale, and fewer values than tokens"


def test_what_is_left_out_is_counted() -> None:
    assert chips(["a"] * 5, 2).endswith("<small>+3</small>")
    assert len(seen("x" * 500)) == 61
    assert largest([None, -3.0, 2.0]) == 3.0 and largest([]) == 0.0
