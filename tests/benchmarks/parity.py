"""Parity: after the same batches from the same initial weights with the same loss, is ours as good on held-out rows?

Two runs whose rounding differs drift apart: selections flip, and what follows is another run of equal right. So it is
asked for several seeds, of rows and of initial weights, and the median ratio counts.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks.jobs import HeldOut, Kind, Training
from benchmarks.lines import Goal, Line, Part
from benchmarks.peers import PEERS, ours, python_of, tuned
from benchmarks.settings import Settings
from benchmarks.training_speed import SMALL
from benchmarks.turns import SideFailed, children

STEPS, QUICK_STEPS, EARLY = 1000, 100, 50
SEEDS = (0, 1, 2)
LR = 3e-3
WITHIN = 0.01
Error = Literal["squared", "norm"]
CASES: tuple[tuple[Kind, Error], ...] = (("sae", "squared"), ("crosscoder", "norm"))
"""Each with the peer's own form of the loss: its SAE squares the error, its crosscoder does not."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Both sides after the same training."""

    seed: int
    ours: HeldOut
    peer: HeldOut
    our_losses: list[float]
    peer_losses: list[float]


def measure(settings: Settings) -> Part:
    """Held-out squared error of both sides, with their own threshold and with BatchTopK on the held-out batch."""
    part = Part()
    steps = QUICK_STEPS if settings.quick else STEPS
    for kind, error in CASES:
        peer, seeds = PEERS[kind], SEEDS[:1] if settings.quick else SEEDS
        what = f"{kind} {SMALL}, {error} error, {steps} steps"
        python = python_of(peer, settings.peers)
        if python is None:
            part.lines.append(Line("held-out error", what, state=f"no environment for {peer.name}"))
            continue
        job = Training(kind, SMALL, steps=steps, lr=LR, pool=0, error=error)
        try:
            found = [_pairing(replace(job, seed=seed), python, settings.core) for seed in seeds]
        except SideFailed as failure:
            part.lines.append(Line("held-out error", what, state=str(failure)))
            continue
        part.raw[what] = found
        part.lines.append(_early(what, peer.name, found))
        part.lines += [_line(what, peer.name, found, "batch"), _line(what, peer.name, found, "threshold")]
    return part


def _pairing(job: Training, python: str, core: int) -> Pairing:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        start = str(Path(folder) / "start.npz")
        sides = [tuned(PEERS[job.kind], python, replace(job, write_start=start)), ours(replace(job, start=start))]
        with children(sides, core) as (other, mine):
            theirs, found = other.steps(job.steps), mine.steps(job.steps)
            return Pairing(job.seed, mine.held_out(), other.held_out(), found.losses, theirs.losses)


def _early(what: str, peer: str, found: list[Pairing]) -> Line:
    """Before selections flip, both must do the same arithmetic."""
    apart = [
        abs(mine / theirs - 1)
        for pair in found
        for mine, theirs in zip(pair.our_losses[:EARLY], pair.peer_losses[:EARLY], strict=True)
    ]
    return Line(
        "held-out error",
        f"{what}; first {EARLY} losses",
        against=peer,
        unit="largest difference",
        ratio=max(apart),
    )


def _line(what: str, peer: str, found: list[Pairing], how: Literal["batch", "threshold"]) -> Line:
    def medians(name: str) -> tuple[float, float]:
        return median(getattr(pair.ours, name) for pair in found), median(getattr(pair.peer, name) for pair in found)

    mine, theirs = medians(how)
    active = medians(f"{how}_l0")
    ratios = [getattr(pair.ours, how) / getattr(pair.peer, how) for pair in found]
    return Line(
        "held-out error",
        f"{what}; {how} (active {active[0]:.1f} / {active[1]:.1f})",
        ours=mine,
        against=peer,
        other=theirs,
        unit=f"of {found[0].ours.total:.0f}",
        ratio=median(ratios),
        spread=(min(ratios), max(ratios)),
        goal=Goal(most=1 + WITHIN) if how == "batch" else None,
    )
