"""Grid: the cells of a run, each with the keys that say whether its method and its scoring have been run already.

A method's result is a *fit*; a row ``method@column`` is the same fit in another order, so that several rows share one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffbench import cache
from diffbench.canonical import digest
from diffbench.comparison import CODE, SCORE_CODE, Comparison
from diffbench.errors import OptionError, UnknownName
from diffbench.input_files import InputFile, input_files, recorded
from diffbench.judge import Judge
from diffbench.method import Method, MethodOptions, resolve_options
from diffbench.plugins import find_method, load_plugins, provenance
from diffbench.record import COLUMN_NAME, Cell, Hashes

METHOD_CODE = (
    *CODE,
    "diffbench.cell",
    "diffbench.codes",
    "diffbench.continuation",
    "diffbench.decoders",
    "diffbench.design",
    "diffbench.diff_file",
    "diffbench.findings",
    "diffbench.fitting",
    "diffbench.formats",
    "diffbench.input_files",
    "diffbench.latent_scaling",
    "diffbench.latents",
    "diffbench.lens",
    "diffbench.losses",
    "diffbench.method",
    "diffbench.options",
    "diffbench.pair",
    "diffbench.prediction",
    "diffbench.scaling",
    "diffbench.selection",
    "diffbench.stream",
    "diffbench.training",
    "diffbench.weights",
)
"""Engine code that a method's Diff may follow from."""

PINNED = ("oracle", "nothing", "random-dictionary")
"""The controls without which no table can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedScore:
    """A Diff that is to be scored, which needs no method: how, and under which keys.

    Attributes:
        fit: SHA-256 of all that the method's Diff follows from; cells of one fit differ in ranking and judge alone.
        key: SHA-256 of all that the scores follow from.
    """

    comparison: Comparison
    judge: type[Judge]
    cell: Cell
    fit: str
    key: str

    def hashes(
        self,
        diff: dict[str, str] | None = None,
        judged: dict[str, str] | None = None,
        dashboard: str | None = None,
    ) -> Hashes:
        """What could change the numbers, part by part; files of the Diff and of the judging by their names."""
        organism = self.comparison.organism
        return Hashes(
            recipe=organism.recipe.digest(),
            base=organism.base.key(),
            reference_model=organism.model_key(self.comparison.reference),
            tuned_model=organism.model_key("tuned"),
            pair=self.comparison.key,
            diff=diff,
            judged=judged,
            dashboard=dashboard,
            score_code=cache.code_version(*SCORE_CODE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell(PlannedScore):
    """One cell before its method is run.

    Attributes:
        files: what the options name by path.
    """

    method: type[Method]
    options: MethodOptions
    files: tuple[InputFile, ...]


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
        methods: names, or ``name@column`` for a method's latents in the order of a column; empty means all installed.
        options: passed options by method.
        seeds: method seeds.
        judge: who scores interpretability.

    Raises:
        UnknownName: for a method that is not installed, or an option of one that is not in the run.
        OptionError: for a row that is none, or an option that does not exist or has no such value, before anything
            runs.
    """
    rows = [split_row(row) for row in dict.fromkeys(methods)] or [
        (name, None) for name in sorted(load_plugins().methods)
    ]
    names = list(dict.fromkeys(name for name, _ in rows))
    for name in options:
        if name not in names:
            raise UnknownName(
                "method in this run", name, names, f"it was named in -o {name}.{next(iter(options[name]))}"
            )
    asked = {name: _asked(name, options.get(name, {})) for name in names}
    return [
        _planned(comparison, asked[name], ranking, seed, judge)
        for comparison in comparisons
        for name, ranking in rows
        for seed in dict.fromkeys(seeds)
    ]


def score_key(fit: str, ranking: str | None, judge: type[Judge], pair: str | None = None) -> str:
    """The key of a fit's scores.

    Args:
        fit: the fit's key.
        ranking: column by which the engine orders the components; None: the method's order.
        judge: who scores interpretability.
        pair: key of the comparison that is scored on, where it is another one than the method ran on.
    """
    inputs = {
        "stage": "cell",
        "fit": fit,
        "ranking": ranking,
        "judge": judge().identity(),
        "score_code": [cache.plugin_version(judge), cache.code_version(*SCORE_CODE)],
    }
    return digest(inputs if pair is None else inputs | {"pair": pair})


def judge_label(judge: type[Judge]) -> str:
    """A judge as records name it."""
    return f"{judge.name} {judge.version}"


def plan_score(
    cell: Cell, fit: str, comparison: Comparison, judge: type[Judge], ran_on: str | None = None
) -> PlannedScore:
    """The scoring of a fit that is there already; its method need not be installed.

    Args:
        cell: what was asked for.
        fit: the fit's key.
        comparison: the same pair as it is today.
        judge: who scores interpretability.
        ran_on: key of the comparison that the method ran on; None: this one.
    """
    cell = cell.model_copy(update=_on(comparison) | {"judge": judge_label(judge)})
    pair = comparison.key
    key = score_key(fit, cell.ranking, judge, None if ran_on in (None, pair) else pair)
    return PlannedScore(comparison=comparison, judge=judge, cell=cell, fit=fit, key=key)


def split_row(row: str) -> tuple[str, str | None]:
    """A method's name, and the column by which its latents are to be ranked, of ``name`` or ``name@column``.

    Raises:
        OptionError: if it has another form.
    """
    name, at, column = row.partition("@")
    if at and not (name and re.fullmatch(COLUMN_NAME, column)):
        raise OptionError(f"method {row!r}: write NAME or NAME@COLUMN, for example diff-sae@frequency")
    return name, column or None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A method with its options, as asked for."""

    method: type[Method]
    options: MethodOptions
    passed: dict[str, Any]
    files: tuple[InputFile, ...]


def _asked(name: str, passed: Mapping[str, Any]) -> _Asked:
    method = find_method(name)
    options = resolve_options(method, passed)
    return _Asked(method, options, dict(passed), input_files(method, options))


def _planned(comparison: Comparison, asked: _Asked, ranking: str | None, seed: int, judge: type[Judge]) -> PlannedCell:
    method = asked.method
    cell = Cell(
        **_on(comparison),
        method=method.name,
        ranking=ranking,
        method_version=method.version,
        method_package=provenance(method),
        control=method.control,
        baseline=method.baseline,
        access=tuple(sorted(method.access)),
        seed=seed,
        options_passed=asked.passed | {file.option: file.name for file in asked.files},
        options=recorded(asked.options.model_dump(mode="json"), asked.files),
        judge=judge_label(judge),
    )
    unneeded = {"options_passed", "ranking", "judge", "baseline", "changed"}
    fit = {
        "stage": "fit",
        "comparison": comparison.key,
        "cell": cell.model_dump(mode="json", exclude=unneeded),
        "tier": comparison.tier.model_dump(mode="json"),
        "method_code": [cache.plugin_version(method), cache.code_version(*METHOD_CODE)],
        "libraries": cache.libraries(),
    }
    return PlannedCell(
        comparison=comparison,
        method=method,
        options=asked.options,
        files=asked.files,
        judge=judge,
        cell=cell,
        fit=digest(fit),
        key=score_key(digest(fit), ranking, judge),
    )


def _on(comparison: Comparison) -> dict[str, Any]:
    """The part of a cell that says what it is about."""
    recipe = comparison.organism.recipe
    return {
        "organism": recipe.name,
        "organism_version": recipe.version,
        "organism_seed": recipe.seed,
        "family": recipe.family,
        "training": recipe.training.kind,
        "null_class": recipe.null_class,
        "difficulty": recipe.difficulty,
        "reference": comparison.reference,
        "tier": comparison.tier.name,
    }
