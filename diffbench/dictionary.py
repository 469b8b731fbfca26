"""Sparse dictionaries at work: activities and reconstructions of a `DictionaryDiff`.

Shapes: T rows, d residual width, n latents. Streams are raw h_b, h_t, [T, d] float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffbench.activations import Activations
from diffbench.diff import DictionaryDiff

CHUNK = 8192


def encode(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor, components: Tensor | None = None) -> Tensor:
    """Activities f [T, n] of the dictionary's own input; a base-SAE reads h_t here too (Minder & Dumas 2025).

    With ``components`` [k] only theirs, [T, k].
    """
    if diff.input == "delta":
        return _activate(diff, h_t - h_b, components)
    if diff.input == "both":
        return _activate(diff, torch.cat([h_b, h_t], dim=1), components)
    return _activate(diff, h_t, components)


def added_by_all(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor) -> Tensor:
    """What the full edit adds to h_b, [T, d]: SAE(delta); x̂_t - x̂_b with biases; SAE(h_t) - SAE(h_b)."""
    return bias(diff) + _combine(diff, h_b, h_t, None)


def added_by(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor, components: Tensor) -> Tensor:
    """What the set edit *replace* adds to h_b, [T, d]: sum over the set of f_t d_t - f_b d_b, without bias."""
    return _combine(diff, h_b, h_t, components)


def added_additively(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor, components: Tensor) -> Tensor:
    """What the set edit *additive* adds to h_b, [T, d]: sum over the set of f_j d_j, tuned decoders, without bias.

    Source: Minder & Dumas 2025. For a diff-SAE it is the same as *replace*.
    """
    decoder = diff.decoder_tuned if diff.input == "both" else diff.decoder
    assert decoder is not None  # checked on loading
    return encode(diff, h_b, h_t, components) @ decoder[components]


def bias(diff: DictionaryDiff) -> Tensor:
    """What the full edit adds with no latent active, [d]."""
    if diff.input == "both":
        assert diff.bias_tuned is not None and diff.bias_base is not None  # checked on loading
        return diff.bias_tuned - diff.bias_base
    assert diff.bias is not None
    return diff.bias if diff.input == "delta" else torch.zeros_like(diff.bias)


def reconstruction(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor) -> tuple[Tensor, Tensor]:
    """The dictionary's own target and its reconstruction of it, [T, D] each (D = 2d for two decoders)."""
    f = _activate(diff, h_b) if diff.input == "base" else encode(diff, h_b, h_t)
    if diff.input == "both":
        assert diff.decoder_base is not None and diff.decoder_tuned is not None
        assert diff.bias_base is not None and diff.bias_tuned is not None
        hat = torch.cat([f @ diff.decoder_base + diff.bias_base, f @ diff.decoder_tuned + diff.bias_tuned], dim=1)
        return torch.cat([h_b, h_t], dim=1), hat
    assert diff.decoder is not None and diff.bias is not None
    target = {"delta": h_t - h_b, "tuned": h_t, "base": h_b}[diff.input]
    return target, f @ diff.decoder + diff.bias


def difference_decoder(diff: DictionaryDiff) -> Tensor:
    """[n, d]: the direction each latent adds to the tuned model beyond the base one."""
    if diff.input == "both":
        assert diff.decoder_tuned is not None and diff.decoder_base is not None
        return diff.decoder_tuned - diff.decoder_base
    assert diff.decoder is not None
    return diff.decoder


@torch.no_grad()
def activity_columns(diff: DictionaryDiff, rows: Activations) -> dict[str, Tensor]:
    """What latents do over rows of activations, by name, [n] float32 each.

    ``energy``: mean squared norm of what a latent adds to the difference; ``frequency``: share of rows in which it
    fires; ``activation_mean``; for dictionaries of one model also ``activation_rise`` = mean f(h_t) - mean f(h_b).
    """
    one = diff.input in ("tuned", "base")
    squares, total, before, fired = (torch.zeros(diff.n_components, dtype=torch.float64) for _ in range(4))
    for start in range(0, len(rows), CHUNK):
        h_b, delta = rows.rows(slice(start, start + CHUNK))
        f = encode(diff, h_b, h_b + delta)
        fired += (f > 0).sum(dim=0)
        total += f.sum(dim=0, dtype=torch.float64)
        if one:
            f_b = _activate(diff, h_b)
            before += f_b.sum(dim=0, dtype=torch.float64)
            f = f - f_b
        squares += f.pow(2).sum(dim=0, dtype=torch.float64)
    size = difference_decoder(diff).pow(2).sum(dim=1).double()
    sums = {"energy": squares * size, "frequency": fired, "activation_mean": total}
    if one:
        sums["activation_rise"] = total - before
    return {name: (column / len(rows)).float() for name, column in sums.items()}


def _combine(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor, components: Tensor | None) -> Tensor:
    f = encode(diff, h_b, h_t, components)
    if diff.input in ("tuned", "base"):
        f = f - _activate(diff, h_b, components)
    decoder = difference_decoder(diff)
    return f @ (decoder if components is None else decoder[components])


def _activate(diff: DictionaryDiff, x: Tensor, components: Tensor | None = None) -> Tensor:
    if components is not None and diff.activation == "topk":  # which latents are on depends on all of them
        return _activate(diff, x)[:, components]
    encoder, encoder_bias, threshold = diff.encoder, diff.encoder_bias, diff.threshold
    if components is not None:
        encoder, encoder_bias = encoder[components], encoder_bias[components]
        threshold = None if threshold is None else threshold[components]
    pre = torch.addmm(encoder_bias, x, encoder.T)
    if diff.activation == "relu":
        return pre.relu_()
    if diff.activation == "threshold":
        assert threshold is not None
        return pre.mul_((pre > threshold) & (pre > 0))
    assert diff.k is not None
    kept = pre.relu_().topk(diff.k, dim=1)
    return torch.zeros_like(pre).scatter_(1, kept.indices, kept.values)
