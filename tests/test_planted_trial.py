"""Planted trial: methods on a planted world, and how what they cannot do is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from planted_factory import SMALL, dictionary, of, small

from diffbench import (
    AccessError,
    Context,
    DictionaryDiff,
    Diff,
    Method,
    MethodOptions,
    ModelPair,
    NotApplicable,
    OptionError,
    OutputDiff,
    UnknownName,
)
from diffbench.planted import Features, Planted, PlantedParameters
from diffbench.planted_pair import PlantedPair
from diffbench.planted_score import (
    PlantedScore,
)
from diffbench.planted_trial import PCA, RANDOM, TRUE, Planned, PlantedRow, Size, planned, run_trial, summarise


@pytest.fixture(scope="module")
def world() -> Planted:
    return small()


class Given(Method):
    """Hands in a dictionary of the true directions; tests reach the world by the back door."""

    name = "given"
    summary = "the true directions"
    world: Planted

    class Options(MethodOptions):
        expansion: int = 1
        k: int = 1

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        rows, held_out = pair.training_rows()
        assert (ctx.layer, pair.layer, pair.width, len(held_out) > 0, len(rows) > 0) == (0, 0, 24, True, True)
        ctx.report("looking", 0.5)
        changed = self.world.features.changed
        vectors = (self.world.features.tuned - self.world.features.base)[changed]
        size = torch.linspace(1, 2, len(changed))
        return DictionaryDiff(
            layer=0, input="delta", activation="relu", encoder=torch.linalg.pinv(vectors).T.contiguous(),
            encoder_bias=torch.zeros(len(changed)), decoder=vectors, bias=torch.zeros(24),
            order=torch.arange(len(changed)), columns={"size": size, "none": size * math.nan},
        )  # fmt: skip


class Fails(Method):
    name = "fails"
    summary = "fails"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        raise ZeroDivisionError("by nothing\nat all")


class Declines(Fails):
    name = "declines"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        raise NotApplicable("not for me")


class Peeks(Fails):
    name = "peeks"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        pair.text()
        raise AssertionError


class Talks(Fails):
    name = "talks"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        return OutputDiff(score=None)


class Greedy(Fails):
    name = "greedy"

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        return dictionary(Given.world, "delta", ctx.budget.components + 1)


class Wrong(Fails):
    name = "wrong"

    def run(self, pair: ModelPair, ctx: Context) -> Any:
        return "changed"


class Outside(Fails):
    name = "outside"
    access = frozenset({"logits", "weights"})


def rows_of(method: type[Method], *rankings: str | None, seeds: tuple[int, ...] = (0,)) -> list[PlantedRow]:
    each = Planned(method, method.Options(), Size(expansion=1, k=2), rankings or (None,))
    found = run_trial([each], PlantedParameters(**SMALL), seeds, Size(expansion=1, k=2), lambda phrase, fraction: None)
    return [row for row in found if not row.baseline]


@pytest.fixture
def given(world: Planted, monkeypatch: pytest.MonkeyPatch) -> type[Given]:
    monkeypatch.setattr(Given, "world", small(recorrelated=0), raising=False)
    return Given


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        (Fails, "error", "ZeroDivisionError: by nothing at all"),
        (Declines, "not_applicable", "not for me"),
        (Peeks, "error", "the method used text, but a planted pair has activations alone"),
        (Talks, "not_applicable", "a output diff has no components"),
        (Wrong, "error", "wrong: run() must return a Diff, got str"),
        (Greedy, "error", "greedy: 49 components, the trial allows 48"),
        (Outside, "not_applicable", "it needs logits, weights, and a planted pair has activations alone"),
    ],
)
def test_a_method_without_an_answer_is_a_state(
    given: type[Given], method: type[Method], status: str, reason: str
) -> None:
    [row] = rows_of(method)
    assert row.status == status and row.score is None and reason in (row.reason or "")
    summary = summarise([row])[0]
    assert summary.budgets == () and summary.failed == 1 and summary.reason == row.reason


def test_one_fit_is_scored_in_every_order_that_was_asked_for(given: type[Given]) -> None:
    own, size, none, absent = rows_of(given, None, "size", "none", "absent")
    assert [row.method for row in (own, size, none, absent)] == ["given", "given@size", "given@none", "given@absent"]
    assert own.score is not None and size.score is not None and own.seconds == size.seconds
    assert own.score.n_components == size.score.n_components == 13
    assert (none.status, absent.status) == ("not_applicable", "error") and "absent" in (absent.reason or "")


def test_baselines_stand_beside_every_method(given: type[Given]) -> None:
    each = Planned(given, given.Options(), Size(expansion=2, k=2), (None,))
    reports: list[float] = []
    rows = list(
        run_trial([each], PlantedParameters(**SMALL), (0, 1, 2), Size(expansion=2, k=2), lambda _, f: reports.append(f))
    )
    assert [row.method for row in rows] == [TRUE, PCA, RANDOM, "given"] * 3
    scores: dict[str, PlantedScore] = {row.method: row.score for row in rows if row.score is not None}
    assert scores[TRUE].budgets[1].f1.value == 1.0
    assert scores[PCA].n_components == 24 and scores[RANDOM].n_components == 48
    assert (scores[RANDOM].budgets[1].f1.value or 0.0) < 0.2
    assert reports == sorted(reports) and 0 <= reports[0] and reports[-1] < 1
    summary = {row.method: row for row in summarise(rows)}
    assert summary["given"].seeds == 3 and summary["given"].budgets[1].f1.low is not None
    values = [row.score.budgets[1].f1.value for row in rows if row.method == "given" and row.score is not None]
    assert summary["given"].budgets[1].f1.value == pytest.approx(np.mean([value or 0.0 for value in values]))


def test_the_pair_hands_out_activations_alone(world: Planted) -> None:
    pair = PlantedPair(world, frozenset({"activations", "logits", "weights", "generate"}))
    assert pair.activations() is world.activations and pair.usage == {"activation_rows": 2048}
    assert (pair.width, pair.layer, pair.n_layers, pair.vocabulary) == (24, 0, 1, 37)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    for ask in (
        pair.text,
        lambda: pair.tokenizer,
        lambda: pair.logits("tuned", ids, ids),
        lambda: pair.hidden("reference", ids, ids, 0),
        lambda: pair.weights("tuned"),
        lambda: pair.generate("tuned", ["a"], new_tokens=1),
    ):
        with pytest.raises(AccessError, match="a planted pair has activations alone"):
            ask()
    with pytest.raises(AccessError, match="declares nothing"):
        PlantedPair(world, frozenset()).activations()


def test_the_lens_names_the_nearest_features(world: Planted) -> None:
    features = world.features
    [(up, _), (_, down)] = PlantedPair(world, frozenset()).logit_lens(
        torch.stack([features.base[of(world, "base-only")[0]], -features.tuned[of(world, "tuned-only")[1]]]), top=3
    )
    assert up[0] == Features.name(of(world, "base-only")[0]) and down[0] == Features.name(of(world, "tuned-only")[1])
    assert len(up) == len(down) == 3


def test_methods_are_planned_at_equal_size(given: type[Given], monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(["pca", "random-dictionary"], {}, [Size(expansion=2, k=2), Size(expansion=2, k=5)])
    assert [each.label(None) for each in found] == ["pca", "random-dictionary k=2", "random-dictionary k=5"]
    assert [each.options.model_dump() for each in found[1:]] == [{"expansion": 2, "k": 2}, {"expansion": 2, "k": 5}]
    [kept] = planned(
        ["random-dictionary"], {"random-dictionary": {"k": "7"}}, [Size(expansion=2, k=2), Size(expansion=2, k=5)]
    )
    assert kept.options.model_dump() == {"expansion": 2, "k": 7} and kept.label("energy") == "random-dictionary@energy"
    names = {each.method.name for each in planned([], {}, [Size()])}
    assert {"diff-sae", "crosscoder-batchtopk", "mean-difference"} <= names and not names & {"oracle", "nothing", "pca"}
    with pytest.raises(UnknownName, match="no method named 'dif-sae'; did you mean"):
        planned(["dif-sae"], {}, [Size()])
    with pytest.raises(UnknownName, match="no method in this trial named 'pca'"):
        planned(["diff-sae"], {"pca": {"components": "2"}}, [Size()])
    with pytest.raises(OptionError, match="write NAME or NAME@COLUMN"):
        planned(["diff-sae@"], {}, [Size()])


def test_dictionaries_find_what_was_planted() -> None:
    """Known answers with wide margins: what was measured for the defaults stands in the documentation."""
    few = dict.fromkeys(("base_only", "tuned_only", "rescaled", "rotated", "recorrelated"), 3)
    parameters = PlantedParameters(
        width=32, shared=20, rate_high=0.15, rate_low=0.05, rows=32_768, held_out_rows=4096, **few
    )  # fmt: skip
    for name, size in {"crosscoder-batchtopk": Size(expansion=3, k=6), "diff-sae": Size(expansion=3, k=2)}.items():
        each = planned([name], {name: {"batch": 256, "lr": 0.002}}, [size])
        rows = list(run_trial(each, parameters, (0,), size, lambda phrase, fraction: None))
        f1 = {row.method: row.score.budgets[1].f1.value or 0.0 for row in rows if row.score is not None}
        shuffled = next(row.score.budgets[1].f1_shuffled.value for row in rows if row.method == name and row.score)
        assert shuffled is not None and f1[name] > shuffled + 0.3, name
        assert 0.6 < f1[name] < 1.0 and f1[name] > max(f1[PCA], f1[RANDOM]) + 0.5, name
