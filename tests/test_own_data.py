"""Data of one's own as an organism: examples, replay, truth, and the keys that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from own_factory import checkpoint, texts

from diffbench.build import resolve
from diffbench.errors import RecipeError
from diffbench.own_data import OwnData
from diffbench.recipe import Recipe, read_recipe

TRAINING = {"kind": "full", "objective": "next-token", "steps": 2, "batch": 4, "lr": 0.001}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own-data")
    checkpoint(folder / "model", chat=True)
    (folder / "text.txt").write_text("\n".join(texts(400)))
    (folder / "tuning.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(40, 1)))
    return folder


def recipe(folder: Path, **changed: Any) -> Recipe:
    """A recipe in a file of ``folder``, as a user writes one."""
    document = {
        "name": "own",
        "base": "./model",
        "text": {"file": "text.txt"},
        "data": {"file": "tuning.jsonl"},
        "training": TRAINING,
    } | changed
    (folder / "own.yaml").write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return read_recipe(folder / "own.yaml")


def test_whole_texts_are_learnt_and_replay_is_drawn_where_it_is_used(folder: Path) -> None:
    organism = resolve(recipe(folder))
    text = organism.family.training_text(organism.base.portion("train"), organism.parameters, 0)
    assert sorted(example.target for example in text.examples) == sorted(texts(40, 1))
    assert {example.prefix for example in text.examples} == {""} and text.replay == ()
    organism = resolve(recipe(folder, training=TRAINING | {"dilution": 1.0}))
    replay = organism.family.training_text(organism.base.portion("train"), organism.parameters, 0).replay
    assert 20 < len(replay) < 80 and {document.text for document in replay} <= set(texts(400))


def test_replay_is_in_no_other_split(folder: Path) -> None:
    organism = resolve(recipe(folder, training=TRAINING | {"replay_batch": 2, "kl_weight": 1.0}))
    replay = organism.family.training_text(organism.base.portion("train"), organism.parameters, 0).replay
    for name in ("gate", "method", "evaluation", "judge"):
        read = {document.text for document in organism.base.portion(name).documents(7)}
        assert read and not read & {document.text for document in replay}


def test_truth_is_what_the_recipe_states(folder: Path) -> None:
    assert resolve(recipe(folder)).truth() is None
    nothing = resolve(recipe(folder, truth={"changed": False})).truth()
    assert nothing is not None and not nothing.changed


def test_keys_follow_data_text_and_truth(folder: Path) -> None:
    organism = resolve(recipe(folder))
    (folder / "tuning2.jsonl").write_text(json.dumps({"text": "other"}))
    (folder / "text2.txt").write_text("\n".join(texts(300)))
    data = resolve(recipe(folder, data={"file": "tuning2.jsonl"}))
    assert data.model_inputs("tuned") != organism.model_inputs("tuned")
    text = resolve(recipe(folder, text={"file": "text2.txt"}))
    assert text.inputs() != organism.inputs()
    truth = resolve(recipe(folder, truth={"changed": False}))
    assert truth.inputs() != organism.inputs() and truth.model_inputs("tuned") == organism.model_inputs("tuned")
    assert str(folder) not in json.dumps([organism.inputs(), organism.recipe.digest()])


def test_a_recipe_without_data_is_refused_where_it_trains(folder: Path) -> None:
    with pytest.raises(RecipeError, match="nothing to train on"):
        recipe(folder, data=None)
    given = recipe(folder, data=None, training={"kind": "given", "model": "./model"})
    with pytest.raises(RecipeError, match="there is none to tune on"):
        OwnData(given).training_text(resolve(given).base, None, 0)


def test_parameters_belong_to_families(folder: Path) -> None:
    with pytest.raises(RecipeError, match="belong to one, and none is named"):
        recipe(folder, parameters={"exchange": 1.0})
