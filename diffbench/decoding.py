"""Decoding: texts of steered pairs, read once and from then on token by token.

Each model keeps the keys and values of what it has read, so a new token costs one position instead of a whole text. The
logits are those of `diffbench.steering.Speaker.after` up to rounding: products of other sizes are summed in another
order, and the company of a text in a batch changes that order too. Not every model can be read like this. Whether one
can is asked of what it says of itself, and of its own logits on two short texts (`cacheable`).

Shapes: R rows (a text of one speaker), Q positions read at once, T read so far, d residual width, V vocabulary. Rows
are padded on the left, so that the distance of two tokens is that of their columns, which sliding windows go by.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from diffbench.architecture import Model, blocks, vocabulary, width
from diffbench.corpus import Corpus
from diffbench.edit import Streams
from diffbench.residual import logits
from diffbench.steering import Components, Speaker, Weights

ARGUMENTS = ("attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep")
"""What a model must take to be read token by token."""
ATTENTION = {"full_attention", "sliding_attention"}
"""Blocks whose keys and values are all that they keep, and whose mask follows from the columns."""
ROTATIONS = {"default", "linear", "llama3", "yarn"}
"""Rotary positions that do not depend on how long the text has come to be."""
EXACT, ROUNDED = 1e-4, 3e-2
"""Difference of logits that is rounding, in parts of the largest: float32 on a CPU; anything else."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Positions that are read now.

    Attributes:
        ids: [R, Q].
        mask: [R, T] bool, True at tokens: what was read before, and these.
        position: [R, Q] in each text; 0 at pads.
        counts: [R, Q] bool, where something is steered.
    """

    ids: Tensor
    mask: Tensor
    position: Tensor
    counts: Tensor

    @classmethod
    def padded(cls, text: Corpus) -> _Read:
        """Whole texts, moved to the right."""
        length = text.ids.shape[1]
        column = torch.arange(length) - (length - text.mask.sum(dim=1, keepdim=True))
        position = column.clamp_min(0)
        mask = column >= 0
        counts = text.counts.gather(1, position) & mask
        return cls(text.ids.gather(1, position) * mask, mask, position, counts)


class _Known(Exception):
    """Ends a forward pass as soon as the wanted layer is known."""


class _Reader:
    """A model, and what it keeps of the texts that it reads."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.forget()

    def forget(self) -> None:
        """What comes next are the beginnings of other texts."""
        from transformers import DynamicCache

        # Without a configuration it keeps everything: what lies outside of a window is masked as it is without a cache.
        self._kept = DynamicCache()

    def keep(self, rows: Tensor) -> None:
        """Row i is from now on a copy of what was row ``rows[i]``."""
        self._kept.batch_select_indices(rows.to(self.model.device))

    def stream(self, read: _Read, layer: int) -> Tensor:
        """[R, Q, d] leaving block ``layer``; nothing above it is computed, then or later."""
        found: list[Tensor] = []

        def know(stream: Tensor) -> Tensor:
            found.append(stream)
            raise _Known

        with _changed(self.model, layer, know):
            try:
                self._run(read)
            except _Known:
                pass
        return found[0].to(read.ids.device)

    def logits(self, read: _Read, layer: int, change: Callable[[Tensor], Tensor]) -> Tensor:
        """[R, V] float32 after the last position, with what leaves block ``layer`` changed."""
        with _changed(self.model, layer, change):
            found: Tensor = self._run(read).logits
        return found[:, -1].to(read.ids.device).float()

    def _run(self, read: _Read) -> Any:
        device = self.model.device
        return self.model(
            input_ids=read.ids.to(device),
            attention_mask=read.mask.to(device),
            position_ids=read.position.to(device),
            past_key_values=self._kept,
            use_cache=True,
            logits_to_keep=1,
        )


@contextmanager
def _changed(model: Model, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = blocks(model)[layer].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


class Decoding:
    """Rows of text, each of one of some speakers, as far as they have been read; see `decoding`."""

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        first = speakers[0]
        self._speakers = speakers
        self._layer, self._run = first.steer.layer, first.steer.run
        self._speaks = _Reader(first.above)
        reads_both = any(isinstance(speaker.steer.what, Components) for speaker in speakers)
        self._other: _Reader | None = None
        if self._run == "hybrid" or (reads_both and self._run == "tuned"):
            self._other = _Reader(first.reference)
        elif reads_both:
            self._other = _Reader(first.tuned)
        self._readers = [reader for reader in (self._speaks, self._other) if reader is not None]
        self._who = self._length = torch.zeros(0, dtype=torch.int64)
        self._mask = torch.zeros(0, 0, dtype=torch.bool)

    @torch.inference_mode()
    def begin(self, prompts: Corpus, who: Tensor) -> Tensor:
        """[R, V] float32: logits of the token after each prompt; ``who`` [R] is the number of its speaker."""
        for reader in self._readers:
            reader.forget()
        read = _Read.padded(prompts)
        self._who, self._mask, self._length = who, read.mask, prompts.mask.sum(dim=1)
        return self._after(read)

    @torch.inference_mode()
    def go_on(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """[m, V] float32: logits after rows ``rows`` [m] with one of ``tokens`` [m] each behind them.

        These are the rows from now on; one that is not named is dropped, one that is named twice goes on in two ways.
        """
        if not torch.equal(rows, torch.arange(len(self._who))):
            for reader in self._readers:
                reader.keep(rows)
            self._who, self._mask, self._length = self._who[rows], self._mask[rows], self._length[rows]
        here = torch.ones(len(rows), 1, dtype=torch.bool)
        self._mask = torch.cat([self._mask, here], dim=1)
        read = _Read(tokens[:, None], self._mask, self._length[:, None], here)
        self._length = self._length + 1
        return self._after(read)

    def _after(self, read: _Read) -> Tensor:
        other: Tensor | None = None
        if self._other is not None:
            below = self._speakers[0].edited(self._other.model) if self._run == "hybrid" else nullcontext()
            with below:
                other = self._other.stream(read, self._layer)
        return self._speaks.logits(read, self._layer, lambda stream: self._steered(stream, other, read))

    def _steered(self, stream: Tensor, other: Tensor | None, read: _Read) -> Tensor:
        """What leaves the block of who speaks after steering; ``other`` is the other model's stream."""
        mine = stream.to(read.ids.device)
        theirs = mine if other is None else other
        own, moved = mine, mine.clone()
        if self._run == "hybrid":
            own, moved = theirs, torch.where(read.counts[..., None], theirs, mine)
        h_b, h_t = (mine, theirs) if self._run == "reference" else (theirs, mine)
        for number, speaker in enumerate(self._speakers):
            if speaker.steer.what is None or isinstance(speaker.steer.what, Weights):
                continue
            where = read.counts & (self._who == number)[:, None]
            streams = Streams(h_b[where].float(), h_t[where].float(), read.position[where])
            moved[where] = speaker.steer.moved(own[where].float(), streams).to(moved.dtype)
        return moved.to(stream.device)


@contextmanager
def decoding(speakers: Sequence[Speaker]) -> Iterator[Decoding]:
    """Texts of speakers that `together` groups, none of them read yet; weights are steered while inside."""
    first = speakers[0]
    whole = first.steer.run != "hybrid"
    with first.edited(first.below) if whole else nullcontext():
        yield Decoding(speakers)


def together(speakers: Sequence[Speaker]) -> list[list[int]]:
    """Numbers of the speakers that can be read in one batch: of one pair, run and layer, with no weights edited."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, speaker in enumerate(speakers):
        steer = speaker.steer
        alone = number if isinstance(steer.what, Weights) else None
        key = (id(speaker.reference), id(speaker.tuned), steer.run, steer.layer, alone)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def token_bytes(speaker: Speaker) -> int:
    """At most as many bytes are kept of each token."""
    models = (speaker.reference, speaker.tuned)
    return sum(2 * len(blocks(model)) * width(model) * int(model.dtype.itemsize) for model in models)


_CACHEABLE: WeakKeyDictionary[Model, bool] = WeakKeyDictionary()


def cacheable(*models: Model) -> bool:
    """Whether models say the same when they read token by token as when they read whole texts.

    Some do by what they say of themselves: attention that is full or in a sliding window, positions that do not depend
    on the length of the text, and the arguments for it. They must also do it on two short texts of unequal length, up
    to `EXACT` or `ROUNDED`; that is tried once for each model.
    """
    for model in models:
        if model not in _CACHEABLE:
            _CACHEABLE[model] = _fits(model) and _agrees(model)
    return all(_CACHEABLE[model] for model in models)


def _fits(model: Model) -> bool:
    config = model.config.get_text_config(decoder=True)
    turned = getattr(config, "rope_parameters", None) or {}
    kinds = [turned, *(value for value in turned.values() if isinstance(value, dict))]
    return (
        set(ARGUMENTS) <= set(inspect.signature(model.forward).parameters)
        and set(getattr(config, "layer_types", None) or ()) <= ATTENTION
        and getattr(config, "attention_chunk_size", None) is None
        and all(kind.get("rope_type", "default") in ROTATIONS for kind in kinds)
    )


@torch.inference_mode()
def _agrees(model: Model) -> bool:
    """Two texts: their beginnings at once, then two tokens one by one with the rows exchanged in between."""
    ids = (torch.arange(1, 11) * 7919 % vocabulary(model)).reshape(2, 5)
    places, ends = torch.arange(5), torch.tensor([[5], [3]])
    mask = places < ends
    begun = places[:3] < ends - 2
    start = Corpus(ids[:, :3], begun, begun, begun, begun.to(torch.int8), begun.to(torch.int8))
    try:
        whole = logits(model, ids, mask).float()
        reader, read = _Reader(model), _Read.padded(start)
        found = [reader.logits(read, 0, torch.clone)]
        for step in range(2):
            reader.keep(torch.tensor([1, 0]))
            order = torch.tensor([0, 1]) if step else torch.tensor([1, 0])
            now = torch.tensor([3, 1])[order] + step
            held = torch.cat([read.mask.flip(0), torch.ones(2, 1, dtype=torch.bool)], dim=1)
            read = _Read(ids[order, now][:, None], held, now[:, None], held[:, -1:])
            found.append(reader.logits(read, 0, torch.clone)[order])
    except Exception:  # another architecture can object to any of this in a way of its own; it is read whole
        return False
    exact = model.dtype == torch.float32 and model.device.type == "cpu"
    expected = [torch.stack([whole[0, 2 + step], whole[1, step]]) for step in range(3)]
    most = (EXACT if exact else ROUNDED) * whole[mask].abs().max()
    return all(bool((one - other).abs().max() <= most) for one, other in zip(found, expected, strict=True))
