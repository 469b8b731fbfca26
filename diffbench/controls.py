"""Controls that need no training: principal directions of the difference, and a random dictionary.

The engine scores every method against them, and the methods of the same names hand them in as Diffs.
Shapes: T rows, d residual width, n latents.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffbench.activations import Activations
from diffbench.dictionary import CHUNK, activity_columns
from diffbench.diff import DictionaryDiff, DirectionDiff


def principal_directions(activations: Activations, n: int) -> tuple[DirectionDiff, Tensor]:
    """The first ``n`` principal directions of delta around its mean, and the standard deviation [n] along each.

    In order of variance, from float64 eigenvectors.
    """
    _, delta = activations.load()
    wide = delta.double()
    mean = wide.mean(dim=0)
    centred = wide - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(wide))
    directions = vectors.flip(1)[:, :n].T
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()  # eigenvectors come with an arbitrary sign
    diff = DirectionDiff(
        layer=activations.layer, directions=directions.float().contiguous(), centre=mean.float(), bias=mean.float()
    )
    return diff, variances.flip(0)[:n].clamp_min(0).sqrt().float()


def random_dictionary(activations: Activations, n: int, k: int, seed: int) -> DictionaryDiff:
    """Random unit decoders on delta, transposed encoder, one threshold and one scalar fitted on the same rows.

    The threshold gives k active latents per row on average; the scalar minimises the squared error of delta. A positive
    R is expected of it: it is the bar to beat.
    """
    _, delta = activations.load()
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(n, delta.shape[1], generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    mean = delta.mean(dim=0)
    centred = delta - mean
    sample = centred[torch.randperm(len(centred), generator=generator)[:4096]] @ decoder.T
    keep = max(1, round(min(1.0, k / n) * sample.numel()))
    theta = float(sample.flatten().sort(descending=True).values[keep - 1].clamp_min(0))
    scalar = _best_scalar(centred, decoder, theta)
    encoder = decoder * scalar
    diff = DictionaryDiff(
        layer=activations.layer,
        input="delta",
        activation="threshold",
        encoder=encoder,
        encoder_bias=-(encoder @ mean),
        threshold=torch.full((n,), theta * scalar),
        decoder=decoder,
        bias=mean,
        order=torch.arange(n),
    )
    columns = activity_columns(diff, activations)
    return replace(diff, order=columns["energy"].argsort(descending=True, stable=True), columns=columns)


def _best_scalar(centred: Tensor, decoder: Tensor, theta: float) -> float:
    """argmin_s sum ‖delta - s * sum_j f_j d_j‖² over the rows, where f_j = <delta, d_j> above theta; 0 < s."""
    cross = square = 0.0
    for rows in centred.split(CHUNK):
        pre = rows @ decoder.T
        f = pre * ((pre > theta) & (pre > 0))
        cross += float(f.pow(2).sum(dtype=torch.float64))
        square += float((f @ decoder).pow(2).sum(dtype=torch.float64))
    return cross / square if square > 0 else 1.0
