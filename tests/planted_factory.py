"""A small planted world, and what tests ask of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffbench import DictionaryDiff
from diffbench.planted import Planted, PlantedParameters, plant

torch.set_num_threads(1)  # matrices this small only lose by being shared out

SMALL = {
    "width": 24, "shared": 20, "base_only": 3, "tuned_only": 3, "rescaled": 4, "rotated": 3, "recorrelated": 4,
    "rate_high": 0.3, "rate_low": 0.05, "rows": 2048, "held_out_rows": 20_000,
}  # fmt: skip
NONE: dict[str, Any] = {**SMALL, "base_only": 0, "tuned_only": 0, "rescaled": 0, "rotated": 0, "recorrelated": 0}


def small(seed: int = 0, **changed: Any) -> Planted:
    return plant(PlantedParameters(**{**SMALL, **changed}), seed)


def gates(fired: Tensor) -> np.ndarray:
    return (fired > 0).double().numpy()


def of(world: Planted, *kinds: Any) -> list[int]:
    return [index for index, kind in enumerate(world.features.kind) if kind in kinds]


def dictionary(world: Planted, kind: str, n: int = 12) -> DictionaryDiff:
    draw = torch.Generator().manual_seed(1)
    width = 48 if kind == "both" else 24
    encoder = torch.randn(n, width, generator=draw)
    decoders = {name: torch.randn(n, 24, generator=draw) for name in ("decoder", "decoder_base", "decoder_tuned")}
    sides = ("decoder_base", "decoder_tuned") if kind == "both" else ("decoder",)
    zero = {name.replace("decoder", "bias"): torch.zeros(24) for name in sides}
    return DictionaryDiff(
        layer=0, input=kind, activation="threshold", encoder=encoder, encoder_bias=torch.zeros(n),  # type: ignore[arg-type]
        threshold=torch.full((n,), 0.5), order=torch.arange(n).flip(0),
        **{name: decoders[name] for name in sides}, **zero,
    )  # fmt: skip
