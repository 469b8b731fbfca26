"""Site tables: the leaderboard's rows, standings and detection of change as tables of a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffbench import change_page, standings_page
from diffbench.change_detection import ChangeDetection, DetectionRow
from diffbench.entry import Cell as EntryCell
from diffbench.entry import Entry
from diffbench.figure import Figure
from diffbench.score_columns import FIGURES
from diffbench.standing import Standing, StandingRow
from diffbench.table import STATES, count, number, precise
from diffbench.webpage import Cell, Head, Line, Table, figure_cell, number_cell, text_cell

KNOWN = {column.name: column for column in FIGURES}
Place = Callable[[str], str]
"""The relative address of the page of a method, or of an organism."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure with the head of its column."""

    head: str
    name: str
    form: Callable[[float, str], str] = number
    interval: bool = False


SCORES = (
    Shown("lift [95%]", "headline", interval=True),
    Shown("R@1", "r_at_1"),
    Shown("R@8", "r_at_8"),
    Shown("in", "installed"),
    Shown("out", "removed"),
    Shown("claims", "claims_recall"),
    Shown("AUROC", "auroc_best10"),
    Shown("hit", "first_hit", count),
    Shown("detect", "detection_lift"),
    Shown("account", "account_structured"),
    Shown("change", "change_score", precise),
)
MORE = (
    Shown("R@2", "r_at_2"),
    Shown("R@4", "r_at_4"),
    Shown("PCA@8", "pca_at_8"),
    Shown("random@8", "random_at_8"),
    Shown("noise@8", "noise_at_8"),
    Shown("area", "area"),
    Shown("full", "r_full"),
    Shown("error", "r_error"),
    Shown("model", "r_model_affected"),
    Shown("need", "necessity_affected"),
    Shown("template", "top_in_template"),
    Shown("start", "top_in_response_start"),
    Shown("off KL", "off_target_kl", precise),
    Shown("select", "selectivity"),
    Shown("apart", "disentangling"),
    Shown("cut", "attribution_cut"),
    Shown("cut, random", "attribution_cut_random"),
    Shown("says", "direction_best10"),
    Shown("P@10", "precision_at_10"),
    Shown("over", "over_listing"),
    Shown("detect - shuffled", "detection_over_shuffled"),
    Shown("detect - untrained", "detection_over_untrained"),
    Shown("fuzz", "fuzzing_lift"),
    Shown("odd", "intruder_lift"),
    Shown("steer", "intervention_lift"),
    Shown("grade", "account_grade"),
    Shown("choice", "account_choice"),
    Shown("FVE", "fve"),
    Shown("L0", "l0"),
    Shown("dead", "dead_share"),
)
METHOD = Head("method", "the method, its ranking and the options that were passed", text=True)
ORGANISM = Head("organism", "the pair's organism; after the @ its seed", text=True)
SECONDS = Head("s", "seconds of the method process, without the harvest that every method is charged", lower=True)
STATUS_WORDS = {"error": "ERROR", "not_applicable": "n/a", "partial": "partial", "ok": "ok"}


def head_of(shown: Shown) -> Head:
    """The head of a figure's column, with what is known of the figure."""
    column = KNOWN[shown.name]
    better = {True: "; higher is better", False: "; lower is better", None: ""}[column.better]
    unit = f" ({column.unit})" if column.unit else ""
    return Head(shown.head, f"{shown.name}: {column.description}{unit}{better}", lower=column.better is False)


def score_cell(row: Mapping[str, Any], shown: Shown, why: Callable[[str], str]) -> Cell:
    """A figure of a row of data or summary; what is no number says why."""
    name = shown.name
    state, value, low, high = (row[f"{name}{end}"] for end in ("_state", "", "_low", "_high"))
    if state != "ok":
        return Cell(STATES[state], title=why(name), state=state)
    text, title = shown.form(value, "ok"), ""
    if low is not None and high is not None:
        ends = f"[{shown.form(low, 'ok')}, {shown.form(high, 'ok')}]"
        seeds = row.get("unit") == "method seeds"
        over = "over method seeds" if seeds else "over documents"
        text, title = (f"{text} {ends}{'' if seeds else 'd'}", over) if shown.interval else (text, f"95% {ends} {over}")
    return Cell(text, value, title)


def data_of(entry: Entry) -> dict[str, str]:
    """What filters ask of an entry."""
    row = entry.row
    return {
        "family": str(entry.first["family"] or "own pair"),
        "track": "\n".join(entry.tracks),
        "access": "\n".join(str(row["access"]).split(", ")),
        "judge": str(row["judge"]),
        "tier": str(row["tier"]),
        "reference": str(row["reference"]),
        "change": entry.change,
        "kind": "controls" if row["control"] else "methods",
        "search": f"{row['label']} {row['organism']}",
    }


def mark_of(verified: str | None) -> str:
    """What stands behind the name of a method whose rows are of a submission."""
    return verified if verified in ("verified", "unverified") else ""


def notes_of(entry: Entry) -> str:
    """What to know about an entry, in a few words."""
    old = [f"superseded by v{entry.newer}"] if entry.newer is not None else []
    failed = [f"{STATUS_WORDS[str(entry.row['status'])]}: {entry.row['reason']}"] if entry.row["reason"] else []
    return ", ".join([*old, str(entry.row["notes"]).replace("see below", "").strip(", "), *failed]).strip(", ")


def rows_table(
    ident: str,
    caption: str,
    found: Sequence[Entry],
    shown: Sequence[Shown],
    *,
    method: Place | None = None,
    organism: Place | None = None,
    filtered: bool = False,
) -> Table:
    """Entries with some of their figures, the first of them beside the name; controls are pinned once it is sorted.

    Args:
        ident: of the table.
        caption: what it shows.
        found: its rows.
        shown: its figures.
        method: where the pages of methods are; without it there is no such link.
        organism: the same of organisms.
        filtered: whether the page's filters are about it.
    """
    settings = (Head("version", "of the organism's recipe"), Head("against", "what the tuned model is compared with"))
    words = tuple(Head(name, text=True) for name in ("tier", "judge"))
    first, *others = map(head_of, shown)
    heads = (METHOD, first, ORGANISM, *others, SECONDS, *settings, *words, Head("notes", text=True))
    scores = {id(entry): _scores(entry, shown) for entry in found}
    lines = tuple(
        Line(
            cells=(
                replace(
                    _link(str(entry.row["label"]), method, str(entry.row["method"])),
                    mark=mark_of(entry.row["verified"]),
                ),
                scores[id(entry)][0],
                _link(str(entry.row["organism"]), organism, entry.kind),
                *scores[id(entry)][1:],
                _seconds(entry.row),
                number_cell(entry.row["organism_version"], f"v{entry.row['organism_version']}"),
                text_cell(entry.row["reference"]),
                text_cell(entry.row["tier"]),
                text_cell(entry.row["judge"]),
                text_cell(notes_of(entry)),
            ),
            data=data_of(entry),
            pinned=bool(entry.row["control"]),
            faded=entry.newer is not None,
        )
        for entry in found
    )
    return Table(ident, caption, heads, lines, filtered=filtered)


def _link(text: str, place: Place | None, name: str) -> Cell:
    return text_cell(text, place(name) if place else None)


def _scores(entry: Entry, shown: Sequence[Shown]) -> list[Cell]:
    """A failed row says so once, and has no other cells."""
    if entry.row["scored"]:
        return [score_cell(entry.row, each, entry.why) for each in shown]
    state = "error" if entry.row["status"] == "error" else "n/a"
    return [Cell(STATES[state], title=entry.why(shown[0].name), state=state), *[Cell("")] * (len(shown) - 1)]


def _seconds(row: Mapping[str, Any]) -> Cell:
    value = row["method_seconds"]
    if mark_of(row.get("verified")):
        return Cell("", title="of a submission: what it cost was not measured here")
    return Cell("") if value is None else Cell(number(value), value)


def seeds_table(ident: str, caption: str, found: Sequence[tuple[Entry, EntryCell]], link: Callable[..., Any]) -> Table:
    """One row per record: how far seeds are apart, and where the record lies."""
    heads = (
        Head("row", text=True),
        ORGANISM,
        Head("seed", "the method's"),
        Head("status", text=True),
        *map(head_of, SCORES),
        SECONDS,
        Head("says", "the method's verdict", text=True),
        Head("run", text=True),
        Head("record", "its key, and where its file is", text=True),
        Head("verified", text=True),
        Head("reason", text=True),
    )
    lines = []
    for entry, cell in found:
        row = cell.row

        def why(name: str, entry: Entry = entry) -> str:
            return entry.why(name)

        failed = row["status"] != "ok"
        lines.append(
            Line(
                cells=(
                    text_cell(entry.row["label"]),
                    text_cell(row["organism"]),
                    number_cell(row["seed"]),
                    Cell(STATUS_WORDS[str(row["status"])], state="error" if row["status"] == "error" else "ok"),
                    *([Cell("")] * len(SCORES) if failed else [score_cell(row, each, why) for each in SCORES]),
                    _seconds(row),
                    text_cell(row["verdict"]),
                    text_cell(row["run"]),
                    text_cell(str(row["key"])[:12], link(cell), str(row["key"])),
                    text_cell(row["verified"]),
                    text_cell(row["reason"]),
                ),
                faded=entry.newer is not None,
            )
        )
    return Table(ident, caption, heads, tuple(lines))


def failures_table(ident: str, cells: Sequence[tuple[Entry, EntryCell]], *, method: Place, organism: Place) -> Table:
    """Cells without scores, and why; ``method`` and ``organism`` say where their pages are."""
    heads = tuple(Head(name, text=True) for name in ("method", "organism", "what", "reason", "tier", "run"))
    heads = (*heads[:2], Head("seed", "the method's"), *heads[2:])
    lines = tuple(
        Line(
            cells=(
                text_cell(entry.row["label"], method(str(entry.row["method"]))),
                text_cell(cell.row["organism"], organism(entry.kind)),
                number_cell(cell.row["seed"]),
                Cell(STATUS_WORDS[str(cell.row["status"])], state="error" if cell.row["status"] == "error" else "n/a"),
                text_cell(cell.row["reason"]),
                text_cell(cell.row["tier"]),
                text_cell(cell.row["run"]),
            ),
            faded=entry.newer is not None,
        )
        for entry, cell in cells
        if cell.row["status"] != "ok"
    )
    return Table(ident, "Cells without scores; none of them counts as a number", heads, lines)


def ranks_table(ident: str, found: Sequence[tuple[Standing, StandingRow]]) -> Table:
    """Where rows stand in all standings."""
    heads = (
        Head("row", text=True),
        Head("figure", text=True),
        *(Head(name) for name in ("rank", "of", "mean [95%]", "over trivial", "units")),
        *(Head(name, text=True) for name in ("unit", "over", "against", "tier", "judge", "misses")),
    )
    lines = tuple(
        Line(
            (
                text_cell(row.label),
                text_cell(standings_page.PLAIN.get(table.metric, table.metric), title=standings_page.about(table)),
                Cell(standings_page.rank_text(row), None if row.rank_low is None else float(row.rank_low)),
                Cell(str(sum(each.rank_low is not None for each in table.rows))),
                figure_cell(row.figure),
                figure_cell(row.lift),
                Cell(str(row.units), float(row.units)),
                *map(
                    text_cell, (table.unit or "too few of any", table.scope, table.reference, table.tier, table.judge)
                ),
                text_cell(row.gaps),
            )
        )
        for table, row in found
    )
    return Table(ident, "Its ranks in the standings", heads, lines)


def standing_table(ident: str, table: Standing, method: Mapping[str, str]) -> Table:
    """One table of standings, with a picture of each interval."""
    heads = tuple(Head(column.head, column.legend, text=column.text) for column in standings_page.LAYOUT)
    numbers = [row.figure for row in table.rows if row.figure.value is not None]
    ends = [end for each in numbers for end in (each.low, each.value, each.high) if end is not None] + [0.0]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0

    def at(value: float | None) -> float | None:
        return None if value is None else round(2 + 96 * (value - low) / width, 1)

    def line(row: StandingRow) -> Line:
        values = (row.rank_low, None, None, row.figure.value, row.lift.value, row.units, row.cells, None)
        cells = []
        for column, value in zip(standings_page.LAYOUT, values, strict=True):
            text = column.cell(row)
            sort = None if value is None else float(value)
            if column.head.startswith("mean") and row.figure.value is not None:
                middle = at(row.figure.value)
                assert middle is not None
                span = (at(row.figure.low), middle, at(row.figure.high), at(0.0))
                cells.append(Cell(text, sort, span=span))
            elif column.head == "method":
                mark = "verified" if row.verified else ""
                cells.append(replace(text_cell(row.label, method.get(row.row)), mark=mark))
            elif column.head in ("mean [95%]", "over trivial"):
                figure = row.figure if column.head == "mean [95%]" else row.lift
                over = f"over {', '.join(row.lift_over)}" if row.lift_over and figure is row.lift else ""
                cells.append(Cell(text, sort, figure.reason or over, state=figure.state))
            elif column.head == "notes":
                cells.append(Cell(text, title=row.gaps or ""))
            else:
                cells.append(Cell(text, sort))
        # A reader looks for the method first, and it stays in sight on a narrow screen.
        return Line((cells[METHOD_AT], *cells[:METHOD_AT], *cells[METHOD_AT + 1 :]), pinned=row.kind == "control")

    ordered = (heads[METHOD_AT], *heads[:METHOD_AT], *heads[METHOD_AT + 1 :])
    return Table(ident, standings_page.heading(table), ordered, tuple(line(row) for row in table.rows))


METHOD_AT = [column.head for column in standings_page.LAYOUT].index("method")


def detection_table(ident: str, table: ChangeDetection, method: Mapping[str, str]) -> Table:
    """One table of the detection of change."""
    heads = (
        METHOD,
        Head("false alarms", "share of the nulls of which the verdict is 'changed', 95% Clopper-Pearson", lower=True),
        Head("hits", "share of the changed organisms of which it is 'changed'"),
        Head("abstains, nulls", "share of the nulls of which it is 'abstain': no alarm"),
        Head("abstains, changed", "share of the changed ones: no hit"),
        Head("AUROC", "change score of changed organisms against nulls"),
        Head("TPR at 5%", "share of changed organisms over a threshold that at most 5% of the nulls reach"),
        Head("TPR at 1%", "the same at 1%"),
        Head("nulls", "with a change score"),
        Head("changed", "organisms at a seed with one"),
        Head("notes", text=True),
    )

    def line(row: DetectionRow) -> Line:
        asked: tuple[Figure, ...] = (
            *(row.alarms, row.hits, row.abstains_nulls, row.abstains_changed),
            *(row.auroc, row.tpr_5, row.tpr_1),
        )
        notes = ", ".join(part for part in (row.kind if row.kind != "method" else "", row.gaps or "") if part)
        numbers = tuple(Cell(str(value), float(value)) for value in (row.nulls, row.positives))
        cells = (text_cell(row.label, method.get(row.row)), *map(figure_cell, asked), *numbers, text_cell(notes))
        return Line(cells, pinned=row.kind == "control")

    return Table(ident, change_page.heading(table), heads, tuple(map(line, table.rows)))
