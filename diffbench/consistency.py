"""Consistency: how far the Diffs of several method seeds say the same, measured from the Diffs alone.

Shapes: k components, T positions. Numbers are float64.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffbench.activity import activity
from diffbench.agreement import (
    FIRST,
    MATCHED_AT,
    SPANS,
    TOP,
    Activity,
    Agreement,
    Contradictions,
    Matching,
    Span,
    Words,
)
from diffbench.alignment import Directions, basis, best_of_random, overlap
from diffbench.comparison import Comparison
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff, order_of
from diffbench.diff_file import load_diff
from diffbench.errors import DiffError
from diffbench.figure import Figure
from diffbench.interval import LEAST_UNITS, t_quantile
from diffbench.line import one_line
from diffbench.rank_correlation import spearman
from diffbench.residual import load_pair
from diffbench.seeds import derive

POSITIONS, ACTIVE = 4096, 8
"""Positions of the evaluation text that activity is compared at, and of how many first components."""
EXAMPLES = 5

PairOf = Callable[[int, int], float]


def consistency_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: compare seeds.

    Request: diffs, controls (folders), strangers (see `agreement`), comparison (`Comparison.request`, or None).

    Raises:
        DiffError: if a Diff is malformed, or the Diffs do not fit each other.
    """
    diffs = [load_diff(Path(folder)) for folder in request["diffs"]]
    controls = [load_diff(Path(folder)) for folder in request["controls"]]
    comparison = None if request["comparison"] is None else Comparison.of(request["comparison"])
    strangers = [(int(seed), int(control)) for seed, control in request["strangers"]]
    return {"agreement": agreement(diffs, comparison, controls, strangers).model_dump(mode="json")}


def agreement(
    diffs: Sequence[Diff],
    comparison: Comparison | None = None,
    controls: Sequence[Diff] = (),
    strangers: Sequence[tuple[int, int]] = (),
) -> Agreement:
    """Compare the Diffs of at least two seeds of one row.

    Args:
        diffs: of each seed.
        comparison: the pair, prepared; None: it is not on this machine, and activity cannot be compared.
        controls: of the random dictionary on the same pair; none: it is not in the run.
        strangers: which of ``diffs`` and which of ``controls`` have nothing in common but the pair.

    Raises:
        DiffError: if a Diff is malformed, or the Diffs do not fit each other.
    """
    _check(diffs)
    return Agreement(
        kind=diffs[0].kind,
        n_components=tuple(diff.n_components for diff in diffs),
        matching=_matching(diffs),
        spans=_spans(diffs),
        activity=_activity(diffs, comparison),
        words=_words(diffs, controls, strangers),
        contradictions=_contradictions(diffs),
    )


def over_pairs(n: int, value: PairOf, bounds: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """Mean of a value over all pairs of ``n`` seeds; its interval is a jackknife over the seeds, from three on.

    The interval is cut where the value cannot be.
    """
    values = {pair: value(*pair) for pair in combinations(range(n), 2)}
    mean = math.fsum(values.values()) / len(values)
    if n < LEAST_UNITS:
        return Figure.of(mean)
    without = [
        math.fsum(value for pair, value in values.items() if seed not in pair) / math.comb(n - 1, 2)
        for seed in range(n)
    ]
    centre = math.fsum(without) / n
    error = math.sqrt((n - 1) / n * math.fsum((each - centre) ** 2 for each in without))
    half = t_quantile(n - 1) * error
    return Figure.of(mean, max(bounds[0], mean - half), min(bounds[1], mean + half))


def _check(diffs: Sequence[Diff]) -> None:
    """Raise `DiffError` if a Diff is broken in itself, or they are of several kinds or widths."""
    if len({diff.kind for diff in diffs}) > 1:
        raise DiffError(f"the seeds' Diffs are of several kinds: {', '.join(sorted({d.kind for d in diffs}))}")
    widths = set()
    for diff in diffs:
        if isinstance(diff, DictionaryDiff):
            width = diff.encoder.shape[-1] // (2 if diff.input == "both" else 1)
        else:
            width = diff.directions.shape[-1] if isinstance(diff, DirectionDiff) else 0
        layer = diff.layer if isinstance(diff, DictionaryDiff | DirectionDiff) else 0
        scores = diff.token_scores if isinstance(diff, OutputDiff) else None
        diff.check(width, layer + 1, 0 if scores is None else scores.numel())
        widths.add(width)
    if len(widths) > 1:
        raise DiffError(f"the seeds' Diffs are of several widths: {', '.join(map(str, sorted(widths)))}")


def _directions(diffs: Sequence[Diff]) -> list[Directions] | Figure:
    """The directions of every seed, or why there are none."""
    found = [Directions.of(diff) for diff in diffs if isinstance(diff, DictionaryDiff | DirectionDiff)]
    if len(found) < len(diffs):
        return Figure.not_applicable(f"components of a {diffs[0].kind} diff are no directions of the stream")
    if not all(found):
        return Figure.not_applicable("a seed has no component with a direction")
    return found


def _matching(diffs: Sequence[Diff]) -> Matching:
    found = _directions(diffs)
    if isinstance(found, Figure):
        return Matching(cosine=found, share=found, chance_cosine=found, chance_share=found)
    best: dict[tuple[int, int], Tensor] = {}
    chance: dict[tuple[int, int], tuple[float, float]] = {}
    for a, b in combinations(range(len(found)), 2):
        ways = [found[x].first(TOP).cosines(found[y]) for x, y in ((a, b), (b, a))]
        best[a, b] = torch.cat([way.abs().nan_to_num(nan=0.0).max(dim=1).values for way in ways])
        candidates = Counter(n for way in ways for n in way.isfinite().sum(dim=1).tolist())
        random = {n: best_of_random(n, found[a].rows.shape[1]) for n in candidates}
        total = candidates.total()
        mean, share = (math.fsum(random[n][at] * times for n, times in candidates.items()) / total for at in (0, 1))
        chance[a, b] = mean, share
    n = len(found)
    return Matching(
        cosine=over_pairs(n, lambda a, b: float(best[a, b].mean())),
        share=over_pairs(n, lambda a, b: float((best[a, b] >= MATCHED_AT).double().mean())),
        chance_cosine=_mean(n, lambda a, b: chance[a, b][0]),
        chance_share=_mean(n, lambda a, b: chance[a, b][1]),
    )


def _mean(n: int, value: PairOf) -> Figure:
    """The same without an interval, for what is computed and not measured."""
    return Figure.of(math.fsum(value(*pair) for pair in combinations(range(n), 2)) / math.comb(n, 2))


def _spans(diffs: Sequence[Diff]) -> tuple[Span, ...]:
    found = _directions(diffs)
    if isinstance(found, Figure):
        return tuple(Span(k=k, overlap=found, chance=found) for k in SPANS)
    return tuple(_span(found, k) for k in SPANS)


def _span(found: Sequence[Directions], k: int) -> Span:
    if any(len(each) < k for each in found):
        few = Figure.not_applicable(f"a seed has fewer than {k} directions")
        return Span(k=k, overlap=few, chance=few)
    bases = [basis(each.rows[:k]) for each in found]
    ranks, width = [len(each) for each in bases], found[0].rows.shape[1]
    return Span(
        k=k,
        overlap=over_pairs(len(bases), lambda a, b: overlap(bases[a], bases[b])),
        chance=_mean(len(bases), lambda a, b: min(ranks[a], ranks[b]) / width),
    )


def _activity(diffs: Sequence[Diff], comparison: Comparison | None) -> Activity:
    why = None
    if isinstance(diffs[0], DictionaryDiff | DirectionDiff):
        why = "its components are directions of the stream, which are compared themselves"
    elif any(diff.n_components == 0 or (isinstance(diff, WeightDiff) and diff.whole) for diff in diffs):
        why = "a seed has no per-token activity"
    elif comparison is None:
        why = "the pair is not prepared on this machine"
    if why is not None or comparison is None:
        n_a = Figure.not_applicable(str(why))
        return Activity(spearman=n_a, chance=n_a)
    reference, tuned = load_pair(*comparison.models(), base=comparison.organism.model_path("base"))
    corpus = Corpus.load(comparison.path / "evaluation.safetensors")
    rows = corpus.counts & (corpus.counts.flatten().cumsum(0).view_as(corpus.counts) <= POSITIONS)
    seen = []
    for diff in diffs:
        first = None if isinstance(diff, OutputDiff) else _order(diff)[:ACTIVE].tolist()
        seen.append(activity(diff, reference, tuned, corpus, rows, first).double().abs())
    return compared_activity(seen)


def _order(diff: Diff) -> Tensor:
    assert isinstance(diff, WeightDiff)  # the others have directions, or one component
    return order_of(diff)


def compared_activity(seen: Sequence[Tensor]) -> Activity:
    """Best rank correlation between the components of two seeds, both ways.

    Args:
        seen: of each seed |activity| [T, k] at the same positions.
    """
    generator = torch.Generator().manual_seed(derive(0, "shuffled positions"))
    shuffled = torch.randperm(len(seen[0]), generator=generator)

    def best(a: Tensor, b: Tensor) -> float:
        found = spearman(a, b)
        return float((found.max(dim=1).values.mean() + found.max(dim=0).values.mean()) / 2)

    return Activity(
        spearman=over_pairs(len(seen), lambda a, b: best(seen[a], seen[b]), (-1.0, 1.0)),
        chance=_mean(len(seen), lambda a, b: best(seen[a], seen[b][shuffled])),
    )


def _words(diffs: Sequence[Diff], controls: Sequence[Diff], strangers: Sequence[tuple[int, int]]) -> Words:
    named, random = [_named(diff) for diff in diffs], [_named(diff) for diff in controls]
    if not all(named):
        n_a = Figure.not_applicable("the first findings of a seed name no token")
        return Words(jaccard=n_a, control=n_a)
    beside = [_jaccard(named[seed], random[control]) for seed, control in strangers]
    return Words(
        jaccard=over_pairs(len(named), lambda a, b: _jaccard(named[a], named[b])),
        control=Figure.of(math.fsum(beside) / len(beside))
        if beside
        else Figure.not_applicable("there is no other seed of the random dictionary in this run"),
    )


def _named(diff: Diff) -> set[tuple[str, str]]:
    first = diff.findings[:FIRST]
    ways = (("up", finding.tokens_up) for finding in first), (("down", finding.tokens_down) for finding in first)
    return {(way, token) for side in ways for way, tokens in side for token in tokens}


def _jaccard(a: set[tuple[str, str]], b: set[tuple[str, str]]) -> float:
    return len(a & b) / len(a | b)


def _contradictions(diffs: Sequence[Diff]) -> Contradictions:
    matched = contradicting = 0
    examples: list[str] = []
    for a, b in combinations(diffs, 2):
        for one, other in _matched_findings(a, b):
            matched += 1
            tokens = {*one.up & other.down, *one.down & other.up}
            contradicting += bool(tokens)
            examples += sorted(tokens)
    verdicts = [diff.verdict for diff in diffs]
    return Contradictions(
        matched=matched,
        contradicting=contradicting,
        examples=tuple(one_line(token, 200) for token in list(dict.fromkeys(examples))[:EXAMPLES]),
        verdicts=dict(sorted(Counter(verdicts).items())),
        verdicts_differ=over_pairs(len(verdicts), lambda a, b: float(verdicts[a] != verdicts[b])),
    )


@dataclass(frozen=True, slots=True)
class _Named:
    """Tokens of one finding, or of all where they speak of one thing; those named both ways say nothing."""

    up: frozenset[str]
    down: frozenset[str]

    @classmethod
    def of(cls, *findings: Finding) -> _Named:
        up = frozenset(token for finding in findings for token in finding.tokens_up)
        down = frozenset(token for finding in findings for token in finding.tokens_down)
        return cls(up - down, down - up)


def _matched_findings(a: Diff, b: Diff) -> list[tuple[_Named, _Named]]:
    """Findings of two seeds that speak of the same thing: directions in the same sense, or all that is seen outside."""
    first, second = a.findings[:FIRST], b.findings[:FIRST]
    if isinstance(a, OutputDiff):
        return [(_Named.of(*first), _Named.of(*second))] if first and second else []
    if not isinstance(a, DictionaryDiff | DirectionDiff) or not isinstance(b, DictionaryDiff | DirectionDiff):
        return []
    left = Directions.of(a).of_components([finding.component for finding in first])
    right = Directions.of(b).of_components([finding.component for finding in second])
    at, to = ({int(c): index for index, c in enumerate(each.component)} for each in (left, right))
    same = left.cosines(right) >= MATCHED_AT
    return [
        (_Named.of(one), _Named.of(other))
        for one in first
        for other in second
        if one.component in at and other.component in to and bool(same[at[one.component], to[other.component]])
    ]
