"""Board page: a board as a Markdown document and as text for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable

from diffbench.board import Board, Section
from diffbench.line import one_line
from diffbench.record import Figure
from diffbench.summary import Row
from diffbench.table import (
    FULL_WIDTH,
    LAYOUT,
    Column,
    cells_of,
    escape_markdown,
    markdown_table,
    number,
    precise,
    share,
    text_table,
)

LISTED = 50
"""Most problems that are listed in one place; the JSON has all of them."""
ORIGIN = "Written from records alone by `diffbench leaderboard build`."
STATUS_WORDS = {"error": "error", "not_applicable": "not applicable"}


def page(board: Board) -> str:
    """The board as GitHub Markdown. All text of records is escaped."""
    parts = ["# Leaderboard\n", escape_markdown(counts(board)) + f" {ORIGIN}\n"]
    for section in board.sections:
        parts += [
            f"## {escape_markdown(heading(section))}\n",
            escape_markdown(facts(section)) + "\n",
            markdown_table(LAYOUT, cells_of(section.summary)),
            "What the layers can carry (coverage may exceed 1; the ceiling is R of a perfect edit there):\n",
            _layer_table(section),
        ]
        if section.failures:
            parts.append(_bullets("Cells without scores:", [failure(row) for row in section.failures]))
    if board.damaged:
        parts.append(_bullets("## Damaged records", [problem(row) for row in board.damaged]))
    if board.unfinished:
        parts.append(_bullets("## Unfinished cells", [problem(row) for row in board.unfinished]))
    if board.duplicates:
        cells = f"{_several(len(board.duplicates), 'cell')} {'is' if len(board.duplicates) == 1 else 'are'}"
        parts.append(f"{cells} in several runs; the newest copy counts (see the JSON).\n")
    return "\n".join([*parts, legend()])


def text(board: Board, width: int = FULL_WIDTH) -> str:
    """The board for a terminal of that width, without the legend."""
    parts = [counts(board) + "\n"]
    for section in board.sections:
        about = textwrap.fill(facts(section), min(width, FULL_WIDTH), break_on_hyphens=False)
        parts += [f"{heading(section)}\n{about}\n", text_table(section.summary, width)]
        parts.append("".join(f"{failure(row)}\n" for row in section.failures[:LISTED]))
    parts.append("".join(f"damaged: {problem(row)}\n" for row in board.damaged[:LISTED]))
    parts.append("".join(f"unfinished: {problem(row)}\n" for row in board.unfinished[:LISTED]))
    return "\n".join(part for part in parts if part)


def counts(board: Board) -> str:
    """How many cells there are, and how they ended."""
    ended = Counter(board.rows["status"])
    cells = [
        f"{ended['ok']} ok",
        f"{ended['not_applicable']} not applicable",
        f"{ended['error']} failed",
        f"{len(board.damaged)} damaged",
        f"{len(board.unfinished)} unfinished",
    ]
    runs = ", ".join(sorted({row["run"] for row in board.runs}))
    read = f"{_several(len(board.rows), 'record')} of {_several(len(board.runs), 'run')}"
    return f"{read} ({one_line(runs, 300)}): {', '.join(cells)}."


def heading(section: Section) -> str:
    """What the table is about, in a few words."""
    key = section.key
    return (
        f"{key['organism']} v{key['organism_version']}, tuned against {key['reference']}, tier {key['tier']} "
        f"({key['setting']})"
    )


def facts(section: Section) -> str:
    """What holds for all rows of the table."""
    pair, budget, key = section.pair, section.budget, section.key
    here = next((facts for facts in pair.layers if facts.layer == pair.layer), None)
    harvest = max((row["harvest_seconds"] or 0.0 for row in section.summary), default=0.0)
    carried = (
        f"coverage {_figure(here.coverage, number)} (the part of the KL that runs through this layer's stream into the "
        f"tuned model), ceiling {_figure(here.ceiling, number)} (R_model: the true difference put into the reference)"
        if here
        else "coverage and ceiling n/a"
    )
    return one_line(
        f"Layer {pair.layer} ({pair.layer_rule}): {carried}. "
        f"KL to {key['reference']} {_figure(pair.kl, precise)} nats (noise {pair.kl_noise:.2g}; "
        f"share at affected positions: {_figure(pair.kl_affected_share, share)}); affected are "
        f"{share(pair.trigger_rate)} of {pair.n_positions:,} positions in {pair.n_documents:,} documents; "
        f"{share(pair.outlier_share)} are masked as outliers. "
        f"Tier {key['tier']}: {budget.tokens:,} tokens, {budget.components:,} components, {budget.seconds:,.0f} s; "
        f"the harvest took {harvest:,.1f} s. Judge: {key['judge']}."
    )


def failure(row: Row) -> str:
    """A cell without scores."""
    return f"{row['row']} seed {row['seed']} (run {row['run']}): {STATUS_WORDS[row['status']]}: {row['reason']}"


def problem(row: Row) -> str:
    """A damaged or unfinished cell."""
    return f"{row['run']}/{row['path']}" + (f": {row['message']}" if "message" in row else "")


def legend() -> str:
    """What the columns of the table mean."""
    lines = [f"- **{column.head}**: {column.legend}\n" for column in LAYOUT]
    states = (
        "- **none**: asked, and there is none. **n/a**: the method cannot be asked this. "
        "**undef.**: the quantity has no meaning on this pair. "
        "**ERROR**: the cell failed. None of them counts as a number.\n"
        "- **controls** are pinned on top and compete with nobody.\n"
    )
    return "## Legend\n\n" + "".join(lines) + states


def _layer_table(section: Section) -> str:
    columns = [Column(head, lambda row: "", "") for head in ("layer", "coverage", "ceiling", "")]
    cells = [
        [
            str(layer.layer),
            _figure(layer.coverage, number),
            _figure(layer.ceiling, number),
            "scored" if layer.layer == section.pair.layer else "",
        ]
        for layer in section.pair.layers
    ]
    return markdown_table(columns, cells)


def _bullets(title: str, lines: list[str]) -> str:
    more = [f"- and {len(lines) - LISTED} more, see the JSON"] if len(lines) > LISTED else []
    return "\n".join([f"{title}\n", *(f"- {escape_markdown(line)}" for line in lines[:LISTED]), *more]) + "\n"


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _figure(figure: Figure, form: Callable[[float, str], str]) -> str:
    return form(figure.value or 0.0, figure.state)
