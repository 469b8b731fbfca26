"""Harvested rows: which they are, and what half precision leaves of a small difference."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from engine_factory import OUTLIER_WORD, WIDTH, labelled_corpus, small_pair, word

from diffbench import activations
from diffbench.activations import Activations, harvest, outliers
from diffbench.errors import CacheError
from diffbench.residual import hidden

LAYER = 1


def test_rows_are_the_streams_of_the_positions_that_count() -> None:
    corpus, (reference, tuned) = labelled_corpus(1500), small_pair()
    assert len(corpus) > activations.BATCH_DOCUMENTS  # more than one batch, so that document indices move on
    found = harvest(reference, tuned, corpus, LAYER)
    h_b = hidden(reference, corpus.ids, corpus.mask, LAYER)
    h_t = hidden(tuned, corpus.ids, corpus.mask, LAYER)
    where = (found.document.long(), found.position.long())
    assert corpus.counts[where].all()
    base, delta = found.load()
    torch.testing.assert_close(base, h_b[where], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(delta, (h_t - h_b)[where], rtol=1e-3, atol=1e-3)


def test_outliers_are_left_out_and_counted() -> None:
    corpus = labelled_corpus(600)
    found = harvest(*small_pair(), corpus, LAYER)
    lamps = (corpus.ids == word(OUTLIER_WORD)) & corpus.counts
    kept = torch.zeros_like(corpus.counts)
    kept[found.document.long(), found.position.long()] = True
    assert lamps.any()
    assert torch.equal(kept, corpus.counts & ~lamps)
    assert found.outlier_share == pytest.approx(float(lamps.sum()) / corpus.n_tokens, abs=1e-6)


def test_an_outlier_of_either_model_is_one() -> None:
    plain = torch.ones(5, 2)
    one, other = plain.clone(), plain.clone()
    one[1] *= 10.1
    other[3] *= 10.1
    other[4] *= 9.9
    assert outliers(one, other).tolist() == [False, True, False, True, False]


def test_outliers_are_looked_for_in_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, pair = labelled_corpus(300), small_pair()
    seen: list[torch.Tensor] = []

    def watch(h_b: torch.Tensor, h_t: torch.Tensor) -> torch.Tensor:
        seen.extend((h_b, h_t))
        return torch.zeros(len(h_b), dtype=torch.bool)

    monkeypatch.setattr(activations, "outliers", watch)
    harvest(*pair, corpus, LAYER)
    for model, found in zip(pair, seen, strict=True):
        torch.testing.assert_close(found, hidden(model, corpus.ids, corpus.mask, LAYER)[corpus.counts])


def test_half_precision_keeps_a_small_difference_of_large_vectors() -> None:
    reference = small_pair(outlier=False)[0]
    tuned = copy.deepcopy(reference)
    noise = torch.randn(
        reference.model.layers[LAYER].mlp.down_proj.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    tuned.model.layers[LAYER].mlp.down_proj.weight += 4e-5 * noise
    corpus = labelled_corpus(300)
    exact = [hidden(m, corpus.ids, corpus.mask, LAYER).double()[corpus.counts] for m in (reference, tuned)]
    delta = exact[1] - exact[0]
    share = (delta.norm(dim=1) / exact[0].norm(dim=1)).mean()
    assert 2e-5 < share < 5e-4  # half precision of h_t itself would leave next to nothing of it
    _, stored = harvest(reference, tuned, corpus, LAYER).load()
    assert ((stored.double() - delta).norm(dim=1) / delta.norm(dim=1)).max() < 1e-3


def test_saved_and_opened_exactly(tmp_path: Path) -> None:
    found = harvest(*small_pair(), labelled_corpus(), LAYER)
    found.save(tmp_path / "a")
    again = Activations.open(tmp_path / "a")
    for name in Activations.__slots__:
        one, other = getattr(found, name), getattr(again, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name
    assert again.width == WIDTH
    chosen = torch.tensor([3, 1])
    for some, every in zip(again.rows(chosen), found.load(), strict=True):
        assert torch.equal(some, every[chosen])


def test_equal_models_have_a_delta_of_zero() -> None:
    reference = small_pair()[0]
    found = harvest(reference, reference, labelled_corpus(), LAYER)
    assert not found.delta.any()
    assert found.delta_scale == 1.0


def test_values_that_are_not_finite_are_refused() -> None:
    reference, tuned = small_pair()
    broken = copy.deepcopy(tuned)
    broken.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(CacheError, match=f"layer {LAYER}: activations hold NaN or infinite values"):
        harvest(reference, broken, labelled_corpus(), LAYER)


def test_values_that_leave_half_precision_are_refused() -> None:
    with pytest.raises(CacheError, match="leave half precision"):
        activations._half(torch.tensor([1.0, 70_000.0]), 1.0)
    assert torch.isfinite(activations._half(torch.tensor([1.0, 60_000.0]), 1.0)).all()


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CacheError, match=f"{tmp_path}.*no readable activations"):
        Activations.open(tmp_path / "a")
