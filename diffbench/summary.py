"""Summary: what tables show, one row per method and setting, averaged over the seeds of the method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from diffbench.columns import CELL, FIGURES, TRUST, filled, precedence
from diffbench.edition import trusted
from diffbench.interval import LEAST_UNITS, mean_interval
from diffbench.table import LABEL_WIDTH, clip

Row = dict[str, Any]
CONTROLS = ("oracle", "nothing", "random-dictionary")
"""Controls in the order in which they are pinned; others follow by name."""
SECTION = ("organism", "organism_version", "reference", "tier", "judge", "setting")
"""What the rows of one table share."""
COSTS = ("method_seconds", "score_seconds", "harvest_seconds", "peak_memory_mb")
OWN_TRACK = "training_data"
_METHOD = ("row", "method", "ranking", "method_version", "variant", "control", "baseline", "access")
_DTYPES = {
    **{column.name: "Int64" for column in CELL if column.kind == "int"},
    **dict.fromkeys(("seeds", "seeds_ok"), "Int64"),
    **dict.fromkeys(("control", "baseline", "scored"), "boolean"),
    **{column.name + end: "Float64" for column in FIGURES for end in ("", "_low", "_high")},
    **dict.fromkeys(COSTS, "Float64"),
}

DESCRIPTIONS = {
    "label": "the row and the options that were passed",
    "status": "ok, partial (some seeds failed), not_applicable or error",
    "scored": "whether at least one seed has scores",
    "seeds": "method seeds that were run",
    "seeds_ok": "method seeds that have scores; figures are means over these",
    "unit": "what intervals are over: 'method seeds' (t), 'documents' (the record's own), or null where there are none",
    "reason": "why seeds have no scores",
    "verdict": "what the method says: changed, unchanged or abstain",
    "verified": "own, or of a submission: verified (scored again from its Diff); unverified if any of its seeds is",
    "submission": "the submission that the row is of; null: it is trusted, and put together with others",
    "notes": "what to know about the row, in a few words",
}
"""Columns of `summary` that `diffbench.columns.dictionary` does not know."""
SUMMARY_TYPES = {
    name: _DTYPES.get(name, "string")
    for name in (
        *(*SECTION, *_METHOD, *DESCRIPTIONS),
        *(column.name + end for column in FIGURES for end in ("", "_low", "_high", "_state")),
        *COSTS,
    )
}
"""Columns of `summary`, and of what type they are."""


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per organism, reference, tier, judge, setting and method with its options, in reading order.

    Rows that nobody scored again are put together with no others but those of their submission.

    Figures are means over method seeds, with a t interval over them from three on. One seed, or seeds that make no
    difference, are one unit: then the record's own interval over documents is kept. Seeds that failed are counted
    and left out (status ``partial``). A figure that some finished seeds have and others lack is no number: a mean
    over the lucky ones would flatter.

    Controls come first in a fixed order, then methods by headline, then partial ones, those of their own track,
    those without a headline, not applicable ones, failed ones. An unmatched R decides nothing.
    """
    return summary_frame(summary_rows(plain_rows(frame)))


def summary_rows(rows: Iterable[Row]) -> list[Row]:
    """`summary` of the rows as Python values, as Python values."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    found = [_summary_row(_newest_per_seed(group)) for group in groups.values()]
    _tell_apart(found)
    found.sort(key=_rank)
    return found


def group_of(row: Row) -> tuple[Any, ...]:
    """What rows share that are put together: what nobody scored again is put together with its own submission alone."""
    return (*(row[name] for name in SECTION), row["row"], row["variant"], submission_of(row))


def submission_of(row: Row) -> str | None:
    """The submission of a row that is not trusted."""
    return None if trusted(row) else str(row.get("submission") or row.get("run"))


def summary_frame(found: Sequence[Row]) -> pd.DataFrame:
    """What `summary_rows` found as a frame."""
    names = found[0] if found else ()
    columns = {name: [row[name] for row in found] for name in names}
    return pd.DataFrame({name: filled(values, dtype=SUMMARY_TYPES[name]) for name, values in columns.items()})


def plain_rows(frame: pd.DataFrame | Sequence[Row]) -> list[Row]:
    """The rows as dictionaries of Python values; null is None. Rows that are so already are taken as they are."""
    if not isinstance(frame, pd.DataFrame):
        return list(frame)
    asked = [str(name) for name in frame.columns]
    return [
        dict(zip(asked, values, strict=True))
        for values in zip(*(plain_values(frame[name]) for name in asked), strict=True)
    ]


def plain_values(column: pd.Series[Any]) -> list[Any]:
    """The values of a column that can hold nulls as Python values; null is None."""
    values: list[Any] = column.array.to_numpy(dtype=object, na_value=None).tolist()
    return values


def _newest_per_seed(group: list[Row]) -> list[Row]:
    """Two records of one seed are no two units; `precedence` says which counts."""
    group = sorted(group, key=precedence)
    return sorted({row["seed"]: row for row in group}.values(), key=lambda row: row["seed"] or 0)


def _summary_row(group: list[Row]) -> Row:
    scored = [row for row in group if row["status"] == "ok"]
    statuses = {row["status"] for row in group}
    status = statuses.pop() if len(statuses) == 1 else "partial" if scored else "error"
    unit = _unit(scored, len(group))
    result: Row = {name: group[0][name] for name in (*SECTION, *_METHOD)}
    result |= {
        "label": label_of(group[0]),
        "status": status,
        "scored": bool(scored),
        "seeds": len(group),
        "seeds_ok": len(scored),
        "unit": unit,
        "reason": _counted(row["reason"] for row in group if row["status"] != "ok"),
        "verdict": _counted(row["verdict"] for row in scored),
        "verified": _least_trusted(group),
        "submission": submission_of(group[0]),
    }
    result["notes"] = _notes(result)
    for column in FIGURES:
        result |= _mean_figure(column.name, scored or group, unit)
    for name in COSTS:
        # What a submission says of its cost cannot be checked, whatever became of its scores.
        values = [row[name] for row in group if row[name] is not None and row.get("verified") in (None, TRUST[-1])]
        result[name] = sum(value / len(values) for value in values) if values else None
    return result


def _least_trusted(group: list[Row]) -> str | None:
    """What can be said of all rows of a group; None where nothing is known of one."""
    marks = {row.get("verified") for row in group}
    return None if None in marks else next(mark for mark in TRUST if mark in marks)


def _unit(scored: list[Row], asked: int) -> str | None:
    """Seeds of a method that draws nothing at random repeat one number: that is one unit, not several."""
    causal = [name for name in scored[0] if name.startswith(("headline", "r_", "pca_"))] if scored else []
    alike = len({tuple(row[name] for name in causal) for row in scored}) == 1
    if alike and len(scored) == asked:
        return "documents"
    return "method seeds" if len(scored) >= LEAST_UNITS and not alike else None


def _mean_figure(name: str, group: list[Row], unit: str | None) -> Row:
    states = {row[f"{name}_state"] for row in group}
    worst = next((state for state in ("error", "undefined", "n/a", "none") if state in states), "ok")
    if worst != "ok":
        return {name: None, f"{name}_low": None, f"{name}_high": None, f"{name}_state": worst}
    values = [row[name] for row in group]
    low = high = None
    if unit == "documents" and len({(row[name], row[f"{name}_low"]) for row in group}) == 1:
        low, high = group[0][f"{name}_low"], group[0][f"{name}_high"]
    elif unit == "method seeds":
        low, high = _over_seeds(values)
    mean = values[0] if len(set(values)) == 1 else sum(value / len(values) for value in values)
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_state": "ok"}


def _over_seeds(values: list[float]) -> tuple[float | None, float | None]:
    try:
        found = mean_interval(values)
    except OverflowError:
        found = None
    if found is None:
        return None, None
    # Mathematical libraries differ in the last digits; the files are to be the same on every machine.
    low, high = (float(f"{end:.12g}") for end in found[1:])
    return low, high


def label_of(row: Row) -> str:
    """What tables call a row: its name and the options that were passed."""
    passed = str(row["options_passed"]).strip("{}").replace('"', "").replace(": ", "=")
    return clip(f"{row['row']} {passed}".strip(), LABEL_WIDTH - len(" #0000"))


def _tell_apart(found: list[Row]) -> None:
    """Rows of one table whose labels are equal carry their submission, or else their variant.

    The latter where they differ in options that nobody passed, or that were cut off.
    """

    def name(row: Row) -> tuple[Any, ...]:
        return (*(row[part] for part in SECTION), row["label"])

    alike = Counter((*name(row), row["variant"]) for row in found)
    for row in [row for row in found if row["submission"] and alike[(*name(row), row["variant"])] > 1]:
        row["label"] += f" ({clip(row['submission'], 20)})"
    often = Counter(map(name, found))
    for row in [row for row in found if often[name(row)] > 1]:
        row["label"] += f" #{row['variant'][:4]}"


def _notes(row: Row) -> str:
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"
    parts = ["control"] if row["control"] else []
    if row["verified"] == TRUST[0]:
        parts.append(f"{TRUST[0]}, of {clip(str(row['submission']), 20)}")
    if not row["scored"]:
        parts.append("see below")
    else:
        parts.append(f"{row['seeds_ok']} of {seeds}" if row["status"] == "partial" else seeds)
    if row["baseline"]:
        parts.append("trivial")
    if OWN_TRACK in row["access"]:
        parts.append("own track")
    if row["scored"] and row["verdict"] != "changed":
        parts.append(f"says {row['verdict']}")
    return ", ".join(parts)


def _counted(texts: Iterable[str]) -> str | None:
    """Distinct texts, with how often each occurs where there are several."""
    counts = Counter(texts)
    if len(counts) < 2:
        return next(iter(counts), None)
    return ", ".join(f"{n}x {text}" for text, n in sorted(counts.items()))


def _rank(row: Row) -> tuple[Any, ...]:
    section = tuple(str(row[name]).zfill(12 if name == "organism_version" else 0) for name in SECTION)
    name = (row["row"], row["label"], row["variant"], row["submission"] or "")
    headline = row["headline"] if row["headline_state"] == "ok" else None
    if row["control"]:
        place = CONTROLS.index(row["method"]) if row["method"] in CONTROLS else len(CONTROLS)
        return (*section, 0, place, *name)
    if row["status"] in ("not_applicable", "error"):
        return (*section, 5 if row["status"] == "not_applicable" else 6, 0, *name)
    if headline is None:
        return (*section, 4, 0, *name)
    track = 3 if OWN_TRACK in row["access"] else 2 if row["status"] == "partial" else 1
    return (*section, track, -headline, *name)
