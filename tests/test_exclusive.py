"""Exclusive latents: planted twins, spurious latents and nearest decoders with answers that are known."""

from __future__ import annotations

import math

import pytest
import torch
from planted_latents import NONE, single, worded

from diffbench import exclusive
from diffbench.errors import DiffError
from diffbench.study import Reading
from diffbench.worded import Worded

BOTH = {"blue", "green"}
X, Y, Z, ZERO = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)
TILTED = (0.6, 0.8, 0.0)  # cosine .6 to X


def value(reading: Reading) -> float:
    assert reading.figure is not None and reading.figure.value is not None, reading
    return reading.figure.value


def twins(**changes: object) -> Worded:
    """Latent 0 is half-swap's, 1 no-swap's, 2 shared, all of both colours; 3 is half-swap's and of one colour."""
    words = {0: "green blue red", 1: "blue green x", 2: "red green blue", 3: "blue x green"}
    alone = {0: "green blue red", 2: "green red blue", 3: "blue x y"}
    parts: dict[str, object] = {"words_base": words, "words_tuned": alone} | changes
    return worded([ZERO, X, Z, ZERO], [TILTED, ZERO, Z, X], **parts)  # type: ignore[arg-type]


def test_twins_are_found_by_side_and_words() -> None:
    found = exclusive.twin_cosine(twins(), BOTH)
    assert value(found) == pytest.approx(0.6)
    assert found.detail == "1 and 1 such latents"


def test_only_the_first_three_words_count() -> None:
    found = twins(words_base={1: "x y z blue green"})
    assert value(exclusive.twin_cosine(found, BOTH)) == 0


def test_without_a_latent_of_both_colours_on_one_side_the_cosine_is_0() -> None:
    found = exclusive.twin_cosine(twins(words_tuned={0: "blue red x"}), BOTH)
    assert value(found) == 0
    assert found.detail == "0 and 1 such latents"


def test_dead_latents_are_no_twins() -> None:
    assert value(exclusive.twin_cosine(twins(frequency=(0.1, 0.0, 0.1, 0.1)), BOTH)) == 0


def test_the_largest_of_several_twins_counts() -> None:
    words = {at: "blue green" for at in range(4)}
    found = worded([ZERO, ZERO, X, Y], [TILTED, X, ZERO, ZERO], words_base=words, words_tuned=words)
    assert value(exclusive.twin_cosine(found, BOTH)) == pytest.approx(1.0)


def test_a_shared_latent_like_the_exclusive_one() -> None:
    assert value(exclusive.shared_cosine(twins(), BOTH)) == pytest.approx(0.0)  # Z against TILTED
    words = {0: "blue green", 1: "green blue"}
    near = worded([ZERO, X], [TILTED, X], words_base=words, words_tuned=words)
    assert value(exclusive.shared_cosine(near, BOTH)) == pytest.approx(0.6)
    assert value(exclusive.twin_cosine(near, BOTH)) == 0


def test_base_exclusive_latents_of_both_colours_are_counted() -> None:
    assert value(exclusive.base_exclusive(twins(), BOTH)) == 1
    assert value(exclusive.base_exclusive(twins(words_base={}), BOTH)) == 0


def test_one_decoder_has_no_sides() -> None:
    with pytest.raises(DiffError, match="no decoder of the tuned model by itself"):
        single(torch.eye(3)).promoting("tuned", BOTH)


def test_any_word_will_do_where_not_every_one_is_asked_for() -> None:
    found = twins()
    assert found.promoting("tuned", BOTH, every=False).tolist() == [True, False, True, True]
    assert found.promoting("tuned", BOTH).tolist() == [True, False, True, False]


SPURIOUS = worded(
    [ZERO, ZERO, ZERO, ZERO, ZERO, X],
    [X, X, X, X, X, X],
    frequency=(0.1, 0.1, 0.1, 0.1, 0.0, 0.1),
    nu_error=(0.1, -0.3, 0.1, NONE, 0.9, 0.9),
    nu_reconstruction=(-0.4, 0.1, 0.6, 0.1, 0.9, 0.9),
)
"""Tuned-only and live are 0..3: specific, shrunk (a negative nu of size .3), decoupled, without nu."""


def test_rejected_share_counts_those_with_a_nu() -> None:
    found = exclusive.rejected(SPURIOUS)
    assert value(found) == pytest.approx(2 / 3)
    assert found.detail == "2 of 3, 1 more without nu"


def test_rejected_latents_as_a_share_of_the_live_ones() -> None:
    assert value(exclusive.rejected_of_live(SPURIOUS)) == pytest.approx(2 / 5)


def test_without_tuned_only_latents_no_share_is_rejected() -> None:
    found = worded([X, X], [X, X], nu_error=(0.5, 0.5), nu_reconstruction=(0.5, 0.5))
    figure = exclusive.rejected(found).figure
    assert figure is not None and figure.state == "undefined"
    assert value(exclusive.rejected_of_live(found)) == 0


def test_specific_latents_of_a_crosscoder_need_both_nus() -> None:
    assert exclusive.specific(SPURIOUS).tolist() == [True, False, False, False, False, False]
    assert value(exclusive.specific_share(SPURIOUS)) == pytest.approx(1 / 6)


def test_specific_latents_of_an_sae_and_those_that_fire_often() -> None:
    found = single(torch.eye(5), nu_activation=(0.1, -0.1, 0.3, NONE, 0.19), frequency=(0.05, 0.2, 0.5, 0.5, 0.1))
    assert value(exclusive.specific_share(found)) == pytest.approx(3 / 5)
    assert value(exclusive.specific_often(found)) == pytest.approx(1 / 3)  # .1 itself is not often


def test_often_is_undefined_without_specific_latents() -> None:
    figure = exclusive.specific_often(single(torch.eye(2), nu_activation=(0.9, 0.9))).figure
    assert figure is not None and figure.state == "undefined"


def test_nearest_cosines_are_medians_of_either_class() -> None:
    """Exclusive: 0 (tuned), 1 (base); shared: 2, 3; a dead exclusive one counts for nothing."""
    found = worded(
        [ZERO, X, X, Y, ZERO],
        [X, ZERO, X, Y, X],
        frequency=(0.1, 0.1, 0.1, 0.1, 0.0),
        nearest_tuned=(0.9, NONE, 0.2, 0.4, 0.99),
        nearest_base=(NONE, 0.5, 0.3, 0.7, NONE),
    )
    assert value(exclusive.nearest_exclusive(found)) == pytest.approx(0.7)
    assert value(exclusive.nearest_shared(found)) == pytest.approx(0.35)


def test_nearest_is_undefined_without_such_latents() -> None:
    figure = exclusive.nearest_exclusive(worded([X], [X], nearest_tuned=(0.1,), nearest_base=(0.1,))).figure
    assert figure is not None and figure.state == "undefined"


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(DiffError, match="no column 'nu_error'"):
        exclusive.rejected(twins())


def test_shared_and_tuned_only_by_relative_norm() -> None:
    found = worded([ZERO, (0.5, 0, 0), X, (0.85, 0, 0), (1.0, 0, 0)], [X, X, X, X, (0.5, 0, 0)])
    assert exclusive.tuned_only(found).tolist() == [True, False, False, False, False]
    assert exclusive.shared(found).tolist() == [False, False, True, True, False]
    assert math.isclose(float(found.column("relative_norm")[3]), 0.575, abs_tol=1e-6)
