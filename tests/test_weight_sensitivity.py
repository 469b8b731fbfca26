"""What weight sensitivity refuses; its figures are held against float64 in test_attribution."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from attribution_reference import WIDTH, corpus, pair
from torch import Tensor, nn

from diffbench.corpus import Corpus
from diffbench.diff import WeightDiff
from diffbench.errors import DiffError
from diffbench.weight_sensitivity import rank_one_attribution, whole_attribution


def component(module: str, d_out: int = WIDTH, d_in: int = WIDTH) -> WeightDiff:
    return WeightDiff(sigma=torch.ones(1), modules=(module,), u=(torch.ones(d_out),), v=(torch.ones(d_in),))


def refused(diff: WeightDiff, kind: str, models: tuple[Any, Any] | None = None) -> str:
    text: Corpus = corpus()
    measure = whole_attribution if diff.whole else rank_one_attribution
    with pytest.raises(DiffError) as caught:
        measure(diff, *(models or pair(kind)), text, text.predicts)
    return str(caught.value)


def test_modules_that_do_not_fit_are_refused() -> None:
    assert (
        refused(component("model.layers.9.mlp"), "llama") == "modules: the models have no module 'model.layers.9.mlp'"
    )
    assert "is no module with one weight" in refused(component("model.layers.0.mlp"), "llama")
    assert "is no module with one weight" in refused(component("model.norm"), "llama")
    assert "does not map vectors to vectors" in refused(component("model.embed_tokens"), "llama")
    said = refused(component("model.layers.0.mlp.down_proj", 32, 33), "llama")
    assert said == "u, v: 32 and 33 entries, but module model.layers.0.mlp.down_proj maps 64 to 32"
    assert "shares its weight with another module" in refused(component("lm_head", 60), "gpt2")


def test_a_module_that_takes_no_part_is_refused() -> None:
    models = tuple(copy.deepcopy(model) for model in pair("llama"))
    for model in models:
        model.aside = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    assert refused(component("aside"), "llama", models) == "modules: 'aside' takes no part in what the models say"  # type: ignore[arg-type]


class Heap(nn.Module):
    """A module around another one that hands it all vectors of a batch in one heap."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.flatten(0, -2))
        return out.view(*x.shape[:-1], -1)


def test_a_module_that_does_not_tell_documents_apart_is_refused() -> None:
    models = tuple(copy.deepcopy(model) for model in pair("llama"))
    for model in models:
        model.model.layers[0].mlp.down_proj = Heap(model.model.layers[0].mlp.down_proj)
    said = refused(component("model.layers.0.mlp.down_proj.inner", WIDTH, 64), "llama", models)  # type: ignore[arg-type]
    assert "'model.layers.0.mlp.down_proj.inner' reads vectors without telling which document" in said


def test_parameters_that_do_not_fit_are_refused() -> None:
    whole = WeightDiff(sigma=torch.ones(1), parameters=(("model.layers.7.weight",),))
    assert "have no parameter 'model.layers.7.weight'" in refused(whole, "llama")


def test_modules_above_and_below_count_by_document() -> None:
    """Of the head's component each document has its own share; one that has no position has none."""
    text, diff = corpus(), component("lm_head", 60)
    where = text.predicts.clone()
    where[1] = False
    found = rank_one_attribution(diff, *pair("llama"), text, where)
    assert found[1] == 0 and (found[[0, 2]] != 0).all()
    for row in (0, 2):
        alone = text.rows(slice(row, row + 1))
        expected = rank_one_attribution(diff, *pair("llama"), alone, alone.predicts)
        torch.testing.assert_close(found[row], expected[0], atol=1e-7, rtol=1e-4)
