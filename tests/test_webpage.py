"""Pages: one file, everything escaped, and no script but the packaged one."""

from __future__ import annotations

import base64
import hashlib
import re

import jinja2
import pytest

from diffbench.figure import Figure
from diffbench.webpage import Cell, Choice, Head, Line, Table, environment, figure_cell, figure_text, render, text_cell

HOSTILE = "<script>alert(1)</script>\"'&</style>"


def shown(body: str, **context: object) -> str:
    source = '{% extends "shell.html" %}{% import "macros.html" as m %}{% block main %}' + body + "{% endblock %}"
    return environment().from_string(source).render(**context)


def hostile_table() -> Table:
    line = Line((text_cell(HOSTILE, href=HOSTILE, title=HOSTILE),), {"family": HOSTILE}, ident=HOSTILE)
    return Table(HOSTILE, HOSTILE, (Head(HOSTILE, HOSTILE, text=True),), (line,), filtered=True)


def test_everything_is_escaped() -> None:
    body = "{{ m.data_table(table) }}{{ m.filters(choices) }}{{ m.figure(fig) }}{{ m.token(text, 0.5, title=text) }}"
    body += "{{ m.histogram([(text, 1)], text) }}{{ m.facts([(text, text)]) }}{{ m.bullets([text]) }}{{ text }}"
    choices = (Choice("family", HOSTILE, (HOSTILE,)),)
    page = shown(body, table=hostile_table(), choices=choices, fig=Figure.undefined(HOSTILE), text=HOSTILE)
    assert page.count("<script>") == page.count("</script>") == page.count("</style>") == 1
    assert "alert(1)" in page and "<script>alert" not in page


def test_only_the_packaged_script_may_run_and_nothing_is_loaded() -> None:
    page = shown("text")
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert script and policy
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in policy[1] and policy[1].startswith("default-src &#39;none&#39;")
    assert "unsafe-inline" not in policy[1].partition("script-src")[2]
    for forbidden in ("http://", "https://", "@import", "url(", "eval(", "innerHTML", "document.write"):
        assert forbidden not in page
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,", "#main"}


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="absent"):
        shown("{{ absent }}")
    with pytest.raises(jinja2.TemplateNotFound):
        render("../../pyproject.toml")


def test_figures_never_turn_into_numbers() -> None:
    assert figure_text(Figure.of(0.5, 0.4, 0.6)) == ".50 [.40, .60]"
    assert figure_cell(Figure.not_applicable("no edit")) == Cell("n/a", None, "no edit", state="n/a")
    assert figure_cell(Figure.undefined("why")).value is None
    page = shown("{{ m.data_table(table) }}{{ m.figure(fig) }}", table=of_states(), fig=Figure.of(0.25))
    assert page.count('data-value="') == 1 and 'data-value="-0.5"' in page
    assert re.search(r'<td class=" state na" title="no edit">n/a</td>', page)
    assert re.search(r'<td class=" state undefined" title="why">undef.</td>', page)
    assert '<span class="figure">.25</span>' in page


def of_states() -> Table:
    figures = (Figure.of(-0.5), Figure.not_applicable("no edit"), Figure.undefined("why"))
    lines = tuple(Line((text_cell(str(at)), figure_cell(each))) for at, each in enumerate(figures))
    return Table("t", "states", (Head("row", text=True), Head("figure")), lines)


def test_rows_carry_what_filters_ask_for() -> None:
    lines = (
        Line((text_cell("a"),), {"access": "logits\nweights"}, pinned=True),
        Line((text_cell("b", "b.html"),), faded=True, ident="b"),
    )
    page = shown("{{ m.data_table(table) }}", table=Table("t", "c", (Head("m", text=True),), lines, filtered=True))
    assert '<tr data-pinned data-access="logits\nweights">' in page
    assert '<tr id="b" class="faded">' in page and '<a href="b.html">b</a>' in page
    assert '<table id="t" data-sortable data-filtered>' in page
