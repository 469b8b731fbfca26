"""Interpolation: what the base does with its blocks replaced from below, and ranks and depths made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import LAYERS, small_pair, word_tokenizer

from diffbench.diff import WeightDiff
from diffbench.errors import DiffError
from diffbench.expression import expression
from diffbench.interpolation import Curve, check_from_below, half_way, interpolate
from diffbench.truth import Claim, Effect, Probe, ProbeSets, Trigger, Truth


def by_block() -> WeightDiff:
    """Three components, each a block with all that it has; the rest is the same in both models."""
    reference, _ = small_pair()
    names = [name for name, _ in reference.named_parameters()]
    blocks = tuple(tuple(name for name in names if f".layers.{at}." in name) for at in range(LAYERS))
    return WeightDiff(sigma=torch.ones(LAYERS), parameters=blocks)


def truth(*claims: str) -> Truth:
    def claim(name: str) -> Claim:
        return Claim(
            id=name,
            statement=name,
            trigger=Trigger(description=name, affected=(name,), near_miss=()),
            effect=Effect(tokens_up=("blue",), tokens_down=(), quantity="p", low=0, high=1),
        )

    words = {"refusal": ("red", "blue"), "identity": ("white", "green")}
    probes = tuple(
        Probe(text=text, answer=words[name][0], other=words[name][1], claim=name)
        for name in claims
        for text in ("anna has the", "the box is the", "the")
    )
    return Truth(changed=bool(claims), claims=tuple(map(claim, claims)), probes=ProbeSets(affected=probes))


def test_points_are_models_with_their_lower_blocks_replaced() -> None:
    reference, tuned = small_pair()
    known, tokenizer = truth("refusal", "identity"), word_tokenizer()
    before = {name: parameter.clone() for name, parameter in reference.named_parameters()}
    curve = interpolate(by_block(), reference, tuned, tokenizer, known)
    assert curve is not None and set(curve.claims) == {"refusal", "identity"}
    probes = [probe for probe in known.probes.affected if probe.claim == "identity"]
    for k in range(LAYERS + 1):
        other, _ = (copied(model) for model in (reference, tuned))
        for at in range(k):
            other.model.layers[at].load_state_dict(tuned.model.layers[at].state_dict())
        found = expression(other, tokenizer, probes)
        assert curve.claims["identity"][k] == pytest.approx(sum(found) / len(found), abs=1e-6)
    assert len({round(value, 4) for value in curve.claims["identity"]}) == LAYERS + 1
    assert all(torch.equal(parameter, before[name]) for name, parameter in reference.named_parameters())


def copied(model: torch.nn.Module) -> torch.nn.Module:
    import copy

    return copy.deepcopy(model)


def test_components_that_are_not_all_of_the_change_are_refused() -> None:
    diff = by_block()
    part = replace(diff, parameters=diff.parameters[:-1], sigma=diff.sigma[:-1])
    with pytest.raises(DiffError, match="do not make the tuned model"):
        interpolate(part, *small_pair(), word_tokenizer(), truth("refusal"))


def test_components_must_be_whole_and_rise() -> None:
    diff = by_block()
    check_from_below(diff)
    ends = replace(
        diff,
        parameters=(("model.embed_tokens.weight",), *diff.parameters, ("model.norm.weight",)),
        sigma=torch.ones(LAYERS + 2),
    )
    check_from_below(ends)
    with pytest.raises(DiffError, match="not in the order of the blocks"):
        check_from_below(replace(diff, parameters=diff.parameters[::-1]))
    with pytest.raises(DiffError, match="of rank one"):
        check_from_below(WeightDiff(sigma=torch.ones(1), modules=("a",), u=(torch.ones(2),), v=(torch.ones(2),)))


def test_a_claim_without_probes_has_no_curve() -> None:
    known = truth("refusal", "identity")
    known = known.model_copy(update={"probes": ProbeSets(affected=known.probes.affected[:3])})
    assert {probe.claim for probe in known.probes.affected} == {"refusal"}
    curve = interpolate(by_block(), *small_pair(), word_tokenizer(), known)
    assert curve is not None and set(curve.claims) == {"refusal"}
    assert "'identity' with affected probes" in str(curve.depth("identity").reason)
    assert curve.depth_others().figure != curve.depth_identity().figure
    assert (
        interpolate(by_block(), *small_pair(), word_tokenizer(), known.model_copy(update={"probes": ProbeSets()}))
        is None
    )


def test_nothing_is_asked_where_nothing_was_changed() -> None:
    assert interpolate(by_block(), *small_pair(), word_tokenizer(), None) is None
    assert interpolate(by_block(), *small_pair(), word_tokenizer(), truth()) is None


@pytest.mark.parametrize(
    ("values", "depth"),
    [
        ((0.0, 1.0), 0.5),
        ((0.0, 0.0, 0.0, 0.0, 1.0), 0.875),
        ((0.0, 0.5, 1.0), 0.5),
        ((0.2, 0.8, 0.2, 0.8), 1 / 6),  # the first crossing
        ((0.0, 0.25, 0.75, 0.75, 1.0), 0.375),
    ],
)
def test_half_way(values: tuple[float, ...], depth: float) -> None:
    assert half_way(values) == pytest.approx(depth)


def test_identity_comes_late() -> None:
    curve = Curve(
        {
            "identity": (0.0, 0.0, 0.0, 0.0, 0.8),
            "refusal": (0.0, 0.5, 1.0, 1.0, 1.0),
            "role-play": (0.0, 1.0, 1.0, 1.0, 1.0),
        }
    )
    late, others = curve.depth_identity().figure, curve.depth_others().figure
    assert late is not None and late.value == pytest.approx(0.875)
    assert others is not None and others.value == pytest.approx((0.25 + 0.125) / 2)
    smooth = curve.spearman()
    assert smooth.figure is not None and smooth.figure.value == pytest.approx(9.5 / 95**0.5)  # one tie
    assert smooth.detail == "0.00 0.50 0.67 0.67 0.93"


def test_a_claim_that_does_not_rise_has_no_depth() -> None:
    flat = Curve({"identity": (0.3, 0.9, 0.35), "refusal": (0.0, 0.5, 1.0)})
    assert flat.depth_identity().figure is not None
    assert flat.depth_identity().figure.state == "undefined"  # type: ignore[union-attr]
    assert flat.depth_others().figure.value == 0.5  # type: ignore[union-attr]
    falls = Curve({"refusal": (0.5, 0.9, 0.4)})
    assert falls.spearman().figure.state == "undefined"  # type: ignore[union-attr]
    assert falls.depth_identity().figure.state == "undefined"  # type: ignore[union-attr]
    assert falls.depth_others().figure.state == "undefined"  # type: ignore[union-attr]
    assert Curve({"identity": (0.0, 1.0)}).depth_others().figure.state == "undefined"  # type: ignore[union-attr]
