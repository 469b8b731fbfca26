"""Evidence files: what was written is read back, people can read it, and strangers' files are refused in one line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffbench.errors import RecordError
from diffbench.evidence_file import COLUMNS, read_evidence, write_evidence
from diffbench.finding_evidence import FindingEvidence, Steered
from diffbench.question import Evidence, Excerpt, Marked


def excerpt(*tokens: str, active: bool, at: tuple[int, ...] = ()) -> Excerpt:
    return Excerpt(
        tokens=tokens,
        active=active,
        activity=1.5 if active else 0.0,
        activities=tuple(1.5 if place in at else 0.0 for place in range(len(tokens))),
        active_at=at,
        drawn="top" if active else "near miss",
    )


def finding(rank: int = 1, **changes: Any) -> FindingEvidence:
    known: dict[str, Any] = {
        "rank": rank,
        "component": 7 * rank,
        "n_active": 12,
        "n_positions": 400,
        "evidence": Evidence(
            excerpts=(excerpt("<bos>", "the", "sky", active=True, at=(2,)), excerpt("a", "sky", active=False)),
            tokens_up=("green",),
            tokens_down=("blue", 'q"uote'),
            kl_up=("green",),
            kl_down=(),
            effect=0.25,
        ),
        "tests": (excerpt("is", "sky", active=True, at=(0, 1)), excerpt("\u2603", "\n", active=False)),
        "marked_right": (Marked(tokens=("is", "sky", "x"), marked=(1,)),),
        "marked_wrong": (Marked(tokens=("is", "sky", "y"), marked=(2,)),),
        "steered": (Steered(prompt=("see",), plain=("the", "fox"), steered=("green",)),),
    }
    return FindingEvidence(**known | changes)


BARE = Evidence(excerpts=(excerpt("a", active=True), excerpt("b", active=False)))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    findings = (finding(), finding(2, evidence=BARE, tests=(), marked_right=(), marked_wrong=(), steered=()))
    write_evidence(findings, tmp_path / "one")
    assert read_evidence(tmp_path / "one") == findings
    write_evidence(findings, tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    write_evidence((), tmp_path / "none")
    assert read_evidence(tmp_path / "none") == ()


def test_people_can_read_it(tmp_path: Path) -> None:
    write_evidence((finding(),), tmp_path / "e")
    table = pq.read_table(tmp_path / "e")
    assert all(table.schema.field(name).metadata[b"description"] for name, _, _ in COLUMNS)
    rows = table.to_pylist()
    kinds = [row["row"] for row in rows]
    assert kinds == ["finding", "explain", "explain", "test", "test", "right", "wrong", "steered"]
    assert rows[1]["text"] == "<bos> the »sky" and rows[5]["text"] == "is »sky x"
    assert rows[7]["text"] == "see » the fox » green"
    marked = finding(tests=(excerpt("\u0120the", "\u0120sk", "y", active=True),))
    write_evidence((marked,), tmp_path / "bpe")
    [row] = [row for row in pq.read_table(tmp_path / "bpe").to_pylist() if row["row"] == "test"]
    assert row["text"] == "the sk»y"


def test_strangers_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "e"
    with pytest.raises(RecordError, match="no readable table of evidence"):
        read_evidence(path)
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(RecordError, match="no readable table of evidence"):
        read_evidence(path)
    pq.write_table(pa.table({"rank": [1]}), path)
    with pytest.raises(RecordError, match="evidence"):
        read_evidence(path)
    write_evidence((finding(),), path)
    rows = pq.read_table(path).to_pylist()
    schema = pq.read_table(path).schema
    for change in ({"rank": -1}, {"component": None}, {"n_active": -5}, {"row": "explain"}):
        wrong = [rows[0] | change, *rows[1:]]
        pq.write_table(pa.Table.from_pylist(wrong, schema=schema), path)
        with pytest.raises(RecordError, match="no table of evidence"):
            read_evidence(path)


def test_a_small_file_that_unfolds_to_more_than_is_read_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text of one megabyte, told once and named six hundred times; in two groups of rows."""
    path, budget = tmp_path / "e", 32 << 20
    write_evidence((finding(),), path)
    row = pq.read_table(path).slice(0, 1)
    at = row.schema.get_field_index("text")
    row = row.set_column(at, row.schema.field(at), pa.array(["a" * 1_000_000]))
    with pq.ParquetWriter(path, row.schema, compression="zstd", dictionary_pagesize_limit=1 << 24) as out:
        for _ in range(2):
            out.write_table(row.take(pa.array([0] * 300)))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("diffbench.evidence_file.EVIDENCE_BYTES", budget)
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), pool.max_memory()
    tracemalloc.start()
    with pytest.raises(RecordError, match="unfolds to more than 33554432 bytes"):
        read_evidence(path)
    assert tracemalloc.get_traced_memory()[1] < budget
    tracemalloc.stop()
    assert pool.max_memory() <= max(peak, before + budget)


def test_a_file_of_many_values_or_other_columns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e"
    write_evidence((finding(),), path)
    table = pq.read_table(path)
    monkeypatch.setattr("diffbench.evidence_file.EVIDENCE_VALUES", 10)
    with pytest.raises(RecordError, match="values of evidence; at most 10 are read"):
        read_evidence(path)
    at = table.schema.get_field_index("tokens")
    nested = pa.array([[["a"]]] * len(table))
    pq.write_table(table.set_column(at, "tokens", nested), path)
    with pytest.raises(RecordError, match=r"no table of evidence \(column tokens is of another type"):
        read_evidence(path)


def test_long_files_are_read_whole(tmp_path: Path) -> None:
    findings = tuple(
        finding(rank, steered=(Steered(prompt=(f"p{rank}",), plain=("a",), steered=()),)) for rank in range(1, 60)
    )
    write_evidence(findings, tmp_path / "e")
    assert read_evidence(tmp_path / "e") == findings
    pq.write_table(pq.read_table(tmp_path / "e"), tmp_path / "groups", row_group_size=100)
    assert read_evidence(tmp_path / "groups") == findings
