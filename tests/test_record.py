"""Record and Figure: a number or a reason, never both; files that cannot be read say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from record_factory import pair_facts, record, scores

from diffbench.errors import RecordError
from diffbench.figure import Figure
from diffbench.record import RECORD_BYTES, Record, Timings, read_record


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "ok"},
        {"state": "n/a", "reason": "x", "value": 0.0},
        {"state": "n/a"},
        {"state": "undefined"},
        {"state": "error", "reason": "x"},
        {"state": "ok", "value": float("nan")},
        {"state": "ok", "value": float("inf")},
        {"state": "ok", "value": 1.0, "low": float("-inf")},
        {"state": "ok", "value": 1.0, "high": float("inf")},
        {"state": "ok", "value": 1.0, "extra": 1},
        {"state": "n/a", "reason": "x" * 501},
    ],
)
def test_a_figure_is_a_finite_number_or_a_reason(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Figure.model_validate(wrong)


def test_the_three_figures() -> None:
    assert Figure.of(0.0, -1.0, 1.0).value == 0.0
    assert Figure.not_applicable("why").value is None
    assert Figure.undefined("why").state == "undefined"


def test_scores_exactly_when_ok() -> None:
    good = record().model_dump()
    with pytest.raises(ValidationError, match="exactly when"):
        Record.model_validate({**good, "scores": None})
    with pytest.raises(ValidationError, match="exactly when"):
        Record.model_validate({**good, "status": "error", "reason": "x"})
    with pytest.raises(ValidationError, match="reason"):
        record(status="error")


def test_round_trip(tmp_path: Path) -> None:
    for item in (record(), record(status="error", reason="E: x"), record(status="not_applicable", reason="no")):
        item.write(tmp_path / "record.json")
        assert read_record(tmp_path / "record.json") == item
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_the_name_of_a_row(tmp_path: Path) -> None:
    plain, ranked = record(), record(cell={"ranking": "nu_error"})
    assert (plain.cell.row, ranked.cell.row, ranked.cell.method) == ("diff-sae", "diff-sae@nu_error", "diff-sae")
    ranked.write(tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == ranked
    for name in ("", "A", "a b", "x" * 65, "a\n"):
        with pytest.raises(ValidationError, match="ranking"):
            record(cell={"ranking": name})


def test_records_from_before_there_were_rankings_can_be_read(tmp_path: Path) -> None:
    document = record().model_dump(mode="json")
    del document["fit"], document["cell"]["ranking"]
    (tmp_path / "record.json").write_text(json.dumps(document))
    assert read_record(tmp_path / "record.json") == record()


def test_the_same_record_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(scored=scores(1 / 3)).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no readable JSON"),
        ('{"schema_version": 1', "no readable JSON"),
        ("[" * 100_000, "no readable JSON"),
        ("[]", "schema_version is None"),
        ("3", "schema_version is None"),
        ('{"schema_version": 1}', "schema_version is 1, this diffbench reads 3"),
        ('{"schema_version": 3}', "key: Field required"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="no readable JSON"):
        read_record(tmp_path / "record.json")


def test_missing_and_oversized(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(RecordError, match="not finished"):
        read_record(path)
    with path.open("wb") as stream:
        stream.truncate(RECORD_BYTES + 1)
    with pytest.raises(RecordError, match="larger than"):
        read_record(path)


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    document = record(pair=pair_facts()).model_dump(mode="json")
    document["pair"]["mood"] = "good"
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"pair\.mood"):
        read_record(path)


@pytest.mark.parametrize(
    "change",
    [
        {"method_seconds": -1.0}, {"score_seconds": float("inf")}, {"peak_memory_mb": float("nan")},
        {"harvest_seconds": -0.1}, {"usage": {"tokens": -1}}, {"usage": {f"u{n}": 1 for n in range(201)}},
        {"platform": "x" * 501}, {"sandbox": "x" * 501}, {"started": "x" * 501}, {"versions": {"torch": "x" * 501}},
    ],
)  # fmt: skip
def test_cost_is_in_bounds(change: dict[str, Any]) -> None:
    told = record().timings.model_dump()
    assert Timings.model_validate(told)
    with pytest.raises(ValidationError):
        Timings.model_validate(told | change)
