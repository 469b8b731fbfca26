"""Catalogue: the organisms there are, found by name or by the path of a recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffbench.build import Organism, resolve
from diffbench.errors import DiffbenchError, RecipeError, UnknownName
from diffbench.line import error_line
from diffbench.plugins import load_plugins
from diffbench.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from diffbench.organism import Family


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipe that came with a family, readable or not."""

    name: str
    path: Path
    recipe: Recipe | None
    family: type[Family]
    error: str | None = None


def catalogue() -> list[Entry]:
    """Every recipe of every installed family, in order of name; a broken one is an entry with its error."""
    entries: list[Entry] = []
    for family in load_plugins().families.values():
        try:
            paths = [Path(path) for path in family().recipes()]
        except Exception as error:
            entries.append(Entry(family.name, Path(), None, family, f"family {family.name}: {error_line(error)}"))
            continue
        entries += [_entry(path, family) for path in paths]
    return sorted(entries, key=lambda entry: (entry.name, str(entry.path)))


def find_organism(name_or_path: str) -> Organism:
    """The organism of that name, or of the recipe in that file or folder.

    Anything with a path separator or a YAML suffix is a path.

    Raises:
        UnknownName: with the nearest names.
        RecipeError: if the recipe is broken or its name is taken twice.
        PluginError: if its family or base cannot be used.
    """
    if os.sep in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        return resolve(read_recipe(path / "recipe.yaml" if path.is_dir() else path))
    entries = catalogue()
    found = [entry for entry in entries if entry.name == name_or_path]
    if not found:
        raise UnknownName("organism", name_or_path, {entry.name for entry in entries}, "see `diffbench organisms list`")
    if len(found) > 1:
        raise RecipeError(f"organism {name_or_path!r} is defined twice: {' and '.join(str(e.path) for e in found)}")
    [entry] = found
    if entry.recipe is None or entry.error is not None:
        raise RecipeError(entry.error or f"{entry.path}: cannot be read")
    return resolve(entry.recipe)


def _entry(path: Path, family: type[Family]) -> Entry:
    try:
        recipe = read_recipe(path)
    except DiffbenchError as error:
        return Entry(path.stem if path.stem != "recipe" else path.parent.name, path, None, family, str(error))
    try:
        if recipe.family != family.name:
            raise RecipeError(f"{path}: family: is {recipe.family!r}, but the recipe came with {family.name!r}")
        resolve(recipe)
    except DiffbenchError as error:
        return Entry(recipe.name, path, recipe, family, str(error))
    return Entry(recipe.name, path, recipe, family)
