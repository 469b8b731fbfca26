"""Submissions for tests: a run of synthetic records with Diffs that are mere bytes, and archives that somebody forged.

PYTEST_DONT_REWRITE, because the modules that use it also import from it.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from record_factory import record, run_file, scores, write_run

from diffbench.archive import write_archive
from diffbench.canonical import file_digest
from diffbench.exchange import HEADER, TENSORS
from diffbench.packing import pack
from diffbench.record import Record
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name
from diffbench.submission import MANIFEST, chosen, committed, record_digest

REASON = "CheckpointError: /home/al/secret/model: gone"
METHODS = ("diff-sae", "mean-difference", "quokka-diff")
SEEDS = tuple(range(8))
Files = dict[str, bytes]


def synthetic_records() -> list[Record]:
    """Three methods at eight seeds; one cell failed and one is not applicable."""
    found = []
    for method in METHODS:
        for seed in SEEDS:
            if method == "quokka-diff" and seed < 2:
                status = ("error", "not_applicable")[seed]
                found.append(
                    record(
                        method,
                        seed,
                        cell={"judge": "ngram 1"},
                        status=status,
                        reason=REASON,
                    )
                )
            else:
                facts = {"baseline": method == "mean-difference", "judge": "ngram 1"}
                found.append(record(method, seed, cell=facts, scored=scores(0.1 + seed / 100)))
    return found


def synthetic_run(folder: Path, records: Sequence[Record] | None = None, **config: Any) -> Path:
    """A run folder with these records, each with a Diff of its own."""
    made = []
    for item in synthetic_records() if records is None else records:
        cell = folder / CELLS / cell_folder_name(item.cell, item.key)
        if item.status == "ok":
            (cell / "diff").mkdir(parents=True)
            for name in (HEADER, TENSORS):
                (cell / "diff" / name).write_text(f"{name} of {item.key}")
            diff = {name: file_digest(cell / "diff" / name) for name in (HEADER, TENSORS)}
        else:
            diff = None
        hashes = item.hashes.model_copy(update={"diff": diff, "judged": None})
        made.append(item.model_copy(update={"hashes": hashes}))
    asked = {
        "organisms": ["halfswap"], "methods": list(METHODS), "controls": False, "seeds": list(SEEDS),
        "references": ["base"], "tier": "smoke", "judge": "ngram",
    }  # fmt: skip
    file = run_file(folder.name).model_copy(update={"config": asked | config})
    return write_run(folder, made, file)


def packed(folder: Path, out: Path, **asked: Any) -> Path:
    """The archive of a run."""
    pack(folder, **asked).write(out)
    return out


def members(path: Path) -> Files:
    """Every member of an archive."""
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive.getmembers()}  # type: ignore[union-attr]


def forged(path: Path, change: Callable[[Files], object], *, sign: bool = True, rows: bool = True) -> Path:
    """The archive with other files, whose manifest somebody made to fit.

    Args:
        path: an archive that was packed.
        change: changes its files.
        sign: list sizes and hashes of what is there, in order.
        rows: list the digests of the records that are there, and their commitment.
    """
    files = members(path)
    change(files)
    manifest = json.loads(files.pop(MANIFEST))
    if rows:
        found = {
            name.split("/")[1]: Record.model_validate_json(data)
            for name, data in files.items()
            if name.endswith(f"/{RECORD_FILE}")
        }
        for cell in manifest["cells"]:
            if cell["folder"] in found:
                cell["digest"] = record_digest(found[cell["folder"]])
        manifest["commitment"] = committed([(one.key, record_digest(one)) for one in found.values()])
    if sign:
        manifest["members"] = [
            {"name": name, "size": len(data), "sha256": sha256(data).hexdigest()}
            for name, data in sorted(files.items())
        ]
    order = sorted(files.items())
    out = path.with_name(f"forged-{path.name}")
    write_archive(out, [(MANIFEST, json.dumps(manifest).encode()), *order])
    return out


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Files], None]:
    """Changes one JSON member."""

    def apply(files: Files) -> None:
        document = json.loads(files[name])
        change(document)
        files[name] = json.dumps(document).encode()

    return apply


def picked_cell(path: Path, picked: bool = True, status: str = "ok") -> str:
    """The folder of the first cell of an archive that carries its Diff, or carries none."""
    manifest = json.loads(members(path)[MANIFEST])
    return next(
        cell["folder"] for cell in manifest["cells"] if cell["carries_diff"] == picked and cell["status"] == status
    )


def choice(path: Path) -> frozenset[str]:
    """The choice as it follows from an archive's records."""
    found = [Record.model_validate_json(data) for name, data in members(path).items() if name.endswith(RECORD_FILE)]
    return chosen(found)
