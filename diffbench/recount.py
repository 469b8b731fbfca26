"""Recount: the chosen cells of a submission scored again from the Diffs it carries, and compared figure by figure.

The pair is made here from its recipe and seed; what a stranger trained is compared with it byte by byte, and never
scored on: with weights of his own he could have any figures come out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffbench import runner
from diffbench.asking import asked_of
from diffbench.build import Organism
from diffbench.canonical import digest, file_digest
from diffbench.catalogue import find_organism
from diffbench.discrepancy import Comparing
from diffbench.errors import DiffbenchError, UnknownName
from diffbench.exchange import DIFF
from diffbench.inspection import Inspected
from diffbench.line import error_line, one_line
from diffbench.plugins import find_judge
from diffbench.record import Record
from diffbench.rescore import RescoreOutcome, rescore
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name, write_run_file
from diffbench.submission import MODELS
from diffbench.verification import Tolerance

OFFLINE = "offline"
SKIPPED = frozenset({"usage"})
SHOWN = 4
"""Differences that a reason names."""

Notify = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Recounted:
    """What came of one cell.

    Attributes:
        reason: why it does not come out as it says; None: it does.
        weights: the tuned model made here beside the one that is carried: same, other, or not carried.
        judged: whether its judge's figures were made again, too.
    """

    reason: str | None
    figures: int = 0
    largest: float | None = None
    weights: str = "not carried"
    judged: bool = True


def recount(
    inspected: Inspected,
    work: Path,
    tolerance: Tolerance,
    notify: Notify,
    *,
    organisms: Sequence[str] = (),
    jobs: int | None = None,
) -> dict[str, Recounted]:
    """Score the chosen cells again. Nothing of the archive is changed.

    Args:
        inspected: the submission.
        work: a folder that does not exist yet, for what is made on the way.
        tolerance: by which a figure may differ.
        notify: gets a phrase and the fraction of the current stage that is done.
        organisms: names or recipes of organisms that are not installed here.
        jobs: processes side by side; None: one for each core.

    Returns:
        By the cells' keys. A pair of somebody's own cannot be made here, and is left out.

    Raises:
        DiffbenchError: if an organism that was named is not known.
    """
    named = {organism.recipe.name: organism for organism in map(find_organism, organisms)}
    found: dict[str, Recounted] = {}
    picked = [
        record
        for record in inspected.records.values()
        if record.key in inspected.picked and record.key not in inspected.refused and record.cell.training != "given"
    ]
    wanted: dict[str, Organism] = {}
    for record in picked:
        try:
            wanted[record.key] = named.get(record.cell.organism) or find_organism(_plain(record.cell.organism))
        except DiffbenchError as error:
            found[record.key] = Recounted(f"{error_line(error)}; name its recipe with --organism")
    known = [record for record in picked if record.key in wanted]
    alike = _alike(inspected, known, wanted, notify, jobs or runner.default_jobs())
    for n, group in enumerate(_rounds(known)):
        folder = work / str(n)
        marks = _lay_out(inspected, group, folder, wanted, alike)
        judge = OFFLINE if _is_paid(group[0]) else None
        outcome = rescore(folder, notify, judge=judge, organisms=organisms, jobs=jobs)
        found |= _results(outcome, group, marks, tolerance, judge is not None)
        shutil.rmtree(folder)
    for record in known:
        found[record.key] = replace(found[record.key], weights=_weights(inspected, record, wanted[record.key]))
    return found


def _plain(name: str) -> str:
    """A name of the catalogue: a record must not have a file looked up."""
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        raise UnknownName("organism", one_line(name, 80), (), "its name is that of a file")
    return name


def _is_paid(record: Record) -> bool:
    """Whether its judge would have to be paid for, or is not here."""
    try:
        return find_judge(record.cell.judge.rpartition(" ")[0]).paid
    except DiffbenchError:
        return True


def _rounds(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Groups in which nothing is told by one name twice, and that one judge scores."""
    groups: list[tuple[bool, dict[tuple[object, ...], Record]]] = []
    for record in records:
        cell = record.cell
        name, paid = (cell.organism, cell.row, cell.seed, cell.reference), _is_paid(record)
        group = next((held for by, held in groups if by == paid and name not in held), None)
        if group is None:
            group = {}
            groups.append((paid, group))
        group[name] = record
    yield from (list(held.values()) for _, held in groups)


def _alike(
    inspected: Inspected, records: Sequence[Record], wanted: Mapping[str, Organism], notify: Notify, jobs: int
) -> frozenset[str]:
    """Keys of cells whose model goes by another hash here, and is byte for byte the one that is carried."""
    doubtful = [
        record
        for record in records
        if record.hashes.tuned_model != wanted[record.key].model_key("tuned") and _carried(inspected, record)
    ]
    if not doubtful:
        return frozenset()
    organisms = list({wanted[record.key].recipe.name: wanted[record.key] for record in doubtful}.values())
    with runner.Workers(jobs=jobs, notify=notify, trusted=runner.trusted(organisms)) as workers:
        runner.build(organisms, workers)
    return frozenset(
        record.key for record in doubtful if _weights(inspected, record, wanted[record.key]) == "same"
    )  # fmt: skip


def _carried(inspected: Inspected, record: Record) -> dict[str, Path]:
    folder = inspected.folder / MODELS / record.hashes.tuned_model
    return {path.name: path for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def _weights(inspected: Inspected, record: Record, organism: Organism) -> str:
    carried = _carried(inspected, record)
    if not carried:
        return "not carried"
    made = {path.name: path for path in organism.model_path("tuned").glob("*.safetensors")}
    same = made.keys() == carried.keys() and all(file_digest(made[name]) == file_digest(carried[name]) for name in made)
    return "same" if same else "other"


def _lay_out(
    inspected: Inspected,
    group: Sequence[Record],
    folder: Path,
    wanted: Mapping[str, Organism],
    alike: frozenset[str],
) -> dict[str, str]:
    """A run folder with some cells under keys that nothing has, so that nothing counts as done; key by such a key.

    Its run file says nothing but how activations were asked for: what a stranger's names is not looked up.
    """
    folder.mkdir(parents=True)
    dtype = inspected.file.config.get("harvest_dtype")
    config = {"harvest_dtype": dtype} if dtype in ("float32", "bfloat16", "auto") else {}
    write_run_file(folder, inspected.file.model_copy(update={"config": config, "passed": {}, "argv": ()}))
    marks = {}
    for record in group:
        mark, name = digest(["recount", record.key]), cell_folder_name(record.cell, record.key)
        marks[mark] = record.key
        pair = record.hashes.pair if record.rescored is None else record.rescored.pair
        document = record.model_dump(mode="json")
        document |= {"key": mark, "rescored": {"from_key": mark, "pair": pair}}
        if record.key in alike:
            organism = wanted[record.key]
            document["hashes"] |= {
                "base": organism.base.key(),
                "reference_model": organism.model_key(record.cell.reference),
                "tuned_model": organism.model_key("tuned"),
            }
        cell = folder / CELLS / cell_folder_name(record.cell, mark)
        shutil.copytree(inspected.folder / CELLS / name / DIFF, cell / DIFF)
        (cell / RECORD_FILE).write_text(json.dumps(document), encoding="utf-8")
    return marks


def _results(
    outcome: RescoreOutcome, group: Sequence[Record], marks: Mapping[str, str], tolerance: Tolerance, replaced: bool
) -> dict[str, Recounted]:
    """What a round of re-scoring says of its cells."""
    again = {marks[new.rescored.from_key]: new for new in outcome.records if new.rescored is not None}
    names = {one_line(asked_of(record).name, 300): record.key for record in group}
    refused = {names[one.name]: one.reason for one in outcome.refused if one.name in names}
    found = {}
    for record in group:
        new = again.get(record.key)
        if new is None:
            found[record.key] = Recounted(refused.get(record.key) or "it could not be scored again")
        elif new.scores is None or record.scores is None:
            found[record.key] = Recounted(f"its Diff has no scores here: {one_line(new.reason, 300)}")
        else:
            found[record.key] = _compared(record, new, tolerance, replaced)
    return found


def _compared(record: Record, new: Record, tolerance: Tolerance, replaced: bool) -> Recounted:
    """A record beside the one that was made here; ``replaced``: another judge stood in, whose figures do not count."""
    comparing = Comparing(tolerance, SKIPPED | ({"interpretability", "judge"} if replaced else set()))
    comparing.compare(record.scores, new.scores, "scores")
    comparing.compare(record.pair, new.pair, "pair")
    comparing.compare(record.cell, new.cell, "cell")
    comparing.compare(record.budget, new.budget, "budget")
    if not comparing.found:
        return Recounted(None, comparing.figures, comparing.largest, judged=not replaced)
    more = len(comparing.found) - SHOWN
    shown = "; ".join(comparing.found[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
    code = "" if record.hashes.score_code == new.hashes.score_code else "; it was scored by other code than is here"
    return Recounted(f"does not come out as it says: {shown}{code}", comparing.figures, comparing.largest)
