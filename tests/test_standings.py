"""Standings: units, ranks, gaps, lifts and pages from records of several organisms."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from record_factory import figure, pair_facts, record, run_file, scores, write_run
from rich.cells import cell_len
from study_factory import study

from diffbench.cli import main
from diffbench.columns import rows
from diffbench.figure import Figure
from diffbench.leaderboard import build
from diffbench.record import Record
from diffbench.standing import Standing, StandingRow
from diffbench.standings import BETTER, METRICS, WORDS, standings
from diffbench.standings_page import page, text

METHODS = {"diff-sae": 0.3, "crosscoder": 0.2, "pca": 0.05, "mean-difference": -0.2}
TRIVIAL = ("pca", "mean-difference")


def table(records: list[Record], metric: str = "headline", scope: str | None = None) -> Standing:
    [found] = standings(rows(records), (metric,), scope) if scope else standings(rows(records), (metric,))[:1]
    return found


def by_label(found: Standing) -> dict[str, StandingRow]:
    return {row.label: row for row in found.rows}


def cell(item: Record, **changes: Any) -> Record:
    return item.model_copy(update={"cell": item.cell.model_copy(update=changes)})


def failed(item: Record, status: str = "error") -> Record:
    return record(
        item.cell.method, item.cell.seed, status=status, reason="E: x", cell=item.cell.model_dump(exclude={"method"})
    )


def test_the_unit_is_the_family_and_the_mean_is_over_families() -> None:
    records = study(METHODS, families=6, organisms=3, organism_seeds=2, method_seeds=2)
    found = table(records)
    assert (found.unit, found.units, found.families, found.organisms, found.places) == ("family", 6, 6, 18, 36)
    assert found.higher_is_better and found.metric == "headline"
    row = by_label(found)["diff-sae"]
    families: dict[str, list[float]] = {}
    for item in records:
        if item.cell.method == "diff-sae":
            assert item.scores is not None and item.cell.family is not None
            families.setdefault(item.cell.family, []).append(item.scores.recovery.headline.value or 0.0)
    means = [sum(values) / len(values) for values in families.values()]
    assert row.figure.value == pytest.approx(sum(means) / 6)
    assert row.figure.low is not None and row.figure.low < row.figure.value < (row.figure.high or 0)
    assert (row.units, row.cells) == (6, 72)


@pytest.mark.parametrize(
    ("shape", "unit"),
    [
        ({"families": 3, "organisms": 1}, "family"),
        ({"families": 2, "organisms": 2}, "organism"),
        ({"families": 1, "organisms": 1, "organism_seeds": 3}, "organism seed"),
        ({"families": 1, "organisms": 1, "method_seeds": 3}, "method seed"),
        ({"families": 1, "organisms": 1}, "documents"),
        ({"families": 2, "organisms": 1}, None),
        ({"families": 1, "organisms": 1, "method_seeds": 2}, None),
    ],
)
def test_every_size_of_study_says_what_its_intervals_are_over(shape: dict[str, int], unit: str | None) -> None:
    found = table(study(METHODS, **shape))
    assert found.unit == unit
    with_interval = [row.figure.low is not None for row in found.rows]
    ranked = [row.rank_low is not None for row in found.rows]
    assert all(with_interval) if unit else not any(with_interval)
    assert all(ranked) if unit not in (None, "documents") else not any(ranked)
    words = " ".join(text([found], 100).split())
    assert f"unit is the {unit}" in words or unit in (None, "documents")
    assert "nothing is ranked" in words or unit not in (None, "documents")


def test_seeds_of_one_organism_are_one_organism_and_own_pairs_are_their_own_families() -> None:
    records = study({"a": 0.1}, families=1, organisms=1, organism_seeds=4)
    assert {item.cell.organism for item in records} == {f"organism-0-0{end}" for end in ("", "@1", "@2", "@3")}
    found = table(records)
    assert (found.families, found.organisms, found.places) == (1, 1, 4)
    own = [cell(item, family=None, organism=f"mine-{i}") for i, item in enumerate(records)]
    assert table(own).families == 4
    versions = [cell(item, organism="o", organism_version=i + 1) for i, item in enumerate(records)]
    assert table(versions).organisms == 1  # the newest, which has superseded the others


def test_well_separated_rows_have_one_rank_each_and_close_ones_share_a_letter() -> None:
    found = table(study({"a": 0.9, "b": 0.5, "c": 0.49, "d": -0.5}, families=7, organisms=4))
    assert {row.label: (row.rank_low, row.rank_high, row.group) for row in found.rows} == {
        "a": (1, 1, "a"),
        "b": (2, 3, "b"),
        "c": (2, 3, "b"),
        "d": (4, 4, "c"),
    }
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    close = pairs["b", "c"] if ("b", "c") in pairs else pairs["c", "b"]
    assert not close.separated and close.neighbours
    assert close.units_needed is None or close.units_needed > 7
    assert pairs["a", "d"].separated and not pairs["a", "d"].neighbours and pairs["a", "d"].units_needed is None
    assert len(pairs) == 6 and all(pair.level is not None for pair in found.pairs)


def test_no_rank_number_where_the_records_leave_a_choice() -> None:
    found = table(study(dict.fromkeys("abcdef", 0.3), families=3, organisms=1))
    assert {(row.rank_low, row.rank_high) for row in found.rows} == {(1, 6)}
    lines = text([found], 120).splitlines()
    ranks = [line.split()[0] for line in lines if line.split()[1:2] == ["a"] and line[0] != "-"]
    assert ranks == ["1-6"] * 6
    assert sum("would be needed" in line for line in lines) == 5


def test_units_that_would_be_needed_are_named_with_the_cells_they_cost() -> None:
    found = table(study({"a": 0.32, "b": 0.3}, families=5, organisms=2, organism_seeds=2, method_seeds=3, seed=1))
    [pair] = found.pairs
    assert not pair.separated and pair.units_needed is not None and pair.units_needed > 5
    assert pair.cells_more == (pair.units_needed - 5) * 12
    words = " ".join(text([found], 80).split())
    assert f"about {pair.units_needed} families would be needed" in words
    assert f"{pair.cells_more} more cells each" in words


def test_rows_that_no_number_would_separate() -> None:
    records = study({"a": 0.3}, families=5)
    twin = [cell(item, method="b") for item in records]
    assert "a and b do not differ at all over 5 families" in text([table(records + twin)], 100)
    near = [
        item.model_copy(update={"scores": scores((item.scores.recovery.headline.value or 0) + (-1) ** (at // 2) / 100)})
        for at, item in enumerate(twin[:-2])
        if item.scores is not None
    ]
    assert "more than 1000 families would be needed" in text([table(records + near)], 100)


def test_controls_and_own_tracks_are_never_ranked() -> None:
    records = study({"oracle": 0.9, "nothing": -0.5, "a": 0.3, "reader": 0.8}, families=5)
    records = [
        cell(item, control=True)
        if item.cell.method in ("oracle", "nothing")
        else cell(item, access=("training_data",))
        if item.cell.method == "reader"
        else item
        for item in records
    ]
    found = table(records)
    assert [row.label for row in found.rows] == ["oracle", "nothing", "a", "reader"]
    assert [row.kind for row in found.rows] == ["control", "control", "ranked", "own track"]
    assert [row.rank_low for row in found.rows] == [None, None, 1, None]
    assert not found.pairs and all(row.figure.low is not None for row in found.rows)


@pytest.mark.parametrize("status", ["error", "not_applicable"])
def test_a_row_that_misses_organisms_has_no_mean_and_is_compared_on_common_ones(status: str) -> None:
    """It fails where everybody is bad: its mean over the rest would be the best of all, and its true place is last."""
    records = study({"good": 0.3, "unlucky": 0.15, "worst": -0.3}, families=8, organisms=1, seed=4)
    low = sorted(
        {
            item.cell.family: item.scores.recovery.headline.value for item in records if item.cell.method == "good"
        }.items(),
        key=lambda pair: pair[1],
    )[:3]
    hard = {family for family, _ in low}
    records = [
        failed(item, status) if item.cell.method == "unlucky" and item.cell.family in hard else item for item in records
    ]
    found = table(records)
    rows_ = by_label(found)
    partial = rows_["unlucky"]
    assert (partial.figure.state, partial.figure.value) == ("n/a", None)
    word = "failed" if status == "error" else "n/a"
    assert partial.gaps == f"misses 3 of 8: 3 {word}"
    assert (partial.units, rows_["good"].units) == (5, 8)
    assert [row.label for row in found.rows] == ["good", "unlucky", "worst"]
    assert {pair.units for pair in found.pairs if "unlucky" in (pair.first, pair.second)} == {5}
    assert "misses 3 of 8" in text([found], 80)


def test_one_failed_method_seed_is_a_gap_and_no_mean_over_the_others() -> None:
    records = study({"a": 0.3, "b": 0.2}, families=4, organisms=1, method_seeds=3)
    records[0] = failed(records[0])
    found = by_label(table(records))
    assert (found["a"].gaps, found["a"].figure.value) == ("misses 1 of 4: 1 failed", None)
    assert found["b"].gaps is None


def test_organisms_that_few_methods_were_run_on_are_left_out_and_named() -> None:
    records = study({"a": 0.3, "b": 0.2, "c": 0.1}, families=4, organisms=1)
    records.append(cell(records[0], organism="mine", family=None))
    found = table(records)
    assert (found.places, found.left_out) == (4, ("mine seed 0",))
    assert all(row.gaps is None for row in found.rows)
    assert "mine seed 0" in text([found], 100)


def test_methods_of_one_organism_do_not_decide_where_the_others_meet() -> None:
    """Twenty run at one place alone, of six families: the table stays over all six, and names the twenty."""
    wide = study({"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.0}, families=6, organisms=1, method_seeds=3)
    narrow = study({f"n{i:02}": 0.05 for i in range(20)}, families=1, organisms=1, method_seeds=3)
    found = table(wide + narrow)
    assert (found.unit, found.places, found.left_out) == ("family", 6, ())
    assert {row.label for row in found.rows if row.kind == "ranked"} == {"a", "b", "c", "d"}
    assert found.occasional == tuple(f"n{i:02}" for i in range(20)) and "n07" in text([found], 100)
    tables = {each.scope: each for each in standings(rows(wide + narrow), ("headline",))}
    assert len(tables) == 7, "method seeds make a table for each organism"
    crowded = next(each for each in tables.values() if len(each.rows) == 24)
    assert crowded.unit == "method seed" and crowded.scope == narrow[0].cell.organism


def test_who_is_run_here_and_there_takes_no_place_from_those_who_are_run_widely() -> None:
    wide = study({"a": 0.3, "b": 0.2}, families=6, organisms=1)
    before = by_label(table(wide))
    few = table(wide + study({"c": 0.9, "d": 0.8}, families=2, organisms=1))
    assert few.occasional == ("c", "d") and few.unit == "family" and few.places == 6
    half = table(wide + study({f"n{i}": 0.5 for i in range(9)}, families=3, organisms=1))
    rows_ = by_label(half)
    assert half.places == 6 and half.occasional == () and rows_["n3"].gaps == "misses 3 of 6: 3 not run"
    assert rows_["n3"].figure.state == "n/a" and rows_["n3"].rank_low is not None, "compared where both were run"
    for found in (few, half):
        assert {name: by_label(found)[name].figure for name in "ab"} == {name: before[name].figure for name in "ab"}


def test_settings_of_a_method_have_one_vote_together() -> None:
    """Two settings of one method at a seventh family: nobody else was there to be compared with."""
    records = study({"a": 0.3, "b": 0.2, "c": 0.1}, families=7, organisms=1)
    kept = [item for item in records if item.cell.method == "a" or item.cell.family != "family-6"]
    settings = [
        cell(item, options={"k": k}, options_passed={"k": k})
        for item in kept
        if item.cell.method == "a"
        for k in (1, 2)
    ]
    found = table(kept + settings)
    assert len(kept) == 19 and len(settings) == 14 and found.places == 6
    assert found.left_out == ("organism-6-0 seed 0",) and all(row.gaps is None for row in found.rows)


def test_pairs_without_a_truth_push_nobody_out() -> None:
    """Each pair of one's own is a family of its own, and nobody has the figure there."""
    records = study({"a": 0.3, "b": 0.2, "c": 0.1}, families=6, organisms=1)
    absent = {"scores": scores(headline=Figure.not_applicable("no truth is known of this pair"))}
    one = study({"x": 0.5, "y": 0.5, "z": 0.5}, families=1, organisms=1)
    own = [cell(item, organism=f"mine-{at}", family=None).model_copy(update=absent) for item in one for at in range(13)]
    found = table(records + own)
    assert (found.places, found.unit, found.occasional) == (6, "family", ("x", "y", "z"))


def test_seeds_of_a_family_make_nobody_regular() -> None:
    records = study({"a": 0.3, "b": 0.2, "c": 0.1}, families=4, organisms=1)
    records += study({"many": 0.9}, families=1, organisms=1, organism_seeds=50)
    assert table(records).occasional == ("many",)


def test_a_pool_that_lacks_the_organism_asked_for_makes_no_table() -> None:
    records = study({"a": 0.3, "b": 0.2}, families=2, organisms=1, organism_seeds=3)
    elsewhere = [cell(item, tier="laptop") for item in records if item.cell.family == records[0].cell.family]
    missing = next(item.cell.organism for item in records if item.cell.family != records[0].cell.family)
    asked = missing.partition("@")[0]
    found = standings(rows([*records, *elsewhere]), ("headline",), asked)
    assert [each.tier for each in found] == [records[0].cell.tier]


def test_a_figure_that_nobody_has_makes_no_table_and_one_that_some_have_is_na() -> None:
    absent = Figure.not_applicable("no edit")
    records = study({"a": 0.3, "b": 0.2}, families=3)
    nobody = [item.model_copy(update={"scores": scores(installed=absent)}) for item in records]
    assert standings(rows(nobody), ("installed",)) == ()
    some = [
        item.model_copy(update={"scores": scores(installed=absent)}) if item.cell.method == "b" else item
        for item in records
    ]
    found = by_label(table(some, "installed"))
    assert found["a"].figure.value == pytest.approx(0.62)
    assert (found["b"].figure.state, found["b"].rank_low, found["b"].units) == ("n/a", None, 0)
    assert found["b"].gaps == "no score: 6 n/a"


def test_numbers_that_cannot_be_squared_are_no_scores() -> None:
    records = study({"a": 0.3}, families=4)
    large = [cell(item.model_copy(update={"scores": scores(1e308)}), method="large") for item in records]
    assert by_label(table(records + large))["large"].gaps == "no score: 8 out of range"


def test_units_that_are_all_alike_have_no_interval() -> None:
    records = study({"a": 0.3, "b": 0.2}, families=7, organisms=1)
    rows_ = by_label(table(records, "claims_recall"))
    assert (rows_["a"].figure.value, rows_["a"].figure.low) == (0.5, None)
    assert rows_["a"].rank_high == 2


def test_methods_that_draw_nothing_are_not_told_apart_by_their_seeds() -> None:
    records = [
        record(name, seed, scored=scores(value), cell={"changed": True, "family": "f"})
        for name, value in (("a", 0.9), ("b", 0.1))
        for seed in range(8)
    ]
    found = table(records)
    assert found.unit == "method seed" and not any(pair.separated for pair in found.pairs)
    assert "make no difference, no test" in text([found], 100)


def test_scores_of_which_less_is_better_are_ranked_from_below() -> None:
    records = [
        record(name, scored=scores(off_target_kl=figure(value + i / 100)), cell={"changed": True, "family": f"f{i}"})
        for name, value in (("a", 0.9), ("b", 0.1))
        for i in range(5)
    ]
    found = table([cell(item, baseline=item.cell.method == "a") for item in records], "off_target_kl")
    assert not found.higher_is_better
    assert [row.label for row in found.rows] == ["b", "a"]
    assert found.rows[0].lift.value == pytest.approx(0.8)
    assert found.pairs[0].difference.value == pytest.approx(-0.8)


def test_lift_over_trivial_rows_and_their_own_over_each_other() -> None:
    found = by_label(table(study(METHODS, families=6, baselines=TRIVIAL)))
    assert found["diff-sae"].lift_over == found["crosscoder"].lift_over == ("pca",)
    assert found["pca"].lift_over == ("mean-difference",) and found["mean-difference"].lift_over == ("pca",)
    assert found["diff-sae"].lift.value == pytest.approx(0.25, abs=0.1)
    assert found["mean-difference"].lift.value is not None and found["mean-difference"].lift.value < 0
    alone = by_label(table(study(METHODS, families=6)))
    assert alone["diff-sae"].lift.reason == "no trivial row has this score"


def test_a_trivial_row_that_misses_an_organism_is_named() -> None:
    records = study(METHODS, families=4, baselines=TRIVIAL)
    records = [
        failed(item) if item.cell.method == "pca" and item.cell.organism == "organism-3-1" else item for item in records
    ]
    records = [cell(item, baseline=item.cell.method in TRIVIAL) for item in records]
    found = table(records)
    row = by_label(found)["diff-sae"]
    assert row.lift_over == ("pca", "mean-difference")
    assert row.lift_missed == ("pca is not compared on family-3",)
    assert by_label(found)["pca"].lift_missed == ()
    for shown in (page([found]), " ".join(text([found], 80).split())):
        assert "pca is not compared on family-3" in shown


def test_nulls_take_no_part_and_different_terms_are_never_pooled() -> None:
    records = study({"a": 0.3, "b": 0.1}, families=3)
    null = [cell(item, organism="identity", null_class="identity", changed=False) for item in records]
    assert standings(rows(null)) == ()
    assert table(records + null).places == 6
    by_hand = [item.model_copy(update={"pair": pair_facts(layer_rule="chosen by hand")}) for item in records]
    for other in (
        [cell(item, tier="laptop") for item in records],
        [cell(item, judge="model") for item in records],
        [cell(item, reference="control") for item in records],
        by_hand,
    ):
        assert [found.places for found in standings(rows(records + other), ("headline",))] == [6, 6]


def test_two_rules_for_the_layer_are_one_track() -> None:
    records = study({"a": 0.3}, families=4, organisms=1)
    records[0] = records[0].model_copy(update={"pair": pair_facts(layer_rule="no layer reaches .7; the middle one")})
    assert table(records).places == 4


def test_options_make_rows_of_their_own_with_labels_of_their_own() -> None:
    records = study({"a": 0.3}, families=3)
    more = [cell(item, options={"k": 9}) for item in records]
    labels = [row.label for row in table(records + more).rows]
    assert len(set(labels)) == 2 and all(label.startswith("a #") for label in labels)


def test_organisms_with_seeds_have_a_table_of_their_own() -> None:
    records = study({"a": 0.3, "b": 0.1}, families=2, organisms=2, organism_seeds=3)
    found = standings(rows(records), ("headline", "budget_mean"))
    assert [each.scope for each in found] == ["all organisms"] * 2 + [
        f"organism-{i}-{j}" for i in (0, 1) for j in (0, 1)
    ]
    assert {each.unit for each in found[2:]} == {"organism seed"} and {each.metric for each in found[2:]} == {
        "headline"
    }
    alone = standings(rows(records), ("headline", "budget_mean"), scope="organism-1-1")
    assert [each.metric for each in alone] == ["headline", "budget_mean"]
    assert alone[0].rows == found[5].rows


def test_of_two_records_of_a_cell_the_newest_counts() -> None:
    old = study({"a": 0.0}, families=3, seed=1)
    new = [
        item.model_copy(
            update={
                "key": f"new{i}",
                "scores": scores(0.5),
                "timings": item.timings.model_copy(update={"started": "2027-01-01T00:00:00Z"}),
            }
        )
        for i, item in enumerate(old)
    ]
    assert by_label(table(new + old))["a"].figure.value == pytest.approx(0.5)


def test_input_order_decides_nothing(tmp_path: Path) -> None:
    records = study(METHODS, families=4, organisms=2, organism_seeds=2, baselines=TRIVIAL)
    shuffled = random.Random(0).sample(records, len(records))
    assert standings(rows(records)) == standings(rows(shuffled))


def test_every_metric_has_a_direction() -> None:
    assert all(BETTER[metric] is not None for metric in METRICS)


def test_no_metric_is_the_best_of_several_findings() -> None:
    assert not any("best" in metric or "best" in WORDS[metric] for metric in METRICS)


def test_pages_are_escaped_and_fit() -> None:
    evil = "x|y`<b>\x1b[31m" + "long " * 30
    records = study({evil: 0.3, "b": 0.29, "c": 0.1}, families=4)
    records = [cell(item, organism="<script>" + item.cell.organism) for item in records]
    records[0] = failed(records[0])
    found = standings(rows(records))
    shown = page(found)
    assert not set(shown) & set("<>\x1b")
    for width in (80, 100, 120):
        lines = text(found, width).splitlines()
        assert max(map(cell_len, lines)) <= width
    assert "\x1b" not in text(found, 80)


def test_files_hold_standings_where_there_are_several_organisms(tmp_path: Path) -> None:
    several = write_run(tmp_path / "several", study(METHODS, families=4, baselines=TRIVIAL))
    build([several], tmp_path / "out")
    data = json.loads((tmp_path / "out" / "leaderboard.json").read_text(), parse_constant=pytest.fail)
    assert {entry["metric"] for entry in data["standings"]} == set(METRICS)
    known = data["standings_columns"]
    assert set(data["standings"][0]) <= set(known)
    assert {f"rows.{name}" for name in data["standings"][0]["rows"][0]} <= set(known)
    assert {f"pairs.{name}" for name in data["standings"][0]["pairs"][0]} <= set(known)
    assert all(entry["description"] for entry in known.values())
    assert "## Standings over organisms" in (tmp_path / "out" / "leaderboard.md").read_text()
    one = write_run(tmp_path / "one", study(METHODS, families=1, organisms=1, method_seeds=3))
    build([one], tmp_path / "out")
    assert "Standings over" not in (tmp_path / "out" / "leaderboard.md").read_text()
    assert json.loads((tmp_path / "out" / "leaderboard.json").read_text())["standings"] == []


def run_of(tmp_path: Path, records: list[Record]) -> str:
    return str(write_run(tmp_path / "study", records, run_file("study")))


def test_command(tmp_path: Path) -> None:
    run = run_of(tmp_path, study(METHODS, families=4, organism_seeds=2, baselines=TRIVIAL))
    done = CliRunner().invoke(main, ["leaderboard", "standings", run], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "diff-sae" in done.stdout and "lift, over 4 families" in done.stdout
    assert "claims found" not in done.stdout
    done = CliRunner().invoke(main, ["leaderboard", "standings", run, "--metric", "all", "--organism", "organism-1-1"])
    assert done.exit_code == 0 and "claims found, over organism-1-1, 2 organism seeds" in done.stdout
    done = CliRunner().invoke(main, ["leaderboard", "standings", run, "--json", "--metric", "r_model"])
    data = json.loads(done.stdout)
    assert [entry["metric"] for entry in data["standings"][:1]] == ["r_model"] and data["standings_columns"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "headlin"], "did you mean headline"),
        (["--metric", "pca_at_1"], "neither more nor less"),
        (["--organism", "organism-9"], "did you mean organism-"),
        (["--metric", "disentangling"], "has disentangling"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    gone = scores(disentangling_score=Figure.not_applicable("one claim"))
    records = [item.model_copy(update={"scores": gone}) for item in study(METHODS, families=2)]
    done = CliRunner().invoke(main, ["leaderboard", "standings", run_of(tmp_path, records), *arguments])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and message in done.stderr
