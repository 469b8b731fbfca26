"""The plain way to activations: a pass of the whole model with ``output_hidden_states=True``, logits and all."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.jobs import Harvesting
from benchmarks.sides.texts import models, token_ids

DOCUMENTS = 16
"""Of one forward pass; with logits, larger batches are slower."""


class Plain:
    """Two models as transformers gives them, no gradients."""

    def __init__(self, job: Harvesting, forget_peak: Callable[[], None]) -> None:
        forget_peak()
        self._job, self._index = job, 0
        self._models = models(job, "sdpa")

    def feed(self) -> None:
        self._ids = token_ids(self._job, self._models[0].config.vocab_size, self._index)
        self._index += 1

    @torch.no_grad()
    def step(self) -> float:
        rows = []
        for ids in self._ids.split(DOCUMENTS):
            streams = [model(input_ids=ids, output_hidden_states=True) for model in self._models]
            rows.append([stream.hidden_states[self._job.layer + 1][:, 1:].flatten(0, 1) for stream in streams])
        base, tuned = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return float((tuned - base).norm())

    def facts(self) -> dict[str, float | str]:
        return {"data": float(token_ids(self._job, self._models[0].config.vocab_size, 0).sum())}


def build(job: Harvesting, forget_peak: Callable[[], None]) -> Plain:
    """Its `Work`."""
    return Plain(job, forget_peak)
