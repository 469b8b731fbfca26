"""bfloat16 is used only where the measured difference is ten times its error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engine_factory import labelled_corpus, small_pair

from diffbench import rounding as measuring
from diffbench.errors import OptionError
from diffbench.residual import Dtype, hidden
from diffbench.rounding import Rounding, choose_dtype, rounding

LAYER = 1


def pair(strength: float) -> Any:
    """Gives two models, ``strength`` times one random matrix apart, in either dtype."""
    reference = small_pair(outlier=False)[0]
    tuned = copy.deepcopy(reference)
    weight = tuned.model.layers[LAYER].mlp.down_proj.weight
    weight += strength * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    def give(dtype: Dtype) -> tuple[Any, Any]:
        one, other = (copy.deepcopy(model).to(getattr(torch, dtype)) for model in (reference, tuned))
        return one, other

    return give


def test_the_error_is_measured_on_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SAMPLE_TOKENS", 10**6)
    corpus, give = labelled_corpus(300), pair(0.1)
    found = rounding(give, corpus, LAYER)

    def delta(dtype: Dtype) -> torch.Tensor:
        h_b, h_t = (hidden(m, corpus.ids, corpus.mask, LAYER)[corpus.counts].float().double() for m in give(dtype))
        return h_t - h_b

    exact = delta("float32")
    assert found.difference == pytest.approx(float(exact.square().mean().sqrt()), rel=2e-2)
    error = float((delta("bfloat16") - exact).square().mean().sqrt())
    assert found.error == pytest.approx(error, rel=0.2)  # it depends on the shapes of the batches
    assert found.ratio == pytest.approx(found.difference / found.error)


def test_a_difference_that_drowns_in_rounding_is_harvested_in_float32() -> None:
    corpus, give = labelled_corpus(300), pair(1e-3)
    assert rounding(give, corpus, LAYER).ratio < 5
    dtype, ratio = choose_dtype("auto", give, corpus, LAYER)
    assert dtype == "float32"
    assert ratio.value is not None and ratio.value < 5
    with pytest.raises(OptionError, match=r"bfloat16 moves delta by \S+e-\d+ .* delta itself is \S+e-\d+") as refused:
        choose_dtype("bfloat16", give, corpus, LAYER)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
def test_a_large_difference_may_be_harvested_in_bfloat16(asked: Any) -> None:
    dtype, ratio = choose_dtype(asked, pair(1.0), labelled_corpus(300), LAYER)
    assert dtype == "bfloat16"
    assert ratio.value is not None and ratio.value >= 10


def test_nothing_is_measured_for_float32() -> None:
    def never(_: Dtype) -> Any:
        raise AssertionError

    dtype, ratio = choose_dtype("float32", never, labelled_corpus(), LAYER)
    assert (dtype, ratio.state) == ("float32", "n/a")


def test_the_ratio_of_nothing() -> None:
    assert Rounding(0.0, 0.0).ratio == Rounding(0.0, 1.0).ratio == 0.0
    assert Rounding(1.0, 0.0).ratio == float("inf")
    assert choose_dtype("auto", pair(0.0), labelled_corpus(), LAYER)[0] == "float32"
