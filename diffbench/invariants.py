"""Invariants: what causal scores must give on any pair, measured before anything is scored on it.

R_hybrid of the true difference and R_model of the full weight difference are 1 within 1e-3, R_model of nothing is 0:
the patched path gives what the plain models give. Where they do not, patching does not do to this architecture what it
should, and no score of the pair could be trusted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffbench.causal import recovery, sweep
from diffbench.corpus import Corpus
from diffbench.diff import WeightDiff
from diffbench.errors import CheckpointError
from diffbench.figure import Figure
from diffbench.handle import WeightHandle
from diffbench.patching import Arm, Limits, Patch, none, true_delta
from diffbench.record import Invariants
from diffbench.residual import Model
from diffbench.weight_edit import WeightEdit

TOLERANCE = 1e-3
DOCUMENTS = 64
"""Of the evaluation text; an invariant is exact or it is not, so a sample tells."""
MOST_PARAMETERS = 500_000_000
"""Above it the weights are not edited: it would take two more copies of the model."""


def measure_invariants(
    apart: Callable[[], tuple[Model, Model]], corpus: Corpus, layer: int, limits: Limits, floor: float
) -> Invariants:
    """Run the edits whose result is known.

    Args:
        apart: gives the reference and the tuned model, each with weights of its own.
        corpus: evaluation text.
        layer: the pair's layer.
        limits: outlier norms at the layer.
        floor: mean KL in nats that is noise.

    Raises:
        CheckpointError: if one does not hold, naming it.
    """
    reference, tuned = apart()
    arms: dict[str, Patch] = {
        "none": Arm(layer, none),
        "delta": Arm(layer, true_delta),
        "nothing": Arm(layer, none, "model"),
    }
    weights = _weights(reference, tuned)
    if isinstance(weights, WeightDiff):
        arms["weights"] = WeightHandle(WeightEdit(weights, reference, tuned), layer).arm(None, run="model")
    text = corpus.rows(slice(DOCUMENTS))
    kl = sweep(reference, tuned, text, arms, limits=limits).kl
    found = Invariants(
        nothing=recovery(kl["nothing"], kl["reference"], None, floor),
        true_delta=recovery(kl["delta"], kl["none"], None, floor),
        weight_delta=weights if isinstance(weights, Figure) else recovery(kl["weights"], kl["reference"], None, floor),
    )
    for name, figure, expected in (
        ("R_hybrid of the true difference", found.true_delta, 1.0),
        ("R_model of the full weight difference", found.weight_delta, 1.0),
        ("R_model of nothing", found.nothing, 0.0),
    ):
        if figure.value is not None and abs(figure.value - expected) > TOLERANCE:
            raise CheckpointError(
                f"{name} is {figure.value:.4f} at layer {layer}, not {expected:g} within {TOLERANCE}: patching is not "
                f"exact for {type(tuned).__name__}, and no score of it could be trusted"
            )
    return found


def _weights(reference: Model, tuned: Model) -> WeightDiff | Figure:
    """The full difference of all parameters, or why there is none that makes one model the other."""
    ours, theirs = dict(reference.named_parameters()), dict(tuned.named_parameters())
    if sum(parameter.numel() for parameter in theirs.values()) > MOST_PARAMETERS:
        return Figure.not_applicable(f"more than {MOST_PARAMETERS:,} parameters: weights were not edited")
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return Figure.not_applicable("the two models do not have the same parameters, one ties what the other does not")
    one, other = (model.config.to_diff_dict() for model in (reference, tuned))
    differing = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    computing = [key for key in differing if not key.startswith(("_", "torch_dtype", "dtype", "architectures"))]
    if computing:
        return Figure.not_applicable(f"the two models' configurations differ in {computing[0]}, not in weights alone")
    return WeightDiff(parameters=(tuple(theirs),), sigma=torch.ones(1))
