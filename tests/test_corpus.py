"""Strata sit one position before the token they speak of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_factory import TRUTH, labelled_corpus, word_tokenizer
from safetensors.torch import load_file, save_file

from diffbench.corpus import PARTS, STRATA, Corpus, _parts, _strata, tokenise
from diffbench.errors import CacheError
from diffbench.text import Document, Part, Span
from diffbench.truth import Stratum

AFFECTED, NEAR = STRATA.index(Stratum.affected), STRATA.index(Stratum.near_miss)


def corpus_of(*documents: Document, bos: bool = True, max_tokens: int = 1000, max_length: int = 1024) -> Corpus:
    return tokenise(documents, word_tokenizer(bos=bos), TRUTH.stratum, max_tokens=max_tokens, max_length=max_length)


def labelled(text: str, words: str, label: str) -> Document:
    start = text.index(words)
    return Document(text, (Span(start, start + len(words), label),))


@pytest.mark.parametrize("bos", [True, False])
def test_the_position_before_a_token_has_its_stratum(bos: bool) -> None:
    corpus = corpus_of(labelled("anna sees the blue ball", "blue", "colour:blue"), bos=bos)
    expected = [0, 0, AFFECTED, 0, 0]
    assert corpus.stratum.tolist() == [[0] * bos + expected]


def test_a_label_over_several_tokens_marks_the_position_before_each() -> None:
    corpus = corpus_of(labelled("anna sees the blue old ball today", "blue old ball", "colour:blue"), bos=False)
    assert corpus.stratum.tolist() == [[0, 0, 1, 1, 1, 0, 0]]


def test_a_label_at_the_start_is_read_at_bos_which_does_not_count_or_nowhere() -> None:
    document = labelled("blue ball today", "blue", "colour:blue")
    with_bos = corpus_of(document)
    assert with_bos.stratum.tolist() == [[AFFECTED, 0, 0, 0]]
    assert with_bos.predicts.tolist() == [[False, True, True, False]]
    assert corpus_of(document, bos=False).stratum.tolist() == [[0, 0, 0]]


def test_neighbouring_labels_do_not_spill_over() -> None:
    text = "the red blue hat"
    spans = (Span(4, 7, "colour:red"), Span(8, 12, "colour:blue"))
    assert corpus_of(Document(text, spans), bos=False).stratum.tolist() == [[NEAR, AFFECTED, 0, 0]]


def test_tokens_that_touch_a_label_are_not_in_it() -> None:
    document = Document("xblue.", (Span(1, 5, "colour:blue"),))
    offsets = [(0, 0), (0, 1), (1, 3), (3, 5), (5, 6)]
    assert _strata(document, offsets, TRUTH.stratum) == [0, AFFECTED, AFFECTED, 0, 0]


def test_bos_pads_and_the_last_position_do_not_predict() -> None:
    corpus = corpus_of(Document("anna sees the ball"), Document("ben"))
    assert corpus.mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert corpus.counts.tolist() == [[False, True, True, True, True], [False, True, False, False, False]]
    assert corpus.predicts.tolist() == [[False, True, True, True, False], [False] * 5]
    without = corpus_of(Document("anna sees"), bos=False)
    assert (without.counts.tolist(), without.predicts.tolist()) == ([[True, True]], [[True, False]])


def test_a_cut_document_ends_without_predicting_and_without_the_labels_behind_the_cut() -> None:
    corpus = corpus_of(labelled("anna sees the blue ball", "blue", "colour:blue"), max_length=4)
    assert corpus.ids.shape == (1, 4)
    assert corpus.stratum.tolist() == [[0, 0, 0, 0]]
    assert corpus.predicts.tolist() == [[False, True, True, False]]


# BUG corpus.py _pad: a document without tokens marks the pads of its row as predicting.
def test_an_empty_document_predicts_nothing() -> None:
    corpus = corpus_of(Document("anna sees the ball"), Document(""), bos=False)
    assert not (corpus.predicts & ~corpus.counts).any()


def test_collecting_stops_at_the_budget_with_the_last_document_whole() -> None:
    texts = [Document("anna sees the ball")] * 10
    corpus = corpus_of(*texts, max_tokens=9)
    assert len(corpus) == 3
    assert corpus.n_tokens == 12
    assert corpus_of(*texts, max_tokens=8).n_tokens == 8


def test_endless_documents_end() -> None:
    assert labelled_corpus(50).n_tokens >= 50


def test_batches_cover_every_document_once_and_cut_to_the_longest() -> None:
    corpus = labelled_corpus(300)
    ids = [row[mask].tolist() for _, part in corpus.batches(4) for row, mask in zip(part.ids, part.mask, strict=True)]
    assert ids == [row[mask].tolist() for row, mask in zip(corpus.ids, corpus.mask, strict=True)]
    assert all(part.mask.any(dim=0).all() for _, part in corpus.batches(4))
    assert [start for start, _ in corpus.batches(4)] == list(range(0, len(corpus), 4))


def test_saved_without_labels_for_a_method(tmp_path: Path) -> None:
    corpus = labelled_corpus()
    assert corpus.stratum.any()
    corpus.save(tmp_path / "labelled", labelled=True)
    corpus.save(tmp_path / "blind", labelled=False)
    whole, blind = Corpus.load(tmp_path / "labelled"), Corpus.load(tmp_path / "blind")
    for name in Corpus.__slots__:
        assert torch.equal(getattr(whole, name), getattr(corpus, name))
    assert not blind.stratum.any()
    assert torch.equal(blind.ids, corpus.ids)


def conversation() -> Document:
    text = "anna sees the ball . ben likes it"
    cuts = ((0, 5, Part.template), (5, 18, Part.prompt), (18, 25, Part.template), (25, 33, Part.response))
    return Document(text, parts=tuple(Span(start, end, part) for start, end, part in cuts))


@pytest.mark.parametrize("bos", [True, False])
def test_a_token_has_the_part_that_it_is_in_itself(bos: bool) -> None:
    corpus = corpus_of(conversation(), Document("anna sees the ball"), bos=bos)
    names = [[PARTS[code].value[0] for code in row] for row in corpus.part.tolist()]
    assert names[0] == list("t" * bos + "tppp" + "tt" + "rr")
    assert set(names[1]) == {"n"}


def test_a_token_over_two_parts_is_in_the_one_with_more_of_it() -> None:
    document = Document("abcdef", parts=(Span(0, 2, Part.prompt), Span(2, 6, Part.response)))
    offsets = [(0, 0), (0, 3), (1, 4), (3, 6)]
    assert [PARTS[code] for code in _parts(document, offsets)] == [
        Part.template,
        Part.prompt,
        Part.response,
        Part.response,
    ]


def test_methods_are_told_parts_and_old_files_have_none(tmp_path: Path) -> None:
    corpus = corpus_of(conversation())
    corpus.save(tmp_path / "blind", labelled=False)
    assert torch.equal(Corpus.load(tmp_path / "blind").part, corpus.part)
    old = load_file(tmp_path / "blind")
    del old["part"]
    save_file(old, tmp_path / "old")
    assert not Corpus.load(tmp_path / "old").part.any()


def test_a_text_that_begins_with_the_bos_gets_no_second_one() -> None:
    corpus = corpus_of(Document("<bos> anna sees"), Document("anna sees"))
    assert corpus.ids[0].tolist() == corpus.ids[1].tolist()
    assert corpus.counts.tolist() == [[False, True, True]] * 2


def test_remapped_ids_stand_for_others() -> None:
    tokenizer = word_tokenizer()
    anna, ben = tokenizer.convert_tokens_to_ids(["anna", "ben"])
    corpus = tokenise([Document("anna sees ben")], tokenizer, remap={anna: ben})
    assert corpus.ids[0].tolist() == tokenizer("ben sees ben")["input_ids"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(CacheError, match="no readable corpus"):
        Corpus.load(tmp_path / "x")


def test_without_a_limit_all_documents_are_taken_whole() -> None:
    """A tokenizer may give more tokens than characters, so that no count of characters is a limit."""

    class Splitting:
        bos_token_id, pad_token_id = None, 0

        def __call__(self, text: str, *, truncation: bool, max_length: int | None, **_: object) -> dict[str, object]:
            ids = [1 + ord(character) % 7 for character in text for _ in range(3)]
            offsets = [(index // 3, index // 3 + 1) for index in range(len(ids))]
            cut = max_length if truncation else None
            return {"input_ids": ids[:cut], "offset_mapping": offsets[:cut]}

    documents = [Document("abc"), Document("d"), Document("e" * 2000)]
    found = tokenise(documents, Splitting(), max_length=None)
    assert found.mask.sum(dim=1).tolist() == [9, 3, 6000]
    assert found.last.tolist() == [8, 2, 5999]
    picked = found.rows(torch.tensor([1, 0, 1]))
    assert picked.ids.shape == (3, 9) and torch.equal(picked.ids[0], picked.ids[2])


def test_packed_batches_hold_every_document_once_in_little_room() -> None:
    corpus = labelled_corpus(2000)
    seen: list[int] = []
    lengths: list[int] = []
    for documents, batch in corpus.packed(120):
        assert batch.ids.numel() <= 120
        for name in Corpus.__slots__:
            assert torch.equal(getattr(batch, name), getattr(corpus, name)[documents, : batch.ids.shape[1]])
        seen += documents.tolist()
        lengths.append(int(batch.mask.sum(dim=1).max()))
    assert sorted(seen) == list(range(len(corpus)))
    assert lengths == sorted(lengths, reverse=True)
    whole = sum(batch.ids.numel() for _, batch in corpus.packed(120))
    in_order = sum(batch.ids.numel() for _, batch in corpus.batches(8))
    assert int(corpus.mask.sum()) <= whole < 0.85 * in_order


def test_packed_batches_take_documents_of_any_length() -> None:
    corpus = labelled_corpus(300)
    assert [len(batch) for _, batch in corpus.packed(1)] == [1] * len(corpus)
    corpus.mask[3] = False
    assert 3 not in torch.cat([documents for documents, _ in corpus.packed(60)])


def test_the_tail_holds_as_many_tokens_as_are_asked_for() -> None:
    corpus = labelled_corpus(500)
    for tokens in (1, 7, 60, 499, 500):
        first = corpus.tail(tokens)
        assert int(corpus.counts[first:].sum()) >= tokens
        assert int(corpus.counts[first + 1 :].sum()) < tokens
    assert corpus.tail(corpus.n_tokens) == corpus.tail(10**6) == 0
