"""Training sparse dictionaries: one loop for every BatchTopK dictionary.

Source: Bussmann, Leask & Nanda 2024 (BatchTopK SAE); Minder et al. 2025, arXiv 2504.02922 (BatchTopK crosscoder).
Keep the B*k largest scores of a batch, where the score of a latent is its activity times the sum of its decoder norms;
squared error; an auxiliary loss lets dead latents explain the error; theta, the running mean of the smallest kept
score, replaces the batch at inference.

Shapes: B rows, d residual width, D = d (one target) or 2d (both models), n latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffbench.activations import Activations
from diffbench.dictionary import energy_and_frequency
from diffbench.diff import DictionaryDiff, Input
from diffbench.errors import OptionError
from diffbench.options import BatchTopKOptions
from diffbench.precision import CONSTANT

AUX = 1 / 32
CLIP = 1.0
DECAY_SHARE = 0.2
THETA_STEPS = 100
WARM_UP = 50
EPS = 1e-8


@dataclass(frozen=True, slots=True)
class Scaling:
    """x -> (x - mean) * scale, one scalar per model; folded back into the Diff."""

    mean: Tensor  # [D]
    scale: Tensor  # [D], constant over each model's part

    @classmethod
    def fit(cls, x: Tensor, parts: int) -> Scaling:
        """Scale each of ``parts`` equal slices of columns to a mean squared norm of its width."""
        mean = x.mean(dim=0)
        width = x.shape[1] // parts
        power = [
            float((x[:, i * width : (i + 1) * width] - mean[i * width : (i + 1) * width]).pow(2).mean())
            for i in range(parts)
        ]
        if not all(np.isfinite(power)):
            raise OptionError("activations hold NaN or infinite values; nothing can be trained on them")
        if max(power) <= CONSTANT * float(x.double().pow(2).mean()):
            raise OptionError("activations are constant: there is nothing for a dictionary to explain")
        scale = torch.cat([torch.full((width,), (p + EPS * max(power)) ** -0.5) for p in power])
        return cls(mean=mean, scale=scale)


@dataclass(slots=True)
class _Weights:
    encoder: Tensor  # [n, D]
    encoder_bias: Tensor  # [n]
    decoder: Tensor  # [n, D]
    bias: Tensor  # [D]

    def all(self) -> list[Tensor]:
        return [self.encoder, self.encoder_bias, self.decoder, self.bias]


def train_batchtopk(
    activations: Activations,
    target: Input,
    options: BatchTopKOptions,
    *,
    seed: int,
    max_components: int,
    report: Callable[[str, float], None],
) -> DictionaryDiff:
    """Train a BatchTopK dictionary on harvested rows and return it in raw space, without order or findings.

    Columns of the result: ``energy`` (mean squared norm of what a latent adds to the difference, raw space),
    ``frequency`` (share of rows where it fires), and for two decoders ``relative_norm`` (training space)
    and ``relative_norm_raw``.

    Raises:
        OptionError: if the data cannot be trained on, k exceeds the dictionary, or the budget is exceeded.
    """
    base, delta = activations.load()
    x = (
        {"delta": delta, "base": base, "tuned": base + delta}[target]
        if target != "both"
        else torch.cat([base, base + delta], 1)
    )
    n, parts = options.expansion * activations.width, 2 if target == "both" else 1
    _check_sizes(options, n, len(x), max_components)
    scaling = Scaling.fit(x, parts)
    trainer = _Trainer((x - scaling.mean) * scaling.scale, n, parts, options, seed)
    trainer.run(report)
    diff = _fold(trainer, scaling, target, activations.layer)
    energy, frequency = energy_and_frequency(diff, activations)
    columns = {**diff.columns, "energy": energy, "frequency": frequency}
    return replace(diff, columns=columns, order=energy.argsort(descending=True, stable=True))


def _check_sizes(options: BatchTopKOptions, n: int, rows: int, max_components: int) -> None:
    if n > max_components:
        raise OptionError(f"expansion: {n} latents are more than the tier's {max_components} components")
    if options.k > n:
        raise OptionError(f"k: {options.k} is more than the dictionary's {n} latents")
    if rows < options.batch:
        raise OptionError(f"batch: {options.batch} rows are more than the {rows} that were harvested")


class _Trainer:
    """State of one fit; parameters live in the scaled space."""

    def __init__(self, x: Tensor, n: int, parts: int, options: BatchTopKOptions, seed: int) -> None:
        self.x, self.parts, self.options = x, parts, options
        self.generator = torch.Generator().manual_seed(seed)
        width = x.shape[1] // parts
        directions = torch.randn(n, width, generator=self.generator)
        directions /= directions.norm(dim=1, keepdim=True)
        decoder = directions.repeat(1, parts)
        self.w = _Weights(decoder.clone() / parts, torch.zeros(n), decoder, torch.zeros(x.shape[1]))
        for tensor in self.w.all():
            tensor.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.w.all(), lr=options.lr, betas=(0.9, 0.999), fused=True)
        self.silent = torch.zeros(n, dtype=torch.int64)
        self.theta: float | None = None
        steps = options.epochs * (len(x) // options.batch)
        self.horizon = max(1, min(THETA_STEPS, steps // 10))  # a short fit must not remember its first steps

    def run(self, report: Callable[[str, float], None]) -> None:
        batch, rows = self.options.batch, len(self.x)
        per_epoch = rows // batch
        steps = self.options.epochs * per_epoch
        for step in range(steps):
            if step % per_epoch == 0:
                order = torch.randperm(rows, generator=self.generator)
            at = step % per_epoch * batch
            rise = min(1.0, (step + 1) / WARM_UP)
            fall = min(1.0, (steps - step) / max(1.0, DECAY_SHARE * steps))
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.lr * rise * fall
            loss = self._step(self.x[order[at : at + batch]])
            if step % 20 == 0:
                report(f"training, loss {loss:.3f}", step / steps)
        if not np.isfinite(loss):
            raise OptionError(f"lr: training diverged (loss {loss}); try less than {self.options.lr}")

    def _step(self, x: Tensor) -> float:
        pre = torch.addmm(self.w.encoder_bias, x, self.w.encoder.T)
        weight = norms(self.w.decoder, self.parts).detach()
        f = pre.relu() * self._kept(pre.detach() * weight)
        error = x - torch.addmm(self.w.bias, f, self.w.decoder)
        loss = error.pow(2).sum(dim=1).mean()
        fired = (f.detach() > 0).any(dim=0)
        self.silent = torch.where(fired, 0, self.silent + len(x))
        total = loss + AUX * self._auxiliary(pre, error.detach())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.parts == 1:
            self._tangent()
        torch.nn.utils.clip_grad_norm_(self.w.all(), CLIP)
        self.optimizer.step()
        if self.parts == 1:
            with torch.no_grad():
                self.w.decoder /= self.w.decoder.norm(dim=1, keepdim=True).clamp_min(EPS)
        return float(loss.detach())

    def _kept(self, scores: Tensor) -> Tensor:
        """[B, n] bool: the B*k largest positive scores of the batch."""
        flat = scores.numpy().ravel()
        count = self.options.k * len(scores)
        smallest = float(np.partition(flat, flat.size - count)[flat.size - count]) if count < flat.size else 0.0
        smallest = max(smallest, 0.0)
        if smallest > 0:
            keep = 1 - 1 / self.horizon
            self.theta = smallest if self.theta is None else keep * self.theta + (1 - keep) * smallest
        return (scores >= smallest) & (scores > 0)

    def _auxiliary(self, pre: Tensor, error: Tensor) -> Tensor:
        """Squared error of explaining what is left with the most active of the dead latents."""
        dead = (self.silent >= self.options.dead_after).nonzero().flatten()
        if len(dead) == 0:
            return torch.zeros(())
        most = min(len(dead), self.x.shape[1] // self.parts // 2)
        top = pre[:, dead].relu().topk(most, dim=1)
        f = torch.zeros(len(pre), len(dead)).scatter(1, top.indices, top.values)
        return (error - f @ self.w.decoder[dead]).pow(2).sum(dim=1).mean()

    def _tangent(self) -> None:
        """Take the part of the gradient along each unit decoder row away: it would only change the norm."""
        grad, decoder = self.w.decoder.grad, self.w.decoder.detach()
        assert grad is not None
        grad -= (grad * decoder).sum(dim=1, keepdim=True) * decoder


def norms(decoder: Tensor, parts: int) -> Tensor:
    """[n]: sum over models of the norms of a latent's decoder rows."""
    n, width = decoder.shape[0], decoder.shape[1] // parts
    total: Tensor = decoder.view(n, parts, width).norm(dim=2).sum(dim=1)
    return total


@torch.no_grad()
def _fold(trainer: _Trainer, scaling: Scaling, target: Input, layer: int) -> DictionaryDiff:
    w, parts = trainer.w, trainer.parts
    encoder = w.encoder * scaling.scale
    decoder, bias = w.decoder / scaling.scale, w.bias / scaling.scale + scaling.mean
    width = decoder.shape[1] // parts
    columns: dict[str, Tensor] = {}
    sides: dict[str, Tensor] = {"decoder": decoder, "bias": bias}
    if parts == 2:
        columns = {"relative_norm": relative_norm(w.decoder), "relative_norm_raw": relative_norm(decoder)}
        sides = {}
        for side, start in (("base", 0), ("tuned", width)):
            sides |= {f"decoder_{side}": decoder[:, start : start + width], f"bias_{side}": bias[start : start + width]}
    return DictionaryDiff(
        layer=layer,
        input=target,
        activation="threshold",
        encoder=encoder,
        encoder_bias=w.encoder_bias - encoder @ scaling.mean,
        threshold=(trainer.theta or 0.0) / norms(w.decoder, parts).clamp_min(EPS),
        order=torch.arange(len(encoder)),
        columns=columns,
        **sides,  # type: ignore[arg-type]
    )


def relative_norm(decoder: Tensor) -> Tensor:
    """[n]: ½[(‖d^t‖ - ‖d^b‖)/max(‖d^t‖, ‖d^b‖) + 1] of decoders [n, 2d], base first; 1 is tuned-only."""
    width = decoder.shape[1] // 2
    b, t = decoder[:, :width].norm(dim=1), decoder[:, width:].norm(dim=1)
    relative: Tensor = 0.5 * ((t - b) / torch.maximum(t, b).clamp_min(EPS) + 1)
    return relative
