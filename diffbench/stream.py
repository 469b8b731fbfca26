"""Stream: rows made on the fly by both models and mixed in a buffer, for text whose activations nobody wants to store.

Documents come in a fresh random order in every pass; their rows wait in the buffer, from which batches are drawn at
random until it is half empty. Rows and scales are those that a harvest of the same text would store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffbench.activations import Activations, outlier_limits, outlying, require_batch
from diffbench.corpus import Corpus
from diffbench.errors import CacheError
from diffbench.harvest import BATCH_TOKENS, CHUNK, half
from diffbench.residual import Model, check_layer, hidden

BUFFER_ROWS = 1 << 16
GROUP_DOCUMENTS = 256
"""Documents that are run together, in batches of like length."""

Halves = tuple[Tensor, Tensor]


class Stream:
    """Rows of a corpus in bounded memory; they are `diffbench.activations.Rows`.

    Args:
        reference: the model of h_b.
        tuned: the model of h_t; both are loaded.
        corpus: the text.
        layer: 0-based block.
        known: stored rows of the same pair and layer, of other text: scales and the outliers' limits are theirs.
        buffer_rows: rows that are mixed; they take 4 bytes per entry of a row.
        charge: told the number of tokens whenever both models have read some.

    Raises:
        OptionError: if the models have no such layer.
    """

    def __init__(
        self,
        reference: Model,
        tuned: Model,
        corpus: Corpus,
        layer: int,
        known: Activations,
        buffer_rows: int = BUFFER_ROWS,
        charge: Callable[[int], None] = lambda n_tokens: None,
    ) -> None:
        for model in (reference, tuned):
            check_layer(model, layer)
        self._models = reference, tuned
        self._corpus, self._layer, self._known, self._charge = corpus, layer, known, charge
        self._capacity = buffer_rows
        self._limits = known.outlier_norms or _limits(known)

    @property
    def layer(self) -> int:
        """The 0-based block whose output the rows are."""
        return self._layer

    @property
    def width(self) -> int:
        """Residual width d."""
        return self._known.width

    def __len__(self) -> int:
        return self._corpus.n_tokens

    def known(self) -> Activations:
        """The stored rows."""
        return self._known

    def batches(self, size: int, seed: int) -> Iterator[Halves]:
        """Endless batches (h_b, delta), raw float32 [size, d] each, as `Rows` says.

        Raises:
            CacheError: if there are fewer rows than one batch, or the buffer holds fewer than two batches.
        """
        require_batch(len(self), size)
        if self._capacity < 2 * size:
            raise CacheError(
                f"buffer: {self._capacity} rows mix no batches of {size}; take at least {2 * size} rows or a smaller "
                "batch"
            )
        return self._batches(size, torch.Generator().manual_seed(seed))

    def _batches(self, size: int, generator: torch.Generator) -> Iterator[Halves]:
        buffer = _Buffer(self._capacity, self._capacity + self._longest_run(), self.width)
        while True:
            source = self._run_all(generator)
            rest, more = buffer.filled, True  # what the last pass left is served first
            while more:
                more = buffer.fill(source)
                order = torch.cat(
                    [torch.arange(rest), rest + torch.randperm(buffer.filled - rest, generator=generator)]
                )
                rest = 0
                count = buffer.filled // (2 * size if more else size)
                for chosen in order[: count * size].split(size):
                    yield self._raw(buffer.base, chosen, 0), self._raw(buffer.delta, chosen, 1)
                buffer.keep(order[count * size :])

    def _longest_run(self) -> int:
        """Most rows that one forward pass gives."""
        return max(BATCH_TOKENS, self._corpus.ids.shape[1])

    def _raw(self, halves: Tensor, chosen: Tensor, side: int) -> Tensor:
        scale = (self._known.base_scale, self._known.delta_scale)[side]
        return halves.index_select(0, chosen).float().mul_(scale)

    def _run_all(self, generator: torch.Generator) -> Iterator[Halves]:
        """The rows of one pass, a forward pass of each model at a time."""
        found = 0
        for group in torch.randperm(len(self._corpus), generator=generator).split(GROUP_DOCUMENTS):
            for _, batch in self._corpus.rows(group).packed(BATCH_TOKENS):
                base, delta = self._run(batch)
                found += len(base)
                yield base, delta
        if found == 0:
            raise CacheError(f"layer {self._layer}: every row of the text is an outlier beside the stored ones")

    @torch.inference_mode()
    def _run(self, batch: Corpus) -> Halves:
        h_b, h_t = (hidden(model, batch.ids, batch.mask, self._layer)[batch.counts].float() for model in self._models)
        self._charge(int(batch.mask.sum()))
        norms = h_b.norm(dim=-1), h_t.norm(dim=-1)
        if not bool(torch.isfinite(norms[0]).all() and torch.isfinite(norms[1]).all()):
            raise CacheError(f"layer {self._layer}: activations hold NaN or infinite values")
        kept = ~outlying(*norms, self._limits)
        h_b, delta = h_b[kept], (h_t - h_b)[kept]
        return half(h_b, self._known.base_scale), half(delta, self._known.delta_scale)


class _Buffer:
    """Room for rows: the first ``filled`` of them are there."""

    def __init__(self, wanted: int, room: int, width: int) -> None:
        self.wanted, self.filled = wanted, 0
        self.base = torch.empty(room, width, dtype=torch.float16)
        self.delta = torch.empty(room, width, dtype=torch.float16)

    def fill(self, source: Iterator[Halves]) -> bool:
        """Take rows until there are enough; False if the source gave out before."""
        while self.filled < self.wanted:
            found = next(source, None)
            if found is None:
                return False
            rows = slice(self.filled, self.filled + len(found[0]))
            self.base[rows], self.delta[rows] = found
            self.filled = rows.stop
        return True

    def keep(self, order: Tensor) -> None:
        """Let go of all rows but some."""
        for rows in (self.base, self.delta):
            rows[: len(order)] = rows.index_select(0, order)
        self.filled = len(order)


def _limits(known: Activations) -> tuple[float, float]:
    """The limits of rows that were not harvested: 10x the median norm of what is stored."""
    norms_b, norms_t = torch.empty(len(known)), torch.empty(len(known))
    for start in range(0, len(known), CHUNK):
        h_b, delta = known.rows(slice(start, start + CHUNK))
        norms_b[start : start + CHUNK], norms_t[start : start + CHUNK] = h_b.norm(dim=-1), (h_b + delta).norm(dim=-1)
    return outlier_limits(norms_b, norms_t)
