"""lm-eval: results in the JSON shape that lm-evaluation-harness writes, one file for each method.

Followed is `EvalResults` of lm_eval 0.4.13.dev0 (`lm_eval/result_schema.py`, commit 4e7e0d4): ``results`` with
``METRIC,none`` and ``METRIC_stderr,none``, ``group_subtasks``, ``configs``, ``versions``, ``n-shot``,
``higher_is_better``, ``n-samples``, ``config``, ``git_hash``, ``date``. What the harness calls a model is a method
here, and a task is an organism with its reference, tier and judge. A figure without a number has no key; which and why
stands in ``configs.TASK.metadata.missing``. A standard error is the half-width of the 95% interval over its quantile;
where there is no interval it is ``N/A``, as the harness has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from diffbench.columns import instant
from diffbench.interval import t_quantile
from diffbench.outlets.folder import ExportedFile
from diffbench.outlets.source import Source
from diffbench.run_folder import safe_name
from diffbench.score_columns import FIGURES
from diffbench.summary import Row, plain_rows, summary

FORMAT = "lm-evaluation-harness results, EvalResults of lm_eval 0.4.13.dev0 (commit 4e7e0d4)"
MOST_UNITS = 1000
"""Of the quantile of an interval: with more it stays the same."""


def lm_eval(source: Source) -> Iterator[ExportedFile]:
    """A ``METHOD/results_DATE.json`` for every method with its options."""
    rows = plain_rows(source.rows)
    methods: dict[tuple[str, str], list[Row]] = {}
    for row in plain_rows(summary(source.rows)):
        methods.setdefault((row["row"], row["variant"]), []).append(row)
    for (name, variant), found in sorted(methods.items()):
        own = [row for row in rows if (row["row"], row["variant"]) == (name, variant)]
        newest = max((row["started"] for row in own), key=instant)
        date = instant(newest)[0]
        document = _document(found, own, date if date > 0 else None)
        text = json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)
        place = f"{safe_name(name)}--{variant[:8]}/results_{_stamp(newest)}.json"
        yield ExportedFile(place, (text + "\n").encode())


def _document(found: list[Row], own: list[Row], date: float | None) -> dict[str, Any]:
    tasks = {_task(row, found): row for row in found}
    first = own[0]
    cells = {task: [one for one in own if _section(one) == _section(row)] for task, row in tasks.items()}
    sizes = {task: max((one["n_documents"] or 0 for one in cells[task]), default=0) for task in tasks}
    higher = {column.name: column.better for column in FIGURES}
    return {
        "results": {task: _metrics(task, row, sizes[task]) for task, row in tasks.items()},
        "group_subtasks": {},
        "configs": {task: _config(task, row) for task, row in tasks.items()},
        "versions": {task: row["organism_version"] for task, row in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": dict.fromkeys(tasks, higher),
        "n-samples": {task: {"original": sizes[task], "effective": sizes[task]} for task in tasks},
        "config": {
            "model": first["row"],
            "model_args": json.loads(first["options"] or "{}"),
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": None,
            "random_seed": min((one["seed"] for one in own if one["seed"] is not None), default=None),
        },
        "git_hash": None,
        "date": date,
        "model_source": "diffbench",
        "model_name": found[0]["label"],
        "model_name_sanitized": safe_name(found[0]["label"]),
        "diffbench": {
            "format": FORMAT,
            "method": first["method"],
            "ranking": first["ranking"],
            "method_version": first["method_version"],
            "method_package": first["method_package"],
            "variant": first["variant"],
            "control": first["control"],
            "method_seeds": sorted({one["seed"] for one in own if one["seed"] is not None}),
        },
    }


def _section(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("organism", "organism_version", "reference", "tier", "judge", "setting"))


def _task(row: Row, found: Iterable[Row]) -> str:
    """The name of a task, with its setting where two would have one name."""
    name = _plain_task(row)
    alike = sum(_plain_task(other) == name for other in found)
    return name if alike == 1 else f"{name}_{row['setting']}"


def _plain_task(row: Row) -> str:
    parts = (row["organism"], f"v{row['organism_version']}", row["reference"], row["tier"], row["judge"])
    return "_".join(map(safe_name, parts))


def _metrics(task: str, row: Row, documents: int) -> dict[str, Any]:
    found: dict[str, Any] = {"name": task, "alias": f"{row['organism']} ({row['reference']})", "sample_len": documents}
    for column in FIGURES:
        if row[f"{column.name}_state"] == "ok":
            found[f"{column.name},none"] = row[column.name]
            found[f"{column.name}_stderr,none"] = _stderr(row, column.name, documents)
    return found


def _stderr(row: Row, name: str, documents: int) -> float | str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return "N/A"
    units = row["seeds_ok"] if row["unit"] == "method seeds" else documents
    quantile = t_quantile(min(max(units, 2), MOST_UNITS) - 1)
    return float(f"{(high - low) / 2 / quantile:.12g}")


def _config(task: str, row: Row) -> dict[str, Any]:
    missing = {column.name: row[f"{column.name}_state"] for column in FIGURES if row[f"{column.name}_state"] != "ok"}
    return {
        "task": task,
        "dataset_path": None,
        "output_type": "model_diffing",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": column.name, "aggregation": "mean", "higher_is_better": column.better} for column in FIGURES
        ],
        "metadata": {
            "version": row["organism_version"],
            "organism": row["organism"],
            "reference": row["reference"],
            "tier": row["tier"],
            "judge": row["judge"],
            "setting": row["setting"],
            "status": row["status"],
            "reason": row["reason"],
            "seeds": row["seeds"],
            "seeds_ok": row["seeds_ok"],
            "interval_over": row["unit"],
            "missing": missing,
        },
    }


def _stamp(started: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in started[:19]) or "undated"
