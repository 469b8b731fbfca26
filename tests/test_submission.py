"""Submissions: what is packed, which cells are chosen, and what never leaves the machine."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from record_factory import record, scores, write_run
from submission_factory import METHODS, SEEDS, members, packed, synthetic_records, synthetic_run

from diffbench.asking import missing_cells
from diffbench.cli import main
from diffbench.errors import SubmissionError
from diffbench.packing import pack
from diffbench.record import Record
from diffbench.redaction import redacted, redacted_json, traces
from diffbench.run_folder import RECORD_FILE, RUN_FILE, read_run
from diffbench.submission import MANIFEST, Submission, chosen, committed, drawn, most_bytes, record_digest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return synthetic_run(tmp_path / "monday")


def document(path: Path, change: Any) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def test_an_archive_holds_every_record_and_the_diffs_of_a_twentieth(run: Path, tmp_path: Path) -> None:
    files = members(packed(run, tmp_path / "a.tar.gz"))
    manifest = Submission.model_validate_json(files.pop(MANIFEST))
    assert [member.name for member in manifest.members] == list(files) == sorted(files)
    assert {member.name: member.size for member in manifest.members} == {name: len(x) for name, x in files.items()}
    assert sum(name.endswith(RECORD_FILE) for name in files) == len(METHODS) * len(SEEDS)
    assert {cell.status for cell in manifest.cells} == {"ok", "error", "not_applicable"}
    carried = {cell.folder for cell in manifest.cells if cell.carries_diff}
    assert len(carried) == 2 and {name.split("/")[1] for name in files if "/diff/" in name} == carried
    assert manifest.name == "monday" and manifest.unfinished == () and manifest.challenge is None


def test_equal_runs_give_equal_archives(run: Path, tmp_path: Path) -> None:
    one, two = packed(run, tmp_path / "a.tar.gz"), packed(run, tmp_path / "b.tar.gz")
    assert one.read_bytes() == two.read_bytes()


def test_the_choice_follows_from_all_records_and_from_nothing_that_can_be_varied_unnoticed() -> None:
    records = synthetic_records()
    picked = chosen(records)
    assert chosen(records[::-1]) == picked and len(picked) == 2
    later = [one.model_copy(update={"timings": one.timings.model_copy(update={"started": "later"})}) for one in records]
    assert chosen(later) == picked, "timings can be varied by anybody until the choice is convenient"
    draws = set()
    for n in range(8):  # any record's figures decide, those of cells that are not chosen too
        other = records[0].model_copy(update={"scores": scores(0.5 + n / 1000)})
        draws.add(chosen([other, *records[1:]]))
    assert len(draws) > 4
    assert len({chosen(records, str(n)) for n in range(6)}) > 3, "a challenge decides, too"


@pytest.mark.parametrize(("ok", "n"), [(0, 0), (1, 1), (20, 1), (21, 2)])
def test_a_twentieth_is_chosen_and_one_at_least(ok: int, n: int) -> None:
    records = [record(seed=seed) for seed in range(ok)] + [record("x", status="error", reason="y")]
    assert len(chosen(records)) == n
    assert chosen(records) <= {one.key for one in records if one.status == "ok"}


def test_every_cell_is_chosen_equally_often() -> None:
    digests = {str(n): f"{n:064}" for n in range(10)}
    counts = Counter(key for n in range(400) for key in drawn(digests, list(digests), str(n)))
    assert len(counts) == 10 and all(15 < count < 70 for count in counts.values()), counts


def test_the_commitment_is_that_of_all_records() -> None:
    records = synthetic_records()
    digests = [(one.key, record_digest(one)) for one in records]
    assert committed(digests) == committed(digests[::-1]) != committed(digests[1:])


def test_nothing_tells_where_the_run_was_made(run: Path, tmp_path: Path) -> None:
    def tell(held: dict[str, Any]) -> None:
        held["argv"] = ["/home/al/venv/bin/diffbench", "run", "-o", "sae.pretrained=/home/al/x.safetensors"]
        held["config"] |= {"organisms": ["/home/al/recipes/halfswap.yaml"], "options": {"sae": {"url": "http://h:1/v"}}}
        held["passed"] = {"organisms": ["/home/al/recipes/halfswap.yaml"], "base": "C:\\Users\\al\\model"}
        held["provenance"]["platform"] = "Linux-6.1.0-als-laptop-x86_64"

    document(run / RUN_FILE, tell)
    files = members(packed(run, tmp_path / "a.tar.gz"))
    held = json.loads(files[RUN_FILE])
    assert held["argv"] == ["diffbench", "run", "-o", "sae.pretrained=x.safetensors"]
    assert held["config"]["organisms"] == ["halfswap"] and held["config"]["options"] == {"sae": {"url": "[address]"}}
    assert held["passed"] == {"organisms": ["halfswap.yaml"], "base": "model"}
    assert held["provenance"]["platform"] == "Linux"
    everything = b"".join(files.values())
    assert b"/home/al" not in everything and b"laptop" not in everything
    reasons = {Record.model_validate_json(data).reason for name, data in files.items() if name.endswith(RECORD_FILE)}
    assert reasons == {None, "CheckpointError: model: gone"}


@pytest.mark.parametrize("what", ["home", "run", "secret"])
def test_a_file_that_tells_of_this_machine_is_refused(
    what: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/quokka")
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret-value-1")
    text = {"home": "read /home/quokka/x", "run": f"see {run}/cells", "secret": "very-secret-value-1"}[what]
    path = next(run.glob("cells/*diff-sae--s3*")) / RECORD_FILE
    document(path, lambda held: held["timings"].update(platform=text))
    with pytest.raises(SubmissionError, match=r"record.json: holds a (path|secret) of this machine.*; take it out"):
        pack(run)
    assert not (tmp_path / "a.tar.gz").exists()


REDACTED = {
    "/home/al/x/model.safetensors: missing": "model.safetensors: missing",
    "and/or 1 / 2 R/W google/gemma-2-2b runs/monday": "and/or 1 / 2 R/W google/gemma-2-2b runs/monday",
    "~/foo/bar ../../a/b //host/share/x": "bar b x",
    "C:\\Users\\me\\x.txt": "x.txt",
    "see http://u:p@host:8000/v1 now": "see [address] now",
    "api_key=abcdefghijklmnop1": "api_key=[hidden]",
}


@pytest.mark.parametrize("text", REDACTED)
def test_paths_and_addresses_are_taken_out(text: str) -> None:
    assert redacted(text) == REDACTED[text]
    assert redacted_json({"a": [text, 1, None, {text: True}]}) == {
        "a": [REDACTED[text], 1, None, {REDACTED[text]: True}]
    }
    assert traces(text.encode()) is None


def test_a_cell_that_was_asked_for_and_is_not_there_is_listed(tmp_path: Path) -> None:
    records = [one for one in synthetic_records() if (one.cell.method, one.cell.seed) != ("diff-sae", 3)]
    manifest = pack(synthetic_run(tmp_path / "monday", records)).manifest
    assert [cell.name for cell in manifest.unfinished] == ["halfswap diff-sae s3 against base"]


def test_all_methods_are_at_least_the_bundled_ones(tmp_path: Path) -> None:
    run = read_run(synthetic_run(tmp_path / "monday", methods=[], seeds=[0], organism_seeds=[7]))
    names = {cell.name for cell in missing_cells(run.file.config, run.records)}
    assert "halfswap@7 oracle s0 against base" in names and "halfswap@7 quokka-diff s0 against base" in names


def test_at_its_own_seed_an_organism_goes_by_its_plain_name(tmp_path: Path) -> None:
    made = record("diff-sae", cell={"organism_seed": 7, "judge": "ngram 1"})
    manifest = pack(synthetic_run(tmp_path / "monday", [made], methods=["diff-sae"], seeds=[0], organism_seeds=[7]))
    assert manifest.manifest.unfinished == ()


def test_what_lies_beside_a_record_is_carried_where_it_is_small(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffbench.packing.BESIDE_BYTES", 100)
    cell = next(run.glob("cells/*diff-sae--s3*"))
    (cell / "sheet.json").write_text("{}")
    (cell / "verdicts.jsonl").write_text("x" * 101)
    (cell / "evidence.parquet").symlink_to("/etc/passwd")
    packing = pack(run)
    names = {member.name for member in packing.manifest.members}
    assert f"cells/{cell.name}/sheet.json" in names
    assert not {f"cells/{cell.name}/verdicts.jsonl", f"cells/{cell.name}/evidence.parquet"} & names
    assert packing.left_out == (f"{cell.name}/verdicts.jsonl: larger than 0 MiB",)


def test_a_run_that_cannot_be_believed_is_not_packed(run: Path, tmp_path: Path) -> None:
    picked = next(cell.folder for cell in pack(run).manifest.cells if cell.carries_diff)
    (run / "cells" / picked / "diff" / "diff.json").write_text("other")
    with pytest.raises(SubmissionError, match=r"was chosen to carry its Diff, and .*changed since it was scored"):
        pack(run)
    (run / "cells" / "broken").mkdir()
    (run / "cells" / "broken" / RECORD_FILE).write_text("{")
    with pytest.raises(SubmissionError, match=r"cells/broken/record.json: .*no readable JSON"):
        pack(run)
    with pytest.raises(SubmissionError, match="holds no finished cell"):
        pack(write_run(tmp_path / "empty", []))
    with pytest.raises(SubmissionError, match="is no name"):
        pack(run, name="../x")


@pytest.mark.parametrize("challenge", ["", "x" * 201])
def test_a_challenge_that_is_none_is_refused_in_one_line(challenge: str, run: Path) -> None:
    result = CliRunner().invoke(main, ["leaderboard", "submit", str(run), "--dry-run", "--challenge", challenge])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert f"--challenge: from 1 to 200 characters, got {len(challenge)}" in result.stderr


def test_a_folder_of_several_commands_is_no_submission(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "monday", methods=["diff-sae"])
    with pytest.raises(SubmissionError, match=r"does not ask for 16 of its cells, .*; repeat `diffbench run`"):
        pack(run)


def test_only_what_a_submission_has_has_a_size() -> None:
    for name in (
        MANIFEST,
        RUN_FILE,
        "cells/a/record.json",
        "cells/a/diff/diff.json",
        f"models/{'0' * 64}/a.safetensors",
    ):
        assert most_bytes(name)
    for name in ("cells/a/b/record.json", "cells/record.json", "x", "cells/a/diff/x", "models/x/a.safetensors",
                 f"models/{'0' * 64}/a.bin", "cells/a/log.txt", "verification.json"):  # fmt: skip
        assert most_bytes(name) is None


def test_the_command_writes_the_archive_and_says_what_is_in_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tar.gz"
    result = CliRunner().invoke(main, ["leaderboard", "submit", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].startswith("commitment: ") and "24 cells, 0 unfinished, 2 with their Diff" in lines[2]
    assert sum(line.startswith("with its Diff: halfswap ") for line in lines) == 2 and out.is_file()
    told = json.loads(CliRunner().invoke(main, ["leaderboard", "submit", str(run), "--dry-run", "--json"]).stdout)
    assert told["file"] is None and told["manifest"]["commitment"] == lines[1].removeprefix("commitment: ")
    for arguments, message in (
        ([str(run)], "--out: name the archive"),
        ([str(run), "--out", "x.zip"], "does not end in .tar.gz"),
        ([str(tmp_path / "nowhere"), "--out", str(out)], "no such folder"),
    ):
        result = CliRunner().invoke(main, ["leaderboard", "submit", *arguments])
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_schema_is_published() -> None:
    for name in ("submission", "verification"):
        schema = json.loads(CliRunner().invoke(main, ["schema", name]).stdout)
        assert schema["additionalProperties"] is False and "schema_version" in schema["properties"]


def test_controls_are_not_what_is_scored_again(tmp_path: Path) -> None:
    records = [
        item.model_copy(update={"cell": item.cell.model_copy(update={"control": item.cell.seed > 0})})
        for item in synthetic_records()
    ]
    picked = chosen(records)
    assert picked and all(item.cell.seed == 0 for item in records if item.key in picked)
    alone = [item for item in records if item.cell.control]
    assert chosen(alone), "where there is nothing else they have to be"
