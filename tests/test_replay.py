"""Replay: a judge's scores follow from what was written down, and whatever was tampered with is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from record_factory import record, write_run
from score_factory import NO_CONTROLS, Prepared
from test_interpretability import found_by

from diffbench.activations import Activations
from diffbench.canonical import file_digest
from diffbench.cli import main
from diffbench.controls import random_dictionary
from diffbench.ending import JUDGED
from diffbench.errors import RecordError
from diffbench.evidence_file import EVIDENCE, read_evidence, write_evidence
from diffbench.figure import Figure
from diffbench.offline_judge import OfflineJudge
from diffbench.outlets import Wanted, export_runs
from diffbench.panel import VERDICTS
from diffbench.question import question_key
from diffbench.replay import replay, transcript
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name, read_run
from diffbench.score import score
from diffbench.sheet import SHEET

pytest_plugins = ("score_factory",)


@dataclass
class Kept:
    """A run of one cell that was judged."""

    folder: Path
    cell: Path

    def differences(self) -> tuple[str, ...]:
        [found] = replay(self.folder)
        return found.differences

    def forge(self, name: str, old: str, new: str, n: int = -1) -> None:
        """Change a file and the record's hash of it, as somebody would who wants to hide it."""
        text = (self.cell / name).read_text()
        assert old in text
        (self.cell / name).write_text(text.replace(old, new, n))
        self.sign(name)

    def sign(self, name: str) -> None:
        document = json.loads((self.cell / RECORD_FILE).read_text())
        document["hashes"]["judged"][name] = file_digest(self.cell / name)
        (self.cell / RECORD_FILE).write_text(json.dumps(document))


@pytest.fixture
def kept(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr("diffbench.judging.MIN_CONTEXTS", 2)
    monkeypatch.setattr("diffbench.trial.MIN_CONTEXTS", 2)
    monkeypatch.setattr("diffbench.trial.MIN_PICKS", 1)
    bench = replace(prepared.bench, judge=OfflineJudge())
    activations = Activations.open(bench.comparison.path / "in" / "activations.safetensors")
    diff = random_dictionary(activations, 40, 8, 3)
    diff = found_by(diff, diff.order[:6].tolist())
    draft = tmp_path / "draft"
    draft.mkdir()
    scores = score(bench, diff, 7, NO_CONTROLS, draft)
    made = record("diff-sae", 7, cell={"judge": "offline 2"}, scored=scores)
    judged = {name: file_digest(draft / name) for name in JUDGED}
    made = made.model_copy(update={"hashes": made.hashes.model_copy(update={"judged": judged})})
    folder = write_run(tmp_path / "run", [made])
    cell = folder / CELLS / cell_folder_name(made.cell, made.key)
    for name in JUDGED:
        (draft / name).rename(cell / name)
    assert any(finding.detection.value is not None for finding in scores.interpretability.findings)
    yield Kept(folder, cell)


def test_a_row_is_scored_again_from_its_verdicts_alone(kept: Kept) -> None:
    (kept.cell / "evidence.parquet").rename(kept.cell / "gone")
    [missing] = replay(kept.folder)
    assert missing.differences == ("RecordError: evidence.parquet: missing",) or "missing" in missing.differences[0]
    (kept.cell / "gone").rename(kept.cell / "evidence.parquet")
    [found] = replay(kept.folder)
    assert found.differences == () and found.n_verdicts > 100
    assert found.name == "halfswap diff-sae s7 against base, judge offline 2"


def test_a_transcript_has_the_question_of_every_verdict(kept: Kept) -> None:
    [item] = read_run(kept.folder).records
    found = transcript(kept.folder, item)
    assert len(found) > 100 and all(
        question is not None and question_key(question) == trial.verdict.question for trial, question in found
    )
    lines = (kept.cell / VERDICTS).read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if '"test":"intruder"' in line)
    line = json.loads(lines[at])
    line["verdict"]["question"] = "0" * 64
    lines[at] = json.dumps(line)
    (kept.cell / VERDICTS).write_text("\n".join(lines) + "\n")
    kept.sign(VERDICTS)
    [item] = read_run(kept.folder).records
    assert [trial.test for trial, question in transcript(kept.folder, item) if question is None] == ["intruder"]


def test_a_transcript_is_exported_whole_or_not_at_all(kept: Kept, tmp_path: Path) -> None:
    """Shares of right answers in a log of inspect are the figures of the record."""
    [item] = read_run(kept.folder).records
    [file] = export_runs([kept.folder], tmp_path / "out", Wanted("inspect"))
    samples = json.loads(file.read_text())["samples"]
    assert len(samples) == len((kept.cell / VERDICTS).read_text().splitlines())
    assert all(one["metadata"]["question_follows_from_evidence"] and one["error"] is None for one in samples)
    assert item.scores is not None
    compared = 0
    for finding in item.scores.interpretability.findings:
        right = [
            one["scores"]["diffbench"]["value"] == "C"
            for one in samples
            if (one["metadata"]["test"], one["metadata"]["finding"]) == ("intruder", finding.rank)
        ]
        if finding.intruder.value is not None:
            assert finding.intruder.value == pytest.approx(sum(right) / len(right))
            compared += 1
    assert compared
    (kept.cell / VERDICTS).write_text("")
    with pytest.raises(RecordError, match="changed since it was scored"):
        export_runs([kept.folder], tmp_path / "more", Wanted("inspect"))
    assert not (tmp_path / "more").exists()


def test_a_forged_verdict_is_found(kept: Kept) -> None:
    lines = (kept.cell / VERDICTS).read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if '"test":"detection"' in line and '"arm":"own"' in line)
    line = json.loads(lines[at])
    line["verdict"]["answer"]["marks"] = [not mark for mark in line["verdict"]["answer"]["marks"]]
    lines[at] = json.dumps(line)
    (kept.cell / VERDICTS).write_text("\n".join(lines) + "\n")
    assert "changed since it was scored" in kept.differences()[0]
    kept.sign(VERDICTS)
    differences = kept.differences()
    assert any(f"finding {line['rank']}, detection: the record says" in one for one in differences)


def test_a_score_without_verdicts_is_found(kept: Kept) -> None:
    """A stranger who removes verdicts, writes a number of his own and the new hash gains nothing."""
    lines = (kept.cell / VERDICTS).read_text().splitlines()
    left = [line for line in lines if '"test":"detection"' not in line]
    (kept.cell / VERDICTS).write_text("\n".join(left) + "\n")
    kept.sign(VERDICTS)
    document = json.loads((kept.cell / RECORD_FILE).read_text())
    judged = document["scores"]["interpretability"]
    for finding in judged["findings"]:
        finding["detection"] = Figure.of(1.0).model_dump(mode="json")
    judged["detection"]["score"] = Figure.of(1.0, 1.0, 1.0).model_dump(mode="json")
    (kept.cell / RECORD_FILE).write_text(json.dumps(document))
    differences = kept.differences()
    assert any("detection: the record says 1.0000, its verdicts undefined" in one for one in differences)


def test_right_answers_are_those_of_the_evidence(kept: Kept) -> None:
    """Verdicts whose right answers somebody turned round are scored by what the evidence says all the same."""
    lines = [json.loads(line) for line in (kept.cell / VERDICTS).read_text().splitlines()]
    for line in lines:
        if line["test"] == "detection":
            line["right"] = [7 - mark for mark in line["right"]]
    (kept.cell / VERDICTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept.sign(VERDICTS)
    assert kept.differences() == ()


def test_other_evidence_leads_to_other_questions(kept: Kept) -> None:
    evidence = read_evidence(kept.cell / EVIDENCE)
    turned = tuple(
        one.model_copy(update={"tests": tuple(e.model_copy(update={"active": not e.active}) for e in one.tests)})
        for one in evidence
    )
    write_evidence(turned, kept.cell / EVIDENCE)
    kept.sign(EVIDENCE)
    assert any("detection" in one for one in kept.differences())


@pytest.mark.parametrize("change", [{"marks": [True]}, {"marks": [True] * 500}])
def test_answers_that_do_not_fit_are_no_answers(kept: Kept, change: dict[str, object]) -> None:
    lines = [json.loads(line) for line in (kept.cell / VERDICTS).read_text().splitlines()]
    for line in lines:
        if line["test"] == "fuzzing":
            line["verdict"]["answer"] |= change
    (kept.cell / VERDICTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept.sign(VERDICTS)
    assert any("fuzzing: the record says" in one for one in kept.differences())


def test_a_forged_score_is_found(kept: Kept) -> None:
    document = json.loads((kept.cell / RECORD_FILE).read_text())
    judged = document["scores"]["interpretability"]
    judged["detection"]["score"] = Figure.of(0.99).model_dump(mode="json")
    judged["match"]["structured"] = Figure.of(1.0).model_dump(mode="json")
    judged["questions"] += 1
    (kept.cell / RECORD_FILE).write_text(json.dumps(document))
    differences = kept.differences()
    assert any(one.startswith("detection, score: the record says 0.9900") for one in differences)
    assert any(one.startswith("match, structured: the record says 1.0000") for one in differences)
    assert any(one.startswith("questions: the record says") for one in differences)


def test_another_truth_is_found(kept: Kept) -> None:
    sheet = json.loads((kept.cell / SHEET).read_text())
    sheet |= {"changed": False, "facts": [], "places": [], "moved_up": [], "moved_down": []}
    (kept.cell / SHEET).write_text(json.dumps(sheet))
    kept.sign(SHEET)
    assert any(one.startswith("match, ") for one in kept.differences())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda cell: (cell / VERDICTS).unlink(), "missing"),
        (lambda cell: (cell / VERDICTS).write_text("{}\n"), "changed since"),
        (lambda cell: ((cell / SHEET).unlink(), (cell / SHEET).symlink_to("/etc/passwd")), "symbolic link"),
    ],
)
def test_damage_is_told_by_the_name_of_the_file(kept: Kept, damage: object, told: str) -> None:
    damage(kept.cell)  # type: ignore[operator]
    [found] = replay(kept.folder)
    assert told in found.differences[0] and found.n_verdicts == 0


def test_malformed_lines_are_told(kept: Kept) -> None:
    kept.forge(VERDICTS, '"test":"detection"', '"test":"clairvoyance"', 1)
    assert "verdicts.jsonl, line" in kept.differences()[0]


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        replay(tmp_path)


def test_the_command_says_what_does_not_follow(kept: Kept) -> None:
    runner = CliRunner()
    good = runner.invoke(main, ["judge", "replay", str(kept.folder)])
    assert good.exit_code == 0 and "diff-sae" in good.stdout and "all of it follows" in good.stdout
    document = json.loads((kept.cell / RECORD_FILE).read_text())
    document["scores"]["interpretability"]["detection"]["score"] = Figure.of(0.99).model_dump(mode="json")
    (kept.cell / RECORD_FILE).write_text(json.dumps(document))
    bad = runner.invoke(main, ["judge", "replay", str(kept.folder)])
    assert bad.exit_code == 1 and "detection, score: the record says 0.9900" in bad.stdout
    told = json.loads(runner.invoke(main, ["judge", "replay", str(kept.folder), "--json"]).stdout)
    assert told[0]["differences"] and told[0]["verdicts"] > 100
