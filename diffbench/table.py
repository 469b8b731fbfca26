"""Table: how numbers, missing numbers and untrusted text look in a terminal, in Markdown and in CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

from diffbench.line import one_line
from diffbench.tier import COMPONENT_BUDGETS

Row = Mapping[str, Any]
FULL_WIDTH = 120
LABEL_WIDTH = 44
NOTE_WIDTH = 48
DEEPEST = 20
STATES = {"none": "none", "n/a": "n/a", "undefined": "undef.", "error": "ERROR"}

_SPECIAL = re.compile(r"([\\`*\[\]|~$])|(?<!\w)_|_(?!\w)")
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def plain(value: Any, depth: int = 0) -> Any:
    """JSON of a stranger with clean texts, finite numbers and a bounded depth."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if depth > DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {one_line(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    return value


def number(value: float, state: str = "ok") -> str:
    """A score: ``.85``, ``-.12``, ``12.3``, ``1,234``; or ``n/a``, ``undef.``, ``ERROR``."""
    if state != "ok":
        return STATES[state]
    size = abs(value)
    if size >= 1e6:
        return f"{value:.2g}"
    text = f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
    return ".00" if text in ("0.00", "-0.00") else re.sub(r"^(-?)0\.", r"\1.", text)


def precise(value: float, state: str = "ok") -> str:
    """A quantity that may be tiny, with three significant digits."""
    return f"{value:.3g}" if state == "ok" else STATES[state]


def count(value: float, state: str = "ok") -> str:
    """A rank or a count; a mean of several may have a fraction."""
    if state != "ok":
        return STATES[state]
    return f"{value:,.0f}" if math.isclose(value, round(value)) else f"{value:,.1f}"


def share(value: float, state: str = "ok") -> str:
    """A share as per cent."""
    return f"{100 * value:.3g}%" if state == "ok" else STATES[state]


def figure(row: Row, name: str, form: Callable[[float, str], str] = number) -> str:
    """The figure ``name`` of a summary row."""
    state = row[f"{name}_state"]
    return form(0.0 if state != "ok" else float(row[name]), state)


def with_interval(row: Row, name: str) -> str:
    """The figure with its 95% interval; a trailing ``d`` says that the interval is over documents."""
    text = figure(row, name)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if row[f"{name}_state"] != "ok" or _absent(low) or _absent(high):
        return text
    return f"{text} [{number(low)}, {number(high)}]{'d' if row['unit'] == 'documents' else ''}"


def over_budgets(row: Row, stem: str) -> str:
    """A score at every budget, as ``.31 .52 .70 .84``; one word if none of them is a number."""
    texts = [figure(row, f"{stem}_at_{k}") for k in COMPONENT_BUDGETS]
    states = {row[f"{stem}_at_{k}_state"] for k in COMPONENT_BUDGETS}
    return texts[0] if len(states) == 1 and states != {"ok"} else " ".join(texts)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table that people read; ``text`` marks words, which are left-aligned and may be hostile."""

    head: str
    cell: Callable[[Row], str]
    legend: str
    text: bool = False


def _hit(row: Row) -> str:
    return f"{figure(row, 'first_hit', count)} ({figure(row, 'first_hit_shuffled', count)})"


LAYOUT = (
    Column("method", lambda row: clip(row["label"], LABEL_WIDTH), "options that were passed stand behind it", True),
    Column(
        "lift [95%]",
        lambda row: with_interval(row, "headline"),
        "what rows are sorted by: mean over the budgets of R at affected positions minus PCA's at the same budget; "
        "higher is better, 0 = as good as PCA. The interval is over method seeds (t, from 3 seeds on), or, marked d, "
        "over documents, where there is one seed or seeds make no difference; neither covers other organisms",
    ),
    Column(
        "R@1 2 4 8",
        lambda row: over_budgets(row, "r"),
        "R_hybrid at affected positions of the first 1, 2, 4, 8 components: the share they take away of the KL between "
        "the tuned model and the same model run on the reference's unedited stream at that layer (the coverage says "
        "how much of the whole KL that is); 1 = all of it, negative = worse than doing nothing; higher is better",
    ),
    Column(
        "full",
        lambda row: figure(row, "r_full"),
        "R_hybrid of the full edit at all positions; not matched in budget, so nothing is sorted by it; "
        "higher is better",
    ),
    Column("error", lambda row: figure(row, "r_error"), "R_hybrid of what the full edit leaves out; lower is better"),
    Column(
        "FVE",
        lambda row: figure(row, "fve"),
        "fraction of variance explained of the dictionary's own target, held-out text; higher is better",
    ),
    Column("L0", lambda row: figure(row, "l0"), "mean active components per position; lower is sparser"),
    Column(
        "dead",
        lambda row: figure(row, "dead_share"),
        "share of components that never fire on held-out text; lower is better",
    ),
    Column(
        "AUROC",
        lambda row: figure(row, "auroc_best10"),
        "affected against near-miss probes, best of the first ten findings, each for the claim it fits best; being a "
        "best of many its chance level is not .5: the bar is the random-dictionary row; higher is better",
    ),
    Column(
        "hit (null)",
        _hit,
        "rank of the first finding with AUROC of at least .9; in brackets the median over shuffled rankings; lower is "
        "better",
    ),
    Column(
        "detect",
        lambda row: figure(row, "detection_lift"),
        "how much better the judge tells activating contexts by the explanations than by a random dictionary's "
        "(balanced accuracy); higher is better",
    ),
    Column(
        "s",
        lambda row: number(row["method_seconds"]) if not _absent(row["method_seconds"]) else "n/a",
        "seconds of the method process, without the harvest that every method is charged; lower is better",
    ),
    Column(
        "notes",
        lambda row: clip(row["notes"], NOTE_WIDTH),
        "seeds whose mean the row shows ('3 of 4 seeds': one failed, the mean is over three and the row is ranked "
        "apart); 'own track': reads what others may not; what the method says where that is not 'changed'",
        text=True,
    ),
)
"""Rows that failed or do not apply say so under `lift` and leave the other scores empty."""
_KEPT_WITHOUT_SCORES = ("method", "lift [95%]", "s", "notes")
DROPPED = ("dead", "L0", "FVE", "error", "full", "hit (null)", "detect", "AUROC")
"""Columns that a narrow terminal goes without, in this order."""


def cells_of(rows: Sequence[Row], columns: Sequence[Column] = LAYOUT) -> list[list[str]]:
    """The cells of one section; the first line is PCA's at the same budgets, where it was measured."""
    cells = [
        [column.cell(row) if row["scored"] or column.head in _KEPT_WITHOUT_SCORES else "" for column in columns]
        for row in rows
    ]
    texts = sorted({over_budgets(row, "pca") for row in rows if row["scored"] and row["pca_at_1_state"] == "ok"})
    if texts:
        note = "what lift is over" if len(texts) == 1 else "differs between rows: see CSV"
        pca = {"method": "PCA at the same k", "R@1 2 4 8": texts[0], "notes": note}
        cells.insert(0, [pca.get(column.head, "") for column in columns])
    return cells


def text_table(rows: Sequence[Row], width: int = FULL_WIDTH) -> str:
    """One section as plain text, with as many columns as fit."""
    for dropped in range(len(DROPPED) + 1):
        columns = [column for column in LAYOUT if column.head not in DROPPED[:dropped]]
        lines = align(columns, cells_of(rows, columns))
        if max(map(cell_len, lines)) <= width:
            break
    text = "\n".join(clip(line.rstrip(), width) for line in lines) + "\n"
    left_out = ", ".join(DROPPED[:dropped])
    return text + (clip(f"(too narrow for: {left_out})", width) + "\n" if left_out else "")


def markdown_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    """A GitHub table whose source is aligned as well; all text is escaped here."""
    escaped = [
        [escape_markdown(cell) if column.text else cell for column, cell in zip(columns, row, strict=True)]
        for row in cells
    ]
    head, *body = align(columns, escaped, "|")
    widths = [len(part) for part in head.split("|")]
    rule = [
        (":" + "-" * (width - 1)) if column.text else ("-" * (width - 1) + ":")
        for column, width in zip(columns, widths, strict=True)
    ]
    return "".join(f"|{line}|\n" for line in (head, "|".join(rule), *body))


def align(columns: Sequence[Column], cells: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Heads and cells as lines of equal width."""
    table = [[column.head for column in columns], *cells]
    widths = [max(2, *(cell_len(row[i]) for row in table)) for i in range(len(columns))]
    lines = []
    for row in table:
        parts = []
        for column, width, cell in zip(columns, widths, row, strict=True):
            blank = " " * (width - cell_len(cell))
            parts.append(cell + blank if column.text else blank + cell)
        lines.append(gap.join(parts))
    return lines


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` terminal cells."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def escape_markdown(text: str) -> str:
    """``text`` as it is, wherever it stands in a Markdown document: no markup, no HTML, no new cell or line."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(lambda found: "\\" + found.group(), text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def csv_cell(value: Any) -> Any:
    """A CSV value that no spreadsheet takes for a formula; a quote in front marks text that looks like one."""
    if not isinstance(value, str) or not value.lstrip(" '\"").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def _absent(value: Any) -> bool:
    return value is None or value != value or not isinstance(value, int | float)
