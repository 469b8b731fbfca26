"""Dictionaries whose latents are written down by hand, with the tokens that they promote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffbench.decoders import norm_share, relative_norm
from diffbench.diff import DictionaryDiff
from diffbench.worded import Worded

NONE = float("nan")


def worded(
    base: Sequence[Sequence[float]],
    tuned: Sequence[Sequence[float]],
    *,
    words_base: Mapping[int, str] | None = None,
    words_tuned: Mapping[int, str] | None = None,
    group: bool = False,
    **columns: Sequence[float],
) -> Worded:
    """Two decoders [n, d], words by latent ("blue green red"), and columns; every latent fires unless they say else."""
    d_b, d_t = torch.tensor(base), torch.tensor(tuned)
    n, d = d_b.shape
    held = {"frequency": torch.full((n,), 0.1), "activation_mean": torch.ones(n)}
    held |= {
        "relative_norm": relative_norm(torch.cat([d_b, d_t], dim=1)),
        "norm_share": norm_share(torch.cat([d_b, d_t], dim=1)),
    }
    held |= {name: torch.tensor(values) for name, values in columns.items()}
    diff = DictionaryDiff(
        layer=0,
        input="both",
        activation="relu",
        encoder=torch.zeros(n, 2 * d),
        encoder_bias=torch.zeros(n),
        decoder_base=d_b,
        decoder_tuned=d_t,
        bias_base=torch.zeros(d),
        bias_tuned=torch.zeros(d),
        order=torch.arange(n),
        group=torch.arange(n // 3).repeat_interleave(3) if group else None,
        columns=held,
    )
    words = {side: _words(n, given or {}) for side, given in (("base", words_base), ("tuned", words_tuned))}
    return Worded(diff, words)  # type: ignore[arg-type]


def single(decoder: Tensor, **columns: Sequence[float]) -> Worded:
    """A dictionary of h_t."""
    n, d = decoder.shape
    held = {"frequency": torch.full((n,), 0.1)} | {name: torch.tensor(values) for name, values in columns.items()}
    diff = DictionaryDiff(
        layer=0,
        input="tuned",
        activation="relu",
        encoder=torch.zeros(n, d),
        encoder_bias=torch.zeros(n),
        decoder=decoder,
        bias=torch.zeros(d),
        order=torch.arange(n),
        columns=held,
    )
    return Worded(diff, {})


def _words(n: int, given: Mapping[int, str]) -> list[list[str]]:
    return [given.get(at, "the cat sat").split() for at in range(n)]
