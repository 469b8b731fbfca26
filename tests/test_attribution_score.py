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
    assert int(where.sum(dim=1).max()) == 1
    chosen, others = here.token_kl[where], here.token_kl.max(dim=1).values[~where.any(dim=1)]
    assert float(chosen.min()) >= float(others.max() if len(others) else 0)


def test_what_has_no_direction_is_not_applicable(prepared: Prepared) -> None:
    here, layer = ground(prepared), prepared.bench.comparison.facts().layer
    for kind in ("weight", "output"):
        found = score_attribution(here, one_of_each()[kind], layer, 0)
        assert found.cut_top.state == found.agreement.state == "n/a" and found.n_contexts == 0
    elsewhere = score_attribution(here, dictionary_diff("delta", layer=(layer + 1) % 3), layer, 0)
    assert elsewhere.cut_top.state == "n/a" and "layer" in (elsewhere.cut_top.reason or "")
    zero = torch.zeros(WIDTH)
    empty = DirectionDiff(layer=layer, directions=torch.zeros(0, WIDTH), centre=zero, bias=zero)
    assert score_attribution(here, empty, layer, 0).cut_top.state == "n/a"
    flat = dictionary_diff("delta", layer=layer)
    dead = replace(flat, decoder=torch.zeros_like(flat.encoder))
    assert score_attribution(here, dead, layer, 0).cut_top.state == "undefined"
