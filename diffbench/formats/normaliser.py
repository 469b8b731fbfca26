"""The normaliser that crosscoder_learning keeps among the tensors of a dictionary.

Per model: (x - activation_mean) * activation_global_scale in, y / (activation_global_scale + 1e-8) + activation_mean
out. All NaN in mean and standard deviation means that activations are used as they are.
"""

from __future__ import annotations

import torch

from diffbench.formats.folding import Normaliser
from diffbench.formats.source import Source

NORMALISER = {"target_rms", "activation_mean", "activation_std", "activation_global_scale"}
EPSILON = 1e-8
"""What the library adds to the scale it divides by."""


def stored_normaliser(source: Source, shape: tuple[int, ...]) -> list[Normaliser]:
    """One normaliser for each model.

    Args:
        source: holds the tensors `NORMALISER`.
        shape: of one activation: [d] of an SAE, [2, d] of a crosscoder.
    """
    mean = source.tensor("activation_mean", *shape, finite=False)
    deviation = source.tensor("activation_std", *shape, finite=False)
    width, models = shape[-1], mean.numel() // shape[-1]
    missing = torch.isnan(mean), torch.isnan(deviation)
    if all(bool(part.all()) for part in missing):
        return [Normaliser.factor(1.0, width)] * models
    for name, part in zip(("activation_mean", "activation_std"), missing, strict=True):
        if bool(part.any()):
            raise source.refuse(name, "is NaN in part, so whether activations were normalised is not known")
    mean = source.tensor("activation_mean", *shape).reshape(models, width)
    scale = source.tensor("activation_global_scale", *shape[:-1]).reshape(models).double()
    if not bool((scale > 0).all()):
        raise source.refuse("activation_global_scale", f"needs to be positive, is {scale.tolist()}")
    return [
        Normaliser(mean[model], float(scale[model]), 1.0 / (float(scale[model]) + EPSILON)) for model in range(models)
    ]
