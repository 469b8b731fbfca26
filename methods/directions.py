"""Directions: the mean of the differences and their principal components.

What needs torch is imported where it runs, so that listing and resuming stay fast; a plugin need not do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffbench import Field, Method, MethodOptions

if TYPE_CHECKING:
    from diffbench import Context, Diff, ModelPair


class MeanDifference(Method):
    """One direction: the mean difference, added at every token."""

    name = "mean-difference"
    summary = "the mean of h_t - h_b over the text, added everywhere"
    reference = "Minder et al. 2025 (arXiv 2510.13900), averaged over all positions"

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


class Pca(Method):
    """Principal directions of the differences."""

    name = "pca"
    summary = "principal directions of h_t - h_b around its mean"
    reference = "the baseline of every budget curve"

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
