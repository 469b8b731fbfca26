"""Precision: which float32 matrix product this machine may use without losing float32 accuracy.

On some CPUs PyTorch's "medium" setting reaches faster kernels that still compute in float32; on others it rounds to
bfloat16. What it does here is measured, not assumed.
"""

from __future__ import annotations

import os
from functools import lru_cache

import torch

from diffbench.errors import OptionError

DEVICE = "DIFFBENCH_DEVICE"
"""The environment's name for the device to compute on: ``cpu``, ``cuda`` or ``cuda:1``."""
MOST_ERROR = 2e-6
"""Largest error of a product against float64, relative to the largest entry; float32 kernels stay near 4e-7."""

CONSTANT = 1e-12
"""Variance relative to the mean square under which rows are called constant: float32 rounding stays below it."""


def compute_device() -> torch.device:
    """The device of this process: what ``DIFFBENCH_DEVICE`` names, else the GPU if there is one.

    Raises:
        OptionError: if there is no such device.
    """
    chosen = os.environ.get(DEVICE)
    if not chosen:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
    except RuntimeError:
        raise OptionError(f"{DEVICE}: {chosen!r} is no device; allowed are cpu, cuda, cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"{DEVICE}: {chosen!r}: PyTorch finds {torch.cuda.device_count()} GPUs here; set it to cpu")
    return device


def use_fast_matmul(device: str | None = None) -> str:
    """Switch this process to the fastest float32 matmul that is exact enough, and return PyTorch's name for it.

    The setting holds for all devices: call it with the type of the one that computes; None: `compute_device`.
    """
    precision = _fastest(compute_device().type if device is None else device)
    torch.set_float32_matmul_precision(precision)  # also where another device was asked for in between
    return precision


@lru_cache(maxsize=4)
def _fastest(device: str) -> str:
    for precision in ("medium", "high"):
        if matmul_error(precision, device) <= MOST_ERROR:
            return precision
    return "highest"


def matmul_error(precision: str, device: str = "cpu") -> float:
    """Relative error of a 256 x 512 x 256 product under a setting, which stays switched on."""
    torch.set_float32_matmul_precision(precision)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 512, generator=generator), torch.randn(512, 256, generator=generator)
    exact = a.double() @ b.double()
    product = (a.to(device) @ b.to(device)).cpu().double()
    return float((product - exact).abs().max() / exact.abs().max())
