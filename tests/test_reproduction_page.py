"""The page: fixed results give a fixed page, text of strangers is no markup, and what fails is shown failing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffbench.figure import Figure
from diffbench.reproduction import PairSeen, Reproduction
from diffbench.reproduction_page import TEXT, page, text
from diffbench.study import FitRun, Inequality, Reading, Study, StudyResult, Term, Unit, concluded

GOLDEN = Path(__file__).parent / "golden" / "reproduction.md"
HOSTILE = "a <b>bold</b> | claim\n# with `code` and [a link](https://example.org)"


def inequality(name: str, **changes: Any) -> Inequality:
    asked: dict[str, Any] = {
        "id": name,
        "says": "the first exceeds the second by more than .05",
        "published": ".88 against .60",
        "first": Term(fit="chat/diff-sae", read="recovery.r_full"),
        "second": Term(fit="chat/crosscoder-batchtopk", read="set.additive", below=0.3),
        "combine": "difference",
        "direction": "above",
        "margin": 0.05,
    }
    return Inequality(**(asked | changes))


def units(*pairs: tuple[float | None, float]) -> list[Unit]:
    def first(value: float | None) -> Reading:
        return Reading(figure=Figure.undefined("no KL above its noise floor") if value is None else Figure.of(value))

    return [
        Unit(organism_seed=seed, first=first(a), second=Reading(figure=Figure.of(b), detail="12 latents"))
        for seed, (a, b) in enumerate(pairs, start=1)
    ]


def study(name: str, claim: str, *tests: Inequality, version: int = 1) -> Study:
    return Study(id=name, version=version, claim=claim, source="seed 001", undefined="Where it is.", tests=tests)


HOLDING = units((0.9, 0.6), (0.92, 0.6), (0.88, 0.6))
FAILING = units((0.5, 0.6), (0.52, 0.6), (0.48, 0.6))
OPEN = units((0.5, 0.6), (None, 0.6), (0.48, 0.6))
ALONE = [
    Unit(organism_seed=1, first=Reading(error="measuring: out of memory")),
    Unit(organism_seed=2, first=Reading(figure=Figure.of(2.0))),
    Unit(organism_seed=3, first=Reading(figure=Figure.not_applicable("no edit"))),
]


def studies() -> tuple[StudyResult, ...]:
    aside = inequality("aside", decides=False)
    value = inequality("alone", second=None, combine="value", direction="below", margin=-1.5)
    return (
        concluded(study("C1", "A diff-SAE recovers more.", inequality("full"), aside), [HOLDING, OPEN]),
        concluded(study("C2", HOSTILE, inequality("full")), [FAILING]),
        concluded(study("C3", "So it is.", inequality("full")), [OPEN]),
        concluded(study("C3", "So it is, said better.", value, version=2), [ALONE]),
    )


def found(**changes: Any) -> Reproduction:
    asked: dict[str, Any] = {
        "registered": "2026-01-02",
        "known": "Nothing | had been seen.",
        "registered_tier": "laptop",
        "tier": "laptop",
        "organism_seeds": (1, 2, 3),
        "method_seed": 0,
        "runs": {
            "chat": FitRun(
                organism="chat",
                reference="base",
                layer=None,
                methods={"diff-sae": {}, "crosscoder-l1": {"penalty": 1.0}},
            )
        },
        "pairs": (
            PairSeen(
                run="chat",
                organism="chat@1",
                reference="base",
                layer=2,
                layer_rule="the rule",
                kl=Figure.of(2.125),
                ceiling=Figure.of(0.75),
            ),
        ),
        "studies": studies(),
        "cells": 18,
        "reused": 3,
        "projected": 600.0,
        "seconds": 660.0,
        "jobs": 2,
        "diffbench": "0.1.0",
        "finished": "2026-01-03T04:05:06+00:00",
    }
    return Reproduction(**(asked | changes))


def test_the_page_of_fixed_results() -> None:
    """Write it anew with: python -c 'import test_reproduction_page as t; t.GOLDEN.write_text(t.page(t.found()))'."""
    assert page(found()) == GOLDEN.read_text(encoding="utf-8")


def row(text: str, *cells: str) -> list[str]:
    """The cells of the only table row that begins with some cells."""
    [line] = [line for line in text.splitlines() if line.startswith("| " + " | ".join(cells) + " |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_a_claim_that_fails_is_shown_failing_with_its_numbers() -> None:
    written = page(found())
    assert "## C2: does not hold here" in written
    section = written[written.index("## C2") : written.index("## C3:")]
    line = row(section, "full", "the first exceeds the second by more than .05")
    _, _, statistic, published, measured, interval, margin, n, verdict = line
    assert statistic == "chat/diff-sae recovery.r_full minus chat/crosscoder-batchtopk set.additive below 0.3"
    assert published == ".88 against .60"
    assert (measured, interval, margin, n) == ("-.100", "-.150 to -.050", "above .050", "3")
    assert verdict == "does not hold here"
    assert row(section, "full", "1")[2:5] == [".500", ".600", "-.100"]


def test_what_the_later_rule_on_equal_values_decides_is_shown_with_what_it_was_before() -> None:
    equal = units((0.5, 0.6), (0.5, 0.6), (0.5, 0.6))
    written = page(found(studies=(concluded(study("C1", "So it is.", inequality("full")), [equal]),)))
    verdict = row(written[written.index("## C1:") :], "full", "the first exceeds the second by more than .05")[-1]
    assert verdict == "undecided: all equal, without that rule does not hold here"


def test_undefined_units_are_counted_and_say_why() -> None:
    written = page(found())
    section = written[written.index("## C3:") : written.index("## C3-v2")]
    assert row(section, "full", "the first exceeds the second by more than .05")[-2:] == ["2, 1 undefined", "undecided"]
    assert row(section, "full", "2")[4:] == ["undef.", "12 latents; no KL above its noise floor"]


def test_what_could_not_be_measured_is_said() -> None:
    written = page(found())
    section = written[written.index("## C3-v2") : written.index("## Fits")]
    assert "- not measured: measuring: out of memory" in section
    assert row(section, "alone", "1")[2:4] == ["ERROR", "-"]
    assert row(section, "alone", "3")[4] == "n/a"
    assert "Version 2: registered anew" in section
    assert found().errors == ("C3-v2: measuring: out of memory",)


def test_text_of_studies_is_no_markup() -> None:
    written = page(found())
    assert "<b>" not in written and "[a link](" not in written.replace("\\[a link\\](", "") and "://ex" not in written
    assert all(not line.startswith("# with") for line in written.splitlines())
    tables = [line for line in written.splitlines() if line.startswith("|")]
    for line in tables:
        assert line.count(" | ") + 1 in (4, 5, 6, 9) or set(line) == {"|", "-"}, line


@pytest.mark.parametrize(("tier", "trial"), [("laptop", False), ("smoke", True)])
def test_a_trial_at_another_tier_says_so(tier: str, trial: bool) -> None:
    assert ("**A trial at the tier smoke: not what was registered.**" in page(found(tier=tier))) == trial


def test_rows_for_a_terminal() -> None:
    rows = text(found())
    assert all(len(each) == len(TEXT) for each in rows)
    assert rows[0] == ("C1", "", "", "", "", "HOLDS")
    assert rows[1] == ("", "full", ".88 against .60", ".300 .250 to .350", "above .050", "holds")
    assert rows[2][1:] == ("(aside)", ".88 against .60", "-.110 -", "above .050", "undecided")
