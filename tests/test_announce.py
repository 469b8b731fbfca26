"""The line that is logged for a finished cell."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from record_factory import record

from diffbench.announce import diffbench_cell_finished, outcome


def test_a_finished_cell_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="diffbench"):
        diffbench_cell_finished(record(method="pca"), Path("record.json"))
        diffbench_cell_finished(record(method="pca", cell={"ranking": "energy"}), Path("record.json"))
    line, ranked = caplog.messages
    assert line.startswith("halfswap pca seed 0: lift ")
    assert ranked.startswith("halfswap pca@energy seed 0: lift ")


def test_a_failed_cell_says_why() -> None:
    failed = record(status="error", reason="RuntimeError: no luck")
    assert outcome(failed).startswith("error after ") and outcome(failed).endswith("RuntimeError: no luck")
