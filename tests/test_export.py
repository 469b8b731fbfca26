"""An exported organism is whole: other tools load it, and its recipe makes it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from engine_factory import RECIPE, StandinBase, StandinFamily
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffbench import build
from diffbench.build import resolve
from diffbench.export import _portable, export
from diffbench.recipe import Recipe, read_recipe
from diffbench.residual import load_model
from diffbench.truth import Truth

LORA = {"kind": "lora", "rank": 2, "steps": 20, "batch": 8, "lr": 0.05}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffbench.own_pair.find_base", lambda name: lambda: StandinBase(tmp_path / "base"))
    monkeypatch.setattr("diffbench.own_pair.find_family", lambda name: StandinFamily)
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "GATE_TOKENS", 300)
    monkeypatch.setattr("diffbench.worker.report", lambda *_: None)


@pytest.mark.parametrize("training", [RECIPE["training"], LORA], ids=["full", "lora"])
def test_models_data_and_truth_are_read_by_other_tools(training: object, installed: None, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPE | {"training": training, "summary": "Blue and green."})
    organism, request = resolve(recipe), {"recipe": recipe.model_dump(mode="json")}
    for role in ("tuned", "control"):
        build.train_task(request | {"role": role})
    build.gate_task(request)
    out = tmp_path / "out"
    out.mkdir()
    export(organism, out)
    for role in ("control", "tuned"):
        adapted = (out / role / "adapter_config.json").exists()
        assert adapted == (training is LORA)
        model = AutoModelForCausalLM.from_pretrained(out / ("base" if adapted else role))
        if adapted:
            model = PeftModel.from_pretrained(model, str(out / role))
        AutoTokenizer.from_pretrained(out / role)
        mine = load_model(organism.model_path(role), base=organism.model_path("base"))
        ids = torch.tensor([[1, 5, 6, 7]])
        torch.testing.assert_close(model(input_ids=ids).logits, mine(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    data = load_from_disk(str(out / "data"))
    text = organism.family.training_text(organism.base, organism.parameters, recipe.seed)
    assert data["tuned"]["target"] == [example.target for example in text.examples]
    assert data["tuned"]["prefix"] == data["control"]["prefix"]
    assert data["tuned"]["target"] != data["control"]["target"]
    assert data["replay"]["text"] == [document.text for document in text.replay]
    assert Truth.model_validate_json((out / "truth.json").read_text()) == organism.truth()
    assert read_recipe(out / "recipe.yaml").digest() == recipe.digest()
    assert "Blue and green." in (out / "README.md").read_text()
    assert str(tmp_path) not in "".join(p.read_text() for p in out.glob("*/*.json")) + (out / "recipe.yaml").read_text()


def test_a_recipe_is_written_without_places_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    document = {key: value for key, value in RECIPE.items() if key not in ("family", "parameters", "control")}
    (tmp_path / "recipe.yaml").write_text(json.dumps(document | {"base": "./model", "data": {"file": "mine.txt"}}))
    recipe, out = read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out"
    out.mkdir()
    plain = _portable(recipe, out)
    assert plain["base"] == "./base" and plain["data"]["file"] == "data-mine.txt"
    assert str(tmp_path) not in json.dumps(plain)
    (out / "recipe.yaml").write_text(json.dumps(plain))
    assert read_recipe(out / "recipe.yaml").digest() == recipe.digest()
