"""Schedule: the learning rate that every side follows."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.jobs import Training

DECAY_SHARE = 0.2


def schedule(job: Training) -> Callable[[int], float]:
    """Factor of the learning rate at a step: rises over the warm-up, falls to 0 over the last fifth."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / job.warm_up)
        fall = min(1.0, (job.steps - step) / max(1.0, DECAY_SHARE * job.steps))
        return max(0.0, rise * fall)

    return factor
