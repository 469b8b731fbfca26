"""Packing: a finished run put into one archive for a leaderboard (`diffbench.submission` says what it holds)."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from diffbench import cache
from diffbench.archive import write_archive
from diffbench.asking import asked_of, missing_cells, unasked_cells
from diffbench.build import MODEL
from diffbench.canonical import file_digest
from diffbench.catalogue import find_organism
from diffbench.errors import DiffbenchError, SubmissionError
from diffbench.exchange import DIFF, HEADER, TENSORS
from diffbench.line import one_line
from diffbench.record import Record
from diffbench.redaction import redacted, redacted_json, traces
from diffbench.run_folder import CELLS, RECORD_FILE, RUN_FILE, Run, RunFile, cell_folder_name, read_run, refusal
from diffbench.scores import Scores
from diffbench.stored_cell import StoredCell, kept_diff, stored_cells
from diffbench.submission import (
    BESIDE,
    BESIDE_BYTES,
    CHALLENGE_LENGTH,
    MANIFEST,
    MODELS,
    Member,
    Submission,
    SubmittedCell,
    chosen,
    committed,
    record_digest,
)
from diffbench.verification import NAME

Source = Path | bytes
OWN_TEXT = (".json", ".jsonl")
"""Endings of members that are searched for what they tell of this machine; the others hold numbers."""


@dataclass(frozen=True, slots=True)
class Packing:
    """A submission that is ready to be written.

    Attributes:
        manifest: lists everything but itself.
        sources: of the members, in the order of the manifest.
        weights: bytes of the chosen cells' models, carried or not.
        left_out: what is not carried although it could have been, and why.
    """

    manifest: Submission
    sources: tuple[tuple[str, Source], ...]
    weights: int
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all members before they are compressed."""
        return sum(member.size for member in self.manifest.members)

    def write(self, out: Path) -> None:
        """Write the archive, atomically.

        Raises:
            SubmissionError: if a file has changed since.
        """
        text = json.dumps(self.manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_archive(out, [(MANIFEST, text.encode()), *self.sources])


def pack(
    folder: Path, *, name: str | None = None, weights: bool = True, challenge: str | None = None
) -> Packing:  # fmt: skip
    """Choose what a run's archive holds, and check that it may be published.

    Args:
        folder: the run folder.
        name: of the submission; None: the run's.
        weights: carry the weights of the chosen cells' tuned models: of an organism that was tuned by LoRA the adapter.
        challenge: a word that decides which cells carry their Diff.

    Raises:
        RecordError: if this is no run folder.
        SubmissionError: if a record is damaged, a Diff is gone, or a file tells of this machine.
    """
    run = read_run(folder)
    title = run.file.name if name is None else name
    if not re.fullmatch(NAME, title):
        raise SubmissionError(f"--name {title!r} is no name; letters, digits, '.', '_' and '-' will do")
    records = records_of(run)
    file = published(run, title)
    if challenge is not None and not 0 < len(challenge) <= CHALLENGE_LENGTH:
        raise SubmissionError(f"--challenge: from 1 to {CHALLENGE_LENGTH} characters, got {len(challenge)}")
    if unasked := unasked_cells(file.config, records):
        raise SubmissionError(
            f"{run.path}: its {RUN_FILE}, which tells of the last command alone, does not ask for {len(unasked)} of "
            f"its cells, {one_line(unasked[0].name, 200)} first; repeat `diffbench run` under the same "
            "--name with all that is there (finished cells stay), then submit"
        )
    picked = chosen(records, challenge)
    files: dict[str, Source] = {RUN_FILE: _document(file)}
    left_out: list[str] = []
    for record in records:
        files |= dict(_cell_files(run.path, record, left_out))
    carried = [record for record in records if record.key in picked]
    files |= dict(_diffs(run.path, carried))
    models = dict(_models(carried))
    files |= models if weights else {}
    ordered = sorted(files.items())
    members = tuple(_member(run.path, name, source) for name, source in ordered)
    digests = {record.key: record_digest(record) for record in records}
    manifest = Submission(
        name=title,
        diffbench=version("diffbench"),
        record_schema=Record.model_fields["schema_version"].default,
        score_schema=Scores.model_fields["schema_version"].default,
        commitment=committed(list(digests.items())),
        challenge=challenge,
        cells=tuple(
            SubmittedCell(
                **asked_of(record).model_dump(),
                folder=cell_folder_name(record.cell, record.key),
                key=record.key,
                status=record.status,
                digest=digests[record.key],
                carries_diff=record.key in picked,
            )
            for record in records
        ),
        unfinished=tuple(missing_cells(file.config, records)),
        members=members,
    )
    size = sum(source.stat().st_size for source in models.values())
    return Packing(manifest, tuple(ordered), size, tuple(left_out))


def records_of(run: Run) -> list[Record]:
    """The records of a run, their reasons without paths."""
    if run.damaged:
        path, why = run.damaged[0]
        raise SubmissionError(f"{run.path / path}: {why}; `diffbench rescore` or remove it first, then submit")
    if not run.records:
        raise SubmissionError(f"{run.path}: holds no finished cell; nothing can be submitted")
    folders = [cell_folder_name(record.cell, record.key) for record in run.records]
    for folder in folders:
        if not (run.path / CELLS / folder / RECORD_FILE).is_file() or folders.count(folder) > 1:
            raise SubmissionError(f"{run.path / CELLS}: the record of {folder} lies in a folder of another name")
    return [
        record if record.reason is None else record.model_copy(update={"reason": redacted(record.reason)})
        for record in run.records
    ]


def published(run: Run, name: str) -> RunFile:
    """A ``run.json`` that tells what was asked and nothing of the machine."""
    config = dict(run.file.config)
    organisms = config.get("organisms")
    if isinstance(organisms, list):
        config["organisms"] = [_organism_name(str(organism)) for organism in organisms]
    provenance = run.file.provenance
    changes = dict(
        name=name,
        argv=tuple(redacted(word) for word in run.file.argv),
        config=redacted_json(config),
        passed=redacted_json(run.file.passed),
        provenance=provenance.model_copy(update={"platform": provenance.platform.partition("-")[0]}),
    )
    return run.file.model_copy(update=changes)


def _organism_name(named: str) -> str:
    """What cells call an organism that may be named by the path of its recipe."""
    if os.sep not in named and not named.endswith((".yaml", ".yml")):
        return named
    try:
        return find_organism(named).recipe.name
    except DiffbenchError:
        return Path(named).stem


def _cell_files(folder: Path, record: Record, left_out: list[str]) -> Iterator[tuple[str, Source]]:
    """A record, and what lies beside it where that is small enough."""
    cell = cell_folder_name(record.cell, record.key)
    yield f"{CELLS}/{cell}/{RECORD_FILE}", _document(record)
    for name in BESIDE if record.status == "ok" else ():
        path = folder / CELLS / cell / name
        if refusal(path, stat.S_ISREG) is not None or not path.exists():
            continue
        if path.stat().st_size > BESIDE_BYTES:
            left_out.append(f"{cell}/{name}: larger than {BESIDE_BYTES >> 20} MiB")
            continue
        yield f"{CELLS}/{cell}/{name}", path


def _diffs(folder: Path, carried: Sequence[Record]) -> Iterator[tuple[str, Source]]:
    """The Diffs of the chosen cells, as they were scored."""
    cells = {stored.key: stored for _, stored in stored_cells(folder) if isinstance(stored, StoredCell)}
    for record in carried:
        cell = cell_folder_name(record.cell, record.key)
        try:
            kept = kept_diff(folder, cells[record.key])
            if kept is None or record.hashes.diff is None:
                raise SubmissionError("it has no Diff")
            for name in (HEADER, TENSORS):
                path = kept.folder / DIFF / name
                if file_digest(path) != record.hashes.diff[name]:
                    raise SubmissionError(f"{path} is not the one that was scored")
                yield f"{CELLS}/{cell}/{DIFF}/{name}", path
        except (DiffbenchError, OSError) as error:
            what = f"{cell} was chosen to carry its Diff, and {one_line(error, 300)}"
            raise SubmissionError(f"{what}; `diffbench rescore` or run it again, then submit") from None


def _models(carried: Sequence[Record]) -> Iterator[tuple[str, Path]]:
    """The weights of organisms' tuned models that are in the cache, each once."""
    for key in sorted({record.hashes.tuned_model for record in carried if record.cell.training != "given"}):
        held = cache.held(MODEL, key)
        for path in sorted((held / "model").glob("*.safetensors")) if held is not None else ():
            yield f"{MODELS}/{key}/{path.name}", path


def _member(folder: Path, name: str, source: Source) -> Member:
    """An entry of the manifest, of a file that may be published."""
    if name.endswith(OWN_TEXT):
        data = source if isinstance(source, bytes) else source.read_bytes()
        if (trace := traces(data, (folder.absolute(), folder.resolve()))) is not None:
            raise SubmissionError(f"{name}: holds {trace}; take it out of the run before you publish it")
    if isinstance(source, bytes):
        return Member(name=name, size=len(source), sha256=sha256(source).hexdigest())
    return Member(name=name, size=source.stat().st_size, sha256=file_digest(source))


def _document(document: Record | RunFile) -> bytes:
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()
