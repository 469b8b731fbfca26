"""Which cells a run has, and what their keys depend on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_factory import MODULE, NANO, import_path, mini_recipe

from diffbench import cache
from diffbench.build import resolve
from diffbench.comparison import SCORE_CODE, Comparison
from diffbench.errors import OptionError, UnknownName
from diffbench.grid import METHOD_CODE, PlannedCell, plan
from diffbench.plugins import find_judge, find_method, load_plugins
from diffbench.recipe import read_recipe
from diffbench.run_folder import fit_folder_name
from diffbench.tier import Tier

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("hostile")


def comparison(recipe: Path, reference: Any = "base", tier: Tier = NANO, layer: int | None = None) -> Comparison:
    return Comparison(resolve(read_recipe(recipe)), reference, tier, layer)


def cells(recipe: Path, *methods: str, seeds: tuple[int, ...] = (0,), **asked: Any) -> list[PlannedCell]:
    options = asked.pop("options", {})
    return plan([comparison(recipe, **asked)], methods, options, seeds, find_judge("offline"))


def key(recipe: Path, **asked: Any) -> str:
    [cell] = cells(recipe, "hostile", **asked)
    return cell.key


def test_cells_are_all_combinations_in_a_fixed_order(recipe: Path) -> None:
    pairs = [comparison(recipe), comparison(recipe, "control")]
    planned = plan(pairs, ("pca", "hostile", "pca"), {}, (1, 0, 1), find_judge("offline"))
    assert [(c.cell.reference, c.cell.method, c.cell.seed) for c in planned] == [
        (reference, method, seed)
        for reference in ("base", "control")
        for method in ("pca", "hostile")
        for seed in (1, 0)
    ]
    assert len({c.key for c in planned}) == len(planned)


def test_no_method_means_all_that_are_installed(recipe: Path) -> None:
    assert [c.cell.method for c in cells(recipe)] == sorted(load_plugins().methods)


def test_a_cell_says_what_was_passed_and_what_it_came_to(recipe: Path) -> None:
    [cell] = cells(recipe, "pca", options={"pca": {"components": "3"}})
    assert (cell.cell.options_passed, cell.cell.options) == ({"components": "3"}, {"components": 3})
    [cell] = cells(recipe, "hostile")
    assert cell.cell.method_package == "diffbench-plugin-hostile 1.0"
    assert set(cell.cell.access) == cell.method.access and cell.cell.access


def test_the_key_is_the_same_for_the_same_question(recipe: Path, tmp_path: Path) -> None:
    assert key(recipe) == key(recipe) == key(recipe, options={"hostile": {"act": "fine"}})
    reworded = mini_recipe(tmp_path, "quokka", summary="Other words for the same thing.")
    assert key(reworded) == key(recipe)


def changed_version(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(find_method("hostile"), "version", 2)
    return {}


def changed_judge(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(find_judge("offline"), "version", 99)
    return {}


def changed_library(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    versions = cache.libraries() | {"torch": "0.1"}
    patch.setattr(cache, "libraries", lambda: versions)
    return {}


def changed_source(wanted: Any) -> Callable[[pytest.MonkeyPatch], dict[str, Any]]:
    """Other source of a plugin class, or of a group of the engine's modules."""

    def change(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        plugin, code = cache.plugin_version, cache.code_version
        patch.setattr(cache, "plugin_version", lambda cls: "other" if cls.__name__ == wanted else plugin(cls))
        patch.setattr(cache, "code_version", lambda *names: "other" if names == wanted else code(*names))
        return {}

    return change


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], dict[str, Any]]] = {
    "seed": lambda patch: {"seeds": (1,)},
    "option": lambda patch: {"options": {"hostile": {"argument": "x"}}},
    "tier": lambda patch: {"tier": NANO.model_copy(update={"tokens": 1999})},
    "seconds": lambda patch: {"tier": NANO.model_copy(update={"seconds": 61.0})},
    "reference": lambda patch: {"reference": "control"},
    "layer": lambda patch: {"layer": 1},
    "method version": changed_version,
    "judge version": changed_judge,
    "library": changed_library,
    "judge source": changed_source("OfflineJudge"),
    "score source": changed_source(SCORE_CODE),
    "method source": changed_source(METHOD_CODE),
}


NOT_THE_FIT = ("judge version", "judge source", "score source")
"""What changes scores alone: the method need not run again."""


@pytest.mark.parametrize("what", CHANGES)
def test_the_fits_key_changes_with_whatever_can_change_the_diff(
    what: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [before] = cells(recipe, "hostile")
    [after] = cells(recipe, "hostile", **CHANGES[what](monkeypatch))
    assert (after.fit == before.fit) == (what in NOT_THE_FIT)
    assert fit_folder_name(after.cell, after.fit) != fit_folder_name(before.cell, before.fit) or what in NOT_THE_FIT


def test_rankings_share_a_fit_and_have_keys_of_their_own(recipe: Path) -> None:
    rows = ("hostile", "hostile@a", "hostile@b", "hostile@a", "pca")
    planned = cells(recipe, *rows, seeds=(0, 1), options={"hostile": {"act": "fine"}})
    assert [(c.cell.row, c.cell.seed) for c in planned] == [
        (row, seed) for row in ("hostile", "hostile@a", "hostile@b", "pca") for seed in (0, 1)
    ]
    assert {(c.cell.method, c.cell.ranking) for c in planned[2:6]} == {("hostile", "a"), ("hostile", "b")}
    assert len({c.key for c in planned}) == 8 and len({c.fit for c in planned}) == 4
    assert all(c.cell.options["act"] == "fine" for c in planned if c.cell.method == "hostile")
    assert planned[2].key == cells(recipe, "hostile@a")[0].key


@pytest.mark.parametrize("row", ["hostile@", "@a", "@", "hostile@a@b", "hostile@A", "hostile@a-b", "hostile@a\n"])
def test_a_row_of_another_form_is_refused(row: str, recipe: Path) -> None:
    with pytest.raises(OptionError, match=r"write NAME or NAME@COLUMN, for example") as caught:
        cells(recipe, row)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("what", CHANGES)
def test_the_key_changes_with_whatever_can_change_the_answer(
    what: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(recipe)
    assert key(recipe, **CHANGES[what](monkeypatch)) != before


@pytest.mark.parametrize(
    "part", [{"seed": 1}, {"version": 2}, {"parameters": {"exchange": 0.25}}, {"base": "tinyworld"}]
)
def test_the_key_changes_with_the_recipe_where_that_says_something_else(
    part: dict[str, Any], recipe: Path, tmp_path: Path
) -> None:
    other = mini_recipe(tmp_path, "quokka", **part)
    assert (key(other) == key(recipe)) == ("base" in part)


def test_the_key_changes_with_the_source_of_the_method(recipe: Path, hostile: Path) -> None:
    source, before = hostile / f"{MODULE}.py", key(recipe)
    text = source.read_text()
    try:
        source.write_text(text + "\n# another line\n")
        cache.code_version.cache_clear()
        assert key(recipe) != before
    finally:
        source.write_text(text)
        cache.code_version.cache_clear()


def test_the_engines_code_that_a_diff_follows_from_is_in_the_key() -> None:
    needed = "cell pair findings diff diff_file training controls activations residual"
    assert {f"diffbench.{name}" for name in needed.split()} <= set(METHOD_CODE)


def test_wrong_names_and_options_are_refused_before_anything_runs(recipe: Path) -> None:
    with pytest.raises(UnknownName, match="no method named 'hostil'; did you mean hostile"):
        cells(recipe, "hostil")
    with pytest.raises(OptionError, match=r"hostile: no option 'actt'; options: act, argument"):
        cells(recipe, "hostile", options={"hostile": {"actt": "fine"}})
    with pytest.raises(OptionError, match=r"pca: option components: .*got '0'"):
        cells(recipe, "pca", options={"pca": {"components": "0"}})
    with pytest.raises(UnknownName, match=r"no method in this run named 'pca'; .* named in -o pca.components"):
        cells(recipe, "hostile", options={"pca": {"components": "1"}})


def test_planning_imports_no_torch(recipe: Path, hostile: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom test_grid import cells\nfrom diffbench.tier import TIERS\n"
        "assert len(cells(Path(sys.argv[1]), 'pca', tier=TIERS['smoke'])) == 1\nprint('torch' in sys.modules)\n"
    )
    arguments = [sys.executable, "-c", code, str(recipe)]
    environment = os.environ | {"PYTHONPATH": import_path(Path(__file__).parent), "DIFFBENCH_LOAD_PLUGINS": ""}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "False\n", done.stderr
