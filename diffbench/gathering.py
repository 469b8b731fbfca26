"""Gathering: the evidence of a Diff's findings, from the judge's split and the two models.

Shapes: T positions, m findings, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffbench.activity import activity
from diffbench.architecture import Model, ends_of
from diffbench.causal import token_kl
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, WeightDiff
from diffbench.edit import edit_of
from diffbench.errors import DiffError, OptionError
from diffbench.evidence import Contexts, active_mask, sample_marked, sample_splits
from diffbench.finding_evidence import FindingEvidence, Steered
from diffbench.question import Evidence, Tokens
from diffbench.rollout import Sampling, rollouts_each
from diffbench.seeds import derive
from diffbench.steering import Components, Direction, Speaker, Steer, Weights, stream_size
from diffbench.weight_edit import WeightEdit

N_EXCERPTS = 100
"""Excerpts to explain from, and again as many to be tested on, and marked ones."""
PLACES = 16
"""Positions where a component is most active, at which the next-token distributions are looked at."""
KL_WORDS = 5
LEAST_SHARE, LEAST_NATS = 0.02, 1e-4
"""A word's part in the KL there, and the mean KL in nats, under which no word is named, and no effect."""
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 10, 6, 12
STEER, STEER_WEIGHTS = 2.0, 4.0
"""How long a direction is that is added, in mean norms of the stream; how often a component of weights is added.

On halfswap half a norm changes two texts of three and none so that a word tells it; two change nearly all of them.
"""


@dataclass(frozen=True)
class Scene:
    """A pair and the text that a judge's contexts come from.

    Attributes:
        reference: with whose continuations steered ones are compared.
        tuned: the other.
        tokenizer: of both.
        corpus: the judge's split.
        layer: that is looked at.
        seed: of prompts and continuations; the same for all Diffs on the pair.
    """

    reference: Model
    tuned: Model
    tokenizer: Any
    corpus: Corpus
    layer: int
    seed: int

    @cached_property
    def names(self) -> list[str]:
        """Every token as the tokenizer has it."""
        # No file can hold a lone surrogate, of which some byte-level tokens are made.
        return [
            (name or "").encode("utf-8", "replace").decode()
            for name in self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        ]

    @cached_property
    def tokens(self) -> list[list[str]]:
        """Of each document."""
        return [
            [self.names[int(i)] for i in row[mask]] for row, mask in zip(self.corpus.ids, self.corpus.mask, strict=True)
        ]

    @cached_property
    def size(self) -> float:
        """Mean norm of the reference's stream."""
        return stream_size(self.reference, self.corpus, self.layer)

    @cached_property
    def prompts(self) -> Corpus:
        """First tokens of documents, no two alike."""
        generator = torch.Generator().manual_seed(derive(self.seed, "prompts"))
        seen: dict[tuple[int, ...], int] = {}
        for document in torch.randperm(len(self.corpus), generator=generator).tolist():
            start = tuple(self.corpus.ids[document][self.corpus.mask[document]][:PROMPT_TOKENS].tolist())
            if len(start) == PROMPT_TOKENS:
                seen.setdefault(start, document)
            if len(seen) == PROMPTS:
                break
        part = self.corpus.rows(torch.tensor(list(seen.values()), dtype=torch.int64))
        return Corpus(*(getattr(part, name)[:, :PROMPT_TOKENS] for name in Corpus.__slots__))

    @cached_property
    def plain(self) -> list[list[int]]:
        """What the reference says after the prompts."""
        [said] = self.said([Steer(None, self.layer, run="reference")])
        return said

    def said(self, steers: Sequence[Steer]) -> list[list[list[int]]]:
        """What each of some steered models says after the prompts, with the same luck each time."""
        sampling = Sampling(
            new_tokens=NEW_TOKENS,
            seed=derive(self.seed, "continuations"),
            ends=ends_of(self.reference, self.tokenizer),
            words=len(self.tokenizer),
        )
        speakers = [Speaker(steer, self.reference, self.tuned) for steer in steers]
        return [[said for [said] in each] for each in rollouts_each(speakers, self.prompts, sampling)]

    def named(self, ids: Sequence[int]) -> Tokens:
        """Tokens by their ids."""
        return tuple(self.names[index] for index in ids)


def gather(scene: Scene, diff: Diff, findings: Sequence[Finding], seed: int) -> tuple[FindingEvidence, ...]:
    """The evidence of some findings of a Diff that has an activity at each token.

    Args:
        scene: pair and text.
        diff: of which the findings are.
        findings: m of them.
        seed: of the contexts.

    Raises:
        DiffError: as `diffbench.activity.activity` does.
    """
    corpus, where = scene.corpus, scene.corpus.counts.nonzero()
    components = [finding.component for finding in findings]
    activities = activity(diff, scene.reference, scene.tuned, corpus, corpus.counts, components)
    sparse = isinstance(diff, DictionaryDiff)
    contexts = Contexts.of(scene.tokens, where, seed)
    handle = _Handle.of(scene, diff)
    sizes = [column.detach().double().abs() for column in activities.unbind(1)]
    drawn = [draw(contexts, finding, size, sparse, seed) for finding, size in zip(findings, sizes, strict=True)]
    known = [_with_models(scene, handle, contexts, one, size, sparse) for one, size in zip(drawn, sizes, strict=True)]
    steered = handle.steered(components)
    return tuple(one.model_copy(update={"steered": said}) for one, said in zip(known, steered, strict=True))


def draw(contexts: Contexts, finding: Finding, size: Tensor, sparse: bool, seed: int) -> FindingEvidence:
    """The contexts of a finding, to explain from and to be tested on, without what needs a model.

    Args:
        contexts: the judge's split.
        finding: its rank, component and tokens.
        size: |activity| of its component, [T].
        sparse: whether zero means off (see `active_mask`).
        seed: of the contexts of all findings.
    """
    active = active_mask(size, sparse)
    own = derive(seed, "component", str(finding.component))
    explain, tests = sample_splits(contexts, size, active, N_EXCERPTS, own)
    taken = frozenset(excerpt.tokens for excerpt in explain)
    right, wrong = sample_marked(contexts, active, N_EXCERPTS, own, taken)
    return FindingEvidence(
        rank=finding.rank,
        component=finding.component,
        n_active=int(active.sum()),
        n_positions=active.numel(),
        evidence=Evidence(excerpts=explain, tokens_up=finding.tokens_up, tokens_down=finding.tokens_down),
        tests=tests,
        marked_right=right,
        marked_wrong=wrong,
    )


def _with_models(
    scene: Scene, handle: _Handle, contexts: Contexts, drawn: FindingEvidence, size: Tensor, sparse: bool
) -> FindingEvidence:
    """The same with what both models say where the component is most active."""
    there = _there(scene, contexts, size, active_mask(size, sparse))
    up, down, effect = handle.moved(there, drawn.component) if there is not None else ((), (), None)
    evidence = drawn.evidence.model_copy(update={"kl_up": up, "kl_down": down, "effect": effect})
    return drawn.model_copy(update={"evidence": evidence})


@dataclass(frozen=True, slots=True)
class _There:
    """Documents to explain from in which a component is most active, and the positions [B, L] of that."""

    batch: Corpus
    where: Tensor


def _there(scene: Scene, contexts: Contexts, size: Tensor, active: Tensor) -> _There | None:
    """The strongest positions of the documents to explain from that predict a token, one of each document."""
    places = torch.from_numpy(contexts.where)
    fit = active.cpu() & torch.from_numpy(contexts.explain) & scene.corpus.predicts[places[:, 0], places[:, 1]]
    strongest = size.cpu().masked_fill(~fit, -1.0).argsort(descending=True, stable=True)
    chosen: dict[int, int] = {}
    for index in strongest[: int(fit.sum())].tolist():
        document, position = places[index].tolist()
        chosen.setdefault(document, position)
        if len(chosen) == PLACES:
            break
    if not chosen:
        return None
    batch = scene.corpus.rows(torch.tensor(list(chosen), dtype=torch.int64))
    where = torch.arange(batch.ids.shape[1]) == torch.tensor(list(chosen.values()))[:, None]
    return _There(batch, where)


@dataclass(frozen=True, slots=True)
class _Handle:
    """What a Diff's components can be added by; None: by nothing."""

    scene: Scene
    diff: Diff
    weights: WeightEdit | None

    @classmethod
    def of(cls, scene: Scene, diff: Diff) -> _Handle:
        weights = WeightEdit(diff, scene.reference, scene.tuned) if isinstance(diff, WeightDiff) else None
        return cls(scene, diff, weights)

    def moved(self, there: _There, component: int) -> tuple[Tokens, Tokens, float | None]:
        """Words that are likelier in one model or the other, and what adding the component takes of the KL."""
        layer = self.scene.layer
        log_b, log_t = (
            self._says(Steer(None, layer, run=run), there).log_softmax(-1) for run in ("reference", "tuned")
        )
        kl = float(token_kl(log_t, log_b).double().mean())
        if not kl > LEAST_NATS:
            return (), (), None
        up = (log_t.exp() * (log_t - log_b)).double().mean(dim=0)
        down = (log_b.exp() * (log_b - log_t)).double().mean(dim=0)
        return self._words(up, kl), self._words(down, kl), self._effect(there, component, log_t, kl)

    def steered(self, components: Sequence[int]) -> list[tuple[Steered, ...]]:
        """What the reference says without and with each of some components; nothing where one cannot be added."""
        steers = [self._steer(component) for component in components]
        said = iter(self._said([steer for steer in steers if steer is not None]))
        return [() if steer is None else next(said) for steer in steers]

    def _steer(self, component: int) -> Steer | None:
        try:
            what = self._length(component)
        except DiffError:  # it adds nothing
            return None
        strength = STEER_WEIGHTS if isinstance(what, Weights) else 1.0
        return None if what is None else Steer(what, self.scene.layer, strength, run="reference")

    def _said(self, steers: Sequence[Steer]) -> list[tuple[Steered, ...]]:
        """Of all at once, or where that leads to NaN of each alone; of one that does, nothing."""
        scene = self.scene
        if not steers:
            return []
        try:
            plain, said = scene.plain, scene.said(steers)
        except (DiffError, OptionError):  # one leads to NaN, or the models have no room for a text
            return [()] * len(steers) if len(steers) < 2 else [self._said([steer])[0] for steer in steers]
        prompts = [
            scene.named(row[mask].tolist()) for row, mask in zip(scene.prompts.ids, scene.prompts.mask, strict=True)
        ]
        return [
            tuple(
                Steered(prompt=prompt, plain=scene.named(one), steered=scene.named(other))
                for prompt, one, other in zip(prompts, plain, steered, strict=True)
            )
            for steered in said
        ]

    def _length(self, component: int) -> Direction | Weights | None:
        """A component by itself, at a length that does not depend on how active it is."""
        if isinstance(self.diff, DictionaryDiff | DirectionDiff):
            return Direction.of(self.diff, component, STEER * self.scene.size)
        return None if self.weights is None else Weights(self.weights, torch.tensor([component]))

    def _effect(self, there: _There, component: int, log_t: Tensor, kl: float) -> float | None:
        edit = edit_of(self.diff)
        chosen = torch.tensor([component])
        what: Components | Weights | None = None if self.weights is None else Weights(self.weights, chosen)
        if edit is not None and edit.layer == self.scene.layer:
            what = Components(edit, chosen)
        if what is None:
            return None
        left = float(token_kl(log_t, self._says(Steer(what, self.scene.layer, run="reference"), there)).double().mean())
        return float(f"{1 - left / kl:.6g}") if left < float("inf") else None

    def _says(self, steer: Steer, there: _There) -> Tensor:
        return Speaker(steer, self.scene.reference, self.scene.tuned).at(there.batch, there.where)

    def _words(self, parts: Tensor, kl: float) -> Tokens:
        """The words with the largest parts, largest first."""
        known = parts[: len(self.scene.names)]
        largest = known.topk(min(KL_WORDS, len(known)))
        ids = [int(i) for value, i in zip(largest.values, largest.indices, strict=True) if value > LEAST_SHARE * kl]
        return tuple(self.scene.tokenizer.decode([index]).strip() or self.scene.names[index] for index in ids)
