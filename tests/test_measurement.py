"""Measurement: the pair that a fit is measured on."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from engine_factory import LAYERS, small_pair, word_tokenizer
from peft import LoraConfig, get_peft_model
from test_interpolation import by_block, truth

from diffbench.diff_file import save_diff
from diffbench.exchange import DIFF
from diffbench.expression import expression
from diffbench.measurement import Subject, measured
from diffbench.residual import load_model
from diffbench.truth import ProbeSets, Truth

KNOWN = truth("refusal", "identity")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return subject_of(tmp_path, KNOWN)


def subject_of(folder: Path, known: Truth) -> Subject:
    """Whole blocks of a tuned model that is an adapter on the reference itself."""
    base, adapter, fit = (folder / name for name in ("base", "adapter", "fit"))
    small_pair()[0].save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        tuned = get_peft_model(
            copy.deepcopy(small_pair()[0]), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
        )
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.copy_(torch.randn(parameter.shape))
    tuned.save_pretrained(adapter, save_embedding_layers=False)
    (fit / DIFF).mkdir(parents=True)
    save_diff(by_block(), fit / DIFF)
    organism = SimpleNamespace(model_path=lambda role: base)
    pair = SimpleNamespace(models=lambda: (base, adapter), organism=organism, truth=lambda: known)
    return Subject(cast(Any, pair), fit)


def test_weights_of_an_adapter_on_the_reference_can_be_replaced(subject: Subject, tmp_path: Path) -> None:
    readings = measured(subject, ["stitching.spearman", "stitching.depth_identity"])
    assert [reading.error for reading in readings] == [None, None]
    curve, probes = subject.curve, KNOWN.probes.affected
    assert curve is not None and set(curve.claims) == {"refusal", "identity"}
    for at, folder in ((0, tmp_path / "base"), (LAYERS, tmp_path / "adapter")):
        found = expression(load_model(folder, base=tmp_path / "base"), word_tokenizer(), probes)
        of_claim = [value for value, probe in zip(found, probes, strict=True) if probe.claim == "identity"]
        assert curve.claims["identity"][at] == pytest.approx(sum(of_claim) / len(of_claim), abs=1e-5)


def test_without_affected_probes_a_curve_is_undefined(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, KNOWN.model_copy(update={"probes": ProbeSets()}))
    [reading] = measured(subject, ["stitching.spearman"])
    assert reading.figure is not None and reading.figure.state == "undefined"
