"""The score of attribution: a component that carries the change is named, and steering with it takes KL away."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each
from score_factory import Prepared

from diffbench.attribution_score import CONTEXTS, score_attribution
from diffbench.controls import principal_directions
from diffbench.diff import DirectionDiff, Finding
from diffbench.ground import Ground

pytest_plugins = ("score_factory",)


def ground(prepared: Prepared) -> Ground:
    return Ground.of(prepared.bench.comparison, prepared.bench.reference, prepared.bench.tuned)


def test_the_directions_of_the_change_take_more_away_than_random_ones(prepared: Prepared) -> None:
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    pca = principal_directions(prepared.method_rows(), WIDTH)[0]
    found = score_attribution(here, pca, layer, 0)
    assert 0 < found.n_contexts <= CONTEXTS
    assert found.cut_top.value is not None and found.cut_random.value is not None
    assert found.cut_top.value > found.cut_random.value
    assert found.cut_top.value <= 1
    assert found == score_attribution(here, pca, layer, 0)
    assert found.agreement.state == "n/a"


def test_findings_that_hold_every_component_agree_and_none_of_them_do_not(prepared: Prepared) -> None:
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    pca = principal_directions(prepared.method_rows(), 3)[0]
    named = tuple(Finding(rank=rank, component=rank - 1, score=1.0) for rank in (1, 2, 3))
    assert score_attribution(here, replace(pca, findings=named), layer, 0).agreement.value == 1
    share = [
        score_attribution(here, replace(pca, findings=(replace_component(named[0], c),)), layer, 0).agreement.value
        for c in range(3)
    ]
    assert sum(value or 0 for value in share) == pytest.approx(1)


def replace_component(finding: Finding, component: int) -> Finding:
    return finding.model_copy(update={"component": component})


def test_the_contexts_are_where_the_models_differ_most(prepared: Prepared) -> None:
    here = ground(prepared)
    from diffbench.attribution_score import _largest

    where = _largest(here)
    assert int(where.sum(dim=1).max()) == 1 and not bool((where & ~here.corpus.affected).any())
    there = here.token_kl * here.corpus.affected
    chosen, others = there[where], there.max(dim=1).values[~where.any(dim=1)]
    assert float(chosen.min()) >= float(others.max() if len(others) else 0)
    blind = replace(here, corpus=replace(here.corpus, stratum=torch.zeros_like(here.corpus.stratum)))
    assert float(here.token_kl[_largest(blind)].max()) == float(here.token_kl.max())


def test_a_direction_that_works_both_ways_is_judged_by_size(prepared: Prepared) -> None:
    """Turned round it is the same direction, so nothing that is said of it may change."""
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    pca = principal_directions(prepared.method_rows(), 4)[0]
    turned = replace(pca, directions=pca.directions * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None])
    one, other = score_attribution(here, pca, layer, 0), score_attribution(here, turned, layer, 0)
    assert one.cut_top.value == pytest.approx(other.cut_top.value, abs=1e-4)


def test_a_direction_is_steered_with_only_where_it_holds(prepared: Prepared) -> None:
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    pca = principal_directions(prepared.method_rows(), 2)[0]
    never = replace(pca, positions=torch.tensor([500, 500]))
    found = score_attribution(here, never, layer, 0)
    assert found.cut_top.value == pytest.approx(0, abs=1e-6)


def test_the_random_component_is_another_one(prepared: Prepared) -> None:
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    alone = score_attribution(here, principal_directions(prepared.method_rows(), 1)[0], layer, 0)
    assert alone.cut_top.state == "ok" and alone.cut_random.state == "n/a"


def test_what_has_no_direction_is_not_applicable(prepared: Prepared) -> None:
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    for kind in ("weight", "output"):
        found = score_attribution(here, one_of_each()[kind], layer, 0)
        assert found.cut_top.state == found.agreement.state == found.agreement_chance.state == "n/a"
        assert found.n_contexts == 0
    elsewhere = score_attribution(here, dictionary_diff("delta", layer=(layer + 1) % 3), layer, 0)
    assert elsewhere.cut_top.state == "n/a" and "layer" in (elsewhere.cut_top.reason or "")
    zero = torch.zeros(WIDTH)
    empty = DirectionDiff(layer=layer, directions=torch.zeros(0, WIDTH), centre=zero, bias=zero)
    assert score_attribution(here, empty, layer, 0).cut_top.state == "n/a"
    flat = dictionary_diff("delta", layer=layer)
    dead = replace(flat, decoder=torch.zeros_like(flat.encoder))
    assert score_attribution(here, dead, layer, 0).cut_top.state == "undefined"
