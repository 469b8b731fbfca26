"""Grid: the cells of a run, each with the key that says whether it has been run already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffbench import cache
from diffbench.canonical import digest
from diffbench.comparison import CODE, SCORE_CODE, Comparison
from diffbench.errors import UnknownName
from diffbench.judge import Judge
from diffbench.method import Method, MethodOptions, resolve_options
from diffbench.plugins import find_method, load_plugins, provenance
from diffbench.record import Cell, Hashes

METHOD_CODE = (
    *CODE,
    "diffbench.cell",
    "diffbench.diff_file",
    "diffbench.findings",
    "diffbench.method",
    "diffbench.options",
    "diffbench.pair",
    "diffbench.training",
)
"""Engine code that a method's Diff may follow from."""

PINNED = ("oracle", "nothing", "random-dictionary")
"""The controls without which no table can be read."""


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell before it is run."""

    comparison: Comparison
    method: type[Method]
    options: MethodOptions
    judge: type[Judge]
    cell: Cell
    key: str

    def hashes(self, diff: dict[str, str] | None = None) -> Hashes:
        """What could change the numbers, part by part."""
        organism = self.comparison.organism
        return Hashes(
            recipe=organism.recipe.digest(),
            base=organism.base.card().sha256,
            reference_model=organism.model_key(self.comparison.reference),
            tuned_model=organism.model_key("tuned"),
            pair=self.comparison.key,
            diff=diff,
            score_code=cache.code_version(*SCORE_CODE),
        )


def plan(
    comparisons: Sequence[Comparison],
    methods: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    judge: type[Judge],
) -> list[PlannedCell]:
    """All cells of comparisons x methods x seeds, in a fixed order.

    Args:
        comparisons: pairs to run on.
        methods: names; empty means all that are installed.
        options: passed options by method.
        seeds: method seeds.
        judge: who scores interpretability.

    Raises:
        UnknownName: for a method that is not installed, or an option of one that is not in the run.
        OptionError: for an option that does not exist or has no such value, before anything runs.
    """
    names = list(dict.fromkeys(methods)) or sorted(load_plugins().methods)
    for name in options:
        if name not in names:
            raise UnknownName(
                "method in this run", name, names, f"it was named in -o {name}.{next(iter(options[name]))}"
            )
    classes = [find_method(name) for name in names]
    resolved = [resolve_options(method, options.get(method.name, {})) for method in classes]
    return [
        _planned(comparison, method, chosen, dict(options.get(method.name, {})), seed, judge)
        for comparison in comparisons
        for method, chosen in zip(classes, resolved, strict=True)
        for seed in dict.fromkeys(seeds)
    ]


def _planned(
    comparison: Comparison,
    method: type[Method],
    options: MethodOptions,
    passed: dict[str, Any],
    seed: int,
    judge: type[Judge],
) -> PlannedCell:
    recipe = comparison.organism.recipe
    cell = Cell(
        organism=recipe.name,
        organism_version=recipe.version,
        reference=comparison.reference,
        method=method.name,
        method_version=method.version,
        method_package=provenance(method),
        control=method.control,
        access=tuple(sorted(method.access)),
        seed=seed,
        options_passed=passed,
        options=options.model_dump(mode="json"),
        tier=comparison.tier.name,
        judge=f"{judge.name} {judge.version}",
    )
    inputs = {
        "stage": "cell",
        "comparison": comparison.key,
        "cell": cell.model_dump(mode="json", exclude={"options_passed"}),
        "tier": comparison.tier.model_dump(mode="json"),
        "method_code": [cache.plugin_version(method), cache.code_version(*METHOD_CODE)],
        "score_code": [cache.plugin_version(judge), cache.code_version(*SCORE_CODE)],
        "libraries": cache.libraries(),
    }
    return PlannedCell(comparison, method, options, judge, cell, digest(inputs))
