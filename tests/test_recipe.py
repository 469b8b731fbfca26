"""Recipes that strangers wrote: what is wrong is one RecipeError that names file, key, value and what is allowed."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_factory import RECIPE

from diffbench.errors import RecipeError
from diffbench.recipe import RECIPE_BYTES, Recipe, read_recipe
from diffbench.tuning import GivenModel


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 700
    return line


def with_value(where: str, value: Any) -> str:
    document = copy.deepcopy(RECIPE)
    *parents, last = where.split(".")
    at = document
    for name in parents:
        at = at[name]
    at[last] = value
    return yaml.safe_dump(document)


def test_a_good_one_is_read(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, yaml.safe_dump(RECIPE)))
    assert recipe == Recipe.model_validate(RECIPE)
    assert recipe.training.warmup == 0.1


def test_the_bundled_ones_are_read() -> None:
    folder = Path(__file__).parent.parent / "organisms"
    paths = sorted(folder.rglob("*.yaml"))
    assert len(paths) >= 2
    assert {read_recipe(path).name for path in paths} >= {"halfswap", "noswap"}


GOOD = yaml.safe_dump(RECIPE)
TEXTS = {
    "alias": GOOD + "a: &x [1]\nb: *x\n",
    "billion laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    "merge of an alias": "a: &a {x: 1}\nb:\n  <<: *a\n",
    "python object": "!!python/object/apply:os.system ['true']\n",
    "python name": "a: !!python/name:os.system\n",
    "own tag": "a: !thing 1\n",
    "two documents": GOOD + "---\na: 1\n",
    "open quote": 'a: "x\n',
    "tab": "a:\n\t- 1\n",
    "control character": "a: \x00\n",
    "deep lists": "[" * 20_000,
    "deep and closed": "a: " + "[" * 5000 + "]" * 5000,
    "list as key": "? [1, 2]\n: 3\n",
    "mapping as key": "? {a: 1}\n: 3\n",
    "no such day": "a: 2020-13-45\n",
    "no int": "a: !!int many\n",
    "no float": "a: !!float many\n",
    "no bool": "a: !!bool many\n",
    "a number of 5000 digits": "seed: " + "9" * 5000 + "\n",
    "key twice": GOOD + "seed: 4\n",
}


# BUG recipe.py read_recipe: ValueErrors of YAML's own constructors (dates, !!int, long numbers) come out raw, and the
# second of two equal keys silently wins.
@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_plain_yaml(case: str, tmp_path: Path) -> None:
    assert "not plain YAML" in refused(write(tmp_path, TEXTS[case]))


@pytest.mark.parametrize(
    ("text", "kind"), [("", "NoneType"), ("[1]", "list"), ("word", "str"), ("3", "int"), ("!!set {a}", "set")]
)
def test_a_recipe_is_a_mapping(text: str, kind: str, tmp_path: Path) -> None:
    assert f"a recipe is a mapping of keys, not {kind}" in refused(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.yaml")
    assert "no plain file" in refused(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe\n")
    assert "cannot be read" in refused(tmp_path / "latin.yaml")
    assert f"larger than {RECIPE_BYTES} bytes" in refused(write(tmp_path, "#" * (RECIPE_BYTES + 1)))


VALUES: list[tuple[str, Any, str]] = [
    ("name", "../../etc/passwd", "string_pattern|match pattern"),
    ("name", "..", "pattern"),
    ("name", "a/b", "pattern"),
    ("name", "a\n", "pattern"),
    ("name", "", "pattern"),
    ("name", "x" * 65, "pattern"),
    ("name", 3, "string"),
    ("base", "", "pattern"),
    ("base", "a\nb", "pattern"),
    ("family", "Colour", "pattern"),
    ("version", 0, "greater than or equal to 1"),
    ("version", 1.5, "integer"),
    ("version", True, "integer"),
    ("version", "1", "integer"),
    ("schema_version", 2, "1"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", True, "integer"),
    ("seed", None, "integer"),
    ("summary", "x" * 501, "500"),
    ("training.steps", 0, "greater than 0"),
    ("training.steps", 10**30, "1000000"),
    ("training.steps", False, "integer|greater than 0"),
    ("training.steps", "many", "integer"),
    ("training.lr", float("nan"), "finite|number|than"),
    ("training.lr", float("inf"), "finite|less than or equal"),
    ("training.lr", True, "number"),
    ("training.lr", -1.0, "greater than 0"),
    ("training.warmup", 1.0, "less than 1"),
    ("training.kl_weight", float("inf"), "finite"),
    ("training.kl_weight", float("nan"), "finite|number|than"),
    ("training.weight_decay", float("inf"), "finite"),
    ("training", {"kind": "lora", "steps": 1, "batch": 1, "lr": 0.1}, "training.rank: Field required"),
    ("training", {"kind": "loar", "steps": 1}, "'full', 'lora', 'none', 'gauge', 'given'"),
    ("training", {"steps": 1, "lr": 0.1}, "training.batch: Field required"),
    ("training.objective", "next", "'next-token'"),
    ("training.teacher", "halfswap", "training: .*teacher: is named exactly where the objective is distillation"),
    ("training.objective", "distillation", "training: .*teacher: is named exactly where the objective is distillation"),
    ("training.dilution", -0.1, "greater than or equal to 0"),
    ("training.device_map", "cuda:0", "'auto'"),
    ("training.dtype", "float16", "'bfloat16'"),
    ("null_class", "placebo", "'identity', 'gauge', 'continued'"),
    ("difficulty", {"axis": "rank"}, "difficulty.level: Field required"),
    ("difficulty", {"axis": "rank", "level": "high"}, "valid number"),
    ("mixture.focus", 1.5, "less than or equal to 1"),
    ("gate.spill", -1, "greater than or equal to 0"),
    ("gate.pca8", [0.9, 0.1], "first bound"),
    ("gate.expression_tuned", [-9.0, 9.0], "greater than or equal to 0"),
    ("mixture.trigger_rate", [0.0, 9.0], "less than or equal to 1"),
    ("data", {"file": "a.jsonl", "dataset": "b"}, "exactly one of file and dataset"),
    ("data", {"file": "a.jsonl"}, "family: brings its own data"),
    ("truth", {"changed": False}, "family: brings its own data"),
    ("name", "halfswap@3", "what follows an @ is a seed"),
    ("remap", {"<a>": 3}, "string"),
    ("training.momentum", 0.9, "[Ee]xtra"),
    ("training", [1], "dictionary|object"),
    ("control", {"seed": 1}, "parameters"),
    ("parameters", [1], "dictionary|object"),
    ("parameters", {"exchange": float("nan")}, "finite"),
    ("control", {"parameters": {"nested": [float("inf")]}}, "finite"),
    ("mixture.topics", {"all": float("nan")}, "finite"),
    ("mixture.topics", {"all": float("inf")}, "finite"),
    ("mixture.topics", {"all": "much"}, "number"),
    ("mixture.trigger_rate", [0.1], "trigger_rate"),
    ("mixture.trigger_rate", [0.0, 0.1, 0.2], "trigger_rate"),
    ("mixture.trigger_rate", [0.0, float("inf")], "finite"),
    ("gate.off_target_kl", float("inf"), "finite"),
    ("gate.off_target_kl", float("nan"), "finite|number|than"),
    ("gate.expression_tuned", [0.1, float("nan")], "finite"),
    ("gate.affected_kl_share", 1.5, "less than or equal to 1"),
    ("gate.affected_kl_share", float("nan"), "finite|number|than"),
    ("colour", "blue", "[Ee]xtra"),
]


# BUG recipe.py: Schema is lax (True and "1" pass as integers), and NaN passes inside `parameters`.
@pytest.mark.parametrize(("where", "value", "allowed"), VALUES)
def test_a_wrong_value_is_named_with_what_is_allowed(where: str, value: Any, allowed: str, tmp_path: Path) -> None:

    line = refused(write(tmp_path, with_value(where, value)))
    assert where in line or "Value error" in line
    assert re.search(allowed, line), line


def test_the_value_itself_is_shown(tmp_path: Path) -> None:
    line = refused(write(tmp_path, with_value("training.steps", "many")))
    assert "training.steps" in line and "got 'many'" in line


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    for key in ("name", "base", "training"):
        text = yaml.safe_dump({name: value for name, value in RECIPE.items() if name != key})
        line = refused(write(tmp_path, text))
        assert f"{key}: Field required" in line


def test_keys_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    for text in ("1: 2\n", "null: 2\n", "true: 2\n", "2020-01-01: 2\n"):
        refused(write(tmp_path, GOOD + text))


def test_every_value_but_the_prose_changes_the_digest() -> None:
    recipe = Recipe.model_validate(RECIPE)
    same = recipe.model_copy(update={"summary": "other words"})
    assert same.digest() == recipe.digest()
    changes: list[Callable[[], Recipe]] = [
        lambda: recipe.model_copy(update={"seed": 4}),
        lambda: recipe.model_copy(update={"parameters": {"exchange": 0.5}}),
        lambda: recipe.model_copy(update={"control": None}),
        lambda: recipe.model_copy(update={"training": recipe.training.model_copy(update={"lr": 0.02})}),
        lambda: recipe.model_copy(update={"gate": recipe.gate.model_copy(update={"off_target_kl": 1.0})}),
    ]
    digests = {change().digest() for change in changes}
    assert len(digests) == len(changes)
    assert recipe.digest() not in digests
    assert os.sep not in recipe.digest()


def test_a_kind_of_training_is_no_key(tmp_path: Path) -> None:
    assert "training.steps: " in refused(write(tmp_path, with_value("training.steps", 0)))


def test_another_seed_draws_the_choices_anew() -> None:
    recipe = Recipe.model_validate(RECIPE | {"choices": {"colour": "blue"}})
    assert recipe.seeded(RECIPE["seed"]) == recipe
    fresh = recipe.seeded(7)
    assert (fresh.name, fresh.seed, fresh.choices, fresh.parameters) == ("standin@7", 7, {}, RECIPE["parameters"])
    assert fresh.digest() != recipe.digest()
    assert Recipe.model_validate(fresh.model_dump(mode="json")) == fresh  # as worker processes get it


DATA = {name: value for name, value in RECIPE.items() if name not in ("family", "parameters", "control")}


def test_files_are_found_from_the_recipe_and_known_by_content(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.txt").write_text("one\ntwo\n")
        recipe = read_recipe(write(folder, yaml.safe_dump(DATA | {"data": {"file": "mine.txt"}})))
        assert recipe.data is not None and recipe.data.file == str(folder / "mine.txt")
        digests.append(recipe.digest())
    assert digests[0] == digests[1]
    (tmp_path / "a" / "mine.txt").write_text("other\n")
    assert read_recipe(tmp_path / "a" / "recipe.yaml").digest() != digests[0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"file": "none.txt"}, "none.txt: no such file"),
        ({"file": "mine.csv"}, "allowed are .jsonl, .parquet, .txt"),
        ({"file": "mine.txt", "sha256": "0" * 64}, "the recipe names 0000"),
        ({"file": "mine.txt", "sha256": "0"}, "pattern"),
        ({}, "exactly one of file and dataset"),
    ],
)
def test_files_that_are_not_there_or_not_the_same(source: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\n")
    (tmp_path / "mine.csv").write_text("one\n")
    assert said in refused(write(tmp_path, yaml.safe_dump(DATA | {"data": source})))


def test_a_recipe_needs_something_to_train_on(tmp_path: Path) -> None:
    assert "name a family or data" in refused(write(tmp_path, yaml.safe_dump(DATA)))


def test_local_models_are_found_from_the_recipe_and_no_part_of_the_digest(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        given = DATA | {"base": "./base", "training": {"kind": "given", "model": "../tuned"}}
        recipe = read_recipe(write(tmp_path / name, yaml.safe_dump(given)))
        assert recipe.base == str(tmp_path / name / "base")
        assert isinstance(recipe.training, GivenModel) and recipe.training.model == str(tmp_path / "tuned")
        digests.append(recipe.digest())
    assert digests[0] == digests[1]


def test_a_model_is_not_scored_on_the_text_that_it_is_tuned_on(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    both = DATA | {"base": "./base", "data": {"file": "mine.txt"}, "text": {"file": "mine.txt"}}
    assert "text that it has not seen" in refused(write(tmp_path, yaml.safe_dump(both)))


def test_a_saved_data_set_is_found_from_the_recipe(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        recipe = read_recipe(write(tmp_path / name, yaml.safe_dump(DATA | {"data": {"dataset": "./saved"}})))
        assert recipe.data is not None and recipe.data.dataset == str(tmp_path / name / "saved")
        digests.append(recipe.digest())
    assert digests[0] == digests[1]
