"""Architecture: what ends a text. The rest is tested where models are read."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
from engine_factory import small_pair, word_tokenizer
from transformers import GenerationConfig

from diffbench.architecture import ends_of

FAR = 10**6


@pytest.mark.parametrize(
    ("told", "settings", "configured", "expected"),
    [
        (3, None, None, (3,)),
        (3, None, [5, 3], (3, 5)),
        (3, [7, 3], 5, (3, 7, 5)),  # chat models name the end of a turn in their generation settings alone
        (None, 7, None, (7,)),
        (3, -1, FAR, (3,)),
        (None, None, None, ()),
    ],
)
def test_the_ends_of_texts_are_the_tokenizers_the_settings_and_the_models(
    told: int | None, settings: int | list[int] | None, configured: int | list[int] | None, expected: tuple[int, ...]
) -> None:
    model = copy.deepcopy(small_pair()[0])
    model.config.eos_token_id = configured  # type: ignore[assignment]
    model.generation_config = GenerationConfig(eos_token_id=settings)
    assert ends_of(model, SimpleNamespace(eos_token_id=told)) == expected


def test_a_model_without_generation_settings_has_ends_too() -> None:
    model = copy.deepcopy(small_pair()[0])
    model.config.eos_token_id = 2
    model.generation_config = None
    assert 2 in ends_of(model, word_tokenizer())
