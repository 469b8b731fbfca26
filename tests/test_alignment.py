"""Directions beside each other, against random draws and plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from diffbench.agreement import MATCHED_AT
from diffbench.alignment import Directions, basis, best_of_random, overlap
from diffbench.diff import DictionaryDiff, DirectionDiff


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def directions(rows: torch.Tensor, **more: Any) -> DirectionDiff:
    zero = torch.zeros(rows.shape[1])
    return DirectionDiff(layer=0, directions=rows, centre=zero, bias=zero.clone(), **more)


def crosscoder(base: torch.Tensor, tuned: torch.Tensor, order: list[int]) -> DictionaryDiff:
    n, d = base.shape
    return DictionaryDiff(
        layer=0, input="both", activation="relu", encoder=torch.zeros(n, 2 * d), encoder_bias=torch.zeros(n),
        decoder_base=base, decoder_tuned=tuned, bias_base=torch.zeros(d), bias_tuned=torch.zeros(d),
        order=torch.tensor(order),
    )  # fmt: skip


@pytest.mark.parametrize(("candidates", "width"), [(1, 8), (8, 8), (64, 8), (512, 128), (1, 3), (5, 2)])
def test_the_best_of_random_directions_is_what_random_directions_come_to(candidates: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = 200_000 // candidates
    others = unit(torch.randn(draws * candidates, width, generator=generator, dtype=torch.float64))
    best = others[:, 0].abs().view(draws, candidates).max(dim=1).values  # against the first axis, as good as any
    mean, share = best_of_random(candidates, width)
    assert mean == pytest.approx(float(best.mean()), abs=4 * float(best.std()) / math.sqrt(draws) + 1e-4)
    hits = float((best >= MATCHED_AT).double().mean())
    assert share == pytest.approx(hits, abs=4 * math.sqrt(share * (1 - share) / draws) + 2e-4)


def test_the_best_of_none_is_nothing_and_in_one_dimension_all_is_the_same() -> None:
    assert best_of_random(0, 8) == pytest.approx((0, 0))
    assert best_of_random(3, 1) == (1.0, 1.0)
    assert best_of_random(1, 4096)[0] == pytest.approx(math.sqrt(2 / math.pi / 4096), rel=1e-3)


def test_directions_follow_the_order_and_leave_out_what_has_no_length() -> None:
    tuned = torch.tensor([[1.0, 0, 0], [0, 2, 0], [1, 1, 1], [0, 0, -4]])
    base = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]])
    found = Directions.of(crosscoder(base, tuned, [3, 2, 0, 1]))
    assert found.component.tolist() == [3, 0, 1] and found.rows.dtype == torch.float64
    assert found.rows.tolist() == [[0, 0, -1], [1, 0, 0], [0, 1, 0]]
    assert found.first(2).component.tolist() == [3, 0]
    some = found.of_components([1, 2, 3])
    assert some.component.tolist() == [1, 3] and some.rows.tolist() == [[0, 1, 0], [0, 0, -1]]


def test_cosines_are_taken_at_the_same_position() -> None:
    rows = unit(torch.tensor([[1.0, 1], [1, 0], [0, 1]]))
    one = Directions.of(directions(rows, positions=torch.tensor([0, 1, -1])))
    other = Directions.of(directions(rows, positions=torch.tensor([0, 0, -1]), order=torch.tensor([2, 1, 0])))
    found = one.cosines(other)
    expected = [[math.nan, math.sqrt(0.5), 1.0], [math.nan] * 3, [1.0, math.nan, math.nan]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert float(one.cosines(one).nan_to_num(nan=0.0).max()) <= 1.0


def test_the_overlap_of_subspaces_is_that_of_their_projections() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(4, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = (x.T @ torch.linalg.inv(x @ x.T) @ x for x in (a, b))
    assert overlap(basis(a), basis(b)) == pytest.approx(float((p * q).sum()) / 4)
    mixed = torch.randn(4, 4, generator=generator, dtype=torch.float64) @ a
    assert overlap(basis(a), basis(mixed)) == pytest.approx(1.0) and overlap(basis(a), basis(a)) <= 1.0
    doubled = torch.cat([a, a[:2]])
    assert len(basis(doubled)) == 4
    assert overlap(basis(a[:2]), basis(a)) == pytest.approx(0.5), "half of the larger one"


def test_random_subspaces_overlap_by_k_over_d() -> None:
    generator = torch.Generator().manual_seed(2)
    found = [
        overlap(*(basis(torch.randn(8, 64, generator=generator, dtype=torch.float64)) for _ in range(2)))
        for _ in range(200)
    ]
    assert sum(found) / len(found) == pytest.approx(8 / 64, abs=0.01)
