"""Every kind of dictionary that is trained, small, and trainers in a state that is no special case."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffbench.codes import Code
from diffbench.design import L1, Design, TopK
from diffbench.options import EitherOptions
from diffbench.selection import DensePositive, DenseTopK
from diffbench.training import Trainer

WIDTH, LATENTS, ROWS, K = 24, 150, 256, 8
DEAD_AFTER = 2000


def top_k(**changes: Any) -> TopK:
    return TopK(**({"k": K, "dead_after": DEAD_AFTER, "aux": 1 / 32} | changes))


DESIGNS = {
    "diff-sae": Design(target="delta", sparsity=top_k()),
    "diff-sae reversed": Design(target="delta", sparsity=top_k(), reverse=True),
    "chat-sae matryoshka": Design(target="tuned", sparsity=top_k(matryoshka=4)),
    "crosscoder": Design(target="both", sparsity=top_k(), tying="free"),
    "crosscoder matryoshka": Design(target="both", sparsity=top_k(matryoshka=3), tying="free"),
    "crosscoder norm": Design(target="both", sparsity=top_k(), tying="free", error="norm"),
    "crosscoder lambda": Design(target="both", sparsity=top_k(), tying="free", cross=-0.7),
    "crosscoder l1": Design(target="both", sparsity=L1(1.0, 0.0), tying="free"),
    "shared l1": Design(target="both", sparsity=L1(1.0, 0.0), tying="shared", shared=0.25, factor=0.15),
    "shared top-k": Design(target="both", sparsity=top_k(), tying="shared", shared=0.25, factor=0.5),
    "tied l1": Design(target="both", sparsity=L1(1.0, 0.0), tying="triples", factor=2.0),
    "tied top-k": Design(target="both", sparsity=top_k(), tying="triples", factor=2.0),
}


def batches(parts: int, n: int, seed: int = 0) -> Tensor:
    """[n, ROWS, parts * WIDTH]: correlated rows, so that latents fire unequally often."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(64, parts * WIDTH, generator=draw) / 8
    return torch.randn(n, ROWS, 64, generator=draw) @ mixing


def trainer(design: Design, *, steps: int = 12, n: int = LATENTS, dead: bool = True) -> Trainer:
    """A trainer after some steps, every fifth latent dead: positive in places, and never large enough to be kept."""
    options = EitherOptions(k=K, batch=ROWS, lr=3e-3)
    made = Trainer(design, options, width=WIDTH, n=n, steps=40, seed=1)
    for x in batches(design.parts, steps):
        made.step(x)
    if dead and isinstance(design.sparsity, TopK):
        made.encoder[::5] *= 0.02
        made.encoder_bias[::5] *= 0.02
        made._silent[::5] = 2 * DEAD_AFTER
    made._done = made.steps  # the penalty at its full weight
    return made


def dead_latents(made: Trainer) -> Tensor:
    if not isinstance(made.design.sparsity, TopK):
        return torch.zeros(0, dtype=torch.int64)
    return (made._silent >= DEAD_AFTER).nonzero().flatten()


def make_dense(made: Trainer) -> Trainer:
    """The same trainer on the dense path."""
    bounds = made.design.bounds(len(made.encoder))
    sparsity = made.design.sparsity
    made.selection = DenseTopK(sparsity.k, bounds) if isinstance(sparsity, TopK) else DensePositive(bounds)
    return made


def entries(code: Code, n: int) -> Tensor:
    """[B, n] float: the activities of any code."""
    values = getattr(code, "_latents", None)
    if values is None:
        return code.values.clone()
    full = torch.zeros(code._size, n)  # type: ignore[attr-defined]
    full[torch.from_numpy(code._rows), torch.from_numpy(values)] = code.values  # type: ignore[attr-defined]
    return full
