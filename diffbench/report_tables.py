"""Report tables: what a run's report says beyond single organisms: standings, alarms on nulls, seeds, and cost."""

from __future__ import annotations

from collections.abc import Sequence

from diffbench.agreement import ConsistencyFile
from diffbench.change_detection import ChangeDetection
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.report import Part
from diffbench.standing import Standing
from diffbench.summary import Row
from diffbench.table import number
from diffbench.webpage import Cell, Head, Line, Table, figure_cell, figure_text


def standing_tables(found: Sequence[Standing]) -> list[tuple[Table, list[str]]]:
    """Each table with what is said of neighbours that are not separated; tables without a test say nothing new."""
    tables = []
    for number_, table in enumerate(table for table in found if any(test.p is not None for test in table.pairs)):
        heads = (
            Head("method", "", True),
            Head("lift", "mean over the units"),
            Head("rank", "which the paired tests leave; a range where they do not decide", lower=True),
            Head("letters", "rows that share one are not separated", True),
            Head("units", "at which the row has the score"),
            Head("notes", "", True),
        )
        lines = tuple(
            Line(
                (
                    Cell(one_line(row.label)),
                    figure_cell(row.figure),
                    Cell(_rank(row.rank_low, row.rank_high), row.rank_low),
                    Cell(row.group or ""),
                    Cell(str(row.units), row.units),
                    Cell(one_line("; ".join(filter(None, (row.kind if row.kind != "ranked" else "", row.gaps or ""))))),
                ),
                pinned=row.kind == "control",
            )
            for row in sorted(table.rows, key=lambda row: row.kind != "control")
        )
        caption = f"{one_line(table.scope)} against {one_line(table.reference)}, over {table.units} {table.unit}s"
        apart = [
            f"{one_line(test.first)} and {one_line(test.second)} are not separated: "
            + (f"{test.units_needed} units would do" if test.units_needed else "no number of units in reach would do")
            for test in table.pairs
            if test.neighbours and not test.separated
        ]
        tables.append((Table(f"standings-{number_}", caption, heads, lines), apart[:30]))
    return tables


def detection_tables(found: Sequence[ChangeDetection]) -> list[Table]:
    """Alarms on nulls, class by class."""
    tables = []
    for at, table in enumerate(found):
        heads = (
            Head("method", "", True),
            Head("nulls", "independent nulls with a change score"),
            Head("AUROC", "change score of changed organisms against nulls"),
            Head("hit rate at 5%", "share of changed organisms at a false-alarm rate of 5%"),
            Head("says changed: nulls", "alarms", lower=True),
            Head("says changed: changed", "hits"),
        )
        lines = tuple(
            Line(
                (
                    Cell(one_line(row.label)),
                    Cell(str(row.nulls), row.nulls),
                    *map(figure_cell, (row.auroc, row.tpr_5, row.alarms, row.hits)),
                ),
                pinned=row.kind == "control",
            )
            for row in sorted(table.rows, key=lambda row: row.kind != "control")
        )
        caption = f"Nulls of class {one_line(table.null_class)} ({table.track}): {table.nulls} of them"
        tables.append(Table(f"nulls-{at}", f"{caption}, {table.positives} changed organisms", heads, lines))
    return tables


def consistency_table(files: Sequence[ConsistencyFile]) -> Table | None:
    """What the method seeds of a row have in common, beside what chance gives."""
    if not files:
        return None
    heads = (
        Head("method", "", True),
        Head("organism", "", True),
        Head("seeds", "that are compared"),
        Head("matched directions", "largest cosine of each of the first 32 components to one of the other seed"),
        Head("span of 8", "overlap of the subspaces of the first 8 directions"),
        Head("activity", "rank correlation, where components are no directions"),
        Head("words", "Jaccard of the words that the first ten findings name"),
        Head("contradictions", "matched findings that name a word up and down", lower=True),
    )
    lines = []
    for file in files:
        found = file.agreement
        span = next((span for span in found.spans if span.k == 8), None)
        lines.append(
            Line((
                Cell(one_line(file.row)),
                Cell(one_line(f"{file.organism} against {file.reference}")),
                Cell(str(len(file.seeds)), len(file.seeds)),
                _beside(found.matching.cosine, found.matching.chance_cosine),
                _beside(span.overlap, span.chance) if span else Cell(""),
                _beside(found.activity.spearman, found.activity.chance),
                _beside(found.words.jaccard, found.words.control),
                Cell(f"{found.contradictions.contradicting} of {found.contradictions.matched}",
                     found.contradictions.contradicting),
            ))
        )  # fmt: skip
    return Table("seeds", "Agreement of method seeds; in brackets what chance gives", heads, tuple(lines))


def cost_table(parts: Sequence[Part]) -> Table:
    """What every row cost: means over its seeds; what its process used through the pair, of the lowest seed."""
    several = len(parts) > 1
    heads = (
        Head("method", "", True),
        *((Head("organism", "", True),) if several else ()),
        Head("method, s", "seconds of the method process", lower=True),
        Head("harvest, s", "the shared harvest, charged to every method", lower=True),
        Head("scoring, s", "seconds of the scoring", lower=True),
        Head("memory, MB", "largest resident memory of the method process", lower=True),
        Head("GFLOPs", "through the pair", lower=True),
        Head("used through the pair", "tokens, calls and the like", True),
    )
    lines = []
    for part in parts:
        for method in part.methods:
            usage = method.records[0].timings.usage if method.records else {}
            flops = next((value for name, value in usage.items() if "flop" in name.lower()), None)
            others = {name: value for name, value in usage.items() if "flop" not in name.lower()}
            told = ", ".join(f"{one_line(name, 40).replace('_', ' ')} {value:,}" for name, value in others.items())
            row = method.summary
            cells = [Cell(one_line(row["label"]))]
            cells += [Cell(one_line(part.section.key["organism"]))] if several else []
            cells += [_seconds(row, name) for name in ("method_seconds", "harvest_seconds", "score_seconds")]
            cells.append(_seconds(row, "peak_memory_mb"))
            cells.append(Cell("" if flops is None else f"{flops / 1e9:,.1f}", flops))
            cells.append(Cell(one_line(told, 300)))
            lines.append(Line(tuple(cells), pinned=bool(row["control"])))
    return Table("cost-table", "Cost of each row, means over its seeds", heads, tuple(lines))


def _seconds(row: Row, name: str) -> Cell:
    value = row[name]
    return Cell("") if value is None else Cell(f"{value:,.1f}" if value < 100 else f"{value:,.0f}", value)


def _beside(figure: Figure, chance: Figure) -> Cell:
    text = figure_text(figure) + (f" ({number(chance.value)})" if chance.value is not None else "")
    return Cell(text, figure.value, one_line(figure.reason or ""), state=figure.state)


def _rank(low: int | None, high: int | None) -> str:
    return "" if low is None or high is None else str(low) if low == high else f"{low}-{high}"
