"""Probing: what a Diff says of the probes of a Truth, asked once and scored against what is true and what happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffbench.activity import activity
from diffbench.claim_scores import no_claim_scores, score_claims
from diffbench.corpus import Corpus, tokenise
from diffbench.diff import Diff, DirectionDiff, WeightDiff
from diffbench.direction import direct, no_direction
from diffbench.figure import Figure
from diffbench.localisation import Location, ProbeActivity, localise, no_localisation
from diffbench.movement import Movement, movements
from diffbench.residual import Model, last_logits
from diffbench.scores import ClaimScores, Direction, Localisation
from diffbench.seeds import derive
from diffbench.text import Document
from diffbench.truth import Truth


@dataclass(frozen=True, slots=True)
class TruthScores:
    """What needs no edit of a model.

    Attributes:
        location: where components are at work, for the scores that do.
        moved: what really moved, claim by claim.
    """

    localisation: Localisation
    direction: Direction
    claims: ClaimScores
    location: Location
    moved: tuple[Movement, ...]


def probe_activity(diff: Diff, reference: Model, tuned: Model, tokenizer: Any, truth: Truth) -> ProbeActivity:
    """Activity of all components at the last position of each probe.

    Raises:
        DiffError: as `diffbench.activity.activity` does.
    """
    claims = tuple(claim.id for claim in truth.claims)
    sets = [*(truth.probes.of(claim) for claim in claims), truth.probes.near_miss]
    texts = [Document(probe.text) for probes in sets for probe in probes]
    if not texts:
        found = torch.zeros(0, diff.n_components)
    else:
        corpus = tokenise(texts, tokenizer, max_length=None)
        last = torch.arange(corpus.ids.shape[1]) == corpus.last[:, None]
        found = activity(diff, reference, tuned, corpus, last)
    *affected, near_miss = found.split([len(probes) for probes in sets])
    return ProbeActivity(claims, tuple(affected), near_miss, _signed(diff))


def truth_scores(diff: Diff, truth: Truth, reference: Model, tuned: Model, tokenizer: Any, seed: int) -> TruthScores:
    """Score a Diff of a pair in which something was changed on purpose.

    Raises:
        DiffError: as `diffbench.activity.activity` does.
    """

    def pair(batch: Corpus) -> Iterator[Tensor]:
        for model in (reference, tuned):
            yield last_logits(model, batch.ids, batch.mask)

    location = Location.of(probe_activity(diff, reference, tuned, tokenizer, truth))
    moved = movements(truth, tokenizer, pair)
    return TruthScores(
        localisation=localise(location, [f.component for f in diff.findings], derive(seed, "shuffled rankings")),
        direction=direct(diff.findings, location, moved, derive(seed, "shuffled words")),
        claims=score_claims(diff.findings, location, moved, truth.claims),
        location=location,
        moved=moved,
    )


def no_truth_scores(why: Figure) -> tuple[Localisation, Direction, ClaimScores]:
    """The scores of a pair of which no truth is known, or in which nothing was changed on purpose."""
    return no_localisation(why), no_direction(why), no_claim_scores(why)


def _signed(diff: Diff) -> bool:
    """Whether the edit adds a component in either way, as its activity has it."""
    return isinstance(diff, WeightDiff) or (isinstance(diff, DirectionDiff) and diff.constant is None)
