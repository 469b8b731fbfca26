"""The pair of a stored cell as it is today: found wherever it is named, and believed only if it is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from own_factory import checkpoint, texts
from record_factory import record, run_file, write_run
from run_factory import mini_recipe

from diffbench.build import Organism, resolve
from diffbench.catalogue import find_organism
from diffbench.comparison import Comparison
from diffbench.errors import DiffbenchError, RecordError
from diffbench.own_pair import OwnPair
from diffbench.run_folder import RunFile
from diffbench.stored_cell import Handling, StoredCell, stored_cells
from diffbench.stored_pair import Pairs, check_weights
from diffbench.tier import TIERS


def stored(tmp_path: Path, organism: Organism, name: str | None = None, **handling: Any) -> StoredCell:
    """A cell on an organism as it is now."""
    made = record(cell={"organism": organism.recipe.name if name is None else name})
    asked = Handling(**{"layer": None, "harvest_dtype": "float32", "streaming": False} | handling)
    pair = Comparison(organism, "base", TIERS["smoke"], asked.layer, asked.harvest_dtype, asked.streaming)
    hashes = made.hashes.model_copy(
        update={
            "base": organism.base.key(),
            "reference_model": organism.model_key("base"),
            "tuned_model": organism.model_key("tuned"),
            "pair": pair.key,
        }
    )
    write_run(tmp_path / "run", [made.model_copy(update={"hashes": hashes})])
    [(_, cell)] = stored_cells(tmp_path / "run")
    assert isinstance(cell, StoredCell)
    return replace(cell, handling=asked)


def file_of(**config: Any) -> RunFile:
    return run_file().model_copy(update={"config": config})


@pytest.mark.parametrize("name", ["halfswap", "halfswap@7"])
def test_an_organism_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    organism = find_organism(name)
    found = Pairs(file_of()).comparison(stored(tmp_path, organism))
    assert found.organism.recipe == organism.recipe and found.key == Comparison(organism, "base", TIERS["smoke"]).key


def test_a_recipe_is_found_where_the_run_says_and_its_seeds_too(tmp_path: Path) -> None:
    path = mini_recipe(tmp_path, "wombat")
    whole = find_organism(str(path))
    seeded = resolve(whole.recipe.seeded(5))
    config = {"organisms": [str(path), "gone.yaml"], "organism_seeds": [5, 6, "x", -1]}
    for organism in (whole, seeded):
        cell = stored(tmp_path / organism.recipe.name, organism)
        assert Pairs(file_of(**config)).comparison(cell).organism.recipe == organism.recipe
        with pytest.raises(RecordError, match="name its recipe with --organism"):
            Pairs(file_of()).comparison(cell)
        assert Pairs(file_of(), [organism]).comparison(cell).organism is organism


@pytest.mark.parametrize(
    "config", [{"organisms": 3}, {"organisms": [{}]}, {"pair": {"base": 3}}, {"organism_seeds": "x"}]
)
def test_a_run_file_may_say_anything(config: dict[str, Any], tmp_path: Path) -> None:
    assert Pairs(file_of(**config)).comparison(stored(tmp_path, find_organism("halfswap")))


def test_two_models_of_ones_own_are_found_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(texts(50)))
    pair = OwnPair(
        base=str(checkpoint(tmp_path / "a")),
        tuned=str(checkpoint(tmp_path / "b", moved=0.1)),
        text=str(tmp_path / "texts.txt"),
    )
    organism = resolve(pair.recipe())
    cell = stored(tmp_path, organism)
    pairs = Pairs(file_of(pair=pair.model_dump(mode="json")))
    assert pairs.comparison(cell).organism.recipe.name == "a-vs-b"
    checkpoint(tmp_path / "b", moved=0.2)
    with pytest.raises(RecordError, match=r"its tuned model .* is not the one that is made here today"):
        Pairs(file_of(pair=pair.model_dump(mode="json"))).comparison(cell)


@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("config", [{}, {"harvest_dtype": "auto"}, {"harvest_dtype": "bfloat16"}])
def test_precision_layer_and_streaming_are_asked_for_as_then(
    asked: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    """A record says what the precision came to; the key of the pair says what it was asked for as."""
    cell = stored(tmp_path, find_organism("halfswap"), layer=2, harvest_dtype=asked, streaming=True)
    came_to = replace(cell, handling=replace(cell.handling, harvest_dtype="float32" if asked == "auto" else asked))
    found = Pairs(file_of(**config)).comparison(came_to)
    assert (found.layer, found.harvest_dtype, found.streaming) == (2, asked, True)
    assert found.key == cell.hashes.pair


def test_what_is_not_known_is_asked_for_as_the_run_says(tmp_path: Path) -> None:
    """By other code than today's the key tells nothing."""
    cell = stored(tmp_path, find_organism("halfswap"))
    moved = replace(cell, hashes=cell.hashes.model_copy(update={"pair": "0" * 64}))
    assert Pairs(file_of()).comparison(moved).harvest_dtype == "float32"
    assert Pairs(file_of(harvest_dtype="auto")).comparison(moved).harvest_dtype == "auto"


def test_a_control_that_is_gone_is_told(tmp_path: Path) -> None:
    organism = find_organism(str(mini_recipe(tmp_path, "loner", control=None)))
    cell = stored(tmp_path, organism)
    asked = replace(cell, cell=cell.cell.model_copy(update={"reference": "control"}))
    with pytest.raises(RecordError, match="loner has no control any more"):
        Pairs(file_of(), [organism]).comparison(asked)


@pytest.mark.parametrize("name", ["../halfswap", "/etc/passwd", "x.yaml", "halfswap@x", "halfswop", ""])
def test_names_from_a_stranger_are_names_of_organisms(name: str, tmp_path: Path) -> None:
    cell = stored(tmp_path, find_organism("halfswap"), name=name)
    with pytest.raises(DiffbenchError) as caught:
        Pairs(file_of()).comparison(cell)
    assert len(str(caught.value).splitlines()) == 1


def test_equal_keys_need_no_files(tmp_path: Path) -> None:
    organism = find_organism("halfswap")
    check_weights(stored(tmp_path, organism), Comparison(organism, "base", TIERS["smoke"]))
