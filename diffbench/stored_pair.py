"""Stored pair: the pair that a stored cell is about, as it is today, if it is still the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from diffbench import cache
from diffbench.build import MODEL, Organism, resolve
from diffbench.canonical import file_digest
from diffbench.catalogue import find_organism
from diffbench.comparison import Comparison, HarvestDtype
from diffbench.errors import DiffbenchError, RecordError
from diffbench.own_pair import OwnPair
from diffbench.run_folder import RunFile
from diffbench.stored_cell import Handling, StoredCell
from diffbench.tier import find_tier

SHOWN = 12
"""Digits of a hash that a message names."""


class Pairs:
    """The pairs of a run as they are today, found by what its run file says, by name, or by what the caller names."""

    def __init__(self, file: RunFile, named: Sequence[Organism] = ()) -> None:
        self._config = file.config
        self._organisms = {organism.recipe.name: organism for organism in (*self._of_run(), *named)}
        self._known: dict[tuple[object, ...], Comparison] = {}

    def comparison(self, stored: StoredCell) -> Comparison:
        """The comparison that a cell is about.

        Raises:
            DiffbenchError: if its organism or tier is not there, or the models are others.
        """
        cell, tier = stored.cell, find_tier(stored.cell.tier)
        if (stored.budget.tokens, stored.budget.components) != (tier.tokens, tier.components):
            raise RecordError(
                f"tier {tier.name} allowed {stored.budget.tokens} tokens and {stored.budget.components} components "
                f"then, and {tier.tokens} and {tier.components} now; run the method again"
            )
        organism = self._organism(cell.organism)
        if cell.reference == "control" and not organism.has_control:
            raise RecordError(f"organism {cell.organism} has no control any more")
        handling = stored.handling
        found = [
            self._known.setdefault(
                (cell.organism, cell.reference, tier.name, handling.layer, dtype, handling.streaming),
                Comparison(organism, cell.reference, tier, handling.layer, dtype, handling.streaming),
            )
            for dtype in self._dtypes(handling)
        ]
        asked = next((one for one in found if one.key == stored.hashes.pair), found[0])
        for role, then, now in _models(stored, asked):
            if then != now and cache.held(MODEL, then) is None:
                raise _another(role, then, now)
        return asked

    def _dtypes(self, handling: Handling) -> list[HarvestDtype]:
        """What the precision may have been asked for as: a record says what it came to."""
        asked = self._config.get("harvest_dtype")
        return ["auto", handling.harvest_dtype] if asked == "auto" else [handling.harvest_dtype, "auto"]

    def _organism(self, name: str) -> Organism:
        if name not in self._organisms:
            if os.sep in name or name.endswith((".yaml", ".yml")):
                raise RecordError("its organism has the name of a file")
            try:
                self._organisms[name] = find_organism(name)
            except DiffbenchError as error:
                raise RecordError(f"{error}; name its recipe with --organism") from None
        return self._organisms[name]

    def _of_run(self) -> Iterator[Organism]:
        """What the run's last command named, as far as it can be found here."""
        names, seeds = self._config.get("organisms"), self._config.get("organism_seeds")
        for name in names if isinstance(names, list) else ():
            try:
                organism = find_organism(str(name))
                yield organism
                for seed in seeds if isinstance(seeds, list) else ():
                    yield resolve(organism.recipe.seeded(int(seed)))
            except (DiffbenchError, ValueError):
                continue
        if isinstance(self._config.get("pair"), dict):
            try:
                yield resolve(OwnPair.model_validate(self._config["pair"]).recipe())
            except (DiffbenchError, ValidationError):
                return


def _models(stored: StoredCell, comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """Role, hash then and hash now of each model of the pair."""
    organism = comparison.organism
    yield "base", stored.hashes.base, organism.base.key()
    yield comparison.reference, stored.hashes.reference_model, organism.model_key(comparison.reference)
    yield "tuned", stored.hashes.tuned_model, organism.model_key("tuned")


def check_weights(stored: StoredCell, comparison: Comparison) -> None:
    """Compare a built pair's models with those of then, by their files where other code or libraries made them.

    Raises:
        RecordError: if they are others.
    """
    for role, then, now in _models(stored, comparison):
        if then == now:
            continue
        kept = cache.held(MODEL, then)
        if kept is None or _digests(kept / "model") != _digests(comparison.organism.model_path(role)):
            raise _another(role, then, now)


def check_layer(stored: StoredCell, comparison: Comparison) -> None:
    """Compare the layer of a prepared pair with that of then, which the rule may choose otherwise today.

    Raises:
        RecordError: if it is another one.
    """
    now = comparison.facts().layer
    if now != stored.layer:
        raise RecordError(
            f"its layer was {stored.layer}, and the rule chooses {now} of the same pair today: its components could "
            "not be scored there; run the method again"
        )


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _another(role: str, then: str, now: str) -> RecordError:
    return RecordError(
        f"its {role} model ({then[:SHOWN]}) is not the one that is made here today ({now[:SHOWN]}): another recipe, "
        "other code that trains, or other libraries; run the method again"
    )
