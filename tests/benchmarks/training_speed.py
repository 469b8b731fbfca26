"""Training speed and memory: steps of equal batches, side by side; tokens per second and peak memory."""

from __future__ import annotations

from typing import Literal

from benchmarks.jobs import Kind, Shape, Training
from benchmarks.lines import Goal, Line, Part
from benchmarks.peers import PEERS, as_shipped, ours, python_of, tuned
from benchmarks.settings import Settings
from benchmarks.turns import Ratio, SideFailed, Timed, take_turns, undisturbed

SMALL = Shape(128, 2048, 32, 2048)
LARGE = Shape(288, 4096, 32, 2048)
GOALS: dict[tuple[Kind, int, str], float] = {
    ("sae", 128, "as shipped"): 8,
    ("sae", 128, "tuned"): 6,
    ("sae", 288, "as shipped"): 10,
    ("sae", 288, "tuned"): 6,
    ("crosscoder", 128, "as shipped"): 10,
    ("crosscoder", 288, "as shipped"): 10,
    ("crosscoder-l1", 128, "as shipped"): 10,
}
CASES: tuple[tuple[Kind, Shape], ...] = (
    ("sae", SMALL),
    ("sae", LARGE),
    ("crosscoder", SMALL),
    ("crosscoder", LARGE),
    ("crosscoder-l1", SMALL),
)
L1_WARM = 300
"""Steps before L1 is timed: at first half of its latents are active, which is not how it spends a run."""


def measure(settings: Settings) -> Part:
    """Every case against its peer, as shipped and tuned."""
    part = Part()
    for kind, shape in CASES if not settings.quick else CASES[::2]:
        what, peer = f"{kind} {shape}", PEERS[kind]
        python = python_of(peer, settings.peers)
        if python is None:
            part.lines.append(Line("training", what, state=f"no environment for {peer.name}"))
            continue
        error: Literal["squared", "norm"] = "squared" if kind == "sae" else "norm"  # as the peer's
        job = Training(kind, shape, steps=2000, error=error, learn_threshold=0.0)
        sides = [ours(job), as_shipped(peer, python, job), tuned(peer, python, job)]
        block, rounds = (4, 2) if settings.quick else (10, 8)
        warm = 4 if settings.quick else L1_WARM if kind == "crosscoder-l1" else 10
        try:
            timed = take_turns(
                sides, core=settings.core, clock=settings.clock, warm=warm, block=block, rounds=rounds, quality=True
            )
        except SideFailed as error:
            part.lines.append(Line("training", what, state=str(error)))
            continue
        part.raw[what] = timed
        for other in timed[1:]:
            part.lines += _pair(kind, shape, timed[0], other)
        part.lines.append(Line("training", what, ours=undisturbed(timed), unit="of its time on the core"))
    return part


def _pair(kind: Kind, shape: Shape, mine: Timed, other: Timed) -> list[Line]:
    what, ratio = f"{kind} {shape}", Ratio.of(mine, other)
    if kind == "crosscoder-l1" and mine.quality is not None:
        what += f", {mine.quality.batch_l0:.0f} active"  # its speed depends on it
    goal = GOALS.get((kind, shape.width, other.name.partition(", ")[2]))
    lines = [
        Line(
            "training",
            what,
            ours=shape.batch / mine.median,
            against=other.name,
            other=shape.batch / other.median,
            unit="tokens/s",
            ratio=ratio.value,
            spread=(ratio.low, ratio.high),
            goal=None if goal is None else Goal(least=goal),
        )
    ]
    if mine.peak is None or other.peak is None:
        lines.append(Line("memory", what, against=other.name, state="peak memory is not told by this system"))
    else:
        lines.append(
            Line(
                "memory",
                what,
                ours=mine.peak / 2**20,
                against=other.name,
                other=other.peak / 2**20,
                unit="MiB over base",
                ratio=mine.peak / other.peak,
                goal=Goal(most=1),
            )
        )
    return lines
