"""What a method process can find out about the organism, the run and the machine: nothing that the answer is in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_factory import Lent, import_path, mini_recipe, run, snapshot

from diffbench import cache, exchange, runner, workseal
from diffbench.build import TRUTH_FILE, Organism, resolve
from diffbench.cell import method_server
from diffbench.comparison import Comparison
from diffbench.diff_file import load_diff
from diffbench.recipe import read_recipe
from diffbench.record import Record
from diffbench.tier import TIERS

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")
locked = pytest.mark.skipif(workseal.landlock_abi() < 1, reason="this kernel has no Landlock: nothing is locked")


def told(folder: Path, recipe: Path, act: str, argument: str = "") -> tuple[Record, Any]:
    """Run an act of the hostile method as a cell of a run, and read what it left in its Diff's notes."""
    [record] = run(folder, recipe, "hostile", options={"hostile": {"act": act, "argument": argument}}).records
    assert record.status == "ok", record.reason
    [diff] = folder.glob("cells/*/diff")
    return record, json.loads(str(load_diff(diff).notes["said"]))


@pytest.fixture
def comparison(recipe: Path) -> Comparison:
    return Comparison(resolve(read_recipe(recipe)), "base", TIERS["nano"])


def secrets(comparison: Comparison, recipe: Path, folder: Path) -> list[str]:
    """Words by which a method could tell where it is."""
    organism = comparison.organism
    keys = [organism.model_key("base"), organism.model_key("tuned"), cache.digest(organism.inputs()), comparison.key]
    names = [organism.recipe.name, organism.recipe.family, organism.recipe.base, "swap"]
    return [*keys, *names, str(recipe), str(recipe.parent), str(folder), str(cache.cache_root() / "models")]


def test_no_byte_of_the_inputs_names_organism_cache_or_path(
    comparison: Comparison, recipe: Path, tmp_path: Path
) -> None:
    run(tmp_path / "run", recipe, "nothing")
    models = [comparison.organism.model_path(name) for name in ("base", "tuned")]
    inputs = exchange.assemble(tmp_path / "in", *models, comparison.path / "in")
    words = [*secrets(comparison, recipe, tmp_path), "/tmp", "/work", "tinyworld", "_name_or_path"]
    for path in inputs.rglob("*"):
        content = str(path.relative_to(inputs)).encode() + (path.read_bytes() if path.is_file() else b"")
        found = [word for word in words if word.encode() in content]
        assert not found, path


def test_the_files_of_the_models_differ_in_their_weights_alone(
    comparison: Comparison, recipe: Path, tmp_path: Path
) -> None:
    """A setting, a size or a version that only the changed model has would tell it from its control."""
    run(tmp_path / "run", recipe, "nothing")
    tuned, control = (snapshot(comparison.organism.model_path(name)) for name in ("tuned", "control"))
    assert len(tuned["model.safetensors"][0]) == len(control["model.safetensors"][0])
    assert tuned.pop("model.safetensors") != control.pop("model.safetensors")
    assert tuned == control


def test_a_process_is_told_nothing_about_the_run(
    comparison: Comparison, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, seen = told(tmp_path / "run", recipe, "spies")
    found = [word for word in secrets(comparison, recipe, tmp_path) if word in json.dumps(seen)]
    assert not found, seen
    assert not [name for name in seen["modules"] if name.startswith("diffbench_organisms")]
    assert not [name for name in seen["environment"] if name.startswith(("DIFFBENCH", "HOSTILE", "OPENAI", "HF_TOKEN"))]


@locked
def test_a_nosy_method_reaches_nothing(comparison: Comparison, recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", recipe, "nothing")
    organism = comparison.organism
    [other] = (tmp_path / "run").glob("cells/*/record.json")
    targets = {
        "recipe": recipe,
        "bundled recipes": Path(str(organism.base.path())).parents[2] / "colours",
        "cache": cache.cache_root(),
        "truth": cache.entry("organisms", organism.inputs()) / "truth.json",
        "tuned model": organism.model_path("tuned"),
        "base model": organism.model_path("base"),
        "labelled text": comparison.path / "evaluation.safetensors",
        "run folder": tmp_path / "run",
        "another record": other,
        "home": Path.home(),
        "tests": Path(__file__),
    }
    before = snapshot(tmp_path / "run")
    record, ends = told(tmp_path / "nosy", recipe, "nosy", json.dumps({k: str(v) for k, v in targets.items()}))
    # Listing the names of installed packages is allowed, and the bundled organisms may be installed beside them.
    reached = {name for name, end in ends.items() if end == "worked"} - {"list base model", "list bundled recipes"}
    assert reached == set(), ends
    assert snapshot(tmp_path / "run") == before
    assert record.timings.sandbox.startswith("landlock")


def hushed(comparison: Comparison, recipe: Path, folder: Path) -> list[str]:
    """Words that say which organism it is, what was changed in it, or where its truth lies."""
    organism, truth = comparison.organism, comparison.truth()
    assert truth is not None and truth.claims
    claims = [part for claim in truth.claims for part in (claim.id, claim.statement)]
    probes = [probe.text for probe in truth.probes.affected[:3]]
    keys = [organism.model_key("tuned"), organism.model_key("control"), cache.digest(organism.inputs()), comparison.key]
    recipe_words = [organism.recipe.name, organism.recipe.family, "expression_tuned:", "plain-text", "exchange: "]
    places = [str(recipe), str(recipe.parent), str(folder), TRUTH_FILE, "/model/model.safetensors"]
    return [*map(str, recipe_words), *claims, *probes, *keys, *places]


def masked(words: list[str]) -> str:
    """The words as the hostile method takes them: in no memory of its process as they are."""
    return json.dumps([bytes(byte ^ 0x55 for byte in word.encode()).hex() for word in words])


def leaks(told: dict[str, Any], words: list[str]) -> dict[str, list[str]]:
    return {
        name: [words[i] for i in channel["found"]] for name, channel in told["channels"].items() if channel["found"]
    }


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini organism whose change is an adapter."""
    training = {"kind": "lora", "rank": 2, "objective": "last-token", "steps": 2, "batch": 4, "lr": 0.01}
    return mini_recipe(tmp_path_factory.mktemp("adapted"), "numbat", training=training)


@pytest.fixture(params=["whole", "adapter"])
def either(request: pytest.FixtureRequest, recipe: Path, adapted: Path) -> Path:
    """An organism that is a whole model, and one that is an adapter."""
    return recipe if request.param == "whole" else adapted


@locked
def test_no_channel_tells_of_the_truth(either: Path, tmp_path: Path) -> None:
    run(tmp_path / "before", either, "nothing")  # a finished run and a full cache are there to be found
    comparison = Comparison(resolve(read_recipe(either)), "base", TIERS["nano"])
    words = hushed(comparison, either, tmp_path)
    record, seen = told(tmp_path / "run", either, "channels", masked(words))
    assert leaks(seen, words) == {}
    assert seen["times"] == [0], "files that were made at different times tell which came first"
    read = {name for name, channel in seen["channels"].items() if channel["bytes"]}
    # These are open, or this test would pass because the method tried nothing.
    assert read >= {"own arguments", "own environment", "objects in memory", "pages of memory", "names of the inputs"}
    assert not read & {
        "arguments of parents",
        "cache",
        "home",
        "installed recipes",
        "source of the organisms",
        "network",
    }
    assert "landlock" in record.timings.sandbox


def test_an_adapters_folder_names_neither_organism_nor_base(adapted: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", adapted, "nothing")
    comparison = Comparison(resolve(read_recipe(adapted)), "control", TIERS["nano"])
    organism = comparison.organism
    paths = [organism.model_path(name) for name in ("control", "tuned")]
    base = organism.model_path("base")
    inputs = exchange.assemble(tmp_path / "in", *paths, comparison_of(organism).path / "in", base=base)
    assert {path.name for path in inputs.iterdir() if path.is_dir()} == {"reference", "tuned", "base_reference"}
    words = [*secrets(comparison, adapted, tmp_path), "/tmp", "/work", "tinyworld", 'name_or_path": "/']
    for path in inputs.rglob("*"):
        content = str(path.relative_to(inputs)).encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [word for word in words if word.encode() in content], path
    tuned, control = (snapshot(inputs / name) for name in ("tuned", "reference"))
    assert tuned.pop("adapter_model.safetensors") != control.pop("adapter_model.safetensors")
    assert tuned == control


def comparison_of(organism: Organism) -> Comparison:
    return Comparison(organism, "base", TIERS["nano"])


THIRD_PARTY = '''"""A family of a stranger, with the truth in its package."""
from diffbench import hookimpl
from diffbench_organisms.colours import ColourSwap
class Wallaby(ColourSwap):
    name = "wallaby"
    summary = "a family of another package"
    def recipes(self):
        return ()
@hookimpl
def diffbench_organisms():
    return [Wallaby]
'''


@pytest.fixture
def wallaby(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A family that comes with another distribution."""
    from diffbench.plugins import load_plugins

    module, info = hostile / "wallaby_plugin.py", hostile / "wallaby_plugin-1.0.dist-info"
    module.write_text(THIRD_PARTY)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wallaby-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diffbench]\nwallaby = wallaby_plugin\n")
    monkeypatch.setenv("DIFFBENCH_LOAD_PLUGINS", "diffbench-plugin-hostile,wallaby-plugin")
    load_plugins.cache_clear()
    yield module
    module.unlink()
    for path in info.iterdir():
        path.unlink()
    info.rmdir()
    load_plugins.cache_clear()


@locked
def test_the_package_of_a_strangers_organism_is_hidden_too(wallaby: Path, recipe: Path, tmp_path: Path) -> None:
    _, ends = told(tmp_path / "run", recipe, "nosy", json.dumps({"family": str(wallaby)}))
    assert ends["read family"] != "worked"


UNLOCKED = """
import diffbench.workseal
diffbench.workseal.landlock_abi = lambda: 0
"""


def test_where_nothing_can_be_locked_the_record_says_none(
    servers: runner.Workers, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNLOCKED)
    monkeypatch.setenv("PYTHONPATH", import_path(tmp_path))
    with method_server() as unlocked:
        both = {"engine": servers.engine(), "methods": unlocked}
        monkeypatch.setattr(
            runner, "Workers", lambda jobs, notify, trusted: Lent(jobs, notify, trusted, servers._stack, both)
        )
        record, ends = told(tmp_path / "run", recipe, "nosy", json.dumps({"recipe": str(recipe)}))
        words = hushed(Comparison(resolve(read_recipe(recipe)), "base", TIERS["nano"]), recipe, tmp_path)
        _, seen = told(tmp_path / "again", recipe, "channels", masked(words))
    assert record.timings.sandbox == "none"
    assert ends["read recipe"] == "worked", "or this test does not test what it says"
    assert {"cache", "installed recipes", "checkout of the engine"} <= leaks(seen, words).keys() | {
        "checkout of the engine"
    }


def test_large_inputs_cannot_be_changed_through_their_links(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached() -> dict[str, tuple[bytes, int]]:
        """All but how long things took, which the engine itself keeps."""
        return {name: held for name, held in snapshot(cache.cache_root()).items() if name != "durations.json"}

    run(tmp_path / "first", recipe, "nothing")
    before = cached()
    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    options = {"hostile": {"act": "vandal"}}
    [record] = run(tmp_path / "run", recipe, "hostile", options=options).records
    assert record.status == "ok" and cached() == before
