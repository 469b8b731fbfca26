"""Inspection: a stranger's archive unpacked, and held against its own manifest and rules. Nothing is scored here."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from diffbench.archive import Unpacked, read_archive
from diffbench.arithmetic import contradictions
from diffbench.asking import asked_of, missing_cells, unasked_cells
from diffbench.canonical import file_digest
from diffbench.catalogue import find_organism
from diffbench.dashboard import DASHBOARD
from diffbench.ending import JUDGED
from diffbench.errors import DiffbenchError, RecordError, SubmissionError
from diffbench.exchange import DIFF, HEADER, TENSORS
from diffbench.line import one_line
from diffbench.plugins import load_plugins, provenance
from diffbench.record import Record, read_document, read_record
from diffbench.run_folder import CELLS, RECORD_FILE, RUN_FILE, RunFile, cell_folder_name, read_run_file
from diffbench.scores import Scores
from diffbench.submission import (
    MANIFEST,
    MANIFEST_BYTES,
    MODELS,
    MOST_BYTES,
    Submission,
    chosen,
    committed,
    most_bytes,
    record_digest,
)

MOST_TOLD = 3
"""Contradictions of one record that are told."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A submission whose archive could be read and whose members are those of its manifest.

    Attributes:
        folder: where it lies unpacked; laid out as a run folder is.
        archive: SHA-256 of the archive.
        records: by the names of their cells' folders.
        problems: of the whole, each in one line.
        refused: why a cell is not what it says, by its key.
        picked: keys of the cells that carry their Diff.
    """

    folder: Path
    archive: str
    manifest: Submission
    file: RunFile
    records: Mapping[str, Record]
    problems: tuple[str, ...]
    refused: Mapping[str, str]
    picked: frozenset[str]


class _Door:
    """Lets in what the manifest lists, which comes first, in its order and of its size."""

    def __init__(self, into: Path) -> None:
        self._into = into
        self._expected: Iterator[tuple[str, int]] | None = None
        self._before: str | None = None

    def admit(self, name: str, size: int) -> str | None:
        """Why a member is not let in, if so."""
        most = most_bytes(name)
        if most is None:
            return "no member that a submission has"
        if size > most:
            return f"oversized: {size} bytes, and at most {most} are read"
        if self._before is None and name != MANIFEST:
            return f"comes first, where {MANIFEST} belongs"
        if self._before == MANIFEST:
            manifest = read_manifest(self._into / MANIFEST)
            total = sum(member.size for member in manifest.members)
            most = min(MOST_BYTES, shutil.disk_usage(self._into).free)
            if total > most:
                return f"the archive would take {total} bytes, and at most {most} are read here"
            self._expected = iter([(member.name, member.size) for member in manifest.members])
        self._before = name
        if self._expected is None:
            return None
        expected, listed = next(self._expected, (None, 0))
        if name != expected:
            return "not in the manifest, or not in its place" + (f", which is {expected}'s" if expected else "")
        return None if size == listed else f"oversized or cut: {size} bytes, and the manifest says {listed}"

    def left(self) -> str | None:
        """The first member that did not come."""
        return None if self._expected is None else next(self._expected, (None, 0))[0]


def read_manifest(path: Path) -> Submission:
    """Read a manifest.

    Raises:
        SubmissionError: if it is malformed or of another version.
    """
    try:
        return read_document(path, Submission, MANIFEST_BYTES)
    except RecordError as error:
        raise SubmissionError(f"{MANIFEST}: {str(error).removeprefix(f'{path}: ')}") from None


def inspect(archive: Path, into: Path, challenge: str | None = None) -> Inspected:
    """Unpack an archive and check all that can be checked without scoring anything.

    Args:
        archive: the file.
        into: an empty folder.
        challenge: the word that its choice must hang on; None: any, or none.

    Raises:
        SubmissionError: naming what cannot be read or is not as the manifest says; nothing else can then be told.
    """
    if not archive.is_file():
        raise SubmissionError(f"{archive}: no such file; `diffbench leaderboard submit` writes one")
    door = _Door(into)
    members = read_archive(archive, into, door.admit)
    if not members:
        raise SubmissionError(f"{archive}: an empty archive")
    manifest = read_manifest(into / MANIFEST)
    _check_members(manifest, members[1:], door.left() if len(members) > 1 else None)
    file, records = _run_file(into), _records(into, manifest)
    problems = [*_of_versions(manifest), *_of_cells(manifest, file, records)]
    picked = chosen(list(records.values()), manifest.challenge)
    if challenge is not None and manifest.challenge != challenge:
        problems.append(f"its choice hangs on the challenge {manifest.challenge!r}, and not on {challenge!r}")
    refused: dict[str, str] = {}
    names = {member.name for member in manifest.members}
    for folder, record in records.items():
        if wrong := list(_of_record(into, folder, record, manifest, names, record.key in picked)):
            refused[record.key] = "; ".join(wrong)
    problems += _of_models(names, [record for record in records.values() if record.key in picked])
    return Inspected(
        folder=into,
        archive=file_digest(archive),
        manifest=manifest,
        file=file,
        records=MappingProxyType(records),
        problems=tuple(one_line(problem, 500) for problem in problems),
        refused=MappingProxyType(refused),
        picked=picked,
    )


def _check_members(manifest: Submission, members: list[Unpacked], left: str | None) -> None:
    """Raise `SubmissionError` unless all members came as they are listed; names and sizes were seen to before."""
    if len(members) < len(manifest.members):
        gone = left or manifest.members[0].name
        raise SubmissionError(f"{gone}: missing, and the manifest lists it")
    for listed, found in zip(manifest.members, members, strict=True):
        if listed.sha256 != found.sha256:
            raise SubmissionError(f"{found.name}: wrong hash: it is not the file that the manifest lists")


def _run_file(folder: Path) -> RunFile:
    if not (folder / RUN_FILE).exists():
        raise SubmissionError(f"{RUN_FILE}: missing")
    try:
        return read_run_file(folder)
    except RecordError as error:
        raise SubmissionError(f"{RUN_FILE}: {_without(folder, error)}") from None


def _records(folder: Path, manifest: Submission) -> dict[str, Record]:
    """The records by their folders.

    Raises:
        SubmissionError: naming one that is malformed, of another schema, in another's place or not in the manifest.
    """
    listed = {cell.folder: cell for cell in manifest.cells}
    there = {member.name.split("/")[1] for member in manifest.members if member.name.startswith(f"{CELLS}/")}
    if len(listed) < len(manifest.cells):
        raise SubmissionError(f"{MANIFEST}: lists a cell twice")
    for extra in sorted(there - set(listed)):
        raise SubmissionError(f"{CELLS}/{extra}: an extra cell, which the manifest does not list")
    for gone in sorted(set(listed) - there):
        raise SubmissionError(f"{CELLS}/{gone}: a missing cell: the manifest lists it, and it is not there")
    records = {}
    for name, cell in listed.items():
        path = folder / CELLS / name / RECORD_FILE
        try:
            record = read_record(path)
        except RecordError as error:
            raise SubmissionError(f"{CELLS}/{name}/{RECORD_FILE}: {_without(folder, error)}") from None
        if cell_folder_name(record.cell, record.key) != name:
            raise SubmissionError(f"{CELLS}/{name}: its record is of another cell and lies in a folder of a wrong name")
        told = cell.model_dump(exclude={"folder", "carries_diff"})
        if told != asked_of(record).model_dump() | {
            "key": record.key,
            "status": record.status,
            "digest": record_digest(record),
        }:
            raise SubmissionError(f"{CELLS}/{name}: its record does not agree with the manifest's entry")
        records[name] = record
    twice = [key for key, n in Counter(record.key for record in records.values()).items() if n > 1]
    if twice:
        raise SubmissionError(f"{MANIFEST}: two cells have the key {one_line(twice[0], 80)}")
    return records


def _of_versions(manifest: Submission) -> Iterator[str]:
    here = version("diffbench")
    if manifest.diffbench != here:
        yield f"packed by diffbench {manifest.diffbench}, and this is {here}: verify it with that version"
    for what, told, schema in (("record", manifest.record_schema, Record), ("score", manifest.score_schema, Scores)):
        known = schema.model_fields["schema_version"].default
        if told != known:
            yield f"its {what} schema is {told}, and this diffbench reads {known}"


def _of_cells(manifest: Submission, file: RunFile, records: Mapping[str, Record]) -> Iterator[str]:
    """What is wrong with the set of cells."""
    found = list(records.values())
    if not found:
        yield "it holds no cell"
    if file.name != manifest.name:
        yield f"{RUN_FILE} is named {file.name!r}, and the manifest {manifest.name!r}"
    if manifest.commitment != committed([(record.key, record_digest(record)) for record in found]):
        yield "its commitment is not the hash of its records"
    unasked = unasked_cells(file.config, found)
    if unasked:
        told = f"{RUN_FILE} does not ask for {len(unasked)} of its cells, {unasked[0].name} first"
        yield f"{told}: nothing tells what else is missing"
    missing, listed = missing_cells(file.config, found), set(manifest.unfinished)
    for cell in missing:
        if cell not in listed:
            yield f"a missing cell: {cell.name} is asked for by {RUN_FILE}, not there, and not listed as unfinished"
    for cell in listed - set(missing):
        yield f"{cell.name} is listed as unfinished, and it is there or was not asked for"


def _of_record(
    folder: Path, name: str, record: Record, manifest: Submission, members: set[str], picked: bool
) -> Iterator[str]:
    """What is wrong with one cell."""
    prefix = f"{CELLS}/{name}"
    carried = {part for part in (HEADER, TENSORS) if f"{prefix}/{DIFF}/{part}" in members}
    told = next(cell.carries_diff for cell in manifest.cells if cell.folder == name)
    if told != picked or bool(carried) != picked:
        yield (
            "its hash chooses it to carry its Diff, and it carries none"
            if picked
            else "it carries a Diff, and its hash does not choose it: the choice is not the submitter's"
        )
    if picked and carried:
        diff = record.hashes.diff or {}
        for part in (HEADER, TENSORS):
            if part not in carried or file_digest(folder / CELLS / name / DIFF / part) != diff.get(part):
                yield f"{DIFF}/{part}: wrong hash: it is not the Diff that was scored"
    beside = {DASHBOARD: record.hashes.dashboard, **{part: (record.hashes.judged or {}).get(part) for part in JUDGED}}
    for part, digest in beside.items():
        if f"{prefix}/{part}" in members and file_digest(folder / CELLS / name / part) != digest:
            yield f"{part}: wrong hash: it is not the file that its record names"
    if record.scores is not None:
        yield from islice(contradictions(record.scores), MOST_TOLD)
    yield from _of_organism(record)
    yield from _of_method(record)


def _of_method(record: Record) -> Iterator[str]:
    """What is wrong with what a record says of its method; a control, which is pinned, has to be known here."""
    cell, method = record.cell, load_plugins().methods.get(record.cell.method)
    known = method is not None and (provenance(method), method.version) == (cell.method_package, cell.method_version)
    if method is None or not known:
        if cell.control:
            yield f"control: {cell.method} version {cell.method_version} of {cell.method_package} is no control here"
    else:
        for what, said, here in (
            ("control", cell.control, method.control),
            ("baseline", cell.baseline, method.baseline),
            ("access", tuple(cell.access), tuple(sorted(method.access))),
        ):
            if said != here:
                yield f"{what}: its record says {said}, and of this version of the method it is {here}"


def _of_organism(record: Record) -> Iterator[str]:
    """What is wrong with what a record says of an organism that is known here: a newer version would supersede it."""
    cell = record.cell
    try:
        recipe = find_organism(cell.organism).recipe
    except DiffbenchError:
        return
    if cell.organism_version > recipe.version:
        yield f"organism version {cell.organism_version}: {cell.organism} is known up to version {recipe.version} here"
    elif cell.organism_version == recipe.version:
        for what, said, here in (
            ("family", cell.family, recipe.family),
            ("null class", cell.null_class, recipe.null_class),
        ):
            if said is not None and said != here:
                yield f"{what}: its record says {said}, and the organism's recipe {here}"


def _of_models(members: set[str], carried: list[Record]) -> Iterator[str]:
    wanted = {record.hashes.tuned_model for record in carried}
    for name in sorted(member for member in members if member.startswith(f"{MODELS}/")):
        if name.split("/")[1] not in wanted:
            yield f"{name}: weights that no chosen cell is about"


def _without(folder: Path, error: RecordError) -> str:
    """A message without the place where the archive was unpacked."""
    return one_line(str(error).replace(f"{folder}/", ""), 300)
