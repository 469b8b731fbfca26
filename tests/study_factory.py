"""Studies for tests: records of methods over families, organisms, organism seeds and method seeds, drawn from seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from record_factory import figure, record, scores

from diffbench.figure import Figure
from diffbench.record import Record
from diffbench.units import Place, Values

FAMILY_SD, ORGANISM_SD, SEED_SD, METHOD_SD = 0.15, 0.1, 0.08, 0.05
"""Standard deviations of what families, organisms, organism seeds and method seeds add to a score."""


def study(
    methods: Mapping[str, float],
    families: int = 6,
    organisms: int = 2,
    organism_seeds: int = 1,
    method_seeds: int = 1,
    seed: int = 0,
    baselines: Sequence[str] = (),
    **cell: Any,
) -> list[Record]:
    """Records whose lift is the method's own, plus effects of the place that all share, plus the method's own noise."""
    rng = np.random.default_rng(seed)
    found = []
    for family in range(families):
        shared = rng.normal(0, FAMILY_SD)
        for organism in range(organisms):
            for at in range(organism_seeds):
                place = shared + rng.normal(0, ORGANISM_SD)
                for method, mean in methods.items():
                    own = mean + place + rng.normal(0, SEED_SD)
                    found += [
                        record(
                            method,
                            each,
                            scored=scores(own + rng.normal(0, METHOD_SD)),
                            cell={
                                "family": f"family-{family}",
                                "organism": f"organism-{family}-{organism}" + (f"@{at}" if at else ""),
                                "organism_seed": at,
                                "changed": True,
                                "baseline": method in baselines,
                                **cell,
                            },
                        )
                        for each in range(method_seeds)
                    ]
    return found


def nulls(
    method: str, null_class: str, change_scores: Sequence[float | None], verdicts: str = "unchanged", **cell: Any
) -> list[Record]:
    """One null per change score, each at an organism seed of its own; None: there is no score."""
    return [
        record(
            method,
            scored=scores(
                verdict=verdicts,
                change_score=Figure.undefined("no delta") if value is None else figure(value),
            ),
            cell={
                "family": "plain-text",
                "organism": null_class if at == 0 else f"{null_class}@{at}",
                "organism_seed": at,
                "null_class": null_class,
                "changed": False,
                **cell,
            },
        )
        for at, value in enumerate(change_scores)
    ]


@dataclass(frozen=True)
class Drawn:
    """Scores of one row with the true means that they were drawn around.

    Attributes:
        organism: of the last organism, whatever its seed.
        place: of the last organism at its last seed, whatever the method's seed.
    """

    values: Values
    organism: float
    place: float


def drawn(
    rng: np.random.Generator, shape: tuple[int, int, int], organisms: Sequence[int] | None = None, skewed: bool = False
) -> Drawn:
    """One row whose mean over all families that there could be is 0, with effects at every level.

    Args:
        rng: where they are drawn from.
        shape: families, seeds of each organism, method seeds.
        organisms: of each family; one if nothing is passed.
        skewed: families' effects are a beta's instead of a normal's: bounded, with a long tail.
    """
    families, seeds, method_seeds = shape
    effects = (rng.beta(0.6, 2.4, families) - 0.2) * FAMILY_SD / 0.2 if skewed else rng.normal(0, FAMILY_SD, families)
    values: dict[Place, dict[int, float]] = {}
    shared = at = 0.0
    for family in range(families):
        for organism in range(organisms[family] if organisms else 1):
            shared = effects[family] + rng.normal(0, ORGANISM_SD)
            for seed in range(seeds):
                at = shared + rng.normal(0, SEED_SD)
                found = at + rng.normal(0, METHOD_SD, method_seeds)
                values[Place(f"f{family}", f"o{family}.{organism}", seed)] = dict(enumerate(found.tolist()))
    return Drawn(values, shared, at)
