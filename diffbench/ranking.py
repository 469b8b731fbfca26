"""Ranking: a Diff's components put into the order of a column, by the engine and without the Diff's method.

A dictionary has columns of its own; what the engine measures itself (`ENGINE_COLUMNS`) ranks every Diff that has a
handle on the models. Shapes: n components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from diffbench.dictionary import difference_decoder
from diffbench.diff import ENGINE_COLUMNS, DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff, falling
from diffbench.errors import OptionError
from diffbench.findings import MOST_FINDINGS, findings_of
from diffbench.latent_row import meaning
from diffbench.lens import Lens

LISTED = 40
LONGEST_MODULE = 200

Measure = Callable[[Diff], Tensor]
"""[n]: what the engine measures of each component, the larger the earlier in the order; NaN: undefined."""


class NoRanking(Exception):
    """This Diff cannot be ranked so; the message says why and what there is instead."""


def ranked(
    diff: Diff, column: str, lens: Lens, measure: Measure | None = None
) -> DictionaryDiff | DirectionDiff | WeightDiff:
    """The same Diff in the order in which ``column`` falls, with the findings that follow from it.

    Components whose column is NaN come last and are no findings. Change score and verdict stay: they are about the
    pair, not about an order.

    Args:
        diff: is not changed.
        column: one of the Diff's own or of `ENGINE_COLUMNS`.
        lens: names the tokens that directions move.
        measure: gives the engine's column; None: there are no models to measure it on.

    Raises:
        NoRanking: if this Diff has no such column, or no component has a number in it.
        OptionError: if it is a column of no kind of Diff.
    """
    if isinstance(diff, OutputDiff):
        raise NoRanking(f"an output diff has no components to rank by {column!r}; rankings: none")
    if column not in ENGINE_COLUMNS:
        values = _own(diff, column)
    elif column not in rankings(diff):
        raise NoRanking(f"a {diff.kind} diff without two decoders has no {column!r}; rankings: {_listed(diff)}")
    elif measure is None:
        raise NoRanking(f"the ranking {column!r} is measured on two models, and there are none")
    else:
        values = measure(diff)
    if bool(values.isnan().all()):
        raise NoRanking(f"the ranking {column!r} is undefined for every component; rankings: {_listed(diff)}")
    order = falling(values)
    return replace(diff, order=order, ranking=column, findings=_findings(diff, order, values, lens))


def rankings(diff: Diff) -> list[str]:
    """The columns by which a Diff can be ranked: those in which some component has a number, or may have one."""
    columns = diff.columns if isinstance(diff, DictionaryDiff) else {}
    own = [name for name, values in sorted(columns.items()) if not bool(values.isnan().all())]
    two = isinstance(diff, DictionaryDiff) and diff.input == "both"
    return own if isinstance(diff, OutputDiff) else [*own, *(ENGINE_COLUMNS if two else ENGINE_COLUMNS[:1])]


def _own(diff: DictionaryDiff | DirectionDiff | WeightDiff, column: str) -> Tensor:
    if not isinstance(diff, DictionaryDiff):
        raise NoRanking(f"a {diff.kind} diff has no latents to rank by {column!r}; rankings: {_listed(diff)}")
    values = diff.columns.get(column)
    if values is None and not meaning(column):
        raise OptionError(f"there is no ranking {column!r} for any dictionary; rankings: {_listed(diff)}")
    if values is None:
        raise NoRanking(f"there is no ranking {column!r}; rankings: {_listed(diff)}")
    return values


def _findings(
    diff: DictionaryDiff | DirectionDiff | WeightDiff, order: Tensor, values: Tensor, lens: Lens
) -> tuple[Finding, ...]:
    if isinstance(diff, DictionaryDiff):
        return findings_of(order, difference_decoder(diff), values, diff.layer, lens.read)
    said = {finding.component: finding for finding in diff.findings}
    if isinstance(diff, DirectionDiff):
        found = findings_of(order, diff.directions, values, diff.layer, lens.read)
        return tuple(
            finding.model_copy(update={"text": said[finding.component].text}) if finding.component in said else finding
            for finding in found
        )
    chosen = [int(i) for i in order[:MOST_FINDINGS] if not bool(values[i].isnan())]
    return tuple(
        _weight_finding(diff, component, said.get(component)).model_copy(
            update={"rank": rank, "score": float(values[component])}
        )
        for rank, component in enumerate(chosen, start=1)
    )


def _weight_finding(diff: WeightDiff, component: int, said: Finding | None) -> Finding:
    """What the method said of a component, with its tokens, or else where it is."""
    if said is not None:
        return said
    module = ", ".join(diff.parameters[component]) if diff.whole else diff.modules[component]
    return Finding(rank=1, component=component, module=module[:LONGEST_MODULE], score=0.0)


def _listed(diff: Diff) -> str:
    names = rankings(diff)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "") or "none"
