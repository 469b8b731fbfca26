"""Rows made on the fly: the same ones that a harvest stores, each once per pass, in bounded memory."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from engine_factory import OUTLIER_WORD, labelled_corpus, small_pair, word
from torch import Tensor

from diffbench import stream as streaming
from diffbench.activations import Activations, Rows
from diffbench.design import Design, TopK
from diffbench.dictionary import added_by_all
from diffbench.errors import CacheError, OptionError
from diffbench.harvest import harvest
from diffbench.options import BatchTopKOptions
from diffbench.stream import Stream
from diffbench.training import train

LAYER = 1
SIZE = 64


@pytest.fixture(scope="module")
def stored() -> Activations:
    """All rows of the text that is streamed, as a harvest gives them."""
    return harvest(*small_pair(), labelled_corpus(1500), LAYER)


def stream(known: Activations, **changes: Any) -> Stream:
    return Stream(*small_pair(), labelled_corpus(1500), LAYER, known, **{"buffer_rows": 300} | changes)


def drawn(source: Stream | Activations, size: int, seed: int, n: int) -> tuple[Tensor, Tensor]:
    batches = list(islice(source.batches(size, seed), n))
    assert all(part.shape == (size, source.width) and part.dtype == torch.float32 for pair in batches for part in pair)
    return torch.cat([h_b for h_b, _ in batches]), torch.cat([delta for _, delta in batches])


def which(served: Tensor, known: Activations) -> list[int]:
    """The stored row that each served row is; words repeat in short texts, so delta and h_b decide together."""
    distance = torch.cdist(served.double(), torch.cat(known.load(), dim=1).double())
    assert float((distance.min(dim=1).values / served.norm(dim=1)).max()) < 2e-3
    return [int(index) for index in distance.argmin(dim=1)]


def distinct(known: Activations) -> list[int]:
    """For every stored row the first one that holds the same (first words of texts are the same)."""
    both = torch.cat(known.load(), dim=1).double()
    return [int(i) for i in (torch.cdist(both, both) / both.norm(dim=1) < 4e-3).int().argmax(dim=1)]


def test_every_pass_serves_the_rows_of_a_harvest_once(stored: Activations) -> None:
    n, first = len(stored), distinct(stored)
    whole = torch.cat(drawn(stream(stored), SIZE, 0, 3 * n // SIZE), dim=1)
    for start in (0, n):
        served = Counter(first[index] for index in which(whole[start : start + n], stored))
        assert served == Counter(first)
    assert not torch.equal(whole[:n], whole[n : 2 * n])


def test_batches_are_distributed_as_those_of_stored_rows(stored: Activations) -> None:
    n = 8 * len(stored) // SIZE
    for streamed, cached in zip(drawn(stream(stored), SIZE, 0, n), drawn(stored, SIZE, 0, n), strict=True):
        one, other = streamed.double(), cached.double()
        spread = other.std(dim=0)
        assert ((one.mean(dim=0) - other.mean(dim=0)).abs() / spread).max() < 0.02  # all but one rest are the same rows
        torch.testing.assert_close(one.T.cov(), other.T.cov(), rtol=0.05, atol=0.02 * float(spread.max()) ** 2)
    means = [
        torch.stack([h_b.mean(dim=0) for h_b, _ in islice(rows.batches(SIZE, 1), n)]).double()
        for rows in (stream(stored), stored)
    ]
    between = [float(mean.var(dim=0).sum()) for mean in means]
    assert between[0] == pytest.approx(between[1], rel=0.35)  # badly mixed batches would differ much more


def test_a_buffer_that_does_not_mix_would_be_seen(stored: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    n = 8 * len(stored) // SIZE
    means = torch.stack([h_b.mean(dim=0) for h_b, _ in islice(stream(stored).batches(SIZE, 1), n)]).double()
    monkeypatch.undo()
    mixed = torch.stack([h_b.mean(dim=0) for h_b, _ in islice(stored.batches(SIZE, 1), n)]).double()
    assert float(means.var(dim=0).sum()) > 1.35 * float(mixed.var(dim=0).sum())


def test_the_order_follows_the_seed(stored: Activations) -> None:
    one, same, other = (drawn(stream(stored), SIZE, seed, 30)[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_outliers_are_those_of_the_stored_rows(stored: Activations) -> None:
    corpus = labelled_corpus(1500)
    assert bool((corpus.ids == word(OUTLIER_WORD)).any())
    assert stored.outlier_norms is not None
    n = len(stored) // SIZE
    h_b, delta = drawn(stream(stored), SIZE, 0, n)
    assert h_b.norm(dim=1).max() <= 1.001 * stored.outlier_norms[0]
    assert (h_b + delta).norm(dim=1).max() <= 1.001 * stored.outlier_norms[1]
    tight = replace(stored, outlier_norms=(float(h_b.norm(dim=1).median()), float("inf")))
    half, _ = drawn(stream(tight), SIZE, 0, n)
    assert half.norm(dim=1).max() <= 1.001 * tight.outlier_norms[0]  # type: ignore[index]
    with pytest.raises(CacheError, match=f"layer {LAYER}: every row of the text is an outlier"):
        next(stream(replace(stored, outlier_norms=(0.0, 0.0))).batches(SIZE, 0))


def test_rows_that_were_not_harvested_give_limits_too(stored: Activations) -> None:
    bare = replace(stored, outlier_norms=None)
    for one, other in zip(drawn(stream(bare), SIZE, 0, 9), drawn(stream(stored), SIZE, 0, 9), strict=True):
        assert torch.equal(one, other)


def test_it_is_described_as_rows_are(stored: Activations) -> None:
    found = stream(stored)
    assert (found.layer, found.width, len(found)) == (LAYER, stored.width, labelled_corpus(1500).n_tokens)
    assert found.known() is stored


def test_memory_is_that_of_the_buffer(stored: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fill = streaming._Buffer.fill

    def watched(buffer: Any, source: Any) -> bool:
        more = fill(buffer, source)
        seen.append(buffer.filled)
        assert len(buffer.base) == 300 + 100
        return more

    monkeypatch.setattr(streaming, "BATCH_TOKENS", 100)
    monkeypatch.setattr(streaming._Buffer, "fill", watched)
    drawn(stream(stored), SIZE, 0, 100)
    assert 300 <= max(seen) < 400


def test_tokens_that_are_read_are_charged(stored: Activations) -> None:
    read: list[int] = []
    corpus = labelled_corpus(1500)
    drawn(stream(stored, charge=read.append), SIZE, 0, len(stored) // SIZE)
    assert sum(read) == int(corpus.mask.sum())


def test_what_cannot_be_served_is_refused_at_once(stored: Activations) -> None:
    with pytest.raises(CacheError, match="batch: 9999 rows"):
        stream(stored).batches(9999, 0)
    with pytest.raises(CacheError, match="buffer: 100 rows mix no batches of 64; take at least 128"):
        stream(stored, buffer_rows=100).batches(SIZE, 0)
    with pytest.raises(OptionError, match="layer: 3 does not exist"):
        Stream(*small_pair(), labelled_corpus(), 3, stored)


def test_values_that_cannot_be_kept_are_refused(stored: Activations) -> None:
    broken = copy.deepcopy(small_pair()[1])
    broken.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(CacheError, match=f"layer {LAYER}: activations hold NaN"):
        next(Stream(small_pair()[0], broken, labelled_corpus(), LAYER, stored).batches(SIZE, 0))
    with pytest.raises(CacheError, match="leave half precision"):
        next(stream(replace(stored, delta_scale=1e-7)).batches(SIZE, 0))


def test_batches_can_be_trained_on(stored: Activations) -> None:
    weight = torch.ones(stored.width, 3, requires_grad=True)
    for rows in (stored, stream(stored)):
        h_b, _ = next(rows.batches(SIZE, 0))
        (h_b @ weight).sum().backward()
    assert weight.grad is not None


def test_a_dictionary_trained_on_a_stream_is_as_good() -> None:
    corpus, pair = labelled_corpus(6000), small_pair()
    train_rows, held_out = harvest(*pair, corpus, LAYER).split()
    streamed = Stream(*pair, corpus.rows(slice(int(held_out.document.min()))), LAYER, held_out, buffer_rows=1500)
    h_b, delta = held_out.load()

    def error(rows: Rows, seed: int) -> float:
        """Share of the variance of held-out delta that a diff-SAE leaves."""
        options = BatchTopKOptions(batch=256, tokens=30_000, k=4, lr=3e-3)
        design = Design(target="delta", sparsity=TopK.of(options))
        diff = train(rows, design, options, seed=seed, max_components=999, report=lambda *_: None)
        left = delta - added_by_all(diff, h_b, h_b + delta)
        return float(left.square().sum() / (delta - delta.mean(dim=0)).square().sum())

    cached, made = (torch.tensor([error(rows, seed) for seed in range(3)]) for rows in (train_rows, streamed))
    assert 0.02 < float(cached.mean()) < 0.6
    assert abs(float(made.mean() - cached.mean())) < 3 * float(cached.std()) + 0.05 * float(cached.mean())
