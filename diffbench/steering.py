"""Steering: two models run with something added to them or taken out, in the reference, the tuned model or a hybrid.

The hybrid has the reference's blocks up to a layer and the tuned model's above (Aranguri, Drori & Nanda 2025). BOS is
left alone, and in a hybrid it takes the tuned model's stream, as in every patched run of this engine; outliers are not
looked for, since what is one depends on a text. Nothing is cached between tokens: every logit is that of a whole
forward pass. `diffbench.decoding` says the same token by token.

Shapes: B texts, L positions, d residual width, V vocabulary, T rows, n components, k of them chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffbench.activations import OUTLIER
from diffbench.architecture import Model, blocks, vocabulary
from diffbench.attribution import Decoder, directions_of
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, DirectionDiff
from diffbench.edit import ActivationEdit, Streams
from diffbench.errors import DiffError, OptionError
from diffbench.residual import check_layer, hidden, hidden_from, unembed
from diffbench.weight_edit import WeightEdit

BATCH_TOKENS = 4096

Run = Literal["reference", "tuned", "hybrid"]
"""The model that speaks; a hybrid is the reference up to a layer and the tuned model above it."""
Mode = Literal["add", "remove"]


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction, the same at every token: added at a length, or projected out.

    Attributes:
        vector: [d], of length 1.
        size: the raw length of strength 1, from `stream_size` or `active_size`.
    """

    vector: Tensor
    size: float

    @classmethod
    def of(
        cls, diff: DictionaryDiff | DirectionDiff, component: int, size: float, decoder: Decoder = "difference"
    ) -> Direction:
        """The direction in which a component adds.

        Raises:
            DiffError: if it has none.
        """
        vector = directions_of(diff, decoder)[component]
        if not bool(vector.isfinite().all()):
            raise DiffError(f"component {component} adds nothing, so it has no direction")
        return cls(vector, size)


@dataclass(frozen=True, slots=True)
class Components:
    """Components of a Diff, each as active as it is at the token, read from both models.

    Attributes:
        edit: of the Diff.
        chosen: [k] int64.
    """

    edit: ActivationEdit
    chosen: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Components of a weight difference; they act at BOS too. In a hybrid they are put into the reference's blocks.

    Attributes:
        edit: of the Diff.
        chosen: [k] int64; None: all.
    """

    edit: WeightEdit
    chosen: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Steer:
    """What is done to which run.

    Attributes:
        what: None: nothing; the run is as it is.
        layer: the 0-based block whose output is edited, and after which a hybrid goes on as the tuned model.
        strength: how often the thing is added or taken out; 1 is the length of `Direction.size`, or what components
            really add. A direction is projected out entirely by 1.
        mode: whether it is added or taken out.
        run: who is steered.
    """

    what: Direction | Components | Weights | None
    layer: int
    strength: float = 1.0
    mode: Mode = "add"
    run: Run = "hybrid"

    def __post_init__(self) -> None:
        if isinstance(self.what, Components) and self.what.edit.layer != self.layer:
            raise OptionError(f"layer: the components live at layer {self.what.edit.layer}, not at {self.layer}")

    @property
    def factor(self) -> float:
        """The strength, negative where something is taken out."""
        return self.strength if self.mode == "add" else -self.strength

    def moved(self, own: Tensor, streams: Streams) -> Tensor:
        """[T, d]: rows of the run's own stream after steering; ``streams`` are both models' at the same tokens."""
        if isinstance(self.what, Components):
            return own + self.factor * self.what.edit.subset(streams, self.what.chosen)
        if isinstance(self.what, Direction):
            vector = self.what.vector
            size = self.what.size if self.mode == "add" else own @ vector
            return own + self.factor * torch.as_tensor(size)[..., None] * vector
        return own


@dataclass(frozen=True, slots=True)
class Speaker:
    """A steered pair that says what comes next."""

    steer: Steer
    reference: Model
    tuned: Model

    def __post_init__(self) -> None:
        check_layer(self.tuned, self.steer.layer)

    @property
    def below(self) -> Model:
        """The model of the blocks up to the layer, which is steered."""
        return self.tuned if self.steer.run == "tuned" else self.reference

    @property
    def above(self) -> Model:
        """The model of the blocks after it, and of the words."""
        return self.reference if self.steer.run == "reference" else self.tuned

    @property
    def places(self) -> int | None:
        """The most tokens of a text that the models have places for, as far as they say."""
        found = [getattr(model.config, "max_position_embeddings", None) for model in (self.reference, self.tuned)]
        return min((int(places) for places in found if places), default=None)

    @property
    def words(self) -> int:
        """Rows V of the unembedding."""
        return vocabulary(self.reference)

    @torch.inference_mode()
    def after(self, batch: Corpus) -> Tensor:
        """[B, V] float32: logits of the token after each text."""
        with self._inside(batch) as (model, stream):
            return unembed(model, stream[torch.arange(len(batch)), batch.last]).float()

    @torch.inference_mode()
    def at(self, batch: Corpus, where: Tensor) -> Tensor:
        """[T, V] float32: logits of the token after each position of ``where`` [B, L]."""
        with self._inside(batch) as (model, stream):
            return unembed(model, stream[where]).float()

    @contextmanager
    def _inside(self, batch: Corpus) -> Iterator[tuple[Model, Tensor]]:
        """Who speaks, and the stream [B, L, d] leaving its last block; weights are steered while inside."""
        steer, ids, mask = self.steer, batch.ids, batch.mask
        below, above = self.below, self.above
        if steer.run != "hybrid" and not isinstance(steer.what, Direction | Components):
            with self.edited(below):
                yield below, hidden(below, ids, mask, len(blocks(below)) - 1)
            return
        with self.edited(below):
            own = hidden(below, ids, mask, steer.layer)
        stream, counts = own.clone(), batch.counts
        if steer.run == "hybrid":
            self._take_tuned(stream, batch)
        stream[counts] = steer.moved(own[counts].float(), self._streams(batch, own)).to(own.dtype)
        yield above, hidden_from(above, ids, mask, steer.layer, stream)

    def edited(self, model: Model) -> AbstractContextManager[None]:
        """``model`` has the weights added or taken out that are steered, if weights are, while inside."""
        what = self.steer.what
        return what.edit.applied(model, what.chosen, self.steer.factor) if isinstance(what, Weights) else nullcontext()

    def _take_tuned(self, stream: Tensor, batch: Corpus) -> None:
        """Put the tuned model's stream where nothing is edited: at BOS."""
        alone = batch.mask & ~batch.counts
        if bool(alone.any()):
            end = int(alone.any(dim=0).nonzero().max()) + 1  # what comes later has no part in it
            taken = hidden(self.tuned, batch.ids[:, :end], batch.mask[:, :end], self.steer.layer)
            stream[:, :end][alone[:, :end]] = taken[alone[:, :end]]

    def _streams(self, batch: Corpus, own: Tensor) -> Streams:
        """Both models' rows that count; the run's own where nothing is read from the other."""
        steer, counts = self.steer, batch.counts
        other = own
        if isinstance(steer.what, Components):
            model = self.reference if steer.run == "tuned" else self.tuned
            other = hidden(model, batch.ids, batch.mask, steer.layer)
        h_b, h_t = (other, own) if steer.run == "tuned" else (own, other)
        return Streams(h_b[counts].float(), h_t[counts].float(), counts.nonzero()[:, 1])


@torch.inference_mode()
def stream_size(model: Model, corpus: Corpus, layer: int) -> float:
    """The stream's own scale: mean norm of what leaves block ``layer`` at the positions that count, outliers apart."""
    norms = torch.cat(
        [
            hidden(model, batch.ids, batch.mask, layer)[batch.counts].float().norm(dim=-1)
            for _, batch in corpus.packed(BATCH_TOKENS)
        ]
    )
    return float(norms[norms <= OUTLIER * norms.median()].double().mean())


@torch.inference_mode()
def active_size(edit: ActivationEdit, component: int, reference: Model, tuned: Model, corpus: Corpus) -> float:
    """A component's own scale: mean length of what it adds, over the positions where it adds anything.

    Raises:
        DiffError: if it adds nothing in the whole text.
    """
    chosen, total, n = torch.tensor([component]), 0.0, 0
    for _, batch in corpus.packed(BATCH_TOKENS):
        h_b, h_t = (
            hidden(model, batch.ids, batch.mask, edit.layer)[batch.counts].float() for model in (reference, tuned)
        )
        lengths = edit.subset(Streams(h_b, h_t, batch.counts.nonzero()[:, 1]), chosen).norm(dim=1)
        total += float(lengths.sum(dtype=torch.float64))
        n += int((lengths > 0).sum())
    if n == 0:
        raise DiffError(f"component {component} is never active in the text, so it has no size of its own")
    return total / n
