"""Directions: the mean of the differences, over all positions or at each of the first, and their principal components.

What needs torch is imported where it runs, so that listing and resuming stay fast; a plugin need not do that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffbench import Field, Method, MethodOptions

if TYPE_CHECKING:
    from diffbench import Context, Diff, ModelPair


class MeanDifference(Method):
    """One direction: the mean difference, added at every token."""

    name = "mean-difference"
    summary = "the mean of h_t - h_b over the text, added everywhere"
    reference = "Minder et al. 2025 (arXiv 2510.13900), averaged over all positions"
    baseline = True

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """The mean of delta as a single constant component."""
        import torch

        from diffbench import DirectionDiff, describe, no_change

        _, delta = pair.activations().load()
        mean = delta.double().mean(dim=0)
        size = float(mean.norm())
        if size == 0:
            return no_change(ctx.layer, pair.width)
        diff = DirectionDiff(
            layer=ctx.layer,
            directions=(mean / size).float()[None],
            centre=mean.float(),
            bias=torch.zeros(pair.width),
            constant=torch.tensor([size]),
        )
        return describe(diff, pair, torch.tensor([size]))


class ActivationDifferenceLens(Method):
    """The mean difference at each of the first positions, read with the logit lens."""

    name = "activation-difference-lens"
    summary = "the mean of h_t - h_b at each of the first token positions, read with the logit lens"
    reference = "Minder et al. 2025 (arXiv 2510.13900)"
    baseline = True

    class Options(MethodOptions):
        """Which positions."""

        positions: int = Field(5, ge=1, le=1024, description="first token positions that count, one component each")
        everywhere: bool = Field(
            False,
            description="also the mean over all positions, as one more component; at the first positions a full edit "
            "then adds both",
        )

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """One constant component for each position, the longest first; its change score is the mean of their lengths.

        Each length is relative to the mean of the norms of h_b at the position.
        """
        import torch

        from diffbench import DirectionDiff, describe, no_change

        activations = pair.activations()
        centre = activations.load()[1].double().mean(dim=0)
        means, places, shares = [], [], []
        for position in activations.position.unique()[: self.options.positions].tolist():
            base, delta = activations.rows((activations.position == position).nonzero().flatten())
            means.append(delta.double().mean(dim=0))
            places.append(position)
            shares.append(float(means[-1].norm() / base.double().norm(dim=1).mean()))
        if self.options.everywhere:
            means.append(centre)
            places.append(-1)
        rows = torch.stack(means)
        sizes = rows.norm(dim=1)
        order = sizes.argsort(descending=True, stable=True)[: ctx.budget.components]
        order = order[sizes[order] > 0]
        if not len(order):
            return replace(no_change(ctx.layer, pair.width), change_score=0.0)
        lengths = sizes[order].float()
        diff = DirectionDiff(
            layer=ctx.layer,
            directions=(rows[order] / sizes[order, None]).float(),
            centre=centre.float(),
            bias=torch.zeros(pair.width),
            constant=lengths,
            positions=torch.tensor(places)[order],
            change_score=sum(shares) / len(shares),
        )
        return describe(diff, pair, lengths)


class Pca(Method):
    """Principal directions of the differences."""

    name = "pca"
    summary = "principal directions of h_t - h_b around its mean"
    reference = "the baseline of every budget curve"
    baseline = True

    class Options(MethodOptions):
        """How many directions."""

        components: int = Field(8, ge=1, le=4096, description="principal directions to keep")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """The first principal directions, scored by their standard deviation."""
        from diffbench import OptionError, describe, no_change, principal_directions

        n = self.options.components
        if n > pair.width:
            raise OptionError(f"components: {n} are more than the residual width {pair.width}")
        activations = pair.activations()
        if activations.unchanged:
            return no_change(ctx.layer, pair.width)
        diff, spread = principal_directions(activations, n)
        return describe(diff, pair, spread)
