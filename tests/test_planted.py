from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import Install
from torch import Tensor

from diffbench import (
    AccessError,
    Context,
    DictionaryDiff,
    Diff,
    DirectionDiff,
    Method,
    MethodOptions,
    ModelPair,
    NotApplicable,
    OptionError,
    OutputDiff,
    UnknownName,
)
from diffbench.cli import main
from diffbench.edit import ActivationEdit, Streams
from diffbench.planted import CHANGED, Features, Planted, PlantedParameters, plant, planted_parameters
from diffbench.planted_pair import PlantedPair
from diffbench.planted_score import (
    NULL_BUDGETS,
    Components,
    Footprints,
    PlantedBudget,
    PlantedScore,
    changes,
    components_of,
    score_components,
    score_diff,
    true_components,
)
from diffbench.planted_trial import PCA, RANDOM, TRUE, Planned, PlantedRow, Size, planned, run_trial, summarise

torch.set_num_threads(1)  # matrices this small only lose by being shared out

SMALL = {
    "width": 24, "shared": 20, "base_only": 3, "tuned_only": 3, "rescaled": 4, "rotated": 3, "recorrelated": 4,
    "rate_high": 0.3, "rate_low": 0.05, "rows": 2048, "held_out_rows": 20_000,
}  # fmt: skip
NONE: dict[str, Any] = {**SMALL, "base_only": 0, "tuned_only": 0, "rescaled": 0, "rotated": 0, "recorrelated": 0}


def small(seed: int = 0, **changed: Any) -> Planted:
    return plant(PlantedParameters(**{**SMALL, **changed}), seed)


@pytest.fixture(scope="module")
def world() -> Planted:
    return small()


def gates(fired: Tensor) -> np.ndarray:
    return (fired > 0).double().numpy()


def of(world: Planted, *kinds: Any) -> list[int]:
    return [index for index, kind in enumerate(world.features.kind) if kind in kinds]


# --- what is planted


def test_counts_and_kinds(world: Planted) -> None:
    names = ("shared", *CHANGED)
    assert [len(of(world, name)) for name in names] == [20, 3, 3, 4, 3, 4]
    assert world.features.changed == sorted(of(world, *CHANGED))
    assert world.features.of("shared") != list(range(20))  # kinds are spread over frequencies
    assert world.parameters.n_changed == 17 and len(world.features) == 37


def test_rates_follow_a_power_law_and_rows_follow_the_rates(world: Planted) -> None:
    n, rates = 37, world.features.rate.numpy()
    exponent = math.log(0.3 / 0.05) / math.log(n)
    moved = of(world, "recorrelated")
    for index in range(n):
        expected = 0.3 * (index + 1) ** -exponent
        at = int(world.features.partner[index]) if index in moved else index
        assert rates[index] == pytest.approx(0.3 * (at + 1) ** -exponent)
        assert index in moved or rates[index] == pytest.approx(expected)
    assert rates.max() == pytest.approx(0.3) or 0 in moved
    for fired in (world.held_out.fired_base, world.held_out.fired_tuned):
        observed = gates(fired).mean(axis=0)
        assert np.abs(observed - rates).max() < 5 * math.sqrt(0.3 * 0.7 / 20_000)


def test_sizes_are_positive_with_mean_one_and_the_stated_spread(world: Planted) -> None:
    fired = world.held_out.fired_base
    sizes = fired[fired > 0].double()
    assert float(sizes.min()) >= 0.5
    assert float(sizes.mean()) == pytest.approx(1, abs=0.01) and float(sizes.std()) == pytest.approx(0.5, abs=0.01)
    flat = small(spread=0).held_out.fired_base
    assert set(flat.unique().tolist()) == {0.0, 1.0}


def test_directions_by_kind() -> None:
    world = small(angle=35.0, factors=(0.5, 2.0))
    base, tuned = world.features.base.double().numpy(), world.features.tuned.double().numpy()
    for index in of(world, "shared", "recorrelated"):
        assert np.array_equal(base[index], tuned[index])
    for index in of(world, "base-only"):
        assert not tuned[index].any() and np.linalg.norm(base[index]) == pytest.approx(1, abs=1e-6)
    for index in of(world, "tuned-only"):
        assert not base[index].any() and np.linalg.norm(tuned[index]) == pytest.approx(1, abs=1e-6)
    factors = [float(tuned[index] @ base[index]) for index in of(world, "rescaled")]
    assert factors == pytest.approx([0.5, 2.0, 0.5, 2.0], abs=1e-6)
    for index in of(world, "rescaled"):
        assert tuned[index] == pytest.approx((tuned[index] @ base[index]) * base[index], abs=1e-6)
    for index in of(world, "rotated"):
        assert base[index] @ tuned[index] == pytest.approx(math.cos(math.radians(35)), abs=1e-6)
        assert np.linalg.norm(tuned[index]) == pytest.approx(1, abs=1e-6)


def test_recorrelated_features_fire_at_other_times() -> None:
    world = small(recorrelation=0.8, nested_share=0.0)
    base, tuned = gates(world.held_out.fired_base), gates(world.held_out.fired_tuned)
    moved = of(world, "recorrelated")
    partners = [int(world.features.partner[index]) for index in moved]
    assert len(set(partners)) == 4 and all(world.features.kind[other] == "shared" for other in partners)
    for index, other in zip(moved, partners, strict=True):
        assert np.corrcoef(base[:, index], base[:, other])[0, 1] == pytest.approx(0, abs=0.04)
        assert np.corrcoef(tuned[:, index], tuned[:, other])[0, 1] == pytest.approx(0.8, abs=0.04)
        assert np.corrcoef(base[:, index], tuned[:, index])[0, 1] == pytest.approx(0.2, abs=0.04)
    still = [index for index in range(len(world.features)) if index not in moved]
    assert torch.equal(world.held_out.fired_base[:, still], world.held_out.fired_tuned[:, still])


def test_nested_features_keep_their_rate_and_follow_their_parent() -> None:
    world = small(nested_share=0.5, nesting=0.6)
    features, fired = world.features, gates(world.held_out.fired_base)
    nested = [index for index in range(len(features)) if features.parent[index] >= 0]
    assert 8 <= len(nested) <= 26
    for index in nested:
        parent = int(features.parent[index])
        assert parent < index and features.parent[parent] == -1 and features.partner[index] == -1
        p, q = float(features.rate[index]), float(features.rate[parent])
        expected = 0.6 * math.sqrt(p * (1 - q) / (q * (1 - p)))
        assert np.corrcoef(fired[:, index], fired[:, parent])[0, 1] == pytest.approx(expected, abs=0.04)
    assert bool((small(nested_share=0.0).features.parent == -1).all())


def test_rows_are_sums_of_features_background_noise_and_offset(world: Planted) -> None:
    def parts(planted: Planted) -> tuple[np.ndarray, np.ndarray]:
        rows, features = planted.held_out, planted.features
        left_b = rows.h_b.double() - rows.fired_base.double() @ features.base.double()
        left_t = rows.h_t.double() - rows.fired_tuned.double() @ features.tuned.double()
        return left_b.numpy(), left_t.numpy()

    exact = small(background=0, noise=0, offset=0)
    assert max(np.abs(left).max() for left in parts(exact)) < 1e-5
    left_b, left_t = parts(small(background=0.5, noise=0.2, offset=0.7))
    offset = left_t.mean(axis=0)
    assert np.linalg.norm(offset) == pytest.approx(0.7, abs=0.01) and np.abs(left_b.mean(axis=0)).max() < 0.01
    assert np.sqrt((left_b**2).sum(axis=1).mean()) == pytest.approx(math.hypot(0.5, 0.2), rel=0.02)
    between = left_t - left_b - offset  # the background is the same in both and drops out
    assert np.sqrt((between**2).sum(axis=1).mean()) == pytest.approx(0.2 * math.sqrt(2), rel=0.02)
    spectrum = np.linalg.eigvalsh(np.cov(parts(small(noise=0, offset=0))[0].T))[::-1]
    assert spectrum[0] / spectrum[9] == pytest.approx(10, rel=0.1)
    assert torch.allclose(world.held_out.delta, world.held_out.h_t - world.held_out.h_b, atol=1e-6)


def test_methods_get_other_rows_of_the_same_world_in_half_precision(world: Planted) -> None:
    stored, held_out = world.activations, world.held_out
    h_b, delta = stored.load()
    assert len(stored) == 2048 and stored.width == 24 and stored.layer == 0
    assert float(h_b.square().mean()) == pytest.approx(float(held_out.h_b.square().mean()), rel=0.05)
    assert float(delta.square().mean()) == pytest.approx(float(held_out.delta.square().mean()), rel=0.15)
    assert not bool((h_b[:, None, 0] == held_out.h_b[None, :2048, 0]).all(dim=0).any())
    assert stored.document.bincount().tolist() == [64] * 32
    train, held = stored.split()
    assert len(train) + len(held) == 2048 and len(held) > 0


def test_the_seed_decides_everything(world: Planted) -> None:
    again, other = small(), small(seed=1)
    assert torch.equal(world.activations.base, again.activations.base)
    assert torch.equal(world.activations.delta, again.activations.delta)
    assert torch.equal(world.held_out.fired_tuned, again.held_out.fired_tuned)
    assert world.features.kind == again.features.kind != other.features.kind
    between = (other.features.base @ world.features.base.T).abs()
    assert float(between.max()) < 0.85  # as random directions in 24 dimensions
    assert len({tuple(small(seed=0, rows=rows).features.kind) for rows in (2048, 4096)}) == 1


def test_longer_rows_start_with_the_shorter_ones() -> None:
    short, long = small(held_out_rows=16_384), small(held_out_rows=17_000)
    assert torch.equal(short.held_out.h_b, long.held_out.h_b[:16_384])
    assert not torch.equal(long.held_out.h_b[16_384:], long.held_out.h_b[: 17_000 - 16_384])


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        ({"colour": "red"}, "no parameter 'colour'; parameters: width, shared"),
        ({"width": "1"}, "width: Input should be greater than or equal to 2, got '1'"),
        ({"angle": "0"}, "angle: "),
        ({"noise": "nan"}, "noise: "),
        ({"factors": "0.5,x"}, "factors.1: "),
        ({"factors": "0.5,1"}, "factors: a factor of 1 changes nothing"),
        ({"rate_low": "0.5"}, "rate_low: 0.5 is above rate_high = 0.3"),
        ({"shared": "3"}, "recorrelated: each of the 8 needs a shared partner of its own, and shared = 3"),
        ({"held_out_rows": "100"}, "held_out_rows: the rarest feature fires in 2 of 100 rows; 20 are needed"),
        (dict.fromkeys(("shared", "base_only", "tuned_only", "rescaled", "rotated", "recorrelated"), "0"), "shared: "),
    ],
)
def test_bad_parameters_give_one_line(passed: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError) as raised:
        planted_parameters(passed)
    message = str(raised.value)
    assert message.startswith(f"planted: {said}") and len(message.splitlines()) == 1 and len(message) < 400


def test_parameters_come_from_strings() -> None:
    found = planted_parameters({"factors": "0.25,4", "noise": "0.3", "rows": "4096"})
    assert found.factors == (0.25, 4.0) and found.noise == 0.3 and found.rows == 4096


# --- how it is scored


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


def dictionary(world: Planted, kind: str, n: int = 12) -> DictionaryDiff:
    draw = torch.Generator().manual_seed(1)
    width = 48 if kind == "both" else 24
    encoder = torch.randn(n, width, generator=draw)
    decoders = {name: torch.randn(n, 24, generator=draw) for name in ("decoder", "decoder_base", "decoder_tuned")}
    sides = ("decoder_base", "decoder_tuned") if kind == "both" else ("decoder",)
    zero = {name.replace("decoder", "bias"): torch.zeros(24) for name in sides}
    return DictionaryDiff(
        layer=0, input=kind, activation="threshold", encoder=encoder, encoder_bias=torch.zeros(n),  # type: ignore[arg-type]
        threshold=torch.full((n,), 0.5), order=torch.arange(n).flip(0),
        **{name: decoders[name] for name in sides}, **zero,
    )  # fmt: skip


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


# --- methods on it


class Given(Method):
    """Hands in a dictionary of the true directions; tests reach the world by the back door."""

    name = "given"
    summary = "the true directions"
    world: Planted

    class Options(MethodOptions):
        expansion: int = 1
        k: int = 1

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        rows, held_out = pair.training_rows()
        assert (ctx.layer, pair.layer, pair.width, len(held_out) > 0, len(rows) > 0) == (0, 0, 24, True, True)
        ctx.report("looking", 0.5)
        changed = self.world.features.changed
        vectors = (self.world.features.tuned - self.world.features.base)[changed]
        size = torch.linspace(1, 2, len(changed))
        return DictionaryDiff(
            layer=0, input="delta", activation="relu", encoder=torch.linalg.pinv(vectors).T.contiguous(),
            encoder_bias=torch.zeros(len(changed)), decoder=vectors, bias=torch.zeros(24),
            order=torch.arange(len(changed)), columns={"size": size, "none": size * math.nan},
        )  # fmt: skip


class Fails(Method):
    name = "fails"
    summary = "fails"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        raise ZeroDivisionError("by nothing\nat all")


class Declines(Fails):
    name = "declines"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        raise NotApplicable("not for me")


class Peeks(Fails):
    name = "peeks"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        pair.text()
        raise AssertionError


class Talks(Fails):
    name = "talks"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        return OutputDiff(score=None)


class Greedy(Fails):
    name = "greedy"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        return dictionary(Given.world, "delta", ctx.budget.components + 1)


class Wrong(Fails):
    name = "wrong"

    def run(self, pair: ModelPair, ctx: Context) -> Any:
        return "changed"


class Outside(Fails):
    name = "outside"
    access = frozenset({"logits", "weights"})


def rows_of(method: type[Method], *rankings: str | None, seeds: tuple[int, ...] = (0,)) -> list[PlantedRow]:
    each = Planned(method, method.Options(), Size(expansion=1, k=2), rankings or (None,))
    found = run_trial([each], PlantedParameters(**SMALL), seeds, Size(expansion=1, k=2), lambda phrase, fraction: None)
    return [row for row in found if not row.baseline]


@pytest.fixture
def given(world: Planted, monkeypatch: pytest.MonkeyPatch) -> type[Given]:
    monkeypatch.setattr(Given, "world", small(recorrelated=0), raising=False)
    return Given


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        (Fails, "error", "ZeroDivisionError: by nothing at all"),
        (Declines, "not_applicable", "not for me"),
        (Peeks, "error", "the method used text, but a planted pair has activations alone"),
        (Talks, "not_applicable", "a output diff has no components"),
        (Wrong, "error", "wrong: run() must return a Diff, got str"),
        (Greedy, "error", "greedy: 49 components, the trial allows 48"),
        (Outside, "not_applicable", "it needs logits, weights, and a planted pair has activations alone"),
    ],
)
def test_a_method_without_an_answer_is_a_state(
    given: type[Given], method: type[Method], status: str, reason: str
) -> None:
    [row] = rows_of(method)
    assert row.status == status and row.score is None and reason in (row.reason or "")
    summary = summarise([row])[0]
    assert summary.budgets == () and summary.failed == 1 and summary.reason == row.reason


def test_one_fit_is_scored_in_every_order_that_was_asked_for(given: type[Given]) -> None:
    own, size, none, absent = rows_of(given, None, "size", "none", "absent")
    assert [row.method for row in (own, size, none, absent)] == ["given", "given@size", "given@none", "given@absent"]
    assert own.score is not None and size.score is not None and own.seconds == size.seconds
    assert own.score.n_components == size.score.n_components == 13
    assert (none.status, absent.status) == ("not_applicable", "error") and "absent" in (absent.reason or "")


def test_baselines_stand_beside_every_method(given: type[Given]) -> None:
    each = Planned(given, given.Options(), Size(expansion=2, k=2), (None,))
    reports: list[float] = []
    rows = list(
        run_trial([each], PlantedParameters(**SMALL), (0, 1, 2), Size(expansion=2, k=2), lambda _, f: reports.append(f))
    )
    assert [row.method for row in rows] == [TRUE, PCA, RANDOM, "given"] * 3
    scores: dict[str, PlantedScore] = {row.method: row.score for row in rows if row.score is not None}
    assert scores[TRUE].budgets[1].f1.value == 1.0
    assert scores[PCA].n_components == 24 and scores[RANDOM].n_components == 48
    assert (scores[RANDOM].budgets[1].f1.value or 0.0) < 0.2
    assert reports == sorted(reports) and 0 <= reports[0] and reports[-1] < 1
    summary = {row.method: row for row in summarise(rows)}
    assert summary["given"].seeds == 3 and summary["given"].budgets[1].f1.low is not None
    values = [row.score.budgets[1].f1.value for row in rows if row.method == "given" and row.score is not None]
    assert summary["given"].budgets[1].f1.value == pytest.approx(np.mean([value or 0.0 for value in values]))


def test_the_pair_hands_out_activations_alone(world: Planted) -> None:
    pair = PlantedPair(world, frozenset({"activations", "logits", "weights", "generate"}))
    assert pair.activations() is world.activations and pair.usage == {"activation_rows": 2048}
    assert (pair.width, pair.layer, pair.n_layers, pair.vocabulary) == (24, 0, 1, 37)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    for ask in (
        pair.text,
        lambda: pair.tokenizer,
        lambda: pair.logits("tuned", ids, ids),
        lambda: pair.hidden("reference", ids, ids, 0),
        lambda: pair.weights("tuned"),
        lambda: pair.generate("tuned", ["a"], new_tokens=1),
    ):
        with pytest.raises(AccessError, match="a planted pair has activations alone"):
            ask()
    with pytest.raises(AccessError, match="declares nothing"):
        PlantedPair(world, frozenset()).activations()


def test_the_lens_names_the_nearest_features(world: Planted) -> None:
    features = world.features
    [(up, _), (_, down)] = PlantedPair(world, frozenset()).logit_lens(
        torch.stack([features.base[of(world, "base-only")[0]], -features.tuned[of(world, "tuned-only")[1]]]), top=3
    )
    assert up[0] == Features.name(of(world, "base-only")[0]) and down[0] == Features.name(of(world, "tuned-only")[1])
    assert len(up) == len(down) == 3


def test_methods_are_planned_at_equal_size(given: type[Given], monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(["pca", "random-dictionary"], {}, [Size(expansion=2, k=2), Size(expansion=2, k=5)])
    assert [each.label(None) for each in found] == ["pca", "random-dictionary k=2", "random-dictionary k=5"]
    assert [each.options.model_dump() for each in found[1:]] == [{"expansion": 2, "k": 2}, {"expansion": 2, "k": 5}]
    [kept] = planned(
        ["random-dictionary"], {"random-dictionary": {"k": "7"}}, [Size(expansion=2, k=2), Size(expansion=2, k=5)]
    )
    assert kept.options.model_dump() == {"expansion": 2, "k": 7} and kept.label("energy") == "random-dictionary@energy"
    names = {each.method.name for each in planned([], {}, [Size()])}
    assert {"diff-sae", "crosscoder-batchtopk", "mean-difference"} <= names and not names & {"oracle", "nothing", "pca"}
    with pytest.raises(UnknownName, match="no method named 'dif-sae'; did you mean"):
        planned(["dif-sae"], {}, [Size()])
    with pytest.raises(UnknownName, match="no method in this trial named 'pca'"):
        planned(["diff-sae"], {"pca": {"components": "2"}}, [Size()])
    with pytest.raises(OptionError, match="write NAME or NAME@COLUMN"):
        planned(["diff-sae@"], {}, [Size()])


def test_dictionaries_find_what_was_planted() -> None:
    """Known answers with wide margins: what was measured for the defaults stands in the documentation."""
    few = dict.fromkeys(("base_only", "tuned_only", "rescaled", "rotated", "recorrelated"), 3)
    parameters = PlantedParameters(
        width=32, shared=20, rate_high=0.15, rate_low=0.05, rows=32_768, held_out_rows=4096, **few
    )  # fmt: skip
    for name, size in {"crosscoder-batchtopk": Size(expansion=3, k=6), "diff-sae": Size(expansion=3, k=2)}.items():
        each = planned([name], {name: {"batch": 256, "lr": 0.002}}, [size])
        rows = list(run_trial(each, parameters, (0,), size, lambda phrase, fraction: None))
        f1 = {row.method: row.score.budgets[1].f1.value or 0.0 for row in rows if row.score is not None}
        shuffled = next(row.score.budgets[1].f1_shuffled.value for row in rows if row.method == name and row.score)
        assert shuffled is not None and f1[name] > shuffled + 0.3, name
        assert 0.6 < f1[name] < 1.0 and f1[name] > max(f1[PCA], f1[RANDOM]) + 0.5, name


# --- the command


KEYS = "width=16 shared=10 base_only=2 tuned_only=2 rescaled=2 rotated=2 recorrelated=2 rate_low=0.1 rows=2048"
FEW = [part for key in f"{KEYS} held_out_rows=1000".split() for part in ("-p", key)]
METHODS = """
import diffbench
class Odd(diffbench.Method):
    name, summary = "odd", "odd"
    def run(self, pair, ctx):
        {body}
@diffbench.hookimpl
def diffbench_methods():
    return [Odd]
"""


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["planted", *arguments])


def test_the_table_shows_methods_and_baselines() -> None:
    result = command(*FEW, "--method", "pca", "--method", "mean-difference")
    assert result.exit_code == 0, result.output
    head, _, header, *rest = result.stdout.splitlines()
    assert head == "10 of 20 planted features changed, width 16, 2,048 rows"
    assert header.split()[:1] == ["METHOD"] and "P R F1 @10" in header and "RECORRELATED" in header
    assert [line.split("  ")[0] for line in rest[:5]] == [
        f"({TRUE})",
        f"({PCA})",
        f"({RANDOM})",
        "pca",
        "mean-difference",
    ]
    assert "1.00 1.00 1.00" in rest[0]


def test_json_holds_every_row() -> None:
    result = command(*FEW, "--method", "pca", "--json", "--seeds", "3", "--seed", "5")
    document: Mapping[str, Any] = json.loads(result.stdout)
    assert [row["seed"] for row in document["rows"] if row["method"] == "pca" and not row["baseline"]] == [5, 6, 7]
    assert document["parameters"]["width"] == 16 and len(document["means"]) == 4
    assert (
        json.loads(command(*FEW, "--method", "pca", "--json", "--seeds", "3", "--seed", "5").stdout)["means"][0]
        == document["means"][0]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "noise"), "-p 'noise': write KEY=VALUE"),
        (("-p", "noise=-1"), "planted: noise: "),
        (("-p", "nose=1"), "planted: no parameter 'nose'"),
        (("--method", "nobody"), "no method named 'nobody'"),
        (("-o", "pca.components=0", "--method", "pca"), "pca: option components: "),
        (("-o", "pca"), "-o 'pca': write METHOD.KEY=VALUE"),
    ],
)
def test_a_bad_command_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"diffbench: error: {said}")


def test_a_failing_method_is_shown_and_costs_the_exit_code(install: Install) -> None:
    install("odd", METHODS.format(body="raise ValueError('\\x1b[31mred')"))
    result = command(*FEW, "--method", "odd", "--method", "pca")
    assert result.exit_code == 1 and "ValueError: red" in result.stdout
    assert "failed: odd seed 0: ValueError: red" in result.stderr
    assert any(line.startswith("pca ") for line in result.stdout.splitlines())


def test_a_method_without_components_is_undefined_in_the_table(install: Install) -> None:
    install("odd", METHODS.format(body="return diffbench.no_change(ctx.layer, pair.width)"))
    [line] = [line for line in command(*FEW, "--method", "odd").stdout.splitlines() if line.startswith("odd ")]
    assert line.count("undef.") == 3 * 3 + 2 + len(CHANGED)
    assert not any(number in line.split()[:-1] for number in (".00", "1.00"))


def test_parameters_are_listed() -> None:
    lines = command("--parameters").stdout.splitlines()
    assert len(lines) == 1 + len(PlantedParameters.model_fields) and all("  " in line for line in lines)
