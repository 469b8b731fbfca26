"""The obvious float64 version of one training step: scores, a full sort, one loss, automatic differentiation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.design import L1, Design, TopK
from diffbench.training import Trainer


@dataclass
class Reference:
    """Loss, selection and gradients of one step, in float64."""

    loss: float
    kept: Tensor  # [B, n] bool
    gradients: list[Tensor]  # as Trainer.parameters


def expand(design: Design, parameters: list[Tensor]) -> Tensor:
    """Decoder [n, D], row by row."""
    if design.tying == "shared":
        shared, free = parameters
        return torch.cat([torch.cat([shared, shared], dim=1), free])
    if design.tying == "triples":
        rows = []
        for row in parameters[0]:
            b, t = row.chunk(2)
            rows += [torch.cat([b, t]), torch.cat([b, 0 * t]), torch.cat([0 * b, t])]
        return torch.stack(rows)
    return parameters[0]


def reference(trainer: Trainer, x: Tensor, dead: Tensor, kept: Tensor | None = None, warm: float = 1.0) -> Reference:
    """One step of ``trainer`` restated.

    Args:
        trainer: gives the parameters; it is not changed.
        x: [B, D].
        dead: [m], latents that the auxiliary loss is about.
        kept: [B, n], the selection; None: by a full sort.
        warm: share of the penalty.
    """
    design, rows = trainer.design, len(x)
    leaves = [parameter.detach().double().requires_grad_() for parameter in trainer.parameters()]
    encoder, encoder_bias, bias, *free = leaves
    decoder, x = expand(design, free), x.double()
    n, parts = len(decoder), design.parts
    norms = decoder.view(n, parts, -1).norm(dim=2)
    pre = (x - bias if design.centred else x) @ encoder.T + encoder_bias
    f = pre.clamp_min(0)
    if isinstance(design.sparsity, TopK):
        if kept is None:
            scores = (f * norms.sum(1) / design.price(n)).detach()
            smallest = scores.flatten().sort(descending=True).values[design.sparsity.k * rows - 1]
            kept = (scores >= smallest) & (scores > 0)
        f = f * kept
    losses = []
    for end in design.bounds(n):
        error = x - (f[:, :end] @ decoder[:end] + bias)
        if design.error == "norm":
            losses.append(error.view(rows, parts, -1).norm(dim=2).mean())
        else:
            b, t = error.chunk(2, dim=1)
            crossed = 2 * design.cross * (b * t).sum(1) if design.cross else 0.0
            losses.append((error.pow(2).sum(1) + crossed).mean())
    loss = torch.stack(losses).mean()
    if isinstance(design.sparsity, L1):
        price = design.price(n).double() * norms.sum(1)
        loss = loss + warm * design.sparsity.penalty * (f * price).sum(1).mean()
    reported = float(loss.detach())
    if len(dead):
        assert isinstance(design.sparsity, TopK)
        most = min(len(dead), x.shape[1] // parts // 2)
        largest = pre[:, dead].clamp_min(0).topk(most, dim=1)
        g = torch.zeros(rows, len(dead), dtype=torch.float64).scatter(1, largest.indices, largest.values)
        left = (x - (f @ decoder + bias)).detach()
        # Dead latents learn to explain the error; that it is centred by the bias is no part of their account.
        gap = left - g @ decoder[dead]
        b, t = gap.chunk(2, dim=1)
        crossed = 2 * design.cross * (b * t).sum(1) if design.cross else 0.0
        loss = loss + design.sparsity.aux * (gap.pow(2).sum(1) + crossed).mean()
    loss.backward()
    gradients = [leaf.grad for leaf in leaves]
    if design.tying == "unit":
        row, grad = leaves[3].detach(), gradients[3]
        assert grad is not None
        gradients[3] = grad - (grad * row).sum(1, keepdim=True) * row
    return Reference(reported, f.detach() > 0, [grad for grad in gradients if grad is not None])
