"""Describe: from a Diff's tensors to findings and a verdict, for methods that have no words of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from diffbench.dictionary import difference_decoder
from diffbench.diff import DictionaryDiff, DirectionDiff, Finding, WeightDiff, order_of
from diffbench.lens import Words
from diffbench.scores import Verdict
from diffbench.weights import ROUNDING

if TYPE_CHECKING:
    from diffbench.pair import ModelPair

MOST_FINDINGS = 50
UNCHANGED_BELOW = 1e-8
"""Sum of ‖delta‖² over that of ‖h_b‖² under which two models are called the same: float32 rounding stays below it."""

Described = TypeVar("Described", DictionaryDiff, DirectionDiff, WeightDiff)


def describe(diff: Described, pair: ModelPair, scores: Tensor) -> Described:
    """Add findings (the first components of the Diff's order with the tokens they move) and a verdict.

    Args:
        diff: a Diff without findings; of weights one of rank-one components, with the relative size of the whole
            weight difference as its change score.
        pair: for the logit lens and the activations.
        scores: [n], the importance by which the Diff is ordered.
    """
    if isinstance(diff, WeightDiff):
        changed = diff.change_score is not None and diff.change_score > ROUNDING
        return replace(diff, findings=_of_modules(diff, pair, scores), verdict="changed" if changed else "unchanged")
    vectors = difference_decoder(diff) if isinstance(diff, DictionaryDiff) else diff.directions
    findings = findings_of(order_of(diff), vectors, scores, diff.layer, pair.logit_lens)
    return replace(diff, findings=findings, verdict=verdict(pair))


def findings_of(
    order: Tensor, vectors: Tensor, scores: Tensor, layer: int, read: Callable[[Tensor], Sequence[Words]]
) -> tuple[Finding, ...]:
    """The first components of an order as findings, with the tokens that they move.

    Args:
        order: [n] components, most important first.
        vectors: [n, d], the direction of each component.
        scores: [n], the importance of each; a component without one (NaN) is no finding.
        layer: the 0-based block whose output they live in.
        read: the logit lens.
    """
    order = order[:MOST_FINDINGS]
    order = order[~scores[order].isnan()]
    tokens = read(vectors[order]) if len(order) else []
    return tuple(
        Finding(
            rank=rank,
            component=int(component),
            layer=layer,
            score=float(scores[component]),
            tokens_up=tuple(up),
            tokens_down=tuple(down),
        )
        for rank, (component, (up, down)) in enumerate(zip(order, tokens, strict=True), start=1)
    )


def _of_modules(diff: WeightDiff, pair: ModelPair, scores: Tensor) -> tuple[Finding, ...]:
    order = order_of(diff)[:MOST_FINDINGS].tolist()
    modules = [diff.modules[component] for component in order]
    tokens = pair.read_out(modules, [diff.u[component] for component in order])
    return tuple(
        Finding(
            rank=rank,
            component=component,
            layer=pair.layer_of(module),
            module=module,
            score=float(scores[component]),
            tokens_up=tuple(up),
            tokens_down=tuple(down),
        )
        for rank, (component, module, (up, down)) in enumerate(zip(order, modules, tokens, strict=True), start=1)
    )


def verdict(pair: ModelPair) -> Verdict:
    """changed, unless the activations differ by no more than rounding."""
    base, delta = pair.activations().load()
    size = float(delta.double().pow(2).sum() / base.double().pow(2).sum())
    return "changed" if size > UNCHANGED_BELOW else "unchanged"


def no_change(layer: int, width: int) -> DirectionDiff:
    """The Diff that says: nothing changed."""
    zero = torch.zeros(width)
    return DirectionDiff(
        layer=layer, directions=torch.zeros(0, width), centre=zero, bias=zero.clone(), verdict="unchanged"
    )
