"""Pairs of several architectures, and KL attribution as SCIENCE section 4 says it: float64, one context at a time.

Some architectures keep norms and softmax in float32 whatever their weights are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from engine_factory import dictionary_diff
from own_factory import ARCHITECTURES, WIDTH
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, WeightDiff

WORDS = 60
LAYER = 0
KINDS = ("llama", "gpt2", "gemma2")
LINEAR = {
    "llama": ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj", "lm_head"),
    "gpt2": ("transformer.h.0.mlp.c_proj", "transformer.h.1.attn.c_attn"),
    "gemma2": ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"),
}
WHOLE = {
    "llama": (("model.norm.weight", "lm_head.weight"), ("model.layers.0.mlp.up_proj.weight",)),
    "gpt2": (("transformer.h.0.ln_1.weight", "transformer.h.1.attn.c_attn.bias"), ("transformer.wte.weight",)),
    "gemma2": (("model.layers.0.self_attn.v_proj.weight",), ("model.embed_tokens.weight",)),
}


@lru_cache(maxsize=8)
def pair(kind: str) -> tuple[Any, Any]:
    """Reference and tuned model of an architecture, float32; do not change them."""
    make, settings = ARCHITECTURES[kind]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        reference = AutoModelForCausalLM.from_config(make(vocab_size=WORDS, **settings), attn_implementation="eager")
        reference.eval().requires_grad_(False)
        tuned = copy.deepcopy(reference)
        for parameter in tuned.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return reference, tuned


@lru_cache(maxsize=8)
def doubles(kind: str) -> tuple[Any, Any]:
    return tuple(copy.deepcopy(model).double() for model in pair(kind))  # type: ignore[return-value]


def corpus(lengths: tuple[int, ...] = (9, 5, 7), *, bos: bool = True) -> Corpus:
    """Random ids, right-padded; the first token of each document is a BOS or not."""
    shape = (len(lengths), max(lengths))
    ids = torch.randint(1, WORDS, shape, generator=torch.Generator().manual_seed(3))
    places, ends = torch.arange(shape[1]), torch.tensor(lengths)[:, None]
    mask = places < ends
    counts = mask & (places >= int(bos))
    zeros = torch.zeros(shape, dtype=torch.int8)
    return Corpus(ids * mask, mask, counts, counts & (places < ends - 1), zeros, zeros.clone())


def diffs(kind: str) -> dict[str, Diff]:
    """A Diff of every sort that has a handle on the models."""
    draw = torch.Generator().manual_seed(5)
    reference = pair(kind)[0]
    shapes = [_maps(reference.get_submodule(name)) for name in LINEAR[kind] * 2]
    unit = torch.nn.functional.normalize(torch.randn(4, WIDTH, generator=draw), dim=1)
    zero = torch.zeros(WIDTH)
    return {
        "delta": dictionary_diff("delta", n=6, d=WIDTH, layer=LAYER),
        "both": dictionary_diff("both", n=6, d=WIDTH, layer=LAYER),
        "directions": DirectionDiff(layer=LAYER, directions=unit, centre=zero, bias=zero),
        "constants": DirectionDiff(
            layer=LAYER,
            directions=unit,
            centre=zero,
            bias=zero,
            constant=torch.tensor([2.0, -3.0, 0.5, -1.0]),
            positions=torch.tensor([-1, 2, 30, -1]),
        ),
        "rank-one": WeightDiff(
            sigma=torch.tensor([2.0, -0.5, 0.1] * 2)[: len(shapes)],
            modules=LINEAR[kind] * 2,
            u=tuple(torch.randn(d_out, generator=draw) for d_out, _ in shapes),
            v=tuple(torch.randn(d_in, generator=draw) for _, d_in in shapes),
        ),
        "whole": WeightDiff(sigma=torch.tensor([1.0, -2.0]), parameters=WHOLE[kind]),
    }


def _maps(module: Any) -> tuple[int, int]:
    shape = tuple(module.weight.shape)
    return shape if isinstance(module, torch.nn.Linear) else shape[::-1]


def slow_each(diff: Diff, kind: str, text: Corpus, where: Tensor, decoder: str = "difference") -> Tensor:
    """[C, n] float64: attribution by autograd through the edited forward, written out for each component."""
    rows = []
    for document, end in where.nonzero().tolist():
        ids, counts = text.ids[document, : end + 1], text.counts[document, : end + 1]
        row = []
        for component in range(diff.n_components):
            strength = torch.zeros((), dtype=torch.float64, requires_grad=True)
            [slope] = torch.autograd.grad(kl(diff, kind, ids, counts, component, strength, decoder), strength)
            row.append(slope)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def kl(
    diff: Diff, kind: str, ids: Tensor, counts: Tensor, component: int, strength: Tensor, decoder: str = "difference"
) -> Tensor:
    """KL(p_reference(strength) || p_tuned) of the token after ``ids``."""
    reference, tuned = doubles(kind)
    if isinstance(diff, WeightDiff):
        weights = moved_weights(diff, kind, component, strength)
        logits = functional_call(reference, weights, (), {"input_ids": ids[None], "use_cache": False}).logits
    else:
        logits = pushed(reference, ids, pushing(diff, ids, counts, component, strength, decoder))
    log_p = logits[0, -1].log_softmax(-1)
    log_q = tuned(input_ids=ids[None], use_cache=False).logits[0, -1].log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum()


def pushing(
    diff: DictionaryDiff | DirectionDiff, ids: Tensor, counts: Tensor, component: int, strength: Tensor, decoder: str
) -> Callable[[Tensor], Tensor]:
    """What changes the stream of one context."""
    applies = counts
    if isinstance(diff, DirectionDiff):
        vector = diff.directions[component].double()
        if diff.constant is not None and diff.constant[component] < 0:
            vector = -vector
        if diff.positions is not None and diff.positions[component] != -1:
            applies = counts & (torch.arange(len(ids)) == diff.positions[component])
    elif diff.input == "both":
        assert diff.decoder_tuned is not None and diff.decoder_base is not None
        vector = diff.decoder_tuned[component].double()
        if decoder == "difference":
            vector = vector - diff.decoder_base[component].double()
    else:
        assert diff.decoder is not None
        vector = diff.decoder[component].double()
    vector = vector / vector.norm()
    return lambda stream: stream + strength * applies.double()[:, None] * vector


def pushed(model: Any, ids: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    block = (model.transformer.h if hasattr(model, "transformer") else model.model.layers)[LAYER]
    handle = block.register_forward_hook(hook)
    try:
        logits: Tensor = model(input_ids=ids[None], use_cache=False).logits
    finally:
        handle.remove()
    return logits


def moved_weights(diff: WeightDiff, kind: str, component: int, strength: Tensor) -> dict[str, Tensor]:
    reference, tuned = (dict(model.named_parameters()) for model in doubles(kind))
    if diff.whole:
        deltas = {name: tuned[name] - reference[name] for name in diff.parameters[component]}
    else:
        name = f"{diff.modules[component]}.weight"
        matrix = torch.outer(diff.u[component].double(), diff.v[component].double())
        deltas = {name: matrix if matrix.shape == reference[name].shape and kind != "gpt2" else matrix.T}
    size = torch.cat([delta.flatten() for delta in deltas.values()]).norm()
    sign = 1.0 if diff.sigma[component] > 0 else -1.0
    return {name: reference[name] + strength * sign * delta / size for name, delta in deltas.items()}
