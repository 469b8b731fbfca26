"""Outputs: what both models expect next on the same text, with no look inside.

What needs torch is imported where it runs, so that listing and resuming stay fast. Shapes: T positions, V vocabulary,
k most moved tokens of a position, C candidate tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffbench import Field, Method, MethodOptions

if TYPE_CHECKING:
    from torch import Tensor

    from diffbench import Context, Diff, ModelPair

KL_FLOOR = 1e-6
"""Mean KL in nats at or under which two models say the same: float32 rounding stays below it."""
LOG_FLOOR = 1e-3
"""Nats by which a log probability must move to count: rounding moves none so far, not even the least likely token's."""
PER_POSITION = 10
"""Tokens of a position that KL is put down to, each way; the others hold next to none of it."""
CANDIDATES, UPDATES = 200, 60
"""Tokens that are sorted into topics, and steps that sort them."""


class TokenKL(Method):
    """KL at every position of the text, and the tokens that make it."""

    name = "token-kl"
    summary = "KL(p_tuned || p_base) per token, with the tokens that gain and lose most where it is large"
    reference = "Aranguri, Drori & Nanda 2025 (KL dashboards)"
    access = frozenset({"logits"})
    baseline = True

    class Options(MethodOptions):
        """How much is read and told."""

        tokens: int = Field(40_000, ge=1, description="positions to read, of documents spread over the text")
        groups: int = Field(9, ge=0, le=49, description="findings beside the one of all positions")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """The change score is the mean KL; it says changed where that is above float32 rounding.

        The first finding is of all positions. The others are of those at which one token gains most; they are in order
        of the KL there, and their scores are its parts of the mean.
        """
        import torch

        from diffbench import Finding, OutputDiff

        kl, after, gains, losses = [], [], [], []
        for block in pair.predictions(tokens=self.options.tokens):
            gap = block.tuned - block.reference
            gain = block.tuned.exp() * gap
            kl.append(gain.sum(dim=1).double())
            after.append(block.token)
            gains.append(_strongest(gain, PER_POSITION))
            losses.append(_strongest(-block.reference.exp() * gap, PER_POSITION))
        each, last, gained, lost = torch.cat(kl), torch.cat(after), _joined(gains), _joined(losses)
        n, mean = len(each), float(each.mean())
        if mean <= KL_FLOOR:
            return OutputDiff(score="kl", change_score=max(mean, 0.0), verdict="unchanged", notes={"positions": n})
        leading = gained.ids[:, 0]
        mass = torch.zeros(pair.vocabulary, dtype=torch.float64).index_add_(0, leading, each)
        told = [(mean, torch.ones(n), f"{mean:.3g} nats on average over {n} positions")]
        for token in mass.argsort(descending=True, stable=True)[: self.options.groups].tolist():
            if float(mass[token]) > 0:
                chosen = leading == token
                before = pair.top_tokens(torch.bincount(last[chosen], minlength=pair.vocabulary), 3)
                text = (
                    f"{float(mass[token] / each.sum()):.1%} of the KL, at {int(chosen.sum())} positions where "
                    f"{pair.token_names([token])[0]!r} gains most, most often after {', '.join(map(repr, before))}"
                )
                told.append((float(mass[token]) / n, chosen.double(), text))
        findings = [
            Finding(
                rank=rank,
                component=0,
                score=score,
                tokens_up=pair.top_tokens(gained.totals(pair.vocabulary, weights)),
                tokens_down=pair.top_tokens(lost.totals(pair.vocabulary, weights)),
                text=text,
            )
            for rank, (score, weights, text) in enumerate(told, start=1)
        ]
        return OutputDiff(
            score="kl", findings=tuple(findings), change_score=mean, verdict="changed", notes={"positions": n}
        )


class LogitDiffMining(Method):
    """Tokens that are again and again among the most raised ones."""

    name = "logit-diff-mining"
    summary = "tokens by how often they are among the most raised of a position, and topics of such tokens"
    reference = "Diff Mining (arXiv 2608.26462)"
    access = frozenset({"logits"})
    baseline = True

    class Options(MethodOptions):
        """How much is read, and what counts."""

        tokens: int = Field(40_000, ge=1, description="positions to read, of documents spread over the text")
        top: int = Field(20, ge=1, le=1000, description="most raised and most lowered tokens of a position that count")
        topics: int = Field(3, ge=0, le=20, description="groups of tokens that are raised together; 0: none")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Counts differences of log probabilities, which rank a position's tokens as those of logits do.

        A token's score is the share of positions at which it is among the most raised. The change score is the mean
        rise of these tokens in nats; it says changed where any token counts anywhere.
        """
        import torch

        from diffbench import Finding, OutputDiff

        size = min(self.options.top, pair.vocabulary)
        rises, falls = [], []
        change, raised = torch.zeros(pair.vocabulary, dtype=torch.float64), 0.0
        for block in pair.predictions(tokens=self.options.tokens):
            gap = block.tuned - block.reference
            change += gap.sum(dim=0, dtype=torch.float64)
            rises.append(_strongest(gap, size))
            falls.append(_strongest(-gap, size))
            raised += float(rises[-1].amounts.sum(dtype=torch.float64))
        up, down = _joined(rises).counted(), _joined(falls).counted()
        n = len(up.ids)
        score = raised / (n * size)
        share = up.totals(pair.vocabulary) / n
        if not bool(share.any()):
            return OutputDiff(score="tokens", token_scores=share.float(), change_score=score, verdict="unchanged")
        named = share.topk(min(5, len(share))).indices.tolist()
        means = ", ".join(
            f"{name!r} {float(change[token]) / n:+.2f}"
            for token, name in zip(named, pair.token_names(named), strict=True)
        )
        told = [(1.0, up.totals(pair.vocabulary), torch.ones(n), f"all {n} positions; mean change in nats: {means}")]
        for weights, tokens, part in _topics(up, self.options.topics, pair.vocabulary, ctx.seed):
            told.append((part, tokens, weights, f"tokens that rise together: {part:.0%} of what rises"))
        findings = [
            Finding(
                rank=rank,
                component=0,
                score=part,
                tokens_up=pair.top_tokens(tokens),
                tokens_down=pair.top_tokens(down.totals(pair.vocabulary, weights)),
                text=text,
            )
            for rank, (part, tokens, weights, text) in enumerate(told, start=1)
        ]
        return OutputDiff(
            score="tokens",
            token_scores=share.float(),
            findings=tuple(findings),
            change_score=score,
            verdict="changed",
            notes={"positions": n},
        )


@dataclass(frozen=True, slots=True)
class _Moved:
    """The most moved tokens of each position, one way: ids and amounts [T, k]; an amount of 0 moved the other way."""

    ids: Tensor
    amounts: Tensor

    def counted(self) -> _Moved:
        """The same with an amount of 1 for every token that moved by enough to count."""
        return _Moved(self.ids, (self.amounts > LOG_FLOOR).float())

    def totals(self, vocabulary: int, weights: Tensor | None = None) -> Tensor:
        """[V] float64: what every token moved in all, positions weighted by ``weights`` [T]."""
        amounts = self.amounts.double() if weights is None else self.amounts * weights.double()[:, None]
        return amounts.new_zeros(vocabulary).index_add_(0, self.ids.flatten(), amounts.flatten())


def _strongest(scores: Tensor, k: int) -> _Moved:
    """The ``k`` largest of scores [T, V]."""
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    return _Moved(best.indices, best.values.clamp_min(0))


def _joined(parts: Sequence[_Moved]) -> _Moved:
    import torch

    return _Moved(torch.cat([part.ids for part in parts]), torch.cat([part.amounts for part in parts]))


def _topics(up: _Moved, n: int, vocabulary: int, seed: int) -> list[tuple[Tensor, Tensor, float]]:
    """Tokens that rise together, by non-negative factors of which token rises where (Lee & Seung 2001).

    Returns:
        Of each topic, the largest first: how much it is at work at each position [T], how much it has of each token
        [V], and its part of all that rises.
    """
    import torch

    totals = up.totals(vocabulary)
    candidates = totals.topk(min(CANDIDATES, int((totals > 0).sum()))).indices
    n = min(n, len(candidates))
    if n == 0:
        return []
    column = torch.full((vocabulary,), -1).index_copy_(0, candidates, torch.arange(len(candidates)))[up.ids]
    rows = torch.arange(len(up.ids))[:, None].expand_as(column)
    kept = (column >= 0) & (up.amounts > 0)
    x = torch.zeros(len(up.ids), len(candidates)).index_put_((rows[kept], column[kept]), torch.tensor(1.0))
    generator = torch.Generator().manual_seed(seed)
    w, h = (torch.rand(*shape, generator=generator) for shape in ((len(x), n), (n, len(candidates))))
    for _ in range(UPDATES):
        h *= (w.T @ x) / (w.T @ w @ h).clamp_min(1e-12)
        w *= (x @ h.T) / (w @ (h @ h.T)).clamp_min(1e-12)
    masses = w.sum(dim=0, dtype=torch.float64) * h.sum(dim=1, dtype=torch.float64)
    parts = masses / max(float(masses.sum()), float(up.amounts.sum(dtype=torch.float64)))
    return [
        (w[:, topic], torch.zeros(vocabulary).index_copy_(0, candidates, h[topic]), float(parts[topic]))
        for topic in parts.argsort(descending=True, stable=True).tolist()
    ]
