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
    """One recipe that came with a family or by itself, readable or not.

    Attributes:
        family: the family's name; None: the recipe names none.
    """

    name: str
    path: Path
    recipe: Recipe | None
    family: str | None
    error: str | None = None

    @property
    def installed(self) -> bool:
        """Whether it can be built from what is installed: its base is no checkpoint that must be there already."""
        return self.recipe is not None and self.error is None and "/" not in self.recipe.base


def catalogue() -> list[Entry]:
    """Every recipe of every plugin, in order of name; a broken one is an entry with its error."""
    entries: list[Entry] = []
    for family in load_plugins().families.values():
        try:
            paths = [Path(path) for path in family().recipes()]
        except Exception as error:
            entries.append(Entry(family.name, Path(), None, family.name, f"family {family.name}: {error_line(error)}"))
            continue
        entries += [_entry(path, family) for path in paths]
    entries += [_entry(path, None) for path in load_plugins().recipes]
    return sorted(entries, key=lambda entry: (entry.name, str(entry.path)))


def find_organism(name_or_path: str) -> Organism:
    """The organism of that name, or of the recipe in that file or folder; NAME@SEED is one of another seed.

    Anything with a path separator or a YAML suffix is a path.

    Raises:
        UnknownName: with the nearest names.
        RecipeError: if the recipe is broken or its name is taken twice.
        PluginError: if its family or base cannot be used.
    """
    if os.sep in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        path = path / "recipe.yaml" if path.is_dir() else path
        recipe = read_recipe(path)
        try:
            return resolve(recipe)
        except (RecipeError, UnknownName) as error:
            raise RecipeError(f"{path}: {error}") from None
    name, at, seed = name_or_path.partition("@")
    if at:
        if not seed.isdecimal() or int(seed) >= 1 << 62:
            raise UnknownName("organism", name_or_path, (), "write NAME@SEED with a whole number below 2^62")
        return resolve(find_organism(name).recipe.seeded(int(seed)))
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


def _entry(path: Path, family: type[Family] | None) -> Entry:
    came_with = None if family is None else family.name
    try:
        recipe = read_recipe(path)
    except DiffbenchError as error:
        name = path.stem if path.stem != "recipe" else path.parent.name
        return Entry(name, path, None, came_with, str(error))
    try:
        if came_with is not None and recipe.family != came_with:
            raise RecipeError(f"{path}: family: is {recipe.family!r}, but the recipe came with {came_with!r}")
        resolve(recipe)
    except DiffbenchError as error:
        return Entry(recipe.name, path, recipe, recipe.family, str(error))
    return Entry(recipe.name, path, recipe, recipe.family)
