"""Disentangling: what removes one claim and spares the others; chosen on one half of the probes, tested on the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from engine_factory import word
from probe_factory import NO_ACTIVITY, TOKENIZER, N, claim, located, probabilities, truth_of
from torch import Tensor

from diffbench.corpus import Corpus
from diffbench.disentangling import LEAST_PROBES_TESTED, MOST_COMPONENTS, _halves, disentangle, no_disentangling
from diffbench.errors import DiffError
from diffbench.expression import Arms
from diffbench.figure import Figure
from diffbench.localisation import Location, ProbeActivity
from diffbench.scores import Disentangling
from diffbench.seeds import derive
from diffbench.tiny import WORDS

ENDS = {"a": ["ball"], "b": ["box"], "c": ["cup"]}
TRUTH = truth_of([claim(name) for name in ENDS], ENDS)
REFERENCE, TUNED = 0.1, 0.7
ROUNDING = 1e-5
"""Relative: probabilities go through float32 logarithms, whose last digits differ between processors."""
OWN = [tuple(float(place == index) for place in range(3)) for index in range(3)]


class Removing:
    """Tuned models without components, each of which takes a share of some claims' behaviour with it."""

    def __init__(self, *effects: Sequence[float], tuned: Sequence[float] = (TUNED,) * 3) -> None:
        self.effects, self.tuned = effects, tuned
        self.sets: list[tuple[int, ...]] = []
        self.seen: list[list[str]] = []

    def __call__(self, sets: Sequence[tuple[int, ...]]) -> Arms:
        self.sets = list(sets)
        ends = {word(end): place for place, (end,) in enumerate(ENDS.values())}

        def arms(batch: Corpus) -> Iterator[Tensor]:
            claims = [ends[token] for token in batch.ids[torch.arange(len(batch)), batch.last].tolist()]
            self.seen.append([TOKENIZER.decode(row[mask]) for row, mask in zip(batch.ids, batch.mask, strict=True)])
            yield self._said([REFERENCE] * len(claims))
            yield self._said([self.tuned[index] for index in claims])
            for chosen in sets:
                left = [1 - sum(self.effects[component][index] for component in chosen) for index in claims]
                yield self._said(
                    [REFERENCE + share * (self.tuned[i] - REFERENCE) for i, share in zip(claims, left, strict=True)]
                )

        return arms

    @staticmethod
    def _said(values: Sequence[float]) -> Tensor:
        return torch.stack([probabilities({"blue": value}).log() for value in values])


def score(without: Removing, location: Location | None = None, order: Sequence[int] | None = None) -> Disentangling:
    location = located(*OWN) if location is None else location
    n = location.activity.near_miss.shape[1]
    return disentangle(TRUTH, TOKENIZER, location, torch.tensor(order or range(n)), without, 0)


def test_a_component_for_each_claim_that_is_all_of_it_scores_one() -> None:
    without = Removing(*OWN)
    found = score(without)
    assert without.sets == [(0,), (1,), (2,)]
    assert found.score.value == pytest.approx(1)
    assert [(one.claim, one.components) for one in found.claims] == [("a", (0,)), ("b", (1,)), ("c", (2,))]
    assert all(one.removed.value == pytest.approx(1) for one in found.claims)
    assert all(one.others.value == pytest.approx(0, abs=1e-9) for one in found.claims)


def test_shares_by_hand() -> None:
    found = score(Removing((0.9, 0.1, 0.0), (0.0, 0.5, 0.4), (-0.2, 0.0, 0.3)))
    assert [one.removed.value for one in found.claims] == pytest.approx([0.9, 0.5, 0.3])
    assert [one.others.value for one in found.claims] == pytest.approx([0.05, 0.2, -0.1], rel=ROUNDING)
    assert found.score.value == pytest.approx((0.85 + 0.3 + 0.4) / 3)


def test_what_removes_everything_tells_nothing_apart() -> None:
    without = Removing((1.0, 1.0, 1.0))
    found = score(without, located((1.0, 1.0, 1.0)))
    assert without.sets == [(0,)] * 3
    assert found.score.value == pytest.approx(0)


def test_components_are_the_best_eight_that_tell_a_claim_from_all_else() -> None:
    many = [*[OWN[0]] * 11, (1.0, 1.0, 0.0), OWN[1], (0.0, 0.0, 0.0)]
    without = Removing(*[(0.1, 0.0, 0.0)] * len(many))
    order = [13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    score(without, located(*many), order)
    assert without.sets[0] == (10, 9, 8, 7, 6, 5, 4, 3) and len(without.sets[0]) == MOST_COMPONENTS
    assert without.sets[1] == (12,)
    assert len(without.sets[2]) == 1  # none tells c apart: the best one, for want of a better


def test_the_choice_is_by_the_worse_of_two_aurocs_on_one_half_of_the_probes() -> None:
    draw = torch.Generator().manual_seed(0)
    affected = tuple(torch.rand(N, 30, generator=draw) for _ in range(3))
    near_miss = torch.rand(N, 30, generator=draw)
    for place, rows in enumerate(affected):
        rows[:, place] += 0.4
    location = Location.of(ProbeActivity(("a", "b", "c"), affected, near_miss))
    without = Removing(*[(0.1,) * 3] * 30)
    score(without, location)
    assert sum(map(len, without.seen)) == 3 * (N - N // 2)
    chosen = [components[0] for components in without.sets]
    assert chosen == [0, 1, 2]
    flipped = Removing(*[(0.1,) * 3] * 30)
    negative = ProbeActivity(("a", "b", "c"), tuple(-rows for rows in affected), -near_miss, signed=True)
    score(flipped, Location.of(negative))
    assert flipped.sets == without.sets  # taken out, a direction goes both ways


def test_what_is_at_work_at_near_misses_too_is_not_chosen() -> None:
    affected = tuple(torch.tensor([[2.0 * (place == 0), 1.0 * (place == 0)]]).repeat(N, 1) for place in range(3))
    near_miss = torch.tensor([[3.0, 0.0]]).repeat(N, 1)
    without = Removing(*[(0.1,) * 3] * 2)
    score(without, Location.of(ProbeActivity(("a", "b", "c"), affected, near_miss)))
    assert without.sets[0] == (1,)


def test_the_probes_that_are_tested_are_those_that_nothing_was_chosen_on() -> None:
    affected = tuple(
        probe.model_copy(update={"text": f"{WORDS[index // 20]} {WORDS[index % 20]} {probe.text}"})
        for index, probe in enumerate(TRUTH.probes.affected)
    )
    truth = TRUTH.model_copy(update={"probes": TRUTH.probes.model_copy(update={"affected": affected})})
    without = Removing(*OWN)
    disentangle(truth, TOKENIZER, located(*OWN), torch.arange(3), without, 0)
    tested = [text.removeprefix("<bos> ") for batch in without.seen for text in batch]
    rest = [truth.probes.of(name)[index].text for name in ENDS for index in _halves(N, derive(0, name))[1].tolist()]
    assert tested == rest and len(set(rest)) == len(rest)


def test_halves_are_disjoint_and_of_the_seed() -> None:
    for n in (50, 61):
        one, other = _halves(n, 3)
        assert sorted([*one.tolist(), *other.tolist()]) == list(range(n)) and len(one) == n // 2
        assert not torch.equal(one, _halves(n, 4)[0]) and torch.equal(one, _halves(n, 3)[0])


def test_the_half_that_is_tested_on_has_no_say_in_the_choice() -> None:
    draw = torch.Generator().manual_seed(1)
    affected = tuple(torch.rand(N, 300, generator=draw) for _ in range(3))
    near_miss = torch.rand(N, 300, generator=draw)

    def chosen(rows: Sequence[Tensor]) -> list[tuple[int, ...]]:
        without = Removing(*[(0.1,) * 3] * 300)
        score(without, Location.of(ProbeActivity(("a", "b", "c"), tuple(rows), near_miss)))
        return without.sets

    first = chosen(affected)
    for half, same in ((1, True), (0, False)):
        moved = [rows.clone() for rows in affected]
        for name, rows in zip(ENDS, moved, strict=True):
            rows[_halves(N, derive(0, name))[half]] = torch.rand(N // 2, 300, generator=draw)
        assert (chosen(moved) == first) is same


def test_a_claim_that_was_hardly_moved_neither_counts_nor_is_among_the_others() -> None:
    found = score(Removing((1.0, 0.0, 0.7), (0.5, 1.0, 0.0), OWN[2], tuned=(TUNED, TUNED, REFERENCE + 0.01)))
    assert found.claims[2].removed.state == "undefined"
    assert found.claims[0].others.value == pytest.approx(0, abs=1e-9)
    assert found.score.value == pytest.approx((1 + 0.5) / 2)
    still = score(Removing(*OWN, tuned=(TUNED, REFERENCE, REFERENCE)))
    assert still.score.state == "undefined" and "fewer than two claims" in (still.score.reason or "")


SWAP = [claim("a", ["green"], ["blue"]), claim("b", ["blue"], ["green"])]


def test_the_sides_of_an_exchange_are_not_spared_for_each_other() -> None:
    truth = truth_of([*SWAP, claim("c", ["ball"], ["box"])], ENDS)
    both, own = (1.0, 1.0, 0.0), OWN[2]
    without = Removing((0.4, 0.4, 0.1), (0.0, 0.0, 0.9))
    found = disentangle(truth, TOKENIZER, located(both, own), torch.arange(2), without, 0)
    assert without.sets == [(0,), (0,), (1,)]
    assert [one.removed.value for one in found.claims] == pytest.approx([0.4, 0.4, 0.9])
    assert [one.others.value for one in found.claims] == pytest.approx([0.1, 0.1, 0.0], rel=ROUNDING, abs=1e-9)
    assert found.score.value == pytest.approx((0.3 + 0.3 + 0.9) / 3)


def test_what_is_at_work_on_both_sides_is_chosen_before_what_is_of_one_side_and_of_a_rival() -> None:
    truth = truth_of([*SWAP, claim("c", ["ball"], ["box"])], ENDS)
    without = Removing((0.4, 0.4, 0.0), (0.4, 0.0, 0.4), (0.0, 0.0, 0.9))
    found = disentangle(
        truth, TOKENIZER, located((1.0, 1.0, 0.0), (1.0, 0.0, 1.0), OWN[2]), torch.arange(3), without, 0
    )
    assert without.sets == [(0,), (0,), (2,)]
    assert [one.others.value for one in found.claims] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


def test_an_exchange_alone_has_nothing_to_tell_apart() -> None:
    truth = truth_of(SWAP, {name: ENDS[name] for name in "ab"})
    without = Removing((0.4, 0.4, 0.0))
    found = disentangle(truth, TOKENIZER, located((1.0, 1.0)), torch.arange(1), without, 0)
    assert (found.score.state, found.claims, without.seen) == ("n/a", (), [])
    assert "sides of one exchange" in (found.score.reason or "")


def test_a_claim_that_all_others_are_opposite_to_has_none_to_spare() -> None:
    truth = truth_of([SWAP[0], SWAP[1], claim("c", ["blue"], ["green"])], ENDS)
    found = disentangle(truth, TOKENIZER, located(*OWN), torch.arange(3), Removing(*OWN), 0)
    assert (found.claims[0].removed.value, found.claims[0].others.state) == (pytest.approx(1), "n/a")
    assert [one.others.state for one in found.claims[1:]] == ["ok", "ok"] and found.score.value == pytest.approx(1)
    still = Removing(*OWN, tuned=(TUNED, TUNED, REFERENCE))
    assert disentangle(truth, TOKENIZER, located(*OWN), torch.arange(3), still, 0).score.state == "undefined"


def test_what_cannot_be_asked_says_so() -> None:
    one = truth_of([claim("a")], {"a": ["ball"]})
    alone = disentangle(one, TOKENIZER, located((1.0,)), torch.arange(1), Removing(), 0)
    assert alone.score.state == "n/a" and "one claim" in (alone.score.reason or "")
    assert score(Removing(), NO_ACTIVITY).score.reason == "the Diff has no per-token activity"
    assert score(Removing(), located(*OWN, n=49)).score.state == "undefined"
    assert no_disentangling(Figure.not_applicable("no edit")).claims == ()


def test_it_is_the_same_every_time() -> None:
    effects = [(0.9, 0.1, 0.0), (0.0, 0.5, 0.4), (-0.2, 0.0, 0.3)]
    assert score(Removing(*effects)) == score(Removing(*effects))


def test_an_edit_that_breaks_the_model_is_the_diffs_fault() -> None:
    with pytest.raises(DiffError, match="predicts NaN"):
        score(Removing(*[(float("nan"),) * 3] * 3))


@pytest.mark.parametrize(("n_claims", "expected"), [(3, 30), (10, 12), (14, LEAST_PROBES_TESTED)])
def test_the_probes_of_many_claims_are_fewer(n_claims: int, expected: int) -> None:
    claims = [claim(str(index)) for index in range(n_claims)]
    truth = truth_of(claims, {one.id: ["ball"] for one in claims})
    own = [tuple(float(place == index) for place in range(n_claims)) for index in range(n_claims)]
    without = Removing(*[(0.5, 0.0, 0.0)] * n_claims)
    disentangle(truth, TOKENIZER, located(*own), torch.arange(n_claims), without, 0)
    assert sum(map(len, without.seen)) == n_claims * expected
