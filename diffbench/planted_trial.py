"""Planted trial: methods run on planted pairs at matched sizes and scored, beside baselines that know all or nothing.

Methods run in this process: a planted pair has no models to hide, and a stranger's method is trusted as any installed
package is.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from diffbench.base import Progress
from diffbench.controls import principal_directions, random_dictionary
from diffbench.diff import DictionaryDiff, Diff, DiffBase
from diffbench.errors import OptionError, PluginError, UnknownName
from diffbench.figure import Figure
from diffbench.grid import split_row
from diffbench.interval import mean_interval
from diffbench.line import error_line, one_line
from diffbench.method import Context, Method, MethodOptions, NotApplicable, resolve_options
from diffbench.options import EitherOptions
from diffbench.planted import Planted, PlantedParameters, plant
from diffbench.planted_pair import PlantedPair, feature_lens
from diffbench.planted_score import PlantedScore, score_components, score_diff, true_components
from diffbench.plugins import find_method, load_plugins
from diffbench.ranking import NoRanking, ranked
from diffbench.seeds import derive
from diffbench.tier import Tier
from diffbench.truth import Schema

TRUE, PCA, RANDOM = "true features", "pca", "random-dictionary"
BASELINES = (TRUE, PCA, RANDOM)
MOST_PER_CODE = 2
"""Components that a method may hold per unit of its `expansion`: one dictionary for each model makes two."""

logger = logging.getLogger(__name__)


class Size(Schema):
    """What every method gets, so that scores are compared at equal size."""

    expansion: int = Field(4, ge=1, le=256, description="components per dimension of the residual stream")
    k: int = Field(8, ge=1, description="active components per row, on average")


class PlantedRow(Schema):
    """One method on one planted pair."""

    method: str = Field(description="name, and @ranking where the components are ordered by one of their columns")
    baseline: bool = Field(description="made by the engine: it knows all, or nothing")
    seed: int
    status: Literal["ok", "error", "not_applicable"]
    reason: str | None = Field(None, description="one line for error and not_applicable")
    seconds: float | None = Field(None, description="of the fit")
    score: PlantedScore | None = None


class MeanBudget(Schema):
    """`PlantedBudget` as a mean over seeds, with a 95% interval from three seeds on."""

    m: int
    precision: Figure
    recall: Figure
    f1: Figure
    f1_shuffled: Figure
    duplicates: float
    false_alarms: float


class PlantedSummary(Schema):
    """One method over all seeds; where a seed failed, the mean is over the others and ``seeds`` says so."""

    method: str
    baseline: bool
    seeds: int = Field(description="scored")
    failed: int
    reason: str | None = Field(None, description="why the first seed without a score has none")
    seconds: float | None
    components: float = 0
    budgets: tuple[MeanBudget, ...] = ()
    recall_all: Figure | None = None
    energy: Figure | None = None
    kinds: tuple[Figure, ...] = Field((), description="recall at as many components as changed features, by kind")


@dataclass(frozen=True, slots=True)
class Planned:
    """A method as it is run: its options, its size, and the orders in which its components are scored.

    Attributes:
        rankings: columns to order by; None is the method's own order.
        note: what tells it from the same method at another size.
    """

    method: type[Method]
    options: MethodOptions
    size: Size
    rankings: tuple[str | None, ...]
    note: str = ""

    def label(self, ranking: str | None) -> str:
        """As in tables."""
        return self.method.name + (f"@{ranking}" if ranking else "") + self.note


def planned(methods: Sequence[str], options: Mapping[str, Mapping[str, Any]], sizes: Sequence[Size]) -> list[Planned]:
    """The methods of a trial, each at every size; none named means all installed that read activations alone.

    Options called ``expansion`` and ``k`` are set to the size unless they are passed.

    Args:
        methods: names, or ``name@column`` for a method's components in the order of a column.
        options: passed options by method.
        sizes: what methods are run at; one whose sparsity is not set by an option ``k`` is run once per expansion.

    Raises:
        UnknownName: for a method that is not installed, or an option of one that is not in the trial.
        OptionError: for a row that is none, or an option that does not exist or has no such value.
    """
    names = list(dict.fromkeys(methods)) or [
        name
        for name, method in load_plugins().methods.items()
        if method.access == {"activations"} and not method.control and name not in BASELINES
    ]
    rankings: dict[str, tuple[str | None, ...]] = {}
    for name, ranking in map(split_row, names):
        rankings[name] = (*rankings.get(name, ()), ranking)
    for name in options:
        if name not in rankings:
            raise UnknownName("method in this trial", name, rankings, f"it was named in -o {name}")
    found: dict[tuple[str, str], Planned] = {}
    for name, columns in rankings.items():
        method, passed = find_method(name), options.get(name, {})
        for size in dict.fromkeys(sizes):
            values = {"expansion": size.expansion, "k": size.k}
            sized = {key: value for key, value in values.items() if key in method.Options.model_fields}
            chosen = resolve_options(method, {**sized, **passed})
            if not uses_k(chosen):
                chosen = resolve_options(method, {key: sized[key] for key in sized if key != "k"} | dict(passed))
            note = f" k={size.k}" if len(sizes) > 1 and uses_k(chosen) and "k" not in passed else ""
            found.setdefault((name, chosen.model_dump_json()), Planned(method, chosen, size, columns, note))
    return list(found.values())


def uses_k(options: MethodOptions) -> bool:
    """Whether an option ``k`` decides how sparse a method is."""
    by_penalty = isinstance(options, EitherOptions) and options.sparsity == "l1"
    return "k" in type(options).model_fields and not by_penalty


def run_trial(
    methods: Sequence[Planned], parameters: PlantedParameters, seeds: Sequence[int], size: Size, report: Progress
) -> Iterator[PlantedRow]:
    """Plant a pair for each seed, run every method on it and score it; a method that fails costs its own rows."""
    stages = len(seeds) * (len(methods) + 1)
    for at, seed in enumerate(seeds):

        def stage(index: int, seed: int = seed, at: int = at) -> Progress:
            done = at * (len(methods) + 1) + index
            return lambda phrase, fraction: report(f"seed {seed}: {phrase}", (done + min(fraction, 1.0)) / stages)

        stage(0)("planting", 0.0)
        planted = plant(parameters, seed)
        yield from _baselines(planted, size)
        for index, each in enumerate(methods, start=1):
            yield from _rows(each, planted, stage(index))


def summarise(rows: Sequence[PlantedRow]) -> list[PlantedSummary]:
    """Means over seeds, best first at as many components as changed features; baselines first, failures last."""
    labels = dict.fromkeys((row.baseline, row.method) for row in rows)
    found = [_summary([row for row in rows if (row.baseline, row.method) == label]) for label in labels]
    return sorted(found, key=lambda row: (not row.baseline, not row.budgets, -_level(row)))


def _baselines(planted: Planted, size: Size) -> Iterator[PlantedRow]:
    n = size.expansion * planted.parameters.width
    yield PlantedRow(
        method=TRUE,
        baseline=True,
        seed=planted.seed,
        status="ok",
        score=score_components(planted, true_components(planted)),
    )
    rivals: dict[str, Diff] = {
        PCA: principal_directions(planted.activations, planted.parameters.width)[0],
        RANDOM: random_dictionary(planted.activations, n, min(size.k, n), derive(planted.seed, "random dictionary")),
    }
    for name, diff in rivals.items():
        score = score_diff(planted, diff)
        yield PlantedRow(method=name, baseline=True, seed=planted.seed, status="ok", score=score)


def _rows(each: Planned, planted: Planted, report: Progress) -> Iterator[PlantedRow]:
    """One fit, in all the orders that were asked for."""
    report(each.method.name, 0.0)
    started = time.perf_counter()
    diff: Diff | None = None
    status: Literal["ok", "error", "not_applicable"] = "ok"
    reason = None
    try:
        diff = _fit(each, planted, report)
    except NotApplicable as why:
        status, reason = "not_applicable", one_line(why) or "the method gave no reason"
    except Exception as error:  # a stranger's method may fail in any way, and must not take the others down
        status, reason = "error", error_line(error)
        logger.debug("%s failed", each.method.name, exc_info=True)
    seconds = time.perf_counter() - started
    for ranking in each.rankings:
        row = PlantedRow(
            method=each.label(ranking),
            baseline=False,
            seed=planted.seed,
            status=status,
            reason=reason,
            seconds=seconds,
        )
        yield row if diff is None else _scored(row, planted, diff, ranking)


def _scored(row: PlantedRow, planted: Planted, diff: Diff, ranking: str | None) -> PlantedRow:
    if ranking is not None:
        try:
            diff = ranked(diff, ranking, feature_lens(planted.features))
        except NoRanking as why:
            return row.model_copy(update={"status": "not_applicable", "reason": one_line(why)})
        except OptionError as why:
            return row.model_copy(update={"status": "error", "reason": one_line(why)})
    score = score_diff(planted, diff)
    if score is None:
        reason = f"a {diff.kind} diff has no components in the residual stream"
        return row.model_copy(update={"status": "not_applicable", "reason": reason})
    return row.model_copy(update={"score": score})


def _fit(each: Planned, planted: Planted, report: Progress) -> Diff:
    method, parameters = each.method, planted.parameters
    expansion = getattr(each.options, "expansion", each.size.expansion)
    if missing := sorted(method.access - {"activations"}):
        raise NotApplicable(f"it needs {', '.join(missing)}, and a planted pair has activations alone")
    tier = Tier(
        name="planted",
        tokens=parameters.rows,
        components=MOST_PER_CODE * max(expansion, each.size.expansion) * parameters.width,
        seconds=3600,
        evaluation_tokens=parameters.held_out_rows,
        judge_tokens=parameters.held_out_rows,
    )
    pair = PlantedPair(planted, method.access)
    torch.manual_seed(planted.seed)
    with tempfile.TemporaryDirectory(prefix="diffbench-planted-") as scratch:
        context = Context(
            seed=planted.seed,
            layer=pair.layer,
            budget=tier,
            out=Path(scratch),
            report=lambda phrase, fraction: report(f"{method.name}: {phrase}", fraction),
        )
        diff = method(each.options).run(pair, context)
    if not isinstance(diff, DiffBase):
        raise PluginError(f"{method.name}: run() must return a Diff, got {type(diff).__name__}")
    diff.check(pair.width, pair.n_layers, pair.vocabulary)
    if isinstance(diff, DictionaryDiff) and diff.n_components > tier.components:
        raise PluginError(f"{method.name}: {diff.n_components} components, the trial allows {tier.components}")
    return diff


def _summary(rows: Sequence[PlantedRow]) -> PlantedSummary:
    scores = [row.score for row in rows if row.score is not None]
    without = next((row.reason for row in rows if row.score is None), None)
    seconds = [row.seconds for row in rows if row.seconds is not None]
    summary = PlantedSummary(
        method=rows[0].method,
        baseline=rows[0].baseline,
        seeds=len(scores),
        failed=len(rows) - len(scores),
        reason=without,
        seconds=sum(seconds) / len(seconds) if seconds else None,
    )
    if not scores:
        return summary
    by_m = list(zip(*(score.budgets for score in scores), strict=True))
    budgets = tuple(
        MeanBudget(
            m=parts[0].m,
            precision=_mean([part.precision for part in parts]),
            recall=_mean([part.recall for part in parts]),
            f1=_mean([part.f1 for part in parts]),
            f1_shuffled=_mean([part.f1_shuffled for part in parts]),
            duplicates=sum(part.duplicates for part in parts) / len(parts),
            false_alarms=sum(len(part.false_alarms) for part in parts) / len(parts),
        )
        for parts in by_m
    )
    kinds = zip(*(part.kinds for part in by_m[len(by_m) // 2]), strict=True)
    return summary.model_copy(
        update={
            "components": sum(score.n_components for score in scores) / len(scores),
            "budgets": budgets,
            "recall_all": _mean([score.recall_all for score in scores]),
            "energy": _mean([score.energy for score in scores]),
            "kinds": tuple(_mean([each.recall for each in kind]) for kind in kinds),
        }
    )


def _mean(figures: Sequence[Figure]) -> Figure:
    """The mean over seeds; what is undefined for one is undefined for all."""
    values = [figure.value for figure in figures if figure.value is not None]
    if len(values) < len(figures):
        return next(figure for figure in figures if figure.value is None)
    interval = mean_interval(values)
    return Figure.of(*interval) if interval is not None else Figure.of(sum(values) / len(values))


def _level(row: PlantedSummary) -> float:
    """What rows are sorted by: F1 at as many components as changed features, or precision where none was changed."""
    if not row.budgets:
        return 0.0
    middle = row.budgets[len(row.budgets) // 2]
    return middle.f1.value or middle.precision.value or 0.0
