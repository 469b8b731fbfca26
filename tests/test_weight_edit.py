"""Edits of weights: what is added, what is left behind, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_factory import small_pair
from transformers import GPT2Config, GPT2LMHeadModel

from diffbench.diff import WeightDiff
from diffbench.errors import DiffError
from diffbench.weight_edit import WeightEdit

DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"


def planted() -> WeightDiff:
    """Three components of rank one, two of them of one module."""
    draw = torch.Generator().manual_seed(3)
    weights = dict(small_pair()[0].named_parameters())
    modules = (DOWN, QUERY, DOWN)
    shapes = [weights[f"{module}.weight"].shape for module in modules]
    return WeightDiff(
        modules=modules,
        sigma=torch.tensor([2.0, 0.5, -1.0]),
        u=tuple(torch.randn(rows, generator=draw) for rows, _ in shapes),
        v=tuple(torch.randn(columns, generator=draw) for _, columns in shapes),
    )


def whole(*groups: tuple[str, ...], sigma: float = 1.0) -> WeightDiff:
    return WeightDiff(parameters=groups, sigma=torch.full((len(groups),), sigma))


def everything() -> WeightDiff:
    return whole(tuple(name for name, _ in small_pair()[0].named_parameters()))


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("chosen", [None, [1], [0, 2], []])
@pytest.mark.parametrize("factor", [1.0, -0.5])
def test_rank_one_components_are_added_and_taken_away_to_the_last_bit(chosen: list[int] | None, factor: float) -> None:
    diff, model = planted(), copy.deepcopy(small_pair()[0])
    edit, before = WeightEdit(diff, *small_pair()), snapshot(model)
    expected = {name: weight.double().clone() for name, weight in before.items()}
    for i in range(3) if chosen is None else chosen:
        outer = float(diff.sigma[i]) * torch.outer(diff.u[i].double(), diff.v[i].double())
        expected[f"{diff.modules[i]}.weight"] += factor * outer
    with edit.applied(model, None if chosen is None else torch.tensor(chosen, dtype=torch.int64), factor):
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.double(), expected[name], atol=1e-5, rtol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_whole_difference_makes_one_model_the_other_and_half_of_it_half() -> None:
    reference, tuned = small_pair()
    model, other = copy.deepcopy(reference), dict(tuned.named_parameters())
    with WeightEdit(everything(), reference, tuned).applied(model):
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, other[name], atol=1e-6, rtol=1e-6)
    half = replace(everything(), sigma=torch.tensor([0.5]))
    before = dict(reference.named_parameters())
    with WeightEdit(half, reference, tuned).applied(model):
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, (before[name] + other[name]) / 2, atol=1e-6, rtol=1e-6)


def test_weights_come_back_when_something_fails_inside() -> None:
    reference, tuned = small_pair()
    model = copy.deepcopy(reference)
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError), WeightEdit(everything(), reference, tuned).applied(model):
        1 / 0  # noqa: B018
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_modules_that_keep_the_transpose_get_the_transpose() -> None:
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    u, v = torch.randn(24, generator=draw), torch.randn(8, generator=draw)  # c_attn maps 8 to 24
    diff = WeightDiff(modules=("transformer.h.0.attn.c_attn",), sigma=torch.tensor([1.5]), u=(u,), v=(v,))
    module, x = model.transformer.h[0].attn.c_attn, torch.randn(5, 8, generator=draw)
    plain = module(x)
    with WeightEdit(diff, model, model).applied(model):
        torch.testing.assert_close(module(x) - plain, 1.5 * (x @ v)[:, None] * u, atol=1e-5, rtol=1e-5)


def test_tied_words_are_changed_once() -> None:
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    reference = GPT2LMHeadModel(config).eval().requires_grad_(False)
    tuned = copy.deepcopy(reference)
    tuned.transformer.wte.weight += 0.25
    model = copy.deepcopy(reference)
    with WeightEdit(whole(("transformer.wte.weight",)), reference, tuned).applied(model):
        assert torch.equal(model.lm_head.weight, tuned.transformer.wte.weight)
    assert torch.equal(model.lm_head.weight, reference.transformer.wte.weight)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"modules": (DOWN, QUERY, "model.layers.9.mlp.down_proj")}, "no module with a weight matrix"),
        ({"modules": (DOWN, QUERY, "model.embed_tokens")}, "no module with a weight matrix"),
        ({"modules": (DOWN, QUERY, "model.norm")}, "no module with a weight matrix"),
        ({"modules": (DOWN, DOWN, DOWN)}, "maps 32 to 16"),
    ],
)
def test_rank_one_components_that_do_not_fit_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DiffError, match=complaint):
        WeightEdit(replace(planted(), **change), *small_pair())


def test_whole_components_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DiffError, match=r"no parameter 'model\.nothing'"):
        WeightEdit(whole(("model.norm.weight", "model.nothing")), *small_pair())
    both = replace(planted(), parameters=(("model.norm.weight",),))
    with pytest.raises(DiffError, match="not both"):
        both.check(16, 3, 50)
    for names in ((), ("model.norm.weight", "model.norm.weight")):
        with pytest.raises(DiffError, match="names no parameter, or one twice"):
            whole(names).check(16, 3, 50)
