"""Ranking: a dictionary's latents put into the order of one of their columns, by the engine and without its method."""

from __future__ import annotations

from dataclasses import replace

from diffbench.dictionary import difference_decoder
from diffbench.diff import DictionaryDiff, Diff, falling
from diffbench.errors import OptionError
from diffbench.findings import findings_of
from diffbench.latent_row import meaning
from diffbench.lens import Lens

LISTED = 40


class NoRanking(Exception):
    """This Diff cannot be ranked so; the message says why and what there is instead."""


def ranked(diff: Diff, column: str, lens: Lens) -> DictionaryDiff:
    """The same dictionary in the order in which ``column`` falls, with the findings that follow from it.

    Latents whose column is NaN come last and are no findings. Change score and verdict stay: they are about the
    pair, not about an order.

    Raises:
        NoRanking: if this kind of dictionary has no such column, or no latent has a number in it.
        OptionError: if it is a column of no kind of dictionary.
    """
    if not isinstance(diff, DictionaryDiff):
        raise NoRanking(f"a {diff.kind} diff has no latents to rank by {column!r}; rankings: none")
    values = diff.columns.get(column)
    if values is None and not meaning(column):
        raise OptionError(f"there is no ranking {column!r} for any dictionary; rankings: {_listed(diff)}")
    if values is None:
        raise NoRanking(f"there is no ranking {column!r}; rankings: {_listed(diff)}")
    if bool(values.isnan().all()):
        raise NoRanking(f"the ranking {column!r} is undefined for every latent; rankings: {_listed(diff)}")
    order = falling(values)
    findings = findings_of(order, difference_decoder(diff), values, diff.layer, lens.read)
    return replace(diff, order=order, ranking=column, findings=findings)


def rankings(diff: Diff) -> list[str]:
    """The columns by which a Diff can be ranked: those in which some latent has a number."""
    columns = diff.columns if isinstance(diff, DictionaryDiff) else {}
    return [name for name, values in sorted(columns.items()) if not bool(values.isnan().all())]


def _listed(diff: DictionaryDiff) -> str:
    names = rankings(diff)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "") or "none"
