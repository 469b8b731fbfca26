from __future__ import annotations

import pytest
from engine_factory import TRUTH
from pydantic import ValidationError

from diffbench.truth import Claim, Stratum, Truth


@pytest.mark.parametrize(
    ("label", "stratum"),
    [
        ("colour:blue", Stratum.affected),  # near-miss matches it too: affected comes first
        ("colour:red", Stratum.near_miss),
        ("colour:", Stratum.near_miss),
        ("colour", Stratum.unrelated),
        ("colour:bluer", Stratum.near_miss),
        ("thing:blue", Stratum.unrelated),
        ("", Stratum.unrelated),
    ],
)
def test_strata(label: str, stratum: Stratum) -> None:
    assert TRUTH.stratum(label) is stratum


def test_affected_of_any_claim_wins_over_near_miss_of_another() -> None:
    first = TRUTH.claims[0]
    second = first.model_copy(
        update={"id": "b", "trigger": first.trigger.model_copy(update={"affected": ("colour:red",), "near_miss": ()})}
    )
    for claims in ((first, second), (second, first)):
        assert Truth(changed=True, claims=claims).stratum("colour:red") is Stratum.affected


def test_claims_exactly_where_something_changed() -> None:
    with pytest.raises(ValidationError, match="exactly when"):
        Truth(changed=True)
    with pytest.raises(ValidationError, match="exactly when"):
        Truth(changed=False, claims=TRUTH.claims)
    assert Truth(changed=False).stratum("colour:blue") is Stratum.unrelated


def test_closed_and_exact_through_json() -> None:
    assert Truth.model_validate_json(TRUTH.model_dump_json()) == TRUTH
    with pytest.raises(ValidationError):
        Claim.model_validate(TRUTH.claims[0].model_dump() | {"extra": 1})
    with pytest.raises(ValidationError):
        Truth.model_validate(TRUTH.model_dump() | {"schema_version": 2})
