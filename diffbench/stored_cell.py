"""Stored cell: what re-scoring needs of a finished cell, whichever version its record is of.

A run folder may come from a stranger, and from an older diffbench: of each block of the record the known keys are
read, and nothing is followed through a symbolic link.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from diffbench.canonical import file_digest
from diffbench.comparison import HarvestDtype
from diffbench.ending import MethodCost
from diffbench.errors import RecordError
from diffbench.exchange import DIFF, HEADER, TENSORS
from diffbench.fits import stored_fit
from diffbench.line import one_line
from diffbench.recipe import first_problem
from diffbench.record import RECORD_BYTES, Budget, Cell, Hashes, Record, Rescored, Status, Timings
from diffbench.run_folder import CELLS, FITS, RECORD_FILE, fit_folder_name, folders_in, refusal
from diffbench.truth import Schema

BY_HAND = "chosen by hand"
"""The rule of a layer that was named."""

VERSION: int = Record.model_fields["schema_version"].default
"""Of the records that this diffbench writes."""

Block = TypeVar("Block", bound=Schema)


@dataclass(frozen=True, slots=True)
class Handling:
    """How a pair's activations were asked for: the layer (None: by the rule), the precision, and from where."""

    layer: int | None
    harvest_dtype: HarvestDtype
    streaming: bool


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A finished cell as it was read.

    Attributes:
        path: its folder.
        version: of the record's schema.
        key: of the record.
        fit: key of the fit; a record from before there were fits has none and gives its own key.
        budget: what the tier allowed when the method ran.
        layer: that the pair was looked at.
        rescored: set if its scores were made anew before.
    """

    path: Path
    version: int
    key: str
    fit: str
    status: Status
    reason: str | None
    cell: Cell
    hashes: Hashes
    budget: Budget
    layer: int
    handling: Handling
    cost: MethodCost
    rescored: Rescored | None

    @property
    def name(self) -> str:
        """As people are told of it."""
        return one_line(f"{self.cell.organism} {self.cell.row} s{self.cell.seed} against {self.cell.reference}", 300)

    @property
    def current(self) -> bool:
        """Whether the record is of the version that this diffbench writes."""
        return self.version == VERSION

    @property
    def origin(self) -> Rescored:
        """Where a new record's scores will have come from."""
        return self.rescored or Rescored(from_key=self.key, pair=self.hashes.pair)


@dataclass(frozen=True, slots=True)
class KeptDiff:
    """A Diff whose files are what they were when it was scored.

    Attributes:
        folder: holds ``diff/``.
        tensors: SHA-256 of its tensors.
    """

    folder: Path
    tensors: str


def stored_cells(folder: Path) -> Iterator[tuple[Path, StoredCell | RecordError]]:
    """Every cell of a run folder that has a record, in the order of its name: the cell, or why it cannot be read."""
    for path, problem in folders_in(folder / CELLS):
        record = path / RECORD_FILE
        problem = problem or refusal(record, stat.S_ISREG)
        if problem is not None:
            yield path, RecordError(problem)
        elif record.exists():
            try:
                yield path, read_cell(record)
            except RecordError as error:
                yield path, error


def kept_diff(folder: Path, stored: StoredCell) -> KeptDiff | None:
    """The Diff of a cell, from its own folder or from its fit; None: there is none, and there was none.

    Args:
        folder: the run folder.
        stored: the cell.

    Raises:
        RecordError: if it is missing, or not what was scored.
    """
    fit = stored_fit(folder / FITS / fit_folder_name(stored.cell, stored.fit), stored.fit)
    of_fit = {} if fit is None else {name: fit.file.files[f"{DIFF}/{name}"] for name in (HEADER, TENSORS)}
    then = stored.hashes.diff
    if then is None:
        if stored.status == "ok":
            raise RecordError("its record names no Diff")
        return None if fit is None else KeptDiff(fit.path, of_fit[TENSORS])
    if set(then) != {HEADER, TENSORS}:
        raise RecordError("its record names other files than those of a Diff")
    if diff_digests(stored.path) == then:
        return KeptDiff(stored.path, then[TENSORS])
    alike = (TENSORS,) if stored.cell.ranking is not None else (HEADER, TENSORS)  # a ranking writes its own header
    if fit is not None and all(of_fit[name] == then[name] for name in alike):
        return KeptDiff(fit.path, then[TENSORS])
    raise RecordError(f"its Diff ({stored.path / DIFF}) is missing or changed since it was scored")


def diff_digests(path: Path) -> dict[str, str]:
    """SHA-256 of the files of the Diff in a cell's folder, as far as they are plain files."""
    if refusal(path / DIFF, stat.S_ISDIR) is not None:
        return {}
    files = {name: path / DIFF / name for name in (HEADER, TENSORS)}
    return {
        name: file_digest(file) for name, file in files.items() if refusal(file, stat.S_ISREG) is None and file.exists()
    }


def read_cell(path: Path) -> StoredCell:
    """Read a finished cell from its ``record.json``, a plain file.

    Raises:
        RecordError: if a part that is needed is missing or malformed.
    """
    document = _document(path)
    version = document.get("schema_version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise RecordError(f"schema_version is {version!r}, this diffbench re-scores 1 to {VERSION}")
    key, fit = document.get("key"), document.get("fit")
    status = next((known for known in get_args(Status) if known == document.get("status")), None)
    if not isinstance(key, str) or status is None or not (fit is None or isinstance(fit, str)):
        raise RecordError("key, fit or status: missing or malformed")
    timings, rescored = _block(document, "timings", Timings), document.get("rescored")
    return StoredCell(
        path=path.parent,
        version=version,
        key=key,
        fit=fit or key,
        status=status,
        reason=None if status == "ok" else one_line(document.get("reason")),
        cell=_block(document, "cell", Cell),
        hashes=_block(document, "hashes", Hashes),
        budget=_block(document, "budget", Budget),
        layer=_pair(document)["layer"],
        handling=_handling(document),
        cost=MethodCost(
            method_seconds=timings.method_seconds,
            peak_memory_mb=timings.peak_memory_mb,
            sandbox=timings.sandbox,
            usage=timings.usage,
            harvest_seconds=timings.harvest_seconds,
        ),
        rescored=None if rescored is None else _block(document, "rescored", Rescored),
    )


def _document(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > RECORD_BYTES:
            raise RecordError(f"larger than {RECORD_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"no readable JSON ({one_line(error, 200)})") from None
    if not isinstance(document, dict):
        raise RecordError("no JSON object")
    return document


def _block(document: Mapping[str, Any], name: str, schema: type[Block]) -> Block:
    """One block of a record, of which other versions may have more keys, or fewer of those with a default."""
    block = document.get(name)
    if not isinstance(block, dict):
        raise RecordError(f"{name}: missing")
    try:
        return schema.model_validate({key: value for key, value in block.items() if key in schema.model_fields})
    except ValidationError as error:
        raise RecordError(f"{name}.{first_problem(error)}") from None


def _pair(document: Mapping[str, Any]) -> Mapping[str, Any]:
    pair = document.get("pair")
    if not isinstance(pair, dict) or type(pair.get("layer")) is not int or pair["layer"] < 0:
        raise RecordError("pair.layer: missing or malformed")
    return pair


def _handling(document: Mapping[str, Any]) -> Handling:
    pair = _pair(document)
    dtype, streamed = pair.get("harvest_dtype", "float32"), pair.get("streamed", False)
    if dtype not in get_args(HarvestDtype) or not isinstance(streamed, bool):
        raise RecordError("pair.harvest_dtype or pair.streamed: malformed")
    return Handling(pair["layer"] if pair.get("layer_rule") == BY_HAND else None, dtype, streamed)
