"""What a method process can find out about the organism, the run and the machine: nothing that the answer is in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_factory import Lent, import_path, run, snapshot

from diffbench import cache, exchange, runner, workseal
from diffbench.build import resolve
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
    assert record.timings.confinement.startswith("landlock")


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
    assert record.timings.confinement == "none"
    assert ends["read recipe"] == "worked", "or this test does not test what it says"


def test_large_inputs_cannot_be_changed_through_their_links(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "first", recipe, "nothing")
    before = snapshot(cache.cache_root())
    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    options = {"hostile": {"act": "vandal"}}
    [record] = run(tmp_path / "run", recipe, "hostile", options=options).records
    assert record.status == "ok" and snapshot(cache.cache_root()) == before
