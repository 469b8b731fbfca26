"""The logit lens in blocks against all scores at once in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_factory import WIDTH, labelled_corpus, small_pair, word_tokenizer
from torch import Tensor

from diffbench import lens
from diffbench.lens import SEEN_AT_LEAST, Lens


class Numbers:
    """A tokenizer whose tokens are their numbers, and that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, ids: list[int]) -> str:
        self.asked += 1
        return f" {ids[0]} "


def slow(vectors: Tensor, unembedding: Tensor, gain: Tensor, seen: list[int], top: int) -> list[Any]:
    found = []
    for vector in vectors.double():
        scores = {i: float((unembedding[i].double() * gain.double()) @ vector) for i in seen}
        order = sorted(seen, key=lambda i: -scores[i])
        found.append(([str(i) for i in order[:top]], [str(i) for i in order[::-1][:top]]))
    return found


@pytest.mark.parametrize(("tokens", "rows"), [(8192, 2048), (7, 3), (1, 1), (50, 4)])
def test_blocks_of_any_size_give_the_same_tokens(tokens: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "TOKEN_BLOCK", tokens)
    monkeypatch.setattr(lens, "VECTOR_BLOCK", rows)
    draw = torch.Generator().manual_seed(0)
    unembedding, gain = torch.randn(120, 8, generator=draw), torch.rand(8, generator=draw) + 0.5
    vectors, seen = torch.randn(9, 8, generator=draw), torch.randperm(120, generator=draw)[:50].sort().values
    found = Lens(unembedding, gain, seen, Numbers()).read(vectors, top=6)
    assert found == slow(vectors, unembedding, gain, seen.tolist(), 6)


def test_a_token_is_decoded_once() -> None:
    numbers = Numbers()
    Lens(torch.randn(20, 4), torch.ones(4), torch.arange(20), numbers).read(torch.randn(300, 4), top=10)
    assert numbers.asked <= 20


@pytest.mark.parametrize(("n", "seen", "top"), [(0, 5, 10), (3, 0, 10), (3, 2, 10), (3, 5, 0)])
def test_nothing_to_read_is_nothing(n: int, seen: int, top: int) -> None:
    found = Lens(torch.randn(20, 4), torch.ones(4), torch.arange(seen), Numbers()).read(torch.randn(n, 4), top=top)
    assert len(found) == n and all(len(up) == len(down) == min(seen, top) for up, down in found)


def test_the_lens_of_a_model_names_what_its_text_holds() -> None:
    tuned, corpus = small_pair()[1], labelled_corpus(400)
    made = Lens.of(tuned, word_tokenizer(), corpus)
    counts = torch.bincount(corpus.ids[corpus.counts], minlength=len(made.unembedding))
    assert made.seen.tolist() == [i for i, n in enumerate(counts.tolist()) if n >= SEEN_AT_LEAST]
    assert 0 < len(made.seen) < len(counts) and made.gain.shape == (WIDTH,)


def test_a_large_vocabulary_is_never_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated at a time is bounded by the blocks: no tensor of n x V, and no copy of the unembedding."""
    largest = 0
    real = torch.Tensor.__matmul__

    def watched(self: Tensor, other: Tensor) -> Tensor:
        nonlocal largest
        result = real(self, other)
        largest = max(largest, result.numel(), other.numel())
        return result

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    unembedding = torch.randn(30_000, 4)
    Lens(unembedding, torch.ones(4), torch.arange(30_000), Numbers()).read(torch.randn(5000, 4), top=3)
    assert 0 < largest <= lens.TOKEN_BLOCK * lens.VECTOR_BLOCK
