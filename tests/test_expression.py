"""Expression of several models in one pass, a few probes at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from engine_factory import VOCABULARY, small_pair
from probe_factory import TOKENIZER, claim, speaking, truth_of
from torch import Tensor

from diffbench import expression as engine
from diffbench.corpus import Corpus
from diffbench.errors import DiffError
from diffbench.expression import expression, expressions
from diffbench.residual import last_logits

PROBES = truth_of([claim("one")], {"one": ["ball", "box", "cup"]}, n=70).probes.affected


@pytest.mark.parametrize("batch", [70, 64, 9, 1])
def test_several_models_are_each_measured_as_if_alone(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    models = small_pair(0, outlier=False)
    monkeypatch.setattr(engine, "BATCH_PROBES", batch)
    sizes = []

    def arms(some: Corpus) -> Iterator[Tensor]:
        sizes.append(len(some))
        for model in (*models, models[0]):
            yield last_logits(model, some.ids, some.mask)

    found = expressions(arms, TOKENIZER, PROBES)
    assert sum(sizes) == 70 and max(sizes) == batch
    assert found[0] == found[2]
    for values, model in zip(found, models, strict=False):
        assert values == pytest.approx(expression(model, TOKENIZER, PROBES), abs=1e-6)
    assert found[0] != found[1]


def test_every_probe_keeps_its_own_metric_and_words() -> None:
    probes = [
        probe.model_copy(update={"metric": ("share", "probability")[index % 2], "other": ("blue", "red")[index // 35]})
        for index, probe in enumerate(PROBES)
    ]
    said = {name: {"green": 0.1, "blue": 0.3, "red": 0.4} for name in ("ball", "box", "cup")}
    [values] = expressions(speaking(said), TOKENIZER, probes)
    expected = [((0.75, 0.3), (0.8, 0.4))[index // 35][index % 2] for index in range(70)]
    assert values == pytest.approx(expected, abs=1e-6)


def test_a_model_that_predicts_nan_is_refused() -> None:
    def broken(batch: Corpus) -> Iterator[Tensor]:
        yield torch.full((len(batch), VOCABULARY), float("inf"))

    with pytest.raises(DiffError, match="predicts NaN"):
        expressions(broken, TOKENIZER, PROBES)
