"""Calibration page: a calibration as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from diffbench.calibration import Agreement, Calibration
from diffbench.figure import Figure
from diffbench.kappa import CATEGORIES, Category
from diffbench.line import one_line
from diffbench.table import Column, clip, number, share, text_table

MOST_LISTED = 20
"""Misses and silences that are listed one by one."""

AGREEMENT: tuple[Column[tuple[str, Agreement]], ...] = (
    Column("ACCOUNTS", lambda row: row[0], "", text=True),
    Column("ANSWERED", lambda row: str(row[1].accounts), ""),
    Column("AGREE", lambda row: interval(row[1].raw), ""),
    Column("KAPPA", lambda row: interval(row[1].kappa), ""),
    Column("WEIGHTED", lambda row: interval(row[1].weighted), ""),
    Column("ERROR", lambda row: interval(row[1].error, signed), ""),
)

LEGEND = """\
AGREE: share of equal grades. KAPPA: agreement beyond chance over six categories, 0 to 4 and abstaining. WEIGHTED: the
same with squared distances of grades. ERROR: given less expected grade. [95% interval over accounts] unseen: accounts
that the rules of the offline judge were not adjusted on."""


def text(found: Calibration, width: int) -> str:
    """All of a calibration, with the first misses."""
    rows = [("all", found.overall), ("borderline", found.borderline), ("nulls", found.nulls), ("unseen", found.unseen)]
    cells = [[column.cell(row) for column in AGREEMENT] for row in rows if row[1].accounts or row is rows[0]]
    parts = [
        f"judge {identity(found.judge)}, gold set {found.gold[:12]}\n",
        text_table(AGREEMENT, cells, width, ("ERROR",)),
        "\nexpected (rows) and given grades; - abstains\n" + _confusion(found),
        "\n" + "".join(wrapped(line, width) + "\n" for line in _biases(found)),
    ]
    for name, lines in (("misses", _misses(found)), ("without an answer", _silences(found))):
        if lines:
            more = f"  and {len(lines) - MOST_LISTED} more\n" if len(lines) > MOST_LISTED else ""
            parts.append(f"\n{name}\n" + "".join(clip(line, width) + "\n" for line in lines[:MOST_LISTED]) + more)
    return "".join((*parts, "\n", LEGEND, "\n"))


def wrapped(line: str, width: int) -> str:
    """A line as several of at most ``width`` characters, the later ones set in."""
    return textwrap.fill(line, max(40, width), subsequent_indent=" " * 9)


def identity(judge: dict[str, str]) -> str:
    """A judge's identity on one line."""
    rest = ", ".join(f"{name} {value[:12]}" for name, value in sorted(judge.items()) if name != "judge" and value)
    return one_line(f"{judge.get('judge', '?')} ({rest})", 200)


def signed(value: float, state: str = "ok") -> str:
    """A number with its sign."""
    shown = number(value, state)
    return f"+{shown}" if state == "ok" and value > 0 and shown != ".00" else shown


def interval(figure: Figure, form: Callable[[float, str], str] = number) -> str:
    """A figure with its interval; where there is none, its state."""
    if figure.value is None:
        return form(0.0, figure.state)
    if figure.low is None or figure.high is None:
        return form(figure.value, "ok")
    return f"{form(figure.value, 'ok')} [{form(figure.low, 'ok')}, {form(figure.high, 'ok')}]"


def grade_name(grade: Category) -> str:
    """A grade as tables show it."""
    return "-" if grade is None else str(grade)


def _confusion(found: Calibration) -> str:
    columns: tuple[Column[tuple[str, ...]], ...] = tuple(
        Column(head, lambda row: row[0], "") for head in ("", *map(grade_name, CATEGORIES))
    )
    rows = [[grade_name(grade), *map(str, counts)] for grade, counts in zip(CATEGORIES, found.confusion, strict=True)]
    return text_table(columns, rows, 80, ())


def _biases(found: Calibration) -> list[str]:
    place, length, again, answers = found.position, found.verbosity, found.consistency, found.answers
    kinds = ("malformed", "refused", "failed", "unaffordable")
    rest = ", ".join(f"{getattr(answers, kind)} {kind}" for kind in kinds if getattr(answers, kind))
    return [
        f"order:   {place.accounts} accounts with statements in every order: another pick in {_share(place.changed)}; "
        f"first place {interval(place.first, signed)}, last {interval(place.last, signed)} beyond chance; right "
        f"statement of full accounts {_share(place.right)} (chance {_share(place.chance)}), none picked "
        f"{_share(place.none)}",
        f"length:  {length.accounts} accounts with sentences that say nothing: grade {interval(length.shift, signed)}, "
        f"another one in {_share(length.changed)} ({length.raised} up, {length.lowered} down)",
        f"repeats: {again.accounts} accounts asked {again.repeats} times: one grade in {_share(again.equal)}, "
        f"spread {interval(again.spread)}",
        f"answers: {answers.ok} of {answers.asked}" + (f" ({rest})" if rest else ""),
    ]


def _share(figure: Figure) -> str:
    return interval(figure, share)


def _misses(found: Calibration) -> list[str]:
    ordered = sorted(found.misses, key=lambda miss: -abs((miss.expected or 0) - (miss.given or 0)))
    return [
        f"  {miss.id}: {grade_name(miss.given)} instead of {grade_name(miss.expected)}"
        f"{', borderline' if miss.borderline else ''} - {one_line(miss.why, 200)}"
        for miss in ordered
    ]


def _silences(found: Calibration) -> list[str]:
    return [f"  {one.id}, {one.asked}: {one.state}: {one_line(one.problem, 200)}" for one in found.silences]
