"""Planted score: what the components of a Diff name of what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_factory import NONE, dictionary, of, small

from diffbench import (
    DirectionDiff,
)
from diffbench.edit import ActivationEdit, Streams
from diffbench.planted import CHANGED, Planted, PlantedParameters, plant
from diffbench.planted_score import (
    NULL_BUDGETS,
    Components,
    Footprints,
    PlantedBudget,
    changes,
    components_of,
    score_components,
    score_diff,
    true_components,
)


@pytest.fixture(scope="module")
def world() -> Planted:
    return small()


def test_the_true_features_score_one(world: Planted) -> None:
    for each in (world, small(1, held_out_rows=1000), small(2, held_out_rows=1000)):
        score = score_components(each, true_components(each))
        half, whole, twice = score.budgets
        assert (half.m, whole.m, twice.m) == (8, 17, 34)
        for figure in (whole.precision, whole.recall, whole.f1, twice.precision, half.precision, score.recall_all):
            assert figure.value == 1.0
        assert score.energy.value == pytest.approx(1.0) and whole.false_alarms == () and whole.duplicates == 0
        assert half.recall.value == 8 / 17 and half.f1.value == pytest.approx(2 * 8 / 25)
        assert {kind.kind: kind.found for kind in whole.kinds} == dict(
            zip(CHANGED, (3, 3, 4, 3, 4), strict=True)
        )  # by kind


def test_neither_scale_nor_offset_nor_a_double_sign_counts(world: Planted) -> None:
    true = true_components(world)
    odd = replace(true.added, coefficient=-3 * true.added.coefficient + 5, vector=-0.1 * true.added.vector)
    assert score_components(world, replace(true, added=odd)).budgets[1].f1.value == 1.0
    wrong = replace(true.added, vector=-true.added.vector)
    assert score_components(world, replace(true, added=wrong)).budgets[1].hits == 0


def test_similarity_is_the_cosine_of_the_footprints_as_arrays() -> None:
    draw = torch.Generator().manual_seed(0)
    few = Footprints(
        torch.randn(50, 3, generator=draw).double(), torch.randn(3, 6, generator=draw).double(), torch.arange(3)
    )
    more = Footprints(
        torch.rand(50, 4, generator=draw).double(), torch.randn(4, 6, generator=draw).double(), torch.arange(4)
    )

    def array(prints: Footprints, index: int) -> np.ndarray:
        found = np.outer(prints.coefficient[:, index].numpy(), prints.vector[index].numpy())
        return (found - found.mean(axis=0)).ravel()

    expected = [
        [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for b in (array(more, j) for j in range(4))]
        for a in (array(few, i) for i in range(3))
    ]
    assert few.cosines(more).numpy() == pytest.approx(np.array(expected), abs=1e-12)
    still = replace(more, coefficient=torch.full((50, 4), 0.3).double())
    assert not few.cosines(still).any() and bool(still.constant.all()) and not bool(more.constant.any())


def test_changed_footprints_are_what_features_add_to_the_difference(world: Planted) -> None:
    quiet = small(background=0, noise=0, offset=0)
    truth, rows = changes(quiet), quiet.held_out
    n = len(quiet.features.changed)
    added = truth.coefficient[:, :n] @ truth.vector[:n]
    assert torch.allclose(added, rows.delta.double(), atol=1e-5)
    sides = len(of(quiet, "rotated", "recorrelated"))
    gained, lost = slice(n, n + sides), slice(n + sides, n + 2 * sides)
    both = truth.coefficient[:, gained] @ truth.vector[gained] + truth.coefficient[:, lost] @ truth.vector[lost]
    whole = [at for at, index in enumerate(quiet.features.changed) if index in of(quiet, "rotated", "recorrelated")]
    assert torch.allclose(both, truth.coefficient[:, whole] @ truth.vector[whole], atol=1e-5)


def some(world: Planted, names: list[tuple[str, int]]) -> Components:
    """Components made of planted features: whole, gained, lost, or the direction and firing of a shared one."""
    features, rows = world.features, world.held_out
    coefficients, vectors = [], []
    for what, index in names:
        base, tuned = rows.fired_base[:, index].double(), rows.fired_tuned[:, index].double()
        whole = tuned - base if features.kind[index] == "recorrelated" else base
        direction = {
            "whole": features.base[index]
            if features.kind[index] == "recorrelated"
            else features.tuned[index] - features.base[index],
            "gained": features.tuned[index],
            "lost": -features.base[index],
            "shared": features.base[index],
        }[what]
        coefficients.append({"whole": whole, "gained": tuned, "lost": base, "shared": base}[what])
        vectors.append(direction.double())
    own = torch.arange(len(names))
    made = Footprints(torch.stack(coefficients, dim=1), torch.stack(vectors), own)
    return Components(made, made, own)


def first(world: Planted, names: list[tuple[str, int]], m: int = 1) -> PlantedBudget:
    return score_components(world, some(world, names)).budgets[m]


def test_a_feature_that_is_named_twice_counts_once(world: Planted) -> None:
    a, b = of(world, "base-only")[:2]
    found = first(world, [("whole", a), ("whole", a), ("whole", b), ("whole", a)])
    assert (found.hits, found.duplicates, found.components, found.m) == (2, 2, 4, 17)
    assert found.precision.value == 0.5 and found.recall.value == pytest.approx(2 / 17)
    assert found.f1.value == pytest.approx(2 * 2 / (4 + 17))


def test_either_side_of_a_rotated_or_recorrelated_feature_names_it(world: Planted) -> None:
    for kind in ("rotated", "recorrelated"):
        index = of(world, kind)[0]
        found = first(world, [("gained", index), ("lost", index), ("whole", index)])
        assert (found.hits, found.duplicates) == (1, 2), kind
    shrunk, grown = of(world, "rescaled")[:2]  # by factors of .5 and 2
    assert first(world, [("gained", shrunk), ("lost", grown)]).hits == 0
    assert first(world, [("lost", shrunk), ("gained", grown)]).hits == 2


def test_shared_features_are_named_as_false_alarms(world: Planted) -> None:
    alarm, other = of(world, "shared")[:2]
    hit = of(world, "tuned-only")[0]
    found = first(world, [("shared", other), ("whole", hit), ("shared", alarm), ("shared", other)])
    assert found.false_alarms == (f"f{other}", f"f{alarm}") and found.hits == 1 and found.duplicates == 0
    assert found.precision.value == 0.25


def test_the_order_decides_what_is_first(world: Planted) -> None:
    changed, shared = world.features.changed, of(world, "shared")
    made = some(world, [*(("shared", index) for index in shared), *(("whole", index) for index in changed)])
    assert [budget.hits for budget in score_components(world, made).budgets] == [0, 0, 14]
    turned = replace(made, order=made.order.flip(0))
    assert [budget.hits for budget in score_components(world, turned).budgets] == [8, 17, 17]


def test_a_random_order_scores_its_expectation() -> None:
    world = small(held_out_rows=400)
    changed, shared = world.features.changed, of(world, "shared")
    repeated = [("whole", index) for index in (*changed, *changed[:1] * 5)]
    made = some(world, repeated + [("shared", index) for index in shared])
    expected = [budget.f1_shuffled.value for budget in score_components(world, made).budgets]
    draw = torch.Generator().manual_seed(0)
    total = np.zeros(3)
    for _ in range(200):
        order = torch.randperm(len(made.order), generator=draw)
        total += [budget.f1.value or 0.0 for budget in score_components(world, replace(made, order=order)).budgets]
    assert total / 200 == pytest.approx(np.array(expected), abs=0.025)
    assert expected[1] is not None and 0.3 < expected[1] < 0.5


def test_where_nothing_changed_recall_is_undefined() -> None:
    null = plant(PlantedParameters(**NONE), 0)
    names = [("shared", index) for index in of(null, "shared")]
    score = score_components(null, some(null, names))
    assert [budget.m for budget in score.budgets] == list(NULL_BUDGETS) and score.changed == 0
    for budget in score.budgets:
        assert budget.recall.state == budget.f1.state == budget.f1_shuffled.state == "undefined"
        assert budget.recall.value is None and budget.precision.value == 0.0  # every claim is false
        assert len(budget.false_alarms) == min(budget.m, 20)
        assert all(kind.recall.state == "undefined" for kind in budget.kinds)
    assert score.recall_all.state == score.energy.state == "undefined"


def test_a_method_that_names_nothing_is_undefined_and_not_zero(world: Planted) -> None:
    zero = torch.zeros(24)
    score = score_diff(world, DirectionDiff(layer=0, directions=torch.zeros(0, 24), centre=zero, bias=zero))
    assert score is not None and score.n_components == 0
    for budget in score.budgets:
        states = {budget.precision.state, budget.recall.state, budget.f1.state, budget.f1_shuffled.state}
        assert states == {"undefined"} and {kind.recall.state for kind in budget.kinds} == {"undefined"}
    assert score.recall_all.state == score.energy.state == "undefined"


def test_a_constant_direction_names_no_feature() -> None:
    world = small(offset=5.0)
    mean = world.held_out.delta.mean(dim=0)
    diff = DirectionDiff(
        layer=0,
        directions=(mean / mean.norm())[None],
        centre=mean,
        bias=torch.zeros(24),
        constant=mean.norm()[None],
    )
    score = score_diff(world, diff)
    assert score is not None and score.dead == 1 and score.budgets[1].precision.value == 0.0


@pytest.mark.parametrize("kind", ["delta", "both", "tuned", "base"])
def test_a_component_is_what_its_edit_adds(world: Planted, kind: str) -> None:
    diff, rows = dictionary(world, kind), world.held_out
    components = components_of(diff, rows)
    streams = Streams(rows.h_b, rows.h_b + rows.delta, torch.zeros(len(rows.h_b), dtype=torch.int64))
    for index in range(diff.n_components):
        added = ActivationEdit(diff).subset(streams, torch.tensor([index]))
        own = components.added.coefficient[:, [index]] * components.added.vector[index]
        assert torch.allclose(own.float(), added, atol=1e-4), index
    assert components.order.tolist() == list(range(12))[::-1]
    assert len(components.sides.owner) == (24 if kind == "both" else 12)


def test_directions_are_projections(world: Planted) -> None:
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(24, 24, generator=draw)).Q
    diff = DirectionDiff(layer=0, directions=directions, centre=torch.ones(24), bias=torch.zeros(24))
    made = components_of(diff, world.held_out).added
    added = made.coefficient @ made.vector
    assert torch.allclose(added.float(), world.held_out.delta - 1, atol=1e-4)
