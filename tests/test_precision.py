"""Precision: the setting is chosen by its measured error, and it is the one that stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from diffbench import precision


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    precision._fastest.cache_clear()
    yield
    precision._fastest.cache_clear()
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ({"medium": 4e-7, "high": 4e-7}, "medium"),
        ({"medium": 3e-3, "high": 4e-7}, "high"),
        ({"medium": 3e-3, "high": 3e-4}, "highest"),
    ],
)
def test_a_setting_that_rounds_is_not_used(
    errors: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(setting: str, device: str = "cpu") -> float:
        torch.set_float32_matmul_precision(setting)
        return errors[setting]

    monkeypatch.setattr(precision, "matmul_error", measured)
    assert precision.use_fast_matmul() == chosen == torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if chosen != "high" else "medium")  # as for another device
    assert precision.use_fast_matmul() == chosen == torch.get_float32_matmul_precision()


def test_what_is_chosen_here_is_exact_enough_and_bfloat16_would_not_be() -> None:
    chosen = precision.use_fast_matmul()
    assert precision.matmul_error(chosen) <= precision.MOST_ERROR
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    rounded = a.bfloat16().double() @ a.bfloat16().double()
    exact = a.double() @ a.double()
    assert float((rounded - exact).abs().max() / exact.abs().max()) > 100 * precision.MOST_ERROR
