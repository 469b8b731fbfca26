"""Pictures of one organism: nothing that was measured lies outside them unsaid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from record_factory import figure, pair_facts, record, scores, write_run

from diffbench.figure import Figure
from diffbench.report import read_report
from diffbench.report_curves import DOSED, DOSES_TEXT, FLOOR, STEPS_TEXT, layer_profile
from diffbench.report_page import page


def test_negative_ceilings_lie_within_the_picture(tmp_path: Path) -> None:
    known = pair_facts().layers[0]
    layers = tuple(known.model_copy(update={"layer": n, "ceiling": figure(c)}) for n, c in enumerate((-0.6, -0.3)))
    write_run(tmp_path / "a", [record("one", scored=scores(), pair=pair_facts(layers=layers))])
    [part] = read_report(tmp_path / "a").parts
    drawn = layer_profile(part)
    [low, high] = re.findall(r'class="pt s2" d="M[\d.]+ ([\d.]+)h', drawn.partition("</svg>")[0])
    assert 8 < float(high) < float(low) < 232, "neither is drawn at the edge"
    assert ">-.50</text>" in drawn


@pytest.mark.parametrize("text", [STEPS_TEXT, DOSES_TEXT])
def test_what_is_drawn_at_the_edge_is_said(text: str) -> None:
    assert "is drawn at the edge" in text
    assert (FLOOR, DOSED) == (-1.0, (-0.5, 1.5)), "as the texts have it"


def test_huge_scores_have_a_report(tmp_path: Path) -> None:
    huge = scores(headline=Figure.of(1e308, -1e308, 1.7e308))
    write_run(tmp_path / "a", [record("one", scored=huge), record("two", scored=scores(0.1))])
    assert "Lift over PCA by method" in page(read_report(tmp_path / "a"))
