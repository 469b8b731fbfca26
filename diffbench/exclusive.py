"""Exclusive latents: which latents of a dictionary are one model's own, and whether they are what they seem.

By relative norm .9 or more is tuned-only and .4 to .6 shared (Minder et al. 2025); by share of the norms above .7 is
tuned-exclusive and below .3 base-exclusive (Aranguri 2025). Shapes: n latents.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffbench.figure import Figure
from diffbench.latents import EXCLUSIVE
from diffbench.study import Reading
from diffbench.worded import Worded

TUNED_ONLY, SHARED = 0.9, (0.4, 0.6)
MOST_NU, MOST_NU_RECONSTRUCTION = 0.2, 0.5
"""A latent is specific to the tuned model if |nu| of activation or error, and that of reconstruction, are smaller."""
OFTEN = 0.1
"""Share of rows above which a latent fires often."""


def tuned_only(worded: Worded) -> Tensor:
    """[n] bool: live latents whose relative norm says that they are the tuned model's alone."""
    return worded.live & (worded.column("relative_norm") >= TUNED_ONLY)


def shared(worded: Worded) -> Tensor:
    """[n] bool: live latents whose relative norm says that both models have them alike."""
    norm = worded.column("relative_norm")
    return worded.live & (norm >= SHARED[0]) & (norm <= SHARED[1])


def specific(worded: Worded) -> Tensor:
    """[n] bool: latents that latent scaling finds in the tuned model alone; those without a nu are not."""
    if worded.diff.input != "both":
        return worded.column("nu_activation").abs() < MOST_NU
    own = worded.column("nu_error").abs() < MOST_NU
    return own & (worded.column("nu_reconstruction").abs() < MOST_NU_RECONSTRUCTION)


def rejected(worded: Worded) -> Reading:
    """Share of the tuned-only latents that latent scaling finds in the base too; those without a nu are left out."""
    chosen = tuned_only(worded)
    told = chosen & ~(worded.column("nu_error").isnan() | worded.column("nu_reconstruction").isnan())
    n, bad = int(told.sum()), int((told & ~specific(worded)).sum())
    detail = f"{bad} of {n}, {int(chosen.sum()) - n} more without nu"
    figure = Figure.of(bad / n) if n else Figure.undefined("no tuned-only latent with both nus")
    return Reading(figure=figure, detail=detail)


def rejected_of_live(worded: Worded) -> Reading:
    """Tuned-only latents that latent scaling finds in the base too, as a share of all live latents."""
    told = ~(worded.column("nu_error").isnan() | worded.column("nu_reconstruction").isnan())
    bad, n = int((tuned_only(worded) & told & ~specific(worded)).sum()), int(worded.live.sum())
    return Reading(figure=Figure.of(bad / n) if n else Figure.undefined("no live latent"), detail=f"{bad} of {n}")


def specific_share(worded: Worded) -> Reading:
    """Share of specific latents in all, dead ones included."""
    found = specific(worded)
    return Reading(figure=Figure.of(float(found.double().mean())), detail=f"{int(found.sum())} of {len(found)}")


def specific_often(worded: Worded) -> Reading:
    """Share of the specific latents that fire often."""
    found = specific(worded)
    n, often = int(found.sum()), int((found & (worded.column("frequency") > OFTEN)).sum())
    figure = Figure.of(often / n) if n else Figure.undefined("no specific latent")
    return Reading(figure=figure, detail=f"{often} of {n}")


def nearest_exclusive(worded: Worded) -> Reading:
    """Median over exclusive latents of the largest cosine to a decoder of the other model."""
    tuned, base = _exclusive(worded)
    return _median_nearest(worded, tuned, base)


def nearest_shared(worded: Worded) -> Reading:
    """The same of shared latents, from the tuned and from the base decoder."""
    tuned, base = _exclusive(worded)
    both = worded.live & ~tuned & ~base
    return _median_nearest(worded, both, both)


def twin_cosine(worded: Worded, words: Collection[str]) -> Reading:
    """Largest cosine of a tuned-exclusive latent that promotes all of ``words`` to a base-exclusive one; 0: none."""
    tuned, base = _exclusive(worded)
    return _closest(worded, tuned & worded.promoting("tuned", words), base & worded.promoting("base", words))


def shared_cosine(worded: Worded, words: Collection[str]) -> Reading:
    """Largest cosine of a tuned-exclusive latent that promotes all of ``words`` to a shared one; 0: none."""
    tuned, base = _exclusive(worded)
    both = worded.live & ~tuned & ~base
    return _closest(worded, tuned & worded.promoting("tuned", words), both & worded.promoting("base", words))


def base_exclusive(worded: Worded, words: Collection[str]) -> Reading:
    """How many base-exclusive latents promote all of ``words``."""
    base = _exclusive(worded)[1]
    found = int((base & worded.promoting("base", words)).sum())
    return Reading(figure=Figure.of(float(found)), detail=f"{found} of {int(base.sum())} base-exclusive")


def _exclusive(worded: Worded) -> tuple[Tensor, Tensor]:
    share = worded.column("norm_share")
    return worded.live & (share > EXCLUSIVE), worded.live & (share < 1 - EXCLUSIVE)


def _median_nearest(worded: Worded, tuned: Tensor, base: Tensor) -> Reading:
    found = torch.cat([worded.column("nearest_tuned")[tuned], worded.column("nearest_base")[base]])
    found = found[~found.isnan()]
    detail = f"{int(tuned.sum())} seen from tuned, {int(base.sum())} from base"
    return Reading(
        figure=Figure.of(_median(found)) if len(found) else Figure.undefined("no such latent"), detail=detail
    )


def _median(values: Tensor) -> float:
    """The mean of the middle two where there are two, which ``Tensor.median`` does not give."""
    return float(values.double().quantile(0.5))


def _closest(worded: Worded, of: Tensor, to: Tensor) -> Reading:
    decoders = worded.diff.decoder_tuned, worded.diff.decoder_base
    assert decoders[0] is not None and decoders[1] is not None  # `promoting` has asked for them
    cosine = 0.0
    if bool(of.any() and to.any()):
        cosine = float((normalize(decoders[0][of], dim=1) @ normalize(decoders[1][to], dim=1).T).max())
    return Reading(figure=Figure.of(cosine), detail=f"{int(of.sum())} and {int(to.sum())} such latents")
