"""Activity of each kind of Diff at chosen positions, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, labelled_corpus, one_of_each, small_pair

from diffbench import dictionary
from diffbench.activity import BATCH_DOCUMENTS, activity, streams
from diffbench.corpus import Corpus
from diffbench.diff import OutputDiff, WeightDiff
from diffbench.errors import DiffError
from diffbench.residual import hidden

REFERENCE, TUNED = small_pair()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    found = labelled_corpus(700)
    assert len(found) > BATCH_DOCUMENTS
    return found


@pytest.fixture(scope="module")
def rows(corpus: Corpus) -> torch.Tensor:
    """Positions to look at, none in the second batch's first document, all in order."""
    chosen = corpus.counts & (torch.rand(corpus.ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3)
    chosen[BATCH_DOCUMENTS] = False
    return chosen


def test_streams_come_in_order_with_their_positions(corpus: Corpus, rows: torch.Tensor) -> None:
    found = streams(REFERENCE, TUNED, corpus, rows, 1)
    torch.testing.assert_close(found.h_b, hidden(REFERENCE, corpus.ids, corpus.mask, 1)[rows], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.h_t, hidden(TUNED, corpus.ids, corpus.mask, 1)[rows], atol=1e-4, rtol=1e-4)
    assert found.position.tolist() == rows.nonzero()[:, 1].tolist()


def test_dictionary(corpus: Corpus, rows: torch.Tensor) -> None:
    diff = dictionary_diff("both")
    found = activity(diff, REFERENCE, TUNED, corpus, rows)
    here = streams(REFERENCE, TUNED, corpus, rows, diff.layer)
    torch.testing.assert_close(found, dictionary.encode(diff, here.h_b, here.h_t), atol=1e-4, rtol=1e-4)
    some = activity(diff, REFERENCE, TUNED, corpus, rows, [5, 2])
    assert torch.equal(some, found[:, [5, 2]])


def test_weight_components_read_what_the_tuned_module_reads(corpus: Corpus, rows: torch.Tensor) -> None:
    diff = one_of_each()["weight"]
    assert isinstance(diff, WeightDiff)
    found = activity(diff, REFERENCE, TUNED, corpus, rows)
    states = TUNED(
        input_ids=corpus.ids, attention_mask=corpus.mask, use_cache=False, output_hidden_states=True
    ).hidden_states
    # q_proj of block 1 reads that block's normed input.
    x_in = TUNED.model.layers[1].input_layernorm(states[1])[rows]
    torch.testing.assert_close(found[:, 1], 0.5 * (x_in @ diff.v[1]), atol=1e-4, rtol=1e-4)
    # down_proj of block 0 reads act(gate x) * (up x); x: the normed stream behind attention.
    block = TUNED.model.layers[0]
    normed = block.input_layernorm(states[0])
    position = torch.arange(corpus.ids.shape[1])[None]
    cosine_sine = TUNED.model.rotary_emb(normed, position)
    alone = []
    for ids, length in zip(range(len(corpus)), corpus.mask.sum(dim=1).tolist(), strict=True):
        part = [angle[:, :length] for angle in cosine_sine]
        causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
        behind = (
            states[0][ids : ids + 1, :length]
            + block.self_attn(
                hidden_states=normed[ids : ids + 1, :length], position_embeddings=tuple(part), attention_mask=causal
            )[0]
        )
        x = block.post_attention_layernorm(behind)
        inner = torch.nn.functional.silu(block.mlp.gate_proj(x)) * block.mlp.up_proj(x)
        alone.append(inner[0][rows[ids, :length]])
    torch.testing.assert_close(found[:, 0], 2.0 * (torch.cat(alone) @ diff.v[0]), atol=1e-4, rtol=1e-4)


def test_output_kl_and_tokens(corpus: Corpus, rows: torch.Tensor) -> None:
    p_t, p_b = (
        model(input_ids=corpus.ids, attention_mask=corpus.mask, use_cache=False).logits[rows].double().softmax(-1)
        for model in (TUNED, REFERENCE)
    )
    kl = activity(OutputDiff(score="kl"), REFERENCE, TUNED, corpus, rows)
    torch.testing.assert_close(kl[:, 0].double(), (p_t * (p_t / p_b).log()).sum(-1), atol=1e-5, rtol=1e-4)
    diff = one_of_each()["output"]
    assert isinstance(diff, OutputDiff) and diff.token_scores is not None
    tokens = activity(diff, REFERENCE, TUNED, corpus, rows)
    torch.testing.assert_close(tokens[:, 0].double(), p_t @ diff.token_scores.double(), atol=1e-5, rtol=1e-4)
    assert activity(OutputDiff(score=None), REFERENCE, TUNED, corpus, rows).shape == (int(rows.sum()), 0)


def test_no_positions_give_no_rows(corpus: Corpus) -> None:
    nowhere = torch.zeros_like(corpus.counts)
    assert activity(dictionary_diff("delta"), REFERENCE, TUNED, corpus, nowhere, [1, 4]).shape == (0, 2)


# BUG activity.py _weight_activity: all but the first two end in IndexError or KeyError instead.
@pytest.mark.parametrize(
    "module",
    ["nowhere", "model.layers.9", "", "model", "model.layers", "model.embed_tokens", "model.layers.0.self_attn"],
)
def test_a_module_that_reads_no_vectors_is_refused(module: str, corpus: Corpus, rows: torch.Tensor) -> None:
    diff = WeightDiff(modules=(module,), sigma=torch.ones(1), u=(torch.ones(4),), v=(torch.ones(WIDTH),))
    with pytest.raises(DiffError, match="module"):
        activity(diff, REFERENCE, TUNED, corpus, rows)


def test_a_vector_of_another_width_is_refused(corpus: Corpus, rows: torch.Tensor) -> None:
    diff = one_of_each()["weight"]
    assert isinstance(diff, WeightDiff)
    with pytest.raises(
        DiffError, match=r"v: 16 entries, but module model\.layers\.0\.mlp\.down_proj reads vectors of 32"
    ):
        activity(replace(diff, v=(torch.ones(WIDTH), diff.v[1])), REFERENCE, TUNED, corpus, rows)


def test_activity_that_is_not_finite_names_its_component(corpus: Corpus, rows: torch.Tensor) -> None:
    diff = dictionary_diff("delta", "relu")
    encoder = diff.encoder.clone()
    encoder[5] = float("nan")
    broken = replace(diff, encoder=encoder)
    with pytest.raises(DiffError, match="component 5: its activity is NaN"):
        activity(broken, REFERENCE, TUNED, corpus, rows, [2, 5])
    assert activity(broken, REFERENCE, TUNED, corpus, rows, [2]).isfinite().all()
