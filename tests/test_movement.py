"""Movement: which words really moved, whatever the vocabulary and however they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_factory import VOCABULARY, small_pair
from probe_factory import TOKENIZER, claim, speaking, truth_of
from torch import Tensor

from diffbench import expression
from diffbench.corpus import Corpus, tokenise
from diffbench.movement import AT_PROBE, LEAST, SHARE_OF_LARGEST, Movement, Word, movements
from diffbench.residual import last_logits
from diffbench.text import Document
from diffbench.truth import ProbeSets


def sizes(words: tuple[Word, ...]) -> dict[str, float]:
    return {one.shown: one.size for one in words}


def test_rises_and_falls_are_means_over_the_probes_in_order_of_size() -> None:
    truth = truth_of([claim("one")], {"one": ["ball", "box"]})
    before = {"ball": {"red": 0.8}, "box": {"red": 0.4, "white": 0.5}}
    after = {"ball": {"red": 0.2, "blue": 0.6}, "box": {"red": 0.1, "white": 0.5, "green": 0.3}}
    [found] = movements(truth, TOKENIZER, speaking(before, after))
    assert sizes(found.up) == pytest.approx({"blue": 0.3, "green": 0.15}, abs=0.01)
    assert sizes(found.down) == pytest.approx({"red": 0.45})
    assert [one.shown for one in found.up] == ["blue", "green"]
    assert found.any and found.words("up") == found.up and found.words("down") == found.down


def test_words_that_are_exchanged_do_both() -> None:
    truth = truth_of([claim("one")], {"one": ["ball", "box"]})
    before = {"ball": {"red": 0.9}, "box": {"blue": 0.9}}
    after = {"ball": {"blue": 0.9}, "box": {"red": 0.9}}
    [found] = movements(truth, TOKENIZER, speaking(before, after))
    assert sizes(found.up) == pytest.approx(sizes(found.down))
    assert sizes(found.up) == pytest.approx({"red": 0.45, "blue": 0.45}, abs=0.01)


def test_little_at_every_probe_little_in_the_mean_and_little_beside_the_largest_do_not_count() -> None:
    ends = ["ball", *["box"] * 9, *["cup"] * 20]
    truth = truth_of([claim("one")], {"one": ends})
    before = {"box": {"white": AT_PROBE - 0.002}, "ball": {"red": 0.0}}
    after = {"box": {"white": 0.0}, "ball": {"red": 0.29}}  # 0.29 at 2 of 60: .0097
    [found] = movements(truth, TOKENIZER, speaking(before, after))
    assert 0.29 / 30 < LEAST
    assert not found.any
    [found] = movements(truth, TOKENIZER, speaking(before, {"ball": {"red": 0.31}}))
    assert sizes(found.up) == pytest.approx({"red": 0.31 / 30})
    # .9 at 20 of 30 is .6, beside which .0103 and even .05 are little.
    after = {"ball": {"red": 0.31}, "box": {"black": 0.19}, "cup": {"blue": 0.9}}
    [found] = movements(truth, TOKENIZER, speaking({}, after))
    assert SHARE_OF_LARGEST * 0.6 > 0.19 * 9 / 30
    assert sizes(found.up) == pytest.approx({"blue": 0.6}, abs=0.02)


def test_a_word_that_the_claim_names_counts_wherever_it_moved_at_all_and_only_there() -> None:
    ends = ["ball", *["box"] * 29]
    told = claim("one", up=["red", "green"], down=["white"], pairs=[("black", "one")])
    truth = truth_of([told], {"one": ends})
    before = {"ball": {"black": 0.2, "green": 0.01}}
    after = {"ball": {"red": 0.08, "one": 0.1, "green": 0.01, "black": 0.01}, "box": {"blue": 0.9}}
    [found] = movements(truth, TOKENIZER, speaking(before, after))
    assert set(sizes(found.up)) == {"blue", "red", "one"}
    assert set(sizes(found.down)) == {"black"}


def test_models_that_say_the_same_move_nothing_and_a_claim_without_probes_neither() -> None:
    truth = truth_of([claim("one"), claim("two")], {"one": ["ball"], "two": ["box"]})
    said = {"ball": {"red": 0.9}}
    assert not any(found.any for found in movements(truth, TOKENIZER, speaking(said, said)))
    empty = truth.model_copy(update={"probes": ProbeSets()})
    assert movements(empty, TOKENIZER, speaking(said, {})) == (Movement("one", (), ()), Movement("two", (), ()))


class Blanks:
    """A tokenizer that writes words with a mark for the blank before them, some of them with and without."""

    unk_token_id, bos_token = 0, "<bos>"
    written = ("<unk>", "<bos>", "<eos>", "red", "\u0120red", "\u0120blue", "\u0120gr", "een")

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)

    def __len__(self) -> int:
        return VOCABULARY

    def __call__(self, text: str, **options: Any) -> Any:
        return {"input_ids": [6, 7]} if text.strip() == "green" else TOKENIZER(text, **options)

    def decode(self, ids: list[int]) -> str:
        return self.written[ids[0]].replace("\u0120", " ") if ids[0] < len(self.written) else "?"

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.written[token] if token < len(self.written) else "?"


def test_tokens_written_alike_are_one_word_with_all_its_names() -> None:
    truth = truth_of([claim("one", up=["green"])], {"one": ["ball"]})

    def pair(batch: Corpus) -> Iterator[Tensor]:
        before, after = torch.full((2, VOCABULARY), 1e-9)
        before[0], after[3:7] = 1.0, torch.tensor([0.2, 0.3, 0.26, 0.24])
        for one in (before, after):
            yield one.log().expand(len(batch), -1)

    [found] = movements(truth, Blanks(), pair)
    assert [one.names for one in found.up] == [
        frozenset({"red", "\u0120red"}),
        frozenset({"blue", "\u0120blue"}),
        frozenset({"gr", "\u0120gr", "green"}),  # the claim's own word, of which this is the first token
    ]
    assert [one.size for one in found.up] == pytest.approx([0.5, 0.26, 0.24], abs=1e-6)


def test_it_is_the_float64_mean_of_a_real_pair_in_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, tuned = small_pair(0, outlier=False)
    truth = truth_of([claim("one")], {"one": ["ball", "box", "red", "near"]})

    def pair(batch: Corpus) -> Iterator[Tensor]:
        for model in (reference, tuned):
            yield last_logits(model, batch.ids, batch.mask)

    up = torch.zeros(VOCABULARY, dtype=torch.float64)
    down = torch.zeros(VOCABULARY, dtype=torch.float64)
    for probe in truth.probes.affected:
        ids = tokenise([Document(probe.text)], TOKENIZER, max_length=None).ids
        p_b, p_t = (model(input_ids=ids).logits[0, -1].double().softmax(-1) for model in (reference, tuned))
        moved = (p_t - p_b) / len(truth.probes.affected)
        up += torch.where(p_t - p_b >= AT_PROBE, moved, 0.0)
        down -= torch.where(p_b - p_t >= AT_PROBE, moved, 0.0)
    for most in (1 << 28, 4 * VOCABULARY * 9):  # batches of 60 and of 3
        monkeypatch.setattr(expression, "MOST_BYTES", most)
        [found] = movements(truth, TOKENIZER, pair)
        for means, words in ((up, found.up), (down, found.down)):
            limit = max(LEAST, SHARE_OF_LARGEST * float(means.max()))
            expected = {TOKENIZER.decode([i]): float(means[i]) for i in range(VOCABULARY) if means[i] >= limit}
            assert expected and sizes(words) == pytest.approx(expected, rel=1e-4)


class Long:
    """A tokenizer of more words."""

    def __init__(self, words: int) -> None:
        self.words = words

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)

    def __call__(self, text: str, **options: Any) -> Any:
        return TOKENIZER(text, **options)

    def __len__(self) -> int:
        return self.words


@pytest.mark.parametrize("words", [50, 32_000, 256_000, 1_000_000])
def test_batches_are_small_enough_for_any_vocabulary(words: int) -> None:
    probes = truth_of([claim("one")], {"one": ["ball"]}, n=200).probes.affected
    sizes = [len(batch) for _, batch in expression.probe_batches(Long(words), probes)]
    assert sum(sizes) == len(probes) and sizes[0] <= expression.BATCH_PROBES
    # Logits are made of each probe at every length that there is in its batch.
    assert 4 * words * sizes[0] ** 2 <= expression.MOST_BYTES
    assert sizes[0] == expression.BATCH_PROBES or 4 * words * (sizes[0] + 1) ** 2 > expression.MOST_BYTES
