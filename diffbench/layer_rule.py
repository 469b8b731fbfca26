"""Layer rule: the one layer that an organism is looked at, chosen from the pair and never from an outcome."""

from __future__ import annotations

from diffbench.causal import kl_sums, recovery
from diffbench.corpus import Corpus
from diffbench.patching import Arm, true_delta
from diffbench.residual import Model, blocks

CEILING = 0.7
LAYER_TOKENS = 4000
LEAST_FLOOR = 1e-6


def choose_layer(reference: Model, tuned: Model, corpus: Corpus) -> tuple[int, str]:
    """The smallest layer whose true delta, added to the reference model, recovers most of the KL; else the middle one.

    Returns:
        The layer and the rule that chose it, in words.
    """
    n_layers = len(blocks(tuned))
    per_document = max(1, corpus.n_tokens // len(corpus))
    sample = corpus.rows(slice(max(1, LAYER_TOKENS // per_document)))
    arms = {f"delta@{layer}": Arm(layer, true_delta, "model") for layer in range(n_layers)}
    kl = kl_sums(reference, tuned, sample, arms)
    for layer in range(n_layers):
        r = recovery(kl[f"delta@{layer}"], kl["reference"], None, LEAST_FLOOR)
        if r.value is not None and r.value >= CEILING:
            return layer, f"smallest layer with R_model(true delta) >= {CEILING} on method text"
    return n_layers // 2, f"no layer reaches R_model(true delta) >= {CEILING}; the middle one"
