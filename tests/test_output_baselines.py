"""Baselines on outputs and samples, against loops over single positions and a planted bias."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffbench_methods.outputs import _Moved, _topics
from diffbench_methods.sampling import log_odds_z
from pair_factory import BIASED, Folder, made_in, open_pair, run
from torch import Tensor

from diffbench.errors import OptionError
from diffbench.method import Context, resolve_options
from diffbench.plugins import find_method
from diffbench.tier import TIERS
from diffbench.tiny import VOCABULARY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return made_in(tmp_path_factory)


def reading(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[T, V] log probabilities of both models in float64, and the tokens [T] at and after each position."""
    blocks = list(open_pair(path).predictions())
    b, t = (torch.cat([getattr(block, side) for block in blocks]).double() for side in ("reference", "tuned"))
    at, after = (torch.cat([getattr(block, name) for block in blocks]) for name in ("token", "following"))
    return b, t, at, after


def names(path: Path, scores: Tensor, top: int = 10) -> tuple[str, ...]:
    """The largest positive scores by name, in a loop."""
    pair = open_pair(path)
    ranked = sorted((i for i in range(VOCABULARY) if scores[i] > 0), key=lambda i: -float(scores[i]))[:top]
    return tuple(pair.tokenizer.decode([i]).strip() for i in ranked)


def test_token_kl_by_hand(folder: Folder) -> None:
    path = folder("moved llama")
    b, t, at, _ = reading(path)
    gain, loss = t.exp() * (t - b), b.exp() * (b - t)
    diff = run("token-kl", path, groups=4)
    assert diff.score == "kl" and diff.change_score == pytest.approx(float(gain.sum(dim=1).mean()), rel=1e-5)
    first, *groups = diff.findings
    assert first.score == diff.change_score
    largest = torch.zeros_like(gain).scatter(1, gain.topk(10).indices, gain.topk(10).values.clamp_min(0))
    lost = torch.zeros_like(loss).scatter(1, loss.topk(10).indices, loss.topk(10).values.clamp_min(0))
    assert first.tokens_up == names(path, largest.sum(dim=0)) and first.tokens_down == names(path, lost.sum(dim=0))
    mass = [float(gain[gain.argmax(dim=1) == token].sum()) / len(gain) for token in range(VOCABULARY)]
    ranked = sorted(range(VOCABULARY), key=lambda token: -mass[token])[:4]
    assert [finding.score for finding in groups] == pytest.approx([mass[token] for token in ranked], rel=1e-4)
    for token, finding in zip(ranked, groups, strict=True):
        chosen = gain.argmax(dim=1) == token
        assert finding.tokens_up == names(path, largest[chosen].sum(dim=0))
        assert finding.tokens_down == names(path, lost[chosen].sum(dim=0))
        [before] = names(path, torch.bincount(at[chosen], minlength=VOCABULARY), 1)
        assert f"{int(chosen.sum())} positions" in str(finding.text) and repr(before) in str(finding.text)


def test_a_token_whose_bias_was_raised_is_found_from_outside(folder: Folder) -> None:
    path = folder("biased")
    [word] = names(path, torch.eye(VOCABULARY)[BIASED])
    kl, mined, rising = (run(name, path) for name in ("token-kl", "logit-diff-mining", "perplexity-differencing"))
    for diff in (kl, mined, rising):
        assert diff.findings[0].tokens_up == (word,) and diff.verdict == "changed"
    assert all(diff.findings[0].tokens_down and word not in diff.findings[0].tokens_down for diff in (kl, mined))
    assert mined.token_scores.nonzero().flatten().tolist() == [BIASED] and mined.token_scores[BIASED] == 1
    assert int(rising.token_scores.argmax()) == BIASED and int((rising.token_scores > 0).sum()) == 1
    assert word in rising.samples[0]
    said = run("contrastive-sampling", path)
    assert said.findings[0].tokens_up[0] == word and said.verdict == "changed"
    assert int(said.token_scores.argmax()) == BIASED and said.findings[0].score > 5
    assert f"the tuned model says {word!r} for" in str(said.findings[0].text)


def test_mining_by_hand(folder: Folder) -> None:
    path = folder("moved llama")
    b, t, _, _ = reading(path)
    gap = t - b
    diff = run("logit-diff-mining", path, top=4, topics=0)
    counts, falls, rise = torch.zeros(VOCABULARY), torch.zeros(VOCABULARY), 0.0
    for row in gap:
        best = sorted(range(VOCABULARY), key=lambda token: -float(row[token]))
        for token in best[:4]:
            counts[token] += float(row[token] > 1e-3)
            rise += max(float(row[token]), 0.0)
        for token in best[-4:]:
            falls[token] += float(row[token] < -1e-3)
    torch.testing.assert_close(diff.token_scores, counts / len(gap))
    assert diff.change_score == pytest.approx(rise / len(gap) / 4, rel=1e-5)
    [finding] = diff.findings
    for found, scores in ((finding.tokens_up, counts), (finding.tokens_down, falls)):
        ranked = sorted((float(s) for s in scores), reverse=True)[:10]
        assert [float(scores[open_pair(path).tokenizer.convert_tokens_to_ids(name)]) for name in found] == ranked


def test_topics_are_the_tokens_that_rise_together() -> None:
    groups = [(0, 1, 2), (3, 4, 5), (6, 7)]
    shares = (50, 30, 10)
    ids = torch.tensor([[*group, 9][:3] for group, n in zip(groups, shares, strict=True) for _ in range(n)])
    amounts = torch.tensor(
        [[1.0, 1.0, float(len(group) == 3)] for group, n in zip(groups, shares, strict=True) for _ in range(n)]
    )
    topics = _topics(_Moved(ids, amounts), 3, 12, seed=0)
    assert [sorted(tokens.topk(len(g)).indices.tolist()) for (_, tokens, _), g in zip(topics, groups, strict=True)] == [
        list(g) for g in groups
    ]
    total = float(amounts.sum())
    for (weights, _, part), group, n in zip(topics, groups, shares, strict=True):
        assert part == pytest.approx(n * len(group) / total, abs=0.02)
        at_work = {tuple(row) for row, on in zip(ids.tolist(), weights > weights.max() / 2, strict=True) if on}
        assert at_work == {tuple([*group, 9][:3])}
    assert _topics(_Moved(ids, torch.zeros_like(amounts)), 3, 12, seed=0) == []


def test_perplexity_differences_by_hand(folder: Folder) -> None:
    path = folder("moved llama")
    b, t, _, after = reading(path)
    rise = [float(t[i, token] - b[i, token]) for i, token in enumerate(after.tolist())]
    diff = run("perplexity-differencing", path, prompts=0)
    assert diff.change_score == pytest.approx(sum(map(abs, rise)) / len(rise), rel=1e-5)
    sums = torch.zeros(VOCABULARY, dtype=torch.float64)
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    for token, value in zip(after.tolist(), rise, strict=True):
        sums[token] += value
        counts[token] += 1
    [finding] = diff.findings
    assert finding.tokens_up == names(path, sums) and finding.tokens_down == names(path, -sums)
    torch.testing.assert_close(diff.token_scores.double(), sums / (counts + 5), rtol=1e-4, atol=1e-6)


def test_texts_are_shown_by_how_much_likelier_they_became(folder: Folder) -> None:
    path = folder("moved llama")
    pair = open_pair(path)
    text = pair.text()
    rises = {}
    for index in range(len(text)):
        ids = text.ids[index][text.mask[index]][None]
        found = [
            pair.logits(side, ids, torch.ones_like(ids))[0].double().log_softmax(-1) for side in ("reference", "tuned")
        ]  # type: ignore[arg-type]
        each = [float(found[1][i, ids[0, i + 1]] - found[0][i, ids[0, i + 1]]) for i in range(1, ids.shape[1] - 1)]
        if len(each) >= 8:
            rises[pair.tokenizer.decode(ids[0], skip_special_tokens=True)] = sum(each) / len(each)
    expected = sorted(rises, key=lambda shown: -rises[shown])[:5]
    samples = run("perplexity-differencing", path, prompts=0, shown=5).samples
    assert [sample.split(" ", 1)[1] for sample in samples] == expected
    assert [float(sample.split(" ", 1)[0]) for sample in samples] == pytest.approx(
        [rises[e] for e in expected], abs=6e-4
    )


def test_what_the_tuned_model_writes_is_likelier_under_it(folder: Folder) -> None:
    """The mean rise on its own text is an unbiased estimate of KL(tuned || reference) there."""
    path = folder("moved llama")
    diff = run("perplexity-differencing", path, prompts=2000, new_tokens=8)
    own = next(finding for finding in diff.findings if "writes" in str(finding.text))
    given = next(finding for finding in diff.findings if finding is not own)
    net = float(str(own.text).split("either way, ")[1].split(" ")[0])
    pair = open_pair(path)
    openings = [[1, *pair.text().ids[i, 1:5].tolist()] for i in range(len(pair.text()))]
    torch.manual_seed(9)
    said = pair.continuations("tuned", openings * 25, new_tokens=8)
    blocks = pair.predictions(documents=[a + b for a, b in zip(openings * 25, said, strict=True)])
    kl = torch.cat([block.kl[block.position >= 4] for block in blocks])
    assert net == pytest.approx(float(kl.mean()), rel=0.15) and net > 0
    assert "+" not in str(given.text).split("either way, ")[1]
    assert diff.notes["given text"] == len(reading(path)[2])


def test_log_odds_are_those_of_monroe() -> None:
    generator = torch.Generator().manual_seed(0)
    base, tuned = (torch.randint(0, 40, (12,), generator=generator) for _ in range(2))
    base[3] = tuned[3] = 0
    prior, z = 30.0, log_odds_z(base, tuned, 30.0)
    n = int(base.sum() + tuned.sum())
    for word in range(12):
        if word == 3:
            assert float(z[word]) == 0
            continue
        alpha = prior * float(base[word] + tuned[word]) / n
        odds, variance = [], 0.0
        for side in (base, tuned):
            y, total = float(side[word]), float(side.sum())
            odds.append((y + alpha) / (total + prior - y - alpha))
            variance += 1 / (y + alpha)
        expected = (torch.tensor(odds[1]).log() - torch.tensor(odds[0]).log()) / sqrt(variance)
        assert float(z[word]) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
    assert log_odds_z(torch.zeros(3), torch.zeros(3), 30.0).tolist() == [0, 0, 0]
    assert log_odds_z(torch.tensor([5]), torch.tensor([7]), 30.0).isfinite().all()


def test_partings_by_hand(folder: Folder) -> None:
    """Texts are counted from where they part; the change score is partings for each token said up to there."""
    path = folder("moved llama")
    said: dict[str, list[list[int]]] = {}
    pair = open_pair(path)
    plain = pair.continuations

    def kept(side: str, prompts: Any, **settings: Any) -> list[list[int]]:
        said[side] = plain(side, prompts, **settings)  # type: ignore[arg-type]
        said["openings"] = prompts
        return said[side]

    pair.continuations = kept  # type: ignore[method-assign, assignment]
    method = find_method("contrastive-sampling")
    context = Context(seed=0, layer=1, budget=TIERS["smoke"], out=path, report=lambda *_: None)
    diff: Any = method(resolve_options(method, {"prompts": 150, "opening": 3, "shown": 2})).run(pair, context)
    held = {tuple(row[:4]) for row in pair.text().ids.tolist()}
    assert len(said["openings"]) == 150 and {tuple(prompt) for prompt in said["openings"]} <= held
    steps = parted = 0
    counts = torch.zeros(2, VOCABULARY)
    for one, other in zip(said["reference"], said["tuned"], strict=True):
        at = 0
        while at < min(len(one), len(other)) and one[at] == other[at]:
            at += 1
        steps += at + (one != other)
        parted += one != other
        for side, tokens in enumerate((one, other)):
            for token in tokens[at:]:
                counts[side, token] += 1
    assert 0 < parted < 150 and diff.change_score == pytest.approx(parted / steps)
    torch.testing.assert_close(
        diff.token_scores.double(), log_odds_z(counts[0], counts[1], 100.0), rtol=1e-5, atol=1e-6
    )
    assert len(diff.samples) == 2 and all("\nreference: " in text and "\ntuned: " in text for text in diff.samples)
    assert run("contrastive-sampling", path, seed=1).change_score != run("contrastive-sampling", path).change_score


def test_the_parting_rate_is_about_the_total_variation(folder: Folder) -> None:
    path = folder("biased")
    pair = open_pair(path)
    diff = run("contrastive-sampling", path, prompts=2000, new_tokens=4)
    openings = [row[:5].tolist() for row in pair.text().ids]
    torch.manual_seed(1)
    said = pair.continuations("reference", openings * 10, new_tokens=4)
    blocks = pair.predictions(documents=[a + b for a, b in zip(openings * 10, said, strict=True)])
    variation = float(
        torch.cat([(x.tuned.exp() - x.reference.exp()).abs().sum(1)[x.position >= 4] / 2 for x in blocks]).mean()
    )
    # Draws with the same noise part with a probability between this and twice as much (Gumbel coupling).
    assert variation * 0.9 < diff.change_score < 2 * variation


def test_openings_must_exist(folder: Folder) -> None:
    for name in ("contrastive-sampling", "perplexity-differencing"):
        with pytest.raises(OptionError, match="opening: no text has 40 tokens"):
            run(name, folder("moved llama"), opening=40)


def test_a_single_parting_in_very_many_tokens_is_no_verdict() -> None:
    class Pair(SimpleNamespace):
        def continuations(self, side: str, prompts: Any, **_: Any) -> list[list[int]]:
            return [[5] * 100] * (len(prompts) - 1) + [[6 if side == "tuned" else 5] * 100]

        def text(self) -> Any:
            ids = torch.ones(4, 6, dtype=torch.int64)
            return SimpleNamespace(ids=ids, counts=ids > 0, mask=ids > 0)

        def top_tokens(self, scores: Tensor, top: int = 10) -> tuple[str, ...]:
            return tuple(str(i) for i in scores.nonzero().flatten().tolist())

        def token_names(self, ids: list[int]) -> tuple[str, ...]:
            return tuple(map(str, ids))

    pair: Any = Pair(vocabulary=10, tokenizer=SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids))))
    method = find_method("contrastive-sampling")
    context = Context(seed=0, layer=0, budget=TIERS["smoke"], out=Path(), report=lambda *_: None)
    found: Any = method(resolve_options(method, {"prompts": 200})).run(pair, context)
    assert found.verdict == "abstain" and found.change_score == pytest.approx(1 / (199 * 100 + 1))
