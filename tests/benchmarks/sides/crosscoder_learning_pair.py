"""crosscoder_learning's trainers, as they ship; the learning rate's schedule is replaced by the job's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from dictionary_learning.trainers.crosscoder import (  # type: ignore[import-not-found]
    BatchTopKCrossCoderTrainer,
    CrossCoderTrainer,
)
from torch import Tensor

from benchmarks.jobs import HeldOut, Training
from benchmarks.sides.rows import Batches
from benchmarks.sides.schedule import schedule


class Pair:
    """One trainer and its batches; its L1 trainer has no threshold, so both held-out numbers are the same there."""

    def __init__(self, job: Training, forget_peak: Callable[[], None]) -> None:
        self._job, self._batches, self._step = job, Batches(job), 0
        self._topk = job.kind == "crosscoder"
        first = self._view(self._batches.mixture.batch(0, job.shape.batch))
        forget_peak()
        sizes = {"activation_dim": job.shape.width, "dict_size": job.shape.latents, "layer": 0, "lm_name": "none"}
        if self._topk:
            self._trainer = BatchTopKCrossCoderTrainer(
                steps=job.steps,
                k=job.shape.k,
                lr=job.lr,
                warmup_steps=0,
                threshold_beta=0.99,
                threshold_start_step=int(job.learn_threshold * job.steps),
                seed=job.seed,
                device=job.device,
                **sizes,
            )
            self._trainer.dead_feature_threshold = job.dead_after
        else:
            self._trainer = CrossCoderTrainer(
                lr=job.lr,
                l1_penalty=job.penalty,
                warmup_steps=1,
                seed=job.seed,
                device=job.device,
                use_mse_loss=job.error == "squared",
                dict_class_kwargs={"norm_init_scale": 1.0},
                **sizes,
            )
        self._trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(self._trainer.optimizer, schedule(job))
        if job.write_start is not None:
            self._write(job.write_start, first)

    def _view(self, x: Tensor) -> Tensor:
        return x.view(len(x), 2, -1)

    def _write(self, path: str, first: Tensor) -> None:
        ae = self._trainer.ae
        wide = 2 * self._job.shape.width
        bias = self._trainer.geometric_median(first) if self._topk else ae.decoder.bias.detach()
        np.savez(
            path,
            encoder=ae.encoder.weight.detach().cpu().permute(2, 0, 1).reshape(-1, wide).numpy(),
            encoder_bias=ae.encoder.bias.detach().cpu().numpy(),
            decoder=ae.decoder.weight.detach().cpu().permute(1, 0, 2).reshape(-1, wide).numpy(),
            bias=bias.cpu().reshape(-1).numpy(),  # the BatchTopK trainer's first update sets it so
        )

    def feed(self) -> None:
        self._x = self._view(self._batches.next().to(self._job.device))

    def step(self) -> float:
        loss = self._trainer.update(self._step, self._x)
        self._step += 1
        return 0.0 if loss is None else float(loss)

    @torch.no_grad()
    def held_out(self) -> HeldOut:
        x, ae = self._view(self._batches.held_out().to(self._job.device)), self._trainer.ae
        by: dict[bool, tuple[float, float]] = {}
        for threshold in (True, False):
            error = l0 = 0.0
            for part in x.split(self._job.shape.batch):
                f = ae.encode(part, use_threshold=threshold) if self._topk else ae.encode(part)
                error += float((part - ae.decode(f)).pow(2).sum()) / len(x)
                l0 += float((f > 0).sum()) / len(x)
            by[threshold] = (error, l0)
        return HeldOut(*by[True], *by[False], total=float(x.pow(2).sum(dim=(1, 2)).mean()))

    def facts(self) -> dict[str, float | str]:
        library = f"crosscoder_learning {version('dictionary_learning')}"
        return {"data": self._batches.mixture.checksum(), "library": library}


def build(job: Training, forget_peak: Callable[[], None]) -> Pair:
    """Its `Work`."""
    return Pair(job, forget_peak)
