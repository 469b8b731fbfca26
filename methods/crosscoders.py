"""Crosscoders: one code for both models, a decoder for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from diffbench import BatchTopKOptions, EitherOptions, Field, L1Options, Method

if TYPE_CHECKING:
    from diffbench import L1, Context, Diff, ModelPair, TopK


class CrosscoderBatchTopK(Method):
    """A BatchTopK crosscoder."""

    name = "crosscoder-batchtopk"
    summary = "BatchTopK crosscoder on [h_b, h_t]; latents ordered by what they add to the difference"
    reference = "Minder et al. 2025 (arXiv 2504.02922)"
    version = 2

    class Options(BatchTopKOptions):
        """BatchTopK options."""

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on both models' activations."""
        from diffbench import Design, TopK, fit_dictionary

        design = Design(target="both", sparsity=TopK.of(self.options), tying="free")
        return fit_dictionary(design, self.options, pair, ctx, order_by="energy")


class CrosscoderL1(Method):
    """The crosscoder as it was first published."""

    name = "crosscoder-l1"
    summary = "ReLU crosscoder on [h_b, h_t] with an L1 penalty on activity times decoder norms"
    reference = "Lindsey et al. 2024; Minder et al. 2025 (arXiv 2504.02922)"

    class Options(L1Options):
        """L1 options."""

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on both models' activations."""
        from diffbench import L1, Design, fit_dictionary

        design = Design(target="both", sparsity=L1.of(self.options), tying="free", error=self.options.error)
        return fit_dictionary(design, self.options, pair, ctx, order_by="energy")


class CrosscoderShared(Method):
    """A crosscoder in which some latents are shared by design."""

    name = "crosscoder-shared"
    summary = "crosscoder in which a share of the latents has one decoder for both models and a reduced penalty"
    reference = "Anthropic, Insights on crosscoder model diffing, February 2025"

    class Options(EitherOptions):
        """Either sparsity, and what is shared."""

        shared: float = Field(0.5, gt=0, lt=1, description="share of the latents that both models share")
        shared_penalty: float = Field(
            0.15,
            gt=0,
            le=1,
            description="their penalty relative to the others' (with BatchTopK their scores grow by it)",
        )

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on both models' activations."""
        from diffbench import Design, fit_dictionary

        options = self.options
        design = Design(
            target="both",
            sparsity=_sparsity(options, usual=1.0),  # with more, shared latents take over everything
            tying="shared",
            shared=options.shared,
            factor=options.shared_penalty,
            error=options.error,
        )
        return fit_dictionary(design, options, pair, ctx, order_by="energy")


class CrosscoderTied(Method):
    """A crosscoder of triples: the same direction may fire at other times in the two models."""

    name = "crosscoder-tied"
    summary = "tied crosscoder: triples (shared, base, tuned) over one pair of decoders, exclusive firings cost eta"
    reference = "Aranguri 2025 (tied crosscoder)"

    class Options(EitherOptions):
        """Either sparsity, and the price of exclusive firings."""

        expansion: int = Field(12, ge=1, le=256, description="latents per residual dimension, three to a triple")
        eta: float = Field(2.0, ge=1, le=100, description="penalty of exclusive firings relative to shared ones")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on both models' activations."""
        from diffbench import Design, fit_dictionary

        options = self.options
        design = Design(
            target="both", sparsity=_sparsity(options), tying="triples", factor=options.eta, error=options.error
        )
        return fit_dictionary(design, options, pair, ctx, order_by="energy")


class CrosscoderLambda(Method):
    """Between a crosscoder and a diff-SAE: errors that both models share cost less."""

    name = "crosscoder-lambda"
    summary = "crosscoder whose loss has lambda * 2 e_t.e_b: 0 is a crosscoder, -1 sees the difference alone"
    reference = "discussion under Minder & Dumas 2025"

    class Options(EitherOptions):
        """Either sparsity, and lambda."""

        sparsity: Literal["l1", "batchtopk"] = Field("batchtopk", description="what makes the code sparse")
        lambda_diff: float = Field(-0.5, ge=-1, le=0, description="weight of the product of the two models' errors")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on both models' activations."""
        from diffbench import Design, OptionError, fit_dictionary

        options = self.options
        if options.error != "squared":
            raise OptionError("error: lambda_diff is defined for squared errors alone; leave `error` as it is")
        design = Design(target="both", sparsity=_sparsity(options), tying="free", cross=options.lambda_diff)
        return fit_dictionary(design, options, pair, ctx, order_by="energy")


def _sparsity(options: EitherOptions, usual: float = 2.0) -> TopK | L1:
    from diffbench import L1, TopK

    return L1.of(options, usual) if options.sparsity == "l1" else TopK.of(options)
