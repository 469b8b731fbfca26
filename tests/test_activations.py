"""Stored rows: batches that go over all of them, halves by document, and files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from engine_factory import WIDTH, labelled_corpus, rows, small_pair

from diffbench.activations import Activations, outliers
from diffbench.errors import CacheError
from diffbench.harvest import harvest

LAYER = 1


def numbered(n: int, per_document: int = 10) -> Activations:
    """Row i holds i in h_b and -i in delta; documents of ``per_document`` rows."""
    values = torch.arange(n).float()[:, None].repeat(1, 2)
    found = rows(values, -values)
    return Activations(
        base=values.half(),
        delta=-values.half(),
        base_scale=1.0,
        delta_scale=1.0,
        document=(torch.arange(n) // per_document).int(),
        position=found.position,
        layer=3,
        outlier_share=0.0,
        outliers=torch.tensor([[0, 4], [n // per_document - 1, 5]], dtype=torch.int32),
    )


def drawn(found: Activations, size: int, seed: int, n: int) -> list[int]:
    return [int(each) for h_b, _ in islice(found.batches(size, seed), n) for each in h_b[:, 0]]


def test_an_outlier_of_either_model_is_one() -> None:
    plain = torch.ones(5, 2)
    one, other = plain.clone(), plain.clone()
    one[1] *= 10.1
    other[3] *= 10.1
    other[4] *= 9.9
    assert outliers(one, other).tolist() == [False, True, False, True, False]


def test_every_pass_serves_every_row_once_in_an_order_of_its_own() -> None:
    served = drawn(numbered(50), 10, seed=0, n=15)
    passes = [served[start : start + 50] for start in (0, 50, 100)]
    assert all(sorted(one) == list(range(50)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert passes[0] != sorted(passes[0])


def test_what_is_left_of_a_pass_opens_the_next_one() -> None:
    served = drawn(numbered(50), 15, seed=0, n=10)
    assert all(sorted(served[start : start + 50]) == list(range(50)) for start in (0, 50, 100))


def test_the_order_follows_the_seed() -> None:
    found = numbered(50)
    assert drawn(found, 20, 1, 6) == drawn(found, 20, 1, 6) != drawn(found, 20, 2, 6)


def test_batches_are_raw_rows_in_float32() -> None:
    h_b = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 5
    delta = 0.01 * torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    found = rows(h_b, delta)
    base, moved = next(found.batches(40, 0))
    assert base.dtype == moved.dtype == torch.float32 and base.shape == moved.shape == (40, 3)
    order = torch.cdist(base.double(), h_b.double()).argmin(dim=1)
    torch.testing.assert_close(base.double(), h_b[order].double(), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(moved.double(), delta[order].double(), rtol=1e-3, atol=1e-5)
    assert found.known() is found


@pytest.mark.parametrize("size", [51, 0])
def test_fewer_rows_than_one_batch_are_refused_before_anything_is_drawn(size: int) -> None:
    with pytest.raises(CacheError, match=rf"batch: {size} rows .*\b50\b"):
        numbered(50).batches(size, 0)


@pytest.mark.parametrize(("n", "held"), [(200, 2), (90, 1), (20, 1), (140, 1), (160, 2)])
def test_the_last_documents_are_held_out(n: int, held: int) -> None:
    train, held_out = numbered(n).split()
    assert len(train) + len(held_out) == n
    assert len(held_out) == 10 * held
    assert train.document.max() < held_out.document.min()
    assert train.outliers.tolist() == [[0, 4]]
    assert held_out.outliers.tolist() == [[n // 10 - 1, 5]]


def test_halves_share_the_storage() -> None:
    whole = numbered(100)
    for part in whole.split():
        for name in ("base", "delta", "document", "position"):
            assert getattr(part, name).untyped_storage().data_ptr() == getattr(whole, name).untyped_storage().data_ptr()


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(CacheError, match="one document"):
        numbered(10).split()


def test_rows_by_slice_and_by_index_are_the_same() -> None:
    found = numbered(30)
    for one, other in zip(found.rows(slice(3, 7)), found.rows(torch.arange(3, 7)), strict=True):
        assert torch.equal(one, other)


def test_saved_and_opened_exactly(tmp_path: Path) -> None:
    found = harvest(*small_pair(), labelled_corpus(), LAYER)
    found.save(tmp_path / "a")
    again = Activations.open(tmp_path / "a")
    assert len(again.outliers) > 0
    for name in Activations.__slots__:
        one, other = getattr(found, name), getattr(again, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name
    assert again.width == WIDTH
    chosen = torch.tensor([3, 1])
    for some, every in zip(again.rows(chosen), found.load(), strict=True):
        assert torch.equal(some, every[chosen])


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CacheError, match=f"{tmp_path}.*no readable activations"):
        Activations.open(tmp_path / "a")
