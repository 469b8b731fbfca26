"""Strata by hand: who is in which, and that the token that is predicted decides."""

from __future__ import annotations

import torch
from engine_factory import labelled_corpus
from torch import Tensor

from diffbench.corpus import PARTS, STRATA, Corpus
from diffbench.strata import FIRST_TOKENS, NAMES, inside
from diffbench.text import Part
from diffbench.truth import Stratum


def column(table: Tensor, name: str) -> Tensor:
    return table[..., NAMES.index(name)]


def conversation(parts: str, documents: int = 1) -> Corpus:
    """One letter a token: b BOS, t template, p prompt, r response, x plain."""
    codes = {"b": Part.template, "t": Part.template, "p": Part.prompt, "r": Part.response, "x": Part.none}
    length = len(parts)
    counts = torch.ones(documents, length, dtype=torch.bool)
    counts[:, 0] = False
    predicts = counts.clone()
    predicts[:, -1] = False
    return Corpus(
        ids=torch.zeros(documents, length, dtype=torch.long),
        mask=torch.ones(documents, length, dtype=torch.bool),
        counts=counts,
        predicts=predicts,
        stratum=torch.zeros(documents, length, dtype=torch.int8),
        part=torch.tensor([[PARTS.index(codes[letter]) for letter in parts]] * documents, dtype=torch.int8),
    )


def test_the_first_three_divide_all_positions() -> None:
    corpus = labelled_corpus(400)
    table = inside(corpus)
    assert torch.equal(table[..., : len(STRATA)].sum(dim=-1), corpus.predicts.long())
    for stratum in STRATA:
        expected = corpus.predicts & (corpus.stratum == STRATA.index(stratum))
        assert torch.equal(column(table, stratum), expected)
    assert bool(column(table, Stratum.affected).any())
    assert not column(table, "response_start").any() and not column(table, "high_kl").any()


def test_responses_and_template_by_the_token_that_is_predicted() -> None:
    text = "b" + "pp" + "t" + "r" * 12 + "t" + "p" + "t" + "rr" + "t"
    corpus = conversation(text)
    table = inside(corpus)
    start, rest, template = (column(table, name)[0] for name in ("response_start", "response_rest", "template"))
    for at in range(1, len(text) - 1):
        follows = text[at + 1]
        assert bool(template[at]) == (follows == "t")
        assert bool(start[at] | rest[at]) == (follows == "r")
    first = text.index("r" * 12) - 1
    assert start.nonzero().flatten().tolist() == [
        *range(first, first + FIRST_TOKENS),
        *range(len(text) - 4, len(text) - 2),
    ]
    assert rest.nonzero().flatten().tolist() == list(range(first + FIRST_TOKENS, first + 12))
    assert not start[0] and not template[0]  # BOS predicts nothing that counts


def test_the_top_tenth_of_the_positions_by_kl() -> None:
    corpus = labelled_corpus(400)
    kl = torch.rand(corpus.ids.shape, generator=torch.Generator().manual_seed(0)) * corpus.predicts
    kl[~corpus.predicts] = 9.0  # never read
    high = column(inside(corpus, kl), "high_kl")
    n = int(corpus.predicts.sum())
    assert not bool((high & ~corpus.predicts).any())
    assert abs(int(high.sum()) - n / 10) <= 1
    assert float(kl[high].min()) > float(kl[corpus.predicts & ~high].max())
