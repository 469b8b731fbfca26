"""Webpage: the templates, style and script that the run report and the leaderboard's site share.

A page is one file: style and script are inlined, nothing is loaded from elsewhere, and its policy forbids it. Whatever
a template is given is escaped; only files of this package are markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from diffbench.figure import Figure
from diffbench.table import STATES, count, number, precise, share

STYLE, SCRIPT = "style.css", "page.js"
Form = Callable[[float, str], str]


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head.

    Attributes:
        label: what stands there.
        title: what it means.
        text: words, which are left-aligned and sorted by letter; else numbers.
        lower: of numbers, less is better, so sorting begins with the smallest.
    """

    label: str
    title: str = ""
    text: bool = False
    lower: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what stands there.
        value: what it is sorted by; None comes last in both directions. Words are sorted by ``text`` without it.
        title: more about it, or why there is no number.
        href: a relative link.
        state: a figure's state, or ``error``.
        heat: 0..1, shading; negative: of the other kind.
        mark: a word in small type behind the text.
        span: low, value and high as places from 0 to 100 on a line, with the place of zero, for a small picture.
    """

    text: str
    value: float | None = None
    title: str = ""
    href: str | None = None
    state: str = "ok"
    heat: float | None = None
    mark: str = ""
    span: tuple[float | None, float, float | None, float | None] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table.

    Attributes:
        cells: one per head.
        data: what filters ask for, by the name of the filter; several values stand in lines of their own.
        pinned: stays on top, and is left alone by filters for methods.
        faded: greyed, as what has been superseded.
        ident: anchor.
    """

    cells: tuple[Cell, ...]
    data: Mapping[str, str] = field(default_factory=dict)
    pinned: bool = False
    faded: bool = False
    ident: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table for ``data_table`` of ``macros.html``.

    Attributes:
        ident: its id, unique on the page.
        caption: what it shows.
        heads: columns; the first one stays in sight.
        lines: rows, pinned ones first.
        sortable: whether heads sort it.
        filtered: whether the page's filters hide rows of it.
    """

    ident: str
    caption: str
    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    sortable: bool = True
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A filter: the rows' ``data`` of this name, and the values to choose from."""

    name: str
    label: str
    values: tuple[str, ...]


def figure_text(figure: Figure, form: Form = number) -> str:
    """``.31 [.20, .42]``, or the word for why there is no number."""
    text = form(figure.value or 0.0, figure.state)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{form(figure.low, 'ok')}, {form(figure.high, 'ok')}]"


def figure_cell(figure: Figure, form: Form = number) -> Cell:
    """A figure as a cell; what is no number says why in its title."""
    return Cell(figure_text(figure, form), figure.value, figure.reason or "", state=figure.state)


def number_cell(number: float | None, text: str | None = None) -> Cell:
    """A whole number as a cell; empty where there is none."""
    return Cell("" if number is None else text or str(number), None if number is None else float(number))


def text_cell(text: object, href: str | None = None, title: str = "") -> Cell:
    """Words as a cell."""
    return Cell("" if text is None else str(text), title=title, href=href)


@cache
def environment() -> jinja2.Environment:
    """The templates of ``templates/web``: everything is escaped, and a name that is not given is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("diffbench", "templates/web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(number=number, precise=precise, count=count, share=share, figure_text=figure_text)
    found.globals.update(style=_inlined(found, STYLE), script=_inlined(found, SCRIPT), policy=_policy(found))
    found.globals["STATES"] = STATES
    return found


def render(template: str, **context: Any) -> str:
    """A page from one of the templates.

    Raises:
        jinja2.UndefinedError: if the template asks for a name that ``context`` lacks.
    """
    return environment().get_template(template).render(**context)


def _source(found: jinja2.Environment, name: str) -> str:
    assert found.loader is not None
    return found.loader.get_source(found, name)[0]


def _inlined(found: jinja2.Environment, name: str) -> Markup:
    return Markup(_source(found, name))


def _policy(found: jinja2.Environment) -> str:
    """Only the packaged script runs: one that got into a page by its texts would not have this digest."""
    digest = base64.b64encode(hashlib.sha256(_source(found, SCRIPT).encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
