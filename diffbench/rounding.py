"""Rounding: whether a pair's difference survives models that compute in bfloat16.

What bfloat16 does to delta is measured on some documents against the same models in float32, and it is only used
where the difference is at least ten times as large as the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffbench.activations import Activations
from diffbench.corpus import Corpus
from diffbench.errors import OptionError
from diffbench.figure import Figure
from diffbench.harvest import harvest
from diffbench.residual import Dtype, Model

LEAST_RATIO = 10.0
SAMPLE_TOKENS = 4096

Pair = Callable[[Dtype], tuple[Model, Model]]
"""Gives reference and tuned model in a dtype, loaded or as `diffbench.residual.ModelFolder`."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """Root mean squares over entries: of delta in float32, and of how far delta in bfloat16 is from it."""

    difference: float
    error: float

    @property
    def ratio(self) -> float:
        """How many times the difference is as large as the error."""
        return self.difference / self.error if self.error > 0 else (float("inf") if self.difference > 0 else 0.0)


def choose_dtype(
    asked: Literal["float32", "bfloat16", "auto"], pair: Pair, corpus: Corpus, layer: int
) -> tuple[Dtype, Figure]:
    """What to harvest in, and the measured ratio of difference to rounding error where it was measured.

    Args:
        asked: float32, bfloat16, or auto: bfloat16 wherever it is exact enough.
        pair: the two models.
        corpus: text of which some documents are sampled.
        layer: 0-based block.

    Raises:
        OptionError: if bfloat16 was asked for and is not exact enough.
    """
    if asked == "float32":
        return "float32", Figure.not_applicable("the models ran in float32; no other precision was asked for")
    found = rounding(pair, corpus, layer)
    exact = found.ratio == float("inf")
    ratio = Figure.undefined("bfloat16 makes no error on the sample") if exact else Figure.of(found.ratio)
    if found.ratio >= LEAST_RATIO:
        return "bfloat16", ratio
    if asked == "bfloat16":
        raise OptionError(
            f"harvest-dtype: bfloat16 moves delta by {found.error:.2e} (root mean square) where delta itself is "
            f"{found.difference:.2e}, less than {LEAST_RATIO:g} times as much; use float32"
        )
    return "float32", ratio


def rounding(pair: Pair, corpus: Corpus, layer: int) -> Rounding:
    """Measure delta at ``layer`` in both precisions on documents spread over the corpus."""
    per_document = max(1, corpus.n_tokens // len(corpus))
    n = min(len(corpus), max(1, SAMPLE_TOKENS // per_document))
    sample = corpus.rows(torch.linspace(0, len(corpus) - 1, n).long())
    exact, rounded = (harvest(*pair(dtype), sample, layer) for dtype in ("float32", "bfloat16"))
    both, other = _common(exact, rounded)
    delta = exact.rows(both)[1].double()
    error = rounded.rows(other)[1].double() - delta
    return Rounding(difference=_rms(delta), error=_rms(error))


def _common(one: Activations, other: Activations) -> tuple[Tensor, Tensor]:
    """Indices of the rows that neither left out as an outlier."""
    keys = [rows.document.long() << 32 | rows.position.long() for rows in (one, other)]
    return torch.isin(keys[0], keys[1]).nonzero().flatten(), torch.isin(keys[1], keys[0]).nonzero().flatten()


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
