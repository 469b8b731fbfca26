"""Board page: a board as a Markdown document and as text for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffbench.board import Board, Section
from diffbench.edition import Edition, edition_of, superseded
from diffbench.figure import Figure
from diffbench.layout import DETAILS, LAYOUT, cells_of, section_text
from diffbench.line import one_line
from diffbench.summary import SECTION, Row
from diffbench.table import FULL_WIDTH, Column, escape_markdown, markdown_table, number, precise, share

LISTED = 50
"""Most problems that are listed in one place; the JSON has all of them."""
ORIGIN = "Written from records alone by `diffbench leaderboard build`."
STATUS_WORDS = {"error": "error", "not_applicable": "not applicable"}


def page(board: Board, statistics: Sequence[str] = ()) -> str:
    """The board as GitHub Markdown. All text of records is escaped.

    Args:
        board: what is shown.
        statistics: parts of the document that speak of several organisms, before the tables of each.
    """
    parts = ["# Leaderboard\n", escape_markdown(counts(board)) + f" {ORIGIN}\n", *statistics]
    gone = superseded(board.data)
    for section, others in by_organism(board.sections):
        parts += [
            f"## {escape_markdown(heading(section))}\n",
            *_notes(section, gone),
            escape_markdown(facts(section)) + "\n",
            markdown_table(LAYOUT, cells_of(section.summary)),
            "More scores of the same rows:\n",
            markdown_table(DETAILS, cells_of(section.summary, DETAILS)),
            "What the layers can carry (coverage may exceed 1; the ceiling is R of a perfect edit there):\n",
            _layer_table(section),
        ]
        if others:
            parts.append(f"{escape_markdown(_elsewhere(others))} Their rows are in the CSV and JSON.\n")
        failed = _failures(section, others)
        if failed:
            parts.append(_bullets("Cells without scores:", failed))
    if board.damaged:
        parts.append(_bullets("## Damaged records", [problem(row) for row in board.damaged]))
    if board.unfinished:
        parts.append(_bullets("## Unfinished cells", [problem(row) for row in board.unfinished]))
    if board.duplicates:
        cells = f"{_several(len(board.duplicates), 'cell')} {'is' if len(board.duplicates) == 1 else 'are'}"
        parts.append(f"{cells} in several runs; which copy counts is in the JSON.\n")
    return "\n".join([*parts, legend()])


def text(board: Board, width: int = FULL_WIDTH, details: bool = False) -> str:
    """The board for a terminal of that width, without the legend; ``details``: the second table of every section."""
    parts = [counts(board) + "\n"]
    for section, others in by_organism(board.sections):
        about = textwrap.fill(facts(section), min(width, FULL_WIDTH), break_on_hyphens=False)
        parts += [f"{heading(section)}\n{about}\n", section_text(section.summary, width, details)]
        if others:
            more = (
                f"{_elsewhere(others)} All together: `diffbench leaderboard standings RUN`, and of nulls `detection`."
            )
            parts.append(textwrap.fill(more, min(width, FULL_WIDTH), break_on_hyphens=False) + "\n")
        parts.append("".join(f"{line}\n" for line in _failures(section, others)[:LISTED]))
    parts.append("".join(f"damaged: {problem(row)}\n" for row in board.damaged[:LISTED]))
    parts.append("".join(f"unfinished: {problem(row)}\n" for row in board.unfinished[:LISTED]))
    return "\n".join(part for part in parts if part)


def by_organism(sections: Sequence[Section]) -> list[tuple[Section, tuple[Section, ...]]]:
    """Sections to show, each with those of the same organism at other seeds (``halfswap@7``), which are not shown.

    Sixty nulls would bury what is to be read; their rows are in the data, and what they say together has tables.
    """

    def seed(section: Section) -> tuple[int, str]:
        suffix = str(section.key["organism"]).partition("@")[2]
        return len(suffix), suffix

    kinds: dict[tuple[Any, ...], list[Section]] = {}
    for section in sections:
        kind = str(section.key["organism"]).partition("@")[0]
        shared = (section.key[name] for name in SECTION if name not in ("organism", "setting"))
        kinds.setdefault((kind, *shared), []).append(section)
    found = []
    for group in kinds.values():
        first = min(group, key=seed).key["organism"]
        shown = [section for section in group if section.key["organism"] == first]
        others = tuple(section for section in sorted(group, key=seed) if section.key["organism"] != first)
        found += [(section, others if section is shown[-1] else ()) for section in shown]
    return found


def _notes(section: Section, gone: Mapping[Edition, int]) -> list[str]:
    newer = gone.get(edition_of(section.key))
    return [f"{superseded_by(newer)}\n"] if newer is not None else []


def superseded_by(newer: int) -> str:
    """What is to be said of an older version."""
    return f"Superseded by version {newer} of this organism: shown, and in no standings."


def _elsewhere(others: Sequence[Section]) -> str:
    names = list(dict.fromkeys(str(section.key["organism"]) for section in others))
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    listed = ", ".join(names[:LISTED]) + more
    return f"The same organism at other seeds: {listed}."


def _failures(section: Section, others: Sequence[Section]) -> list[str]:
    elsewhere = [f"{other.key['organism']}: {failure(row)}" for other in others for row in other.failures]
    return [*(failure(row) for row in section.failures), *elsewhere]


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
        f"share at affected positions: {_figure(pair.kl_affected_share, share)}); the mean difference alone recovers "
        f"{_figure(pair.r_mean_delta_affected, number)} there; affected are "
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
    lines = [f"- **{column.head}**: {column.legend}\n" for column in (*LAYOUT, *DETAILS[1:])]
    states = (
        "- **none**: asked, and there is none. **n/a**: the method cannot be asked this. "
        "**undef.**: the quantity has no meaning on this pair. "
        "**ERROR**: the cell failed. None of them counts as a number.\n"
        "- **controls** are pinned on top and compete with nobody.\n"
    )
    return "## Legend\n\n" + "".join(lines) + states


def _layer_table(section: Section) -> str:
    columns: list[Column[None]] = [Column(head, lambda row: "", "") for head in ("layer", "coverage", "ceiling", "")]
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
