"""Change detection: nulls by class, thresholds and AUROC by definition, verdicts, and what is not known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from record_factory import figure, record, scores, write_run
from rich.cells import cell_len
from study_factory import nulls, study

from diffbench.change_detection import ChangeDetection, DetectionRow, auroc, change_detection, threshold
from diffbench.change_page import page, text
from diffbench.cli import main
from diffbench.columns import rows
from diffbench.figure import Figure
from diffbench.interval import mean_interval
from diffbench.leaderboard import build
from diffbench.proportion import share_interval
from diffbench.record import Record


def positives(method: str, change_scores: list[float], verdict: str = "changed", seed: int = 0) -> list[Record]:
    return [
        record(
            method,
            seed,
            scored=scores(change_score=figure(value), verdict=verdict),
            cell={"family": f"f{at % 3}", "organism": f"o{at}", "organism_seed": 0, "changed": True},
        )
        for at, value in enumerate(change_scores)
    ]


def tables(records: list[Record]) -> dict[str, ChangeDetection]:
    return {table.null_class: table for table in change_detection(rows(records))}


def only(records: list[Record], null_class: str = "identity") -> DetectionRow:
    [row] = tables(records)[null_class].rows
    return row


def over_families(means: list[float]) -> tuple[Any, Any]:
    found = mean_interval(means)
    assert found is not None
    return pytest.approx(max(0.0, found[1])), pytest.approx(min(1.0, found[2]))


def seeded(hits: dict[str, list[bool]], families: int) -> list[Record]:
    """Changed organisms, each at as many seeds as there are answers, over so many families in turn."""
    return [
        record(
            "m",
            scored=scores(change_score=figure(float(hit)), verdict="changed" if hit else "unchanged"),
            cell={"family": f"f{at % families}", "organism": f"{name}@{seed}", "organism_seed": seed, "changed": True},
        )
        for at, (name, answers) in enumerate(hits.items())
        for seed, hit in enumerate(answers)
    ]


def test_seeds_of_a_changed_organism_are_no_changes_of_their_own() -> None:
    quiet = nulls("m", "identity", [0.5] * 20)
    for n in (1, 10):
        records = [*seeded({"a": [True] * n, "b": [False] * n}, 2), *quiet]
        row = only(records)
        for found in (row.hits, row.tpr_5):
            assert (found.value, found.low, found.high) == pytest.approx((0.5, *share_interval(1, 2)))
        assert (tables(records)["identity"].unit, row.answered_changed) == ("organism", 2 * n)
    uneven = only([*seeded({"a": [True] * 9, "b": [False]}, 2), *quiet])
    assert uneven.hits.value == 0.5  # of two organisms, whatever their seeds


def test_with_three_families_shares_of_changed_organisms_are_over_families() -> None:
    answers = {"a": [True, True, True], "b": [True, True, False], "c": [True, False, True], "d": [True] * 3}
    records = [*seeded(answers, 3), *nulls("m", "identity", [0.5] * 20)]
    found = tables(records)["identity"]
    by_family = [1, 2 / 3, 2 / 3]  # d is of the first family
    assert found.unit == "family"
    for figure_ in (found.rows[0].hits, found.rows[0].tpr_5):
        assert figure_.value == pytest.approx(7 / 9)
        assert (figure_.low, figure_.high) == over_families(by_family)
        assert figure_.high == 1 and figure_.low is not None and 0 < figure_.low
    assert "means over families, with Student's t" in " ".join(text([found]).split())
    assert "means over families" in page([found]) and "means over organisms" not in page([found])


def test_families_that_are_all_alike_have_no_spread_and_an_interval_of_their_number() -> None:
    records = [*seeded({name: [True] * 5 for name in "abcd"}, 4), *nulls("m", "identity", [0.0] * 3)]
    row = only(records)
    assert (row.hits.value, row.hits.low, row.hits.high) == pytest.approx((1.0, *share_interval(4, 4)))
    two = [*seeded({name: [True] * 5 for name in "abcd"}, 2), *nulls("m", "identity", [0.0] * 3)]
    assert "means over organisms" in " ".join(text(change_detection(rows(two))).split())


def test_classes_are_apart_and_never_pooled() -> None:
    records = [
        *positives("m", [1.0, 2.0]),
        *nulls("m", "identity", [0.0] * 20),
        *nulls("m", "continued", [0.5] * 7),
        *nulls("m", "control", [1.5] * 3),
        *nulls("m", "gauge", [9.0] * 2, verdicts="changed"),
    ]
    found = tables(records)
    assert list(found) == ["identity", "continued", "control", "gauge"]
    assert [table.track for table in found.values()] == ["false alarms", "specificity", "specificity", "gauge"]
    assert [table.rows[0].nulls for table in found.values()] == [20, 7, 3, 2]
    assert [table.rows[0].auroc.value for table in found.values()] == [1.0, 1.0, 0.5, 0.0]
    assert [table.rows[0].pairs for table in found.values()] == [40, 14, 6, 4]
    assert [table.rows[0].alarms.value for table in found.values()] == [0.0, 0.0, 0.0, 1.0]


def test_a_rate_needs_as_many_nulls_as_can_show_it() -> None:
    for n, five, one in ((19, False, False), (20, True, False), (99, True, False), (100, True, True)):
        row = only([*positives("m", [1.0, 2.0, 0.0]), *nulls("m", "identity", [0.1] * n)])
        assert (row.tpr_5.value is not None, row.tpr_1.value is not None) == (five, one)
        assert row.resolution == pytest.approx(1 / n)
        if not one:
            assert row.tpr_1.reason == f"needs 100 independent nulls, there are {n}"
            assert row.threshold_1 is None
        if five:
            assert row.tpr_5.value == pytest.approx(2 / 3)
            assert (row.tpr_5.low, row.tpr_5.high) == over_families([1, 1, 0])


def test_method_seeds_are_averaged_and_are_no_nulls_of_their_own() -> None:
    records = [
        item
        for seed in range(5)
        for item in (
            *positives("m", [seed / 10], seed=seed),
            *(
                other.model_copy(update={"cell": other.cell.model_copy(update={"seed": seed}), "key": f"{seed}{at}"})
                for at, other in enumerate(nulls("m", "identity", [seed / 100] * 4))
            ),
        )
    ]
    row = only(records)
    assert (row.nulls, row.positives, row.pairs, row.tpr_5.state) == (4, 1, 4, "n/a")
    assert (row.answered_nulls, row.answered_changed) == (4, 1)


def test_the_same_seed_of_another_organism_is_another_null() -> None:
    lora = [
        item.model_copy(update={"cell": item.cell.model_copy(update={"organism": f"lora-{item.cell.organism}"})})
        for item in nulls("m", "continued", [0.1] * 10)
    ]
    assert only([*positives("m", [1.0]), *nulls("m", "continued", [0.1] * 10), *lora], "continued").nulls == 20


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_smallest_observed_score_that_few_enough_nulls_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quiet, loud = (rng.integers(0, 12, n).astype(float).tolist() for n in (40, 15))  # with many ties
    for rate in (0.05, 0.01, 0.3):
        found = threshold(quiet, loud, rate)
        allowed = [c for c in {*quiet, *loud} if sum(value >= c for value in quiet) <= rate * 40]
        assert found == min(allowed, default=None)


def test_ties_with_the_threshold_are_alarms_and_ties_of_nulls_are_not_let_through() -> None:
    assert threshold([0.0] * 19 + [1.0], [1.0, 0.5], 0.05) == 0.5
    row = only([*positives("m", [1.0, 0.5, 0.0]), *nulls("m", "identity", [0.0] * 19 + [1.0])])
    assert (row.threshold_5, row.tpr_5.value) == (0.5, pytest.approx(2 / 3))
    # Two nulls at the top are 10%: neither may reach the threshold.
    row = only([*positives("m", [1.0, 2.0]), *nulls("m", "identity", [0.0] * 18 + [1.0] * 2)])
    assert (row.threshold_5, row.tpr_5.value) == (2.0, 0.5)
    # No score that was seen is rare enough: nothing alarms, which is a rate of 0 and no lack of an answer.
    row = only([*positives("m", [1.0, 0.0]), *nulls("m", "identity", [0.0] * 18 + [1.0] * 2)])
    assert (row.threshold_5, row.tpr_5.value) == (None, 0.0)
    row = only([*positives("m", [0.0] * 5), *nulls("m", "identity", [0.0] * 20)])
    assert (row.tpr_5.value, row.auroc.value) == (0.0, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_counted_pair_by_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loud, quiet = (rng.integers(0, 6, n).astype(float).tolist() for n in (9, 14))
    pairs = list(itertools.product(loud, quiet))
    by_hand = sum((one > other) + (one == other) / 2 for one, other in pairs) / len(pairs)
    assert auroc(loud, quiet) == pytest.approx(by_hand)


def test_abstaining_is_an_answer_and_neither_hit_nor_alarm() -> None:
    records = [
        *positives("m", [1.0] * 4, "changed"),
        *(item for item in positives("m", [1.0] * 10, "abstain")[4:]),
        *nulls("m", "identity", [0.0] * 10, verdicts="abstain"),
    ]
    row = only(records)
    by_family = [2 / 4, 1 / 3, 1 / 3]
    hits = sum(by_family) / 3
    assert (row.hits.value, row.abstains_changed.value) == (pytest.approx(hits), pytest.approx(1 - hits))
    assert row.answered_changed == 10
    assert (row.alarms.value, row.abstains_nulls.value, row.answered_nulls) == (0.0, 1.0, 10)
    assert (row.alarms.low, row.alarms.high) == pytest.approx(share_interval(0, 10))
    assert (row.hits.low, row.hits.high) == over_families(by_family)


def test_seeds_of_a_method_that_disagree_are_a_share_of_an_alarm() -> None:
    one = nulls("m", "identity", [0.0, 0.0], verdicts="changed")
    other = [
        item.model_copy(
            update={
                "cell": item.cell.model_copy(update={"seed": 1}),
                "scores": scores(verdict="unchanged", change_score=figure(0.0)),
                "key": f"other{at}",
            }
        )
        for at, item in enumerate(one)
    ]
    row = only([*one, *other])
    assert (row.alarms.value, row.answered_nulls) == (0.5, 2)
    one_of_two = share_interval(1, 2)
    assert (row.alarms.low, row.alarms.high) == pytest.approx(one_of_two)


def test_what_has_no_change_score_never_becomes_a_number() -> None:
    records = [
        *positives("m", [1.0, 2.0]),
        record("m", status="error", reason="E: x", cell={"organism": "o9", "family": "f", "changed": True}),
        *nulls("m", "identity", [0.0, None, 0.0]),
    ]
    row = only(records)
    assert (row.nulls, row.positives, row.pairs) == (2, 2, 4)
    assert row.gaps == "no score on 1 of 3 nulls (1 undefined); no score on 1 of 3 changed (1 failed)"
    assert (row.answered_nulls, row.answered_changed) == (3, 2)
    row = only([*positives("m", [1.0]), *nulls("m", "identity", [None] * 30)])
    for found in (row.auroc, row.tpr_5, row.tpr_1):
        assert (found.state, found.value) == ("n/a", None)
    assert row.resolution is None
    assert "n/a (0/20)" in text(change_detection(rows([*positives("m", [1.0]), *nulls("m", "identity", [None] * 30)])))


def test_a_method_seed_without_a_score_takes_its_null_with_it() -> None:
    first, second = nulls("m", "identity", [0.5, 0.5])
    gone = first.model_copy(
        update={
            "cell": first.cell.model_copy(update={"seed": 1}),
            "scores": scores(change_score=Figure.undefined("x")),
            "key": "gone",
        }
    )
    assert only([first, second, gone]).nulls == 1


def test_nulls_without_changed_organisms_still_show_alarms() -> None:
    [found] = change_detection(rows(nulls("m", "identity", [0.0] * 25)))
    [row] = found.rows
    assert (found.positives, row.hits.state, row.auroc.state, row.tpr_5.state) == (0, "n/a", "n/a", "n/a")
    assert row.alarms.value == 0.0
    assert row.tpr_5.reason == "no changed organism with a change score"
    assert "There is no changed organism" in " ".join(text([found]).split())


def test_without_nulls_there_is_nothing_to_say() -> None:
    assert change_detection(rows(positives("m", [1.0]))) == ()
    unknown = record(cell={"changed": None})
    assert change_detection(rows([unknown])) == ()
    own = record(cell={"changed": False, "organism": "mine"})
    assert only([own, *positives("diff-sae", [1.0])], "unclassed").nulls == 1


def test_references_are_positives_of_their_own_and_count_no_organism_twice() -> None:
    base = positives("m", [1.0, 2.0])
    control = [
        item.model_copy(update={"cell": item.cell.model_copy(update={"reference": "control"}), "key": f"c{at}"})
        for at, item in enumerate(base)
    ]
    found = change_detection(rows([*base, *control, *nulls("m", "identity", [0.0] * 4)]))
    assert [(table.reference, table.positives, table.nulls) for table in found] == [("base", 2, 4), ("control", 2, 4)]
    both = [*nulls("m", "identity", [0.0] * 4), *nulls("m", "identity", [5.0] * 4, reference="control")]
    found = change_detection(rows([*base, *control, *both]))
    assert [(table.nulls, table.rows[0].auroc.value) for table in found] == [(4, 1.0), (4, 0.0)]


def test_budgets_and_judges() -> None:
    """A judge has no part in a change score; another budget has."""
    quiet = nulls("m", "identity", [0.0] * 4)
    other = [
        item.model_copy(update={"cell": item.cell.model_copy(update={"judge": "model"}), "key": f"j{at}"})
        for at, item in enumerate(quiet)
    ]
    assert only([*positives("m", [1.0]), *quiet, *other]).nulls == 4
    found = change_detection(rows([*positives("m", [1.0]), *nulls("m", "identity", [0.0] * 4, tier="laptop")]))
    assert [(table.tier, table.positives) for table in found] == [("laptop", 0)]


def test_controls_are_pinned_and_a_method_that_met_no_null_is_no_row() -> None:
    records = [
        *positives("a", [1.0]),
        *positives("absent", [1.0]),
        *nulls("a", "identity", [0.0]),
        *nulls("nothing", "identity", [0.0], control=True),
        *nulls("oracle", "identity", [0.0], control=True),
    ]
    assert [row.label for row in tables(records)["identity"].rows] == ["oracle", "nothing", "a"]


def test_pages_fit_say_what_an_alarm_is_and_are_escaped() -> None:
    records = [*positives("<b>|m`", [1.0] * 30), *nulls("<b>|m`", "identity", [0.0] * 110)]
    records += nulls("<b>|m`", "gauge", [1.0], verdicts="changed") + nulls("<b>|m`", "continued", [None, 1.0])
    found = change_detection(rows(records))
    for width in (80, 120):
        lines = text(found, width).splitlines()
        assert max(map(cell_len, lines)) <= width
    words = " ".join(text(found, 80).split())
    for said in ("every alarm is false", "Resolution: 1/110 = 0.909%", "specificity", "are expected to alarm"):
        assert said.lower() in words.lower()
    assert "no score on 1 of 2 nulls (1 undefined)" in words
    shown = page(found)
    assert not set(shown) & set("<>")
    assert "counts neither" not in shown and "### gauge" in shown


def test_files_and_command(tmp_path: Path) -> None:
    loud = write_run(tmp_path / "loud", study({"m": 0.3}, families=3))
    quiet = write_run(tmp_path / "quiet", nulls("m", "identity", [0.0] * 20))
    build([loud, quiet], tmp_path / "out")
    data = json.loads((tmp_path / "out" / "leaderboard.json").read_text(), parse_constant=pytest.fail)
    [table] = data["change_detection"]
    known = data["change_detection_columns"]
    assert set(table) <= set(known) and {f"rows.{name}" for name in table["rows"][0]} <= set(known)
    assert all(entry["description"] for entry in known.values())
    shown = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "## Change detection" in shown
    assert shown.count("\n## identity") == 1 and "The same organism at other seeds: identity@1, identity@2" in shown
    done = CliRunner().invoke(main, ["leaderboard", "detection", str(loud), str(quiet)], env={"COLUMNS": "80"})
    assert done.exit_code == 0 and "20 independent nulls against 6 changed organisms" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = CliRunner().invoke(main, ["leaderboard", "detection", str(loud), str(quiet), "--json"])
    assert json.loads(done.stdout)["change_detection"] == data["change_detection"]
    done = CliRunner().invoke(main, ["leaderboard", "detection", str(loud)])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "--organism-seeds" in done.stderr
