"""Corpus: tokenised documents with, for every position, whether it counts and which stratum it is in.

Shapes: N documents, L positions (padded on the right). Position t predicts token t + 1, so the stratum at t is read
from the span that token t + 1 lies in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench.errors import CacheError, RecipeError
from diffbench.line import one_line
from diffbench.text import Document, Part
from diffbench.truth import Stratum

STRATA = (Stratum.unrelated, Stratum.affected, Stratum.near_miss)
"""A stratum's code is its index here."""
PARTS = (Part.none, Part.template, Part.prompt, Part.response)
"""A part's code is its index here."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token ids and what each position is.

    Attributes:
        ids: [N, L] int64, right-padded.
        mask: [N, L] bool, True at tokens (BOS included), False at pads.
        counts: [N, L] bool, True where a position is neither BOS nor pad.
        predicts: [N, L] bool, True where a position counts and has a next token.
        stratum: [N, L] int8, code of the stratum of the next token.
        part: [N, L] int8, code of the part of a conversation that the token itself is in; 0 in plain texts and at pads.
            It follows from the text alone and says nothing of what was changed, so methods are given it.
    """

    ids: Tensor
    mask: Tensor
    counts: Tensor
    predicts: Tensor
    stratum: Tensor
    part: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def n_tokens(self) -> int:
        """Positions that count."""
        return int(self.counts.sum())

    @property
    def affected(self) -> Tensor:
        """[N, L] bool: predicting positions in the affected stratum."""
        return self.predicts & (self.stratum == STRATA.index(Stratum.affected))

    @property
    def last(self) -> Tensor:
        """[N]: the position of each document's last token."""
        return self.mask.sum(dim=1) - 1

    def rows(self, index: slice | Tensor) -> Corpus:
        """Some documents, cut to the longest of them."""
        length = int(self.mask[index].sum(dim=1).max())
        return Corpus(*(getattr(self, name)[index, :length] for name in self.__slots__))

    def tail(self, tokens: int) -> int:
        """The last document from which on at least ``tokens`` positions count; 0 if there are no more in all."""
        behind = self.counts.sum(dim=1).flip(0).cumsum(0)
        return max(0, len(self) - 1 - int(torch.searchsorted(behind, tokens)))

    def batches(self, size: int) -> Iterator[tuple[int, Corpus]]:
        """Batches of ``size`` documents in order, each with the index of its first document."""
        for start in range(0, len(self), size):
            yield start, self.rows(slice(start, start + size))

    def packed(self, tokens: int) -> Iterator[tuple[Tensor, Corpus]]:
        """Batches of documents of like length, the longest first, each with the indices of its documents.

        Args:
            tokens: most positions of a batch, pads included; a document that is longer is a batch of its own.
        """
        lengths = self.mask.sum(dim=1)
        documents = lengths.argsort(descending=True, stable=True)[: int((lengths > 0).sum())]
        start = 0
        while start < len(documents):
            size = max(1, tokens // int(lengths[documents[start]]))
            chosen = documents[start : start + size]
            yield chosen, self.rows(chosen)
            start += size

    def save(self, path: Path, *, labelled: bool) -> None:
        """Write as safetensors; without labels where a method may read it."""
        names = self.__slots__ if labelled else tuple(name for name in self.__slots__ if name != "stratum")
        save_file({name: getattr(self, name).contiguous() for name in names}, path)

    @classmethod
    def load(cls, path: Path) -> Corpus:
        """Read what `save` wrote; a corpus without labels has stratum 0 everywhere, one without parts part 0."""
        try:
            tensors = load_file(path)
        except Exception as error:
            raise CacheError(f"{path}: no readable corpus ({one_line(error, 200)})") from None
        for name in ("stratum", "part"):
            tensors.setdefault(name, torch.zeros_like(tensors["ids"], dtype=torch.int8))
        return cls(**tensors)


def tokenise(
    documents: Iterable[Document],
    tokenizer: Any,
    stratum: Callable[[str], Stratum] = lambda _: Stratum.unrelated,
    *,
    max_tokens: int | None = None,
    max_length: int | None = 1024,
    remap: Mapping[int, int] | None = None,
) -> Corpus:
    """Tokenise documents until ``max_tokens`` positions count (the last document is kept whole).

    A text that begins with the BOS already, as chat templates write it, gets no second one.

    Args:
        documents: may be endless if ``max_tokens`` is given.
        tokenizer: a fast Hugging Face tokenizer.
        stratum: stratum of a span's label.
        max_tokens: how many positions to collect; None: all of the documents.
        max_length: longer documents are cut; None: none is.
        remap: ids that stand for others in the result.
    """
    rows: list[list[int]] = []
    strata: list[list[int]] = []
    parts: list[list[int]] = []
    starts: list[int] = []
    collected = 0
    bos = getattr(tokenizer, "bos_token", None)
    for document in documents:
        encoded = tokenizer(
            document.text,
            add_special_tokens=not (bos and document.text.startswith(bos)),
            return_offsets_mapping=True,
            truncation=max_length is not None,
            max_length=max_length,
            verbose=False,
        )
        ids = list(encoded["input_ids"])
        starts.append(1 if ids and ids[0] == tokenizer.bos_token_id else 0)
        rows.append([remap.get(token, token) for token in ids] if remap else ids)
        strata.append(_strata(document, encoded["offset_mapping"], stratum))
        parts.append(_parts(document, encoded["offset_mapping"]))
        collected += len(ids) - starts[-1]
        if max_tokens is not None and collected >= max_tokens:
            break
    return _pad(rows, strata, parts, starts, pad=tokenizer.pad_token_id or 0)


def _strata(document: Document, offsets: list[tuple[int, int]], stratum: Callable[[str], Stratum]) -> list[int]:
    """Stratum code per position, read from the token after it."""
    codes = [0] * len(offsets)
    for span in document.spans:
        code = STRATA.index(stratum(span.label))
        if code == 0:
            continue
        for index in range(1, len(offsets)):
            start, end = offsets[index]
            if start < span.end and end > span.start:
                codes[index - 1] = code
    return codes


def _parts(document: Document, offsets: list[tuple[int, int]]) -> list[int]:
    """Part code per token: of the part with most of its characters; template for one that the tokenizer added."""
    if not document.parts:
        return [0] * len(offsets)
    codes: list[int] = []
    first = 0  # parts before it end before the token
    for start, end in offsets:
        while first < len(document.parts) - 1 and document.parts[first].end <= start:
            first += 1
        shares: dict[int, int] = {}
        for part in document.parts[first:]:
            if part.start >= end:
                break
            code = PARTS.index(Part(part.label))
            shares[code] = shares.get(code, 0) + max(0, min(end, part.end) - max(start, part.start))
        codes.append(max(shares, key=lambda code: shares[code]) if any(shares.values()) else PARTS.index(Part.template))
    return codes


def _pad(rows: list[list[int]], strata: list[list[int]], parts: list[list[int]], starts: list[int], pad: int) -> Corpus:
    if not rows:
        raise RecipeError("the text generator gave no documents; check the mixture's topics")
    n, length = len(rows), max(len(row) for row in rows)
    ids = torch.full((n, length), pad, dtype=torch.int64)
    mask = torch.zeros(n, length, dtype=torch.bool)
    codes = torch.zeros(n, length, dtype=torch.int8)
    kinds = torch.zeros(n, length, dtype=torch.int8)
    counts = torch.zeros(n, length, dtype=torch.bool)
    predicts = torch.zeros(n, length, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        codes[index, : len(row)] = torch.tensor(strata[index], dtype=torch.int8)
        kinds[index, : len(row)] = torch.tensor(parts[index], dtype=torch.int8)
        mask[index, : len(row)] = True
        counts[index, starts[index] : len(row)] = True
        predicts[index, starts[index] : max(starts[index], len(row) - 1)] = True
    return Corpus(ids=ids, mask=mask, counts=counts, predicts=predicts, stratum=codes, part=kinds)
