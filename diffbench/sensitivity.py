"""Sensitivity: how KL(p_reference || p_tuned) changes with the reference's own stream, by one backward pass.

The KL is that of the next token, in nats from float32 log-softmax. Its gradient with respect to the reference's logits
is p_r (log p_r - log p_t - KL), so that no graph is kept of the words, and no more than `MOST_BYTES` of a model's
logits are in memory at once. The tuned model is a constant. The sum over several positions is one backward pass: the
next token at position t depends on positions up to t only.

Shapes: B documents of a batch, L positions, d residual width, V vocabulary, T rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffbench.architecture import Model, blocks, vocabulary
from diffbench.corpus import Corpus
from diffbench.residual import hidden, hidden_from, unembed

BATCH_TOKENS = 2048
MOST_BYTES = 1 << 26
"""Of one model's logits at once; a few times as much is held beside them."""


def batches(corpus: Corpus, where: Tensor, tokens: int = BATCH_TOKENS) -> Iterator[tuple[Tensor, Corpus, Tensor]]:
    """Documents that have positions, in batches of like length, each cut behind its last position.

    Args:
        corpus: texts.
        where: [N, L] bool, positions whose next token is looked at.
        tokens: most positions of a batch, pads included; a document that is longer is a batch of its own.

    Yields:
        indices of the documents [B], the batch, and ``where`` on it [B, L].
    """
    chosen = where.any(dim=1).nonzero().flatten()
    if not len(chosen):
        return
    places = torch.arange(1, where.shape[1] + 1)
    ends = (where[chosen] * places).amax(dim=1, keepdim=True)
    kept = Corpus(*(getattr(corpus, name)[chosen] for name in Corpus.__slots__))
    cut = Corpus(kept.ids, kept.mask & (places <= ends), kept.counts, kept.predicts, kept.stratum, kept.part)
    for index, batch in cut.packed(tokens):
        yield chosen[index], batch, where[chosen[index], : batch.ids.shape[1]]


@torch.inference_mode(False)
@torch.enable_grad()
def stream_gradient(reference: Model, tuned: Model, batch: Corpus, where: Tensor, layer: int) -> Tensor:
    """[B, L, d] float32: gradient of the KL summed over ``where`` with respect to the stream leaving block ``layer``.

    It is 0 at BOS and pads, where nothing is ever edited, and behind the last position of ``where``.
    """
    ids, mask = batch.ids.clone(), batch.mask.clone()  # tensors of inference mode cannot be differentiated with
    with torch.no_grad():
        before = hidden(reference, ids, mask, layer)
    leaf = before.clone().requires_grad_()
    stream = hidden_from(reference, ids, mask, layer, leaf)
    target = tuned_rows(tuned, ids, mask, where)
    rows = stream.detach()[where]
    parts: list[Tensor] = []
    for chunk in chunks(len(rows), vocabulary(reference)):
        row = rows[chunk].requires_grad_()
        logits = unembed(reference, row)
        parts += torch.autograd.grad(logits, row, kl_slope(logits.detach(), tuned, target[chunk]))
    pull = torch.zeros_like(stream)
    pull[where] = torch.cat(parts)
    [gradient] = torch.autograd.grad(stream, leaf, pull)
    return gradient.float() * batch.counts[..., None]


@torch.no_grad()
def tuned_rows(tuned: Model, ids: Tensor, mask: Tensor, where: Tensor) -> Tensor:
    """[T, d]: the stream leaving the tuned model's last block where ``where`` [B, L] is True."""
    return hidden(tuned, ids, mask, len(blocks(tuned)) - 1)[where]


@torch.no_grad()
def kl_slope(logits: Tensor, tuned: Model, target: Tensor) -> Tensor:
    """[T, V]: gradient of KL(softmax(logits) || p_tuned) with respect to ``logits``, row by row.

    Args:
        logits: [T, V], of the reference.
        tuned: the other model.
        target: [T, d], the stream leaving its last block.
    """
    log_p = logits.float().log_softmax(dim=-1)
    ratio = log_p - unembed(tuned, target).float().log_softmax(dim=-1)
    p = log_p.exp()
    return p.mul(ratio - (p * ratio).sum(dim=-1, keepdim=True)).to(logits.dtype)


def chunks(n_rows: int, n_words: int) -> list[slice]:
    """Rows in parts whose logits fit into `MOST_BYTES`."""
    step = max(1, MOST_BYTES // (4 * n_words))
    return [slice(start, start + step) for start in range(0, n_rows, step)]
