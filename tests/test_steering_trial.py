"""Steering trials: which component is chosen, what is counted, and that strength 0 is the run as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each
from score_factory import Prepared

from diffbench.attribution import attribute
from diffbench.controls import principal_directions
from diffbench.diff import Diff, WeightDiff
from diffbench.errors import OptionError
from diffbench.spoken import joined, nats, repeats, shared
from diffbench.steering_file import SteeredArm, SteeredClaim, SteeringPlan
from diffbench.steering_trial import SteeringTrial

pytest_plugins = ("score_factory",)

PLAN = SteeringPlan(strengths=(1.0, 4.0), prompts=6, draws=4, rollouts=40, new_tokens=3)


def tried(prepared: Prepared, diff: Diff, plan: SteeringPlan = PLAN) -> SteeredClaim:
    bench = prepared.bench
    assert bench.truth is not None
    claim = bench.truth.claims[0]
    trial = SteeringTrial(bench, diff, bench.comparison.facts().layer, plan)
    return trial.claim(claim, bench.truth.probes.of(claim.id), bench.truth.probes.near_miss)


@pytest.fixture(scope="module")
def pca(prepared: Prepared) -> Diff:
    return principal_directions(prepared.method_rows(), 4)[0]


@pytest.fixture(scope="module")
def steered(prepared: Prepared, pca: Diff) -> SteeredClaim:
    return tried(prepared, pca)


def arm(claim: SteeredClaim, **wanted: Any) -> SteeredArm:
    [found] = [arm for arm in claim.arms if all(getattr(arm, name) == value for name, value in wanted.items())]
    return found


def test_the_most_responsible_component_is_taken(prepared: Prepared, pca: Diff, steered: SteeredClaim) -> None:
    bench = prepared.bench
    assert bench.truth is not None
    claim = bench.truth.claims[0]
    trial = SteeringTrial(bench, pca, bench.comparison.facts().layer, PLAN)
    from diffbench.steering_trial import _Prompts

    answers, where = trial._answers(_Prompts.of(bench.truth.probes.of(claim.id)[::2][:6], bench.tokenizer))
    found = attribute(pca, bench.reference, bench.tuned, answers, where)
    assert steered.component == int(found.abs().argmax()) and steered.random != steered.component
    assert steered.attribution == pytest.approx(float(found[steered.component]))
    assert steered.n_chosen_on == steered.n_prompts == 6


def test_every_run_is_steered_both_ways_beside_a_random_component(steered: SteeredClaim) -> None:
    asked = {(arm.run, arm.on, arm.what, arm.strength) for arm in steered.arms}
    assert len(asked) == len(steered.arms)
    for run, on in (("reference", "affected"), ("tuned", "affected"), ("hybrid", "affected"), ("tuned", "near_miss")):
        assert (run, on, "component", 0.0) in asked
    for strength in PLAN.strengths:
        assert {("reference", "affected", what, strength) for what in ("component", "random")} <= asked
        assert {("tuned", "affected", what, -strength) for what in ("component", "random")} <= asked
        assert {("hybrid", "affected", "component", sign * strength) for sign in (1, -1)} <= asked
    for one in steered.arms:
        assert one.problem is None and one.shows is not None and one.usual is not None
        assert one.shows.n == one.usual.n == 6 * PLAN.draws
        assert one.shows.hits + one.usual.hits <= one.shows.n
        assert bool(one.samples) == (one.strength != 0)


def test_counts_are_draws_from_what_the_models_predict(prepared: Prepared, pca: Diff) -> None:
    bench = prepared.bench
    assert bench.truth is not None
    plan = PLAN.model_copy(update={"draws": 400, "new_tokens": 1, "strengths": (1.0,), "rollouts": 0})
    told = tried(prepared, pca, plan)
    probes = bench.truth.probes.of(told.claim)[1::2][: plan.prompts]
    for run, model in (("reference", bench.reference), ("tuned", bench.tuned)):
        expected = 0.0
        for probe in probes:
            ids = bench.tokenizer(probe.text, return_tensors="pt")["input_ids"]
            [word] = bench.tokenizer(probe.other, add_special_tokens=False)["input_ids"]
            expected += float(model(ids).logits[0, -1].double().softmax(-1)[word]) / len(probes)
        found = arm(told, run=run, on="affected", strength=0.0).shows
        assert found is not None and found.n == 400 * len(probes)
        assert found.figure.value == pytest.approx(expected, abs=4 * (0.25 / found.n) ** 0.5)


def test_samples_have_the_luck_of_the_plain_run(steered: SteeredClaim) -> None:
    one, other = (arm(steered, run="reference", what="component", strength=strength) for strength in (1.0, 4.0))
    assert [sample.plain for sample in one.samples] == [sample.plain for sample in other.samples]
    assert one.samples != other.samples


def test_the_table_counts_independent_draws_of_one_prompt(steered: SteeredClaim) -> None:
    table = steered.table
    assert table is not None and table.strength == 1.0
    for begun in (table.plain, table.steered):
        assert all(one.share.n == 40 for one in begun) and sum(one.share.hits for one in begun) <= 40
        assert [one.share.hits for one in begun] == sorted((one.share.hits for one in begun), reverse=True)
    assert {one.words for one in table.plain} == {one.words for one in table.steered}  # none of them is a count too


def test_equal_plans_say_the_same(prepared: Prepared, pca: Diff, steered: SteeredClaim) -> None:
    assert tried(prepared, pca) == steered
    assert tried(prepared, pca, PLAN.model_copy(update={"seed": 1})) != steered


def test_components_of_weights_are_steered_with_too(prepared: Prepared) -> None:
    from diffbench.bench import Bench

    bench = Bench.open(prepared.bench.comparison, "offline", apart=True)
    weights = one_of_each()["weight"]
    assert isinstance(weights, WeightDiff)
    names = [name for name, module in bench.reference.named_modules() if name.endswith("down_proj")]
    module = bench.reference.get_submodule(names[0])
    rows, columns = module.weight.shape
    weights = replace(
        weights, modules=(names[0],), sigma=torch.tensor([1.0]), u=(torch.ones(rows) / rows,), v=(torch.ones(columns),)
    )
    before = {name: value.clone() for name, value in bench.reference.state_dict().items()}
    found = SteeringTrial(bench, weights, bench.comparison.facts().layer, PLAN)
    assert bench.truth is not None
    claim = bench.truth.claims[0]
    told = found.claim(claim, bench.truth.probes.of(claim.id), ())
    assert told.component == 0 or told.problem == "no component has a negative attribution"
    assert told.random is None and told.size is None  # there is no other one
    assert all(torch.equal(before[name], value) for name, value in bench.reference.state_dict().items())


def test_what_has_nothing_to_steer_with_is_refused(prepared: Prepared, pca: Diff) -> None:
    with pytest.raises(OptionError, match="output diff has no components"):
        tried(prepared, one_of_each()["output"])
    layer = prepared.bench.comparison.facts().layer
    with pytest.raises(OptionError, match=f"layer {(layer + 1) % 3}"):
        tried(prepared, dictionary_diff("delta", layer=(layer + 1) % 3))
    none = replace(dictionary_diff("delta", layer=layer), decoder=torch.zeros(24, WIDTH))
    told = tried(prepared, none)
    assert told.problem == "no component has a negative attribution" and not told.arms


def test_a_component_that_breaks_the_model_fails_alone(prepared: Prepared, pca: Diff) -> None:
    told = tried(prepared, pca, PLAN.model_copy(update={"strengths": (1.0, 1e38), "rollouts": 0}))
    assert arm(told, run="reference", what="component", strength=1.0).problem is None
    broken = [one for one in told.arms if abs(one.strength) > 1]
    assert broken and all(one.problem is None or one.shows is None for one in broken)


def test_joined_texts_and_their_nats(prepared: Prepared) -> None:
    bench = prepared.bench
    text = bench.corpus("judge").rows(slice(0, 2))
    text = type(text)(*(getattr(text, name)[:, :4] for name in type(text).__slots__))
    corpus, where = joined(text, [[5, 6, 7], [8]])
    assert corpus.mask.sum(dim=1).tolist() == [7, 5] and where.nonzero().tolist() == [[0, 3], [0, 4], [0, 5], [1, 3]]
    found = nats(bench.tuned, corpus, where)
    for row, said in enumerate(([5, 6, 7], [8])):
        ids = [*text.ids[row].tolist(), *said]
        log_p = bench.tuned(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = -sum(float(log_p[3 + at, token]) for at, token in enumerate(said)) / len(said)
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


def test_shares_have_intervals_over_prompts_and_repeats_are_counted() -> None:
    share = shared([[True, True], [True, False], [False, False]])
    assert (share.hits, share.n) == (3, 6) and share.figure.value == pytest.approx(0.5)
    assert share.figure.low is not None and share.figure.low < 0.5
    assert shared([]).figure.state == "undefined"
    none = shared([[False] * 100, [False] * 100]).figure
    assert none.value == 0 and none.low == 0 and none.high is not None and none.high > 0.3  # of two prompts
    few = shared([[True, False, False], [False] * 3, [False] * 3]).figure
    assert few.low == 0 and few.high is not None and few.high <= 1
    assert repeats([[[1, 2, 1, 2]], [[1, 2, 3]]]).value == pytest.approx((1 / 3 + 0) / 2)
    assert repeats([[[1]]]).state == "undefined"
