"""KL attribution: which components of a Diff are responsible for what the tuned model says differently.

a_v = d/dlambda KL(p_reference(lambda, v) || p_tuned) at lambda = 0, in nats (Aranguri, Drori & Nanda 2025), where the
reference's stream leaving the Diff's layer has lambda v added at every position of the context that counts: BOS and
pads are left alone, as in every edit of this engine. The KL is that of the next token after the context. The most
negative attribution is the most responsible: adding a little of v brings the reference closest to the tuned model.

v is of unit length in raw space, and points to where its component adds:

- dictionaries: the decoder row; with two decoders d_t - d_b, and d_t under the name "tuned";
- directions: the direction, times the sign of its constant; one that holds at one position is added there alone;
- rank-one components sigma u v^T of a weight: the same matrix over its Frobenius norm, added to the reference's
  weight, which acts at BOS too;
- whole components: the difference of all their parameters, times the sign of sigma, over its norm.

A component of length 0 has no direction and no attribution: NaN. Shapes: n components, N documents, L positions, d
residual width, C contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffbench.architecture import Model, blocks, vocabulary, width
from diffbench.corpus import PARTS, Corpus
from diffbench.dictionary import difference_decoder
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, OutputDiff, WeightDiff
from diffbench.errors import DiffError
from diffbench.sensitivity import BATCH_TOKENS, batches, stream_gradient
from diffbench.text import Part
from diffbench.weight_sensitivity import rank_one_attribution, whole_attribution

TEXT_TOKENS, EITHER_WAY_TOKENS = 8192, 1024
"""Positions of text that a ranking is measured on; fewer where each is a context by itself."""

Decoder = Literal["difference", "tuned"]
"""Which direction stands for a latent that has two decoders."""
Meter = Callable[[Corpus, Tensor], Tensor]
"""Attribution [B, n] of each document of a batch, summed over its positions [B, L]."""


def attribute(
    diff: Diff, reference: Model, tuned: Model, corpus: Corpus, where: Tensor, *, decoder: Decoder = "difference"
) -> Tensor:
    """Attribution of all components, [n] float32, summed over the contexts that end at some positions.

    Args:
        diff: any Diff but one of outputs.
        reference: as it is, or one with an adapter that is switched; both models are left as they were.
        tuned: the same.
        corpus: texts.
        where: [N, L] bool, the last positions of the contexts.
        decoder: the direction of latents that have two.

    Raises:
        DiffError: if the Diff does not fit the models, or has no handle on them.
    """
    meter = _meter(diff, reference, tuned, decoder)
    total = torch.zeros(diff.n_components, dtype=torch.float64)
    for _, batch, wanted in batches(corpus, where):
        total += meter(batch, wanted).double().sum(dim=0)
    return total.float()


def attribute_each(
    diff: Diff, reference: Model, tuned: Model, corpus: Corpus, where: Tensor, *, decoder: Decoder = "difference"
) -> Tensor:
    """Attribution at each of some contexts by itself, [C, n] float32, in the order of ``where.nonzero()``.

    Each context is a document of its own, so that one backward pass serves a batch of them; whole components take
    one for each context. Arguments and errors are those of `attribute`.
    """
    meter = _meter(diff, reference, tuned, decoder)
    each = contexts(corpus, where)
    found = torch.zeros(len(each), diff.n_components)
    whole = isinstance(diff, WeightDiff) and diff.whole
    ends = torch.arange(each.ids.shape[1]) == each.last[:, None]
    for index, batch, wanted in batches(each, ends, 1 if whole else BATCH_TOKENS):
        found[index] = meter(batch, wanted)
    return found


def responsibility(
    diff: Diff, reference: Model, tuned: Model, text: Corpus, *, decoder: Decoder = "difference"
) -> Tensor:
    """[n] float32: minus the mean attribution over the first positions of a text, in nats per position and length 1.

    The larger, the more responsible, so that a ranking falls. A direction without a constant is added with either
    sign, as each token has it, and so counts by the sign that lowers the KL there: its value is the mean size of its
    attribution at single contexts, of fewer of them, since a sum would let the two signs cancel.

    Raises:
        DiffError: as `attribute`.
    """
    if isinstance(diff, DirectionDiff) and diff.constant is None:
        each = attribute_each(diff, reference, tuned, text, _first(text, EITHER_WAY_TOKENS))
        return each.abs().double().mean(dim=0).float()
    where = _first(text, TEXT_TOKENS)
    return -attribute(diff, reference, tuned, text, where, decoder=decoder) / int(where.sum())


def _first(text: Corpus, tokens: int) -> Tensor:
    """[N, L] bool: scored positions of the first documents that hold so many of them."""
    where = scored(text)
    before = where.sum(dim=1).cumsum(dim=0) - where.sum(dim=1)
    return where & (before < tokens)[:, None]


def scored(corpus: Corpus) -> Tensor:
    """[N, L] bool: the positions that predict a response in conversations, all that predict in other documents."""
    response = torch.zeros_like(corpus.predicts)
    response[:, :-1] = corpus.part[:, 1:] == PARTS.index(Part.response)
    talks = (corpus.part != PARTS.index(Part.none)).any(dim=1, keepdim=True)
    return corpus.predicts & (response | ~talks)


def contexts(corpus: Corpus, where: Tensor) -> Corpus:
    """A document for each position of ``where`` [N, L], in order, that ends with it."""
    documents, ends = where.nonzero(as_tuple=True)
    length = int(ends.max()) + 1 if len(ends) else 0
    held = torch.arange(length) <= ends[:, None]
    flags = {name: getattr(corpus, name)[documents, :length] & held for name in ("mask", "counts", "predicts")}
    codes = {name: getattr(corpus, name)[documents, :length] for name in ("ids", "stratum", "part")}
    return Corpus(**codes, **flags)


def directions_of(diff: DictionaryDiff | DirectionDiff, decoder: Decoder = "difference") -> Tensor:
    """[n, d]: what each component adds, of length 1; NaN for one that adds nothing."""
    if isinstance(diff, DirectionDiff):
        vectors = diff.directions if diff.constant is None else diff.directions * diff.constant[:, None]
    elif decoder == "tuned" and diff.decoder_tuned is not None:
        vectors = diff.decoder_tuned
    else:
        vectors = difference_decoder(diff)
    units: Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return units


def _meter(diff: Diff, reference: Model, tuned: Model, decoder: Decoder) -> Meter:
    diff.check(width(reference), len(blocks(reference)), vocabulary(reference))
    if isinstance(diff, OutputDiff):
        raise DiffError("an output diff has no handle on the models, so nothing of it can be responsible")
    if isinstance(diff, WeightDiff):
        if diff.whole:
            return lambda batch, where: whole_attribution(diff, reference, tuned, batch, where)[None]
        return lambda batch, where: rank_one_attribution(diff, reference, tuned, batch, where)
    directions = directions_of(diff, decoder)

    def along(batch: Corpus, where: Tensor) -> Tensor:
        gradient = stream_gradient(reference, tuned, batch, where, diff.layer)
        found = gradient.sum(dim=1) @ directions.T
        if isinstance(diff, DirectionDiff) and diff.positions is not None:
            for component in (diff.positions != -1).nonzero().flatten().tolist():
                at = int(diff.positions[component])
                here = gradient[:, at] if 0 <= at < gradient.shape[1] else torch.zeros_like(gradient[:, 0])
                found[:, component] = here @ directions[component]
        return found

    return along
