"""Template share: how much of what a latent fires on are template tokens, of tuned-only latents and of shared ones.

Shapes: n latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffbench.activity import BATCH_DOCUMENTS, streams
from diffbench.corpus import PARTS, Corpus
from diffbench.dictionary import encode
from diffbench.diff import DictionaryDiff
from diffbench.exclusive import shared, tuned_only
from diffbench.figure import Figure
from diffbench.residual import Model
from diffbench.study import Reading
from diffbench.text import Part
from diffbench.worded import Worded

LEAST_FIRINGS = 10


def template_shares(worded: Worded, reference: Model, tuned: Model, corpus: Corpus) -> tuple[Reading, Reading]:
    """Mean template share of the tuned-only and of the shared latents, over those that fire ten times or more."""
    on_template, fired = firings(worded.diff, reference, tuned, corpus)
    often = fired >= LEAST_FIRINGS
    share = on_template / fired.clamp_min(1)
    return _mean(share, often & tuned_only(worded)), _mean(share, often & shared(worded))


@torch.inference_mode()
def firings(diff: DictionaryDiff, reference: Model, tuned: Model, corpus: Corpus) -> tuple[Tensor, Tensor]:
    """[n] float64 each: firings on template tokens, and all firings, at the positions of a corpus that count."""
    template = corpus.part == PARTS.index(Part.template)
    found = torch.zeros(2, diff.n_components, dtype=torch.float64)
    for start, batch in corpus.batches(BATCH_DOCUMENTS):
        rows = streams(reference, tuned, batch, batch.counts, diff.layer)
        fires = encode(diff, rows.h_b, rows.h_t) > 0
        of_template = template[start : start + len(batch), : batch.ids.shape[1]][batch.counts]
        found[0] += fires[of_template].sum(dim=0)
        found[1] += fires.sum(dim=0)
    return found[0], found[1]


def _mean(share: Tensor, chosen: Tensor) -> Reading:
    n = int(chosen.sum())
    figure = Figure.of(float(share[chosen].mean())) if n else Figure.undefined("no such latent fires often enough")
    return Reading(figure=figure, detail=f"{n} latents")
