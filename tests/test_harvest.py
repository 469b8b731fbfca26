"""Harvested rows: which they are, what half precision leaves of a small difference, how many models are in memory."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import OUTLIER_WORD, labelled_corpus, small_pair, word, word_tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from diffbench import harvest as harvesting
from diffbench import residual
from diffbench.activations import Activations
from diffbench.corpus import Corpus
from diffbench.errors import CacheError, OptionError
from diffbench.harvest import harvest
from diffbench.residual import ModelFolder, hidden

LAYER = 1


def direct(corpus: Corpus, found: Activations, layer: int = LAYER) -> tuple[Tensor, Tensor]:
    """h_b and delta of the rows in question, from plain forward passes over the whole corpus."""
    where = (found.document.long(), found.position.long())
    h_b, h_t = (hidden(model, corpus.ids, corpus.mask, layer).double()[where] for model in small_pair())
    return h_b, h_t - h_b


def test_rows_are_the_streams_of_the_positions_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvesting, "BATCH_TOKENS", 100)  # many batches, whose documents come by length
    monkeypatch.setattr(harvesting, "CHUNK", 64)
    corpus = labelled_corpus(1500)
    found = harvest(*small_pair(), corpus, LAYER)
    h_b, delta = direct(corpus, found)
    base, moved = found.load()
    torch.testing.assert_close(base.double(), h_b, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved.double(), delta, rtol=1e-3, atol=1e-3)


def test_rows_come_in_the_order_of_the_corpus() -> None:
    found = harvest(*small_pair(), labelled_corpus(900), LAYER)
    place = found.document.long() * 1000 + found.position
    assert (place.diff() > 0).all()


def test_scales_are_root_mean_squares() -> None:
    corpus = labelled_corpus(900)
    found = harvest(*small_pair(), corpus, LAYER)
    h_b, delta = direct(corpus, found)
    assert found.base_scale == pytest.approx(float(h_b.square().mean().sqrt()), rel=1e-5)
    assert found.delta_scale == pytest.approx(float(delta.square().mean().sqrt()), rel=1e-5)


def test_outliers_bos_and_pads_are_left_out_and_recorded() -> None:
    corpus = labelled_corpus(600)
    found = harvest(*small_pair(), corpus, LAYER)
    lamps = (corpus.ids == word(OUTLIER_WORD)) & corpus.counts
    kept = torch.zeros_like(corpus.counts)
    kept[found.document.long(), found.position.long()] = True
    assert lamps.any()
    assert torch.equal(kept, corpus.counts & ~lamps)
    assert torch.equal(found.outliers.long(), lamps.nonzero())
    assert found.outlier_share == pytest.approx(float(lamps.sum()) / corpus.n_tokens, abs=1e-6)
    assert found.bos == len(corpus)
    assert found.pads == int((~corpus.mask).sum()) > 0


def test_outliers_are_measured_by_the_medians_of_both_models() -> None:
    corpus = labelled_corpus(600)
    found = harvest(*small_pair(), corpus, LAYER)
    norms = [hidden(m, corpus.ids, corpus.mask, LAYER).double()[corpus.counts].norm(dim=1) for m in small_pair()]
    assert found.outlier_norms == pytest.approx([10 * float(norm.median()) for norm in norms], rel=1e-4)


def test_documents_before_the_first_are_left_out() -> None:
    corpus = labelled_corpus(900)
    whole, tail = harvest(*small_pair(), corpus, LAYER), harvest(*small_pair(), corpus, LAYER, first_document=20)
    assert tail.first_document == 20 == int(tail.document.min())
    same = whole.document >= 20
    for name in ("document", "position"):
        assert torch.equal(getattr(tail, name), getattr(whole, name)[same])
    torch.testing.assert_close(tail.load()[1], whole.load()[1][same], rtol=2e-3, atol=1e-4)
    assert (tail.outliers[:, 0] >= 20).all()
    assert tail.bos == len(corpus) - 20


def test_half_precision_keeps_a_small_difference_of_large_vectors() -> None:
    reference = small_pair(outlier=False)[0]
    tuned = copy.deepcopy(reference)
    noise = torch.randn(
        reference.model.layers[LAYER].mlp.down_proj.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    tuned.model.layers[LAYER].mlp.down_proj.weight += 4e-5 * noise
    corpus = labelled_corpus(300)
    found = harvest(reference, tuned, corpus, LAYER)
    where = (found.document.long(), found.position.long())
    exact = [
        torch.cat([hidden(m, batch.ids, batch.mask, LAYER) for _, batch in corpus.batches(len(corpus))])[where].double()
        for m in (reference, tuned)
    ]
    delta = exact[1] - exact[0]
    share = (delta.norm(dim=1) / exact[0].norm(dim=1)).mean()
    assert 2e-5 < share < 5e-4  # half precision of h_t itself would leave next to nothing of it
    _, stored = found.load()
    # The passes themselves round, in batches of another shape here than there; of delta that is up to some percent.
    assert ((stored.double() - delta).norm(dim=1) / delta.norm(dim=1)).max() < 0.05


def test_equal_models_have_a_delta_of_zero() -> None:
    reference = small_pair()[0]
    found = harvest(reference, reference, labelled_corpus(), LAYER)
    assert found.unchanged
    assert found.delta_scale == 1.0


def test_values_that_are_not_finite_are_refused() -> None:
    reference, tuned = small_pair()
    broken = copy.deepcopy(tuned)
    broken.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    for pair in ((reference, broken), (broken, reference)):
        with pytest.raises(CacheError, match=f"layer {LAYER}: activations hold NaN or infinite values"):
            harvest(*pair, labelled_corpus(), LAYER)


@pytest.mark.parametrize("side", ["reference", "tuned"])
def test_constant_activations_are_refused(side: str) -> None:
    pair = {"reference": copy.deepcopy(small_pair()[0]), "tuned": copy.deepcopy(small_pair()[1])}
    for block in pair[side].model.layers:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    pair[side].model.embed_tokens.weight[:] = torch.randn(16)
    with pytest.raises(CacheError, match=f"layer {LAYER}: the {side} model's activations are constant"):
        harvest(pair["reference"], pair["tuned"], labelled_corpus(), LAYER)


def test_a_constant_difference_is_a_difference() -> None:
    reference = small_pair()[0]
    tuned = copy.deepcopy(reference)
    moved = torch.linspace(-1, 1, 16)
    tuned.model.layers[LAYER].register_forward_hook(lambda _m, _a, out: out + moved)
    _, delta = harvest(reference, tuned, labelled_corpus(), LAYER).load()
    torch.testing.assert_close(delta, moved.expand_as(delta), rtol=1e-3, atol=1e-3)


def test_values_that_leave_half_precision_are_refused() -> None:
    with pytest.raises(CacheError, match="leave half precision"):
        harvesting.half(torch.tensor([1.0, 70_000.0]), 1.0)
    assert torch.isfinite(harvesting.half(torch.tensor([1.0, 60_000.0]), 1.0)).all()


@pytest.mark.parametrize("layer", [-1, 3, 40])
def test_a_layer_that_does_not_exist_is_refused(layer: int) -> None:
    with pytest.raises(OptionError, match=rf"layer: {layer} does not exist, the models have blocks 0\.\.2"):
        harvest(*small_pair(), labelled_corpus(), layer)


def test_text_without_a_position_that_counts_is_refused() -> None:
    corpus = labelled_corpus()
    corpus.counts[:] = False
    with pytest.raises(CacheError, match="no position of the text counts"):
        harvest(*small_pair(), corpus, LAYER)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name, model in zip(("reference", "tuned"), small_pair(), strict=True):
        model.save_pretrained(tmp_path / name)
        word_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path / "reference", tmp_path / "tuned"


def test_one_model_is_in_memory_at_a_time(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    load = LlamaForCausalLM.from_pretrained.__func__  # type: ignore[attr-defined]

    def watched(cls: Any, *args: Any, **kwargs: Any) -> Any:
        gc.collect()
        assert not any(each() is not None for each in alive), "another model is still there"
        model = load(cls, *args, **kwargs)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(watched))
    corpus = labelled_corpus(300)
    found = harvest(*residual.pair_of(*folders), corpus, LAYER)
    assert len(alive) == 2
    expected = harvest(*small_pair(), corpus, LAYER)
    for one, other in zip(found.load(), expected.load(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)


def test_rows_too_many_for_memory_go_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = labelled_corpus(300)
    expected = harvest(*small_pair(), corpus, LAYER)
    monkeypatch.setattr(harvesting, "MOST_RAM", 0)
    found = harvest(*small_pair(), corpus, LAYER, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    found.save(tmp_path / "a")
    again = Activations.open(tmp_path / "a")
    for one, other in zip(again.load(), expected.load(), strict=True):
        assert torch.equal(one, other)


def test_folders_are_loaded_in_their_dtype(folders: tuple[Path, Path]) -> None:
    assert ModelFolder(folders[0], dtype="bfloat16").load().dtype == torch.bfloat16
    found = harvest(*residual.pair_of(*folders, dtype="bfloat16"), labelled_corpus(), LAYER)
    assert found.dtype == "bfloat16"
    assert harvest(*small_pair(), labelled_corpus(), LAYER).dtype == "float32"
