"""The gold set: that it is what it is said to be, that its facts are the organisms', and what is refused of others'."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffbench.canonical import digest
from diffbench.catalogue import find_organism
from diffbench.errors import RecordError
from diffbench.gold import MOST_BYTES, GoldSet, bundled_gold, read_gold
from diffbench.survey import MOST_ROTATED, padded, survey_of

GOLD = bundled_gold()
SMALL = """\
schema_version: 1
pairs:
  swap:
    statement: Blue and green are exchanged.
    distractors: [Nothing was changed.]
    facts:
      - {statement: Blue becomes green., trigger: at colours, tokens_up: [green], tokens_down: [blue]}
accounts:
  - id: one
    pair: swap
    account: {verdict: changed, statement: Blue becomes green., confidence: 1}
    grade: 4
    borderline: false
    why: all of it
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gold.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_bundled_set_is_as_large_and_as_mixed_as_it_must_be() -> None:
    nulls = [one for one in GOLD.accounts if GOLD.is_null(one)]
    abstaining = [one for one in GOLD.accounts if one.grade is None]
    assert len(GOLD) >= 72 and sum(one.borderline for one in GOLD.accounts) >= 30 and len(nulls) >= 12
    assert any(one in nulls for one in abstaining) and any(one not in nulls for one in abstaining)
    for grade in range(5):
        assert len(list(GOLD.graded(grade))) >= 12, grade
    plain = [one for one in GOLD.accounts if not (one.account.trigger or one.account.tokens_up)]
    assert len(plain) >= 30, "accounts in plain words alone"


def test_grades_keep_the_conventions() -> None:
    for one in GOLD.accounts:
        assert (one.grade is None) == (one.account.verdict == "abstain"), one.id
        if one.account.verdict == "unchanged":
            assert one.grade == 0 if not GOLD.is_null(one) else one.grade in (3, 4), one.id
        elif GOLD.is_null(one) and one.grade is not None:
            assert one.grade in (0, 3), one.id


def test_no_two_accounts_are_the_same() -> None:
    keys = [digest(GOLD.grading(one).model_dump(mode="json")) for one in GOLD.accounts]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["halfswap", "false-facts", "quirk"])
def test_facts_of_organisms_are_their_claims(name: str) -> None:
    claims = find_organism(name).truth().claims
    for fact, claim in zip(GOLD.pairs[name].facts, claims, strict=True):
        assert fact.statement == claim.statement
        assert set(fact.tokens_up) == set(claim.effect.tokens_up)
        assert set(fact.tokens_down) <= set(claim.effect.tokens_down)


def test_a_null_has_no_facts_and_its_right_statement_says_so() -> None:
    for pair in GOLD.pairs.values():
        assert (pair.statement == "Nothing was changed.") == (not pair.facts)
        assert "Nothing was changed." in pair.statements


def test_a_set_of_ones_own_is_read(tmp_path: Path) -> None:
    gold = read_gold(write(tmp_path, SMALL))
    assert len(gold) == 1 and gold.accounts[0].grade == 4 and gold.accounts[0].account.confidence == 1
    assert gold.key != GOLD.key and gold.key == GoldSet.model_validate(gold.model_dump()).key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("grade: 4", "grade: 5", "accounts.0.grade"),
        ("grade: 4", "grade: '4'", "accounts.0.grade"),
        ("    grade: 4\n", "", "accounts.0.grade"),
        ("why: all of it", "why: all of it\n    wy: all", "did you mean why"),
        ("pair: swap", "pair: other", "of a pair that is not there: 'other'"),
        ("borderline: false", "borderline: maybe", "accounts.0.borderline"),
        ("verdict: changed", "verdict: yes", "accounts.0.account.verdict"),
        ("why: all of it", "why: all of it\n    why: twice", "stands twice"),
        ("why: all of it", "why: *swap", "not plain YAML"),
        ("why: all of it", "why: !!python/object/apply:os.system [ls]", "not plain YAML"),
        ("why: all of it", "why: 2026-01-01", "holds more than text"),
        ("why: all of it", "why: ''", "accounts.0.why"),
        ("schema_version: 1", "schema_version: 2", "schema_version"),
        ("distractors: [Nothing was changed.]", "distractors: [Blue and green are exchanged.]", "the same"),
        (
            "statement: Blue becomes green., confidence",
            f"statement: {'x' * 3001}, confidence",
            "more than 3000 characters",
        ),
        ("accounts:", "accounts: [", "not plain YAML"),
    ],
)
def test_what_is_wrong_with_a_set_is_said(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    path = write(tmp_path, SMALL.replace(old, new))
    with pytest.raises(RecordError) as caught:
        read_gold(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_two_accounts_of_one_name_are_refused(tmp_path: Path) -> None:
    account = SMALL.partition("accounts:\n")[2]
    with pytest.raises(RecordError, match="two accounts have the id 'one'"):
        read_gold(write(tmp_path, SMALL + account))


def test_no_file_no_set(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        read_gold(tmp_path / "none.yaml")
    with pytest.raises(RecordError, match="cannot be read"):
        read_gold(tmp_path)
    with pytest.raises(RecordError, match=f"larger than {MOST_BYTES}"):
        read_gold(write(tmp_path, "#" * (MOST_BYTES + 1)))
    with pytest.raises(RecordError, match="not plain YAML"):
        read_gold(write(tmp_path, "[" * 5000))


def test_a_survey_rotates_every_statement_through_every_place() -> None:
    survey = survey_of(GOLD, repeats=2)
    assert len(survey.grades) == len(survey.padded) == len(GOLD) and len(survey.rotated) == MOST_ROTATED
    for one, turns in zip(survey.rotated, survey.choices, strict=True):
        statements = GOLD.pair_of(one).statements
        assert turns[0].statements == statements and len(turns) == len(statements)
        for statement in statements:
            assert sorted(turn.statements.index(statement) for turn in turns) == list(range(len(statements)))
    assert len({one.pair for one in survey.rotated}) > 8, "spread over the pairs"
    with pytest.raises(ValueError, match="at least once"):
        survey_of(GOLD, repeats=0)


def test_padding_leaves_everything_but_the_statement() -> None:
    for one in GOLD.accounts:
        longer = padded(one.account)
        assert one.account.statement in longer.statement and len(longer.statement) < 4000
        assert longer.model_copy(update={"statement": one.account.statement}) == one.account
