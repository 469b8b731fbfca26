"""Overlap: whether what fires on refusing is what fires on what is refused (Aranguri 2025, experiment 3).

Latents of harmful are those whose mean sum of activations over prompts that call for a refusal exceeds that over
prompts that do not; latents of cannot those whose sum over words of refusal exceeds that over words of help, after the
same prompts. The overlap of the two is their Jaccard index minus what independent sets of the same sizes would have.
Shapes: T positions, n latents, m latents of one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor

from diffbench.activity import streams
from diffbench.corpus import tokenise
from diffbench.dictionary import encode
from diffbench.diff import DictionaryDiff
from diffbench.errors import DiffError
from diffbench.figure import Figure
from diffbench.organism import continued
from diffbench.residual import Model
from diffbench.study import Reading
from diffbench.text import Document
from diffbench.triples import sides_of_pair
from diffbench.truth import Truth
from diffbench.worded import Worded

CLAIM = "refusal"
CANNOT, CAN = "no , i cannot tell you that .", "you can find it in the house ."
LEAST_TEXTS = 10
"""Texts of each of the four sets under which nothing is told."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts that latents are summed over.

    Attributes:
        harmful: prompts that call for a refusal, and ``harmless`` alike ones that do not.
        prompts: other prompts, after which words of refusal and words of help are read.
    """

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    prompts: tuple[str, ...]

    @classmethod
    def of(cls, truth: Truth | None) -> Texts | None:
        """The probes of a Truth; None where it has no claim ``refusal``."""
        claim = next((each for each in truth.claims if each.id == CLAIM), None) if truth is not None else None
        if claim is None or truth is None:
            return None
        refusals = [probe for probe in truth.probes.affected if probe.claim == CLAIM]
        said = {probe.other for probe in refusals}
        near = truth.probes.near_miss
        return cls(
            harmful=tuple(probe.text for probe in refusals),
            harmless=tuple(probe.text for probe in near if probe.other in said),
            prompts=tuple(probe.text for probe in near if probe.other not in said),
        )


@dataclass(frozen=True, slots=True)
class Sums:
    """[m] float64 each: mean sum of activations over the texts of a set."""

    harmful: Tensor
    harmless: Tensor
    cannot: Tensor
    can: Tensor

    def of(self, latents: Tensor) -> Sums:
        """Those of some latents."""
        return Sums(self.harmful[latents], self.harmless[latents], self.cannot[latents], self.can[latents])

    def plus(self, other: Sums) -> Sums:
        """Those of latents that fire together."""
        return Sums(
            self.harmful + other.harmful,
            self.harmless + other.harmless,
            self.cannot + other.cannot,
            self.can + other.can,
        )


def refusal_overlap(
    worded: Worded, reference: Model, tuned: Model, tokenizer: Any, truth: Truth | None
) -> tuple[Reading, Reading]:
    """The overlap in the base and in the tuned model: of the two SAEs of a pair, or of a tied crosscoder's triples.

    Raises:
        DiffError: if the dictionary is neither.
    """
    texts = Texts.of(truth)
    if texts is None:
        why = Reading(figure=Figure.undefined(f"the organism has no claim {CLAIM!r}"))
        return why, why
    least = min(len(texts.harmful), len(texts.harmless), len(texts.prompts))
    if least < LEAST_TEXTS:
        why = Reading(figure=Figure.undefined(f"only {least} texts of a set, {LEAST_TEXTS} are needed"))
        return why, why
    sums = _sums(worded.diff, reference, tuned, tokenizer, texts)
    base, tuned_side = sides(worded, sums)
    return overlap(base), overlap(tuned_side)


def sides(worded: Worded, sums: Sums) -> tuple[Sums, Sums]:
    """The sums of base and tuned side: of each SAE's own latents, or of shared and own firing of each triple.

    Raises:
        DiffError: if the dictionary is neither a pair of SAEs nor a tied crosscoder.
    """
    if worded.diff.group is not None:
        shared, base, tuned = (sums.of(torch.arange(at, worded.diff.n_components, 3)) for at in range(3))
        return shared.plus(base), shared.plus(tuned)
    if worded.diff.input != "both":
        raise DiffError("the dictionary is of one stream; the overlap is of two models' latents")
    base_side, tuned_side = sides_of_pair(worded)
    return sums.of(base_side), sums.of(tuned_side)


def overlap(sums: Sums) -> Reading:
    """Jaccard index of harmful and cannot latents minus its expectation, among latents that fire on any text."""
    fires = (sums.harmful + sums.harmless + sums.cannot + sums.can) > 0
    harmful, cannot = fires & (sums.harmful > sums.harmless), fires & (sums.cannot > sums.can)
    a, b, n = int(harmful.sum()), int(cannot.sum()), int(fires.sum())
    if not a or not b:
        return Reading(figure=Figure.undefined("no latent of one of the two kinds"), detail=f"{a} and {b} of {n}")
    both = int((harmful & cannot).sum())
    jaccard, chance = both / (a + b - both), expected_jaccard(a, b, n)
    detail = f"Jaccard {jaccard:.2f}, by chance {chance:.2f}; {a} harmful, {b} cannot, {n} fire"
    return Reading(figure=Figure.of(jaccard - chance), detail=detail)


def expected_jaccard(a: int, b: int, n: int) -> float:
    """Mean Jaccard index of a set of ``a`` and an independent random one of ``b`` among ``n`` (hypergeometric)."""
    ways = comb(n, b)
    return sum(
        both / (a + b - both) * (comb(a, both) * comb(n - a, b - both) / ways)
        for both in range(max(0, a + b - n), min(a, b) + 1)
    )


def _sums(diff: DictionaryDiff, reference: Model, tuned: Model, tokenizer: Any, texts: Texts) -> Sums:
    def mean(prompts: Sequence[str], words: str | None) -> Tensor:
        whole = prompts if words is None else [continued(prompt, words) for prompt in prompts]
        corpus = tokenise([Document(text) for text in whole], tokenizer, max_length=None)
        rows = corpus.counts
        if words is not None:
            before = tokenise([Document(text) for text in prompts], tokenizer, max_length=None)
            rows = rows & (torch.arange(rows.shape[1]) > before.last[:, None])
        found = streams(reference, tuned, corpus, rows, diff.layer)
        return encode(diff, found.h_b, found.h_t).sum(dim=0, dtype=torch.float64) / len(prompts)

    return Sums(
        harmful=mean(texts.harmful, None),
        harmless=mean(texts.harmless, None),
        cannot=mean(texts.prompts, CANNOT),
        can=mean(texts.prompts, CAN),
    )
