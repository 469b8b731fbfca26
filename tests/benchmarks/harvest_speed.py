"""Harvest speed: activations of two models at one layer, against a plain forward pass of the whole models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.jobs import Harvesting
from benchmarks.lines import Goal, Line, Part
from benchmarks.settings import Settings
from benchmarks.turns import TUNED_MATMUL, Ratio, Side, SideFailed, take_turns, undisturbed

TINYWORLD = Path(__file__).resolve().parents[2] / "organisms" / "bases" / "tinyworld" / "model"
GOAL = 4.0


def measure(settings: Settings) -> Part:
    """A small Llama with random weights, and tinyworld, both with random documents."""
    llama = Harvesting("llama", layer=3, documents=64, length=128)
    tinyworld = Harvesting(str(TINYWORLD), layer=_middle(TINYWORLD), documents=256, length=64)
    cases = {"Llama d=288, 4 of 6 blocks, V=32000": llama, "tinyworld, half of its blocks": tinyworld}
    part = Part()
    for what, job in cases.items():
        if settings.quick:
            job = replace(job, documents=16)
        block, rounds = (1, 2) if settings.quick else (2, 5)
        sides = [
            Side("diffbench", "diffbench_harvest", sys.executable, job),
            Side("plain forward, as shipped", "plain_harvest", sys.executable, job),
            Side("plain forward, medium", "plain_harvest", sys.executable, replace(job, matmul=TUNED_MATMUL)),
        ]
        try:
            timed = take_turns(sides, core=settings.core, clock=settings.clock, warm=1, block=block, rounds=rounds)
        except SideFailed as error:
            part.lines.append(Line("harvest", what, state=str(error)))
            continue
        part.raw[what] = timed
        part.lines.append(Line("harvest", what, ours=undisturbed(timed), unit="of its time on the core"))
        tokens = job.documents * job.length
        for other in timed[1:]:
            ratio = Ratio.of(timed[0], other)
            part.lines.append(
                Line(
                    "harvest",
                    what,
                    ours=tokens / timed[0].median,
                    against=other.name,
                    other=tokens / other.median,
                    unit="tokens/s, both models",
                    ratio=ratio.value,
                    spread=(ratio.low, ratio.high),
                    goal=Goal(least=GOAL) if job.models == "llama" and other is timed[1] else None,
                )
            )
    return part


def _middle(model: Path) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(str(model)).num_hidden_layers) // 2 - 1
