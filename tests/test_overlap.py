"""Overlap: known Jaccard indices, chance by enumeration, and sums of activations against a plain loop."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from engine_factory import NAMES, THINGS, VERBS, dictionary_diff, small_pair, word_tokenizer
from planted_latents import single, worded

from diffbench import overlap as module
from diffbench.dictionary import encode
from diffbench.errors import DiffError
from diffbench.overlap import LEAST_TEXTS, Sums, Texts, expected_jaccard, overlap, refusal_overlap, sides
from diffbench.residual import hidden
from diffbench.study import Reading
from diffbench.truth import Claim, Effect, Probe, ProbeSets, Trigger, Truth
from diffbench.worded import Worded


def value(reading: Reading) -> float:
    assert reading.figure is not None and reading.figure.value is not None, reading
    return reading.figure.value


def sums(harmful: str, cannot: str, n: int) -> Sums:
    """Latents, one a character: '+' where the first set has more than the second, '-' less, '.' never fires."""
    signs = {"+": (2.0, 1.0), "-": (1.0, 2.0), "=": (1.0, 1.0), ".": (0.0, 0.0)}
    both = [torch.tensor([signs[each] for each in text], dtype=torch.float64) for text in (harmful, cannot)]
    assert len(harmful) == len(cannot) == n
    return Sums(both[0][:, 0], both[0][:, 1], both[1][:, 0], both[1][:, 1])


@pytest.mark.parametrize(("a", "b", "n"), [(1, 1, 1), (2, 2, 4), (3, 2, 6), (5, 4, 6), (1, 5, 7), (6, 6, 6)])
def test_chance_is_the_mean_over_all_sets(a: int, b: int, n: int) -> None:
    first = set(range(a))
    found = [len(first & set(other)) / len(first | set(other)) for other in combinations(range(n), b)]
    assert expected_jaccard(a, b, n) == pytest.approx(sum(found) / len(found), abs=1e-12)


def test_overlap_is_jaccard_above_chance() -> None:
    found = overlap(sums("++-=-.", "+-+--.", 6))
    assert value(found) == pytest.approx(1 / 3 - expected_jaccard(2, 2, 5))
    assert found.detail == "Jaccard 0.33, by chance 0.30; 2 harmful, 2 cannot, 5 fire"


def test_the_same_latents_overlap_most_and_chance_takes_large_sets_off() -> None:
    assert value(overlap(sums("+---", "+---", 4))) == pytest.approx(1 - expected_jaccard(1, 1, 4))
    assert value(overlap(sums("++++", "++++", 4))) == pytest.approx(0)


@pytest.mark.parametrize(("harmful", "cannot"), [("---", "+--"), ("+--", "-=-"), ("...", "...")])
def test_without_latents_of_one_kind_there_is_no_overlap(harmful: str, cannot: str) -> None:
    figure = overlap(sums(harmful, cannot, 3)).figure
    assert figure is not None and figure.state == "undefined"


def test_triples_fire_on_either_side_with_their_shared_latent() -> None:
    tied = worded([[1.0]] * 6, [[1.0]] * 6, group=True)
    each = torch.tensor([1.0, 10.0, 100.0, 2.0, 20.0, 200.0], dtype=torch.float64)
    base, tuned = sides(tied, Sums(each, 2 * each, 3 * each, 4 * each))
    assert base.harmful.tolist() == [11, 22] and tuned.harmful.tolist() == [101, 202]
    assert base.can.tolist() == [44, 88] and tuned.cannot.tolist() == [303, 606]


def test_the_latents_of_a_pair_belong_to_one_side_each() -> None:
    pair = worded([[1.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]])
    each = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    base, tuned = sides(pair, Sums(each, each, each, each))
    assert (base.harmless.tolist(), tuned.harmless.tolist()) == ([1, 2], [3])


def test_a_dictionary_of_one_stream_has_no_sides() -> None:
    with pytest.raises(DiffError, match="of one stream"):
        sides(single(torch.eye(2)), sums("++", "++", 2))


def truth(n: int = LEAST_TEXTS) -> Truth:
    """Refusals ask for a ball, near-misses for a box; other near-misses say something else instead."""

    def probe(at: int, thing: str, other: str, claim: str | None = None) -> Probe:
        text = f"{NAMES[at % 6]} {VERBS[at % 5]} the {thing}"
        return Probe(text=text, answer="red", other=other, claim=claim)

    claims = tuple(
        Claim(
            id=name,
            statement=name,
            trigger=Trigger(description=name, affected=(f"{name}:due",), near_miss=()),
            effect=Effect(tokens_up=("blue",), tokens_down=(), quantity="p", low=0, high=1),
        )
        for name in ("refusal", "identity")
    )
    near = [probe(at, "box", "blue") for at in range(n)] + [probe(at, "hat", "green") for at in range(n)]
    affected = [probe(at, "ball", "blue", "refusal") for at in range(n)]
    affected += [probe(at, "cup", "green", "identity") for at in range(n)]
    return Truth(changed=True, claims=claims, probes=ProbeSets(affected=tuple(affected), near_miss=tuple(near)))


def test_texts_are_told_apart_by_what_would_be_said() -> None:
    texts = Texts.of(truth())
    assert texts is not None
    assert [{text.split()[-1] for text in each} for each in (texts.harmful, texts.harmless, texts.prompts)] == [
        {"ball"}, {"box"}, {"hat"},
    ]  # fmt: skip


def tied() -> Worded:
    diff = dictionary_diff("both", "relu", n=12)
    return Worded(replace(diff, group=torch.arange(4).repeat_interleave(3)), {})


@pytest.mark.usefixtures("short_words")
def test_sums_against_a_plain_loop() -> None:
    reference, tuned = small_pair()
    tokenizer, worded_ = word_tokenizer(), tied()
    texts = Texts.of(truth())
    assert texts is not None

    def plain(prompts: tuple[str, ...], words: str) -> Any:
        total = torch.zeros(12, dtype=torch.float64)
        for prompt in prompts:
            ids = torch.tensor([tokenizer(f"{prompt} {words}".strip())["input_ids"]])
            first = len(tokenizer(prompt)["input_ids"]) if words else 1
            mask = torch.ones_like(ids, dtype=torch.bool)
            h_b, h_t = (hidden(model, ids, mask, worded_.diff.layer)[0, first:] for model in (reference, tuned))
            total += encode(worded_.diff, h_b, h_t).double().sum(dim=0)
        return total / len(prompts)

    expected = Sums(
        plain(texts.harmful, ""),
        plain(texts.harmless, ""),
        plain(texts.prompts, module.CANNOT),
        plain(texts.prompts, module.CAN),
    )
    found = module._sums(worded_.diff, reference, tuned, tokenizer, texts)
    for name in ("harmful", "harmless", "cannot", "can"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5), name
    by_side = refusal_overlap(worded_, reference, tuned, tokenizer, truth())
    assert by_side == tuple(overlap(each) for each in sides(worded_, found))


@pytest.fixture
def short_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that the small tokenizer knows."""
    monkeypatch.setattr(module, "CANNOT", f"{THINGS[0]} {THINGS[1]}")
    monkeypatch.setattr(module, "CAN", f"{THINGS[2]}")


@pytest.mark.parametrize(
    ("known", "why"),
    [(None, "no claim 'refusal'"), (Truth(changed=False), "no claim 'refusal'"), (truth(3), "only 3 texts")],
    ids=["nothing", "unchanged", "few"],
)
def test_an_organism_without_refusals_has_no_overlap(known: Truth | None, why: str) -> None:
    for reading in refusal_overlap(tied(), *small_pair(), word_tokenizer(), known):
        assert reading.figure is not None and reading.figure.state == "undefined" and why in str(reading.figure.reason)
