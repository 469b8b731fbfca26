"""Encoding, decoding and edits against float64 loops written from SCIENCE sections 2 and 4."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff
from torch import Tensor

from diffbench import dictionary
from diffbench.diff import DictionaryDiff

KINDS = ("delta", "both", "tuned", "base")
ACTIVATIONS = ("relu", "threshold", "topk")


def slow_encode(diff: DictionaryDiff, x: Tensor) -> Tensor:
    """f of one row at a time, one latent at a time."""
    result = torch.zeros(len(x), diff.n_components, dtype=torch.float64)
    for t, row in enumerate(x.double()):
        pre = [
            float(sum(w * v for w, v in zip(encoder.tolist(), row.tolist(), strict=True))) + float(b)
            for encoder, b in zip(diff.encoder.double(), diff.encoder_bias.double(), strict=True)
        ]
        kept = set(sorted(range(len(pre)), key=lambda j: -pre[j])[: diff.k]) if diff.k else set(range(len(pre)))
        for j, value in enumerate(pre):
            above = diff.threshold is None or value > float(diff.threshold[j])
            if value > 0 and above and j in kept:
                result[t, j] = value
    return result


def slow_added(
    diff: DictionaryDiff, h_b: Tensor, h_t: Tensor, chosen: list[int] | None = None, *, with_bias: bool = False
) -> Tensor:
    """What the edit adds to h_b: everything (None), or a set without bias, in float64."""
    h_b, h_t = h_b.double(), h_t.double()
    latents = range(diff.n_components) if chosen is None else chosen
    bias = torch.zeros(h_b.shape[1], dtype=torch.float64)
    if diff.input == "delta":
        f_t = slow_encode(diff, h_t - h_b)
        f_b = torch.zeros_like(f_t)
        up = down = diff.decoder.double()  # type: ignore[union-attr]
        bias = diff.bias.double()  # type: ignore[union-attr]
    elif diff.input == "both":
        f_t = f_b = slow_encode(diff, torch.cat([h_b, h_t], dim=1))
        up, down = diff.decoder_tuned.double(), diff.decoder_base.double()  # type: ignore[union-attr]
        bias = diff.bias_tuned.double() - diff.bias_base.double()  # type: ignore[union-attr]
    else:
        f_t, f_b = slow_encode(diff, h_t), slow_encode(diff, h_b)
        up = down = diff.decoder.double()  # type: ignore[union-attr]
    total = torch.zeros_like(h_b)
    for j in latents:
        total += f_t[:, j, None] * up[j] - f_b[:, j, None] * down[j]
    return total + bias if chosen is None or with_bias else total


def streams(n: int = 12, seed: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    h_b = torch.randn(n, WIDTH, generator=draw)
    return h_b, h_b + 0.7 * torch.randn(n, WIDTH, generator=draw)


def own_input(kind: str, h_b: Tensor, h_t: Tensor) -> Tensor:
    return {"delta": h_t - h_b, "both": torch.cat([h_b, h_t], 1), "tuned": h_t, "base": h_t}[kind]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_encode(kind: str, activation: str) -> None:
    diff, (h_b, h_t) = dictionary_diff(kind, activation), streams()
    expected = slow_encode(diff, own_input(kind, h_b, h_t))
    assert 0 < (expected > 0).double().mean() < 1
    torch.testing.assert_close(dictionary.encode(diff, h_b, h_t).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_full_and_set_edits(kind: str, activation: str) -> None:
    diff, (h_b, h_t) = dictionary_diff(kind, activation), streams()
    full = dictionary.added_by_all(diff, h_b, h_t)
    torch.testing.assert_close(full.double(), slow_added(diff, h_b, h_t), atol=1e-5, rtol=1e-5)
    for chosen in ([], [3], [5, 0, 17], [2, 2]):
        added = dictionary.added_by(diff, h_b, h_t, torch.tensor(chosen, dtype=torch.int64))
        torch.testing.assert_close(added.double(), slow_added(diff, h_b, h_t, chosen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_full_is_the_bias_and_all_components(kind: str) -> None:
    diff, (h_b, h_t) = dictionary_diff(kind), streams()
    every = dictionary.added_by(diff, h_b, h_t, diff.order)
    torch.testing.assert_close(dictionary.bias(diff) + every, dictionary.added_by_all(diff, h_b, h_t))
    assert bool(dictionary.bias(diff).any()) == (kind in ("delta", "both"))  # one SAE's bias cancels


def test_the_full_edit_of_a_crosscoder_is_the_difference_of_its_reconstructions() -> None:
    diff, (h_b, h_t) = dictionary_diff("both"), streams()
    target, hat = dictionary.reconstruction(diff, h_b, h_t)
    assert torch.equal(target, torch.cat([h_b, h_t], dim=1))
    torch.testing.assert_close(
        hat[:, WIDTH:] - hat[:, :WIDTH], dictionary.added_by_all(diff, h_b, h_t), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["delta", "tuned"])
def test_reconstruction_of_one_decoder(kind: str) -> None:
    diff, (h_b, h_t) = dictionary_diff(kind), streams()
    target, hat = dictionary.reconstruction(diff, h_b, h_t)
    x = own_input(kind, h_b, h_t)
    assert torch.equal(target, x)
    assert diff.decoder is not None and diff.bias is not None
    expected = slow_encode(diff, x) @ diff.decoder.double() + diff.bias.double()
    torch.testing.assert_close(hat.double(), expected, atol=1e-5, rtol=1e-5)


# BUG dictionary.py reconstruction: a base-SAE reconstructs h_b (DictionaryDiff, SCIENCE section 2), not h_t.
def test_reconstruction_of_a_base_sae_is_of_the_base_stream() -> None:
    diff, (h_b, h_t) = dictionary_diff("base"), streams()
    target, hat = dictionary.reconstruction(diff, h_b, h_t)
    assert torch.equal(target, h_b)
    assert diff.decoder is not None and diff.bias is not None
    expected = slow_encode(diff, h_b) @ diff.decoder.double() + diff.bias.double()
    torch.testing.assert_close(hat.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_threshold_is_strict_and_never_lets_negatives_pass() -> None:
    diff = dictionary_diff("delta", n=2, d=1)
    diff = replace(diff, encoder=torch.ones(2, 1), encoder_bias=torch.zeros(2), threshold=torch.tensor([1.0, -1.0]))
    delta = torch.tensor([[1.0], [1.5], [-0.5]])
    f = dictionary.encode(diff, torch.zeros(3, 1), delta)
    assert f.tolist() == [[0.0, 1.0], [1.5, 1.5], [0.0, 0.0]]


def test_difference_decoder() -> None:
    both, delta = dictionary_diff("both"), dictionary_diff("delta")
    assert both.decoder_tuned is not None and both.decoder_base is not None and delta.decoder is not None
    assert torch.equal(dictionary.difference_decoder(both), both.decoder_tuned - both.decoder_base)
    assert torch.equal(dictionary.difference_decoder(delta), delta.decoder)
