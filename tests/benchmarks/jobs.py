"""Jobs: what a child process is told to do, and what it answers. Standard library only: every side imports this.

One child is one side (diffbench, or a peer in its own environment). It does blocks of work on command, so that a parent
can let several children take turns, and times each unit of its own work.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Kind = Literal["sae", "crosscoder", "crosscoder-l1"]
Clock = Literal["wall", "processor"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a dictionary and of its batches."""

    width: int
    latents: int
    k: int
    batch: int

    def __str__(self) -> str:
        return f"d={self.width} n={self.latents} k={self.k} B={self.batch}"


@dataclass(frozen=True, slots=True)
class Training:
    """A dictionary to be trained on synthetic rows.

    Attributes:
        kind: what is trained; crosscoders read two models side by side, [B, 2d].
        shape: its sizes.
        steps: length of the learning rate's schedule.
        lr: Adam's step size.
        warm_up: steps over which it rises.
        penalty: lambda of an L1 penalty.
        seed: of the rows and of the initial weights.
        pool: distinct batches, made before any step; 0: every step has a new one, made outside the timed part.
        learn_threshold: share of the steps after which the inference threshold is learned.
        start: initial weights to read (npz: encoder [n, D], encoder_bias [n], decoder [n, D], bias [D]).
        write_start: where to write the initial weights instead.
        dead_after: rows without firing after which a latent counts as dead.
        error: form of the reconstruction loss; norm: mean over models of the unsquared norm.
        matmul: PyTorch's float32 matmul setting; None: whatever the side chooses itself.
        device: where to train.
    """

    kind: Kind
    shape: Shape
    steps: int
    lr: float = 1e-3
    warm_up: int = 50
    penalty: float = 0.095
    seed: int = 0
    pool: int = 16
    learn_threshold: float = 0.5
    start: str | None = None
    write_start: str | None = None
    dead_after: int = 10_000_000
    error: Literal["squared", "norm"] = "squared"
    matmul: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Harvesting:
    """Activations of two models to be collected from random token ids.

    Attributes:
        models: llama (6 layers, d = 288, vocabulary 32000, random weights) or a folder with a model.
        layer: block whose output is wanted.
        documents: of one unit of work.
        length: tokens of a document.
        matmul: PyTorch's float32 matmul setting; None: whatever the side chooses itself.
    """

    models: str
    layer: int
    documents: int
    length: int
    matmul: str | None = None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Squared error on rows that were not trained on, sum over coordinates, mean over rows; and mean active latents."""

    threshold: float
    threshold_l0: float
    batch: float
    batch_l0: float
    total: float


class Work(Protocol):
    """What a side builds from a job."""

    def feed(self) -> None:
        """Make the next input; not timed."""

    def step(self) -> float:
        """One unit of work on it; timed. Returns the loss, or a number that follows from the result."""

    def facts(self) -> dict[str, float | str]:
        """What belongs beside the numbers, and ``data``: a checksum of the inputs, equal on all sides."""


@runtime_checkable
class Learning(Work, Protocol):
    """Work of a `Training` job."""

    def held_out(self) -> HeldOut:
        """How good the dictionary is by now."""


@dataclass(frozen=True, slots=True)
class Built:
    """A side is ready."""

    facts: dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Steps:
    """What a block of work took, and its losses.

    Attributes:
        wall: seconds of each unit of work.
        processor: seconds that the processor worked on it; less than the wall's where others had the core meanwhile.
        losses: what each unit returned.
        peak: bytes over what was held before the work was built; None where the system does not say.
    """

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int | None = None


def write_job(job: Training | Harvesting, path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps({"type": type(job).__name__} | asdict(job)), encoding="utf-8")


def read_job(path: Path) -> Training | Harvesting:
    """The inverse of `write_job`."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.pop("type") == "Harvesting":
        return Harvesting(**document)
    return Training(**document | {"shape": Shape(**document["shape"])})
