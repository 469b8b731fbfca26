"""Invariants hold on every architecture, and a pair on which they do not is refused."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from attribution_reference import KINDS, pair
from attribution_reference import corpus as plain_text
from engine_factory import labelled_corpus, small_pair
from score_factory import Prepared

from diffbench import invariants
from diffbench.errors import CheckpointError
from diffbench.invariants import measure_invariants
from diffbench.patching import Arm, outlier_limits

pytest_plugins = ("score_factory",)


def measured(pair: tuple[Any, Any], layer: int = 1) -> Any:
    corpus = labelled_corpus(300)
    return measure_invariants(lambda: pair, corpus, layer, outlier_limits(*pair, corpus, [layer]), 1e-6)


def test_they_hold_on_the_small_pair_at_every_layer() -> None:
    for layer in range(3):
        found = measured(small_pair(), layer)
        assert found.nothing.value == pytest.approx(0, abs=1e-4)
        assert found.true_delta.value == pytest.approx(1, abs=1e-3)
        assert found.weight_delta.value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_they_hold_on_other_architectures(kind: str) -> None:
    text = plain_text((9, 5, 7, 8))
    limits = outlier_limits(*pair(kind), text, [0])
    found = measure_invariants(lambda: pair(kind), text, 0, limits, 1e-6)
    assert found.true_delta.value == pytest.approx(1, abs=1e-3)
    assert found.weight_delta.value == pytest.approx(1, abs=1e-3)


def test_equal_models_have_none() -> None:
    tuned = small_pair()[1]
    found = measured((tuned, tuned))
    assert {found.nothing.state, found.true_delta.state, found.weight_delta.state} == {"undefined"}


def test_a_pair_that_breaks_one_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Arm.inside

    @contextmanager
    def shifted(self: Arm, clean: Any) -> Any:
        with whole(self, clean) as (model, stream):
            yield model, stream.roll(1, dims=1)  # off by one position

    monkeypatch.setattr(Arm, "inside", shifted)
    with pytest.raises(CheckpointError, match=r"R_hybrid of the true difference is .* at layer 1, not 1 within"):
        measured(small_pair())


def test_weights_that_do_not_act_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def idle(*_: Any, **__: Any) -> Any:
        yield

    monkeypatch.setattr("diffbench.weight_edit.WeightEdit.applied", idle)
    with pytest.raises(CheckpointError, match="R_model of the full weight difference is 0"):
        measured(small_pair())


def test_large_models_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "MOST_PARAMETERS", 10)
    found = measured(small_pair())
    assert found.weight_delta.state == "n/a" and found.true_delta.state == "ok"


def test_models_that_differ_in_more_than_weights_are_not_blamed_on_patching() -> None:
    reference, tuned = small_pair()
    untied = copy.deepcopy(tuned)
    untied.extra = torch.nn.Parameter(torch.zeros(1))
    found = measured((reference, untied))
    assert found.weight_delta.state == "n/a" and "same parameters" in (found.weight_delta.reason or "")
    other = copy.deepcopy(tuned)
    other.config.rms_norm_eps = 1e-3
    found = measured((reference, other))
    assert found.weight_delta.state == "n/a" and "rms_norm_eps" in (found.weight_delta.reason or "")
    assert found.true_delta.value == pytest.approx(1, abs=1e-3)


def test_a_reference_that_patching_changes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "none", lambda rows: 0.3 * rows.h_b)
    with pytest.raises(CheckpointError, match="R_model of nothing is"):
        measured(small_pair())


def test_every_prepared_pair_has_them_in_its_facts(prepared: Prepared) -> None:
    found = prepared.bench.comparison.facts().invariants
    assert found.true_delta.value == pytest.approx(1, abs=1e-3)
    assert found.weight_delta.value == pytest.approx(1, abs=1e-3)
    assert found.nothing.value == pytest.approx(0, abs=1e-4)
