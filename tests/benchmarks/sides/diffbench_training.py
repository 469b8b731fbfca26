"""diffbench's trainer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.jobs import HeldOut, Training
from benchmarks.sides.rows import Batches
from diffbench.decoders import row_norms
from diffbench.design import L1, Design, TopK
from diffbench.options import DictionaryOptions
from diffbench.precision import use_fast_matmul
from diffbench.training import Trainer


class Fit:
    """One trainer and its batches; L1 has no threshold, so both held-out numbers are the same there."""

    def __init__(self, job: Training, forget_peak: Callable[[], None]) -> None:
        self._job, self._batches = job, Batches(job)
        self.matmul = use_fast_matmul() if job.matmul is None else job.matmul
        forget_peak()
        self.trainer = trainer(job)
        if job.start is not None:
            with np.load(job.start) as start:
                self._start({name: torch.from_numpy(start[name]) for name in start.files})

    @torch.no_grad()
    def _start(self, weights: dict[str, Tensor]) -> None:
        mine = self.trainer
        [decoder] = mine.decoders.parameters
        for parameter, name in (
            (mine.encoder, "encoder"),
            (mine.encoder_bias, "encoder_bias"),
            (mine.bias, "bias"),
            (decoder, "decoder"),
        ):
            assert parameter.shape == weights[name].shape, name
            parameter.copy_(weights[name])

    def feed(self) -> None:
        self._x = self._batches.next().to(self._job.device)

    def step(self) -> float:
        return float(self.trainer.step(self._x))

    @torch.no_grad()
    def held_out(self) -> HeldOut:
        x, mine = self._batches.held_out().to(self._job.device), self.trainer
        decoder, design = mine.decoders.expand(), mine.design
        norms = row_norms(decoder, design.parts).sum(dim=1)
        by: dict[bool, tuple[float, float]] = {}
        for threshold in (True, False):
            error = l0 = 0.0
            for part in x.split(self._job.shape.batch):
                f = ((part - mine.bias if design.centred else part) @ mine.encoder.T + mine.encoder_bias).relu()
                if isinstance(design.sparsity, TopK):
                    score = f * norms
                    smallest = mine.theta if threshold else _smallest(score, design.sparsity.k)
                    f = f * (score > smallest if threshold else score >= smallest)
                error += float((part - f @ decoder - mine.bias).pow(2).sum()) / len(x)
                l0 += float((f > 0).sum()) / len(x)
            by[threshold] = (error, l0)
        return HeldOut(*by[True], *by[False], total=float(x.pow(2).sum(dim=1).mean()))

    def facts(self) -> dict[str, float | str]:
        return {"data": self._batches.mixture.checksum(), "library": "diffbench", "matmul": self.matmul}


def _smallest(score: Tensor, k: int) -> Tensor:
    return score.flatten().topk(k * len(score), sorted=False).values.min()


def design(job: Training) -> Design:
    """What the job's kind is called here."""
    if job.kind == "crosscoder-l1":
        return Design(target="both", sparsity=L1(job.penalty, 0.0), tying="free", error=job.error)
    sparsity = TopK(k=job.shape.k, dead_after=job.dead_after, aux=1 / 32)
    if job.kind == "crosscoder":
        return Design(target="both", sparsity=sparsity, tying="free", error=job.error)
    return Design(target="delta", sparsity=sparsity, tying="unit", error=job.error)


def trainer(job: Training) -> Trainer:
    """A trainer for the job."""
    options = DictionaryOptions(lr=job.lr, warm_up=job.warm_up, batch=job.shape.batch)
    return Trainer(
        design(job),
        options,
        width=job.shape.width,
        n=job.shape.latents,
        steps=job.steps,
        seed=job.seed,
        device=torch.device(job.device),
    )


def build(job: Training, forget_peak: Callable[[], None]) -> Fit:
    """Its `Work`."""
    return Fit(job, forget_peak)
