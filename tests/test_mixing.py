"""Interleaving, new labels, and probes that are held out."""

from __future__ import annotations

from itertools import cycle, islice

import pytest

from diffbench import mixing
from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.mixing import collect_probes, interleave, relabelled
from diffbench.text import Document, Part, Span
from diffbench.truth import Probe


def document(number: int) -> Document:
    text = f"w{number} a b c d e{number} f g red h"
    start = text.index("red")
    return Document(text, (Span(0, 2, "x:1", "one"), Span(start, start + 3, "colour:red", "two")))


def test_documents_come_at_their_share_in_a_fixed_order() -> None:
    plain, focused = Document("plain"), Document("focused")
    drawn = [list(islice(interleave(cycle([plain]), cycle([focused]), 0.25, seed), 4000)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].count(focused) == pytest.approx(1000, abs=120)
    assert list(islice(interleave(cycle([plain]), iter(()), 0.0, 0), 3)) == [plain] * 3
    assert list(interleave(iter([plain]), iter([focused]), 0.5, 0))[-1] in (plain, focused)  # ends with either


def test_labels_change_and_all_else_stays() -> None:
    before = Document("a b", (Span(0, 1, "x", "one"), Span(2, 3, "y", "two")), (Span(0, 3, Part.prompt),))
    after = relabelled(before, lambda span: "new" if span.about == "two" else None)
    assert after.spans == (Span(0, 1, "x", "one"), Span(2, 3, "new", "two"))
    assert (after.text, after.parts) == (before.text, before.parts)


def place(document: Document, span: Span) -> tuple[str, Probe] | None:
    if span.about != "two":
        return None
    name = ("claim", "near_miss", "unrelated")[int(document.text.split()[0][1:]) % 3]
    return name, Probe(text=document.cut(span), answer="red", other="blue", claim="claim" if name == "claim" else None)


def test_probes_are_cut_before_their_span_and_held_out() -> None:
    trained = [document(3).text, document(4).text]
    wanted = {"claim": 5, "near_miss": 4, "unrelated": 3}
    documents = (document(n // 2) for n in range(100))  # each twice
    found = collect_probes(documents, place, wanted, Holdout(trained))
    texts = [probe.text for probe in (*found.affected, *found.near_miss, *found.unrelated)]
    assert (len(found.affected), len(found.near_miss), len(found.unrelated)) == (5, 4, 3)
    assert len(set(texts)) == len(texts) == 12
    assert not any(text in trained_text for text in texts for trained_text in trained)
    assert all(text.endswith("f g") for text in texts)


def test_too_few_probes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "MOST_DOCUMENTS", 40)
    with pytest.raises(RecipeError, match="only 14 of 60 'claim' ones in 40 documents"):
        collect_probes((document(n) for n in range(1000)), place, {"claim": 60}, Holdout([]))


def test_near_misses_of_a_kind_have_a_number_of_their_own() -> None:
    def kinds(document: Document, span: Span) -> tuple[str, Probe] | None:
        placed = place(document, span)
        if placed is None or placed[0] != "near_miss":
            return placed
        return ("near_miss:even" if int(document.text.split()[0][1:]) % 2 else "near_miss:odd"), placed[1]

    wanted = {"claim": 3, "near_miss:even": 4, "near_miss:odd": 2, "unrelated": 1}
    found = collect_probes((document(n) for n in range(100)), kinds, wanted, Holdout([]))
    assert (len(found.affected), len(found.near_miss), len(found.unrelated)) == (3, 6, 1)
