"""Harvest: two models run over a corpus, one after the other, up to one layer; the rows that count are kept.

Shapes: N documents, L positions, T rows that count, d residual width.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffbench.activations import Activations, outlier_limits, outlying
from diffbench.adapter import Toggled
from diffbench.corpus import Corpus
from diffbench.errors import CacheError, CheckpointError
from diffbench.precision import CONSTANT
from diffbench.residual import Dtype, Model, ModelFolder, blocks, check_layer, hidden

BATCH_TOKENS = 2048
"""Positions of one forward pass: enough to keep a core busy, few enough to stay in its cache."""
CHUNK = 8192
MOST_RAM = 1 << 30
"""Bytes of float32 rows beyond which they are kept in a temporary file."""
HALF_MAX = 60_000.0


def harvest(
    reference: Model | ModelFolder,
    tuned: Model | ModelFolder,
    corpus: Corpus,
    layer: int,
    *,
    first_document: int = 0,
    scratch: Path | None = None,
) -> Activations:
    """Run one model and then the other up to ``layer`` over the corpus, and keep the rows that count.

    Args:
        reference: the model of h_b; a `ModelFolder` is loaded when its turn comes and let go of after it.
        tuned: the model of h_t.
        corpus: text; rows come in its order.
        layer: 0-based block.
        first_document: documents before it are left out.
        scratch: folder for a temporary file, should one be needed; None: the system's.

    Raises:
        OptionError: if the models have no such layer.
        CacheError: if no position counts, an activation is not finite, all rows of a model are the same, or the scaled
            values leave half precision.
        CheckpointError: if the adapter of a pair changes weights below the layer, but no activation.
    """
    text = corpus.rows(slice(first_document, None)) if first_document else corpus
    index = text.counts.nonzero()
    if len(index) == 0:
        raise CacheError("harvest: no position of the text counts; it holds nothing but BOS and pads")
    passes = _Passes(text, layer, scratch)
    norms_b = passes.run(reference)
    norms_t = passes.run(tuned)
    limits = outlier_limits(norms_b, norms_t)
    kept = ~outlying(norms_b, norms_t, limits)
    facts = _Facts.of(passes.base, passes.delta, kept)
    facts.check(layer)
    if facts.delta_scale == 0 and isinstance(tuned, Toggled) and tuned.acts_in(blocks(tuned)[: layer + 1]):
        raise CheckpointError(
            f"layer {layer}: the adapter holds weights, but changes no activation; it is not in effect"
        )
    base_scale, delta_scale = facts.base_scale, facts.delta_scale or 1.0
    base = _halves(passes.base, kept, base_scale, scratch)
    passes.base = torch.empty(0, 0)  # rows in float32 are large: no more of them at once than must be
    index[:, 0] += first_document
    kept_index = index[kept].int()
    return Activations(
        base=base,
        delta=_halves(passes.delta, kept, delta_scale, scratch),
        base_scale=base_scale,
        delta_scale=delta_scale,
        document=kept_index[:, 0].contiguous(),
        position=kept_index[:, 1].contiguous(),
        layer=layer,
        outlier_share=1.0 - float(kept.float().mean()),
        outliers=index[~kept].int(),
        outlier_norms=limits,
        bos=int((text.mask & ~text.counts).sum()),
        pads=int((~text.mask).sum()),
        first_document=first_document,
        dtype=passes.dtype,
    )


class _Passes:
    """Float32 rows of a corpus: h_b after the first pass, delta after the second."""

    def __init__(self, text: Corpus, layer: int, scratch: Path | None) -> None:
        self.text, self.layer, self.scratch = text, layer, scratch
        self.rank = text.counts.flatten().cumsum(0).view_as(text.counts) - 1  # the row of each position that counts
        self.base = self.delta = torch.empty(0, 0)
        self.dtype: Dtype = "float32"

    def run(self, model: Model | ModelFolder) -> Tensor:
        """Let the next model read the text; returns the norms [T] of its rows."""
        if isinstance(model, ModelFolder):
            model = model.load()  # known here alone: it is gone when this function ends
        check_layer(model, self.layer)
        self.dtype = "bfloat16" if model.dtype == torch.bfloat16 else "float32"
        norms = torch.empty(int(self.text.counts.sum()))
        rows = torch.empty(0, 0)
        with torch.inference_mode():
            for documents, batch in self.text.packed(BATCH_TOKENS):
                found = hidden(model, batch.ids, batch.mask, self.layer)[batch.counts].float()
                if rows.shape[0] == 0:
                    rows = _buffer((len(norms), found.shape[1]), np.dtype("float32"), self.scratch)
                at = self.rank[documents, : batch.ids.shape[1]][batch.counts]
                norms[at] = found.norm(dim=-1)
                rows[at] = found if self.base.shape[0] == 0 else found - self.base.index_select(0, at)
        if not bool(torch.isfinite(norms).all()):
            raise CacheError(f"layer {self.layer}: activations hold NaN or infinite values")
        if self.base.shape[0] == 0:
            self.base = rows
        else:
            self.delta = rows
        return norms


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is summed over the kept rows: root mean squares, and whether the rows of a model are all the same."""

    base_scale: float
    delta_scale: float
    base_spread: float
    tuned_spread: float

    @classmethod
    def of(cls, base: Tensor, delta: Tensor, kept: Tensor) -> _Facts:
        """In float64, chunk by chunk. Spreads are squared distances from the first row, relative to the mean square."""
        first = int(kept.nonzero()[0])
        origin_b, origin_t = base[first].double(), (base[first] + delta[first]).double()
        sums = torch.zeros(5, dtype=torch.float64)
        for start in range(0, len(kept), CHUNK):
            rows = slice(start, start + CHUNK)
            h_b, moved = base[rows][kept[rows]].double(), delta[rows][kept[rows]].double()
            h_t = h_b + moved
            parts = (h_b, moved, h_t, h_b - origin_b, h_t - origin_t)
            sums += torch.stack([part.square().sum() for part in parts])
        square_b, square_delta, square_t, spread_b, spread_t = sums.tolist()
        entries = int(kept.sum()) * base.shape[1]
        return cls(
            base_scale=sqrt(square_b / entries),
            delta_scale=sqrt(square_delta / entries),
            base_spread=spread_b / (square_b or 1.0),
            tuned_spread=spread_t / (square_t or 1.0),
        )

    def check(self, layer: int) -> None:
        for name, spread in (("reference", self.base_spread), ("tuned", self.tuned_spread)):
            if spread <= CONSTANT:
                raise CacheError(
                    f"layer {layer}: the {name} model's activations are constant, the same at every position; check "
                    "its weights"
                )


def _buffer(shape: tuple[int, int], dtype: np.dtype[np.generic], scratch: Path | None) -> Tensor:
    """Room for rows: in memory, or in a temporary file that is gone when nobody uses it any more."""
    if shape[0] * shape[1] * 4 <= MOST_RAM:
        return torch.from_numpy(np.empty(shape, dtype))
    with tempfile.TemporaryFile(dir=scratch) as file:
        return torch.from_numpy(np.memmap(file, dtype, "w+", shape=shape))


def _halves(rows: Tensor, kept: Tensor, scale: float, scratch: Path | None) -> Tensor:
    """The kept rows over ``scale``, in half precision.

    Raises:
        CacheError: if a value is beyond it.
    """
    out = _buffer((int(kept.sum()), rows.shape[1]), np.dtype("float16"), scratch)
    at = 0
    for start in range(0, len(kept), CHUNK):
        part = half(rows[start : start + CHUNK][kept[start : start + CHUNK]], scale)
        out[at : at + len(part)] = part
        at += len(part)
    return out


def half(rows: Tensor, scale: float) -> Tensor:
    """Rows over ``scale`` in half precision.

    Raises:
        CacheError: if a value is beyond it.
    """
    scaled = rows / scale
    if scaled.numel() and float(scaled.abs().max()) > HALF_MAX:
        raise CacheError("activations: values leave half precision even after scaling; check the models for overflow")
    return scaled.half()
