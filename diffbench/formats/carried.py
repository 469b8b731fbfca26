"""Carried: what a Diff holds and another project's format has no place for, in a file beside that format's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffbench.diff import DictionaryDiff, DictionaryHeader, DiffDocument
from diffbench.errors import CheckpointError, OptionError
from diffbench.exchange import TENSOR_BYTES
from diffbench.formats.settings import Asked, plain_file
from diffbench.formats.source import CARRIED, Source
from diffbench.line import one_line
from diffbench.recipe import first_problem
from diffbench.truth import Schema

_KEY, _COLUMN = "diffbench", "columns."
_ELSEWHERE = ("kind", "order")
"""Of a header: what its class says, and what is carried as a tensor."""
_TENSORS = frozenset(item.name for item in fields(DictionaryDiff) if "Tensor" in str(item.type)) - {"columns"}


class Note(Schema):
    """The header of the carried file: the Diff without its tensors, and the files it belongs to."""

    schema_version: Literal[1] = 1
    document: DiffDocument
    sha256: dict[str, str] = Field(max_length=4, description="file beside this one: hash of its content")


@dataclass(frozen=True, slots=True)
class Carried:
    """What completes a dictionary that was exported from a Diff."""

    file: Path
    header: DictionaryHeader
    document: DiffDocument
    tensors: dict[str, Tensor]

    def confirm(self, asked: Asked) -> Asked:
        """The caller's answers, completed by the Diff's; two different answers are refused."""
        if asked.input not in (None, self.header.input):
            raise OptionError(f"{self.file}: input: {asked.input!r} was given, but the file says {self.header.input!r}")
        if asked.layer not in (None, self.header.layer):
            raise OptionError(f"{self.file}: layer: {asked.layer} was given, but the file says {self.header.layer}")
        asked.no_scales(self.file)
        return Asked(self.header.input, self.header.layer, None)

    def restore(self, diff: DictionaryDiff) -> DictionaryDiff:
        """The Diff that was exported, from the dictionary that was read."""
        facts: dict[str, Any] = {
            name: getattr(self.header, name) for name in DictionaryHeader.model_fields if name not in _ELSEWHERE
        }
        columns = {name[len(_COLUMN) :]: value for name, value in self.tensors.items() if name.startswith(_COLUMN)}
        facts |= {name: value for name, value in self.tensors.items() if not name.startswith(_COLUMN)}
        return replace(
            diff,
            **facts,
            columns=columns,
            findings=self.document.findings,
            change_score=self.document.change_score,
            verdict=self.document.verdict,
            notes=dict(self.document.notes),
        )


def save_carried(diff: DictionaryDiff, back: DictionaryDiff, source: Source) -> None:
    """Write beside an exported dictionary what is missing in it.

    Args:
        diff: what was exported.
        back: what a reader makes of the export; tensors that differ from it in any bit are carried.
        source: the export.
    """
    tensors = {_COLUMN + name: column for name, column in diff.columns.items()}
    for name in _TENSORS:
        value, found = getattr(diff, name), getattr(back, name)
        if value is not None and (found is None or not _same_bits(value.detach().cpu(), found)):
            tensors[name] = value
    facts = {name: getattr(diff, name) for name in DictionaryHeader.model_fields if name not in _ELSEWHERE}
    document = DiffDocument(
        header=DictionaryHeader(**facts),
        findings=diff.findings,
        change_score=diff.change_score,
        verdict=diff.verdict,
        notes=diff.notes,
    )
    note = Note(document=document, sha256={file.name: _hash(file) for file in source.files})
    text = json.dumps(note.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(kept, source.weights.parent / CARRIED, metadata={_KEY: text})


def load_carried(source: Source) -> Carried | None:
    """What was carried beside a dictionary; None where it was not exported from a Diff.

    Raises:
        CheckpointError: if the file is damaged, or one of the files it belongs to was changed since.
    """
    file = source.weights.parent / CARRIED
    if not (file.exists() or file.is_symlink()):
        return None
    real = plain_file(source.weights.parent, file, TENSOR_BYTES)
    try:
        with safe_open(real, framework="pt") as stored:
            note = Note.model_validate_json((stored.metadata() or {})[_KEY])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from None
    except Exception as error:  # safetensors raises its own type for damaged files
        raise CheckpointError(f"{file}: not readable ({one_line(error, 200)})") from None
    if note.sha256 != {part.name: _hash(part) for part in source.files}:
        raise CheckpointError(
            f"{file}: belongs to other files than {' and '.join(part.name for part in source.files)}, or these were "
            "changed since the export; remove it to read them by themselves"
        )
    header = note.document.header
    if not isinstance(header, DictionaryHeader):
        raise CheckpointError(f"{file}: is of a {header.kind} Diff, not of a dictionary")
    for name in tensors:
        if name not in _TENSORS and not name.startswith(_COLUMN):
            raise CheckpointError(f"{file}: unknown tensor {one_line(name, 80)!r}")
    return Carried(file, header, note.document, tensors)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = torch.int32 if one.element_size() == 4 else torch.int64
    return torch.equal(one.contiguous().view(bits), other.contiguous().view(bits))


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
