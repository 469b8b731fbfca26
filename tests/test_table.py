"""Table: numbers, missing numbers and hostile text in a terminal, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import board_of_everything, record, scores
from rich.cells import cell_len

from diffbench.layout import DETAILS, DETAILS_DROPPED, DROPPED, LAYOUT, section_text
from diffbench.leaderboard import rows, summary, to_csv
from diffbench.line import one_line
from diffbench.summary import plain_rows
from diffbench.table import (
    DEEPEST,
    Column,
    clip,
    count,
    csv_cell,
    escape_markdown,
    markdown_table,
    number,
    plain,
    precise,
    share,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.85, ".85"),
        (-0.12, "-.12"),
        (0.0, ".00"),
        (-0.0001, ".00"),
        (1.0, "1.00"),
        (-1.5, "-1.50"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (1e300, "1e+300"),
        (-1e7, "-1e+07"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_no_number_is_never_zero() -> None:
    for form in (number, precise, count, share):
        assert [form(0.0, state) for state in ("n/a", "undefined", "error")] == ["n/a", "undef.", "ERROR"]


def test_other_quantities() -> None:
    assert (precise(1.234e-7), precise(0.2314)) == ("1.23e-07", "0.231")
    assert (count(3.0), count(3.5), count(1234.0)) == ("3", "3.5", "1,234")
    assert (share(0.031), share(1.0)) == ("3.1%", "100%")


def test_plain_bounds_depth_and_numbers() -> None:
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    assert "…" in str(plain(deep))
    assert plain({"a\x1b": [float("nan"), float("inf"), 1.5, None, True]}) == {"a": ["nan", "inf", 1.5, None, True]}


TEXTS = st.text(st.sampled_from('ab \x1b\n\\"\u202e\xe9'), max_size=5) | st.sampled_from(["x" * 1999, "y" * 2001])
LEAVES = TEXTS | st.floats() | st.integers() | st.booleans() | st.none()


@given(st.recursive(LEAVES, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3)))
def test_what_is_plain_at_a_glance_is_plain_part_by_part(value: object) -> None:
    if isinstance(value, dict):
        assert plain(value) == {one_line(key): plain(part, 1) for key, part in value.items()}
    elif isinstance(value, list):
        assert plain(value) == [plain(part, 1) for part in value]


def test_how_deep_something_is_decides_and_not_how_it_is_looked_at() -> None:
    value: object = "deep"
    for _ in range(DEEPEST + 2):
        value = [value]
    assert plain(value) != value and plain(value[0]) == value[0]  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "`code`",
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "![x](http://evil/x.png)",
        "**bold** _em_ ~~gone~~ $x$",
        "a\n\n# heading",
        "&lt;b&gt;",
        "back\\slash\\",
        "\\|",
        "http://evil/ www.evil",
    ],
)
def test_markdown_is_inert(text: str) -> None:
    result = escape_markdown(text)
    assert not re.search(r"[<>\n]", result)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[\]~$]", re.sub(r"\\.", "", result))
    assert "://" not in result
    assert "www." not in result
    assert not re.search(r"&(?!amp;|lt;|gt;|#58;|#46;)", result)


def test_plain_names_are_left_as_they_are() -> None:
    assert escape_markdown("crosscoder-l1 a_b (v1.0)") == "crosscoder-l1 a_b (v1.0)"


def test_a_hostile_cell_does_not_break_the_grid() -> None:
    columns: list[Column[object]] = [Column("a", str, "", text=True), Column("b", str, "")]
    table = markdown_table(columns, [["x | y \\| z\n|q|", "1"]])
    head, rule, line = table.splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == head.count("|") == rule.count("|") == 3


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1", "'=1", '"=1', "＝1", "-", "--1"])
def test_csv_formulas_are_quoted(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["-1.5", "+3", "-1e-7", "halfswap", "", "a=1", -1.5, 0, True, None])
def test_csv_leaves_the_rest(value: object) -> None:
    assert csv_cell(value) == value


def test_csv_of_a_hostile_record() -> None:
    evil = record(
        '=HYPERLINK("http://evil")',
        status="error",
        reason='@cmd|"/c calc"\n=1,2\x1b[2J',
        cell={"organism": "+evil,\r\n=2", "tier": "-x"},
    )
    frame = rows([evil, record(scored=scores(-0.25))])
    lines = list(csv.reader(io.StringIO(to_csv(frame))))
    assert [len(line) for line in lines] == [len(frame.columns)] * 3
    cells = [cell for line in lines[1:] for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
    assert all(cell.isprintable() for cell in cells)
    assert {cell for cell in cells if cell.startswith("-")} >= {"-0.25"}
    assert "'-x" in cells


def test_width() -> None:
    table = plain_rows(summary(rows(board_of_everything()[:-1])))
    wide = section_text(table, 200)
    assert all(head in wide.splitlines()[0] for head in DROPPED)
    for width in (40, 80, 100, 120):
        lines = section_text(table, width).splitlines()
        assert max(map(cell_len, lines)) <= width
        left_out = [line for line in lines if line.startswith("(too narrow for: ")]
        assert len(left_out) == (width < cell_len(wide.splitlines()[0]))
        assert len(lines) - len(left_out) == len(wide.splitlines())
    heads = section_text(table, 80).splitlines()[0].split()
    assert heads[0] == "method" and "lift" in heads and "R@1" in heads and heads[-1] == "notes"
    assert not any(head in heads for head in DROPPED)


def test_every_column_may_be_dropped_in_a_known_order_and_is_explained() -> None:
    for columns, dropped in ((LAYOUT, DROPPED), (DETAILS, DETAILS_DROPPED)):
        heads = [column.head for column in columns]
        assert len(set(heads)) == len(heads) and set(dropped) < set(heads)
        assert all(column.legend for column in columns)


def test_details_hold_the_rows_that_have_scores_in_any_width() -> None:
    table = plain_rows(summary(rows(board_of_everything()[:-1])))
    scored = [row["label"] for row in table if row["scored"]]
    for width in (80, 120):
        lines = section_text(table, width, details=True).splitlines()
        assert max(map(cell_len, lines)) <= width
        assert [line.split("  ")[0] for line in lines[1 : len(scored) + 1]] == scored
    token_kl = next(line for line in lines if line.startswith("token-kl"))
    assert "n/a" in token_kl and not re.search(r"(?<!\d)\.00", token_kl), token_kl


def test_clip_counts_terminal_cells() -> None:
    assert clip("日本語日本語", 7) == "日本語…"
    assert clip("abc", 3) == "abc"


def test_failed_rows_are_words_and_blanks() -> None:
    table = plain_rows(summary(rows(board_of_everything()[:-1])))
    lines = {line.split()[0]: line for line in section_text(table, 200).splitlines()}
    assert lines["tied"].split() == ["tied", "ERROR", "12.5", "see", "below"]
    assert lines["stitching"].split() == ["stitching", "n/a", "12.5", "see", "below"]
    assert ".00" not in lines["token-kl"]
    assert lines["PCA"].split()[5:9] == [".28", ".44", ".61", ".80"]
