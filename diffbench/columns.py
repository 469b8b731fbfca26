"""Columns: what a row of the leaderboard's data says about a record. Knows nothing of models or torch.

A figure NAME fills four columns: NAME, NAME_low, NAME_high (95% interval over documents, where there is one) and
NAME_state (``ok``, ``n/a``, ``undefined``, ``error``). Only ``ok`` comes with a number; anything else is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from diffbench.canonical import digest
from diffbench.line import one_line
from diffbench.record import Record
from diffbench.score_columns import FIGURES, Column, Kind, at, parts
from diffbench.table import plain
from diffbench.tier import COMPONENT_BUDGETS

__all__ = ["CELL", "COLUMNS", "FIGURES", "Column", "dictionary", "filled", "instant", "precedence", "rows"]

DTYPES = {"text": "string", "json": "string", "int": "Int64", "number": "Float64", "flag": "boolean"}
LARGEST_INT = 2**63 - 1
TRUST = ("unverified", "verified", "own")
"""Values of the column ``verified``, the least trusted first."""
BY_HAND = "chosen by hand"
"""The layer rule of an override, which is a track of its own."""


def setting(record: Record) -> str:
    """What has to be equal for two rows to be compared: the pair, the layer, the budget and the scoring code."""
    hashes = record.hashes.model_dump(exclude={"diff", "judged", "dashboard"})
    return digest(plain([hashes, record.pair.layer, record.pair.layer_rule, record.budget.model_dump()]))[:8]


def terms(record: Record) -> str:
    """What has to be equal for cells of different pairs to be pooled: rule of the layer, budget, scoring code."""
    pair = record.pair
    layer = f"layer {pair.layer}" if pair.layer_rule == BY_HAND else "by rule"
    return digest(plain([layer, record.budget.model_dump(), record.hashes.score_code]))[:8]


def variant(record: Record) -> str:
    """What has to be equal for two records to differ in nothing but their seed."""
    cell = record.cell
    return digest(plain([cell.row, cell.method_version, cell.method_package, cell.options]))[:8]


def _above(k: int) -> Callable[[Record], Any]:
    def read(record: Record) -> Any:
        points = record.scores.recovery.budgets if record.scores else ()
        return next((point.above_noise for point in points if point.k == k), None)

    return read


def _missing(record: Record) -> str | None:
    """``fve, l0: reason; first_hit: reason``."""
    figures = ((column.name, column.get(record)) for column in FIGURES)
    return _why((name, figure.reason) for name, figure in figures if figure is not None and figure.state != "ok")


def _why(gone: Iterable[tuple[str, str]]) -> str | None:
    why: dict[str, list[str]] = {}
    for name, reason in gone:
        why.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in why.items()) or None


CELL = (
    Column("organism", "text", "the pair's organism", at("cell.organism")),
    Column("organism_version", "int", "version of its recipe", at("cell.organism_version")),
    Column("organism_seed", "int", "seed that the organism was generated from", at("cell.organism_seed")),
    Column("family", "text", "family of the organism; empty for a pair of one's own", at("cell.family")),
    Column("training", "text", "how the tuned model was made", at("cell.training")),
    Column("null_class", "text", "class of an organism that lacks the intended change", at("cell.null_class")),
    Column("changed", "flag", "whether anything was changed on purpose; null: nobody knows", at("cell.changed")),
    Column("difficulty_axis", "text", "what the organism's ladder varies", at("cell.difficulty.axis")),
    Column("difficulty_level", "text", "its level on the ladder", at("cell.difficulty.level")),
    Column("reference", "text", "what the tuned model is compared with: base or control", at("cell.reference")),
    Column("tier", "text", "the budget that all methods of a table share", at("cell.tier")),
    Column("judge", "text", "who explained and detected", at("cell.judge")),
    Column("setting", "text", "digest of pair, layer, budget and scoring code; rows compare within one", setting),
    Column("terms", "text", "digest of layer rule, budget and scoring code; pairs are pooled within one", terms),
    Column("row", "text", "what tables call it: the method, or method@ranking", at("cell.row")),
    Column("method", "text", "name of the method", at("cell.method")),
    Column("ranking", "text", "column that latents were ordered by; null: the method's order", at("cell.ranking")),
    Column("method_version", "int", "version of the method", at("cell.method_version")),
    Column("method_package", "text", "distribution that brought it", at("cell.method_package")),
    Column("variant", "text", "digest of row, version and resolved options; seeds are averaged in one", variant),
    Column("control", "flag", "a pinned control row, no competitor", at("cell.control")),
    Column("baseline", "flag", "a cheap baseline, a trivial row that others are compared with", at("cell.baseline")),
    Column("access", "text", "what the method declared to touch", lambda r: ", ".join(sorted(r.cell.access))),
    Column("seed", "int", "the method's seed", at("cell.seed")),
    Column("options_passed", "json", "options as passed", at("cell.options_passed")),
    Column("options", "json", "options resolved", at("cell.options")),
    Column("status", "text", "ok, error or not_applicable", at("status")),
    Column("reason", "text", "why there are no scores", at("reason")),
    Column("key", "text", "SHA-256 of everything that can change the scores", at("key")),
)

FACTS = (
    Column("verdict", "text", "changed, unchanged or abstain", at("scores.verdict")),
    Column("n_findings", "int", "findings", at("scores.n_findings"), "findings"),
    Column("n_components", "int", "components of the Diff", at("scores.fit.n_components"), "components"),
    Column("n_affected", "int", "affected probes", at("scores.localisation.n_affected"), "probes"),
    Column("n_near_miss", "int", "near-miss probes", at("scores.localisation.n_near_miss"), "probes"),
    Column("n_contexts", "int", "contexts of the KL attribution", at("scores.attribution.n_contexts"), "contexts"),
    Column("n_claims", "int", "claims of the Truth", at("scores.claims.n_claims"), "claims"),
    Column("claims_found", "json", "ids of those that were found", at("scores.claims.found")),
    *(
        Column(f"above_noise_at_{k}", "flag", f"whether r_at_{k} lies above the interval of noise_at_{k}", _above(k))
        for k in COMPONENT_BUDGETS
    ),
    Column("curve", "json", "R at affected positions by number of components", parts("scores.recovery.curve")),
    Column("strata", "json", "R and share of the KL by stratum", parts("scores.recovery.strata")),
    Column("sets", "json", "R of the latents under a bound on |nu|", parts("scores.recovery.sets")),
    Column("behaviour_claims", "json", "installed and removed, by claim", parts("scores.behaviour.claims")),
    Column("dose", "json", "installed and off-target KL by strength", parts("scores.behaviour.dose")),
    Column("separation", "json", "what goes with a claim's components", parts("scores.disentangling.claims")),
    Column("missing", "text", "why figures are n/a or undefined", _missing),
    Column("layer", "int", "the layer that was scored", at("pair.layer"), "block, from 0"),
    Column("layer_rule", "text", "how it was chosen", at("pair.layer_rule")),
    Column("kl_noise", "number", "KL of the tuned model to itself", at("pair.kl_noise"), "nats"),
    Column("trigger_rate", "number", "positions that are affected", at("pair.trigger_rate"), "share"),
    Column("outlier_share", "number", "positions masked for their norm", at("pair.outlier_share"), "share"),
    Column("n_positions", "int", "evaluation positions", at("pair.n_positions"), "positions"),
    Column("n_documents", "int", "evaluation documents", at("pair.n_documents"), "documents"),
    Column("budget_tokens", "int", "what the tier allows", at("budget.tokens"), "tokens"),
    Column("budget_components", "int", "what the tier allows", at("budget.components"), "components"),
    Column("budget_seconds", "number", "what the tier allows", at("budget.seconds"), "s"),
    Column("method_seconds", "number", "wall time of the method", at("timings.method_seconds"), "s", False),
    Column("score_seconds", "number", "wall time of the scoring", at("timings.score_seconds"), "s", False),
    Column(
        "harvest_seconds", "number", "the shared harvest, charged to all", at("timings.harvest_seconds"), "s", False
    ),
    Column("peak_memory_mb", "number", "largest resident memory", at("timings.peak_memory_mb"), "MB", False),
    Column("usage", "json", "tokens, calls and FLOPs through the pair", at("timings.usage")),
    Column("sandbox", "text", "how the method process was confined, or none", at("timings.sandbox")),
    Column("started", "text", "UTC", at("timings.started")),
    Column("versions", "json", "packages", at("timings.versions")),
    Column("platform", "text", "machine and system", at("timings.platform")),
    Column("score_code", "text", "SHA-256 of the scoring code", at("hashes.score_code")),
    Column("hashes", "json", "SHA-256 of what could change the numbers", lambda r: r.hashes.model_dump()),
)

COLUMNS = (*CELL, *FIGURES, *FACTS)


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """One row per record, in the order given; `COLUMNS` says what the columns are.

    A number that is missing is null, and the ``_state`` column of its figure says why; it is never 0 or NaN.
    """
    found = list(zip(*(_values(record) for record in records), strict=True)) or [()] * len(_TYPES)
    return pd.DataFrame(
        {name: filled(list(values), dtype) for (name, dtype), values in zip(_TYPES.items(), found, strict=True)}
    )


def _types() -> dict[str, str]:
    known: dict[str, str] = {}
    for column in COLUMNS:
        if column.kind == "figure":
            known |= {column.name + end: "Float64" for end in ("", "_low", "_high")} | {
                f"{column.name}_state": "string"
            }
        else:
            known[column.name] = DTYPES[column.kind]
    return known


_TYPES = _types()
"""Of every column of `rows`, in order."""


def _values(record: Record) -> list[Any]:
    """What stands in a record's row, in the order of `_TYPES`; record by record, which is kind to the processor."""
    without = (None, None, None, "error" if record.status == "error" else "n/a")
    found: list[Any] = []
    gone: list[tuple[str, str]] = []
    for column in COLUMNS:
        if column.get is _missing:
            found.append(_cell(column.kind, _why(gone)))  # all figures have been read by then
            continue
        value = column.get(record)
        if column.kind != "figure":
            found.append(_cell(column.kind, value))
        elif value is None:
            found += without
        else:
            found += (value.value, value.low, value.high, value.state)
            if value.reason is not None and value.state != "ok":
                gone.append((column.name, value.reason))
    return found


def dictionary() -> dict[str, dict[str, Any]]:
    """Every column of `rows`: description, unit and whether higher is better."""
    known: dict[str, dict[str, Any]] = {}
    for column in COLUMNS:
        entry = {"description": column.description, "unit": column.unit, "higher_is_better": column.better}
        known[column.name] = entry
        if column.kind == "figure":
            for end, text in (("_low", "lower end of the 95% interval"), ("_high", "upper end of the 95% interval")):
                known[column.name + end] = {**entry, "description": f"{column.name}: {text}"}
            text = f"{column.name}: ok, or why there is no number: n/a, undefined, error"
            known[f"{column.name}_state"] = {"description": text, "unit": "", "higher_is_better": None}
    known["run"] = {"description": "the run the record was taken from", "unit": "", "higher_is_better": None}
    text = "own, or of a submission: verified (scored again from its Diff) or unverified"
    known["verified"] = {"description": text, "unit": "", "higher_is_better": None}
    text = "of a submission: when whoever verified it first looked at it; UTC"
    known["since"] = {"description": text, "unit": "", "higher_is_better": None}
    for name in ("method_seconds", "score_seconds", "harvest_seconds", "peak_memory_mb", "usage", "sandbox"):
        known[name] = {**known[name], "description": f"{known[name]['description']}; of a submission: as it claims"}
    return known


def instant(started: str) -> tuple[float, str]:
    """A sort key for times in ISO 8601; whatever is none comes first."""
    try:
        moment = datetime.fromisoformat(started)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), started
    except (ValueError, OverflowError):
        return -math.inf, started


def precedence(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A sort key for rows of one cell, of which the last counts.

    One's own after others', and of these the newest; of submissions verified rows, and then those of the one that was
    looked at first: nothing that a submission says of itself takes the place of a row that is there.
    """
    trust = row.get("verified")
    if trust in TRUST[:-1]:
        return TRUST.index(trust), *earlier(row.get("since"), str(row.get("run"))), row["key"]
    return len(TRUST), instant(row["started"]), "", row["key"]


def earlier(since: str | None, name: str) -> tuple[tuple[float, str], str]:
    """A sort key for submissions, of which the one that was looked at first comes last; equal ones by name.

    One of which nobody knows when comes before all others.
    """
    moment = -instant(since)[0] if since is not None else -math.inf
    return (-math.inf if moment == math.inf else moment, ""), name


def filled(values: list[Any], dtype: Any) -> Any:
    """A column that holds nulls beside numbers and texts."""
    if dtype != "Float64":
        return pd.array(values, dtype=dtype)
    gone = np.array([value is None for value in values], dtype=bool)
    numbers = np.array([0.0 if value is None else value for value in values], dtype=np.float64)
    return pd.arrays.FloatingArray(numbers, gone)


def _cell(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind == "text":
        return one_line(value)
    if kind == "json":
        return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
    if kind == "int":
        return value if abs(value) <= LARGEST_INT else None
    return value if kind == "flag" or math.isfinite(value) else None
