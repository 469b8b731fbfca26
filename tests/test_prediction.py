"""What two models expect next, against a loop over single documents in float64."""

from __future__ import annotations

import pytest
import torch
from engine_factory import labelled_corpus
from pair_factory import MODELS, full, moved, open_pair

from diffbench import prediction
from diffbench.corpus import Corpus
from diffbench.pair import ModelPair
from diffbench.prediction import Predictions, spread


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelPair:
    reference = MODELS["llama"]()
    return open_pair(full(tmp_path_factory.mktemp("pair"), reference, moved(reference)))


def by_hand(pair: ModelPair, text: Corpus) -> dict[tuple[int, int], tuple[int, int, float, float]]:
    """(document, position) -> token, the next one, KL, rise."""
    found = {}
    for document in range(len(text)):
        ids = text.ids[document][text.mask[document]]
        every = torch.ones(1, len(ids), dtype=torch.bool)
        log_b, log_t = (
            pair.logits(side, ids[None], every)[0].double().log_softmax(-1)
            for side in ("reference", "tuned")  # type: ignore[arg-type]
        )
        for position in range(1, len(ids) - 1):  # 0 is the BOS
            after = int(ids[position + 1])
            kl = float((log_t[position].exp() * (log_t[position] - log_b[position])).sum())
            rise = float(log_t[position, after] - log_b[position, after])
            found[document, position] = int(ids[position]), after, kl, rise
    return found


def as_table(blocks: list[Predictions]) -> dict[tuple[int, int], tuple[int, int, float, float]]:
    return {
        (int(block.document[i]), int(block.position[i])): (
            int(block.token[i]),
            int(block.following[i]),
            float(block.kl[i]),
            float(block.rise[i]),
        )
        for block in blocks
        for i in range(len(block))
    }


def check(
    found: dict[tuple[int, int], tuple[int, int, float, float]],
    expected: dict[tuple[int, int], tuple[int, int, float, float]],
) -> None:
    assert found.keys() == expected.keys()
    for place, (token, after, kl, rise) in found.items():
        assert (token, after) == expected[place][:2]
        assert (kl, rise) == pytest.approx(expected[place][2:], abs=1e-5)


@pytest.mark.parametrize("positions", [4096, 7])
def test_every_position_as_a_loop_has_it(pair: ModelPair, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "MOST_BYTES", 4 * pair.vocabulary * positions)
    blocks = list(pair.predictions())
    assert max(map(len, blocks)) <= positions
    check(as_table(blocks), by_hand(pair, pair.text()))
    assert all(torch.allclose(block.tuned.exp().sum(dim=1), torch.ones(len(block))) for block in blocks)


def test_some_documents_keep_their_numbers(pair: ModelPair) -> None:
    text = pair.text()
    chosen = spread(text, 150)
    assert 1 < len(chosen) < len(text) and int(chosen[0]) == 0 and int(chosen[-1]) == len(text) - 1
    expected = {place: row for place, row in by_hand(pair, text).items() if place[0] in chosen.tolist()}
    check(as_table(list(pair.predictions(tokens=150))), expected)
    assert 100 < len(expected) < 200


def test_other_documents_may_be_read(pair: ModelPair) -> None:
    text = pair.text()
    documents = [text.ids[index][text.mask[index]].tolist() for index in (4, 2)]
    numbers = {4: 0, 2: 1}
    expected = {
        (numbers[document], position): row
        for (document, position), row in by_hand(pair, text).items()
        if document in numbers
    }
    check(as_table(list(pair.predictions(documents=documents))), expected)


def test_reading_is_charged(pair: ModelPair) -> None:
    before = dict(pair.usage)
    list(pair.predictions())
    assert pair.usage["tokens"] - before.get("tokens", 0) == 2 * int(pair.text().mask.sum())


def test_documents_spread_over_a_text() -> None:
    text = labelled_corpus(400)
    n = int(text.predicts.sum())
    assert spread(text, 10 * n).tolist() == list(range(len(text)))
    assert spread(text, 1).tolist() == [0]
    half = spread(text, n // 2)
    assert len(half) == pytest.approx(len(text) / 2, abs=1) and len(half.unique()) == len(half)


def test_a_text_with_nothing_to_predict() -> None:
    text = labelled_corpus(60)
    nothing = Corpus(text.ids, text.mask, text.counts, torch.zeros_like(text.predicts), text.stratum, text.part)
    assert spread(nothing, 5).tolist() == list(range(len(text)))
    assert list(prediction.predictions(nothing, lambda *_: torch.zeros(1), 10)) == []
