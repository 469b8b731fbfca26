"""Measurement: the quantities of studies that no record has, read off a fit, with the models where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from diffbench import exclusive, triples
from diffbench.ablation import Ablation, ablate
from diffbench.comparison import Comparison
from diffbench.corpus import Corpus
from diffbench.diff import Diff, WeightDiff
from diffbench.diff_file import load_diff
from diffbench.errors import DiffbenchError, DiffError
from diffbench.exchange import DIFF
from diffbench.figure import Figure
from diffbench.interpolation import Curve, interpolate
from diffbench.line import error_line
from diffbench.overlap import refusal_overlap
from diffbench.residual import Model, load_pair, load_tokenizer
from diffbench.study import Reading
from diffbench.template_share import template_shares
from diffbench.truth import Truth
from diffbench.worded import Worded


@dataclass(frozen=True)
class Subject:
    """A finished fit and the pair it is of; what is heavy is read when it is first needed, once."""

    comparison: Comparison
    fit: Path

    @cached_property
    def diff(self) -> Diff:
        """What the method left."""
        return load_diff(self.fit / DIFF)

    @cached_property
    def worded(self) -> Worded:
        """The fit's dictionary."""
        return Worded.load(self.fit)

    @cached_property
    def truth(self) -> Truth | None:
        """What was changed on purpose."""
        return self.comparison.truth()

    @cached_property
    def models(self) -> tuple[Model, Model]:
        """Reference and tuned; apart where their weights are edited."""
        base, edited = self.comparison.organism.model_path("base"), isinstance(self.diff, WeightDiff)
        return load_pair(*self.comparison.models(), base=base, apart=edited)

    @cached_property
    def tokenizer(self) -> Any:
        """Of both models."""
        return load_tokenizer(self.comparison.models()[1], base=self.comparison.organism.model_path("base"))

    @cached_property
    def corpus(self) -> Corpus:
        """The evaluation split."""
        return Corpus.load(self.comparison.path / "evaluation.safetensors")

    @cached_property
    def overlaps(self) -> tuple[Reading, Reading]:
        """Of base and tuned side."""
        return refusal_overlap(self.worded, *self.models, self.tokenizer, self.truth)

    @cached_property
    def templates(self) -> tuple[Reading, Reading]:
        """Of tuned-only and shared latents."""
        return template_shares(self.worded, *self.models, self.corpus)

    @cached_property
    def ablation(self) -> Ablation:
        """Of a tied crosscoder."""
        facts, diff = self.comparison.facts(), self.worded.diff
        limits = facts.outlier_norms if diff.layer == facts.layer else None
        return ablate(diff, *self.models, self.corpus, limits)

    @cached_property
    def curve(self) -> Curve | None:
        """Of layers that are replaced from below."""
        if not isinstance(self.diff, WeightDiff):
            raise DiffError(f"a {self.diff.kind} diff replaces no layers")
        return interpolate(self.diff, *self.models, self.tokenizer, self.truth)

    @property
    def words(self) -> frozenset[str]:
        """The words whose probability was changed on purpose."""
        claims = () if self.truth is None else self.truth.claims
        return frozenset(word for c in claims for word in (*c.effect.tokens_up, *c.effect.tokens_down))


def _of_dictionary(read: Callable[[Worded], Reading]) -> Callable[[Subject], Reading]:
    return lambda subject: read(subject.worded)


def _of_colours(read: Callable[[Worded, frozenset[str]], Reading]) -> Callable[[Subject], Reading]:
    def of_two(subject: Subject) -> Reading:
        if len(subject.words) != 2:
            return Reading(figure=Figure.undefined(f"the organism's claims name {len(subject.words)} words, not two"))
        return read(subject.worded, subject.words)

    return of_two


def _of_curve(read: Callable[[Curve], Reading]) -> Callable[[Subject], Reading]:
    def of_known(subject: Subject) -> Reading:
        curve = subject.curve
        if curve is None:
            return Reading(figure=Figure.undefined("no claim has affected probes"))
        return read(curve)

    return of_known


MEASURED: Mapping[str, Callable[[Subject], Reading]] = {
    "tuned_only.rejected": _of_dictionary(exclusive.rejected),
    "tuned_only.rejected_of_live": _of_dictionary(exclusive.rejected_of_live),
    "specific.share": _of_dictionary(exclusive.specific_share),
    "specific.often": _of_dictionary(exclusive.specific_often),
    "nearest.exclusive": _of_dictionary(exclusive.nearest_exclusive),
    "nearest.shared": _of_dictionary(exclusive.nearest_shared),
    "colours.twin_cosine": _of_colours(exclusive.twin_cosine),
    "colours.shared_cosine": _of_colours(exclusive.shared_cosine),
    "colours.base_exclusive": _of_colours(exclusive.base_exclusive),
    "triples.both_colours": _of_colours(partial(triples.triples_of, every=True)),
    "triples.either_colour": _of_colours(partial(triples.triples_of, every=False)),
    "triples.exclusive_firing": _of_dictionary(triples.exclusive_firing),
    "triples.new": _of_dictionary(triples.new),
    "pairs.both_colours": _of_colours(triples.pairs_of),
    "refusal.overlap_base": lambda subject: subject.overlaps[0],
    "refusal.overlap_tuned": lambda subject: subject.overlaps[1],
    "template.tuned_only": lambda subject: subject.templates[0],
    "template.shared": lambda subject: subject.templates[1],
    "ablation.error_without_firing": lambda subject: subject.ablation.firing.error,
    "ablation.error_without_vectors": lambda subject: subject.ablation.vectors.error,
    "ablation.delta_without_firing": lambda subject: subject.ablation.firing.delta,
    "ablation.delta_without_vectors": lambda subject: subject.ablation.vectors.delta,
    "stitching.spearman": _of_curve(Curve.spearman),
    "stitching.depth_identity": _of_curve(Curve.depth_identity),
    "stitching.depth_others": _of_curve(Curve.depth_others),
}
"""What can be measured, by its name in `diffbench.study.Term.read`."""


def measure_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: measure quantities of a fit. Request: `Comparison.request`, fit (folder), read (names).

    One that fails does not keep the others from being measured.
    """
    subject = Subject(Comparison.of(request), Path(request["fit"]))
    return {"readings": [reading.model_dump(mode="json") for reading in measured(subject, request["read"])]}


def measured(subject: Subject, names: Sequence[str]) -> list[Reading]:
    """A reading for each name."""
    readings = []
    for name in names:
        try:
            readings.append(MEASURED[name](subject))
        except DiffbenchError as error:
            readings.append(Reading(error=error_line(error)))
    return readings
