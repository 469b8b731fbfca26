"""Attribution score: does the component that KL attribution names take KL away when it is steered with?

At the tokens of the evaluation text where the models differ most, as in Aranguri, Drori & Nanda 2025: the component of
most negative attribution is added to the reference's stream over the whole context, beside a random component, and
KL(p_reference || p_tuned) of the next token is measured. Both get the sign of their own attribution and the best of the
same strengths, so that neither is favoured by the choice.

Shapes: C contexts, n components, d residual width, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffbench.attribution import attribute_each, contexts, directions_of
from diffbench.causal import token_kl
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff
from diffbench.figure import Figure
from diffbench.ground import Ground
from diffbench.interval import mean_interval
from diffbench.residual import hidden, hidden_from, unembed
from diffbench.scores import Attribution
from diffbench.seeds import derive

CONTEXTS = 24
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""In mean lengths of h_t - h_b at these contexts' last tokens."""
FINDINGS = 10


def score_attribution(ground: Ground, diff: Diff, layer: int, seed: int) -> Attribution:
    """Attribution and steering at the tokens where the two models differ most, no more than one of a document.

    Args:
        ground: the pair and its evaluation text.
        diff: what is scored.
        layer: the pair's layer.
        seed: of the random components.
    """
    why = _unasked(diff, layer) or ground.same()
    if why is not None:
        return no_attribution(why)
    assert isinstance(diff, DictionaryDiff | DirectionDiff)
    where = _largest(ground)
    found = attribute_each(diff, ground.reference, ground.tuned, ground.corpus, where)
    known = ~found.isnan()
    if not bool(known.any(dim=1).all()):
        return no_attribution(Figure.undefined("no component has a direction"))
    top = found.masked_fill(~known, float("inf")).argmin(dim=1)
    generator = torch.Generator().manual_seed(derive(seed, "random steering"))
    other = torch.multinomial(known.double(), 1, generator=generator).flatten()
    text = contexts(ground.corpus, where)
    cut = [_cut(ground, text, layer, _vectors(diff, found, chosen)) for chosen in (top, other)]
    listed = {finding.component for finding in diff.findings[:FINDINGS]}
    among = [float(int(component) in listed) for component in top]
    return Attribution(
        n_contexts=len(top),
        cut_top=_mean(cut[0]),
        cut_random=_mean(cut[1]),
        agreement=_mean(among) if diff.findings else Figure.not_applicable("the Diff has no findings"),
    )


def no_attribution(why: Figure) -> Attribution:
    """No score at all, for one reason."""
    return Attribution(n_contexts=0, cut_top=why, cut_random=why, agreement=why)


def _unasked(diff: Diff, layer: int) -> Figure | None:
    if not isinstance(diff, DictionaryDiff | DirectionDiff):
        return Figure.not_applicable(f"a {diff.kind} diff has no directions of the residual stream to steer with")
    if diff.layer != layer:
        return Figure.not_applicable(f"the Diff is about layer {diff.layer}, the run about layer {layer}")
    return Figure.not_applicable("the Diff has no components") if diff.n_components == 0 else None


def _largest(ground: Ground) -> Tensor:
    """[N, L] bool: the position of largest KL in each of the documents where that is largest."""
    per_document = ground.token_kl.max(dim=1)
    documents = per_document.values.argsort(descending=True, stable=True)[:CONTEXTS]
    where = torch.zeros_like(ground.corpus.predicts)
    where[documents, per_document.indices[documents]] = True
    return where & ground.corpus.predicts


def _vectors(diff: DictionaryDiff | DirectionDiff, found: Tensor, chosen: Tensor) -> Tensor:
    """[C, d]: the chosen component's direction at each context, with the sign that lowers the KL."""
    sign = -found[torch.arange(len(chosen)), chosen].sign()
    return directions_of(diff)[chosen] * sign[:, None]


@torch.inference_mode()
def _cut(ground: Ground, text: Corpus, layer: int, vectors: Tensor) -> list[float]:
    """Per context the share of KL(p_reference || p_tuned) that steering takes away, at its best strength."""
    ids, mask, last = text.ids, text.mask, (torch.arange(len(text)), text.last)
    h_b, h_t = (hidden(model, ids, mask, layer) for model in (ground.reference, ground.tuned))
    length = float((h_t[last] - h_b[last]).norm(dim=1).mean())
    log_t = unembed(ground.tuned, hidden_from(ground.tuned, ids, mask, layer, h_t)[last]).float()
    kls = []
    for strength in (0.0, *STRENGTHS):
        stream = h_b + strength * length * vectors[:, None] * text.counts[..., None]
        logits = unembed(ground.reference, hidden_from(ground.reference, ids, mask, layer, stream)[last]).float()
        kls.append(token_kl(logits.log_softmax(dim=-1), log_t))
    plain, *steered = torch.stack(kls).double()
    best = torch.stack(steered).amin(dim=0)
    return [float(1 - b / p) for b, p in zip(best, plain, strict=True) if p > ground.floor]


def _mean(values: Sequence[float]) -> Figure:
    if not values:
        return Figure.undefined("KL is under its noise floor at every token")
    interval = mean_interval(values)
    return Figure.of(*interval) if interval else Figure.of(sum(values) / len(values))
