"""What is published in leaderboard/: that it is whole, and that its tables are what its records say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from diffbench.asking import missing_cells, unasked_cells
from diffbench.campaign import RunConfig
from diffbench.leaderboard import FILES, build
from diffbench.merging import RECORDS
from diffbench.run_folder import RUN_FILE, read_run
from diffbench.site import MANIFEST
from diffbench.site_pages import BESIDE
from diffbench.slice_plan import SlicePart, read_slice

PUBLISHED = Path(__file__).parent.parent / "leaderboard"
PLAN = read_slice(PUBLISHED / "slice.yaml")


@pytest.mark.parametrize("part", PLAN.parts, ids=lambda part: part.name)
def test_every_cell_that_was_written_down_is_there_and_no_other(part: SlicePart) -> None:
    folder = PUBLISHED / RECORDS / PLAN.run_name(part)
    config = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["config"]
    assert RunConfig.model_validate(config) == part.run, "it was run as it is written down"
    records = read_run(folder).records
    assert records and not missing_cells(config, records) and not unasked_cells(config, records)


def test_the_tables_and_pages_are_what_the_records_say(tmp_path: Path) -> None:
    """`diffbench leaderboard build leaderboard/records/* --out leaderboard` changes nothing."""
    again = tmp_path / "leaderboard"
    shutil.copytree(PUBLISHED / RECORDS, again / RECORDS)
    for name in BESIDE:
        shutil.copy(PUBLISHED / name, again / name)
    made = build(sorted((again / RECORDS).iterdir()), again)
    assert {path.name for path in made} >= set(FILES)
    for path in made:
        name = path.relative_to(again)
        assert path.read_bytes() == (PUBLISHED / name).read_bytes(), name
    pages = {str(path.relative_to(PUBLISHED)) for path in PUBLISHED.rglob("*.html")}
    assert pages == set(json.loads((PUBLISHED / MANIFEST).read_text(encoding="utf-8"))["pages"])


def test_no_record_names_a_machine() -> None:
    home = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|users|mnt|var)/", re.IGNORECASE)
    for path in sorted((PUBLISHED / RECORDS).rglob("*.json")):
        assert not home.search(path.read_text(encoding="utf-8")), path
