"""Drawn: what a seed chose is kept as it was, and drawn again for whatever it does not follow from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_factory import StandinBase, StandinFamily

from diffbench import cache
from diffbench.base import Base
from diffbench.build import resolve
from diffbench.catalogue import catalogue
from diffbench.drawn import KIND, Draw
from diffbench.recipe import Recipe


class Drawing(StandinFamily):
    """Draws an exchange from the seed, and counts how often."""

    draws = 0

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        type(self).draws += 1
        return parameters.model_copy(update={"exchange": 1 / (seed + 3)})


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Drawing, "draws", 0)
    return Draw(Drawing(), StandinBase(tmp_path / "base"), Drawing.Parameters(), 0, "code")


def test_what_was_kept_is_not_drawn_again(draw: Draw, tmp_path: Path) -> None:
    first = draw.parameters()
    assert Drawing.draws == 1 and not (tmp_path / "cache").exists(), "asking writes nothing"
    draw.keep(first)
    assert draw.parameters() == first == Drawing.Parameters(exchange=1 / 3)
    assert Drawing.draws == 1


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"code": "other"}, {"given": Drawing.Parameters(exchange=0.25)}, {"family": StandinFamily()}],
    ids=lambda changed: next(iter(changed)),
)
def test_anything_else_is_drawn_anew(draw: Draw, changed: dict[str, Any]) -> None:
    draw.keep(draw.parameters())
    fields = {name: getattr(draw, name) for name in Draw.__slots__} | changed
    other = Draw(**fields)
    assert other.parameters() == other.family.draw(other.base, other.given, other.seed)
    assert Drawing.draws == (1 if "family" in changed else 3)


@pytest.mark.parametrize("value", ["much", "0.5"])
def test_what_would_come_back_otherwise_is_not_kept(draw: Draw, value: str) -> None:
    """A copy is not validated: what a family puts into it may be refused, or become something else."""
    drawn = draw.given.model_copy(update={"exchange": value})
    with pytest.warns(UserWarning, match="serializ"):
        draw.keep(drawn)
    assert not (cache.cache_root() / KIND).exists()


def test_a_damaged_entry_is_drawn_anew(draw: Draw) -> None:
    first = draw.parameters()
    draw.keep(first)
    [entry] = (path for path in (cache.cache_root() / KIND).iterdir() if path.is_dir())
    (entry / "parameters.json").write_text("{}")
    assert draw.parameters() == first and Drawing.draws == 2


RECIPES = [pytest.param(entry.recipe, id=entry.name) for entry in catalogue() if entry.installed]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_bundled_organism_comes_back_as_it_was_drawn(recipe: Recipe, tmp_path: Path) -> None:
    """Their families' parameters survive being written as JSON."""
    organism = resolve(recipe)
    organism.keep_parameters()
    again = resolve(recipe)
    assert cache.finished(KIND, again._draw._inputs()) is not None
    drawn = organism.family.draw(organism.base, organism.given, recipe.seed)
    assert again.parameters == drawn
    assert again.parameters.model_dump_json() == drawn.model_dump_json(), "in the order that claims follow"
