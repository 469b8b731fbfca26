"""diffbench's harvest of two models that are in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.jobs import Harvesting
from benchmarks.sides.texts import models, token_ids
from diffbench.corpus import Corpus
from diffbench.harvest import harvest
from diffbench.precision import use_fast_matmul


class Harvest:
    """Two models and a corpus of random documents, of which the first token counts as BOS."""

    def __init__(self, job: Harvesting, forget_peak: Callable[[], None]) -> None:
        self.matmul = use_fast_matmul() if job.matmul is None else job.matmul
        forget_peak()
        self._job, self._index = job, 0
        self._models = models(job, "eager")

    def feed(self) -> None:
        ids = token_ids(self._job, self._models[0].config.vocab_size, self._index)
        self._index += 1
        mask = torch.ones_like(ids, dtype=torch.bool)
        counts, predicts = mask.clone(), mask.clone()
        counts[:, 0] = False
        predicts[:, 0] = predicts[:, -1] = False
        none = torch.zeros_like(ids, dtype=torch.int8)
        self._corpus = Corpus(ids, mask, counts, predicts, stratum=none, part=none)

    def step(self) -> float:
        reference, tuned = self._models
        found = harvest(reference, tuned, self._corpus, self._job.layer)
        return float(found.load()[1].norm())

    def facts(self) -> dict[str, float | str]:
        total = float(token_ids(self._job, self._models[0].config.vocab_size, 0).sum())
        return {"data": total, "matmul": self.matmul}


def build(job: Harvesting, forget_peak: Callable[[], None]) -> Harvest:
    """Its `Work`."""
    return Harvest(job, forget_peak)
