"""The gradient of the KL at logits and streams, and what is handed to one backward pass."""

from __future__ import annotations

import pytest
import torch
from attribution_reference import LAYER, WORDS, corpus, pair

from diffbench.residual import hidden, logits, logits_from, unembed
from diffbench.sensitivity import batches, chunks, kl_slope, stream_gradient


def test_the_slope_is_autograds() -> None:
    tuned, text = pair("gemma2")[1], corpus()
    target = hidden(tuned, text.ids, text.mask, 1)[text.predicts]
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(len(target), WORDS, generator=draw, dtype=torch.float64).mul_(3).requires_grad_()
    log_q = unembed(tuned, target).double().log_softmax(-1)
    kl = (z.softmax(-1) * (z.log_softmax(-1) - log_q)).sum()
    [expected] = torch.autograd.grad(kl, z)
    torch.testing.assert_close(kl_slope(z.detach().float(), tuned, target).double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_the_gradient_at_the_stream_is_that_of_the_summed_kl(kind: str) -> None:
    reference, tuned = pair(kind)
    text = corpus()
    where = text.predicts & (torch.arange(9) % 2 == 1)
    leaf = hidden(reference, text.ids, text.mask, LAYER).clone().requires_grad_()
    log_p = logits_from(reference, text.ids, text.mask, LAYER, leaf)[where].log_softmax(-1)
    log_q = logits(tuned, text.ids, text.mask)[where].log_softmax(-1)
    [expected] = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), leaf)
    found = stream_gradient(reference, tuned, text, where, LAYER)
    assert expected[~text.counts].abs().max() > 1e-4
    assert (found[~text.counts] == 0).all()
    torch.testing.assert_close(found[text.counts], expected[text.counts], atol=1e-6, rtol=1e-4)


def test_batches_hold_every_position_once_and_nothing_behind_the_last() -> None:
    text = corpus((9, 5, 7, 4, 9))
    where = text.predicts.clone()
    where[1] = False
    where[0, 4:] = False
    seen = torch.zeros_like(where)
    for index, batch, wanted in batches(text, where, 12):
        assert wanted.any(dim=1).all() and bool((wanted <= batch.mask).all())
        assert batch.ids.numel() <= 12 or len(batch) == 1
        for row, document in enumerate(index.tolist()):
            end = int(where[document].nonzero().max()) + 1
            assert int(batch.mask[row].sum()) == end
            assert torch.equal(batch.ids[row][batch.mask[row]], text.ids[document, :end])
            seen[document, : wanted.shape[1]] |= wanted[row]
    assert torch.equal(seen, where)
    assert list(batches(text, torch.zeros_like(where))) == []


def test_chunks_bound_the_logits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(chunks(1000, 256_000)) == 16  # 65 positions of a quarter of a million words are 64 MiB
    monkeypatch.setattr("diffbench.sensitivity.MOST_BYTES", 1)
    assert [(part.start, part.stop) for part in chunks(3, 100)] == [(0, 1), (1, 2), (2, 3)]
    assert chunks(0, 100) == []
