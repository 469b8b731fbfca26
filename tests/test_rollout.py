"""Rollouts against the models' own probabilities and a slow sampler; swaps of tokens; where the KL is high."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from attribution_reference import LAYER, WORDS, corpus, diffs, doubles, pair
from torch import Tensor

from diffbench import decoding, rollout, steering
from diffbench.attribution import contexts
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff
from diffbench.edit import ActivationEdit
from diffbench.errors import DiffError, OptionError
from diffbench.rollout import Place, Sampling, high_kl_positions, rollouts, swap, whole_rollouts
from diffbench.steering import Components, Direction, Speaker, Steer
from diffbench.tally import wilson


def dictionary(kind: str = "llama") -> DictionaryDiff:
    found = diffs(kind)["both"]
    assert isinstance(found, DictionaryDiff)
    return found


def speaker(run: Any = "reference", what: Any = None, strength: float = 1.0, kind: str = "llama") -> Speaker:
    return Speaker(Steer(what, LAYER, strength, "add", run), *pair(kind))


def probabilities(model: Any, ids: list[int], temperature: float = 1.0) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return (logits.double() / temperature).softmax(-1)


def prompt(text: Corpus, row: int) -> list[int]:
    found: list[int] = text.ids[row][text.mask[row]].tolist()
    return found


def chi_square(counts: Counter[int], p: Tensor, n: int) -> float:
    """Pearson's statistic over its mean, in standard deviations; words that are hardly ever said are one class."""
    rare = p * n < 5
    seen = torch.tensor([counts[i] for i in range(len(p))], dtype=torch.float64)
    expected = torch.cat([p[~rare] * n, (p[rare].sum() * n)[None]])
    found = torch.cat([seen[~rare], seen[rare].sum()[None]])
    kept = expected > 0
    freedom = int(kept.sum()) - 1
    return (float(((found - expected)[kept].pow(2) / expected[kept]).sum()) - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_tokens_are_as_frequent_as_they_are_probable(kind: str, temperature: float) -> None:
    """The first token, and the second one after the most frequent first."""
    text, n = corpus((6,)), 6000
    [said] = rollouts(speaker(kind=kind), text, Sampling(new_tokens=2, n=n, temperature=temperature, seed=1))
    begin, model = prompt(text, 0), doubles(kind)[0]
    first = Counter(tokens[0] for tokens in said)
    assert abs(chi_square(first, probabilities(model, begin, temperature), n)) < 4
    [(top, hits)] = first.most_common(1)
    second = Counter(tokens[1] for tokens in said if tokens[0] == top)
    assert hits > 300 and abs(chi_square(second, probabilities(model, [*begin, top], temperature), hits)) < 4
    assert abs(chi_square(first, probabilities(doubles(kind)[1], begin, temperature), n)) > 8  # of the other model


@pytest.mark.parametrize("run", ["reference", "tuned", "hybrid"])
def test_a_slow_sampler_says_the_same(run: Any) -> None:
    """One rollout at a time, whole forward passes of unpadded texts, the distribution function walked along."""
    text, sampling = corpus((7, 4)), Sampling(new_tokens=4, n=5, seed=3)
    speaks = speaker(run, Components(ActivationEdit(dictionary()), torch.tensor([0, 3])))
    found = rollouts(speaks, text, sampling)
    for row in range(2):
        luck = rollout._luck(f"{','.join(map(str, prompt(text, row)))};1", sampling)
        for number in range(5):
            ids = prompt(text, row)
            for step in range(4):
                one = torch.ones(1, len(ids), dtype=torch.bool)
                counts = torch.arange(len(ids))[None] > 0
                codes = torch.zeros(1, len(ids), dtype=torch.int8)
                p = speaks.after(Corpus(torch.tensor([ids]), one, counts, counts, codes, codes))[0].double().softmax(-1)
                passed, token = float(p[0]), 0
                while passed <= float(luck[number, step]):
                    token += 1
                    passed += float(p[token])
                ids.append(token)
            assert found[row][number] == ids[len(prompt(text, row)) :]


def test_greedy_is_the_most_probable_token_each_time() -> None:
    text = corpus((7, 4, 5))
    found = rollouts(speaker("tuned"), text, Sampling(new_tokens=6, n=2, temperature=0))
    for row in range(3):
        ids = prompt(text, row)
        for _ in range(6):
            ids.append(int(probabilities(pair("llama")[1], ids).argmax()))
        assert found[row] == [ids[-6:]] * 2


def test_padding_company_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text, sampling = corpus((9, 3, 6)), Sampling(new_tokens=5, n=6)
    together = rollouts(speaker(), text, sampling)
    alone = [rollouts(speaker(), text.rows(slice(i, i + 1)), sampling)[0] for i in range(3)]
    assert together == alone
    monkeypatch.setattr(rollout, "BATCH_TOKENS", 20)
    monkeypatch.setattr(rollout, "MOST_BYTES", 8 * WORDS * 2)
    assert rollouts(speaker(), text, sampling) == together


def test_the_seed_decides_and_more_rollouts_begin_with_fewer() -> None:
    text = corpus((6,))
    [found] = rollouts(speaker(), text, Sampling(new_tokens=4, n=8, seed=1))
    assert rollouts(speaker(), text, Sampling(new_tokens=4, n=8, seed=1)) == [found]
    assert rollouts(speaker(), text, Sampling(new_tokens=4, n=8, seed=2)) != [found]
    assert rollouts(speaker(), text, Sampling(new_tokens=4, n=3, seed=1)) == [found[:3]]
    twice = text.rows(torch.tensor([0, 0]))
    first, second = rollouts(speaker(), twice, Sampling(new_tokens=4, n=8, seed=1))
    assert first == found and second != found


def test_steering_at_strength_zero_says_the_same_and_at_another_does_not() -> None:
    text, sampling = corpus((6, 4)), Sampling(new_tokens=4, n=20)
    what = Direction.of(dictionary(), 1, 4.0)
    plain = rollouts(speaker("hybrid"), text, sampling)
    assert rollouts(speaker("hybrid", what, 0.0), text, sampling) == plain
    assert rollouts(speaker("hybrid", what, 1.0), text, sampling) != plain


def test_what_ends_a_text_ends_it_and_is_no_part_of_it() -> None:
    text = corpus((6, 4))
    long = rollouts(speaker(), text, Sampling(new_tokens=8, n=30))
    ends = tuple(token for token, _ in Counter(token for rows in long for row in rows for token in row).most_common(6))
    short = rollouts(speaker(), text, Sampling(new_tokens=8, n=30, ends=ends))
    for before, after in zip(long, short, strict=True):
        for whole, cut in zip(before, after, strict=True):
            end = next((i for i, token in enumerate(whole) if token in ends), len(whole))
            assert cut == whole[:end]
    lengths = {len(row) for rows in short for row in rows}
    assert 0 in lengths and len(lengths) > 2


def test_words_that_are_none_are_not_said() -> None:
    text = corpus((6,))
    [free] = rollouts(speaker(), text, Sampling(new_tokens=3, n=200))
    [bound] = rollouts(speaker(), text, Sampling(new_tokens=3, n=200, words=20))
    assert max(token for row in free for token in row) >= 20 > max(token for row in bound for token in row)
    p = probabilities(doubles("llama")[0], prompt(text, 0))[:20]
    assert abs(chi_square(Counter(row[0] for row in bound), p / p.sum(), 200)) < 4
    [greedy] = rollouts(speaker(), text, Sampling(new_tokens=1, temperature=0, words=3))
    assert greedy[0][0] == int(p[:3].argmax())


def test_equal_texts_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    after, logits = steering.Speaker.after, decoding._Reader.logits

    def counted(self: Speaker, batch: Corpus) -> Tensor:
        sizes.append(len(batch))
        return after(self, batch)

    def kept(self: Any, read: Any, *more: Any) -> Tensor:
        sizes.append(len(read.ids))
        return logits(self, read, *more)

    monkeypatch.setattr(steering.Speaker, "after", counted)
    sampling = Sampling(new_tokens=2, n=100)
    [said] = whole_rollouts(speaker(), corpus((6,)), sampling)
    assert sizes == [1, len({row[0] for row in said})]
    assert decoding.cacheable(*pair("llama"))
    monkeypatch.setattr(decoding._Reader, "logits", kept)
    assert rollouts(speaker(), corpus((6,)), sampling) == [said]
    assert sizes[2:] == sizes[:2]


def test_what_cannot_be_sampled_is_refused() -> None:
    text = corpus((6,))
    with pytest.raises(OptionError, match="texts of 260 tokens are longer than the models' 256 places"):
        rollouts(speaker(), text, Sampling(new_tokens=255))
    loud = Direction(torch.full((32,), float("inf")), 1.0)
    with pytest.raises(DiffError, match="NaN or infinite logits"):
        rollouts(speaker("tuned", loud), text, Sampling(new_tokens=1))
    for wrong in ({"new_tokens": 0}, {"new_tokens": 1, "n": 0}, {"new_tokens": 1, "temperature": -1.0}):
        with pytest.raises(OptionError, match="sampling: "):
            Sampling(**wrong)  # type: ignore[arg-type]


def test_high_kl_positions_are_those_of_a_slow_search(monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus((9, 5, 7))
    slow: list[tuple[float, Place]] = []
    for document, end in text.predicts.nonzero().tolist():
        p, q = (probabilities(model, text.ids[document, : end + 1].tolist()) for model in doubles("llama"))
        kl = float((p * (p / q).log()).sum())
        token = int(text.ids[document, end + 1])
        slow.append((kl, Place(document, end, kl, token, int(p.argmax()), int(q.argmax()))))
    slow.sort(key=lambda item: -item[0])
    for n in (4, 100):
        found = high_kl_positions(*pair("llama"), text, n)
        assert len(found) == min(n, len(slow))
        for place, (kl, expected) in zip(found, slow, strict=False):
            assert place.kl == pytest.approx(kl, abs=1e-5)
            assert (place.document, place.position) == (expected.document, expected.position)
            assert (place.token, place.reference_top, place.tuned_top) == (
                expected.token,
                expected.reference_top,
                expected.tuned_top,
            )
    everything = high_kl_positions(*pair("llama"), text, 100)
    monkeypatch.setattr(rollout, "BATCH_TOKENS", 10)
    monkeypatch.setattr(rollout, "MOST_BYTES", 4 * WORDS * 2)
    for one, other in zip(high_kl_positions(*pair("llama"), text, 100), everything, strict=True):
        assert (one.document, one.position) == (other.document, other.position)


def test_a_token_swapped_by_itself_changes_nothing() -> None:
    text = corpus((9, 5))
    place = high_kl_positions(*pair("llama"), text, 1)[0]
    sampling = Sampling(new_tokens=3, n=100)
    found = swap(speaker(), text, place, sampling, lambda tokens: tokens[0] < 30, other=place.token)
    assert found.original == found.swapped and 0 < found.original.hits < 100
    difference = found.difference
    assert difference.value == 0
    assert difference.low is not None and difference.high is not None and difference.low < 0 < difference.high


def test_a_swap_counts_what_each_token_leads_to() -> None:
    text, n = corpus((9, 5)), 4000
    place = high_kl_positions(*pair("llama"), text, 1)[0]
    assert place.token != place.reference_top
    found = swap(speaker(), text, place, Sampling(new_tokens=1, n=n, seed=2), lambda tokens: tokens[0] < 30)
    assert (found.token, found.other) == (place.token, place.reference_top)
    begin = text.ids[place.document, : place.position + 1].tolist()
    for token, count in ((found.token, found.original), (found.other, found.swapped)):
        share = float(probabilities(doubles("llama")[0], [*begin, token])[:30].sum())
        assert abs(count.hits / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert found.difference.value == pytest.approx((found.swapped.hits - found.original.hits) / n)
    ours = swap(
        speaker(),
        text,
        place,
        Sampling(new_tokens=1, n=n, seed=2),
        lambda tokens: tokens[0] < 30,
        token=place.tuned_top,
    )
    assert (ours.token, ours.other, ours.swapped) == (place.tuned_top, place.reference_top, found.swapped)
    low, high = wilson(found.original.hits, n)
    assert low < found.original.hits / n < high


def test_a_swapped_token_that_ends_the_text_is_followed_by_nothing() -> None:
    text = corpus((9,))
    place = Place(0, 3, 1.0, int(text.ids[0, 4]), 7, 8)
    found = swap(speaker(), text, place, Sampling(new_tokens=2, n=10, ends=(7,)), lambda tokens: not tokens)
    assert (found.swapped.hits, found.swapped.n) == (10, 10)


def test_steering_a_high_kl_context_goes_with_its_attribution() -> None:
    """A small step along a direction moves the KL at the context by its attribution."""
    from diffbench.attribution import attribute_each

    text = corpus((9, 5))
    place = high_kl_positions(*pair("llama"), text, 1)[0]
    where = torch.zeros_like(text.predicts)
    where[place.document, place.position] = True
    slopes = attribute_each(dictionary(), *pair("llama"), text, where)[0]
    context = contexts(text, where)

    def kl(strength: float, component: int) -> float:
        steer = Direction.of(dictionary(), component, 1.0)
        p, q = (
            speaker(run, steer, strength if run == "reference" else 0.0).after(context)[0].double().softmax(-1)
            for run in ("reference", "tuned")
        )
        return float((p * (p / q).log()).sum())

    for component in (int(slopes.argmin()), int(slopes.argmax())):
        rise = (kl(0.02, component) - kl(-0.02, component)) / 0.04
        assert rise == pytest.approx(float(slopes[component]), rel=2e-2)
    assert kl(0.0, 0) == pytest.approx(place.kl, rel=1e-4)
