"""Causal scores of whole Diffs on a prepared pair: invariants, curves, controls, strata, sets."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff
from score_factory import Prepared, quiet

from diffbench.budget_curve import CURVE, area_weights, curve_points
from diffbench.causal import KLSums, sweep
from diffbench.controls import principal_directions
from diffbench.corpus import STRATA
from diffbench.diff import Diff, WeightDiff
from diffbench.errors import DiffError
from diffbench.ground import Ground
from diffbench.handle import handle_of
from diffbench.patching import Arm
from diffbench.record import PairFacts
from diffbench.scores import Recovery, Scores
from diffbench.strata import NAMES
from diffbench.truth import Stratum

pytest_plugins = ("score_factory",)


def layer_of(prepared: Prepared) -> int:
    return prepared.bench.comparison.facts().layer


def ground(prepared: Prepared) -> Ground:
    return Ground.of(prepared.bench.comparison, prepared.bench.reference, prepared.bench.tuned)


def everything(prepared: Prepared, groups: int = 1) -> WeightDiff:
    names = [name for name, _ in prepared.bench.reference.named_parameters()]
    parts = tuple(tuple(names[i::groups]) for i in range(groups))
    return WeightDiff(parameters=parts, sigma=torch.ones(groups))


def recovered(prepared: Prepared, diff: Diff) -> Recovery:
    found: Scores = prepared.scores(quiet(diff))
    return found.recovery


def test_the_full_weight_difference_is_everything_in_every_run(prepared: Prepared) -> None:
    found = recovered(prepared, everything(prepared))
    for figure in (found.r_full, found.r_model, found.r_model_affected, found.necessity, found.necessity_affected):
        assert figure.value == pytest.approx(1, abs=1e-3)
    assert found.r_error.value == pytest.approx(0, abs=1e-3)
    assert found.r_bias_affected.state == found.headline.state == found.budget_mean.state == found.area.state == "n/a"
    for point in found.budgets:  # there is one component, so each budget takes all
        assert point.r_model.value == pytest.approx(1, abs=1e-3)
        assert point.necessity.value == pytest.approx(1, abs=1e-3)
        # It acts above the layer too, where a hybrid run is the tuned model whatever is edited.
        assert point.r.state == point.lift.state == point.r_random.state == point.r_noise.state == "n/a"
        assert "above the layer" in (point.r.reason or "") and point.above_noise is None
    assert found.sets == ()


def test_weights_above_the_layer_have_no_hybrid_score_and_those_below_have(prepared: Prepared) -> None:
    layer, draw = layer_of(prepared), torch.Generator().manual_seed(0)
    weights = dict(prepared.bench.reference.named_parameters())

    def rank_one(*blocks: int) -> WeightDiff:
        modules = tuple(f"model.layers.{block}.mlp.down_proj" for block in blocks)
        shapes = [weights[f"{module}.weight"].shape for module in modules]
        return WeightDiff(
            modules=modules,
            sigma=torch.ones(len(modules)),
            u=tuple(torch.randn(rows, generator=draw) for rows, _ in shapes),
            v=tuple(torch.randn(columns, generator=draw) for _, columns in shapes),
        )

    below = recovered(prepared, rank_one(*[0] * 9))
    assert {point.r.state for point in below.budgets} == {"ok"} and below.headline.state == "ok"
    assert (
        {point.r_noise.state for point in below.budgets} == {point.r_random.state for point in below.budgets} == {"ok"}
    )
    if layer < 2:
        above = recovered(prepared, rank_one(0, 0, *[2] * 7))
        assert [point.r.state for point in above.budgets] == ["ok", "ok", "n/a", "n/a"]
        assert above.headline.state == above.area.state == above.budget_mean.state == "n/a"
        assert [point.lift.state for point in above.budgets] == ["ok", "ok", "n/a", "n/a"]
        assert {point.r_model.state for point in above.budgets} == {"ok"}
        assert {point.r_random.state for point in above.budgets} == {"n/a"}


def test_whole_components_have_a_curve_of_every_number_of_them(prepared: Prepared) -> None:
    found = recovered(prepared, everything(prepared, 5))
    assert [point.k for point in found.curve] == [1, 2, 3, 4, 5]
    assert found.curve[-1].r.state == "n/a"
    assert found.curve[-1].r_model.value == pytest.approx(1, abs=1e-3)
    assert [point.r_model.value for point in found.curve if point.k in (1, 2, 4)] == [
        point.r_model.value for point in found.budgets[:3]
    ]


def test_scores_of_the_layers_true_delta_are_its_ceilings(prepared: Prepared) -> None:
    found = recovered(prepared, principal_directions(prepared.method_rows(), WIDTH)[0])
    facts: PairFacts = prepared.bench.comparison.facts()
    here = facts.layers[facts.layer]
    for figure, ceiling in (
        (found.r_model, here.ceiling),
        (found.r_model_affected, here.ceiling_affected),
        (found.necessity, here.necessity),
        (found.necessity_affected, here.necessity_affected),
    ):
        assert figure.value == pytest.approx(ceiling.value, abs=2e-3)
    assert facts.r_mean_delta.value is not None and facts.r_mean_delta.value < 1


def test_nothing_is_nothing_in_every_run(prepared: Prepared) -> None:
    directions = principal_directions(prepared.method_rows(), 2)[0]
    zero = torch.zeros(WIDTH)
    empty = replace(directions, directions=directions.directions[:0], bias=zero, centre=zero)
    for diff in (empty, WeightDiff(sigma=torch.zeros(0))):
        found = recovered(prepared, diff)
        assert found.r_full.value == pytest.approx(0, abs=1e-6)
        assert found.r_error.value == pytest.approx(1, abs=1e-3)
        assert found.necessity.value == pytest.approx(0, abs=1e-6)
        assert found.r_model.value == pytest.approx(0, abs=1e-5)
        assert all(point.above_noise is False for point in found.budgets)


def test_budget_points_are_what_single_arms_give(prepared: Prepared) -> None:
    here, diff = ground(prepared), dictionary_diff("both", layer=layer_of(prepared))
    found = recovered(prepared, diff)
    handle = handle_of(diff, here.reference, here.tuned, diff.layer)
    assert handle is not None
    for point in (found.budgets[1], found.budgets[3]):
        top = diff.order[: point.k]
        arms = {
            "r": handle.arm(top),
            "r_model": handle.arm(top, run="model"),
            "necessity": handle.arm(top, run="without", towards="reference"),
        }
        kl = sweep(here.reference, here.tuned, here.corpus, arms, limits=here.limits).kl
        for name, baseline in (("r", "none"), ("r_model", "reference"), ("necessity", "tuned")):
            share = kl[name].total(Stratum.affected) / here.kl[baseline].total(Stratum.affected)
            assert getattr(point, name).value == pytest.approx(1 - share, abs=1e-4), name
    mean = sum(point.r.value or math.nan for point in found.budgets) / 4
    assert found.budget_mean.value == pytest.approx(mean, abs=1e-6)
    lift = sum((point.r.value or 0) - (point.r_pca.value or 0) for point in found.budgets) / 4
    assert found.headline.value == pytest.approx(lift, abs=1e-6)


def test_the_area_is_the_mean_height_over_the_logarithm(prepared: Prepared) -> None:
    diff = dictionary_diff("delta", layer=layer_of(prepared))
    found = recovered(prepared, diff)
    assert [point.k for point in found.curve] == [0, 1, 2, 4, 8, 16, 24]
    assert [point.r_model.state for point in found.curve] == ["n/a", *["ok"] * 4, "n/a", "n/a"]
    heights = {point.k: point.r.value for point in found.curve}
    xs, total = [k for k in heights if k], 0.0
    for left, right in pairwise(xs):
        total += (math.log2(right) - math.log2(left)) * ((heights[left] or 0) + (heights[right] or 0)) / 2
    total += (6 - math.log2(24)) * (heights[24] or 0)
    assert found.area.value == pytest.approx(total / 6, abs=1e-6)
    assert found.curve[0].r.value == pytest.approx(found.r_bias_affected.value)


def test_area_weights_of_known_curves() -> None:
    for points in (CURVE, (1,), (1, 2, 3), (1, 64)):
        weights = area_weights(points)
        assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    straight = [math.log2(k) / 6 for k in CURVE]
    assert sum(w * y for w, y in zip(area_weights(CURVE), straight, strict=True)) == pytest.approx(0.5)
    assert area_weights((1,)) == [1.0]
    assert area_weights((1, 8)) == pytest.approx([0.25, 0.75])


def test_random_sets_are_of_the_same_diff_and_of_the_seed(prepared: Prepared) -> None:
    diff = dictionary_diff("delta", layer=layer_of(prepared))
    one, again = recovered(prepared, diff), recovered(prepared, diff)
    assert one == again
    for point in one.budgets:
        assert point.r_random.state == "ok"
        assert point.r_random.low is not None and point.r_random.value is not None
        assert point.r_random.low <= point.r_random.value
    few = recovered(prepared, replace(principal_directions(prepared.method_rows(), 3)[0]))
    assert [point.r_random.state for point in few.budgets] == ["ok", "ok", "n/a", "n/a"]
    assert "no more than 4 components" in (few.budgets[2].r_random.reason or "")


def test_noise_that_does_as_well_is_not_beaten(prepared: Prepared) -> None:
    """A dictionary of nonsense lies where noise of its size lies; the true directions lie far above theirs."""
    pca = recovered(prepared, principal_directions(prepared.method_rows(), WIDTH)[0])
    assert pca.budgets[-1].above_noise is True
    assert pca.budgets[-1].r_noise.value is not None and pca.budgets[-1].r.value is not None
    assert pca.budgets[-1].r_noise.value < pca.budgets[-1].r.value - 0.1


def test_strata_add_up_to_all(prepared: Prepared) -> None:
    here, diff = ground(prepared), dictionary_diff("both", layer=layer_of(prepared))
    strata = {point.stratum: point for point in recovered(prepared, diff).strata}
    assert list(strata) == ["all", *NAMES]
    assert sum(strata[name].positions for name in STRATA) == strata["all"].positions == int(here.corpus.predicts.sum())
    assert sum(strata[name].kl_share.value or 0 for name in STRATA) == pytest.approx(1)
    assert strata["high_kl"].positions == pytest.approx(strata["all"].positions / 10, abs=1)
    assert (strata["high_kl"].kl_share.value or 0) > 0.2
    assert strata["template"].r_full.state == "undefined" and "template" in (strata["template"].r_full.reason or "")
    lost = {name: here.kl["none"].total(name) for name in STRATA}
    mean = sum((strata[name].r_full.value or 0) * lost[name] for name in STRATA) / sum(lost.values())
    assert strata["all"].r_full.value == pytest.approx(mean, abs=1e-5)


def test_sets_are_the_latents_under_each_bound(prepared: Prepared) -> None:
    layer = layer_of(prepared)
    plain = dictionary_diff("both", layer=layer)
    nu = torch.tensor([0.05, -0.05, 0.2, 0.5, float("nan")] + [0.9] * 19)
    found = recovered(prepared, replace(plain, columns={"nu_error": nu, "nu_activation": nu.flip(0)}))
    assert [(s.nu, s.below, s.n) for s in found.sets] == [
        ("nu_error", 0.1, 2),
        ("nu_error", 0.3, 3),
        ("nu_error", 0.6, 4),
    ]
    assert found.sets[0].replace.value != pytest.approx(found.sets[0].additive.value, abs=1e-4)
    one = replace(dictionary_diff("delta", layer=layer), columns={"nu_activation": nu})
    for of_one in recovered(prepared, one).sets:
        assert of_one.nu == "nu_activation" and of_one.replace == of_one.additive
    none_below = replace(one, columns={"nu_activation": torch.full((24,), 0.7)})
    assert [(s.n, s.replace.value) for s in recovered(prepared, none_below).sets] == [(0, 0.0)] * 3
    assert recovered(prepared, dictionary_diff("delta", layer=layer)).sets == ()


def test_the_sets_additive_form_is_the_papers(prepared: Prepared) -> None:
    here, layer = ground(prepared), layer_of(prepared)
    nu = torch.tensor([0.05] * 6 + [0.9] * 18)
    diff = replace(dictionary_diff("tuned", layer=layer), columns={"nu_activation": nu})
    assert diff.decoder is not None and diff.threshold is not None

    def added(rows: Any) -> torch.Tensor:
        pre = rows.h_t @ diff.encoder[:6].T + diff.encoder_bias[:6]
        return (pre * ((pre > diff.threshold[:6]) & (pre > 0))) @ diff.decoder[:6]

    kl = sweep(here.reference, here.tuned, here.corpus, {"it": Arm(layer, added)}, limits=here.limits).kl["it"]
    found = recovered(prepared, diff).sets[0]
    assert found.additive.value == pytest.approx(1 - kl.total() / here.kl["none"].total(), abs=1e-4)


def test_without_affected_positions_only_what_needs_them_is_undefined(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ground(prepared)
    blind = replace(here.corpus, stratum=torch.zeros_like(here.corpus.stratum))
    moved = {
        name: KLSums(torch.cat([t.sums[:, :3].sum(1, True), 0 * t.sums[:, 1:]], 1), t.positions.clone())
        for name, t in here.kl.items()
    }
    for table in moved.values():
        table.positions[:, 0] += table.positions[:, 1:3].sum(1)
        table.positions[:, 1:3] = 0
    other = replace(here, corpus=blind, kl=moved)
    monkeypatch.setattr("diffbench.score.Ground.of", lambda *_: other)
    found = recovered(prepared, dictionary_diff("delta", layer=layer_of(prepared)))
    assert found.r_full.state == found.r_model.state == found.necessity.state == "ok"
    affected = (found.headline, found.area, found.r_full_affected, *(point.r for point in found.budgets))
    assert {figure.state for figure in affected} == {"undefined"}
    assert all("no affected positions" in (figure.reason or "") for figure in affected)
    assert found.curve == () and all(point.above_noise is None for point in found.budgets)


def test_a_weight_diff_that_does_not_fit_is_the_diffs_fault(prepared: Prepared) -> None:
    with pytest.raises(DiffError, match="no parameter"):
        prepared.scores(WeightDiff(parameters=(("model.nothing",),), sigma=torch.ones(1)))


def test_curve_points_follow_the_size() -> None:
    class Handled:
        def __init__(self, n: int, directional: bool = True) -> None:
            self.n_components, self.directional = n, directional

    cases = {0: (), 1: (1,), 3: (1, 2, 3), 64: CURVE, 100: CURVE}
    for n, expected in cases.items():
        assert curve_points(Handled(n)) == expected  # type: ignore[arg-type]
    assert curve_points(Handled(7, directional=False)) == (1, 2, 3, 4, 5, 6, 7)  # type: ignore[arg-type]
