"""Template share: firings on template tokens, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import dictionary_diff, labelled_corpus, small_pair
from planted_latents import worded

from diffbench import template_share
from diffbench.activity import streams
from diffbench.corpus import PARTS, Corpus
from diffbench.dictionary import encode
from diffbench.template_share import LEAST_FIRINGS, firings, template_shares
from diffbench.text import Part


def talk() -> Corpus:
    """Every third token is of the template, pads and BOS among them."""
    corpus = labelled_corpus(400)
    template, response = PARTS.index(Part.template), PARTS.index(Part.response)
    third = (torch.arange(corpus.ids.shape[1]) % 3 == 0).expand_as(corpus.ids)
    return replace(corpus, part=torch.where(third, template, response).to(torch.int8))


def test_firings_against_a_count_over_all_rows() -> None:
    corpus, diff = talk(), dictionary_diff("both", "relu")
    rows = streams(*small_pair(), corpus, corpus.counts, diff.layer)
    fires = encode(diff, rows.h_b, rows.h_t) > 0
    of_template = (corpus.part == PARTS.index(Part.template))[corpus.counts]
    found = firings(diff, *small_pair(), corpus)
    assert found[0].tolist() == fires[of_template].sum(dim=0).tolist()
    assert found[1].tolist() == fires.sum(dim=0).tolist()
    assert 0 < float(found[0].sum()) < float(found[1].sum())


def test_shares_are_means_over_latents_that_fire_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuned-only: 0, 1 and, too rare, 2; shared: 3; 4 is neither."""
    counts = torch.tensor([[10.0, 5.0, 9.0, 2.0, 9.0], [20.0, 20.0, LEAST_FIRINGS - 1, 20.0, 20.0]]).double()
    monkeypatch.setattr(template_share, "firings", lambda *_: (counts[0], counts[1]))
    found = worded([[0.0], [0.0], [0.0], [1.0], [0.7]], [[1.0]] * 5)
    tuned_only, shared = template_shares(found, *small_pair(), talk())
    assert tuned_only.figure is not None and tuned_only.figure.value == pytest.approx((0.5 + 0.25) / 2)
    assert shared.figure is not None and shared.figure.value == pytest.approx(0.1)
    assert (tuned_only.detail, shared.detail) == ("2 latents", "1 latents")


def test_without_such_latents_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.tensor([[10.0], [20.0]]).double()
    monkeypatch.setattr(template_share, "firings", lambda *_: (counts[0], counts[1]))
    tuned_only, shared = template_shares(worded([[1.0]], [[1.0]]), *small_pair(), talk())
    assert tuned_only.figure is not None and tuned_only.figure.state == "undefined"
    assert shared.figure is not None and shared.figure.value == 0.5
