"""Diffs on disk: `diff.json` and `tensors.safetensors`. What is read here may have been written by a stranger."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench.diff import (
    ENGINE_COLUMNS,
    DictionaryDiff,
    DictionaryHeader,
    Diff,
    DiffDocument,
    DirectionDiff,
    DirectionHeader,
    OutputDiff,
    OutputHeader,
    Reordered,
    WeightDiff,
    WeightHeader,
    check_column_names,
    falling,
    order_of,
)
from diffbench.errors import DiffError
from diffbench.exchange import HEADER, HEADER_BYTES, TENSOR_BYTES, TENSORS
from diffbench.line import one_line
from diffbench.recipe import first_problem

COLUMN = "columns."


def save_diff(diff: Diff, folder: Path) -> None:
    """Write a Diff into an existing folder."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors(diff).items()}
    save_file(tensors, folder / TENSORS)
    save_header(diff, folder)


def save_header(diff: Diff, folder: Path) -> None:
    """Write `diff.json` alone, beside tensors that are there already."""
    document = DiffDocument(
        header=_header(diff),
        findings=diff.findings,
        change_score=diff.change_score,
        verdict=diff.verdict,
        notes=diff.notes,
    )
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / HEADER).write_text(text + "\n", encoding="utf-8")


def load_diff(folder: Path) -> Diff:
    """Read a Diff and check its form; `DiffBase.check` then says whether it fits a pair.

    Raises:
        DiffError: if a file is missing, a link, too large or malformed, or a tensor is missing or unknown.
    """
    path = folder / HEADER
    _regular(path, HEADER_BYTES)
    _regular(folder / TENSORS, TENSOR_BYTES)
    try:
        document = DiffDocument.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DiffError(f"{HEADER}: {first_problem(error)}") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DiffError(f"{HEADER}: no readable JSON ({one_line(error, 200)})") from None
    try:
        tensors = load_file(folder / TENSORS)
    except Exception as error:  # safetensors raises its own type for damaged files
        raise DiffError(f"{TENSORS}: not readable ({one_line(error, 200)})") from None
    common: dict[str, Any] = {
        "findings": document.findings,
        "change_score": document.change_score,
        "verdict": document.verdict,
        "notes": dict(document.notes),
    }
    return _build(document, tensors, common)


def _header(diff: Diff) -> DictionaryHeader | DirectionHeader | WeightHeader | OutputHeader:
    if isinstance(diff, OutputDiff):
        return OutputHeader(score=diff.score, samples=diff.samples)
    ranked = Reordered(ranking=diff.ranking, order=_order(diff)).model_dump()
    if isinstance(diff, DictionaryDiff):
        return DictionaryHeader(layer=diff.layer, input=diff.input, activation=diff.activation, k=diff.k, **ranked)
    if isinstance(diff, DirectionDiff):
        return DirectionHeader(layer=diff.layer, **ranked)
    return WeightHeader(modules=diff.modules, parameters=diff.parameters, **ranked)


def _order(diff: DictionaryDiff | DirectionDiff | WeightDiff) -> tuple[int, ...] | None:
    """The order of an engine's ranking, which the tensors do not hold: they stay as the method left them."""
    return tuple(order_of(diff).tolist()) if diff.ranking in ENGINE_COLUMNS else None


def _tensors(diff: Diff) -> dict[str, Tensor]:
    if isinstance(diff, WeightDiff):
        named = {"sigma": diff.sigma} | ({} if diff.order is None else {"order": diff.order})
        for index, (u, v) in enumerate(zip(diff.u, diff.v, strict=True)):
            named |= {f"u.{index}": u, f"v.{index}": v}
        return named
    values = ((item.name, getattr(diff, item.name)) for item in fields(diff))
    named = {name: value for name, value in values if isinstance(value, Tensor)}
    if isinstance(diff, DictionaryDiff):
        named |= {COLUMN + name: column for name, column in diff.columns.items()}
    return named


def _build(document: DiffDocument, tensors: dict[str, Tensor], common: dict[str, Any]) -> Diff:
    header = document.header
    kind: Any
    if isinstance(header, WeightHeader):
        n = len(header.modules)
        expected = {"sigma"} | {f"{side}.{index}" for side in "uv" for index in range(n)}
        _check_names(tensors, expected, expected | {"order"})
        u, v = (tuple(tensors[f"{side}.{index}"] for index in range(n)) for side in "uv")
        return WeightDiff(
            modules=header.modules,
            parameters=header.parameters,
            sigma=tensors["sigma"],
            u=u,
            v=v,
            order=_order_in(header, tensors),
            ranking=header.ranking,
            **common,
        )
    facts = header.model_dump(exclude={"kind", "order"})
    if isinstance(header, DictionaryHeader):
        kind = DictionaryDiff
        columns = {name[len(COLUMN) :]: tensors.pop(name) for name in sorted(tensors) if name.startswith(COLUMN)}
        check_column_names(columns)
        facts["columns"] = columns
        if header.order is not None:
            tensors["order"] = torch.tensor(header.order, dtype=torch.int64)
        elif header.ranking is not None:
            column = columns.get(header.ranking)
            if column is None or column.dim() != 1 or not column.is_floating_point():
                raise DiffError(f"{HEADER}: ranking: there is no column {header.ranking!r} of numbers")
            tensors["order"] = falling(column)
    elif isinstance(header, DirectionHeader):
        kind = DirectionDiff
        if (order := _order_in(header, tensors)) is not None:
            tensors["order"] = order
    else:
        kind = OutputDiff
    known = {item.name for item in fields(kind) if "Tensor" in str(item.type) and item.name != "columns"}
    needed = {item.name for item in fields(kind) if str(item.type) == "Tensor"}
    _check_names(tensors, needed, known)
    return kind(**tensors, **facts, **common)  # type: ignore[no-any-return]


def _order_in(header: Reordered, tensors: dict[str, Tensor]) -> Tensor | None:
    return tensors.get("order") if header.order is None else torch.tensor(header.order, dtype=torch.int64)


def _check_names(tensors: dict[str, Tensor], needed: set[str], known: set[str]) -> None:
    missing, foreign = sorted(needed - set(tensors)), sorted(set(tensors) - known)
    if missing:
        raise DiffError(f"{TENSORS}: tensor {missing[0]!r} is missing")
    if foreign:
        raise DiffError(f"{TENSORS}: unknown tensor {foreign[0][:80]!r}")


def _regular(path: Path, limit: int) -> None:
    try:
        facts = os.lstat(path)
    except OSError:
        raise DiffError(f"{path.name}: missing; the method left no Diff") from None
    if not stat.S_ISREG(facts.st_mode):
        raise DiffError(f"{path.name}: not a plain file")
    if facts.st_size > limit:
        raise DiffError(f"{path.name}: {facts.st_size} bytes, more than {limit}")
