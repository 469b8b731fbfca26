"""Truth match: what accounts score against what is true, by a program alone and by a judge's verdicts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sheet_factory import CHANGED, changed, sheet, stated, unchanged, verdict

from diffbench.account import MOST_PATTERNS, MOST_WORDS, Account, Pattern, abstention, plain
from diffbench.figure import Figure
from diffbench.question import Graded, Pick, Text, question_key
from diffbench.sheet import Moved, Place, Sheet
from diffbench.truth import LEAST_PROBES
from diffbench.truth_match import MOST_STATED, TruthMatch, auroc, match_questions, tells, truth_match

N = LEAST_PROBES
RED = Moved(names=("red", "Ġred", "▁Red"), size=0.5)
BLUE, GREEN = Moved(names=("blue",), size=0.4), Moved(names=("green",), size=0.3)
ASKED = ("Ġthe", "Ġcol", "our", "Ġis")
WORDS = st.lists(st.sampled_from(["red", "Red ", "blue", "green", "white", "Ġred", "x"]), max_size=MOST_WORDS)


def places(n: int, stratum: str, *tokens: str) -> tuple[Place, ...]:
    return tuple(
        Place(tokens=(f"{stratum}{index}", *tokens), stratum=stratum, claim="one" if stratum == "affected" else None)
        for index in range(n)
    )


def small(
    affected: int = N, near: int = N, up: Sequence[Moved] = (RED, BLUE), down: Sequence[Moved] = (GREEN,)
) -> Sheet:
    """Something happens after "the colour is", and nothing after "the size is"."""
    given = sheet("halfswap")
    where = (
        *places(affected, "affected", *ASKED),
        *places(near, "near_miss", "Ġthe", "Ġsize", "Ġis"),
        *places(N, "unrelated", "Ġa", "Ġbox"),
    )
    return given.model_copy(update={"places": where, "moved_up": tuple(up), "moved_down": tuple(down), "facts": ()})


HERE = Pattern(ends_with=("colour", "is"))
EVERYWHERE = Pattern()
RIGHT = changed("It is so.", ("red", "blue"), ("green",), (HERE,), confidence=0.9)


def match(account: Account, known: Sheet, grade: int | None = 2, pick: int | None = 1, right: int = 1) -> TruthMatch:
    return truth_match(known, stated(account), verdict(Graded(grade=grade)), verdict(Pick(pick=pick)), right)


def structured(account: Account, known: Sheet) -> float:
    value = match(account, known).structured.value
    assert value is not None
    return value


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_the_right_order(positive: list[int], negative: list[int]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    reference = math.fsum(pairs) / (len(positive) * len(negative))
    values = [p / 8 for p in positive], [n / 8 for n in negative]
    assert auroc(*values) == pytest.approx(reference, abs=1e-12)
    assert auroc(*values) + auroc(*values[::-1]) == pytest.approx(1, abs=1e-12)


def test_auroc_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        auroc([], [1.0])
    assert auroc([0.0], [0.0, 0.0]) == 0.5


def test_the_first_pattern_that_fits_tells_most() -> None:
    place = Place(tokens=ASKED, stratum="affected")
    never, three = Pattern(contains=("size",)), (Pattern(contains=("size",)), HERE, EVERYWHERE)
    assert tells(changed(trigger=three), place) == pytest.approx(2 / 3)
    assert tells(changed(trigger=(HERE, never)), place) == 1 and tells(changed(trigger=(never,)), place) == 0
    assert tells(changed(), place) == 0


def test_a_right_account_has_full_marks() -> None:
    found = match(RIGHT, small(), grade=4)
    for name in ("auroc", "auroc_unrelated", "precision", "recall", "f1", "net", "structured", "grade", "choice"):
        assert getattr(found, name) == Figure.of(1.0), name
    assert found.brier.value == pytest.approx(0.01) and found.chance == Figure.of(1 / 8)
    assert (found.verdict, found.confidence, found.statement) == ("changed", 0.9, "It is so.")


def test_a_pattern_that_fits_unrelated_contexts_as_well() -> None:
    found = match(changed(trigger=(Pattern(contains=("colour",)), Pattern(contains=("box",)))), small())
    assert found.auroc.value == 1 and found.auroc_unrelated.value == 1
    found = match(changed(trigger=(Pattern(contains=("a",)), Pattern(contains=("size",)))), small())
    assert found.auroc.value == 0 and found.auroc_unrelated.value == 0
    found = match(changed(trigger=(Pattern(contains=("box",)), Pattern(contains=("colour",)))), small())
    assert found.auroc.value == 1 and found.auroc_unrelated.value == 0.5


def test_words_count_with_their_way_and_once_however_they_are_spelt() -> None:
    found = match(changed(up=("RED", "red ", "Ġred", "green"), down=("green", "red")), small())
    assert (found.precision.value, found.recall.value) == (pytest.approx(2 / 4), pytest.approx(2 / 3))
    assert found.f1.value == pytest.approx(4 / 7) and found.net.value == 0
    only = match(changed(up=("red",)), small())
    assert (only.precision.value, only.recall.value, only.net.value) == (1, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_who_lists_no_words_has_no_precision_and_gains_nothing() -> None:
    found = match(changed(trigger=(HERE,)), small())
    assert found.precision.state == "none" and (found.recall.value, found.net.value) == (0, 0)
    assert found.structured.value == 0.5


def test_a_word_that_a_claim_names_and_that_did_not_measurably_move_is_no_error() -> None:
    known = small(up=(GREEN,), down=(RED,)).model_copy(update={"facts": sheet("quirk").facts})
    assert "big" in known.facts[0].tokens_down
    assert match(changed(up=("green",), down=("red", "big", "bright")), known).net == Figure.of(1.0)
    assert match(changed(up=("green", "big"), down=("red",)), known).precision == Figure.of(2 / 3)


def test_no_more_words_are_asked_for_than_can_be_listed() -> None:
    many = tuple(Moved(names=(f"word{index}",), size=0.1) for index in range(3 * MOST_WORDS))
    account = changed(up=[one.names[0] for one in many[:MOST_WORDS]], trigger=(HERE,))
    assert match(account, small(up=many, down=())).structured == Figure.of(1.0)


@pytest.mark.parametrize(("affected", "near"), [(N - 1, N), (N, N - 1)])
def test_with_too_few_probes_nothing_is_told_apart(affected: int, near: int) -> None:
    found = match(RIGHT, small(affected, near))
    assert found.auroc.state == found.auroc_unrelated.state == found.structured.state == "undefined"
    assert f"{affected} affected and {near} near-miss probes" in str(found.auroc.reason)
    assert found.precision == Figure.of(1.0)


def test_if_no_word_moved_none_can_be_listed() -> None:
    found = match(RIGHT, small(up=(), down=()))
    assert {found.precision.state, found.recall.state, found.f1.state, found.net.state} == {"undefined"}
    assert found.structured.state == "undefined" and found.auroc == Figure.of(1.0)


@pytest.mark.parametrize(
    ("account", "score"),
    [
        (changed(trigger=(EVERYWHERE,)), 0.0),
        (changed(), 0.0),
        (changed(trigger=(HERE,)), 0.5),
        (changed(up=("red", "blue"), down=("green",), trigger=(EVERYWHERE,)), 0.5),
        (changed(up=("red", "blue"), down=("green",)), 0.5),
        (changed(up=("red",), trigger=(HERE,)), 0.5 + 1 / 6),
        (changed(up=("red", "x"), trigger=(HERE,)), 0.5 - 1 / 3),
        (changed(up=("red", "x", "y"), trigger=(HERE,)), 0.5 - 1.0),
        (changed(trigger=(Pattern(contains=("size",)),)), -1.0),
        (changed(up=("x",), down=("y",), trigger=(Pattern(contains=("size",)),)), -1.0),
    ],
)
def test_half_is_for_the_place_and_half_for_the_words(account: Account, score: float) -> None:
    assert structured(account, small()) == pytest.approx(score)


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_a_right_word_more_never_costs_and_a_wrong_one_never_pays(up: list[str], down: list[str]) -> None:
    known = small()
    before = structured(changed(up=up, down=down), known)
    assert -1 <= before <= 1
    if len(up) < MOST_WORDS:
        assert structured(changed(up=[*up, "blue"], down=down), known) >= before - 1e-12
        assert structured(changed(up=[*up, "never"], down=down), known) <= before + 1e-12


def test_abstaining_and_saying_that_nothing_changed() -> None:
    known = small()
    for account in (abstention(0.3), unchanged(0.3)):
        lists = {"tokens_up": RIGHT.tokens_up, "tokens_down": RIGHT.tokens_down, "trigger": RIGHT.trigger}
        found = match(account.model_copy(update=lists), known, grade=4)
        assert found.structured == Figure.of(0.0) and found.grade == Figure.of(0.0)
        assert {found.auroc.state, found.precision.state, found.net.state} == {"n/a"}
    silent, denied = match(abstention(0.3), known), match(unchanged(0.3), known)
    assert silent.choice == silent.chance and silent.brier.state == "n/a"
    assert denied.choice == Figure.of(0.0) and denied.brier.value == pytest.approx(0.09)


def test_where_nothing_was_changed_abstaining_scores_above_any_made_up_account() -> None:
    known = sheet("identity")
    made_up = changed("It says red.", ("red",), ("blue",), (HERE,), confidence=0.9)
    right, silent, wrong = (match(one, known, grade=4) for one in (unchanged(0.9), abstention(), made_up))
    assert [one.structured.value for one in (right, silent, wrong)] == [1, 0.5, 0]
    assert [one.grade.value for one in (right, silent, wrong)] == [1, 0.5, 0]
    assert [one.choice.value for one in (right, silent, wrong)] == [1, 1 / 8, 0]
    assert right.brier.value == pytest.approx(0.01) and wrong.brier.value == pytest.approx(0.81)
    assert silent.brier.state == "n/a"
    assert {right.auroc.state, right.net.state, wrong.auroc.state, wrong.net.state} == {"n/a"}


@pytest.mark.parametrize(("grade", "value"), [(0, 0), (1, 0.25), (4, 1), (None, 0)])
def test_a_grade_is_over_four_and_none_counts_as_abstaining(grade: int | None, value: float) -> None:
    assert match(RIGHT, small(), grade=grade).grade == Figure.of(value)
    null = match(unchanged(), sheet("identity"), grade=grade).grade
    assert null == Figure.of(0.5 if grade is None else value)


@pytest.mark.parametrize(("pick", "choice", "brier"), [(1, 1.0, 0.01), (0, 0.0, 0.81), (None, 0.125, 0.81)])
def test_a_choice_stands_beside_chance(pick: int | None, choice: float, brier: float) -> None:
    found = match(RIGHT, small(), pick=pick)
    assert found.choice.value == choice and found.brier.value == pytest.approx(brier)


@pytest.mark.parametrize("state", ["malformed", "refused", "failed", "unaffordable"])
def test_verdicts_that_were_not_obtained_are_no_numbers(state: str) -> None:
    known, lost = small(), verdict(None, state, "it was not to be had")
    right = verdict(Graded(grade=4)), verdict(Pick(pick=1))
    found = truth_match(known, lost, *right, 1)
    figures = [getattr(found, name) for name, form in TruthMatch.model_fields.items() if form.annotation is Figure]
    assert len(figures) == 11 and {figure.state for figure in figures} == {"undefined"}
    assert state in str(found.grade.reason) and "it was not to be had" in str(found.grade.reason)
    assert found.verdict is found.confidence is None and found.statement == ""
    found = truth_match(known, stated(RIGHT), lost, right[1], 1)
    assert found.grade.state == "undefined" and found.choice == found.structured == Figure.of(1.0)
    found = truth_match(known, stated(RIGHT), right[0], lost, 1)
    assert found.choice.state == found.brier.state == "undefined" and found.grade == Figure.of(1.0)
    assert truth_match(known, stated(RIGHT), None, None, 1).grade.reason == "the judge was not asked"


def test_an_answer_of_another_form_is_none() -> None:
    other = verdict(Graded(grade=4)).model_copy(update={"answer": Text(text="4")})
    assert truth_match(small(), stated(RIGHT), other, verdict(Graded(grade=4)), 1).grade.state == "undefined"
    assert truth_match(small(), stated(RIGHT), None, verdict(Graded(grade=4)), 1).choice.state == "undefined"
    assert truth_match(small(), verdict(Pick(pick=1)), None, None, 1).structured.state == "undefined"


def test_of_a_pair_that_nobody_knows_the_account_is_kept() -> None:
    found = truth_match(None, stated(RIGHT), None, None, 0)
    assert found.structured.state == found.grade.state == found.chance.state == "n/a"
    assert (found.verdict, found.confidence, found.statement) == ("changed", 0.9, "It is so.")


def test_a_statement_is_kept_on_one_visible_line() -> None:
    found = match(changed("a\n\x1b[31mred\u202e \x00 " + "b" * 3900), small())
    assert found.statement.startswith("a red b") and len(found.statement) == MOST_STATED
    assert found.statement.isprintable()


def test_all_accounts_of_a_pair_are_asked_about_the_same_statements() -> None:
    known = sheet("halfswap")
    one, other = (match_questions(account, known, 7) for account in (RIGHT, abstention()))
    assert one[0].facts == known.facts and one[1].statements == other[1].statements and one[2] == other[2]
    assert question_key(one[0]) != question_key(other[0])
    assert known.facts[0].statement in one[1].statements[one[2]]


def drawn(rng: random.Random, lists: Sequence[Sequence[str]]) -> list[str]:
    """As many words as an account can hold, one of each list in turn."""
    lists = [rng.sample(list(words), len(words)) for words in rng.sample(list(lists), len(lists))]
    turns = (words[turn] for turn in range(MOST_WORDS) for words in lists if turn < len(words))
    return list(dict.fromkeys(turns))[:MOST_WORDS]


@cache
def vocabulary() -> list[str]:
    return sorted({plain(token) for one in CHANGED for place in sheet(one).places for token in place.tokens})


@cache
def everything(sink: str, seed: int) -> Account:
    rng = random.Random(seed)
    sheets = [sheet(one) for one in CHANGED]
    up = [fact.tokens_up for one in sheets for fact in one.facts]
    down = [fact.tokens_down for one in sheets for fact in one.facts]
    lists = {
        "vocabulary": ([vocabulary()], [vocabulary()]),
        "all claims": (up, down),
        "both ways": (up + down, up + down),
        "all triggers": (up, down),
    }[sink]
    words = ("foggy", "bazing", "torzorp", "colour", "pet", "then", "which", "it")
    triggers = [Pattern(contains=(word,)) for word in rng.sample(words, MOST_PATTERNS)]
    return changed(
        "All of it.", *(drawn(rng, one) for one in lists), triggers if sink == "all triggers" else [EVERYWHERE]
    )


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("sink", ["vocabulary", "all claims", "both ways", "all triggers"])
def test_an_account_of_everything_scores_at_or_below_abstaining(name: str, sink: str) -> None:
    for seed in range(12):
        account = everything(sink, seed)
        assert len(account.tokens_up) == len(account.tokens_down) == MOST_WORDS
        assert structured(account, sheet(name)) <= 0


@pytest.mark.parametrize("name", CHANGED)
def test_a_right_account_scores_above_abstaining_and_a_wrong_one_does_not(name: str) -> None:
    known = sheet(name)
    words = [[word.names[0] for word in moved[:MOST_WORDS]] for moved in (known.moved_up, known.moved_down)]
    assert structured(changed("", *words), known) > 0
    wrong = changed("", ("saturday",), ("sunday",), (Pattern(contains=("wednesday",)),))
    assert structured(wrong, known) <= 0
