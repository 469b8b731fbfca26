"""Planted features: what a world holds, and that the seed decides it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from planted_factory import gates, of, small

from diffbench import (
    OptionError,
)
from diffbench.planted import CHANGED, Planted, planted_parameters


@pytest.fixture(scope="module")
def world() -> Planted:
    return small()


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
