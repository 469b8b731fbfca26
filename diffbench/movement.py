"""Movement: the words whose probability fine-tuning really moved after the probes of a claim. Measured, not declared.

At a probe a token moves by p_tuned - p_reference of the next token: mass that changes hands, which lies in -1..1 and
sums to 0 whatever the vocabulary. The terms p_t log(p_t / p_b) of a KL would let a rise from 1e-9 to .05 weigh as much
as one from .2 to .4. Rises and falls are added up apart, since where two words are exchanged each of them does both.

Shapes: B probes of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffbench.expression import Arms, first_token, probe_batches
from diffbench.truth import Claim, Probe, Truth

AT_PROBE = 0.05
"""Least change of a probability at one probe that counts, so that at most 20 tokens rise there and 20 fall."""
LEAST, SHARE_OF_LARGEST = 0.01, 0.1
"""A word moves if its mean over a claim's probes is at least so much, and so much of that of the largest."""

Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")


@dataclass(frozen=True, slots=True)
class Word:
    """One word that moved.

    Attributes:
        shown: how it is written.
        names: how a finding may write it.
        size: mean over the claim's probes of how far its probability rises, or falls.
    """

    shown: str
    names: frozenset[str]
    size: float


@dataclass(frozen=True, slots=True)
class Movement:
    """What moved at the affected probes of a claim, the largest first."""

    claim: str
    up: tuple[Word, ...]
    down: tuple[Word, ...]

    @property
    def any(self) -> bool:
        """Whether anything did."""
        return bool(self.up or self.down)

    def words(self, way: Way) -> tuple[Word, ...]:
        """Those that rose, or those that fell."""
        return self.up if way == "up" else self.down


@torch.inference_mode()
def movements(truth: Truth, tokenizer: Any, pair: Arms) -> tuple[Movement, ...]:
    """The movement of every claim.

    A word is what `decode` writes without blanks around it; tokens that are written alike are one. Of a word that the
    claim itself names any rise, or fall, counts that a probe shows.

    Args:
        truth: claims and their probes.
        tokenizer: of both models.
        pair: the reference's logits, then the tuned model's.
    """
    return tuple(_movement(claim, truth.probes.of(claim.id), tokenizer, pair) for claim in truth.claims)


def _movement(claim: Claim, probes: Sequence[Probe], tokenizer: Any, pair: Arms) -> Movement:
    if not probes:
        return Movement(claim.id, (), ())
    sums = _sums(probes, tokenizer, pair)
    effect = claim.effect
    named = {
        "up": (*effect.tokens_up, *(said for _, said in effect.pairs)),
        "down": (*effect.tokens_down, *(right for right, _ in effect.pairs)),
    }
    own = {way: _own(named[way], probes, tokenizer) for way in WAYS}
    up, down = (_words(sums[way] / len(probes), own[way], tokenizer) for way in WAYS)
    return Movement(claim.id, up, down)


def _sums(probes: Sequence[Probe], tokenizer: Any, pair: Arms) -> Mapping[Way, Tensor]:
    """[V] float64 each: the rises, and the falls, of every token over the probes, small ones left out."""
    sums: dict[Way, Tensor] = {}
    for _, batch in probe_batches(tokenizer, probes):
        reference, tuned = (logits.float().softmax(dim=-1) for logits in pair(batch))
        moved = tuned - reference
        for way, sign in zip(WAYS, (1, -1), strict=True):
            part = (sign * moved).masked_fill(sign * moved < AT_PROBE, 0.0).sum(dim=0, dtype=torch.float64)
            sums[way] = sums[way] + part if way in sums else part
    return sums


def _own(words: Iterable[str], probes: Sequence[Probe], tokenizer: Any) -> dict[int, set[str]]:
    """The words that a claim names, by the id that they begin with."""
    found: dict[int, set[str]] = {}
    for word in words:
        found.setdefault(first_token(tokenizer, probes[0].text, word), set()).add(word)
    return found


def _words(means: Tensor, own: Mapping[int, set[str]], tokenizer: Any) -> tuple[Word, ...]:
    sizes: dict[str, float] = {}
    names: dict[str, set[str]] = {}
    declared: set[str] = set()
    for token in means.nonzero().flatten().tolist():
        shown = tokenizer.decode([token]).strip()
        sizes[shown] = sizes.get(shown, 0.0) + float(means[token])
        written = {shown, tokenizer.convert_ids_to_tokens(token) or shown}
        names.setdefault(shown, set()).update(written, own.get(token, ()))
        if token in own:
            declared.add(shown)
    limit = max(LEAST, SHARE_OF_LARGEST * max(sizes.values(), default=0.0))
    kept = [shown for shown, size in sizes.items() if size >= limit or shown in declared]
    kept.sort(key=lambda shown: (-sizes[shown], shown))
    return tuple(Word(shown, frozenset(names[shown]), sizes[shown]) for shown in kept)
