"""Budget curve: at how many components a Diff is looked at, what they cost, and the area under R over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffbench.edit import Streams
from diffbench.handle import Handle, StreamHandle

CURVE = (1, 2, 4, 8, 16, 32, 64)
MOST_WHOLE = 128
"""Points of the curve of whole components, each of which is one."""


def curve_points(handle: Handle) -> tuple[int, ...]:
    """Numbers of components at which the budget curve is measured: every one of whole components, else doubling."""
    n = handle.n_components
    if not handle.directional:
        return tuple(range(1, min(n, MOST_WHOLE) + 1))
    return tuple(k for k in CURVE if k < n) + ((n,) if 0 < n <= CURVE[-1] else ())


def area_weights(points: Sequence[int]) -> list[float]:
    """Weights by which heights at ``points`` make the mean height over log2 k from 1 to 64; they sum to 1.

    The curve is straight between points, over log2 k, and flat beyond the last.
    """
    at = [math.log2(k) for k in points]
    end = math.log2(CURVE[-1])
    weights = [0.0] * len(at)
    for left, right in zip(range(len(at) - 1), range(1, len(at)), strict=True):
        half = (at[right] - at[left]) / 2
        weights[left] += half
        weights[right] += half
    weights[-1] += max(0.0, end - at[-1])
    total = sum(weights)
    return [weight / total for weight in weights]


def active_counts(handle: Handle, affected: Streams) -> tuple[float, ...] | None:
    """Mean number of the top 1, 2, 3, ... components that are active at affected positions; None without such."""
    if not len(affected):
        return None
    most = min(max(*CURVE, MOST_WHOLE), handle.n_components)
    if not isinstance(handle, StreamHandle) or not handle.sparse:
        return tuple(float(k) for k in range(1, most + 1))
    on = handle.edit.activity(affected)[:, handle.order()[:most]] != 0
    return tuple(on.double().mean(dim=0).cumsum(dim=0).tolist())
