"""What does not fit a pair of models is refused with one line that names it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each

from diffbench.diff import DictionaryDiff, Diff, Finding, OutputDiff, WeightDiff
from diffbench.errors import DiffError
from diffbench.tiny import VOCABULARY

N = 24
DIFFS = one_of_each()


def finding(rank: int, component: int = 0) -> Finding:
    return Finding(rank=rank, component=component, score=1.0)


def broken(kind: str, **changed: Any) -> Diff:
    return replace(DIFFS[kind], **changed)


@pytest.mark.parametrize("kind", DIFFS)
def test_a_good_one_passes(kind: str) -> None:
    DIFFS[kind].check(WIDTH, 3, VOCABULARY)


@pytest.mark.parametrize("kind", ["delta", "both", "tuned", "base"])
@pytest.mark.parametrize("activation", ["relu", "threshold", "topk"])
def test_every_form_of_dictionary_passes(kind: str, activation: str) -> None:
    dictionary_diff(kind, activation).check(WIDTH, 3, VOCABULARY)


def nan_at(tensor: torch.Tensor, value: float = float("nan")) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


DICTIONARY, DIRECTION, WEIGHT = DIFFS["dictionary"], DIFFS["direction"], DIFFS["weight"]
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("dictionary", {"encoder": nan_at(DICTIONARY.encoder)}, "encoder: holds NaN"),
    ("dictionary", {"encoder": nan_at(DICTIONARY.encoder, float("inf"))}, "encoder: holds NaN or infinite"),
    ("dictionary", {"encoder": torch.zeros(N, WIDTH)}, r"encoder: has shape \[24, 16\], needs \[24, 32\]"),
    ("dictionary", {"encoder": torch.zeros(N)}, "encoder: has shape"),
    # BUG diff.py: n_components reads shape[0] before any shape is checked.
    ("dictionary", {"encoder": torch.tensor(1.0)}, "encoder: has shape"),
    ("dictionary", {"encoder": DICTIONARY.encoder.double()}, "encoder: is torch.float64, needs float32"),
    ("dictionary", {"encoder": DICTIONARY.encoder.bfloat16()}, "encoder: is torch.bfloat16"),
    ("dictionary", {"encoder_bias": torch.zeros(N - 1)}, "encoder_bias: has shape"),
    ("dictionary", {"decoder_base": None}, "decoder_base: missing; needs shape"),
    ("dictionary", {"bias_tuned": nan_at(DICTIONARY.bias_tuned)}, "bias_tuned: holds NaN"),
    ("dictionary", {"threshold": None}, "threshold: missing"),
    ("dictionary", {"input": "delta", "encoder": torch.zeros(N, WIDTH)}, "decoder: missing"),
    ("dictionary", {"order": torch.zeros(N, dtype=torch.int64)}, "order: must be a permutation of 0..23"),
    ("dictionary", {"order": torch.arange(N) + 1}, "order: must be a permutation"),
    ("dictionary", {"order": torch.arange(N - 1)}, "order: must be a permutation"),
    ("dictionary", {"order": torch.arange(N).float()}, "order: must be a permutation"),
    ("dictionary", {"order": torch.arange(N)[:, None]}, "order: must be a permutation"),
    ("dictionary", {"group": torch.zeros(N)}, "group: needs 24 int64"),
    ("dictionary", {"columns": {"mine": torch.zeros(3)}}, "columns.mine: has shape"),
    ("dictionary", {"activation": "topk", "k": None}, "k: topk needs 1 <= k <= 24, got None"),
    ("dictionary", {"activation": "topk", "k": N + 1}, "got 25"),
    ("dictionary", {"activation": "topk", "k": 10**30}, "k: topk needs"),
    ("dictionary", {"layer": 3}, r"layer: 3 does not exist, the models have blocks 0\.\.2"),
    ("dictionary", {"layer": -1}, "layer: -1 does not exist"),
    ("dictionary", {"layer": 10**30}, "does not exist"),
    ("direction", {"directions": 2 * DIRECTION.directions}, "rows must have unit norm"),
    ("direction", {"directions": torch.zeros(3, WIDTH)}, "rows must have unit norm"),
    ("direction", {"directions": torch.tensor(1.0)}, "directions: has shape"),  # BUG as above
    ("direction", {"centre": torch.zeros(WIDTH - 1)}, "centre: has shape"),
    ("direction", {"bias": nan_at(DIRECTION.bias)}, "bias: holds NaN"),
    ("direction", {"constant": torch.zeros(2)}, "constant: has shape"),
    ("direction", {"positions": torch.zeros(3)}, "positions: needs 3 int64"),
    ("direction", {"layer": 3}, "layer: 3"),
    ("weight", {"u": WEIGHT.u[:1]}, "u, v: need one vector for each of the 2"),
    ("weight", {"sigma": torch.zeros(3)}, "sigma: has shape"),
    ("weight", {"v": (WEIGHT.v[0], nan_at(WEIGHT.v[1]))}, "v.1: holds NaN"),
    ("weight", {"u": (WEIGHT.u[0][None], WEIGHT.u[1])}, "u.0: has shape"),
    ("output", {"token_scores": None}, "token_scores: missing"),
    ("output", {"token_scores": torch.zeros(VOCABULARY - 1)}, "token_scores: has shape"),
]


@pytest.mark.parametrize(("kind", "changed", "message"), CASES)
def test_what_does_not_fit_is_refused(kind: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DiffError, match=message) as caught:
        broken(kind, **changed).check(WIDTH, 3, VOCABULARY)
    assert "\n" not in str(caught.value)


def test_columns_may_hold_nan() -> None:
    broken("dictionary", columns={"nu": torch.full((N,), float("nan"))}).check(WIDTH, 3, VOCABULARY)


@pytest.mark.parametrize("ranks", [[2], [1, 1], [2, 1], [1, 3]])
def test_ranks_count_from_one(ranks: list[int]) -> None:
    with pytest.raises(DiffError, match="ranks must be 1, 2, 3"):
        broken("direction", findings=tuple(finding(rank) for rank in ranks)).check(WIDTH, 3, VOCABULARY)


@pytest.mark.parametrize(("kind", "n"), [("dictionary", N), ("direction", 3), ("weight", 2), ("output", 1)])
def test_components_exist(kind: str, n: int) -> None:
    assert DIFFS[kind].n_components == n
    broken(kind, findings=(finding(1, n - 1),)).check(WIDTH, 3, VOCABULARY)
    with pytest.raises(DiffError, match=f"component {n} does not exist, there are {n}"):
        broken(kind, findings=(finding(1, n),)).check(WIDTH, 3, VOCABULARY)


def test_an_output_without_a_score_has_no_components() -> None:
    with pytest.raises(DiffError, match="there are 0"):
        OutputDiff(score=None, findings=(finding(1),)).check(WIDTH, 3, VOCABULARY)
    OutputDiff(score="kl").check(WIDTH, 3, VOCABULARY)


def test_empty_ones_pass() -> None:
    empty = torch.zeros(0)
    WeightDiff(modules=(), sigma=empty, u=(), v=()).check(WIDTH, 3, VOCABULARY)
    none = torch.zeros(0, WIDTH)
    DictionaryDiff(
        layer=0,
        input="delta",
        activation="relu",
        encoder=none,
        encoder_bias=empty,
        decoder=none,
        bias=torch.zeros(WIDTH),
        order=torch.zeros(0, dtype=torch.int64),
    ).check(WIDTH, 3, VOCABULARY)
