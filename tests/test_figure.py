"""Figures: a number, or a reason; means of independent units."""

from __future__ import annotations

import pytest

from diffbench.figure import Figure, mean_figure
from diffbench.interval import mean_interval


def test_a_mean_has_an_interval_from_three_units_on() -> None:
    assert mean_figure([0.2]) == Figure.of(0.2)
    assert mean_figure([0.2, 0.4]).value == pytest.approx(0.3) and mean_figure([0.2, 0.4]).low is None
    interval = mean_interval([1.0, 2.0, 6.0])
    assert interval is not None and mean_figure([1.0, 2.0, 6.0]) == Figure.of(*interval)


def test_no_unit_is_no_number() -> None:
    with pytest.raises(ValueError, match="no unit"):
        mean_figure([])
