"""Text sampled from two models: half each, the same for the same seed, no text in two portions."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from own_factory import checkpoint

from diffbench import sampled
from diffbench.checkpoint import Place
from diffbench.errors import CheckpointError, RecipeError
from diffbench.sampled import SampledText


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    folder = tmp_path_factory.mktemp("sampled")
    return (
        Place(str(checkpoint(folder / "a"))),
        Place(str(checkpoint(folder / "b", moved=0.5))),
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "ROWS", 8)
    monkeypatch.setattr(sampled, "LONGEST", 24)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))


def read(text: SampledText, n: int) -> list[str]:
    return [document.text for document in islice(text.documents(0, None), n)]


def test_the_same_seed_gives_the_same_texts(
    pair: tuple[Place, Place], fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = read(SampledText(*pair, 0), 40)
    assert len(set(one)) == 40
    assert read(SampledText(*pair, 0), 40) == one
    assert read(SampledText(*pair, 1), 40) != one
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "other"))
    assert read(SampledText(*pair, 0), 40) == one, "sampled anew, and otherwise"


def test_both_models_speak_in_turn(pair: tuple[Place, Place], fresh: None) -> None:
    seed = sampled.derive(0, "sampled", "0")
    both = sampled._Speakers(*pair).say(seed)
    first, second = (set(sampled._Speakers(place, None).say(seed)) for place in pair)
    assert first <= set(both) and len(both) > len(first) + 4
    assert not second & set(both), "the second model's draws are its own: two equal models would not say the same"
    assert read(SampledText(*pair, 0), len(both)) == both


def test_finished_chunks_need_no_model(pair: tuple[Place, Place], fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    one = read(SampledText(*pair, 0), 10)

    def refuse(*_: object) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(sampled._Speakers, "say", refuse)
    assert read(SampledText(*pair, 0), 10) == one


def test_portions_share_no_text(pair: tuple[Place, Place], fresh: None) -> None:
    parts = [set(read(SampledText(*pair, 0).portion(name), 6)) for name in ("gate", "method", "evaluation", "judge")]
    assert all(len(part) == 6 for part in parts)
    assert len(set.union(*parts)) == 24


def test_models_that_repeat_themselves_end(
    pair: tuple[Place, Place], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled._Speakers, "say", lambda self, seed: ["the same again"])
    assert read(SampledText(*pair, 0), 100) == ["the same again"]


def test_texts_end_before_the_end_token_and_short_ones_are_left_out(
    pair: tuple[Place, Place], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("<|endoftext|>" in text for text in read(SampledText(*pair, 0), 30))
    monkeypatch.setattr(sampled, "SHORTEST", 1000)
    assert sampled._Speakers(*pair).say(0) == []


def test_a_generation_config_beside_the_weights_changes_nothing(pair: tuple[Place, Place], tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(pair[0].folder(), folder)
    hostile = {
        "do_sample": True,
        "temperature": 0.01,
        "top_k": 1,
        "num_beams": 3,
        "no_repeat_ngram_size": 1,
        "min_length": 20,
        "stop_strings": ["a"],
        "bad_words_ids": [[5], [6]],
        "begin_suppress_tokens": [7],
        "eos_token_id": list(range(10)),
    }
    (folder / "generation_config.json").write_text(json.dumps(hostile))
    plain, changed = (sampled._Speakers(place, None).say(3) for place in (pair[0], Place(str(folder))))
    assert plain and changed == plain


class _Model:
    """Says what it is told to, and keeps what it was asked."""

    device = "cpu"

    def __init__(self, rows: list[list[int]], **config: Any) -> None:
        self.config = SimpleNamespace(max_position_embeddings=64, **config)
        self._rows = rows

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(weight=torch.zeros(40, 2))

    def generate(self, input_ids: Any, **asked: Any) -> Any:
        self.begun, self.asked = input_ids, asked
        return torch.tensor([[0, *row] for row in self._rows])


class _Tokenizer:
    def __init__(self, bos: int | None, eos: int | None) -> None:
        self.bos_token_id, self.eos_token_id = bos, eos

    def __len__(self) -> int:
        return 40

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


@pytest.mark.parametrize(
    ("bos", "eos", "config", "start"),
    [
        (3, 4, {"bos_token_id": 5, "eos_token_id": 6}, 3),
        (None, 4, {"bos_token_id": 5, "eos_token_id": 6}, 5),
        (None, 4, {"bos_token_id": None, "eos_token_id": 6}, 4),
        (None, None, {"bos_token_id": 99, "eos_token_id": [6]}, 6),
    ],
)
def test_texts_begin_with_the_first_token_there_is(bos: Any, eos: Any, config: Any, start: int) -> None:
    model = _Model([[1] * 10], **config)
    sampled._speaker(model, _Tokenizer(bos, eos))(0)
    assert set(model.begun.flatten().tolist()) == {start}


def test_texts_end_at_every_end_token_of_tokenizer_and_configuration() -> None:
    rows = [[20] * 9 + [end, 21] for end in (4, 6, 7, 22)]
    model = _Model(rows, bos_token_id=5, eos_token_id=[6, 7, 400])
    texts = sampled._speaker(model, _Tokenizer(3, 4))(0)
    assert [len(text.split()) for text in texts] == [9, 9, 9, 11]
    assert model.asked["generation_config"].eos_token_id == [4, 6, 7]


def test_sampling_leaves_the_random_state_alone(pair: tuple[Place, Place]) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    sampled._Speakers(*pair).say(0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_key_names_models_and_seed(pair: tuple[Place, Place]) -> None:
    keys = [SampledText(*pair, 0).key(), SampledText(*pair, 1).key(), SampledText(pair[0], None, 0).key()]
    assert len({str(key) for key in keys}) == 3
    assert SampledText(*pair, 0).portion("method").key() == keys[0]


def test_nothing_is_sampled_to_check(pair: tuple[Place, Place], fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled._Speakers, "say", lambda *_: pytest.fail("sampled"))
    text = SampledText(*pair, 0)
    text.check()
    assert not text.at_hand
    with pytest.raises(CheckpointError, match="no such folder"):
        SampledText(pair[0], Place("/no/such"), 0).check()
    with pytest.raises(RecipeError, match=r"topics 'colours'.*tinyworld"):
        next(text.documents(0, {"colours": 1.0}))
