"""Evidence file: ``evidence.parquet``, one row per context, for people and for whoever judges a cell again.

Importing pyarrow starts a thread, so no server that forks may import this module; its tasks do when they need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from diffbench.account import MARKERS, written
from diffbench.errors import RecordError
from diffbench.finding_evidence import EVIDENCE, FindingEvidence, Steered
from diffbench.line import one_line
from diffbench.question import Evidence, Excerpt, Marked

__all__ = ["EVIDENCE", "read_evidence", "write_evidence"]
EVIDENCE_BYTES, EVIDENCE_ROWS, EVIDENCE_VALUES = 1 << 28, 100_000, 1 << 24
"""Of the file, and of what it unfolds to; a run's own files have some thousands of rows."""
BATCH_ROWS = 64
"""Rows that are unfolded before what they take is looked at."""
_WORDS, _NUMBERS, _PLACES = pa.list_(pa.string()), pa.list_(pa.float64()), pa.list_(pa.int32())
SHOWN = "»"
"""Stands before the token that a row is about, in the column for people."""

COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("rank", pa.int32(), "of the finding"),
    ("component", pa.int32(), "index into the Diff's components"),
    (
        "row",
        pa.string(),
        "finding: what is known of it as a whole; explain: a context to explain from; test: one of other documents; "
        "right, wrong: a context of those, marked where the component is active, or elsewhere; steered: a prompt, "
        "and what the reference says after it without and with the component",
    ),
    ("drawn", pa.string(), "top, range, near miss or random: how a context was chosen"),
    ("text", pa.string(), f"the context as people read it; {SHOWN} stands before the tokens that it is about"),
    ("active", pa.bool_(), "whether the component is active at the last token"),
    ("activity", pa.float64(), "|activity| at the last token"),
    ("tokens", _WORDS, "the context, or prompt"),
    ("activities", _NUMBERS, "|activity| at each token"),
    ("places", _PLACES, "indices of the tokens at which the component is active, or that are marked"),
    ("plain", _WORDS, "what the reference says after the prompt"),
    ("steered", _WORDS, "the same while the component is added to it"),
    ("tokens_up", _WORDS, "tokens that the finding promotes"),
    ("tokens_down", _WORDS, "tokens that it suppresses"),
    ("kl_up", _WORDS, "tokens that are likelier in the tuned model where the component is most active"),
    ("kl_down", _WORDS, "tokens that are likelier in the reference there"),
    ("effect", pa.float64(), "share of KL(tuned || reference) there that adding the component alone takes away"),
    ("n_active", pa.int64(), "positions of the judge split at which it is active"),
    ("n_positions", pa.int64(), "positions of the judge split"),
)


def write_evidence(findings: Sequence[FindingEvidence], path: Path) -> None:
    """Write the evidence of a cell's findings; equal evidence gives equal bytes."""
    rows = [row for finding in findings for row in _rows(finding)]
    schema = pa.schema([pa.field(name, kind, metadata={"description": text}) for name, kind, text in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def read_evidence(path: Path) -> tuple[FindingEvidence, ...]:
    """Read what `write_evidence` wrote; the file may be a stranger's.

    Raises:
        RecordError: if it is missing, too large, or no such table.
    """
    try:
        if path.stat().st_size > EVIDENCE_BYTES:
            raise RecordError(f"{path}: larger than {EVIDENCE_BYTES} bytes")
        with pq.ParquetFile(path, memory_map=False) as file:
            texts = _texts(path, file)
        with pq.ParquetFile(path, memory_map=False, read_dictionary=texts) as file:
            rows = _read_rows(path, file)
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"{path}: no readable table of evidence ({one_line(error, 200)})") from None
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    try:
        for row in rows:
            grouped.setdefault((row["rank"], row["component"]), []).append(row)
        return tuple(_finding(group) for group in grouped.values())
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path}: no table of evidence ({one_line(error, 200)})") from None


def _texts(path: Path, file: pq.ParquetFile) -> list[str]:
    """Paths of the columns that hold words, for a table that is what it should be and not too large.

    Raises:
        RecordError: if it is another table, or would unfold to more than is ever written.
    """
    told, schema = file.metadata, file.schema_arrow
    for name, kind, _ in COLUMNS:
        at = schema.get_field_index(name)
        if at < 0 or not _alike(schema.field(at).type, kind):
            what = "is not there" if at < 0 else "is of another type"
            raise RecordError(f"{path}: no table of evidence (column {name} {what})")
    groups = [told.row_group(n) for n in range(told.num_row_groups)]
    values = sum(group.column(n).num_values for group in groups for n in range(group.num_columns))
    size = sum(group.total_byte_size for group in groups)
    for n, most, what in (
        (told.num_rows, EVIDENCE_ROWS, "rows"),
        (values, EVIDENCE_VALUES, "values"),
        (size, EVIDENCE_BYTES, "bytes"),
    ):
        if n > most:
            raise RecordError(f"{path}: {n} {what} of evidence; at most {most} are read")
    columns = [told.schema.column(n) for n in range(told.num_columns)]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _alike(found: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a type is as it is written; a list's inner name may be any."""
    lists = pa.types.is_list(found) and pa.types.is_list(kind)
    return bool(found.value_type == kind.value_type if lists else found == kind)


def _read_rows(path: Path, file: pq.ParquetFile) -> list[dict[str, Any]]:
    """The rows, some at a time; words are kept once each until it is known what they unfold to.

    Raises:
        RecordError: once they are more than `EVIDENCE_BYTES`.
    """
    rows: list[dict[str, Any]] = []
    size = 0
    for group in range(file.num_row_groups):
        columns = [name for name, _, _ in COLUMNS]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
            size += sum(map(_unfolded, batch.columns))
            if size > EVIDENCE_BYTES:
                raise RecordError(f"{path}: unfolds to more than {EVIDENCE_BYTES} bytes of evidence")
            rows += batch.to_pylist()
    return rows


def _unfolded(column: pa.Array) -> int:
    """Bytes that a column's values take when each is there as often as it is told."""
    values = column.flatten() if pa.types.is_list(column.type) else column
    if not pa.types.is_dictionary(values.type):
        return int(values.nbytes)
    lengths = pc.cast(pc.binary_length(values.dictionary), pa.int64())
    return 4 * len(values) + (pc.sum(lengths.take(values.indices)).as_py() or 0)


def _rows(finding: FindingEvidence) -> Iterator[dict[str, Any]]:
    own = {"rank": finding.rank, "component": finding.component}
    evidence = finding.evidence
    whole = evidence.model_dump(include={"tokens_up", "tokens_down", "kl_up", "kl_down", "effect"})
    yield own | whole | {"row": "finding", "n_active": finding.n_active, "n_positions": finding.n_positions}
    for row, excerpts in (("explain", evidence.excerpts), ("test", finding.tests)):
        for excerpt in excerpts:
            yield own | {
                "row": row,
                "drawn": excerpt.drawn,
                "text": _shown(excerpt.tokens, (len(excerpt.tokens) - 1,)),
                "active": excerpt.active,
                "activity": excerpt.activity,
                "tokens": excerpt.tokens,
                "activities": excerpt.activities,
                "places": excerpt.active_at,
            }
    for row, contexts in (("right", finding.marked_right), ("wrong", finding.marked_wrong)):
        for context in contexts:
            text = _shown(context.tokens, context.marked)
            yield own | {"row": row, "text": text, "tokens": context.tokens, "places": context.marked}
    for pair in finding.steered:
        text = f"{written(pair.prompt)} {SHOWN} {written(pair.plain)} {SHOWN} {written(pair.steered)}"
        said = {"tokens": pair.prompt, "plain": pair.plain, "steered": pair.steered}
        yield own | said | {"row": "steered", "text": text}


def _shown(tokens: Sequence[str], places: Sequence[int]) -> str:
    marked = set(places)
    parts = [f"{SHOWN}{token}" if at in marked else token for at, token in enumerate(tokens)]
    return written(parts) if not marked else written([_moved(part) for part in parts])


def _moved(token: str) -> str:
    """The mark behind a tokenizer's own mark of a word's beginning."""
    marked = len(token) > 1 and token[0] == SHOWN and token[1] in MARKERS
    return f"{token[1]}{SHOWN}{token[2:]}" if marked else token


def _finding(rows: Sequence[Mapping[str, Any]]) -> FindingEvidence:
    [whole] = [row for row in rows if row["row"] == "finding"] or [{}]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(str(row["row"]), []).append(row)
    words = {name: tuple(whole[name]) for name in ("tokens_up", "tokens_down", "kl_up", "kl_down")}
    explain, test = (tuple(map(_excerpt, kinds.get(kind, ()))) for kind in ("explain", "test"))
    right, wrong = (
        tuple(Marked(tokens=tuple(row["tokens"]), marked=tuple(row["places"])) for row in kinds.get(kind, ()))
        for kind in ("right", "wrong")
    )
    return FindingEvidence(
        rank=whole["rank"],
        component=whole["component"],
        n_active=whole["n_active"],
        n_positions=whole["n_positions"],
        evidence=Evidence(excerpts=explain, effect=whole["effect"], **words),
        tests=test,
        marked_right=right,
        marked_wrong=wrong,
        steered=tuple(
            Steered(prompt=tuple(row["tokens"]), plain=tuple(row["plain"]), steered=tuple(row["steered"]))
            for row in kinds.get("steered", ())
        ),
    )


def _excerpt(row: Mapping[str, Any]) -> Excerpt:
    return Excerpt(
        tokens=tuple(row["tokens"]),
        active=row["active"],
        activity=row["activity"],
        activities=tuple(row["activities"]),
        active_at=tuple(row["places"]),
        drawn=row["drawn"],
    )
