"""Activations: paired residual streams of two models at one layer, harvested once and shared by every method.

Stored as h_b and delta = h_t - h_b in half precision, each divided by one stored scale; delta is formed in float32
first, so that a small difference of large vectors keeps its digits. Rows are the positions that count: BOS, pads and
outliers (norm above 10x the median) are left out. Shapes: T rows, d residual width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffbench.errors import CacheError
from diffbench.line import one_line

OUTLIER = 10.0
TENSORS = ("base", "delta", "document", "position", "outliers")
FACTS = (
    "base_scale",
    "delta_scale",
    "layer",
    "outlier_share",
    "outlier_norms",
    "bos",
    "pads",
    "first_document",
    "dtype",
)


class Rows(Protocol):
    """What a dictionary is trained on: rows of (h_b, delta) at one layer, in batches without end."""

    @property
    def layer(self) -> int:
        """The 0-based block whose output the rows are."""
        ...

    @property
    def width(self) -> int:
        """Residual width d."""
        ...

    def __len__(self) -> int:
        """Rows of one pass; of rows made on the fly the positions that count, outliers among them."""
        ...

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches (h_b, delta) in raw space, float32 [size, d] each.

        Every pass goes over all rows once, in a fresh seeded order; what is left of a pass opens the next one.

        Raises:
            CacheError: if there are fewer rows than one batch.
        """
        ...

    def known(self) -> Activations:
        """Rows that are stored, from which means and scales are taken."""
        ...


def _no_positions() -> Tensor:
    return torch.zeros(0, 2, dtype=torch.int32)


@dataclass(frozen=True, slots=True)
class Activations:
    """Rows of paired activations, in the corpus's order. They are `Rows` themselves.

    Attributes:
        base: h_b / base_scale, [T, d] float16.
        delta: (h_t - h_b) / delta_scale, [T, d] float16.
        document: [T] int32, index into the corpus.
        position: [T] int32, token position in the document.
        outlier_share: share of the positions that count which were left out as outliers.
        outliers: [M, 2] int32, document and position of each of them.
        outlier_norms: norms of h_b and h_t above which a row is an outlier.
        bos: BOS positions that were left out.
        pads: pads that were left out.
        first_document: rows of the documents before it were not harvested; they are streamed.
        dtype: what the models computed in.
    """

    base: Tensor
    delta: Tensor
    base_scale: float
    delta_scale: float
    document: Tensor
    position: Tensor
    layer: int
    outlier_share: float
    outliers: Tensor = field(default_factory=_no_positions)
    outlier_norms: tuple[float, float] | None = None
    bos: int = 0
    pads: int = 0
    first_document: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

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
        base, delta = _some(self.base, index).float(), _some(self.delta, index).float()
        return base.mul_(self.base_scale), delta.mul_(self.delta_scale)

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches (h_b, delta), raw float32 [size, d] each, as `Rows` says.

        Raises:
            CacheError: if there are fewer rows than one batch.
        """
        require_batch(len(self), size)
        return map(self.rows, _orders(len(self), size, seed))

    def known(self) -> Activations:
        """These rows: all of them are stored."""
        return self

    def split(self, share: float = 0.1) -> tuple[Activations, Activations]:
        """Rows to train on, and rows of the last ``share`` of the documents; both share this storage.

        Raises:
            CacheError: if there are rows of one document only.
        """
        documents = self.document.unique()
        if len(documents) < 2:
            raise CacheError("activations: one document cannot be split into rows to train on and held-out ones")
        held = min(max(1, round(share * len(documents))), len(documents) - 1)
        first = int(documents[-held])
        at = int(torch.searchsorted(self.document, first))
        later = self.outliers[:, 0] >= first
        return self._part(slice(at), ~later), self._part(slice(at, None), later)

    def _part(self, chosen: slice, left_out: Tensor) -> Activations:
        parts = {name: getattr(self, name)[chosen] for name in ("base", "delta", "document", "position")}
        return replace(self, **parts, outliers=self.outliers[left_out])

    def save(self, path: Path) -> None:
        """Write as one safetensors file."""
        facts = {name: getattr(self, name) for name in FACTS}
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        save_file(tensors, path, metadata={"facts": json.dumps(facts)})

    @classmethod
    def open(cls, path: Path) -> Activations:
        """Map what `save` wrote; rows are read from disk when they are used."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                tensors = {name: file.get_tensor(name) for name in TENSORS}
            if facts["outlier_norms"] is not None:
                facts["outlier_norms"] = tuple(facts["outlier_norms"])
            return cls(**tensors, **facts)
        except Exception as error:
            raise CacheError(f"{path}: no readable activations ({one_line(error, 200)})") from None


def _some(rows: Tensor, index: slice | Tensor) -> Tensor:
    """Rows by index; `index_select` takes a sixth of the time that indexing takes."""
    return rows[index] if isinstance(index, slice) else rows.index_select(0, index)


def require_batch(rows: int, size: int) -> None:
    """Refuse a corpus that does not fill one batch.

    Raises:
        CacheError: saying how many rows there are.
    """
    if not 0 < size <= rows:
        raise CacheError(f"batch: {size} rows are more than the {rows} there are; take more text or a smaller batch")


def _orders(n: int, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of one batch after the other, [size] each."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.zeros(0, dtype=torch.int64)
    while True:
        order = torch.cat([rest, torch.randperm(n, generator=generator)])
        whole = len(order) // size * size
        yield from order[:whole].split(size)
        rest = order[whole:]


def outliers(h_b: Tensor, h_t: Tensor) -> Tensor:
    """[T] bool: rows whose norm in either model is above 10x that model's median."""
    norms = h_b.norm(dim=-1), h_t.norm(dim=-1)
    return outlying(*norms, outlier_limits(*norms))


def outlier_limits(norms_b: Tensor, norms_t: Tensor) -> tuple[float, float]:
    """10x the median norm of each model's rows, from norms [T]."""
    return OUTLIER * float(norms_b.median()), OUTLIER * float(norms_t.median())


def outlying(norms_b: Tensor, norms_t: Tensor, limits: tuple[float, float]) -> Tensor:
    """[T] bool: rows whose norm in either model is above that model's limit."""
    return (norms_b > limits[0]) | (norms_t > limits[1])
