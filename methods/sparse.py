"""Sparse dictionaries: the diff-SAE and the BatchTopK crosscoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from diffbench import BatchTopKOptions, Field, Method

if TYPE_CHECKING:
    from diffbench import Context, Diff, ModelPair


class DiffSae(Method):
    """A BatchTopK SAE on the differences themselves."""

    name = "diff-sae"
    summary = "BatchTopK SAE trained on h_t - h_b; latents ordered by the energy they explain"
    reference = "Aranguri, Drori & Nanda 2025; Minder & Dumas 2025"

    class Options(BatchTopKOptions):
        """BatchTopK options."""

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on delta."""
        from diffbench import describe, no_change, train_batchtopk

        activations = pair.activations()
        if activations.unchanged:
            return no_change(ctx.layer, pair.width)
        diff = train_batchtopk(
            activations,
            "delta",
            self.options,
            seed=ctx.seed,
            max_components=ctx.budget.components,
            report=ctx.report,
        )
        return describe(diff, pair, diff.columns["energy"])


class CrosscoderBatchTopK(Method):
    """A BatchTopK crosscoder: one code for both models, a decoder for each."""

    name = "crosscoder-batchtopk"
    summary = "BatchTopK crosscoder on [h_b, h_t]; latents ordered by what they add to the difference"
    reference = "Minder et al. 2025 (arXiv 2504.02922)"

    class Options(BatchTopKOptions):
        """BatchTopK options and the order of the latents."""

        ranking: Literal["energy", "relative-norm"] = Field(
            "energy",
            description="energy: mean squared size of f (d_t - d_b); relative-norm: tuned-only decoders first",
        )

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on both models' activations."""
        from dataclasses import replace

        from diffbench import describe, train_batchtopk

        diff = train_batchtopk(
            pair.activations(),
            "both",
            self.options,
            seed=ctx.seed,
            max_components=ctx.budget.components,
            report=ctx.report,
        )
        scores = diff.columns[self.options.ranking.replace("-", "_")]
        return describe(replace(diff, order=scores.argsort(descending=True, stable=True)), pair, scores)
