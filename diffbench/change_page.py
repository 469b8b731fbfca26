"""Change page: change detection as Markdown and as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from diffbench.change_detection import UNCLASSED, ChangeDetection, DetectionRow, Unit
from diffbench.figure import Figure
from diffbench.table import (
    FULL_WIDTH,
    LABEL_WIDTH,
    Column,
    clip,
    escape_markdown,
    markdown_table,
    number,
    share,
    text_table,
)

CLASSES = {
    "identity": "the two models have the same weights: every alarm is false",
    "continued": "specificity: the tuned model was trained further on the base's own text. Its weights did change, but "
    "nothing was changed on purpose: an alarm is about training, not about a claim",
    "control": "specificity: the tuned model has gone through all of a fine-tune but the change. An alarm is about "
    "fine-tuning, not about a claim",
    "gauge": "a track of its own: the same function in another basis of the residual stream. Methods that compare both "
    "models in one shared basis are expected to alarm, and must; those that read outputs alone must not. So alarms are "
    "listed and count neither for nor against a method",
    UNCLASSED: "nothing was changed on purpose, says the Truth, and no class is named",
}

OVER: dict[Unit, str] = {
    "family": "TPR and hits are means over families, with Student's t cut to 0..1 (all alike: Clopper-Pearson).",
    "organism": "TPR and hits are means over organisms, with Clopper-Pearson intervals: there are fewer than three "
    "families, so they speak of no other.",
}


def _rate(row: DetectionRow, figure: Figure, needed: int) -> str:
    if figure.value is None:
        return f"n/a ({row.nulls}/{needed})" if row.nulls < needed else "n/a"
    return _interval(figure)


def _interval(figure: Figure) -> str:
    text = number(figure.value or 0.0, figure.state)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{number(figure.low)}, {number(figure.high)}]"


def _auroc(row: DetectionRow) -> str:
    text = number(row.auroc.value or 0.0, row.auroc.state)
    return f"{text} ({row.pairs:,})" if row.auroc.value is not None else text


def _quiet(row: DetectionRow) -> str:
    figures = row.abstains_nulls, row.abstains_changed
    return "/".join(number(figure.value or 0.0, figure.state) for figure in figures)


LAYOUT: tuple[Column[DetectionRow], ...] = (
    Column("method", lambda row: clip(row.label, LABEL_WIDTH), "in the order of names: nothing is ranked here", True),
    Column(
        "nulls",
        lambda row: f"{row.nulls}",
        "independent nulls of the class with a change score: an organism at a seed; method seeds are averaged and not "
        "counted. 1/n is the smallest rate that n nulls can show",
    ),
    Column(
        "AUROC (n)",
        _auroc,
        "chance that the change score of a changed organism lies above a null's, equal ones counting one half; in "
        "brackets the pairs",
    ),
    Column(
        "TPR@5%",
        lambda row: _rate(row, row.tpr_5, 20),
        "share of the changed organisms that reach the smallest observed change score which at most 5% of the nulls "
        "reach; a score equal to the threshold is an alarm. The interval is over what is said above the table "
        "and takes the threshold as given. n/a (8/20): 8 independent nulls, 20 are needed",
    ),
    Column("TPR@1%", lambda row: _rate(row, row.tpr_1, 100), "the same at 1%, from 100 nulls on"),
    Column(
        "alarms",
        lambda row: _interval(row.alarms),
        "share of the nulls of which the method's verdict is 'changed', with its 95% interval (Clopper-Pearson, over "
        "nulls); lower is better, but for the gauge track",
    ),
    Column(
        "hits",
        lambda row: _interval(row.hits),
        "share of the changed organisms of which its verdict is 'changed'; higher is better",
    ),
    Column(
        "abstains",
        _quiet,
        "share of the nulls / of the changed organisms of which its verdict is 'abstain': an answer, and neither an "
        "alarm nor a hit",
    ),
    Column("notes", lambda row: "" if row.kind == "method" else row.kind, "controls and own tracks", True),
)
DROPPED = ("TPR@1%", "notes", "AUROC (n)", "abstains")
LISTED = 30
"""Most gaps that are listed under a table; the JSON has all of them."""


def heading(table: ChangeDetection) -> str:
    """What the table is about, in a few words."""
    nulls = f"{table.nulls:,} independent null{'' if table.nulls == 1 else 's'}"
    changed = f"{table.positives:,} changed organism{'' if table.positives == 1 else 's'}"
    against = f"{changed} tuned against {table.reference}, tier {table.tier} ({table.terms})"
    return f"{table.null_class}: {nulls} against {against}"


def about(table: ChangeDetection) -> str:
    """What an alarm on these nulls is, and how small a rate they can show."""
    words = CLASSES.get(table.null_class, "")
    alone = (
        ""
        if table.positives
        else (" There is no changed organism of the same tier, rule of the layer and scoring code to set against them.")
    )
    over = f" {OVER[table.unit]}" if table.positives else ""
    return f"{words[:1].upper()}{words[1:]}. Resolution: 1/{table.nulls} = {share(1 / table.nulls)}.{over}{alone}"


def gaps(table: ChangeDetection) -> list[str]:
    """What has no change score, by method."""
    lines = [f"{row.label}: {row.gaps}" for row in table.rows if row.gaps]
    return [*lines[:LISTED], *([f"and {len(lines) - LISTED} more, see the JSON"] if len(lines) > LISTED else [])]


def text(tables: Sequence[ChangeDetection], width: int = FULL_WIDTH) -> str:
    """Change detection for a terminal of that width."""
    parts = []
    for table in tables:
        cells = [[column.cell(row) for column in LAYOUT] for row in table.rows]
        filled = [textwrap.fill(line, min(width, FULL_WIDTH)) for line in (heading(table), about(table))]
        lines = [textwrap.fill(line, min(width, FULL_WIDTH), subsequent_indent="  ") + "\n" for line in gaps(table)]
        parts.append("\n".join([*filled, "", text_table(LAYOUT, cells, width, DROPPED) + "".join(lines)]))
    return "\n".join(parts)


def page(tables: Sequence[ChangeDetection]) -> str:
    """Change detection as a part of a Markdown document. All text of records is escaped."""
    parts = ["## Change detection\n", "Rows of submissions that were not scored again (unverified) take no part.\n"]
    for table in tables:
        cells = [[column.cell(row) for column in LAYOUT] for row in table.rows]
        parts += [
            f"### {escape_markdown(heading(table))}\n",
            escape_markdown(about(table)) + "\n",
            markdown_table(LAYOUT, cells),
        ]
        if lines := gaps(table):
            parts.append("".join(f"- {escape_markdown(line)}\n" for line in lines))
    legend = "".join(f"- **{column.head}**: {column.legend}\n" for column in LAYOUT)
    return "\n".join([*parts, f"What the columns of change detection mean:\n\n{legend}"])
