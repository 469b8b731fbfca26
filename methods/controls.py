"""Controls that every table pins: the true difference, nothing, and a random dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffbench import Field, Method, MethodOptions

if TYPE_CHECKING:
    from diffbench import Context, Diff, ModelPair


class Oracle(Method):
    """The true difference, as a complete basis of principal directions."""

    name = "oracle"
    summary = "control: the true h_t - h_b in a complete basis; its full edit recovers everything"
    control = True

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """All d principal directions: together they are delta, and the first k of them are PCA's."""
        from diffbench import describe, no_change, principal_directions

        activations = pair.activations()
        if activations.unchanged:
            return no_change(ctx.layer, pair.width)
        diff, spread = principal_directions(activations, pair.width)
        return describe(diff, pair, spread)


class Nothing(Method):
    """Says that nothing changed."""

    name = "nothing"
    summary = "control: says that nothing changed"
    access = frozenset()
    control = True

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """No component at all."""
        from diffbench import no_change

        return no_change(ctx.layer, pair.width)


class RandomDictionary(Method):
    """Random directions that read and write the difference."""

    name = "random-dictionary"
    summary = "control: random unit decoders on h_t - h_b, transposed encoder, one fitted scalar"
    control = True

    class Options(MethodOptions):
        """Size and sparsity, as the trained dictionaries have them by default."""

        expansion: int = Field(4, ge=1, le=256, description="latents per residual dimension, up to the tier's limit")
        k: int = Field(8, ge=1, description="active latents per token on average")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Draw, fit the scalar, order by energy."""
        from diffbench import describe, no_change, random_dictionary

        activations = pair.activations()
        if activations.unchanged:
            return no_change(ctx.layer, pair.width)
        n = min(self.options.expansion * pair.width, ctx.budget.components)
        diff = random_dictionary(activations, n, self.options.k, ctx.seed)
        return describe(diff, pair, diff.columns["energy"])
