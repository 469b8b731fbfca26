"""KL dashboards: at which tokens a finding is among the three components most responsible for the KL.

As in Aranguri, Drori & Nanda 2025: of the tokens where the two models differ most, those are kept where the finding has
one of the three most negative attributions (`diffbench.attribution`), and for each of them the tokens are named that
gain and lose most. A direction without a constant is added with either sign, as its activity has it, so that its
attribution counts by its size there.

Shapes: C contexts, n components, N documents, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.architecture import Model, blocks
from diffbench.attribution import attribute_each, contexts
from diffbench.corpus import Corpus
from diffbench.dashboard import Histogram, KLContext, KLDashboard, Move, Shaded, rounded
from diffbench.diff import Diff, DirectionDiff, WeightDiff
from diffbench.ground import Ground
from diffbench.residual import hidden, unembed

MOST, MOST_WHOLE = 128, 32
"""Tokens of high KL that are looked at; of whole components, which take a backward pass for each, fewer."""
OF_A_DOCUMENT = 3
TOP, SHOWN = 3, 6
BEFORE, BEHIND = 20, 3
"""Tokens of a document that are shown before the context's last token, and behind it."""
BINS = 24
SHARES = (3, 2)
"""Tokens that are named: increased, decreased."""


@dataclass(frozen=True, slots=True)
class Places:
    """Tokens of high KL, the highest first, with every component's attribution.

    Attributes:
        where: [C, 2] document and position, the last of each context.
        found: [C, n] attributions; NaN for a component without a direction.
        place: [C, n] 0-based place of each component there, by falling responsibility.
        either_way: whether attributions count by their size.
    """

    where: Tensor
    found: Tensor
    place: Tensor
    either_way: bool

    @property
    def chance(self) -> float:
        """The share of tokens where a component with a direction is among the top 3 if any is as likely as another."""
        return min(1.0, TOP / max(1, int((~self.found.isnan().any(dim=0)).sum())))


def high_kl(ground: Ground, most: int) -> Tensor:
    """[N, L] bool: the predicting positions of highest KL, at most `OF_A_DOCUMENT` of a document, and none of noise."""
    kl = ground.token_kl.masked_fill(~ground.corpus.predicts, 0.0)
    best = kl.topk(min(OF_A_DOCUMENT, kl.shape[1]), dim=1)
    values = best.values.flatten()
    chosen = values.argsort(descending=True, stable=True)[:most]
    chosen = chosen[values[chosen] > ground.floor]
    where = torch.zeros_like(ground.corpus.predicts)
    where[chosen // best.values.shape[1], best.indices.flatten()[chosen]] = True
    return where


def attributed(ground: Ground, diff: Diff) -> Places | None:
    """The tokens of high KL of the evaluation text; None where the two models differ nowhere by more than noise.

    Raises:
        DiffError: if the Diff has no handle on the models.
    """
    where = high_kl(ground, MOST_WHOLE if isinstance(diff, WeightDiff) and diff.whole else MOST)
    if not bool(where.any()):
        return None
    found = attribute_each(diff, ground.reference, ground.tuned, ground.corpus, where)
    places = where.nonzero()
    highest = ground.token_kl[places[:, 0], places[:, 1]].argsort(descending=True, stable=True)
    places, found = places[highest], found[highest]
    either_way = isinstance(diff, DirectionDiff) and diff.constant is None
    keen = (-found.abs() if either_way else found).nan_to_num(nan=float("inf"))
    return Places(places, found, keen.argsort(dim=1, stable=True).argsort(dim=1), either_way)


def kl_dashboards(
    ground: Ground, places: Places, components: Sequence[int], names: Sequence[str]
) -> tuple[KLDashboard | None, ...]:
    """The KL dashboard of each of some components; None for one that has no direction.

    Args:
        ground: the pair and its evaluation text.
        places: what `attributed` found.
        components: of the findings.
        names: every token by its id.
    """
    every = torch.arange(len(places.where))
    chosen = {component: every[places.place[:, component] < TOP][:SHOWN].tolist() for component in components}
    wanted = sorted({context for found in chosen.values() for context in found})
    ends = dict(zip(wanted, _ends(ground, places.where[torch.tensor(wanted, dtype=torch.int64)], names), strict=True))
    dashboards: list[KLDashboard | None] = []
    for component in components:
        column, place = places.found[:, component], places.place[:, component]
        if bool(column.isnan().any()):
            dashboards.append(None)
            continue
        shown = [
            ends[context].model_copy(
                update={"attribution": rounded(float(column[context])), "place": int(place[context]) + 1}
            )
            for context in chosen[component]
        ]
        dashboards.append(
            KLDashboard(
                n_contexts=len(every),
                n_top=int((place < TOP).sum()),
                n_first=int((place == 0).sum()),
                chance=rounded(places.chance),
                either_way=places.either_way,
                attributions=histogram(column),
                contexts=tuple(shown),
            )
        )
    return tuple(dashboards)


def histogram(values: Tensor) -> Histogram:
    """How often values lie in bins of equal width between the smallest and the largest; no bin without values."""
    if not values.numel():
        return Histogram(low=0.0, high=0.0, counts=())
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values.double(), bins=BINS, min=low, max=high) if high > low else torch.tensor([len(values)])
    return Histogram(low=rounded(low), high=rounded(high), counts=tuple(int(count) for count in counts.tolist()))


@torch.inference_mode()
def _ends(ground: Ground, where: Tensor, names: Sequence[str]) -> list[KLContext]:
    """What the two models say at the ends of some contexts [c, 2]; attribution and place are still to come."""
    if not len(where):
        return []
    at = torch.zeros_like(ground.corpus.predicts)
    at[where[:, 0], where[:, 1]] = True
    text = contexts(ground.corpus, at)
    number = {tuple(pair): index for index, pair in enumerate(at.nonzero().tolist())}
    logs = [_last(model, text) for model in (ground.reference, ground.tuned)]
    return [
        _end(ground, document, position, *(log[number[document, position]] for log in logs), names=names)
        for document, position in where.tolist()
    ]


def _last(model: Model, text: Corpus) -> Tensor:
    """[C, V] float32 log-probabilities of the token after each document."""
    last = len(blocks(model)) - 1
    parts = []
    for _, batch in text.batches(32):
        rows = hidden(model, batch.ids, batch.mask, last)[torch.arange(len(batch)), batch.last]
        parts.append(unembed(model, rows).float().log_softmax(dim=-1))
    return torch.cat(parts)


def _end(
    ground: Ground, document: int, position: int, log_r: Tensor, log_t: Tensor, *, names: Sequence[str]
) -> KLContext:
    p_r, p_t = log_r.exp().double(), log_t.exp().double()
    up, down = p_t * (log_t - log_r).double(), p_r * (log_r - log_t).double()

    def moves(parts: Tensor, n: int) -> tuple[Move, ...]:
        best = parts[: len(names)].topk(min(n, len(names)))
        return tuple(
            Move(
                token=names[token],
                reference=rounded(float(p_r[token])),
                tuned=rounded(float(p_t[token])),
                nats=rounded(value),
            )
            for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if value > 0
        )

    top_r, top_t = (int(p[: len(names)].argmax()) for p in (p_r, p_t))
    return KLContext(
        text=window(ground.corpus, _predicted(ground, document), document, position, names),
        reference_top=names[top_r],
        tuned_top=names[top_t],
        reference_top_p=rounded(float(p_r[top_r])),
        tuned_top_p=rounded(float(p_t[top_t])),
        increased=moves(up, SHARES[0]),
        decreased=moves(down, SHARES[1]),
        attribution=0.0,
        place=1,
    )


def _predicted(ground: Ground, document: int) -> list[float | None]:
    """[L]: the KL of the prediction of each token of a document: that at the position before it."""
    predicts, kl = ground.corpus.predicts[document].tolist(), ground.token_kl[document].tolist()
    return [None, *(round(kl[at], 4) if predicts[at] else None for at in range(len(kl) - 1))]


def window(
    corpus: Corpus, values: Sequence[float | None], document: int, position: int, names: Sequence[str]
) -> Shaded:
    """The piece of a document around a position, with a value for each token.

    Args:
        corpus: of which the document is.
        values: of its tokens, [L].
        document: its index.
        position: that the piece is about.
        names: every token by its id.
    """
    end = min(position + 1 + BEHIND, int(corpus.mask[document].sum()))
    start = max(0, position - BEFORE)
    return Shaded(
        document=document,
        tokens=tuple(names[token] for token in corpus.ids[document, start:end].tolist()),
        values=tuple(None if value is None else rounded(value) for value in values[start:end]),
        at=position - start,
    )
