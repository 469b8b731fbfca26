"""Untrained: a pair of models that never learnt anything, as the lowest bar for what a judge makes of components.

Explanations of sparse features of random transformers score about as well as those of trained ones (Heap et al. 2025,
arXiv 2501.17727): only what lies above them speaks of what a model has learnt.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from diffbench.activations import Activations
from diffbench.architecture import Model
from diffbench.corpus import Corpus
from diffbench.design import Design, TopK
from diffbench.dictionary import activity_columns
from diffbench.diff import DictionaryDiff
from diffbench.harvest import harvest
from diffbench.options import DictionaryOptions
from diffbench.seeds import derive
from diffbench.training import train

MOST_PARAMETERS = 500_000_000
"""Of one model: two more of a larger size would not fit where the pair itself just does."""
TOKENS, BATCH, PASSES = 20_000, 512, 4
EXPANSION, K = 4, 8


def untrained_model(like: Model, seed: int) -> Model:
    """A model of the same configuration with the weights that it would start training from."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(like.config).eval().float()


def untrained_dictionary(
    reference: Model, tuned: Model, text: Corpus, layer: int, most: int, seed: int, scratch: Path
) -> DictionaryDiff:
    """A BatchTopK dictionary trained on the differences of two untrained models, ordered by the energy it explains.

    Args:
        reference: untrained.
        tuned: untrained, with other weights.
        text: the methods' split; its first `TOKENS` positions are trained on.
        layer: 0-based block.
        most: latents that the tier allows.
        seed: of the training.
        scratch: for temporary files.
    """
    before = text.counts.sum(dim=1).cumsum(0)
    n = int(torch.searchsorted(before, TOKENS)) + 1
    rows: Activations = harvest(reference, tuned, text.rows(slice(0, n)), layer, scratch=scratch)
    expansion = max(1, min(EXPANSION, most // rows.width))
    batch = max(16, min(BATCH, len(rows)))
    options = DictionaryOptions(expansion=expansion, batch=batch, tokens=max(PASSES * len(rows), batch))
    design = Design(target="delta", sparsity=TopK(k=K, dead_after=50_000, aux=1 / 32))
    diff = train(
        rows,
        design,
        options,
        seed=derive(seed, "training"),
        max_components=max(most, expansion * rows.width),
        report=lambda *_: None,
    )
    columns = activity_columns(diff, rows)
    return replace(diff, order=columns["energy"].argsort(descending=True, stable=True))
