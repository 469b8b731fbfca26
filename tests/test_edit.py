from __future__ import annotations

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each

from diffbench.diff import DirectionDiff
from diffbench.edit import ActivationEdit, Streams, edit_of

ROWS = 9


def streams() -> Streams:
    draw = torch.Generator().manual_seed(1)
    h_b, delta = torch.randn(ROWS, WIDTH, generator=draw), torch.randn(ROWS, WIDTH, generator=draw)
    return Streams(h_b, h_b + delta, torch.arange(ROWS) % 5)


def directions(*, constant: bool, positions: bool) -> DirectionDiff:
    draw = torch.Generator().manual_seed(2)
    return DirectionDiff(
        layer=1,
        directions=torch.nn.functional.normalize(torch.randn(3, WIDTH, generator=draw), dim=1),
        centre=torch.randn(WIDTH, generator=draw),
        bias=torch.randn(WIDTH, generator=draw),
        constant=torch.tensor([1.0, -2.0, 0.5]) if constant else None,
        positions=torch.tensor([-1, 0, 3]) if positions else None,
    )


def slow(diff: DirectionDiff, rows: Streams, chosen: list[int]) -> torch.Tensor:
    total = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
    for t in range(ROWS):
        for i in chosen:
            if diff.positions is not None and int(diff.positions[i]) not in (-1, int(rows.position[t])):
                continue
            v = diff.directions[i].double()
            size = (rows.h_t[t] - rows.h_b[t] - diff.centre).double() @ v
            total[t] += (size if diff.constant is None else diff.constant[i].double()) * v
    return total


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_directions_by_hand(constant: bool, positions: bool) -> None:
    diff, rows = directions(constant=constant, positions=positions), streams()
    edit = ActivationEdit(diff)
    for chosen in ([], [1], [2, 0]):
        added = edit.subset(rows, torch.tensor(chosen, dtype=torch.int64))
        torch.testing.assert_close(added.double(), slow(diff, rows, chosen), atol=1e-5, rtol=1e-5)
    expected = slow(diff, rows, [0, 1, 2]) + diff.bias
    torch.testing.assert_close(edit.full(rows).double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(edit.bias(), diff.bias)
    assert edit.order().tolist() == [0, 1, 2]
    assert not edit.sparse


@pytest.mark.parametrize("constant", [False, True])
def test_activity_of_a_direction_is_its_projection_where_it_holds(constant: bool) -> None:
    """Also of a constant one: its edit is the same at every token, its activity is not (SCIENCE section 5)."""
    diff, rows = directions(constant=constant, positions=True), streams()
    activity = ActivationEdit(diff).activity(rows)
    delta = rows.h_t - rows.h_b - diff.centre
    for t in range(ROWS):
        at = int(rows.position[t])
        expected = [
            float(delta[t] @ v) if held in (-1, at) else 0.0
            for v, held in zip(diff.directions, (-1, 0, 3), strict=True)
        ]
        assert activity[t].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_dictionary_keeps_its_own_order() -> None:
    diff = dictionary_diff("delta")
    edit = ActivationEdit(diff)
    assert torch.equal(edit.order(), diff.order)
    assert edit.sparse
    assert edit.layer == diff.layer


def test_only_what_lives_in_the_residual_stream_has_an_edit() -> None:
    found = {kind: edit_of(diff) is not None for kind, diff in one_of_each().items()}
    assert found == {"dictionary": True, "direction": True, "weight": False, "output": False}
