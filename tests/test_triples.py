"""Triples and pairs of SAEs: who holds the firing of a concept, against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from planted_latents import worded

from diffbench import triples
from diffbench.errors import DiffError
from diffbench.study import Reading
from diffbench.worded import Worded

BOTH = {"blue", "green"}


def value(reading: Reading) -> float:
    assert reading.figure is not None and reading.figure.value is not None, reading
    return reading.figure.value


def tied(words: dict[int, str], means: list[float], size_base: float = 1.0, **columns: list[float]) -> Worded:
    """Triples of unit tuned decoders; ``words`` are those of a triple's tuned decoder."""
    n = len(means)
    base = torch.zeros(n, 4)
    base[:, 0] = size_base
    tuned = torch.zeros(n, 4)
    tuned[:, 1] = 1.0
    base[2::3] = tuned[1::3] = 0  # who is one model's writes nothing into the other
    by_latent = {3 * triple + at: text for triple, text in words.items() for at in range(3)}
    return worded(base.tolist(), tuned.tolist(), words_tuned=by_latent, group=True, activation_mean=means, **columns)


def test_the_firing_of_a_triple() -> None:
    found = triples.firing(tied({}, [0.5, 0.25, 0.125], size_base=2.0))
    assert (found.shared.tolist(), found.base.tolist(), found.tuned.tolist()) == ([1.5], [0.5], [0.125])
    assert found.total.tolist() == [2.125]  # (f_s + f_b) |d_b| + (f_s + f_t) |d_t|


@pytest.mark.parametrize(
    ("sizes", "count"),
    [((9.0, 1.0), 1), ((8.9, 1.1), 2), ((5.0, 5.0), 2), ((7.0, 1.0, 1.0, 1.0), 3), ((4.0,), 1), ((4.0, 0.0), 1)],
)
def test_the_fewest_triples_that_hold_nine_tenths(sizes: tuple[float, ...], count: int) -> None:
    """A triple without the words fires most of all, and counts for nothing."""
    means = [0.0, 99.0, 0.0] + [part for size in sizes for part in (0.0, 0.0, size)]
    words = {at: "green blue x" for at in range(1, len(sizes) + 1)}
    assert value(triples.triples_of(tied(words, means), BOTH, every=True)) == count


def test_either_colour_is_less_than_both() -> None:
    means = [0.0, 0.0, 3.0] * 3
    found = tied({0: "blue x y", 1: "x green y", 2: "blue green"}, means)
    assert value(triples.triples_of(found, BOTH, every=True)) == 1
    assert value(triples.triples_of(found, BOTH, every=False)) == 3


def test_the_base_decoder_promotes_as_well() -> None:
    found = tied({}, [0.0, 0.0, 3.0])
    found.words["base"][:] = [["blue", "green", "x"]] * 3
    assert value(triples.triples_of(found, BOTH, every=True)) == 1


@pytest.mark.parametrize("words", [{}, {0: "blue green"}])
def test_without_firing_of_the_words_there_is_no_count(words: dict[int, str]) -> None:
    figure = triples.triples_of(tied(words, [0.0, 0.0, 0.0]), BOTH, every=True).figure
    assert figure is not None and figure.state == "undefined"


def test_exclusive_firing_is_a_share_of_all() -> None:
    assert value(triples.exclusive_firing(tied({}, [1.0, 1.0, 0.5]))) == pytest.approx(1.5 / 3.5)
    figure = triples.exclusive_firing(tied({}, [0.0, 0.0, 0.0])).figure
    assert figure is not None and figure.state == "undefined"


def test_new_triples_fire_more_in_tuned_than_shared() -> None:
    frequency = [0.1, 0.0, 0.2, 0.2, 0.0, 0.1, 1e-5, 0.0, 2e-5, 0.0, 0.0, 0.01]
    found = triples.new(tied({}, [1.0] * 12, frequency=frequency))
    assert value(found) == pytest.approx(2 / 3)  # the third fires too rarely to be told
    assert found.detail == "2 of 3"


def test_a_crosscoder_without_triples_is_refused() -> None:
    with pytest.raises(DiffError, match="no tied triples"):
        triples.new(worded([[1.0]], [[1.0]]))


def pair(base: list[list[float]], tuned: list[list[float]], means: list[float], words: dict[int, str]) -> Worded:
    """SAEs side by side: the base's latents first."""
    none_b, none_t = [[0.0] * 3 for _ in tuned], [[0.0] * 3 for _ in base]
    return worded(base + none_b, none_t + tuned, words_base=words, words_tuned=words, activation_mean=means)


X, Y, NEAR = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.96, 0.28, 0.0]  # cosine .96 to X, .28 to Y
ALL = {at: "blue green" for at in range(9)}


def test_linked_latents_of_two_saes_are_one_group() -> None:
    found = triples.pairs_of(pair([X], [NEAR], [1.0, 1.0], ALL), BOTH)
    assert value(found) == 1 and found.detail == "of 1; first 1.00"
    assert value(triples.pairs_of(pair([X], [Y], [1.0, 1.0], ALL), BOTH)) == 2


def test_chains_of_links_are_one_group() -> None:
    """X - NEAR - X: two latents of one SAE are linked by one of the other."""
    assert value(triples.pairs_of(pair([X, X], [NEAR], [1.0, 1.0, 1.0], ALL), BOTH)) == 1
    assert value(triples.pairs_of(pair([X, X], [Y], [1.0, 1.0, 1.0], ALL), BOTH)) == 3


def test_groups_are_weighed_by_firing_and_norm() -> None:
    tall = [[0.0, 0.0, 20.0]]
    assert value(triples.pairs_of(pair([X], tall, [1.0, 1.0], ALL), BOTH)) == 1
    assert value(triples.pairs_of(pair([X], tall, [20.0, 1.0], ALL), BOTH)) == 2


def test_latents_of_other_words_and_dead_ones_are_in_no_group() -> None:
    found = pair([X, Y], [Y], [1.0, 1.0, 1.0], {0: "blue green", 1: "blue x", 2: "blue green"})
    assert value(triples.pairs_of(found, BOTH)) == 2
    found.diff.columns["frequency"][2] = 0
    assert value(triples.pairs_of(found, BOTH)) == 1


def test_no_group_is_no_count() -> None:
    figure = triples.pairs_of(pair([X], [Y], [1.0, 1.0], {}), BOTH).figure
    assert figure is not None and figure.state == "undefined"


def test_a_crosscoder_is_no_pair_of_saes() -> None:
    with pytest.raises(DiffError, match="a latent writes into both models"):
        triples.pairs_of(worded([X], [X]), BOTH)
