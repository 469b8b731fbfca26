"""Standings page: standings as Markdown and as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from diffbench.figure import Figure
from diffbench.separation import MOST_UNITS
from diffbench.standing import PairTest, Standing, StandingRow
from diffbench.standings import EVERYTHING, WORDS
from diffbench.table import (
    FULL_WIDTH,
    LABEL_WIDTH,
    NOTE_WIDTH,
    Column,
    clip,
    escape_markdown,
    markdown_table,
    number,
    text_table,
)
from diffbench.units import PLURAL, Level

LISTED = 30
"""Most neighbours and places that are listed under a table; the JSON has all of them."""
SPEAKS_OF: dict[Level, str] = {
    "family": "other families of the kind",
    "organism": "other organisms of these families, not of other families",
    "organism seed": "other seeds of these organisms, not of other organisms",
    "method seed": "other seeds of the methods on these organisms, and of nothing else",
    "documents": "other documents of this organism, and of nothing else",
}


def with_interval(figure: Figure) -> str:
    """``.31 [.20, .42]``, or the word for why there is no number."""
    text = number(figure.value or 0.0, figure.state)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{number(figure.low)}, {number(figure.high)}]"


def rank_text(row: StandingRow) -> str:
    """The ranks that are left to a row, ``2`` or ``2-5``; empty where it has none."""
    if row.rank_low is None or row.rank_high is None:
        return ""
    return str(row.rank_low) if row.rank_low == row.rank_high else f"{row.rank_low}-{row.rank_high}"


def _over(row: StandingRow) -> str:
    return with_interval(row.lift)


def _notes(row: StandingRow) -> str:
    parts = ["trivial"] if row.baseline else []
    parts += [row.kind] if row.kind != "ranked" else []
    parts += [row.gaps.partition(":")[0] if row.units else row.gaps] if row.gaps else []
    return clip(", ".join(parts), NOTE_WIDTH)


LAYOUT: tuple[Column[StandingRow], ...] = (
    Column(
        "rank",
        rank_text,
        "the ranks that the separated pairs leave the row: 1 + the rows significantly better, to the number of rows - "
        "those significantly worse; one number only where that is all they leave. With a chance of 95% every row's "
        "true rank lies within",
    ),
    Column("tie", lambda row: row.group or "", "rows that share a letter are not separated from each other", True),
    Column("method", lambda row: clip(row.label, LABEL_WIDTH), "options that were passed stand behind it", True),
    Column(
        "mean [95%]",
        lambda row: with_interval(row.figure),
        "mean over the units, with Student's t; no interval under three units or where all of them are alike. It "
        "covers 95% where effects are normal, 88% over three families and 91% over seven where they are very skewed. "
        "n/a where the row misses organisms that others have: a mean over those that went well would flatter, so it is "
        "compared on common ones alone",
    ),
    Column(
        "over trivial",
        _over,
        "lift over the best trivial row, which for each family is chosen on the other families, of the rows that have "
        "all of it; positive = better; with a paired interval over families",
    ),
    Column("units", lambda row: str(row.units), "units at which the row has the score"),
    Column("cells", lambda row: str(row.cells), "cells at the organisms of the table, whatever became of them"),
    Column(
        "notes",
        _notes,
        "'trivial': a cheap baseline; controls and own tracks are not ranked; what the row misses",
        True,
    ),
)
DROPPED = ("cells", "units")


PLAIN = {
    "headline": "lift",
    "budget_mean": "R at affected positions",
    "claims_recall": "claims found",
    "auroc_first": "AUROC of the first finding",
    "direction_first": "direction of the first finding",
    "installed": "behaviour installed",
    "removed": "behaviour removed",
    "detection_lift": "explanations, lift in detection",
}
"""What figures are called in titles."""


def heading(table: Standing) -> str:
    """What the table is over, in a few words."""
    where = (
        f"{_several(table.families, 'family', 'families')}, {_several(table.organisms, 'organism', 'organisms')}, "
        f"{_several(table.places, 'organism seed', 'organism seeds')}"
    )
    seeds = _several(table.places, "organism seed", "organism seeds")
    if table.unit == "method seed":
        seeds += f", {_several(table.units, 'method seed', 'method seeds')}"
    over = where if table.scope == EVERYTHING else f"{table.scope}, {seeds}"
    name = PLAIN.get(table.metric, table.metric.replace("_", " "))
    return f"{name}, over {over}; tuned against {table.reference}, tier {table.tier}, judge {table.judge}"


def about(table: Standing) -> str:
    """What the numbers are, and what they can be said of."""
    better = "higher" if table.higher_is_better else "lower"
    text = f"{WORDS[table.metric][:1].upper()}{WORDS[table.metric][1:]}; {better} is better. "
    if table.unit is None:
        text += "There are fewer than three of any unit: no intervals, and nothing is ranked. "
    elif table.unit == "documents":
        text += "Intervals are over documents, and nothing is ranked: there is one organism and one seed. "
    else:
        tests = sum(pair.p is not None for pair in table.pairs)
        text += (
            f"The unit is the {table.unit} ({table.units} of them): intervals speak of {SPEAKS_OF[table.unit]}. "
            f"Ranks follow from {_several(tests, 'paired test', 'paired tests')}, corrected over all (Holm, 5%). "
        )
    if table.left_out:
        text += f"Left out, as few of these methods were run there: {_listed(table.left_out)}. "
    if table.occasional:
        text += f"Not in this table, as they were run in few of the families: {_listed(table.occasional)}. "
    return (
        f"{text}The column of the data is {table.metric}. Pooled are cells of one layer rule, budget and scoring code "
        f"(terms {table.terms}). Judge: {table.judge}."
    )


def apart(table: Standing) -> list[str]:
    """What it would take to separate neighbours that are not."""
    return [_apart(pair, table) for pair in table.pairs if pair.neighbours and not pair.separated]


def gaps(table: Standing) -> list[str]:
    """What rows miss that have the score elsewhere, and why."""
    return [f"{row.label} {row.gaps}" for row in table.rows if row.gaps and row.units]


def lifts(table: Standing) -> list[str]:
    """What trivial rows miss, so that the others' lifts are taken over another one there, or are not taken."""
    return list(dict.fromkeys(line for row in table.rows if not row.baseline for line in row.lift_missed))


def _apart(pair: PairTest, table: Standing) -> str:
    units = PLURAL[table.unit or "documents"]
    text = f"{pair.first} and {pair.second} differ by {with_interval(pair.difference)}: "
    if pair.p is None:
        few = pair.units < 3
        return text + (f"no test over {pair.units} common {units}" if few else f"{units} make no difference, no test")
    if pair.p == 1 and pair.difference.low is None:
        return f"{pair.first} and {pair.second} do not differ at all over {pair.units} {units}"
    if pair.units_needed is None:
        return text + f"more than {MOST_UNITS} {units} would be needed"
    more = pair.units_needed - pair.units
    cells = f", {pair.cells_more:,} more cells each" if pair.cells_more else ""
    return text + f"about {pair.units_needed:,} {units} would be needed ({more:,} more{cells})"


NEEDED = (
    "Neighbours that are not separated, and what would separate them with a chance of 80% if they are as they look:"
)
LIFTED = "Trivial rows that miss organisms; the lift over trivial is taken over another one there, or leaves it out:"
MISSED = "Rows that miss organisms; a mean over the rest would flatter, so they are compared on common ones alone:"


EXCLUDED = (
    "Rows of submissions that were not scored again (unverified) and superseded versions of organisms take no part."
)


def text(tables: Sequence[Standing], width: int = FULL_WIDTH) -> str:
    """Standings for a terminal of that width."""
    parts = []
    for table in tables:
        words = textwrap.fill(about(table), min(width, FULL_WIDTH), break_on_hyphens=False)
        cells = [[column.cell(row) for column in LAYOUT] for row in table.rows]
        parts.append(f"{_filled(heading(table), width, '')}\n{words}\n\n{text_table(LAYOUT, cells, width, DROPPED)}")
        parts += [
            "\n".join([_filled(title, width, ""), *(_filled(line, width) for line in lines)]) + "\n"
            for title, lines in lists(table)
        ]
    return "\n".join(parts)


def page(tables: Sequence[Standing]) -> str:
    """Standings as a part of a Markdown document. All text of records is escaped."""
    parts = ["## Standings over organisms\n", f"{EXCLUDED}\n"]
    for table in tables:
        cells = [[column.cell(row) for column in LAYOUT] for row in table.rows]
        parts += [
            f"### {escape_markdown(heading(table))}\n",
            escape_markdown(about(table)) + "\n",
            markdown_table(LAYOUT, cells),
        ]
        parts += [
            "\n".join([f"{title}\n", *(f"- {escape_markdown(line)}" for line in lines), ""])
            for title, lines in lists(table)
        ]
    legend = "".join(f"- **{column.head}**: {column.legend}\n" for column in LAYOUT)
    return "\n".join([*parts, f"What the columns of standings mean:\n\n{legend}"])


def lists(table: Standing) -> list[tuple[str, list[str]]]:
    """What is listed under a table, each list with its title."""
    found = []
    for title, lines in ((MISSED, gaps(table)), (LIFTED, lifts(table)), (NEEDED, apart(table))):
        more = [f"and {len(lines) - LISTED} more, see the JSON"] if len(lines) > LISTED else []
        if lines:
            found.append((title, [*lines[:LISTED], *more]))
    return found


def _filled(line: str, width: int, bullet: str = "- ") -> str:
    indent = " " * len(bullet)
    return textwrap.fill(
        line, min(width, FULL_WIDTH), initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def _several(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
