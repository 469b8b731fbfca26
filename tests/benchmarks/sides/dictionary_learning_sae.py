"""dictionary_learning's BatchTopK trainer, as it ships; the learning rate's schedule is replaced by the job's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # type: ignore[import-not-found]

from benchmarks.jobs import HeldOut, Training
from benchmarks.sides.rows import Batches
from benchmarks.sides.schedule import schedule


class Sae:
    """One trainer and its batches."""

    def __init__(self, job: Training, forget_peak: Callable[[], None]) -> None:
        self._job, self._batches, self._step = job, Batches(job), 0
        first = self._batches.mixture.batch(0, job.shape.batch)
        forget_peak()
        self._trainer = BatchTopKTrainer(
            steps=job.steps,
            activation_dim=job.shape.width,
            dict_size=job.shape.latents,
            k=job.shape.k,
            layer=0,
            lm_name="none",
            lr=job.lr,
            warmup_steps=0,
            threshold_beta=0.99,
            threshold_start_step=int(job.learn_threshold * job.steps),
            seed=job.seed,
            device=job.device,
        )
        self._trainer.dead_feature_threshold = job.dead_after
        self._trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(self._trainer.optimizer, schedule(job))
        if job.write_start is not None:
            ae = self._trainer.ae
            np.savez(
                job.write_start,
                encoder=ae.encoder.weight.detach().cpu().numpy(),
                encoder_bias=ae.encoder.bias.detach().cpu().numpy(),
                decoder=ae.decoder.weight.detach().cpu().T.contiguous().numpy(),
                # The first update sets it so.
                bias=self._trainer.geometric_median(first).cpu().numpy(),
            )

    def feed(self) -> None:
        self._x = self._batches.next().to(self._job.device)

    def step(self) -> float:
        loss = float(self._trainer.update(self._step, self._x))
        self._step += 1
        return loss

    @torch.no_grad()
    def held_out(self) -> HeldOut:
        x, ae = self._batches.held_out().to(self._job.device), self._trainer.ae
        by: dict[bool, tuple[float, float]] = {}
        for threshold in (True, False):
            error = l0 = 0.0
            parts = x.split(self._job.shape.batch)
            for part in parts:
                f = ae.encode(part, use_threshold=threshold)
                error += float((part - ae.decode(f)).pow(2).sum()) / len(x)
                l0 += float((f > 0).sum()) / len(x)
            by[threshold] = (error, l0)
        return HeldOut(*by[True], *by[False], total=float(x.pow(2).sum(dim=1).mean()))

    def facts(self) -> dict[str, float | str]:
        return {
            "data": self._batches.mixture.checksum(),
            "library": f"dictionary-learning {version('dictionary-learning')}",
        }


def build(job: Training, forget_peak: Callable[[], None]) -> Sae:
    """Its `Work`."""
    return Sae(job, forget_peak)
