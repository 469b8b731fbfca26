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
from diffbench.figure import Figure, mean_figure
from diffbench.ground import Ground
from diffbench.handle import Handle, StreamHandle
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
ABOVE = Figure.not_applicable("some of the components act above the layer, where a hybrid run is the tuned model")
MANY = Figure.not_applicable("each component is a change of many directions; no number of directions costs as much")
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
    recovered = _recovery(_Affected(ground, handle, there, active_counts(handle, affected)), kl)
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
    """Arms that are looked at at affected positions; hybrid runs where they see all that the components do."""
    points = {*curve_points(handle), *COMPONENT_BUDGETS}
    arms = {f"top{k}": handle.arm(order[:k]) for k in points if handle.reaches(order[:k])}
    bias = handle.bias()
    if bias is not None:
        arms["bias"] = bias
    for k in COMPONENT_BUDGETS if handle.directional else points:
        arms[f"model{k}"] = handle.arm(order[:k], run="model")
    for k in COMPONENT_BUDGETS:
        if handle.reaches(order[:k]):
            arms[f"noise{k}"] = handle.noise(order[:k], k)
        arms[f"without{k}"] = handle.arm(order[:k], run="without", towards="reference")
    return arms


def _draws(handle: Handle, seed: int) -> dict[str, Patch]:
    """Random sets of each budget, five of each, where there is something to choose from."""
    found: dict[str, Patch] = {}
    if not handle.reaches(handle.order()):
        return found
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


@dataclass(frozen=True, slots=True)
class _Affected:
    """Arms at affected positions.

    Attributes:
        kl: sums by arm; none at all where there are no affected positions.
        active: mean number of the top 1, 2, 3, ... components that are active there.
    """

    ground: Ground
    handle: Handle
    kl: dict[str, KLSums]
    active: tuple[float, ...] | None

    def r(self, name: str, baseline: str = "none", missing: Figure = ABOVE) -> Figure:
        """R of an arm over a run without it; where the arm was not run, why."""
        return missing if self.kl and name not in self.kl else self.of([name], None, baseline)

    def of(self, names: Sequence[str], weights: Sequence[float] | None = None, baseline: str = "none") -> Figure:
        """Weighted mean of R over arms."""
        lost = self.ground.kl[baseline]
        if self.kl and not all(name in self.kl for name in names):
            return ABOVE
        arm = mixed([self.kl[name] for name in names], weights) if self.kl and names else lost
        return recovery(arm, lost, Stratum.affected, self.ground.floor)

    def lift(self, budgets: Sequence[int]) -> Figure:
        """Mean over budgets of R minus PCA's."""
        ground, names = self.ground, [f"top{k}" for k in budgets]
        if self.kl and not all(name in self.kl for name in names):
            return ABOVE
        none = ground.kl["none"]
        ours, theirs = [self.kl.get(name, none) for name in names], [ground.kl[f"pca{k}"] for k in budgets]
        return self.matched(recovery_lift(ours, theirs, none, Stratum.affected, ground.floor))

    def matched(self, figure: Figure) -> Figure:
        """A score at matched budgets, where a component is one direction."""
        return MANY if figure.state == "ok" and not self.handle.directional else figure

    def at_work(self, k: int) -> Figure:
        """Components of the top k that are active at a position."""
        if self.active is None:
            return Figure.undefined("no affected positions in the evaluation text")
        return Figure.of(self.active[min(k, len(self.active)) - 1] if self.active and k else 0.0)


def _recovery(at: _Affected, kl: dict[str, KLSums]) -> Recovery:
    ground, affected, floor = at.ground, Stratum.affected, at.ground.floor
    none, tuned, reference = (ground.kl[name] for name in ("none", "tuned", "reference"))
    points = curve_points(at.handle)
    return Recovery(
        r_full=recovery(kl["full"], none, None, floor),
        r_error=recovery(kl["error"], none, None, floor),
        r_full_affected=recovery(kl["full"], none, affected, floor),
        r_error_affected=recovery(kl["error"], none, affected, floor),
        r_bias_affected=at.r("bias", missing=Figure.not_applicable("weights have no bias of their own")),
        r_model=recovery(kl["model"], reference, None, floor),
        r_model_affected=recovery(kl["model"], reference, affected, floor),
        necessity=recovery(kl["without"], tuned, None, floor),
        necessity_affected=recovery(kl["without"], tuned, affected, floor),
        budgets=tuple(_budget(at, k) for k in COMPONENT_BUDGETS),
        budget_mean=at.matched(at.of([f"top{k}" for k in COMPONENT_BUDGETS])),
        headline=at.lift(COMPONENT_BUDGETS),
        curve=_curve(at, points) if at.kl else (),
        area=at.matched(at.of([f"top{k}" for k in points], area_weights(points) if points else None)),
        strata=tuple(_stratum(ground, kl, name) for name in (None, *NAMES)),
        sets=tuple(
            SetScore(
                nu=name,
                below=below,
                n=len(members),
                replace=recovery(_set_sums(kl, f"{name}<{below}", ("replace",), none), none, None, floor),
                additive=recovery(_set_sums(kl, f"{name}<{below}", ("additive", "replace"), none), none, None, floor),
            )
            for name, below, members in _sets(at.handle)
        ),
    )


def _set_sums(kl: dict[str, KLSums], name: str, forms: Sequence[str], none: KLSums) -> KLSums:
    """Of the first form that was run: the two are the same where one is not, and an empty set adds nothing."""
    return next((kl[f"{name} {form}"] for form in forms if f"{name} {form}" in kl), none)


def _budget(at: _Affected, k: int) -> BudgetPoint:
    r, noise = at.r(f"top{k}"), at.r(f"noise{k}")
    upper = noise.value if noise.high is None else noise.high
    return BudgetPoint(
        k=k,
        r=r,
        r_pca=recovery(at.ground.kl[f"pca{k}"], at.ground.kl["none"], Stratum.affected, at.ground.floor),
        lift=at.lift([k]),
        active_per_token=at.at_work(k),
        r_random=_random(at, k),
        r_noise=noise,
        above_noise=None if r.value is None or upper is None else r.value > upper,
        r_model=at.r(f"model{k}", "reference"),
        necessity=at.r(f"without{k}", "tuned"),
    )


def _random(at: _Affected, k: int) -> Figure:
    """Mean R of random sets, on the documents that they were run on."""
    ground, drawn = at.ground, [at.kl[name] for draw in range(DRAWS) if (name := f"random{k}.{draw}") in at.kl]
    checked = recovery(ground.kl["none"], ground.kl["none"], Stratum.affected, ground.floor)
    if checked.state != "ok":
        return checked
    if not drawn:
        few = Figure.not_applicable(f"there are no more than {k} components to draw from")
        return few if k >= at.handle.n_components else ABOVE
    run = drawn[0].positions[:, NAMES.index(Stratum.affected)] > 0
    lost = KLSums(ground.kl["none"].sums * run[:, None], drawn[0].positions)
    found = [recovery(arm, lost, Stratum.affected, ground.floor) for arm in drawn]
    values = [figure.value for figure in found if figure.value is not None]
    return mean_figure(values) if values else found[0]


def _curve(at: _Affected, points: Sequence[int]) -> tuple[CurvePoint, ...]:
    elsewhere = Figure.not_applicable("measured at the budgets alone")
    names = ([(0, "bias")] if "bias" in at.kl else []) + [(k, f"top{k}") for k in points]
    return tuple(
        CurvePoint(
            k=k,
            r=at.r(name),
            r_model=at.r(f"model{k}", "reference", missing=elsewhere),
            active_per_token=at.at_work(k),
        )
        for k, name in names
    )


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
    """KL(reference || edited) at affected and at all other positions of the documents that were run."""
    on = STRATA.index(Stratum.affected)
    off = [code for code in range(len(STRATA)) if code != on]
    kl, n = (table[sums.positions[:, : len(STRATA)].sum(dim=1) > 0] for table in (sums.sums, sums.positions))
    columns = (kl[:, on], n[:, on], kl[:, off].sum(1), n[:, off].sum(1))
    return Spill(*(tuple(column.tolist()) for column in columns))


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
