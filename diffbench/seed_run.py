"""Seed run: the method seeds of all rows of a run folder, compared as far as that was not done before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffbench import runner
from diffbench.comparison import Comparison
from diffbench.errors import DiffbenchError
from diffbench.record import Record
from diffbench.run_folder import read_run
from diffbench.seed_group import Compared, compare, seed_groups, stored
from diffbench.stored_cell import StoredCell, stored_cells
from diffbench.stored_pair import Pairs


def compare_run(folder: Path, notify: Callable[[str, float], None]) -> list[Compared]:
    """Of each row with several method seeds what they have in common, from its file or computed now.

    Args:
        folder: the run folder, or its ``run.json``.
        notify: gets a phrase and the fraction that is done.

    Raises:
        RecordError: if this is no run.
    """
    run = read_run(folder)
    pairs = Pairs(run.file)
    cells = {cell.key: cell for _, cell in stored_cells(run.path) if isinstance(cell, StoredCell)}

    def pair_of(record: Record) -> Comparison | None:
        try:
            return pairs.comparison(cells[record.key]) if record.key in cells else None
        except DiffbenchError:  # the pair is not here, or is another one: directions are compared all the same
            return None

    groups = seed_groups(run.records, pair_of)
    known = {group.key: Compared(group, file) for group in groups if (file := stored(run.path, group)) is not None}
    missing = [group for group in groups if group.key not in known]
    if missing:
        organisms = [group.comparison.organism for group in missing if group.comparison is not None]
        trusted = runner.trusted(organisms)
        with runner.Workers(jobs=runner.default_jobs(), notify=notify, trusted=trusted) as workers:
            known |= {compared.group.key: compared for compared in compare(missing, run.path, workers)}
    return [known[group.key] for group in groups]
