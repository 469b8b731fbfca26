"""Hugging Face dataset: the rows of runs as Parquet beside a card that documents every column.

``datasets.load_dataset(FOLDER)`` reads it without a network: ``rows`` is one row per record, ``summary`` one per
method and setting. The card is the README.md with a YAML head of the Hub (``license``, ``configs``, ``dataset_info``).
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from diffbench.columns import COLUMNS, dictionary
from diffbench.errors import OptionError
from diffbench.outlets.folder import ExportedFile
from diffbench.outlets.source import Source
from diffbench.summary import DESCRIPTIONS, summary
from diffbench.table import Column, escape_markdown, markdown_table

LICENCE = r"[a-z0-9][a-z0-9.-]{0,39}"
LISTED = 40
"""Names that the card lists of each kind; the data has all of them."""
_ARROW = {"string": pa.string(), "Int64": pa.int64(), "Float64": pa.float64(), "boolean": pa.bool_()}
_YAML = {"string": "string", "Int64": "int64", "Float64": "float64", "boolean": "bool"}


def hf_dataset(source: Source, licence: str = "mit") -> Iterator[ExportedFile]:
    """The files of a data set.

    Args:
        source: what is exported.
        licence: of the data, by the Hub's identifier.

    Raises:
        OptionError: if that is no identifier.
    """
    if not re.fullmatch(LICENCE, licence):
        raise OptionError(f"--license {licence!r}: write the Hub's identifier, such as mit or cc-by-4.0")
    known = {name: str(entry["description"]) for name, entry in dictionary().items()}
    tables = {"rows": source.rows, "summary": summary(source.rows)}
    about = {"rows": known, "summary": known | DESCRIPTIONS}
    for name, frame in tables.items():
        yield ExportedFile(f"data/{name}.parquet", _parquet(frame, about[name]))
    yield ExportedFile("README.md", _card(tables, licence).encode())


def _parquet(frame: pd.DataFrame, known: dict[str, str]) -> bytes:
    """A frame with each column's meaning beside it."""
    fields = [
        pa.field(str(name), _ARROW[str(dtype)], metadata={"description": known.get(str(name), str(name))})
        for name, dtype in frame.dtypes.items()
    ]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    stream = io.BytesIO()
    pq.write_table(table.cast(pa.schema(fields)), stream, compression="zstd")
    return stream.getvalue()


def _card(tables: dict[str, pd.DataFrame], licence: str) -> str:
    head: dict[str, Any] = {
        "license": licence,
        "pretty_name": "diffbench records",
        "language": ["en"],
        "tags": ["model-diffing", "interpretability", "benchmark", "diffbench"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"data/{name}.parquet"}]}
            | ({"default": True} if name == "rows" else {})
            for name in tables
        ],
        "dataset_info": [{"config_name": name, "features": _features(frame)} for name, frame in tables.items()],
    }
    rows = tables["rows"]
    counts = ", ".join(f"{n} {escape_markdown(status)}" for status, n in sorted(Counter(rows["status"]).items()))
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, width=100)}---\n",
        "# diffbench records\n",
        f"{len(rows)} records of diffbench, a benchmark for model diffing on "
        f"pairs of models whose difference is known: {counts}. One row is one cell: an organism (a pair of models), a "
        "method and a seed.\n",
        *(f"- {what}: {_listed(rows[column])}" for what, column in _FACTS),
        "\n`rows` holds the records, `summary` their means over method seeds:\n",
        '```python\nfrom datasets import load_dataset\n\nrows = load_dataset("FOLDER", "rows", split="train")\n```\n',
        "A figure NAME fills four columns: NAME, NAME_low, NAME_high (95% interval) and NAME_state. Only the state "
        "`ok` comes with a number. `n/a` (cannot be asked), `undefined`, `none` and `error` are null, never 0: leave "
        "them out of means and say how many there are. Rows compare within one `setting`, and are pooled within one "
        "`terms`.\n",
        "## Columns of `rows`\n",
        markdown_table(_LAYOUT, list(_documented())),
        "`run` is the run that a record was taken from.\n",
        "## Columns of `summary` besides\n",
        markdown_table(_LAYOUT[:2], [[name, text] for name, text in DESCRIPTIONS.items()]),
    ]
    return "\n".join(parts)


_FACTS = (("organisms", "organism"), ("methods", "row"), ("tiers", "tier"), ("judges", "judge"), ("runs", "run"))
_LAYOUT: tuple[Column[Any], ...] = tuple(
    Column(head, lambda row: row, head, text=True) for head in ("column", "meaning", "unit", "better", "kind")
)


def _documented() -> Iterator[list[str]]:
    """Every column of the rows once, a figure for all four of its columns."""
    better = {True: "higher", False: "lower", None: ""}
    for column in COLUMNS:
        yield [column.name, column.description, column.unit, better[column.better], column.kind]


def _features(frame: pd.DataFrame) -> list[dict[str, str]]:
    return [{"name": str(name), "dtype": _YAML[str(dtype)]} for name, dtype in frame.dtypes.items()]


def _listed(values: Iterable[Any]) -> str:
    names = sorted({str(value) for value in values if isinstance(value, str)})
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(escape_markdown(name) for name in names[:LISTED]) + more
