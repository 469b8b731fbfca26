"""Reproduction page: what `diffbench reproduce` found, as a Markdown document and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.reproduction import Reproduction
from diffbench.study import Inequality, Outcome, Reading, StudyResult, Term, Unit
from diffbench.table import STATES, escape_markdown, number

ABSENT = "-"
INTRODUCTION = """\
Claims of the literature on model diffing, measured on organisms whose difference is known. Written by
`diffbench reproduce`; statistics, margins, fits and seeds were registered in `diffbench/studies.yaml` before any of
them was run. To reproduce is to measure: a claim that does not hold here is shown with its numbers, and models of a
million parameters say nothing about those of the sources beyond that.

Verdict of a test: with three units or more that have a value, the 95% interval (Student's t over units) of the mean
lies wholly beyond the margin: **holds**; wholly on the other side: **does not hold here**; anything else:
**undecided**. Where all values are equal Student's t says nothing: **undecided**; this rule was added while the fits
were made, after the registration and before any verdict, and where it decides the verdict without it is shown beside
it. A study holds when all its deciding tests hold, and does not hold here when one of them does not; tests in brackets
stand beside them and decide nothing."""

SUMMARY = ("study", "claim", "verdict", "deciding tests: holds, does not hold, undecided")
TESTS = ("test", "inequality", "statistic", "published", "measured", "95% interval", "margin", "units", "verdict")
UNITS = ("test", "organism seed", "first term", "second term", "statistic", "behind it")
FITS = ("fits", "organism", "reference", "layer", "methods and options")
PAIRS = ("fits", "organism", "layer", "KL(tuned \\|\\| reference), nats", "ceiling: R\\_model of the true delta")


def page(found: Reproduction) -> str:
    """The page as GitHub Markdown; all text is escaped."""
    parts = ["# Claims, reproduced\n", INTRODUCTION + "\n", _facts(found) + "\n"]
    if found.tier != found.registered_tier:
        parts.append(f"**A trial at the tier {escape_markdown(found.tier)}: not what was registered.**\n")
    parts += ["## Verdicts\n", _table(SUMMARY, [_summary(each) for each in found.studies])]
    for each in found.studies:
        parts += _study(each)
    fits = [
        [
            name,
            run.organism,
            run.reference,
            "by the rule" if run.layer is None else str(run.layer),
            _methods(run.methods),
        ]
        for name, run in found.runs.items()
    ]
    pairs = [
        [
            pair.run,
            f"{pair.organism} against {pair.reference}",
            str(pair.layer),
            _figure(pair.kl),
            _figure(pair.ceiling),
        ]
        for pair in found.pairs
    ]
    parts += ["## Fits\n", _table(FITS, fits), "## Pairs\n", _table(PAIRS, pairs)]
    return "\n".join(parts)


def text(found: Reproduction) -> list[tuple[str, ...]]:
    """Rows for a terminal: study, test, published, measured with interval, margin, verdict."""
    rows: list[tuple[str, ...]] = []
    for each in found.studies:
        rows.append((each.study.name, "", "", "", "", each.verdict.upper()))
        for outcome in each.outcomes:
            test, measured = outcome.test, f"{_mean(outcome)} {_interval(outcome)}"
            rows.append(("", _name(test), test.published, measured, _margin(test), outcome.verdict))
    return rows


TEXT = ("STUDY", "TEST", "PUBLISHED", "MEASURED", "MARGIN", "VERDICT")


def _facts(found: Reproduction) -> str:
    seeds = ", ".join(map(str, found.organism_seeds))
    minutes = f"{found.seconds / 60:.1f} min with {found.jobs} jobs ({found.projected / 60:.1f} min were projected)"
    again = f"{found.reused} of {found.cells} cells were finished before" if found.reused else f"{found.cells} cells"
    line = (
        f"Registered {found.registered}; run {found.finished} with diffbench {found.diffbench}, tier {found.tier}, "
        f"organism seeds {seeds} (the units), method seed {found.method_seed}; {minutes}; {again}. {found.known}"
    )
    return escape_markdown(line)


def _study(found: StudyResult) -> Iterator[str]:
    study = found.study
    yield f"## {escape_markdown(study.name)}: {found.verdict}\n"
    yield f"{escape_markdown(study.claim)}\n"
    yield f"Source: {escape_markdown(study.source)}. {escape_markdown(study.undefined)}\n"
    if study.version > 1:
        yield f"Version {study.version}: registered anew, before it was run; the earlier one stands as it was.\n"
    yield _table(TESTS, [_test(outcome) for outcome in found.outcomes])
    yield "The units:\n"
    yield _table(UNITS, [row for outcome in found.outcomes for row in _units(outcome)])
    if found.errors:
        yield "".join(f"- not measured: {escape_markdown(error)}\n" for error in found.errors)


def _summary(found: StudyResult) -> list[str]:
    verdicts = [outcome.verdict for outcome in found.outcomes if outcome.test.decides]
    counts = [str(verdicts.count(each)) for each in ("holds", "does not hold here", "undecided")]
    return [found.study.name, found.study.claim, found.verdict, ", ".join(counts)]


def _test(outcome: Outcome) -> list[str]:
    test, known = outcome.test, len(outcome.values) - outcome.undefined
    units = str(known) if not outcome.undefined else f"{known}, {outcome.undefined} undefined"
    measured, interval = _mean(outcome), _interval(outcome)
    shown = (_name(test), test.says, _statistic(test), test.published)
    return [*shown, measured, interval, _margin(test), units, _verdict(outcome)]


def _verdict(outcome: Outcome) -> str:
    """The verdict, and what it would be without the rule on equal values where that makes a difference."""
    before = outcome.by_the_interval
    return outcome.verdict if before == outcome.verdict else f"{outcome.verdict}: all equal, without that rule {before}"


def _units(outcome: Outcome) -> Iterator[list[str]]:
    for unit, value in zip(outcome.units, outcome.values, strict=True):
        yield [
            _name(outcome.test),
            str(unit.organism_seed),
            _reading(unit.first),
            ABSENT if unit.second is None else _reading(unit.second),
            _figure(value),
            _behind(unit, value),
        ]


def _statistic(test: Inequality) -> str:
    between = {"difference": " minus ", "ratio": " over ", "value": ""}[test.combine]
    return between.join(map(_term, test.terms))


def _term(term: Term) -> str:
    return f"{term.fit} {term.read}" + ("" if term.below is None else f" below {term.below:g}")


def _reading(reading: Reading) -> str:
    return "ERROR" if reading.figure is None else _figure(reading.figure)


def _behind(unit: Unit, value: Figure) -> str:
    details = [reading.detail for reading in unit.readings if reading.detail]
    return "; ".join([*details, *([value.reason] if value.reason else [])])


def _name(test: Inequality) -> str:
    return test.id if test.decides else f"({test.id})"


def _mean(outcome: Outcome) -> str:
    return ABSENT if outcome.mean is None else _number(outcome.mean)


def _interval(outcome: Outcome) -> str:
    if outcome.low is None or outcome.high is None:
        return ABSENT
    return f"{_number(outcome.low)} to {_number(outcome.high)}"


def _margin(test: Inequality) -> str:
    return f"{test.direction} {_number(test.margin)}"


def _number(value: float) -> str:
    """Three digits after the point where two would hide what a verdict rests on."""
    return number(value) if abs(value) >= 1 else f"{value:.3f}".replace("0.", ".", 1)


def _figure(figure: Figure) -> str:
    return STATES[figure.state] if figure.value is None else _number(figure.value)


def _methods(methods: dict[str, dict[str, object]]) -> str:
    return "; ".join(
        name + (" " if options else "") + " ".join(f"{key}={value}" for key, value in options.items())
        for name, options in methods.items()
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(escape_markdown(one_line(cell, 1000)) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
