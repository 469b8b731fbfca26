"""Steering trial: the component that is most responsible for a claim, added and taken out, and what is said then.

As in Aranguri, Drori & Nanda 2025: of all components that one is taken whose attribution to the KL, summed over what
the tuned model answers to prompts of the claim, is most negative. It is chosen on one half of the claim's probes and
steered with on the other. Strength 1 is the mean length of h_t - h_b over those answers (of weights: the component as
it is), so that a component that is drawn at random is steered with at the same length.

Shapes: P prompts, n components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffbench.activity import streams
from diffbench.architecture import Model, blocks, ends_of
from diffbench.attribution import attribute, directions_of
from diffbench.bench import Bench
from diffbench.corpus import Corpus, tokenise
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, OutputDiff, WeightDiff, order_of
from diffbench.errors import DiffError, OptionError
from diffbench.figure import Figure, mean_figure
from diffbench.residual import hidden, unembed
from diffbench.rollout import Sampling, rollouts, rollouts_each
from diffbench.seeds import derive
from diffbench.spoken import NO_TEXT, joined, nats, repeats, shared
from diffbench.steering import Direction, Run, Speaker, Steer, Weights
from diffbench.steering_file import Beginning, Sample, Share, SteeredArm, SteeredClaim, SteeringPlan, Table
from diffbench.tally import Count, beginnings, says
from diffbench.text import Document
from diffbench.truth import Claim, Probe
from diffbench.weight_edit import WeightEdit

SAMPLES, BEGINNINGS, TABLE_TOKENS, TABLE_ROWS = 3, 5, 4, 8
BATCH = 64


@dataclass(frozen=True, slots=True)
class _Place:
    """Who is steered, which way, and after which prompts."""

    run: Run
    sign: int
    on: str
    control: bool = False
    """Whether a component drawn at random is steered with beside it."""


PLACES = (
    _Place("reference", 1, "affected", control=True),
    _Place("tuned", -1, "affected", control=True),
    _Place("tuned", 1, "near_miss", control=True),
    _Place("hybrid", 1, "affected"),
    _Place("hybrid", -1, "affected"),
)


@dataclass(frozen=True, slots=True)
class _Handle:
    """What is steered with: a component, or another one at the same length."""

    what: Direction | Weights
    component: int


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Probes and their tokens."""

    probes: tuple[Probe, ...]
    text: Corpus

    @classmethod
    def of(cls, probes: Sequence[Probe], tokenizer: Any) -> _Prompts:
        return cls(tuple(probes), tokenise([Document(probe.text) for probe in probes], tokenizer, max_length=None))


class SteeringTrial:
    """Steering with the components of one Diff on one pair.

    Args:
        bench: the pair; of a `WeightDiff` with models that share no weights.
        diff: with a handle on the models.
        layer: the pair's.
        plan: what is asked for.

    Raises:
        OptionError: if the Diff has no component that could be steered with, or lives at another layer.
    """

    def __init__(self, bench: Bench, diff: Diff, layer: int, plan: SteeringPlan) -> None:
        if isinstance(diff, OutputDiff) or diff.n_components == 0:
            raise OptionError(f"method: its {diff.kind} diff has no components to steer with")
        if isinstance(diff, WeightDiff) and diff.whole:
            raise OptionError("method: its components are whole differences of parameters, no directions")
        if isinstance(diff, DictionaryDiff | DirectionDiff) and diff.layer != layer:
            raise OptionError(
                f"method: its components live at layer {diff.layer}, the pair was looked at layer {layer}"
            )
        self._bench, self._diff, self._layer, self._plan = bench, diff, layer, plan
        self._weights = WeightEdit(diff, bench.reference, bench.tuned) if isinstance(diff, WeightDiff) else None
        self._ends = ends_of(bench.reference, bench.tokenizer)

    def claim(self, claim: Claim, probes: Sequence[Probe], near: Sequence[Probe]) -> SteeredClaim:
        """Steer with the component that is most responsible for a claim.

        Args:
            claim: of the truth.
            probes: that meet its trigger; the component is chosen on every second of them.
            near: that nearly do.
        """
        told = SteeredClaim(claim=claim.id, statement=claim.statement)
        chosen_on, used = probes[::2][: self._plan.prompts], probes[1::2][: self._plan.prompts]
        if not used:
            return told.model_copy(update={"problem": "the claim has fewer than two probes"})
        before = _Prompts.of(chosen_on, self._bench.tokenizer)
        answers, where = self._answers(before)
        attribution = attribute(self._diff, self._bench.reference, self._bench.tuned, answers, where)
        best, sign = self._best(attribution)
        if best is None:
            return told.model_copy(update={"problem": "no component has a negative attribution"})
        size = self._size(answers, where)
        handle, other = self._handle(best, sign, size), self._other(claim, best, size)
        prompts = {"affected": _Prompts.of(used, self._bench.tokenizer)}
        if near:
            prompts["near_miss"] = _Prompts.of(near[: self._plan.prompts], self._bench.tokenizer)
        finding = next((one for one in self._diff.findings if one.component == best), None)
        return told.model_copy(
            update={
                "component": best,
                "rank": int((order_of(self._diff) == best).nonzero()[0]) + 1,
                "random": None if other is None else other.component,
                "attribution": float(attribution[best]),
                "n_chosen_on": len(chosen_on),
                "n_prompts": len(used),
                "size": None if self._weights is not None else size,
                "tokens_up": finding.tokens_up if finding else (),
                "tokens_down": finding.tokens_down if finding else (),
                "arms": tuple(arm for on in prompts for arm in self._arms(prompts[on], on, handle, other)),
                "table": self._table(prompts["affected"], handle) if self._plan.rollouts else None,
            }
        )

    def _answers(self, prompts: _Prompts) -> tuple[Corpus, Tensor]:
        """The prompts with what the tuned model most probably answers, and the positions that predict the answers."""
        sampling = Sampling(self._plan.new_tokens, temperature=0, ends=self._ends, words=len(self._bench.tokenizer))
        tuned = Speaker(Steer(None, self._layer, run="tuned"), self._bench.reference, self._bench.tuned)
        return joined(prompts.text, [said for [said] in rollouts(tuned, prompts.text, sampling)])

    def _best(self, attribution: Tensor) -> tuple[int | None, int]:
        """The most responsible component, and the sign with which it is added."""
        either_way = isinstance(self._diff, DirectionDiff) and self._diff.constant is None
        keen = (-attribution.abs() if either_way else attribution).nan_to_num(nan=math.inf)
        best = int(keen.argmin())
        return (best, 1 if float(attribution[best]) < 0 else -1) if float(keen[best]) < 0 else (None, 1)

    def _size(self, answers: Corpus, where: Tensor) -> float:
        rows = streams(self._bench.reference, self._bench.tuned, answers, where, self._layer)
        return float((rows.h_t - rows.h_b).norm(dim=1).double().mean())

    def _handle(self, component: int, sign: int, size: float) -> _Handle:
        if self._weights is not None:
            return _Handle(Weights(self._weights, torch.tensor([component])), component)
        assert isinstance(self._diff, DictionaryDiff | DirectionDiff)
        return _Handle(Direction(sign * directions_of(self._diff)[component], size), component)

    def _other(self, claim: Claim, best: int, size: float) -> _Handle | None:
        """Another component, drawn at random."""
        known = torch.ones(self._diff.n_components, dtype=torch.bool)
        if isinstance(self._diff, DictionaryDiff | DirectionDiff):
            known = directions_of(self._diff).isfinite().all(dim=1)
        known[best] = False
        if not bool(known.any()):
            return None
        generator = torch.Generator().manual_seed(derive(self._plan.seed, "another component", claim.id))
        drawn = int(torch.multinomial(known.double(), 1, generator=generator))
        return self._handle(drawn, 1, size)

    def _arms(self, prompts: _Prompts, on: str, handle: _Handle, other: _Handle | None) -> list[SteeredArm]:
        """Every run and strength after some prompts; the unsteered run of each comes first."""
        asked: list[tuple[Run, str, float, _Handle | None]] = []
        for place in (place for place in PLACES if place.on == on):
            if not any(run == place.run and strength == 0 for run, _, strength, _ in asked):
                asked.append((place.run, "component", 0.0, None))
            for strength in self._plan.strengths:
                asked.append((place.run, "component", place.sign * strength, handle))
                if place.control and other is not None:
                    asked.append((place.run, "random", place.sign * strength, other))
        speakers = [self._speaker(run, strength, what) for run, _, strength, what in asked]
        sampling = Sampling(
            self._plan.new_tokens,
            self._plan.draws,
            self._plan.temperature,
            derive(self._plan.seed, "steering", on),
            self._ends,
            len(self._bench.tokenizer),
        )
        said = self._said(speakers, prompts.text, sampling)
        plain = {run: said[index] for index, (run, _, strength, _) in enumerate(asked) if strength == 0}
        return [
            self._arm(prompts, on, run, what, strength, found, plain[run])
            for (run, what, strength, _), found in zip(asked, said, strict=True)
        ]

    def _speaker(self, run: Run, strength: float, handle: _Handle | None) -> Speaker:
        steer = Steer(None if handle is None else handle.what, self._layer, strength if handle else 1.0, run=run)
        return Speaker(steer, self._bench.reference, self._bench.tuned)

    def _said(
        self, speakers: Sequence[Speaker], text: Corpus, sampling: Sampling
    ) -> list[list[list[list[int]]] | DiffError]:
        """What each says, or why nothing could be drawn; one that fails fails alone."""
        try:
            return list(rollouts_each(speakers, text, sampling))
        except DiffError:
            found: list[list[list[list[int]]] | DiffError] = []
            for speaker in speakers:
                try:
                    found.append(rollouts(speaker, text, sampling))
                except DiffError as error:
                    found.append(error)
            return found

    def _arm(
        self,
        prompts: _Prompts,
        on: str,
        run: Run,
        what: str,
        strength: float,
        said: list[list[list[int]]] | DiffError,
        plain: list[list[list[int]]] | DiffError,
    ) -> SteeredArm:
        told: dict[str, Any] = {"run": run, "on": on, "what": what, "strength": strength}
        if isinstance(said, DiffError):
            return SteeredArm(**told, coherence=NO_TEXT, repeats=NO_TEXT, problem=str(said)[:500])
        texts = [[self._text(one) for one in drawn] for drawn in said]
        before = [] if isinstance(plain, DiffError) or strength == 0 else plain
        samples = [
            Sample(prompt=probe.text[-2000:], plain=self._text(one[0]), steered=drawn[0])
            for probe, drawn, one in zip(prompts.probes, texts, before, strict=False)
        ]
        flat = [text for drawn in texts for text in drawn]
        return SteeredArm(
            **told,
            shows=shared(
                [[says(text, p.other) for text in drawn] for p, drawn in zip(prompts.probes, texts, strict=True)]
            ),
            usual=shared(
                [[says(text, p.answer) for text in drawn] for p, drawn in zip(prompts.probes, texts, strict=True)]
            ),
            beginnings=_begin(flat, BEGINNINGS),
            coherence=self._coherence(prompts.text, said),
            repeats=repeats(said),
            samples=tuple(samples[:SAMPLES]),
        )

    def _coherence(self, text: Corpus, said: list[list[list[int]]]) -> Figure:
        """Nats per token in whichever unsteered model finds a continuation likelier, mean of each prompt."""
        rows = torch.arange(len(text)).repeat_interleave(self._plan.draws)
        flat = [one for drawn in said for one in drawn]
        spoken = torch.tensor([bool(one) for one in flat])
        if not bool(spoken.any()):
            return NO_TEXT
        corpus, where = joined(text.rows(rows[spoken]), [one for one in flat if one])
        each = torch.stack([nats(model, corpus, where) for model in (self._bench.reference, self._bench.tuned)])
        best, owner = each.amin(dim=0), rows[spoken]
        return mean_figure([float(best[owner == prompt].mean()) for prompt in owner.unique().tolist()])

    def _table(self, prompts: _Prompts, handle: _Handle) -> Table | None:
        """What the hybrid says after the prompt where the two models differ most."""
        strength = 1.0 if 1.0 in self._plan.strengths else self._plan.strengths[0]
        log_r, log_t = (self._last(model, prompts.text) for model in (self._bench.reference, self._bench.tuned))
        widest = int((log_t.exp() * (log_t - log_r)).sum(dim=1).argmax())
        text = prompts.text.rows(torch.tensor([widest]))
        sampling = Sampling(
            TABLE_TOKENS,
            self._plan.rollouts,
            seed=derive(self._plan.seed, "table"),
            ends=self._ends,
            words=len(self._bench.tokenizer),
        )
        found = self._said(
            [self._speaker("hybrid", *asked) for asked in ((0.0, None), (strength, handle))], text, sampling
        )
        plain, steered = (
            None if isinstance(one, DiffError) else [self._text(said) for said in one[0]] for one in found
        )
        if plain is None or steered is None:
            return None
        words = [words for texts in (plain, steered) for words, _ in beginnings(texts, most=TABLE_ROWS)]
        return Table(
            prompt=prompts.probes[widest].text[-2000:],
            strength=strength,
            plain=_count(plain, words),
            steered=_count(steered, words),
        )

    def _last(self, model: Model, text: Corpus) -> Tensor:
        last = len(blocks(model)) - 1
        with torch.inference_mode():
            parts = [
                unembed(model, hidden(model, b.ids, b.mask, last)[torch.arange(len(b)), b.last]).float().log_softmax(-1)
                for _, b in text.batches(BATCH)
            ]
        return torch.cat(parts)

    def _text(self, ids: Sequence[int]) -> str:
        written: str = self._bench.tokenizer.decode(list(ids))
        return written.encode("utf-8", "replace").decode()[:2000]


def _begin(texts: Sequence[str], most: int) -> tuple[Beginning, ...]:
    return tuple(_beginning(words, count) for words, count in beginnings(texts, most=most))


def _count(texts: Sequence[str], words: Sequence[str]) -> tuple[Beginning, ...]:
    """How many texts begin with each of some first words, the commonest first; none is a count too."""
    found = dict(beginnings(texts, most=len(texts)))
    counts = [(one, found.get(one, Count(0, len(texts)))) for one in dict.fromkeys(words)]
    return tuple(_beginning(*one) for one in sorted(counts, key=lambda one: -one[1].hits))


def _beginning(words: str, count: Count) -> Beginning:
    return Beginning(words=words[:2000], share=Share(hits=count.hits, n=count.n, figure=count.figure))
