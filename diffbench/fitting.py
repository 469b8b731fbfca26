"""Fitting: from a design to a described Diff, as every dictionary method does it."""

from __future__ import annotations

from diffbench.design import Design
from diffbench.diff import DictionaryDiff, DirectionDiff
from diffbench.errors import OptionError
from diffbench.findings import describe, no_change
from diffbench.latents import with_latents
from diffbench.method import Context
from diffbench.options import DictionaryOptions
from diffbench.pair import ModelPair
from diffbench.training import train


def fit_dictionary(
    design: Design, options: DictionaryOptions, pair: ModelPair, ctx: Context, *, order_by: str
) -> DictionaryDiff | DirectionDiff:
    """Train a dictionary on the pair's rows, work out on held-out ones which latents changed, and describe them.

    Where the models do not differ at all and the dictionary is one of the difference, there is nothing to train: the
    Diff says that nothing changed.

    Args:
        design: the kind of dictionary.
        options: its size and training.
        pair: the models.
        ctx: seed, budget and progress of the method.
        order_by: the column of the latents (see `latent_columns`) that orders them.

    Raises:
        OptionError: if the data cannot be trained on, the options do not fit the pair or the budget, no latent
            ever fires, or ``order_by`` is no column of such a dictionary.
    """
    rows, held_out = pair.training_rows()
    if design.target == "delta" and rows.known().unchanged:
        return no_change(ctx.layer, pair.width)
    diff = train(rows, design, options, seed=ctx.seed, max_components=ctx.budget.components, report=ctx.report)
    diff = with_latents(diff, held_out, order_by)
    if not bool(diff.columns["frequency"].any()):
        raise OptionError("no latent fires on held-out rows; take a smaller penalty, or more tokens")
    return describe(diff, pair, diff.columns[order_by])
