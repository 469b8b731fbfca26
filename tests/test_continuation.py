"""What a model says after prompts of unequal lengths, many at once, against a loop over single ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pair_factory import MODELS, moved
from transformers import GenerationConfig

from diffbench import continuation
from diffbench.continuation import continued, corpus_of
from diffbench.errors import OptionError
from diffbench.tiny import VOCABULARY

PROMPTS = [[1, 4, 5], [1, 7], [1, 8, 9, 10, 11, 12, 13], [1, 20, 21, 22], [1]]
END = 2


def say(model: Any, prompts: Sequence[Sequence[int]] = PROMPTS, **changed: Any) -> list[list[int]]:
    settings: dict[str, Any] = {"new_tokens": 6, "ends": [END], "known": VOCABULARY} | changed
    return list(continued(model, prompts, **settings))


def greedy_by_hand(model: Any, prompt: Sequence[int], n: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    said = ids[len(prompt) :]
    return said[: said.index(END)] if END in said else said


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("most", [256, 2])
def test_many_prompts_at_once_are_answered_as_one_by_one(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "MOST_PROMPTS", most)
    model = MODELS[kind]()
    expected = [greedy_by_hand(model, prompt, 6) for prompt in PROMPTS]
    assert say(model, sample=False) == expected
    assert len({tuple(answer) for answer in expected}) > 2


@pytest.mark.parametrize("kind", MODELS)
def test_draws_follow_the_whole_distribution(kind: str) -> None:
    """At temperature 1, whatever settings the model's folder brings along."""
    model = MODELS[kind]()
    model.generation_config = GenerationConfig(temperature=0.01, top_k=1, eos_token_id=END)
    kept = model.generation_config
    n, prompt = 4000, [1, 7, 9]
    said = say(model, [prompt, [1]] * n, new_tokens=1, ends=[], seed=4)[::2]
    assert model.generation_config is kept
    expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(torch.tensor(said).flatten(), minlength=VOCABULARY).double()
    z = (counts - n * expected) / (n * expected * (1 - expected)).sqrt()
    assert float(z.abs().max()) < 4.5 and int((counts > 0).sum()) > 10


def test_a_seed_gives_the_same_answers_whatever_was_drawn_before() -> None:
    model = MODELS["llama"]()
    first = say(model, seed=3)
    torch.rand(7)
    state = torch.get_rng_state()
    assert say(model, seed=3) == first != say(model, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    one = say(model)
    assert one != say(model)
    torch.manual_seed(0)
    assert say(model) == one


def test_models_that_draw_with_the_same_noise_part_where_they_differ() -> None:
    model = MODELS["llama"]()
    prompts = [[1, 4 + n % 20] for n in range(400)]
    first = say(model, prompts, seed=1, ends=[])
    assert say(copy.deepcopy(model), prompts, seed=1, ends=[]) == first
    close, far = (say(moved(model, strength), prompts, seed=1, ends=[]) for strength in (0.002, 0.2))
    parted = [sum(one != other for one, other in zip(first, said, strict=True)) for said in (close, far)]
    assert 0 < parted[0] < 100 < 300 < parted[1]


def test_answers_end_at_the_first_end_and_hold_no_nameless_token() -> None:
    model = MODELS["llama"]()
    every = say(model, ends=[], seed=2, new_tokens=20)
    assert all(len(answer) == 20 for answer in every)
    common = max(range(3, VOCABULARY), key=lambda token: sum(answer.count(token) for answer in every))
    ended = say(model, ends=[END, common], seed=2, new_tokens=20)
    assert all(common not in answer and END not in answer for answer in ended)
    assert min(map(len, ended)) < 20
    assert max(max(answer, default=0) for answer in say(model, known=10, seed=2, new_tokens=20)) < 10


def test_prompts_must_leave_room() -> None:
    model = MODELS["llama"]()
    places = model.config.max_position_embeddings
    assert [len(answer) for answer in say(model, [[1] * (places - 2)], ends=[])] == [2]
    for prompts in ([[1] * places], [[1], []]):
        with pytest.raises(OptionError, match=f"prompts: have 1 to {max(map(len, prompts))} tokens; the model has"):
            say(model, prompts)
    assert say(model, []) == []


def test_a_corpus_of_token_ids() -> None:
    corpus = corpus_of([[1, 5, 6], [7, 8, 9, 10], [1]], bos=1)
    assert corpus.ids.tolist() == [[1, 5, 6, 0], [7, 8, 9, 10], [1, 0, 0, 0]]
    assert corpus.mask.sum(dim=1).tolist() == [3, 4, 1]
    assert corpus.counts.int().tolist() == [[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert corpus.predicts.int().tolist() == [[0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert corpus_of([[1, 5]], bos=None).counts.all()
    for documents in ([], [[1], []]):
        with pytest.raises(OptionError, match="documents"):
            corpus_of(documents, bos=1)
