"""Peers: the public trainers, where their environments are, and the two ways in which they are quoted."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.jobs import Kind, Training
from benchmarks.turns import ALLOCATOR, TUNED_MATMUL, Side


@dataclass(frozen=True, slots=True)
class Peer:
    """A library with a trainer of a kind, in an environment of its own."""

    name: str
    module: str


PEERS: dict[Kind, Peer] = {
    "sae": Peer("dictionary_learning", "dictionary_learning_sae"),
    "crosscoder": Peer("crosscoder_learning", "crosscoder_learning_pair"),
    "crosscoder-l1": Peer("crosscoder_learning", "crosscoder_learning_pair"),
}


def python_of(peer: Peer, folder: Path) -> str | None:
    """The Python of a peer's environment, or None where there is no such environment."""
    python = folder / peer.name / "bin" / "python"
    return str(python.absolute()) if python.exists() else None


def ours(job: Training) -> Side:
    """diffbench, in this process's environment, with its own choice of matrix product."""
    return Side("diffbench", "diffbench_training", sys.executable, job)


def as_shipped(peer: Peer, python: str, job: Training) -> Side:
    """As its users run it."""
    return Side(f"{peer.name}, as shipped", peer.module, python, job)


def tuned(peer: Peer, python: str, job: Training) -> Side:
    """With faster matrix products and an allocator that keeps large blocks."""
    return Side(f"{peer.name}, tuned", peer.module, python, replace(job, matmul=TUNED_MATMUL), ALLOCATOR)
