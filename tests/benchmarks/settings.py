"""Settings: what a run of the benchmark was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import Clock


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one run.

    Attributes:
        peers: folder with an environment for each peer.
        out: folder that everything is written to.
        core: the one that timed work is pinned to.
        clock: by which work is timed; the processor's own leaves out the time in which others had the core.
        quick: few steps, to see that everything works; its numbers mean little.
        device: of the part about GPUs.
    """

    peers: Path
    out: Path
    core: int
    clock: Clock
    quick: bool
    device: str
