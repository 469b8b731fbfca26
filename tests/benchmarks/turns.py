"""Turns: children of several environments take turns at blocks of work, so that a noisy machine is noisy for all."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.jobs import Clock, Harvesting, HeldOut, Steps, Training, write_job

TESTS = Path(__file__).resolve().parent.parent
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
}
"""glibc keeps large blocks instead of giving them back: what the peers' large temporaries want."""
TUNED_MATMUL = "medium"


def cores() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


class SideFailed(Exception):
    """A child ended; the message is the last line it wrote."""


@dataclass(frozen=True, slots=True)
class Side:
    """What is started: a name for the table, a module of `sides`, a Python, and what is to be done."""

    name: str
    module: str
    python: str
    job: Training | Harvesting
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running side."""

    def __init__(self, side: Side, core: int, folder: Path) -> None:
        self.side = side
        job_file = folder / "job.json"
        write_job(side.job, job_file)
        environment = os.environ | {
            "PYTHONPATH": str(TESTS),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
        }
        self._noise = (folder / "noise.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [side.python, "-m", "benchmarks.child", side.module, str(job_file), str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            text=True,
            env=environment | dict(side.environment),
            cwd=folder,
        )
        self.facts: dict[str, Any] = {}

    def ready(self) -> None:
        """Wait until it is built."""
        self.facts = self._answer()["facts"]

    def steps(self, count: int) -> Steps:
        """Let it do a block of work."""
        return Steps(**self._ask(count))

    def held_out(self) -> HeldOut:
        """Its numbers on held-out rows."""
        return HeldOut(**self._ask("held_out"))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._noise.close()

    def _ask(self, command: int | str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._noise.seek(0)
            said = [text.strip() for text in self._noise if text.strip()]
            raise SideFailed(f"{self.side.name}: {said[-1] if said else f'exit {self._process.returncode}'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def children(sides: Sequence[Side], core: int) -> Iterator[list[Child]]:
    """Start sides one after the other on one core, and see that they were given the same data.

    Raises:
        SideFailed: if one cannot be built, or has other data.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        started = []
        for index, side in enumerate(sides):
            own = folder / str(index)
            own.mkdir()
            child = Child(side, core, own)
            stack.callback(child.close)
            child.ready()
            started.append(child)
        seen = {child.facts.get("data") for child in started}
        if len(seen) > 1:
            raise SideFailed(f"sides were given different data: {sorted(map(str, seen))}")
        yield started


@dataclass(slots=True)
class Timed:
    """What a side did over all rounds.

    Attributes:
        name: of the side.
        facts: what it said of itself.
        rounds: median seconds of each round, by the clock that was chosen.
        seconds: of every unit of work, by that clock.
        losses: of every unit of work.
        wall: seconds in all.
        processor: seconds in all that the processor worked for it.
        peak: bytes of memory over its base; None where the system does not say.
        quality: held-out numbers in the end, where they were asked for.
    """

    name: str
    facts: dict[str, Any]
    rounds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    wall: float = 0.0
    processor: float = 0.0
    peak: int | None = None
    quality: HeldOut | None = None

    @property
    def median(self) -> float:
        """Seconds of one unit of work."""
        return median(self.seconds)

    def add(self, block: Steps, clock: Clock) -> None:
        """Enter a block of work."""
        seconds = block.wall if clock == "wall" else block.processor
        self.rounds.append(median(seconds))
        self.seconds += seconds
        self.wall += sum(block.wall)
        self.processor += sum(block.processor)
        self.losses += block.losses
        self.peak = block.peak


def take_turns(
    sides: Sequence[Side],
    *,
    core: int,
    clock: Clock,
    warm: int,
    block: int,
    rounds: int,
    quality: bool = False,
) -> list[Timed]:
    """Blocks of work A B C, A B C, ...; the first ``warm`` units of each side are not counted.

    Args:
        sides: who takes turns.
        core: the one core that all of them use, one at a time.
        clock: what counts.
        warm: units of work before any is timed.
        block: units of work of one turn.
        rounds: turns of each side.
        quality: ask each side for its held-out numbers in the end.

    Raises:
        SideFailed: if one of them ends.
    """
    with children(sides, core) as started:
        timed = [Timed(child.side.name, child.facts) for child in started]
        for child in started:
            child.steps(warm)
        for _ in range(rounds):
            for child, of in zip(started, timed, strict=True):
                of.add(child.steps(block), clock)
        if quality:
            for child, of in zip(started, timed, strict=True):
                of.quality = child.held_out()
        return timed


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster: from the medians of each round, the median, lowest and highest over the rounds."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, fast: Timed, slow: Timed) -> Ratio:
        """Slow seconds over fast seconds."""
        by_round = [b / a for a, b in zip(fast.rounds, slow.rounds, strict=True)]
        return cls(median(by_round), min(by_round), max(by_round))


def undisturbed(timed: Sequence[Timed]) -> float:
    """Share of the time of all work in which it had its core."""
    return sum(of.processor for of in timed) / sum(of.wall for of in timed)
