"""Report part: the tables and pictures of one organism in a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from diffbench.board_page import facts, failure, heading
from diffbench.columns import FIGURES
from diffbench.figure import Figure
from diffbench.layout import DETAILS, LAYOUT
from diffbench.line import one_line
from diffbench.report import Method, Part, Shown
from diffbench.report_curves import (
    BUDGETS_TEXT,
    DOSES_TEXT,
    LAYERS_TEXT,
    STEPS_TEXT,
    budget_curves,
    doses,
    layer_profile,
    lifts,
    stitching,
)
from diffbench.report_finding import marked
from diffbench.summary import Row
from diffbench.table import Column, number
from diffbench.tier import COMPONENT_BUDGETS
from diffbench.webpage import Cell, Head, Line, Table, figure_cell

SORTED_BY = {
    "lift [95%]": "headline",
    "R@1 2 4 8": "r_at_8",
    "in/out": "installed",
    "claims": "claims_recall",
    "AUROC": "auroc_best10",
    "hit (null)": "first_hit",
    "detect": "detection_lift",
    "account": "account_structured",
    "full": "r_full",
    "error": "r_error",
    "FVE": "fve",
    "L0": "l0",
    "dead": "dead_share",
    "s": "method_seconds",
    "rand/noise": "random_at_8",
    "area": "area",
    "model": "r_model_affected",
    "need": "necessity_affected",
    "template": "top_in_template",
    "start": "top_in_response_start",
    "off KL": "off_target_kl",
    "select": "selectivity",
    "apart": "disentangling",
    "cut": "attribution_cut",
    "says": "direction_best10",
    "P@10": "precision_at_10",
    "over": "over_listing",
    "- shuf": "detection_over_shuffled",
    "- raw": "detection_over_untrained",
    "fuzz": "fuzzing_lift",
    "odd": "intruder_lift",
    "steer": "intervention_lift",
    "grade": "account_grade",
}
"""By which figure a column of the tables is sorted; a column that holds two goes by the first."""
NAMED, STATED = 7, 140
"""Words, and characters of a statement, in the table of what was found."""
LOWER = frozenset({"hit (null)", "error", "L0", "dead", "s", "off KL", "over"})
_READ = {column.name: column.get for column in FIGURES}


@dataclass(frozen=True, slots=True)
class PartView:
    """What the template shows of a part.

    Attributes:
        claims: what is true, as id (where it is known) and sentence; None: nobody knows.
        pictures: name of a block, what it is about, the block, and whether it takes the whole width.
        failures: cells without scores, and why.
    """

    ident: str
    name: str
    heading: str
    facts: str
    null: str | None
    claims: tuple[tuple[str, str], ...] | None
    glance: Table | None
    forest: Markup
    table: Table
    details: Table
    pictures: tuple[tuple[str, str, Markup, bool], ...]
    failures: tuple[str, ...]
    others: tuple[str, ...]


def part_view(part: Part, ident: str, anchors: Mapping[tuple[str, str], str]) -> PartView:
    """One organism.

    Args:
        part: of the report.
        ident: its anchor.
        anchors: of its rows' findings, by row and variant.
    """
    section = part.section
    claims = claims_of(part)
    pictures = (
        ("Budget curves", BUDGETS_TEXT, budget_curves(part.methods), True),
        ("What each layer carries", LAYERS_TEXT, layer_profile(part) if part.section.pair.layers else Markup(), False),
        ("Weights moved step by step", STEPS_TEXT, stitching(part.methods), False),
        ("Added in doses", DOSES_TEXT, doses(part.methods), True),
    )
    elsewhere = [f"{other.key['organism']}: {failure(row)}" for other in part.others for row in other.failures]
    return PartView(
        ident=ident,
        name=one_line(section.key["organism"]),
        heading=heading(section),
        facts=facts(section),
        null=None if part.changed is not False and part.null_class is None else (part.null_class or "unchanged"),
        claims=claims,
        glance=glance(part, ident, claims or (), anchors) if anchors else None,
        forest=lifts(section.summary),
        table=score_table(part, f"{ident}-scores", LAYOUT, anchors),
        details=score_table(part, f"{ident}-more", DETAILS, anchors),
        pictures=tuple(picture for picture in pictures if picture[2]),
        failures=(*(one_line(failure(row)) for row in section.failures), *map(one_line, elsewhere)),
        others=tuple(dict.fromkeys(one_line(other.key["organism"]) for other in part.others)),
    )


def claims_of(part: Part) -> tuple[tuple[str, str], ...] | None:
    """What is true of a pair: the claims' ids, where they can be told, and their sentences."""
    if part.sheet is None:
        return None
    facts_told = part.sheet.facts
    ids: Sequence[str] = tuple(dict.fromkeys(place.claim for place in part.sheet.places if place.claim))
    if len(ids) != len(facts_told):
        tested = [m.shown.record.scores.behaviour.claims for m in part.methods if m.shown and m.shown.record.scores]
        ids = next((tuple(c.claim for c in found) for found in tested if len(found) == len(facts_told)), ())
    ids = ids if len(ids) == len(facts_told) else [""] * len(facts_told)
    return tuple((one_line(name), one_line(fact.statement)) for name, fact in zip(ids, facts_told, strict=True))


def glance(part: Part, ident: str, claims: Sequence[tuple[str, str]], anchors: Mapping[tuple[str, str], str]) -> Table:
    """Which method located which claim, the words its first findings name, and whether they moved so."""
    heads = (
        Head("method", "", True),
        *(Head(name, text, True) for name, text in claims if name),
        Head("AUROC", "best of the first ten findings; by chance it grows with the findings that there are"),
        Head("its first findings name more often", "words of the first three findings; ✓ moved so, ✗ other way", True),
        Head("the judge concludes", "from all its findings", True),
    )
    lines = []
    for method in part.methods:
        shown = method.shown
        if shown is None or shown.record.scores is None:
            continue
        scores, row = shown.record.scores, method.summary
        found, match = set(scores.claims.found), scores.interpretability.match
        asked = scores.claims.recall.value is not None
        told = [("✓" if name in found else "–") if asked else "n/a" for name, _ in claims if name]
        lines.append(
            Line(
                (
                    Cell(one_line(row["label"]), href=f"#{anchors[row['row'], row['variant']]}"),
                    *(Cell(mark, state="ok" if asked else "n/a") for mark in told),
                    figure_cell(scores.localisation.auroc_best10),
                    Cell(marked(first_words(shown), part.sheet, True, NAMED)),
                    Cell(one_line(match.statement, STATED)),
                ),
                pinned=bool(row["control"]),
            )
        )
    caption = "Which method found what, lowest seed. ✓: one of its first ten findings tells where the claim holds"
    return Table(f"{ident}-glance", caption, heads, tuple(lines))


def first_words(shown: Shown) -> list[str]:
    """Words that the first three findings name as said more often, those of the first one first."""
    told = [one.tokens_up for one in shown.dashboard.findings[:3]] if shown.dashboard else []
    told = told or [one.evidence.tokens_up for one in shown.evidence[:3]]
    return list(dict.fromkeys(token for tokens in told for token in tokens[:3]))


def score_table(
    part: Part, ident: str, columns: Sequence[Column[Any]], anchors: Mapping[tuple[str, str], str]
) -> Table:
    """One of the tables of `diffbench show`, sortable; rows lead to what they found."""
    rows = [method for method in part.methods if columns is LAYOUT or method.summary["scored"]]
    heads = [Head(column.head, column.legend, column.text, column.head in LOWER) for column in columns]
    body = [_row(method, columns, anchors) for method in rows]
    if columns is LAYOUT:
        pca = sorted({_pca(method.summary) for method in rows if method.summary["pca_at_1_state"] == "ok"})
        if pca:
            note = "what lift is over" if len(pca) == 1 else "differs between rows"
            told = {"method": "PCA at the same k", "R@1 2 4 8": pca[0], "notes": note}
            body.insert(0, Line(tuple(Cell(told.get(column.head, "")) for column in columns), pinned=True))
    name = "Scores" if columns is LAYOUT else "More scores of the same rows"
    caption = f"{name} of {one_line(part.section.key['organism'])}; what a column means stands in the glossary"
    return Table(ident, caption, tuple(heads), tuple(body))


def _row(method: Method, columns: Sequence[Column[Any]], anchors: Mapping[tuple[str, str], str]) -> Line:
    row = method.summary
    cells = []
    for column in columns:
        if column.head == "method":
            anchor = anchors.get((row["row"], row["variant"]))
            cells.append(Cell(one_line(row["label"]), href=f"#{anchor}" if anchor else None))
            continue
        name = SORTED_BY.get(column.head)
        if not row["scored"] and column.head not in ("lift [95%]", "s", "notes"):
            cells.append(Cell(""))
        elif name is None or name == "method_seconds":
            cells.append(Cell(column.cell(row), row[name] if name else None))
        else:
            cells.append(_figure_cell(method, name, column.cell(row)))
    return Line(tuple(cells), pinned=bool(row["control"]))


def _figure_cell(method: Method, name: str, text: str) -> Cell:
    row = method.summary
    state = row[f"{name}_state"]
    why = row["reason"] or "" if not row["scored"] else ""
    if state != "ok" and method.shown is not None:
        figure = _READ[name](method.shown.record)
        why = one_line(figure.reason or "") if isinstance(figure, Figure) else why
    words = {"error": "failed", "not_applicable": "n/a"}
    if not row["scored"] and name == "headline":
        text = words.get(row["status"], text)
    return Cell(text, row[name] if state == "ok" else None, one_line(why), state=state)


def _pca(row: Row) -> str:
    return " ".join(number(row[f"pca_at_{k}"] or 0.0, row[f"pca_at_{k}_state"]) for k in COMPONENT_BUDGETS)
