"""Activations: paired residual streams of two models at one layer, harvested once and shared by every method.

Stored as h_b and delta = h_t - h_b in half precision, each divided by one stored scale; delta is formed in float32
first, so that a small difference of large vectors keeps its digits. Rows are the positions that count: BOS, pads and
outliers (norm above 10x the median) are left out. Shapes: T rows, d residual width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffbench.corpus import Corpus
from diffbench.errors import CacheError
from diffbench.line import one_line
from diffbench.residual import Model, hidden

BATCH_DOCUMENTS = 64
OUTLIER = 10.0
HALF_MAX = 60_000.0


@dataclass(frozen=True, slots=True)
class Activations:
    """Rows of paired activations.

    Attributes:
        base: h_b / base_scale, [T, d] float16.
        delta: (h_t - h_b) / delta_scale, [T, d] float16.
        document: [T] int32, index into the corpus.
        position: [T] int32, token position in the document.
    """

    base: Tensor
    delta: Tensor
    base_scale: float
    delta_scale: float
    document: Tensor
    position: Tensor
    layer: int
    outlier_share: float

    def __len__(self) -> int:
        return self.base.shape[0]

    @property
    def width(self) -> int:
        """Residual width d."""
        return self.base.shape[1]

    @property
    def unchanged(self) -> bool:
        """Whether no row differs at all between the models."""
        return not bool(self.delta.any())

    def load(self) -> tuple[Tensor, Tensor]:
        """h_b and delta of all rows in raw space, [T, d] float32 each."""
        return self.rows(slice(None))

    def rows(self, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """h_b and delta of some rows in raw space, float32."""
        return self.base[index].float() * self.base_scale, self.delta[index].float() * self.delta_scale

    def save(self, path: Path) -> None:
        """Write as one safetensors file."""
        facts = {
            "base_scale": self.base_scale,
            "delta_scale": self.delta_scale,
            "layer": self.layer,
            "outlier_share": self.outlier_share,
        }
        tensors = {name: getattr(self, name).contiguous() for name in ("base", "delta", "document", "position")}
        save_file(tensors, path, metadata={"facts": json.dumps(facts)})

    @classmethod
    def open(cls, path: Path) -> Activations:
        """Map what `save` wrote; rows are read from disk when they are used."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                tensors = {name: file.get_tensor(name) for name in ("base", "delta", "document", "position")}
            return cls(**tensors, **facts)
        except Exception as error:
            raise CacheError(f"{path}: no readable activations ({one_line(error, 200)})") from None


@torch.inference_mode()
def harvest(reference: Model, tuned: Model, corpus: Corpus, layer: int) -> Activations:
    """Run both models up to ``layer`` over the corpus and keep the rows that count.

    Raises:
        CacheError: if an activation is not finite or the scaled values leave half precision.
    """
    base_parts, delta_parts, where = [], [], []
    for start, batch in corpus.batches(BATCH_DOCUMENTS):
        h_b = hidden(reference, batch.ids, batch.mask, layer).float()
        h_t = hidden(tuned, batch.ids, batch.mask, layer).float()
        index = batch.counts.nonzero()
        base_parts.append(h_b[batch.counts])
        delta_parts.append((h_t - h_b)[batch.counts])
        index[:, 0] += start
        where.append(index.int())
    base, delta, index = torch.cat(base_parts), torch.cat(delta_parts), torch.cat(where)
    if not bool(torch.isfinite(base).all() and torch.isfinite(delta).all()):
        raise CacheError(f"layer {layer}: activations hold NaN or infinite values")
    kept = ~outliers(base, base + delta)
    base, delta, index = base[kept], delta[kept], index[kept]
    base_scale, delta_scale = _scale(base), _scale(delta)
    return Activations(
        base=_half(base, base_scale),
        delta=_half(delta, delta_scale),
        base_scale=base_scale,
        delta_scale=delta_scale,
        document=index[:, 0].contiguous(),
        position=index[:, 1].contiguous(),
        layer=layer,
        outlier_share=1.0 - float(kept.float().mean()),
    )


def outliers(h_b: Tensor, h_t: Tensor) -> Tensor:
    """[T] bool: rows whose norm in either model is above 10x that model's median."""
    found = torch.zeros(h_b.shape[0], dtype=torch.bool)
    for stream in (h_b, h_t):
        norms = stream.norm(dim=-1)
        found |= norms > OUTLIER * norms.median()
    return found


def _scale(x: Tensor) -> float:
    """Root mean square of the entries; 1 where everything is zero."""
    rms = float(x.double().pow(2).mean().sqrt())
    return rms if rms > 0 else 1.0


def _half(x: Tensor, scale: float) -> Tensor:
    scaled = x / scale
    if float(scaled.abs().max()) > HALF_MAX:
        raise CacheError("activations: values leave half precision even after scaling; check the models for overflow")
    return scaled.half()
