"""Nulls: nothing is claimed, the text is the base's own and fresh for every seed, and the weights do move."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from diffbench.build import resolve
from diffbench.causal import kl_sums
from diffbench.corpus import tokenise
from diffbench.finetune import Ground, finetune
from diffbench.holdout import Holdout
from diffbench.plugins import find_base, find_family
from diffbench.recipe import Recipe, read_recipe
from diffbench.residual import load_model, load_tokenizer
from diffbench.truth import LEAST_PROBES
from diffbench.tuning import Trained

RECIPES = {path.stem: path for path in find_family("plain-text")().recipes()}


def recipe(name: str, seed: int = 0, **training: Any) -> Recipe:
    found = read_recipe(RECIPES[name]).seeded(seed)
    return found.model_copy(update={"training": found.training.model_copy(update=training)}) if training else found


def test_there_is_a_recipe_for_every_way_of_changing_nothing() -> None:
    assert {name: read_recipe(path).null_class for name, path in RECIPES.items()} == {
        "identity": "identity",
        "gauge": "gauge",
        "continued": "continued",
        "continued-lora": "continued",
    }
    assert all(read_recipe(path).control is None for path in RECIPES.values())


@pytest.mark.parametrize("seed", [0, 1, 59])
@pytest.mark.parametrize("name", ["identity", "continued"])
def test_nothing_is_claimed_and_probes_are_near_no_training_text(name: str, seed: int) -> None:
    organism = resolve(recipe(name, seed))
    truth = organism.truth()
    assert truth is not None and not truth.changed and not truth.claims
    assert not truth.probes.affected and not truth.probes.near_miss
    probes = truth.probes.unrelated
    assert len({probe.text for probe in probes}) == len(probes) >= LEAST_PROBES
    assert all(probe.answer != probe.other for probe in probes)
    tokenizer = load_tokenizer(organism.base.path())
    words = [word for probe in probes for word in (probe.answer, probe.other)]
    assert all(len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1 for word in words)
    trained = Holdout(example.text for example in training(organism))
    assert not any(trained.copies(probe.text) for probe in probes)


def training(organism: Any) -> Any:
    return organism.family.training_text(organism.base, organism.parameters, organism.recipe.seed).examples


def test_every_seed_has_text_of_its_own_and_none_is_held_out_text() -> None:
    texts = [{example.text for example in training(resolve(recipe("continued", seed)))} for seed in (0, 1)]
    assert len(texts[0] & texts[1]) < 0.05 * len(texts[0]), "short documents may be the same by chance"
    organism = resolve(recipe("continued"))
    drawn = organism.family.documents(organism.base, organism.parameters, organism.recipe.mixture, 5)
    held_out = {document.text for document in islice(drawn, 1000)}
    assert len(texts[0] & held_out) < 0.05 * len(held_out)
    assert training(organism) == training(resolve(recipe("continued")))
    assert all(example.prefix == "" for example in training(organism))


@pytest.mark.parametrize("name", ["continued", "continued-lora"])
def test_continued_training_moves_the_weights_and_little_of_what_is_said(name: str, tmp_path: Path) -> None:
    asked = recipe(name, steps=12, batch=8)
    organism, base = resolve(asked), find_base("tinyworld")().path()
    assert isinstance(asked.training, Trained)
    text = organism.family.training_text(organism.base, organism.parameters, 0)
    finetune(Ground(base, "tinyworld"), text, asked.training, 0, tmp_path / "out", lambda phrase, done: None)
    before, after = load_model(base), load_model(tmp_path / "out", base=base)
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    moved = [name for name in old if not torch.equal(old[name], new[name])]
    assert len(moved) == len(old) if name == "continued" else all("proj" in key for key in moved) and moved
    squared = sum(float((new[key] - old[key]).square().sum()) for key in old)
    assert (squared / sum(float(old[key].square().sum()) for key in old)) ** 0.5 > 1e-3
    documents = organism.base.documents(77)
    corpus = tokenise(documents, load_tokenizer(base), max_tokens=2000)
    kl = kl_sums(before, after, corpus, {})["reference"].mean()
    assert kl is not None and 1e-5 < kl < 0.1
