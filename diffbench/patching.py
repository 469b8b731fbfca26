"""Patching: either model run with an edit of its stream or of its weights, as far as the stream of the last block.

What is above the last block sees each position alone, so whoever needs logits computes those of the positions that it
needs (`diffbench.residual.unembed`).

Shapes: B documents of a batch, L positions, T rows that count, d residual width, n components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from diffbench.activations import OUTLIER, outlying
from diffbench.corpus import Corpus
from diffbench.edit import Streams
from diffbench.residual import Model, blocks, hidden, hidden_from, hidden_layers, unembed
from diffbench.seeds import derive
from diffbench.weight_edit import WeightEdit

BATCH_TOKENS = 2048
Added = Callable[[Streams], Tensor]
"""What an arm adds to h_b at the rows that count, [T, d]."""
Run = Literal["hybrid", "model", "without"]
"""hybrid: the reference's stream is edited and the tuned model goes on from it; model: the reference is edited and runs
on by itself; without: the edit is taken out of the tuned model, which runs on by itself."""
Towards = Literal["tuned", "reference"]
Limits = Mapping[int, tuple[float, float]]
"""By layer: norms of h_b and h_t above which a position is an outlier."""


@dataclass(frozen=True, slots=True)
class Clean:
    """Both models' unedited streams on one batch.

    Attributes:
        h_b: [B, L, d] by layer; the last block's is always among them.
        h_t: the same of the tuned model.
        counts: [B, L] bool by layer: where arms edit. BOS, pads and outliers take h_t where the tuned model goes on,
            and stay as they are in a reference model that runs on by itself.
    """

    reference: Model
    tuned: Model
    batch: Corpus
    h_b: Mapping[int, Tensor]
    h_t: Mapping[int, Tensor]
    counts: Mapping[int, Tensor]

    @classmethod
    def of(cls, reference: Model, tuned: Model, batch: Corpus, limits: Limits) -> Clean:
        """Run both models over a batch; the layers are those that there are limits of."""
        last = len(blocks(tuned)) - 1
        layers = sorted({*limits, last})
        h_b = hidden_layers(reference, batch.ids, batch.mask, layers)
        h_t = hidden_layers(tuned, batch.ids, batch.mask, layers)
        counts = {}
        for layer, limit in limits.items():
            counts[layer] = batch.counts & ~outlying(h_b[layer].norm(dim=-1), h_t[layer].norm(dim=-1), limit)
        return cls(reference, tuned, batch, h_b, h_t, counts)

    @property
    def last(self) -> int:
        """The last block."""
        return len(blocks(self.tuned)) - 1

    def rows(self, layer: int) -> Streams:
        """The rows that count at a layer."""
        counts = self.counts[layer]
        return Streams(self.h_b[layer][counts], self.h_t[layer][counts], counts.nonzero()[:, 1])

    def placed(self, layer: int, rows: Tensor, run: Run) -> Tensor:
        """[B, L, d]: the stream of the model that goes on, with other rows [T, d] where positions count."""
        stream = (self.h_b if run == "model" else self.h_t)[layer].clone()
        stream[self.counts[layer]] = rows
        return stream

    def go_on(self, model: Model, layer: int, stream: Tensor) -> Tensor:
        """[B, L, d]: the last block's stream of ``model`` continued from ``stream``."""
        return hidden_from(model, self.batch.ids, self.batch.mask, layer, stream)


class Patch(Protocol):
    """One edited run."""

    @property
    def layer(self) -> int:
        """The block whose output is edited, or from which a hybrid goes on."""
        ...

    @property
    def towards(self) -> Towards:
        """The model whose predictions it is compared with."""
        ...

    @property
    def edits_weights(self) -> bool:
        """Whether a model has other weights while inside."""
        ...

    def inside(self, clean: Clean) -> AbstractContextManager[tuple[Model, Tensor]]:
        """The model that speaks, and its last block's stream [B, L, d]; weights are edited while inside."""
        ...


@dataclass(frozen=True, slots=True)
class Arm:
    """An edit of the stream at ``layer``.

    Attributes:
        added: what is added to h_b (with ``without``: taken from h_t) at the rows that count.
    """

    layer: int
    added: Added
    run: Run = "hybrid"
    towards: Towards = "tuned"

    @property
    def edits_weights(self) -> bool:
        """See `Patch.edits_weights`."""
        return False

    @contextmanager
    def inside(self, clean: Clean) -> Iterator[tuple[Model, Tensor]]:
        """See `Patch.inside`."""
        rows = clean.rows(self.layer)
        added = self.added(rows)
        edited = rows.h_t - added if self.run == "without" else rows.h_b + added
        stream = clean.placed(self.layer, edited, self.run)
        model = clean.reference if self.run == "model" else clean.tuned
        yield model, clean.go_on(model, self.layer, stream)


@dataclass(frozen=True, slots=True)
class WeightArm:
    """An edit of the weights; in a hybrid run its stream at ``layer`` goes on into the tuned model.

    Attributes:
        components: [k] of the edit; None: all.
        left_out: what the edit leaves out instead: the tuned model without it, up to ``layer`` (hybrid alone).
        noise: a seed; the stream moves as far as the edit moves it at each position, in random directions.
    """

    layer: int
    edit: WeightEdit
    components: Tensor | None = None
    factor: float = 1.0
    run: Run = "hybrid"
    towards: Towards = "tuned"
    left_out: bool = False
    noise: int | None = None

    @property
    def edits_weights(self) -> bool:
        """See `Patch.edits_weights`."""
        return self.run != "hybrid"

    @contextmanager
    def inside(self, clean: Clean) -> Iterator[tuple[Model, Tensor]]:
        """See `Patch.inside`."""
        ids, mask = clean.batch.ids, clean.batch.mask
        taken_out = self.left_out or self.run == "without"
        model = clean.tuned if taken_out else clean.reference
        if self.run != "hybrid":
            with self._applied(model, taken_out):
                yield model, hidden(model, ids, mask, clean.last)
            return
        with self._applied(model, taken_out):
            moved = hidden(model, ids, mask, self.layer)[clean.counts[self.layer]]
        if self.noise is not None:
            rows = clean.rows(self.layer)
            moved = rows.h_b + noise_like(rows, moved - rows.h_b, self.noise)
        yield clean.tuned, clean.go_on(clean.tuned, self.layer, clean.placed(self.layer, moved, self.run))

    def _applied(self, model: Model, taken_out: bool) -> AbstractContextManager[None]:
        return self.edit.applied(model, self.components, -self.factor if taken_out else self.factor)


def none(streams: Streams) -> Tensor:
    """The arm that adds nothing."""
    return torch.zeros_like(streams.h_b)


def true_delta(streams: Streams) -> Tensor:
    """The arm that adds everything."""
    return streams.h_t - streams.h_b


def noise_like(rows: Streams, added: Tensor, seed: int) -> Tensor:
    """[T, d]: at each row a random direction as long as what is added there; the same for the same rows and seed."""
    salt = f"{len(rows)} {int(rows.position.sum())}"
    generator = torch.Generator().manual_seed(derive(seed, "noise", salt))
    noise = torch.randn(added.shape, generator=generator).to(added)
    length = added.double().norm(dim=1) / noise.double().norm(dim=1).clamp_min(1e-12)
    sized: Tensor = noise * length.to(added)[:, None]
    return sized


@torch.inference_mode()
def outlier_limits(reference: Model, tuned: Model, corpus: Corpus, layers: list[int]) -> dict[int, tuple[float, float]]:
    """By layer: 10x the median norm of h_b and of h_t over the positions of a corpus that count."""
    if not layers:
        return {}
    norms: dict[int, tuple[list[Tensor], list[Tensor]]] = {layer: ([], []) for layer in layers}
    for _, batch in corpus.packed(BATCH_TOKENS):
        for side, model in enumerate((reference, tuned)):
            for layer, stream in hidden_layers(model, batch.ids, batch.mask, layers).items():
                norms[layer][side].append(stream[batch.counts].norm(dim=-1))
    medians = {layer: tuple(float(torch.cat(parts).median()) for parts in sides) for layer, sides in norms.items()}
    return {layer: (OUTLIER * b, OUTLIER * t) for layer, (b, t) in medians.items()}


@torch.inference_mode()
def last_logits(
    reference: Model, tuned: Model, batch: Corpus, patches: Sequence[Patch], limits: Limits
) -> Iterator[Tensor]:
    """Next-token logits [B, V] after the last token of each document: of both models, then of each edited run."""
    clean = Clean.of(reference, tuned, batch, limits)
    ends = (torch.arange(len(batch)), batch.last)
    for model, streams in ((reference, clean.h_b), (tuned, clean.h_t)):
        yield unembed(model, streams[clean.last][ends])
    for patch in patches:
        with patch.inside(clean) as (model, stream):
            found = unembed(model, stream[ends])
        yield found
