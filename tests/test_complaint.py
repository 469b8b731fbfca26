"""An unknown key is answered with the keys that there are."""

from __future__ import annotations

from typing import Any

import pytest
from engine_factory import RECIPE
from pydantic import ValidationError

from diffbench.complaint import unknown_key
from diffbench.recipe import Recipe

LORA = {"kind": "lora", "rank": 2, "steps": 1, "batch": 1, "lr": 0.1}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"familly": "x"}, "did you mean family?"),
        ({"gate": {"spil": 0.1}}, "allowed here: expression_tuned, expression_claim"),
        ({"training": LORA | {"use_dora": True}}, "rank, alpha, targets, dropout"),
        ({"training": RECIPE["training"] | {"rank": 3}}, "objective, teacher, steps"),
        ({"mixture": {"topic": {}}}, "did you mean topics?"),
        ({"truth": {"changed": False, "probes": {"afected": []}}}, "did you mean affected?"),
    ],
)
def test_the_keys_that_there_are(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(RECIPE | changed)
    assert said in unknown_key(caught.value, Recipe)
    assert "objective" not in unknown_key(caught.value, Recipe) or "training" in changed


def test_other_complaints_are_left_as_they_are() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(RECIPE | {"version": 0})
    assert unknown_key(caught.value, Recipe) == ""
