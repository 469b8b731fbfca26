"""Latent scaling: how much of each latent's direction each model really has (Minder et al. 2025, arXiv 2504.02922).

beta_j = argmin_β Σ_t ‖y_t - β f_tj d_j‖² says how strongly a target y contains latent j's contribution f_j d_j; the
ratio nu of the other model's beta to its own says whether the latent is specific to its model (nu near 0) or not
(near 1). Targets are a model's raw activation, the dictionary's reconstruction of it, and the error with the latent's
own contribution put back: nu of the error shows complete shrinkage, nu of the reconstruction latent decoupling.

All latents come from one pass over the rows, because the target enters by Σ_t f_tj <y_t, d_j> only, and because
beta(activation) = beta(reconstruction) + beta(residual) and
beta(error) = beta(residual) + <d_j, d_j^m> / ‖d_j‖². Sums are float64.

Shapes: T rows, d residual width, n latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.activations import Activations
from diffbench.dictionary import CHUNK, encode
from diffbench.diff import DictionaryDiff

LEAST_FIRINGS = 10
"""A latent that fires in fewer rows has no beta: one firing fits itself exactly, with no error to judge it by."""
STANDARD_ERRORS = 2.0
"""A ratio is undefined where neither of its two betas is this many standard errors from zero."""


@dataclass(frozen=True, slots=True)
class Beta:
    """A least-squares factor per latent and its standard error, robust to unequal errors; NaN if it hardly fires."""

    value: Tensor  # [n]
    error: Tensor  # [n]

    def plus(self, shift: Tensor) -> Beta:
        """The factor of a target that also holds ``shift`` times the latent itself: the error stays."""
        return Beta(self.value + shift, self.error)


class _Sums:
    """What the regression of u = <y, d>/‖d‖² on f needs of each latent, in float64."""

    def __init__(self, n: int) -> None:
        self.fu, self.ffuu, self.fffu = (torch.zeros(n, dtype=torch.float64) for _ in range(3))

    def add(self, f: Tensor, u: Tensor) -> None:
        fu = f * u
        self.fu += fu.sum(dim=0, dtype=torch.float64)
        self.ffuu += fu.pow(2).sum(dim=0, dtype=torch.float64)
        self.fffu += (fu * f.pow(2)).sum(dim=0, dtype=torch.float64)

    def beta(self, ff: Tensor, ffff: Tensor) -> Beta:
        value = self.fu / ff  # 0 / 0 of a dead latent is NaN, as it should be
        left = (self.ffuu - 2 * value * self.fffu + value.pow(2) * ffff).clamp_min(0)
        return Beta(value, left.sqrt() / ff)


@torch.no_grad()
def latent_scaling(diff: DictionaryDiff, rows: Activations) -> dict[str, Tensor]:
    """Betas and nus of every latent over rows, by name, [n] float32 each; NaN = undefined.

    ``beta_<target>_<model>`` and ``nu_<target>`` = base / tuned are about the tuned (or only) decoder;
    ``beta_<target>_<model>_mirrored`` and ``nu_<target>_mirrored`` = tuned / base about the base decoder, for what was
    removed. Targets are activation, and for two decoders also reconstruction and error.
    """
    if diff.input == "both":
        assert diff.decoder_tuned is not None and diff.decoder_base is not None
        columns = _columns(diff, rows, diff.decoder_tuned, ("base", "tuned"), "")
        return columns | _columns(diff, rows, diff.decoder_base, ("tuned", "base"), "_mirrored")
    assert diff.decoder is not None
    return _columns(diff, rows, diff.decoder, ("base", "tuned"), "")


def _columns(
    diff: DictionaryDiff, rows: Activations, regressor: Tensor, ratio: tuple[str, str], suffix: str
) -> dict[str, Tensor]:
    """Columns with one model's decoder rows as regressors; the ratio is of the first model's beta to the second's."""
    found: dict[str, dict[str, Beta]] = {}
    for model, betas in _sums(diff, rows, regressor).items():
        if (residual := betas.pop("residual", None)) is not None:
            own = diff.decoder_base if model == "base" else diff.decoder_tuned
            assert own is not None
            overlap = (regressor * own).sum(dim=1).double() / regressor.pow(2).sum(dim=1).double()
            betas["error"] = residual.plus(overlap)
        found[model] = betas
    columns: dict[str, Tensor] = {}
    for target in found["base"]:
        for model, betas in found.items():
            columns[f"beta_{target}_{model}{suffix}"] = betas[target].value.float()
        columns[f"nu_{target}{suffix}"] = _ratio(found[ratio[0]][target], found[ratio[1]][target])
    return columns


def _sums(diff: DictionaryDiff, rows: Activations, regressor: Tensor) -> dict[str, dict[str, Beta]]:
    """For each model, the betas of its activation and, where it is reconstructed, of reconstruction and residual."""
    n, two = diff.n_components, diff.input == "both"
    targets = ("activation", "reconstruction", "residual") if two else ("activation",)
    scaled = (regressor / regressor.pow(2).sum(dim=1, keepdim=True)).T
    ff, ffff, fired = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
    sums = {model: {target: _Sums(n) for target in targets} for model in ("base", "tuned")}
    for start in range(0, len(rows), CHUNK):
        h_b, delta = rows.rows(slice(start, start + CHUNK))
        h_t = h_b + delta
        f = encode(diff, h_b, h_t)
        square = f.pow(2)
        ff += square.sum(dim=0, dtype=torch.float64)
        ffff += square.pow(2).sum(dim=0, dtype=torch.float64)
        fired += (f > 0).sum(dim=0)
        for model, h in (("base", h_b), ("tuned", h_t)):
            u = h @ scaled
            sums[model]["activation"].add(f, u)
            if two:
                hat = _reconstruction(diff, f, model) @ scaled
                sums[model]["reconstruction"].add(f, hat)
                sums[model]["residual"].add(f, u.sub_(hat))
    ff = ff.masked_fill(fired < LEAST_FIRINGS, float("nan"))
    return {
        model: {target: found.beta(ff, ffff) for target, found in targets.items()} for model, targets in sums.items()
    }


def _reconstruction(diff: DictionaryDiff, f: Tensor, model: str) -> Tensor:
    decoder, bias = (diff.decoder_base, diff.bias_base) if model == "base" else (diff.decoder_tuned, diff.bias_tuned)
    assert decoder is not None and bias is not None
    return torch.addmm(bias, f, decoder)


def _ratio(over: Beta, under: Beta) -> Tensor:
    """[n]: the ratio of two betas; NaN where both are within two standard errors of zero, or the lower one is zero."""
    told = (over.value.abs() >= STANDARD_ERRORS * over.error) | (under.value.abs() >= STANDARD_ERRORS * under.error)
    ratio = torch.where(told & (under.value != 0), over.value / under.value, float("nan")).float()
    return torch.where(ratio.isfinite(), ratio, float("nan"))
