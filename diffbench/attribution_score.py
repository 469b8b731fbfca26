"""Attribution score: does the component that KL attribution names take KL away when it is steered with?

At the tokens of the evaluation text where the models differ most, as in Aranguri, Drori & Nanda 2025: the component of
most negative attribution is added to the reference's stream wherever it holds, beside another component drawn at
random, and KL(p_reference || p_tuned) of the next token is measured. Both get the best of the same strengths, with the
sign that lowers the KL, so that neither is favoured by the choice. A direction without a constant works in either way,
as its activity has it: the one of largest attribution of any sign is the most responsible.

Shapes: C contexts, n components, d residual width, L positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffbench.attribution import attribute_each, contexts, directions_of
from diffbench.causal import token_kl
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff
from diffbench.figure import Figure, mean_figure
from diffbench.ground import Ground
from diffbench.residual import hidden, hidden_from, unembed
from diffbench.scores import Attribution
from diffbench.seeds import derive

CONTEXTS = 24
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""In mean lengths of h_t - h_b at these contexts' last tokens."""
FINDINGS = 10
NO_KL = Figure.undefined("the two models differ by no more than noise at every such token, or only above the layer")


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
    either_way = isinstance(diff, DirectionDiff) and diff.constant is None
    top = (-found.abs() if either_way else found).masked_fill(~known, float("inf")).argmin(dim=1)
    text = contexts(ground.corpus, where)
    others = known.scatter(1, top[:, None], False)
    cut_top, cut_random = _cut(ground, text, diff, found, top), Figure.not_applicable("there is no other component")
    if bool(others.any(dim=1).all()):
        generator = torch.Generator().manual_seed(derive(seed, "random steering"))
        drawn = torch.multinomial(others.double(), 1, generator=generator).flatten()
        cut_random = _mean(_cut(ground, text, diff, found, drawn))
    listed = {finding.component for finding in diff.findings[:FINDINGS]}
    unlisted = Figure.not_applicable("the Diff has no findings")
    return Attribution(
        n_contexts=len(cut_top),
        cut_top=_mean(cut_top),
        cut_random=cut_random,
        agreement=_mean([float(int(component) in listed) for component in top]) if listed else unlisted,
        agreement_chance=Figure.of(len(listed) / diff.n_components) if listed else unlisted,
    )


def no_attribution(why: Figure) -> Attribution:
    """No score at all, for one reason."""
    return Attribution(n_contexts=0, cut_top=why, cut_random=why, agreement=why, agreement_chance=why)


def _unasked(diff: Diff, layer: int) -> Figure | None:
    if not isinstance(diff, DictionaryDiff | DirectionDiff):
        return Figure.not_applicable(f"a {diff.kind} diff has no directions of the residual stream to steer with")
    if diff.layer != layer:
        return Figure.not_applicable(f"the Diff is about layer {diff.layer}, the run about layer {layer}")
    return Figure.not_applicable("the Diff has no components") if diff.n_components == 0 else None


def _largest(ground: Ground) -> Tensor:
    """[N, L] bool: the position of largest KL, affected ones first, in each of the documents where that is largest."""
    affected = ground.corpus.affected
    kl = ground.token_kl * (affected if bool(affected.any()) else ground.corpus.predicts)
    per_document = kl.max(dim=1)
    documents = per_document.values.argsort(descending=True, stable=True)[:CONTEXTS]
    where = torch.zeros_like(affected)
    where[documents, per_document.indices[documents]] = True
    return where & (kl > 0)


@torch.inference_mode()
def _cut(
    ground: Ground, text: Corpus, diff: DictionaryDiff | DirectionDiff, found: Tensor, chosen: Tensor
) -> list[float]:
    """The share of KL(p_reference || p_tuned) that steering takes away, at its best strength, of each context with KL.

    Args:
        ground: the models.
        text: a document for each context.
        diff: its directions.
        found: [C, n], attributions.
        chosen: [C], a component of each context.
    """
    ids, mask, last = text.ids, text.mask, (torch.arange(len(text)), text.last)
    vectors = -found[torch.arange(len(chosen)), chosen].sign()[:, None] * directions_of(diff)[chosen]
    held = text.counts & _holds(diff, chosen, ids.shape[1])
    h_b, h_t = (hidden(model, ids, mask, diff.layer) for model in (ground.reference, ground.tuned))
    length = float((h_t[last] - h_b[last]).norm(dim=1).mean())
    log_t = unembed(ground.tuned, hidden_from(ground.tuned, ids, mask, diff.layer, h_t)[last]).float()
    kls = []
    for strength in (0.0, *STRENGTHS):
        stream = h_b + strength * length * vectors[:, None] * held[..., None]
        said = unembed(ground.reference, hidden_from(ground.reference, ids, mask, diff.layer, stream)[last]).float()
        kls.append(token_kl(said.log_softmax(dim=-1), log_t))
    plain, *steered = torch.stack(kls).double()
    best = torch.stack(steered).amin(dim=0)
    return [float(1 - b / p) for b, p in zip(best, plain, strict=True) if p > ground.floor] if length > 0 else []


def _holds(diff: DictionaryDiff | DirectionDiff, chosen: Tensor, length: int) -> Tensor:
    """[C, L] bool, or [C, 1]: where each chosen component is added."""
    if not isinstance(diff, DirectionDiff) or diff.positions is None:
        return torch.ones(len(chosen), 1, dtype=torch.bool)
    position = diff.positions[chosen][:, None]
    return (position == -1) | (position == torch.arange(length))


def _mean(values: list[float]) -> Figure:
    return mean_figure(values) if values else NO_KL
