"""Latents: which of a dictionary's latents are what changed. Every column can be a ranking; a fit has them all.

Columns speak of held-out rows. Where a low or an extreme value is what matters, a second column of the same content
falls from most to least changed. NaN = undefined for this latent. Shapes: T rows, d residual width, n latents.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffbench.activations import Activations
from diffbench.dictionary import activity_columns
from diffbench.diff import DictionaryDiff, falling
from diffbench.errors import OptionError
from diffbench.latent_scaling import latent_scaling

EXCLUSIVE = 0.7
"""Share of the decoder norm above which a latent is one model's own (Aranguri 2025)."""
LEAST_FIRING = 0.0005
"""Share of rows under which a triple fires too rarely for ratios of its counts (Aranguri 2025)."""
NEIGHBOURS = 1024


def with_latents(diff: DictionaryDiff, held_out: Activations, order_by: str) -> DictionaryDiff:
    """The dictionary with all columns, in the order of one of them.

    Raises:
        OptionError: if there is no such column for this kind of dictionary.
    """
    columns = diff.columns | latent_columns(diff, held_out)
    if order_by not in columns:
        raise OptionError(f"no column {order_by!r} for this dictionary; there are {', '.join(sorted(columns))}")
    return replace(diff, columns=columns, order=falling(columns[order_by]))


def latent_columns(diff: DictionaryDiff, held_out: Activations) -> dict[str, Tensor]:
    """All that rankings are made of, by name, [n] float32 each.

    - ``energy``, ``frequency``, ``activation_mean`` and ``activation_rise`` (see `activity_columns`).
    - latent scaling: ``beta_*``, ``nu_*`` (see `latent_scaling`); ``specific_<target>`` = -|nu|, and for two decoders
      ``specific`` = minus the sum of the ranks of |nu| of error and reconstruction.
    - two decoders: ``nearest_tuned``, ``nearest_base``: largest cosine to a decoder of the other model; tuned-only
      first by ``relative_norm``, base-only first by ``base_norm``.
    - tied triples: ``base_to_shared``, ``tuned_to_shared``, ``exclusive_share``: how often its members fire.
    """
    columns = activity_columns(diff, held_out)
    if not _only_difference(diff):
        columns |= latent_scaling(diff, held_out)
    for name in [name for name in columns if name.startswith("nu_")]:
        columns[name.replace("nu_", "specific_", 1)] = -columns[name].abs()
    if diff.input == "both":
        if "nu_error" in columns:
            columns["specific"] = _minus_ranks(columns["nu_error"].abs(), columns["nu_reconstruction"].abs())
        if "relative_norm" in diff.columns:
            columns["base_norm"] = 1 - diff.columns["relative_norm"]
        columns |= _nearest(diff)
    if diff.group is not None:
        columns |= _firing_ratios(columns["frequency"])
    return columns


def _minus_ranks(*columns: Tensor) -> Tensor:
    """Minus the sum of each latent's ranks, 0 = smallest, in some columns; NaN where one of them is."""
    ranks = [column.nan_to_num(nan=float("inf")).argsort(stable=True).argsort().float() for column in columns]
    missing = torch.stack(columns).isnan().any(dim=0)
    return torch.where(missing, float("nan"), -torch.stack(ranks).sum(dim=0))


def _nearest(diff: DictionaryDiff) -> dict[str, Tensor]:
    """Largest cosine of a decoder row to the other model's rows, as in experiment 4 of Aranguri 2025.

    ``nearest_tuned``: of the tuned decoder of a tuned-exclusive latent to the base decoders of shared and
    base-exclusive ones, and of that of a shared latent to the base decoders of all others; ``nearest_base`` mirrors it.
    """
    share = diff.columns.get("norm_share")
    assert diff.decoder_tuned is not None and diff.decoder_base is not None
    if share is None or _only_difference(diff) or diff.group is not None:  # a triple shares its rows by design
        return {}
    tuned, base = normalize(diff.decoder_tuned, dim=1), normalize(diff.decoder_base, dim=1)
    is_tuned, is_base = share > EXCLUSIVE, share < 1 - EXCLUSIVE
    return {
        "nearest_tuned": _largest_cosine(tuned, base, is_tuned, is_base),
        "nearest_base": _largest_cosine(base, tuned, is_base, is_tuned),
    }


def _only_difference(diff: DictionaryDiff) -> bool:
    """Whether no more than d_t - d_b is identified, so that nothing can be said of either model's decoder alone."""
    share = diff.columns.get("norm_share")
    return share is not None and bool(share.isnan().all())


def _largest_cosine(own: Tensor, other: Tensor, exclusive: Tensor, mirrored: Tensor) -> Tensor:
    """[n]: NaN for latents that are exclusive to the other model."""
    found = torch.full((len(own),), float("nan"))
    for start in range(0, len(own), NEIGHBOURS):
        chunk = slice(start, start + NEIGHBOURS)
        cosine = own[chunk] @ other.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = float("-inf")
        cosine[exclusive[chunk][:, None] & exclusive[None, :]] = float("-inf")
        largest = cosine.max(dim=1).values
        found[chunk] = torch.where(mirrored[chunk] | largest.isinf(), float("nan"), largest)
    return found


def _firing_ratios(frequency: Tensor) -> dict[str, Tensor]:
    """How often the members of each triple fire; each column on the one latent that it speaks of.

    ``base_to_shared`` and ``tuned_to_shared`` are the ratios of Aranguri 2025, undefined where the shared latent never
    fires; ``exclusive_share`` = exclusive / (exclusive + shared) ranks those first.
    """
    shared, base, tuned = frequency.view(-1, 3).unbind(dim=1)
    often = shared + base + tuned >= LEAST_FIRING
    of_base, of_tuned, none = base / shared, tuned / shared, torch.full_like(shared, float("nan"))
    placed = {
        "base_to_shared": (none, of_base, none),
        "tuned_to_shared": (none, none, of_tuned),
        "exclusive_share": (none, base / (base + shared), tuned / (tuned + shared)),
    }
    return {
        name: torch.stack([torch.where(often & one.isfinite(), one, none) for one in members], dim=1).flatten().float()
        for name, members in placed.items()
    }
