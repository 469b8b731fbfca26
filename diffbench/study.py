"""Study: a claim of the literature as inequalities with margins, registered before they were run, and its verdict.

The registered studies lie in ``studies.yaml``; nothing of what was measured does. Knows nothing of models or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from diffbench.errors import RecordError, UnknownName
from diffbench.figure import Figure
from diffbench.interval import mean_interval
from diffbench.line import one_line
from diffbench.recipe import first_problem
from diffbench.record import Record
from diffbench.scores import Judged, Scores
from diffbench.truth import Schema

STUDIES = "studies.yaml"
SET = "set"
"""Readings ``set.FORM`` are of the record's set of latents under a bound."""

ROUNDING = 1e-9
"""Values that differ by no more are equal: a difference or ratio of equal counts may differ in its last digits."""

Conclusion = Literal["holds", "does not hold here", "undecided"]


class FitRun(Schema):
    """Methods on one pair, each run once per organism seed."""

    organism: str
    reference: Literal["base", "control"]
    layer: int | None = Field(description="None: by the rule")
    methods: dict[str, dict[str, Any]] = Field(min_length=1, description="options by method")


class Term(Schema):
    """One quantity of one fit."""

    fit: str = Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", description="run/method")
    read: str = Field(pattern=r"^[a-z_]+\.[a-z0-9_]+$", description="a score of the record, or a measured quantity")
    below: float | None = Field(None, description="of a set of latents: the bound of |nu|")

    @model_validator(mode="after")
    def _sets_are_bounded(self) -> Self:
        if (self.read.partition(".")[0] == SET) != (self.below is not None):
            raise ValueError(f"below: {SET}.* has a bound of |nu|, and nothing else has one")
        return self

    @property
    def run(self) -> str:
        """The run that the fit is of."""
        return self.fit.partition("/")[0]

    @property
    def method(self) -> str:
        """The method of the fit."""
        return self.fit.partition("/")[2]

    @property
    def in_record(self) -> bool:
        """Whether the record has it; everything else is measured from the fit, with the models where need be."""
        return self.read.partition(".")[0] in (*Scores.model_fields, SET)


class Inequality(Schema):
    """A statistic of each unit, and the side of a margin on which its mean is claimed to lie."""

    id: str = Field(pattern=r"^[a-z0-9.-]+$")
    says: str = Field(description="the inequality in words, with its margin and its pair")
    published: str = Field(description="what the source measured, in its setting")
    decides: bool = Field(True, description="whether the study's verdict rests on it")
    first: Term
    second: Term | None = None
    combine: Literal["value", "difference", "ratio"]
    direction: Literal["above", "below"]
    margin: float

    @model_validator(mode="after")
    def _terms_agree(self) -> Self:
        if (self.combine == "value") != (self.second is None):
            raise ValueError("a value has one term, a difference and a ratio have two")
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """One or two."""
        return (self.first,) if self.second is None else (self.first, self.second)


class Study(Schema):
    """One claim."""

    id: str = Field(pattern=r"^[A-Z0-9]+$")
    version: int = Field(ge=1, description="a study that proved mis-specified stays, and gets another version")
    claim: str
    source: str
    undefined: str = Field(description="how the statistic is made, and when a unit has none")
    tests: tuple[Inequality, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _something_decides(self) -> Self:
        if not any(test.decides for test in self.tests):
            raise ValueError("no test decides")
        if len({test.id for test in self.tests}) != len(self.tests):
            raise ValueError("two tests have one id")
        return self

    @property
    def name(self) -> str:
        """C1, and C1-v2 of a second version."""
        return self.id if self.version == 1 else f"{self.id}-v{self.version}"


class Registration(Schema):
    """All registered studies and the fits they share."""

    schema_version: Literal[1] = 1
    registered: str = Field(description="date, ISO 8601")
    known: str = Field(description="what had been seen before")
    tier: str
    organism_seeds: tuple[int, ...] = Field(min_length=1)
    method_seed: int
    runs: dict[str, FitRun]
    studies: tuple[Study, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_are_run(self) -> Self:
        names = [study.name for study in self.studies]
        if len(set(names)) != len(names):
            raise ValueError("two studies have one id and version")
        for study in self.studies:
            for term in (term for test in study.tests for term in test.terms):
                if term.run not in self.runs or term.method not in self.runs[term.run].methods:
                    raise ValueError(f"study {study.id}: {term.fit} is not among the runs")
        return self

    def named(self, names: Sequence[str]) -> tuple[Study, ...]:
        """The studies of some names, in the registered order; none: all. ``C1`` names every version of C1.

        Raises:
            UnknownName: if there is no such study.
        """
        asked = [name.upper().replace("-V", "-v") for name in names]
        known = {name for study in self.studies for name in (study.id, study.name)}
        for name in asked:
            if name not in known:
                raise UnknownName("study", name, sorted(known))
        return tuple(study for study in self.studies if not asked or {study.id, study.name} & set(asked))


def registration() -> Registration:
    """What is registered with this diffbench."""
    return read_registration((files("diffbench") / STUDIES).read_text(encoding="utf-8"))


def read_registration(text: str) -> Registration:
    """Parse a registration.

    Raises:
        RecordError: if it is no YAML, or not what a registration must be.
    """
    try:
        document = yaml.safe_load(text)
        if isinstance(document, dict) and "registered" in document:
            document["registered"] = str(document["registered"])
        return Registration.model_validate(document)
    except yaml.YAMLError as error:
        raise RecordError(f"{STUDIES}: no YAML ({one_line(error, 200)})") from None
    except ValidationError as error:
        raise RecordError(f"{STUDIES}: {first_problem(error)}") from None


class Reading(Schema):
    """A quantity of one fit, or why there is none."""

    figure: Figure | None = Field(None, description="null: it could not be measured")
    error: str | None = Field(None, description="why, in one line; a failure, unlike a figure that is undefined")
    detail: str = Field("", description="counts behind the figure, in words")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.figure is None) == (self.error is None):
            raise ValueError("a reading has a figure or an error")
        return self


class Unit(Schema):
    """A statistic of one organism seed."""

    organism_seed: int
    first: Reading
    second: Reading | None = None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """One or two."""
        return (self.first,) if self.second is None else (self.first, self.second)


class Outcome(Schema):
    """What became of an inequality."""

    test: Inequality
    units: tuple[Unit, ...]
    values: tuple[Figure, ...] = Field(description="the statistic of each unit")
    mean: float | None = Field(description="over the units that have one")
    low: float | None = Field(description="lower end of the 95% interval of the mean, from three units on")
    high: float | None
    verdict: Conclusion

    @property
    def by_the_interval(self) -> Conclusion:
        """The verdict without the rule on equal values, which was added after the studies had been registered."""
        return _side(self.test, self.low, self.high)

    @property
    def undefined(self) -> int:
        """Units without a value."""
        return sum(value.value is None for value in self.values)

    @property
    def errors(self) -> tuple[str, ...]:
        """What could not be measured, each reason once."""
        return tuple(dict.fromkeys(r.error for unit in self.units for r in unit.readings if r.error is not None))


class StudyResult(Schema):
    """What became of a study."""

    study: Study
    outcomes: tuple[Outcome, ...]
    verdict: Conclusion

    @property
    def errors(self) -> tuple[str, ...]:
        """What could not be measured, each reason once."""
        return tuple(dict.fromkeys(error for outcome in self.outcomes for error in outcome.errors))


def concluded(study: Study, units: Sequence[Sequence[Unit]]) -> StudyResult:
    """The verdict of a study over the units of each of its tests, in order."""
    outcomes = tuple(outcome(test, found) for test, found in zip(study.tests, units, strict=True))
    deciding = {each.verdict for each in outcomes if each.test.decides}
    verdict: Conclusion = "undecided"
    if "does not hold here" in deciding:
        verdict = "does not hold here"
    elif deciding == {"holds"}:
        verdict = "holds"
    return StudyResult(study=study, outcomes=outcomes, verdict=verdict)


def outcome(test: Inequality, units: Sequence[Unit]) -> Outcome:
    """The verdict of an inequality: where the 95% interval of the mean over units lies as to the margin.

    Student's t says nothing of values that do not vary: their interval has no width, and decides nothing.
    """
    values = tuple(statistic(test, unit) for unit in units)
    known = [value.value for value in values if value.value is not None]
    interval = mean_interval(known)
    mean, low, high = interval or (sum(known) / len(known) if known else None, None, None)
    equal = interval is not None and max(known) - min(known) <= ROUNDING
    verdict = "undecided" if equal else _side(test, low, high)
    return Outcome(test=test, units=tuple(units), values=values, mean=mean, low=low, high=high, verdict=verdict)


def _side(test: Inequality, low: float | None, high: float | None) -> Conclusion:
    """On which side of the margin an interval lies."""
    if low is None or high is None or low <= test.margin <= high:
        return "undecided"
    return "holds" if (low > test.margin) == (test.direction == "above") else "does not hold here"


def statistic(test: Inequality, unit: Unit) -> Figure:
    """What the inequality speaks of, for one unit; without a number where one of its terms has none."""
    numbers = []
    for reading in unit.readings:
        if reading.figure is None:
            return Figure.undefined(f"not measured: {reading.error}"[:500])
        if reading.figure.value is None:
            return reading.figure
        numbers.append(reading.figure.value)
    if test.combine == "ratio" and numbers[1] <= 0:
        return Figure.undefined("the second term is not above 0, so their ratio has no meaning")
    if test.combine == "value":
        return Figure.of(numbers[0])
    return Figure.of(numbers[0] - numbers[1] if test.combine == "difference" else numbers[0] / numbers[1])


def reading_of(record: Record, term: Term) -> Reading | None:
    """What a record says of a term: its score, or why the cell has none; None: it has to be measured."""
    if record.scores is None:
        why = f"{record.cell.method} on {record.cell.organism}: {record.reason}"
        failed = record.status == "error"
        return Reading(error=why) if failed else Reading(figure=Figure.not_applicable(one_line(why, 400)))
    return score_of(record.scores, term) if term.in_record else None


def score_of(scores: Scores, term: Term) -> Reading:
    """A score by its dotted name, or that of the set of latents under a bound."""
    part, _, name = term.read.partition(".")
    if part != SET:
        score = getattr(getattr(scores, part), name)
        figure = score.score if isinstance(score, Judged) else score
        assert isinstance(figure, Figure)  # the tests see to it that registered names are figures
        return Reading(figure=figure)
    found = next((each for each in scores.recovery.sets if each.below == term.below), None)
    if found is None:
        return Reading(figure=Figure.undefined(f"the record has no set of latents with |nu| < {term.below}"))
    detail = f"{found.n} latents"
    if found.n == 0:
        return Reading(figure=Figure.of(0.0), detail=detail)  # nothing is added: R = 0 by definition
    figure = found.additive if name == "additive" else found.replace
    return Reading(figure=figure, detail=detail)
