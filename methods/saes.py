"""SAEs: sparse dictionaries of one stream, and a pair of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffbench import BatchTopKOptions, Field, FileField, Method

if TYPE_CHECKING:
    from diffbench import Context, DictionaryDiff, Diff, ModelPair


class DiffSae(Method):
    """A BatchTopK SAE on the differences themselves."""

    name = "diff-sae"
    summary = "BatchTopK SAE trained on h_t - h_b; latents ordered by the energy they explain"
    reference = "Aranguri, Drori & Nanda 2025; Minder & Dumas 2025"
    version = 2

    class Options(BatchTopKOptions):
        """BatchTopK options, and which way the difference is taken."""

        direction: Literal["tuned-base", "base-tuned"] = Field(
            "tuned-base", description="the difference that is trained on; what is returned speaks of tuned - base"
        )

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on delta."""
        from diffbench import Design, TopK, fit_dictionary

        reverse = self.options.direction == "base-tuned"
        design = Design(target="delta", sparsity=TopK.of(self.options), reverse=reverse)
        return fit_dictionary(design, self.options, pair, ctx, order_by="energy")


class _StreamSae(Method):
    """An SAE of one model's stream, trained here or brought along."""

    class Options(BatchTopKOptions):
        """BatchTopK options, or a finished SAE."""

        pretrained: str | None = FileField(
            description="an SAE for this stream and layer, not trained any further; `diffbench dictionaries formats`"
        )

    def fit(self, stream: Literal["tuned", "base"], pair: ModelPair, ctx: Context) -> Diff:
        """Train or read, and order by how specific latents are to the tuned model."""
        from diffbench import Design, TopK, describe, fit_dictionary, with_latents

        options, order_by = self.options, "specific_activation"
        if options.pretrained is None:
            design = Design(target=stream, sparsity=TopK.of(options))
            return fit_dictionary(design, options, pair, ctx, order_by=order_by)
        diff = _finished(Path(options.pretrained), stream, pair, ctx.layer)
        diff = with_latents(diff, pair.training_rows()[1], order_by)
        return describe(diff, pair, diff.columns[order_by])


def _finished(path: Path, stream: Literal["tuned", "base"], pair: ModelPair, layer: int) -> DictionaryDiff:
    """An SAE that was brought along, if it fits the pair."""
    from diffbench import CheckpointError, DiffError, OptionError, read_dictionary

    try:
        diff = read_dictionary(path, input=stream, layer=layer)
        diff.check(pair.width, pair.n_layers, pair.vocabulary)
    except DiffError as error:
        raise OptionError(f"pretrained: {path.name} does not fit these models: {error}") from None
    except (CheckpointError, OptionError) as error:  # which name the copy that this process was given
        raise OptionError(f"pretrained: {str(error).replace(str(path), path.name)}") from None
    return diff


class ChatSae(_StreamSae):
    """An SAE of the tuned model, whose latents are looked for in the base."""

    name = "chat-sae"
    summary = "BatchTopK SAE of h_t; latents that the base model lacks first, by latent scaling"
    reference = "Minder & Dumas 2025"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on the tuned model's activations."""
        return self.fit("tuned", pair, ctx)


class BaseSae(_StreamSae):
    """An SAE of the base model, read on the tuned one."""

    name = "base-sae"
    summary = (
        "BatchTopK SAE of h_b read on h_t; ordered by latent scaling, `@activation_rise` by how much more they fire"
    )
    reference = "Minder & Dumas 2025; Wang et al. 2025 (arXiv 2506.19823)"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train on the base model's activations."""
        return self.fit("base", pair, ctx)


class SaePair(Method):
    """One SAE for each model; latents without a counterpart in the other are the change."""

    name = "sae-pair"
    summary = "one BatchTopK SAE per model, decoders matched by cosine; unmatched latents first, weighted by energy"
    reference = "Aranguri 2025, next steps; Bussmann et al. 2024 (stitching SAEs)"

    class Options(BatchTopKOptions):
        """BatchTopK options of each of the two SAEs."""

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Train both, match them, and put them side by side into one dictionary.

        Both start from the same weights and see the same rows in the same order, so that a latent and its counterpart
        grow from one direction: from unequal starts, half of what one SAE finds has no counterpart in the other even
        where nothing changed.
        """
        from dataclasses import replace

        from diffbench import Design, OptionError, TopK, describe, train, with_latents

        rows, held_out = pair.training_rows()
        saes, half, n = {}, ctx.budget.components // 2, self.options.expansion * pair.width
        if n > half:
            raise OptionError(f"expansion: two SAEs of {n} latents are more than the tier's {2 * half} components")
        for at, stream in enumerate(("base", "tuned")):
            ctx.report(f"the SAE of the {stream} model", at / 2)
            design = Design(target="base" if stream == "base" else "tuned", sparsity=TopK.of(self.options))
            saes[stream] = train(rows, design, self.options, seed=ctx.seed, max_components=half, report=ctx.report)
        diff = with_latents(_side_by_side(saes["base"], saes["tuned"]), held_out, "energy")
        diff = _matched(diff, len(saes["base"].order))
        novel = diff.columns["novel_energy"]
        order = novel.nan_to_num(nan=-1.0).argsort(descending=True, stable=True)
        return describe(replace(diff, order=order), pair, novel)


def _side_by_side(base: DictionaryDiff, tuned: DictionaryDiff) -> DictionaryDiff:
    """One dictionary of both streams, whose first latents read and write the base and the others the tuned one."""
    import torch

    from diffbench import DictionaryDiff

    assert base.decoder is not None and tuned.decoder is not None
    assert base.threshold is not None and tuned.threshold is not None
    n, m = len(base.order), len(tuned.order)
    none_b, none_t = torch.zeros_like(base.decoder), torch.zeros_like(tuned.decoder)
    return DictionaryDiff(
        layer=base.layer,
        input="both",
        activation="threshold",
        encoder=torch.block_diag(base.encoder, tuned.encoder),
        encoder_bias=torch.cat([base.encoder_bias, tuned.encoder_bias]),
        threshold=torch.cat([base.threshold, tuned.threshold]),
        decoder_base=torch.cat([base.decoder, none_t]),
        decoder_tuned=torch.cat([none_b, tuned.decoder]),
        bias_base=base.bias,
        bias_tuned=tuned.bias,
        order=torch.arange(n + m),
        notes={f"base_{name}": value for name, value in base.notes.items()}
        | {f"tuned_{name}": value for name, value in tuned.notes.items()},
    )


def _matched(diff: DictionaryDiff, n: int) -> DictionaryDiff:
    """Add the largest cosine of each decoder row to those of the other SAE's live latents, and what it leaves.

    ``match_cosine``; ``unmatched`` = 1 - cosine; ``novel_energy`` = energy * (1 - cosine²), the energy outside the
    best match. A latent without any live counterpart has the cosine 0; a dead one has none.
    """
    from dataclasses import replace

    import torch
    from torch.nn.functional import normalize

    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    rows = normalize(torch.cat([diff.decoder_base[:n], diff.decoder_tuned[n:]]), dim=1)
    cosine = rows[:n] @ rows[n:].T
    live = diff.columns["frequency"] > 0
    to_tuned = cosine.masked_fill(~live[None, n:], 0.0).clamp_min(0).max(dim=1).values
    to_base = cosine.masked_fill(~live[:n, None], 0.0).clamp_min(0).max(dim=0).values
    match = torch.cat([to_tuned, to_base])
    match = match.masked_fill(~live, float("nan"))
    novel = diff.columns["energy"] * (1 - match.pow(2))
    own = {"match_cosine": match, "unmatched": 1 - match, "novel_energy": novel}
    return replace(diff, columns=diff.columns | own)
