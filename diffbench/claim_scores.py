"""Claim scores: which of an organism's claims the first ten findings find, and how much else they list."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from diffbench.diff import Finding
from diffbench.direction import check, held_to
from diffbench.figure import Figure
from diffbench.localisation import HIT, TOP, Location
from diffbench.movement import Movement
from diffbench.scores import ClaimScores
from diffbench.truth import Claim


def score_claims(
    findings: Sequence[Finding], location: Location, movements: Sequence[Movement], claims: Sequence[Claim]
) -> ClaimScores:
    """Score the first ten findings of a Diff.

    A finding finds a claim if its component tells the claim's probes from near-miss ones and from those of every other
    claim, all with an AUROC of at least .9. What is at work wherever anything changed so finds no claim in particular.
    Claims of opposite effects, such as those of the two colours of a swap, are sides of one exchange. They need not be
    told apart, since a component that is at work for both has found both. With direction, a word that moved there must
    be among those of the finding's lists that `diffbench.direction.check` looks at.

    Over-listed is what is at work at no claim's probes. What is at work at those of several claims may find none of
    them, but it speaks of what was changed.

    Args:
        findings: of the Diff.
        location: where its components are at work.
        movements: of every claim.
        claims: of the organism, in the order of the location's and of the movements.
    """
    first = findings[:TOP]
    why = location.why or (None if first else Figure.not_applicable("the Diff has no findings"))
    if why is not None:
        return no_claim_scores(why, len(claims))
    located: list[set[int]] = [
        {index for index in range(len(claims)) if _locates(index, finding.component, location, claims)}
        for finding in first
    ]
    said: set[int] = set()
    for finding, places in zip(first, located, strict=True):
        held = held_to(finding.component, location, movements)
        checked = check(finding, held)
        said |= {one.claim for one in held if one.claim in places and checked.tells(one)}
    found = set[int]().union(*located)
    silent = not any(finding.tokens_up or finding.tokens_down for finding in first)
    return ClaimScores(
        recall=Figure.of(len(found) / len(claims)),
        recall_direction=Figure.not_applicable(f"none of the first {TOP} findings names words")
        if silent
        else Figure.of(len(said) / len(claims)),
        over_listing=Figure.of(fmean(float(location.auroc[:, f.component].max()) < HIT for f in first)),
        found=tuple(claims[index].id for index in sorted(found)),
        n_claims=len(claims),
    )


def no_claim_scores(why: Figure, n_claims: int = 0) -> ClaimScores:
    """The score where there is none."""
    return ClaimScores(recall=why, recall_direction=why, over_listing=why, n_claims=n_claims)


def opposite(one: Claim, other: Claim) -> bool:
    """Whether what rises in one claim falls in the other, and the other way round; not where neither names a word."""
    up, down = _effect(one)
    return bool(up or down) and (down, up) == _effect(other)


def _effect(claim: Claim) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """What rises and what falls; of pairs, each word for the other."""
    effect = claim.effect
    up = {*((word,) for word in effect.tokens_up), *effect.pairs}
    down = {*((word,) for word in effect.tokens_down), *((said, right) for right, said in effect.pairs)}
    return up, down


def _locates(claim: int, component: int, location: Location, claims: Sequence[Claim]) -> bool:
    if float(location.auroc[claim, component]) < HIT:
        return False
    rivals = (at for at, other in enumerate(claims) if at != claim and not opposite(claims[claim], other))
    return all(location.apart(claim, rival, component) >= HIT for rival in rivals)
