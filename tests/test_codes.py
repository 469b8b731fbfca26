"""Codes and selection: sparse kernels against dense products in float64, and exact BatchTopK without a sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from design_factory import entries
from torch import Tensor

from diffbench.codes import Code, DenseCode, SparseCode, block_bounds
from diffbench.selection import DensePositive, DenseTopK, FastPositive, FastTopK, selection

B, N, D = 37, 90, 11


def activities(share: float, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    f = torch.rand(B, N, generator=draw) + 0.1
    f = f * (torch.rand(B, N, generator=draw) < share)
    f[:, 7] = 0  # a latent that never fires
    f[5] = 0  # a row without any
    return f


def sparse(f: Tensor, bounds: tuple[int, ...]) -> SparseCode:
    at = np.flatnonzero(f.numpy())
    return SparseCode(at, f.numpy().ravel()[at], (f.shape[0], f.shape[1]), bounds)


def per_block(f: Tensor, bounds: tuple[int, ...]) -> list[slice]:
    return [slice(start, end) for start, end in zip((0, *bounds[:-1]), bounds, strict=True)]


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("make", [sparse, DenseCode], ids=["sparse", "dense"])
def test_all_products_are_those_of_matrices_in_float64(make: type[Code], share: float, blocks: int) -> None:
    bounds = block_bounds(N, blocks)
    f = activities(share)
    code = make(f, bounds)  # type: ignore[call-arg]
    draw = torch.Generator().manual_seed(1)
    decoder, x = torch.randn(N, D, generator=draw), torch.randn(B, D, generator=draw)
    gradient, per_latent = torch.randn(blocks, B, D, generator=draw), torch.randn(N, generator=draw)
    wide, V = f.double(), decoder.double()

    hats = torch.stack([wide[:, :end] @ V[:end] for end in bounds])
    torch.testing.assert_close(code.decode(decoder).double(), hats, atol=1e-5, rtol=1e-5)

    pulled, pushed = torch.zeros(B, N, dtype=torch.float64), torch.zeros(N, D, dtype=torch.float64)
    for block, g in zip(per_block(f, bounds), gradient.double(), strict=True):
        pulled[:, block] = (g @ V[block].T) * (wide[:, block] > 0)
        pushed[block] = wide[:, block].T @ g
    found = code.pull(gradient, decoder)
    torch.testing.assert_close(spread(code, found), pulled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(code.push(code.values, gradient).double(), pushed, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(code.push(found, x).double(), pulled.T @ x.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(code.totals(code.values).double(), wide.sum(0), atol=1e-5, rtol=1e-5)
    priced = pulled + per_latent.double() * (f > 0)
    torch.testing.assert_close(spread(code, code.pull(gradient, decoder, per_latent)), priced, atol=1e-5, rtol=1e-5)
    assert torch.equal(code.fired(), (f > 0).any(dim=0))
    assert code.count() == int((f > 0).sum())
    assert torch.equal(entries(code, N), f)


def spread(code: Code, values: Tensor) -> Tensor:
    """``values`` of a code as [B, n]."""
    if isinstance(code, DenseCode):
        return values.double()
    full = torch.zeros(B, N, dtype=torch.float64)
    full[torch.from_numpy(code._rows), torch.from_numpy(code._latents)] = values.double()  # type: ignore[attr-defined]
    return full


def test_prefixes_are_halves() -> None:
    assert block_bounds(512, 1) == (512,)
    assert block_bounds(512, 4) == (64, 128, 256, 512)
    assert block_bounds(90, 3) == (22, 45, 90)


def test_more_latents_than_sixteen_bits_hold() -> None:
    n = (1 << 16) + 700
    at = np.array([3, n - 1, n + 70_000 % n, 2 * n + 5, 3 * n - 1])
    f = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    code = SparseCode(at, f, (3, n), (n,))
    rows = torch.eye(3)
    expected = torch.zeros(3, n)
    expected.view(-1)[torch.from_numpy(at)] = torch.from_numpy(f)
    assert torch.equal(code.push(code.values, rows), expected.T)


def scores(seed: int, rows: int = B) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    pre = torch.randn(rows, N, generator=draw)
    return pre, 0.3 * torch.randn(N, generator=draw), torch.rand(N, generator=draw) + 0.2


def by_sorting(pre: Tensor, bias: Tensor, weight: Tensor, k: int) -> Tensor:
    f = (pre.double() + bias.double()).clamp_min(0)
    score = f * weight.double()
    smallest = score.flatten().sort(descending=True).values[k * len(pre) - 1]
    return (score >= smallest) & (score > 0)


@pytest.mark.parametrize("k", [1, 4, 20, 60, N])
def test_fast_selection_is_that_of_a_sort_from_step_to_step(k: int) -> None:
    """Scales jump by a hundred between steps, up and down: a stale guess costs time, never an entry."""
    fast, dense = FastTopK(k, (N,)), DenseTopK(k, (N,))
    for step, size in enumerate((1.0, 1.0, 0.01, 0.02, 100.0, 1.0, 1e-6)):
        pre, bias, weight = scores(step)
        pre, bias = pre * size, bias * size
        kept = by_sorting(pre, bias, weight, k)
        for chosen in (fast, dense):
            code, smallest = chosen.select(pre.clone(), bias, weight)
            found = entries(code, N)
            assert torch.equal(found > 0, kept), (chosen, step)
            torch.testing.assert_close(found, (pre + bias) * kept, rtol=1e-6, atol=0)
            whole = int(kept.sum()) >= k * B
            lowest = float(((pre + bias) * weight)[kept].min()) if whole else 0.0
            assert smallest == pytest.approx(lowest, rel=1e-6)


@pytest.mark.parametrize("chosen", [FastTopK(5, (N,)), DenseTopK(5, (N,))], ids=["fast", "dense"])
def test_fewer_positive_scores_than_wanted_are_all_kept(chosen: FastTopK | DenseTopK) -> None:
    pre = torch.full((B, N), -1.0)
    code, smallest = chosen.select(pre.clone(), torch.zeros(N), torch.ones(N))
    assert code.count() == 0 and smallest == 0
    pre[3, 4], pre[6, 7] = 2.0, 1.0
    code, smallest = chosen.select(pre.clone(), torch.zeros(N), torch.ones(N))
    assert entries(code, N).nonzero().tolist() == [[3, 4], [6, 7]] and smallest == 0
    code, smallest = chosen.select(scores(1)[0], torch.zeros(N), torch.ones(N))
    assert code.count() == 5 * B and smallest


def test_a_latent_without_a_decoder_is_never_kept() -> None:
    pre, bias, weight = scores(0)
    weight[10] = 0.0
    for chosen in (FastTopK(4, (N,)), DenseTopK(4, (N,))):
        for _ in range(2):
            code, _ = chosen.select(pre.clone(), bias, weight)
            assert not code.fired()[10] and code.count() == 4 * B


@pytest.mark.parametrize("shift", [-3.0, -1.0, 0.0, 3.0])
def test_positive_entries_are_the_same_sparse_and_dense(shift: float) -> None:
    pre, bias, weight = scores(0)
    fast, _ = FastPositive((N,)).select((pre + shift).clone(), bias, weight)
    dense, threshold = DensePositive((N,)).select((pre + shift).clone(), bias, weight)
    assert threshold is None
    assert torch.equal(entries(fast, N), entries(dense, N))
    assert isinstance(fast, SparseCode) == (shift < -2)


def test_float32_and_float64_choose_the_same_entries() -> None:
    """At most one entry of 65 536 may differ, where two scores are equal but for rounding."""
    rows, n, k = 2048, 512, 32
    draw = torch.Generator().manual_seed(0)
    x, encoder = torch.randn(rows, 64, generator=draw), torch.randn(n, 64, generator=draw)
    bias, weight = 0.1 * torch.randn(n, generator=draw), torch.rand(n, generator=draw) + 0.5
    fast = FastTopK(k, (n,))
    for step in range(3):
        kept = by_sorting(x.double() @ encoder.double().T, bias, weight, k)
        code, _ = fast.select(x @ encoder.T, bias, weight)
        assert int((kept != (entries(code, n) > 0)).sum()) <= 2, step  # one out, another in


def test_cpus_take_the_sparse_way_and_others_the_dense_one() -> None:
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert isinstance(selection(3, (N,), cpu), FastTopK) and isinstance(selection(None, (N,), cpu), FastPositive)
    assert isinstance(selection(3, (N,), other), DenseTopK) and isinstance(selection(None, (N,), other), DensePositive)
