"""Latent table: ``latents.parquet``, one row per latent of a dictionary, written by the engine and read back.

Importing pyarrow starts a thread, so no server that forks may import this module; its tasks do when they need it.

Shapes: n latents, d residual width, V rows of the unembedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffbench.errors import RecordError
from diffbench.latent_row import LATENTS_BYTES, meaning
from diffbench.line import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from diffbench.diff import DictionaryDiff
    from diffbench.lens import Lens

ROWS = 8192
"""Latents that are held at a time: with their tokens under 300 MiB at d = 2304 and V = 256,000."""
METADATA = b"diffbench"


def write_latents(diff: DictionaryDiff, lens: Lens, path: Path) -> None:
    """Write the table of a `DictionaryDiff`, `ROWS` latents at a time; tokens are read with a `Lens`."""
    import torch

    rank = torch.empty_like(diff.order)
    rank[diff.order] = torch.arange(1, len(rank) + 1)
    sides = ("", "_tuned", "_base") if diff.input == "both" else ("",)
    schema = _schema(sorted(diff.columns), sides)
    schema = schema.with_metadata({METADATA: json.dumps({"input": diff.input, "layer": diff.layer}).encode()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, diff.n_components, ROWS):
            part = slice(start, start + ROWS)
            data: dict[str, Any] = {
                "latent": torch.arange(start, min(start + ROWS, diff.n_components)).numpy(),
                "rank": rank[part].numpy(),
                "group": None if diff.group is None else diff.group[part].numpy(),
            }
            data |= {name: diff.columns[name][part].numpy() for name in diff.columns}
            for side in sides:
                words = lens.read(_decoder(diff, side, part))
                data[f"tokens_up{side}"] = [up for up, _ in words]
                data[f"tokens_down{side}"] = [down for _, down in words]
            writer.write_table(_table(data, schema))


def read_latents(path: Path) -> pa.Table:
    """Read a table that a stranger may have written; its schema's field metadata says what the columns mean.

    Raises:
        RecordError: if it is missing, too large, or no table of latents.
    """
    try:
        if path.stat().st_size > LATENTS_BYTES:
            raise RecordError(f"{path}: larger than {LATENTS_BYTES} bytes")
        table = pq.read_table(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"{path}: no readable table ({one_line(error, 200)})") from None
    missing = {"latent", "rank", "tokens_up", "tokens_down"} - set(table.column_names)
    if missing or len(set(table.column_names)) != len(table.column_names):
        raise RecordError(f"{path}: no table of latents; it lacks {', '.join(sorted(missing)) or 'clear column names'}")
    for name in table.column_names:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind == pa.list_(pa.string())):
            raise RecordError(f"{path}: column {one_line(name, 80)!r} is neither numbers nor lists of tokens")
    return table


def numeric_columns(table: pa.Table) -> list[str]:
    """The columns by which latents can be ranked: numbers of which at least one is there."""
    fields = [field for field in table.schema if pa.types.is_floating(field.type)]
    return sorted(field.name for field in fields if table.column(field.name).null_count < len(table))


def top_latents(table: pa.Table, sort: str | None, top: int) -> list[dict[str, Any]]:
    """The first rows by a column (falling, undefined last, ties by latent), or in the method's own order."""
    by = [(sort, "descending"), ("latent", "ascending")] if sort is not None else [("rank", "ascending")]
    rows: list[dict[str, Any]] = table.sort_by(by).slice(0, top).to_pylist()
    return rows


def _decoder(diff: DictionaryDiff, side: str, part: slice) -> Tensor:
    """Some rows [m, d] of the difference decoder (''), or of one of two decoders; never a copy of the whole."""
    if diff.input != "both":
        assert diff.decoder is not None  # checked on loading
        return diff.decoder[part]
    assert diff.decoder_tuned is not None and diff.decoder_base is not None
    if side:
        return (diff.decoder_tuned if side == "_tuned" else diff.decoder_base)[part]
    return diff.decoder_tuned[part] - diff.decoder_base[part]


def _schema(columns: list[str], sides: tuple[str, ...]) -> pa.Schema:
    words = pa.list_(pa.string())
    fields = [("latent", pa.int32()), ("rank", pa.int32()), ("group", pa.int64())]
    fields += [(name, pa.float32()) for name in columns]
    fields += [(f"tokens_{way}{side}", words) for side in sides for way in ("up", "down")]
    return pa.schema([pa.field(name, kind, metadata={"description": meaning(name)}) for name, kind in fields])


def _table(data: dict[str, Any], schema: pa.Schema) -> pa.Table:
    n = len(data["latent"])
    arrays = [
        pa.nulls(n, field.type)
        if data[field.name] is None
        else pa.array(data[field.name], field.type, from_pandas=True)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
