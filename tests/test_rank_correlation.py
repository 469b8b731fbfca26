"""Rank correlation: by hand, and against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from diffbench.rank_correlation import spearman


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ((0, 1, 2, 3), (0.1, 0.2, 0.3, 0.9), 1.0),
        ((0, 1, 2, 3), (4, 3, 2, 1), -1.0),
        ((0, 1, 2, 3, 4), (1, 2, 4, 3, 5), 0.9),  # 1 - 6 * 2 / (5 * 24)
        ((1, 2, 3, 4), (1, 2, 2, 3), 0.9486832980505138),  # ties at mean ranks: 4.5 / sqrt(5 * 4.5)
        ((0, 1, 2), (1, 1, 1), 0.0),
    ],
)
def test_by_hand(first: tuple[float, ...], second: tuple[float, ...], rho: float) -> None:
    a, b = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (first, second))
    assert spearman(a, b).tolist() == [[pytest.approx(rho, abs=1e-12)]]


def test_it_is_that_of_ranks_by_pandas() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    b = (a[:, :2] + torch.randn(300, 2, generator=generator, dtype=torch.float64)).round()  # with ties
    left, right = (pd.DataFrame(x.numpy()).rank().to_numpy() for x in (a, b))
    expected = np.corrcoef(left.T, right.T)[:3, 3:]
    assert spearman(a, b).numpy() == pytest.approx(expected)
    assert spearman(a, torch.ones(300, 1, dtype=torch.float64)).tolist() == [[0.0]] * 3
