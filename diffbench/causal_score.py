"""Causal score: a Diff's `Recovery`, from its handle and the pair's evaluation text.

Two sweeps: arms that are looked at everywhere, and arms that are looked at where something was changed on purpose, for
which no more text is run than these positions depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.behaviour import STRENGTHS, Spill
from diffbench.budget_curve import active_counts, area_weights, curve_points
from diffbench.causal import KLSums, mixed, recovery, recovery_lift
from diffbench.corpus import STRATA
from diffbench.diff import DictionaryDiff
from diffbench.edit import Streams
from diffbench.figure import Figure
from diffbench.ground import Ground
from diffbench.handle import Handle, StreamHandle
from diffbench.interval import mean_interval
from diffbench.patching import Patch
from diffbench.scores import BudgetPoint, CurvePoint, Recovery, SetScore, StratumScore
from diffbench.seeds import derive
from diffbench.strata import NAMES
from diffbench.tier import COMPONENT_BUDGETS
from diffbench.truth import Schema, Stratum

TOP = max(COMPONENT_BUDGETS)
"""Components of the edit that strata, behaviour and off-target KL are about."""
DRAWS = 5
SAMPLE = 4
"""Every so many documents are enough for controls that are drawn several times, and for doses."""
SET_BOUNDS = (0.1, 0.3, 0.6)


@dataclass(frozen=True, slots=True)
class Causal:
    """Causal scores, and what the behaviour scores need of the same sweep.

    Attributes:
        recovery: the scores.
        spills: what the top components, put into the reference at each of `STRENGTHS`, move there.
    """

    recovery: Recovery
    spills: tuple[Spill, ...]


def score_causal(ground: Ground, handle: Handle, affected: Streams, seed: int) -> Causal:
    """All causal scores of a handle.

    Args:
        ground: the pair and its text.
        handle: of the Diff.
        affected: both models' streams at affected positions, for what is active there.
        seed: of random components.

    Raises:
        DiffError: if an edit leads to NaN or infinite logits.
    """
    why = ground.same()
    if why is not None:  # the streams may differ all the same, as those of a model in another basis do
        return Causal(no_recovery(why), ())
    order = handle.order()
    sample = torch.zeros_like(ground.corpus.predicts)
    sample[::SAMPLE] = True
    kl = ground.sweep(_everywhere(handle, order)) | ground.sweep(_doses(handle, order), only=sample)
    there: dict[str, KLSums] = {}
    if len(affected):
        there = ground.sweep(_there(handle, order), only=ground.corpus.affected)
        there |= ground.sweep(_draws(handle, seed), only=ground.corpus.affected & sample)
    recovered = _recovery(ground, handle, kl, there, active_counts(handle, affected))
    return Causal(recovered, tuple(_spill(kl[f"moved{strength}"]) for strength in STRENGTHS))


def _everywhere(handle: Handle, order: Tensor) -> dict[str, Patch]:
    """Arms that are looked at wherever the models predict."""
    arms = {
        "full": handle.arm(None),
        "error": handle.error(),
        "top": handle.arm(order[:TOP]),
        "model": handle.arm(None, run="model"),
        "without": handle.arm(None, run="without", towards="reference"),
    }
    for name, below, members in _sets(handle):
        assert isinstance(handle, StreamHandle)
        if len(members):
            arms[f"{name}<{below} replace"] = handle.arm(members)
        if len(members) and handle.additive_differs:
            arms[f"{name}<{below} additive"] = handle.additive(members)
    return arms


def _doses(handle: Handle, order: Tensor) -> dict[str, Patch]:
    return {
        f"moved{strength}": handle.arm(order[:TOP], run="model", factor=strength, towards="reference")
        for strength in STRENGTHS
    }


def _there(handle: Handle, order: Tensor) -> dict[str, Patch]:
    """Arms that are looked at at affected positions."""
    arms = {f"top{k}": handle.arm(order[:k]) for k in {*curve_points(handle), *COMPONENT_BUDGETS}}
    bias = handle.bias()
    if bias is not None:
        arms["bias"] = bias
    for k in COMPONENT_BUDGETS if handle.directional else {*curve_points(handle), *COMPONENT_BUDGETS}:
        arms[f"model{k}"] = handle.arm(order[:k], run="model")
    for k in COMPONENT_BUDGETS:
        arms[f"noise{k}"] = handle.noise(order[:k], k)
        arms[f"without{k}"] = handle.arm(order[:k], run="without", towards="reference")
    return arms


def _draws(handle: Handle, seed: int) -> dict[str, Patch]:
    """Random sets of each budget, five of each, where there is something to choose from."""
    found: dict[str, Patch] = {}
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(derive(seed, "random components", str(draw)))
        shuffled = torch.randperm(handle.n_components, generator=generator)
        found |= {f"random{k}.{draw}": handle.arm(shuffled[:k]) for k in COMPONENT_BUDGETS if k < handle.n_components}
    return found


def _sets(handle: Handle) -> list[tuple[str, float, Tensor]]:
    """Columns of nu, bounds, and the latents under them."""
    if not isinstance(handle, StreamHandle) or not isinstance(handle.edit.diff, DictionaryDiff):
        return []
    columns = handle.edit.diff.columns
    name = next((name for name in ("nu_error", "nu_activation") if name in columns), None)
    if name is None:
        return []
    return [(name, below, (columns[name].abs() < below).nonzero().flatten()) for below in SET_BOUNDS]


def _recovery(
    ground: Ground,
    handle: Handle,
    kl: dict[str, KLSums],
    there: dict[str, KLSums],
    active: tuple[float, ...] | None,
) -> Recovery:
    affected, none, tuned, floor = Stratum.affected, ground.kl["none"], ground.kl["tuned"], ground.floor
    reference = ground.kl["reference"]

    def at_affected(name: str, baseline: KLSums) -> Figure:
        if name not in there and there:
            return Figure.not_applicable("weights have no bias of their own")
        return recovery(there.get(name, baseline), baseline, affected, floor)

    budgets = tuple(_budget(ground, handle, there, k, _active(active, k)) for k in COMPONENT_BUDGETS)
    tops, rivals = (
        [sums.get(f"{name}{k}", none) for k in COMPONENT_BUDGETS] for sums, name in ((there, "top"), (ground.kl, "pca"))
    )
    return Recovery(
        r_full=recovery(kl["full"], none, None, floor),
        r_error=recovery(kl["error"], none, None, floor),
        r_full_affected=recovery(kl["full"], none, affected, floor),
        r_error_affected=recovery(kl["error"], none, affected, floor),
        r_bias_affected=at_affected("bias", none),
        r_model=recovery(kl["model"], reference, None, floor),
        r_model_affected=recovery(kl["model"], reference, affected, floor),
        necessity=recovery(kl["without"], tuned, None, floor),
        necessity_affected=recovery(kl["without"], tuned, affected, floor),
        budgets=budgets,
        budget_mean=_matched(handle, recovery(mixed(tops), none, affected, floor)),
        headline=_matched(handle, recovery_lift(tops, rivals, none, affected, floor)),
        curve=_curve(ground, handle, there, active),
        area=_area(ground, handle, there),
        strata=tuple(_stratum(ground, kl, name) for name in (None, *NAMES)),
        sets=tuple(
            SetScore(
                nu=name,
                below=below,
                n=len(members),
                replace=recovery(_set_sums(kl, f"{name}<{below}", ("replace",), none), none, None, floor),
                additive=recovery(_set_sums(kl, f"{name}<{below}", ("additive", "replace"), none), none, None, floor),
            )
            for name, below, members in _sets(handle)
        ),
    )


def _set_sums(kl: dict[str, KLSums], name: str, forms: Sequence[str], none: KLSums) -> KLSums:
    """Of the first form that was run: the two are the same where one is not, and an empty set adds nothing."""
    return next((kl[f"{name} {form}"] for form in forms if f"{name} {form}" in kl), none)


def _matched(handle: Handle, figure: Figure) -> Figure:
    """A score at matched budgets, where a component is one direction."""
    if handle.directional or figure.state != "ok":
        return figure
    return Figure.not_applicable("each component is a change of many directions; no number of directions costs as much")


def _budget(ground: Ground, handle: Handle, there: dict[str, KLSums], k: int, active: Figure) -> BudgetPoint:
    none, affected, floor, pca = ground.kl["none"], Stratum.affected, ground.floor, ground.kl[f"pca{k}"]

    def of(name: str, baseline: KLSums) -> Figure:
        return recovery(there.get(name, baseline), baseline, affected, floor)  # without such positions: undefined

    r, noise = of(f"top{k}", none), of(f"noise{k}", none)
    upper = noise.value if noise.high is None else noise.high
    above = None if r.value is None or upper is None else r.value > upper
    return BudgetPoint(
        k=k,
        r=r,
        r_pca=recovery(pca, none, affected, floor),
        lift=_matched(handle, recovery_lift([there.get(f"top{k}", none)], [pca], none, affected, floor)),
        active_per_token=active,
        r_random=_random(ground, there, k),
        r_noise=noise,
        above_noise=above,
        r_model=of(f"model{k}", ground.kl["reference"]),
        necessity=of(f"without{k}", ground.kl["tuned"]),
    )


def _random(ground: Ground, there: dict[str, KLSums], k: int) -> Figure:
    none = ground.kl["none"]
    checked = recovery(none, none, Stratum.affected, ground.floor)
    drawn = [there[name] for draw in range(DRAWS) if (name := f"random{k}.{draw}") in there]
    if checked.state != "ok":
        return checked
    if not drawn:
        return Figure.not_applicable(f"there are no more than {k} components to draw from")
    there_too = drawn[0].positions[:, NAMES.index(Stratum.affected)] > 0
    lost = KLSums(none.sums * there_too[:, None], drawn[0].positions)
    if recovery(lost, lost, Stratum.affected, ground.floor).state != "ok":
        return recovery(lost, lost, Stratum.affected, ground.floor)
    values = [1 - arm.total(Stratum.affected) / lost.total(Stratum.affected) for arm in drawn]
    interval = mean_interval(values)
    return Figure.of(*interval) if interval else Figure.of(sum(values) / len(values))


def _curve(
    ground: Ground, handle: Handle, there: dict[str, KLSums], active: tuple[float, ...] | None
) -> tuple[CurvePoint, ...]:
    none, reference = ground.kl["none"], ground.kl["reference"]
    if not there:
        return ()
    elsewhere = Figure.not_applicable("measured at the budgets alone")
    points = [(k, f"top{k}") for k in curve_points(handle)]
    if "bias" in there:
        points.insert(0, (0, "bias"))
    return tuple(
        CurvePoint(
            k=k,
            r=recovery(there[name], none, Stratum.affected, ground.floor),
            r_model=recovery(there[f"model{k}"], reference, Stratum.affected, ground.floor)
            if f"model{k}" in there
            else elsewhere,
            active_per_token=_active(active, k),
        )
        for k, name in points
    )


def _area(ground: Ground, handle: Handle, there: dict[str, KLSums]) -> Figure:
    none, points = ground.kl["none"], curve_points(handle)
    if not there or not points:
        return recovery(none, none, Stratum.affected, ground.floor)
    weights = area_weights(points)
    figure = recovery(mixed([there[f"top{k}"] for k in points], weights), none, Stratum.affected, ground.floor)
    return _matched(handle, figure)


def _stratum(ground: Ground, kl: dict[str, KLSums], name: str | None) -> StratumScore:
    none, reference, floor = ground.kl["none"], ground.kl["reference"], ground.floor
    whole = reference.total()
    figures = {
        field: recovery(kl[arm], none, name, floor)
        for field, arm in (("r_full", "full"), ("r_error", "error"), ("r_top", "top"))
    }
    return StratumScore(
        stratum=name or "all",
        positions=none.count(name),
        kl_share=Figure.of(reference.total(name) / whole) if whole > 0 else Figure.undefined("no KL at all"),
        **figures,
    )


def _spill(sums: KLSums) -> Spill:
    """KL(reference || edited) at affected and at all other positions."""
    on = STRATA.index(Stratum.affected)
    off = [code for code in range(len(STRATA)) if code != on]
    columns = (sums.sums[:, on], sums.positions[:, on], sums.sums[:, off].sum(1), sums.positions[:, off].sum(1))
    return Spill(*(tuple(column.tolist()) for column in columns))


def _active(active: tuple[float, ...] | None, k: int) -> Figure:
    if active is None:
        return Figure.undefined("no affected positions in the evaluation text")
    return Figure.of(active[min(k, len(active)) - 1] if active and k else 0.0)


def no_recovery(why: Figure) -> Recovery:
    """No causal score at all, for one reason."""
    points = dict.fromkeys(_figures(BudgetPoint), why)
    budgets = tuple(BudgetPoint(k=k, above_noise=None, **points) for k in COMPONENT_BUDGETS)
    return Recovery(budgets=budgets, **dict.fromkeys(_figures(Recovery), why))


def without_truth(recovered: Recovery, why: Figure) -> Recovery:
    """The same where nobody knows which positions are affected."""
    points = dict.fromkeys(_figures(BudgetPoint), why)
    budgets = tuple(BudgetPoint(k=point.k, above_noise=None, **points) for point in recovered.budgets)
    strata = tuple(point for point in recovered.strata if point.stratum not in tuple(Stratum))
    affected = [name for name in _figures(Recovery) if name.endswith("_affected")]
    names = (*affected, "budget_mean", "headline", "area")
    return recovered.model_copy(update={"budgets": budgets, "strata": strata, "curve": ()} | dict.fromkeys(names, why))


def _figures(schema: type[Schema]) -> list[str]:
    """Names of a schema's figures."""
    return [name for name, field in schema.model_fields.items() if field.annotation is Figure]
