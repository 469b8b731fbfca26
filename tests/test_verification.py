"""Verification: whatever is not as it should be in a submission is refused by name, in one line; good ones pass."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from submission_factory import (
    Files,
    choice,
    edit,
    forged,
    members,
    packed,
    picked_cell,
    synthetic_records,
    synthetic_run,
)

from diffbench import examination
from diffbench.archive import write_archive
from diffbench.cli import main
from diffbench.discrepancy import Comparing
from diffbench.errors import RecordError, SubmissionError
from diffbench.examination import examine
from diffbench.figure import Figure
from diffbench.inspection import inspect
from diffbench.packing import pack
from diffbench.record import Record
from diffbench.recount import Recounted
from diffbench.run_folder import read_run
from diffbench.submission import MANIFEST, chosen
from diffbench.verification import Tolerance, Trust, Verification, read_verification, trust_in

TAMPERED = "does not come out as it says: scores.recovery.headline: 0.9 there, 0.1 here"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    return packed(synthetic_run(folder / "monday"), folder / "a.tar.gz")


@pytest.fixture
def archive(original: Path, tmp_path: Path) -> Path:
    (tmp_path / "a.tar.gz").write_bytes(original.read_bytes())
    return tmp_path / "a.tar.gz"


@pytest.fixture
def recounted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recounted]:
    """What scoring the chosen cells again comes to; nothing is scored."""
    answers: dict[str, Recounted] = {}

    def recount(inspected: Any, *_: object, **__: object) -> dict[str, Recounted]:
        return {
            key: answers.get(key, Recounted(None, 80, 1e-6, "same")) for key in inspected.picked
        }  # fmt: skip

    monkeypatch.setattr(examination, "recount", recount)
    return answers


def quiet(phrase: str, fraction: float) -> None:
    """Nobody looks on."""


def found_in(archive: Path, tmp_path: Path, **asked: Any) -> Verification:
    work = tmp_path / "work"
    work.mkdir()
    return examine(archive, work, quiet, **asked)


def refusal(archive: Path, tmp_path: Path) -> str:
    """Why an archive cannot be read, or else all that is refused of it."""
    into = tmp_path / "into"
    into.mkdir()
    try:
        inspected = inspect(archive, into)
    except SubmissionError as error:
        message = str(error)
    else:
        message = "; ".join((*inspected.problems, *inspected.refused.values())) or "accepted"
    assert len(message.splitlines()) == 1 and str(into) not in message
    return message


def test_a_submission_as_it_was_packed_is_accepted(
    archive: Path, tmp_path: Path, recounted: dict[str, Recounted]
) -> None:
    found = found_in(archive, tmp_path)
    assert found.accepted and found.problems == () and found.submission == "monday"
    assert (found.count("verified"), found.count("unverified"), found.count("refused")) == (2, 22, 0)
    assert {row.key for row in found.rows if row.state == "verified"} == choice(archive)
    reasons = {row.reason for row in found.rows if row.state == "unverified"}
    assert reasons == {
        "its hash did not choose it: it carries no Diff",
        "it has no scores (error)",
        "it has no scores (not applicable)",
    }
    assert not list((tmp_path / "work").iterdir())


def cells(files: Files) -> list[str]:
    return sorted({name.split("/")[1] for name in files if name.startswith("cells/")})


def drop_cell(files: Files) -> None:
    gone = cells(files)[-1]
    for name in [name for name in files if name.startswith(f"cells/{gone}/")]:
        del files[name]


def hide_cell(files: Files) -> None:
    """Takes a cell out of the manifest, too."""
    gone = cells(files)[-1]
    drop_cell(files)
    edit(MANIFEST, lambda d: d.update(cells=[c for c in d["cells"] if c["folder"] != gone]))(files)


def add_cell(files: Files) -> None:
    name = cells(files)[0]
    files["cells/another--cell--s0--00000000/record.json"] = files[f"cells/{name}/record.json"]


def rename_cell(files: Files) -> None:
    name = cells(files)[0]
    files["cells/x/record.json"] = files.pop(f"cells/{name}/record.json")
    edit(MANIFEST, lambda d: [c.update(folder="x") for c in d["cells"] if c["folder"] == name])(files)


def twice(files: Files) -> None:
    """The same key in two cells."""
    plain = [name for name in cells(files) if f"cells/{name}/diff/diff.json" not in files]
    first, second = (f"cells/{name}/record.json" for name in plain[:2])
    key = json.loads(files[first])["key"]
    edit(second, lambda d: d.update(key=key))(files)
    new = plain[1].rsplit("--", 1)[0] + f"--{key[:8]}"
    files[f"cells/{new}/record.json"] = files.pop(second)
    name = second.split("/")[1]
    edit(MANIFEST, lambda d: [c.update(folder=new, key=key) for c in d["cells"] if c["folder"] == name])(files)


def first_record(change: Callable[[dict[str, Any]], object]) -> Callable[[Files], None]:
    return lambda files: edit(f"cells/{cells(files)[0]}/record.json", change)(files)


FORGED: dict[str, tuple[Callable[[Files], object], str]] = {
    "missing cell": (drop_cell, "a missing cell: the manifest lists it"),
    "hidden cell": (hide_cell, "a missing cell: halfswap quokka-diff s7 against base is asked for by run.json, not"),
    "extra cell": (add_cell, "cells/another--cell--s0--00000000: an extra cell, which the manifest does not list"),
    "extra file": (lambda f: f.update({"cells/notes.txt": b""}), "cells/notes.txt: no member that a submission has"),
    "plugin": (lambda f: f.update({"setup.py": b"x"}), "setup.py: no member that a submission has"),
    "renamed cell": (rename_cell, "cells/x: its record is of another cell"),
    "one key twice": (twice, "two cells have the key"),
    "foreign record": (first_record(lambda d: d.update(schema_version=99)), "schema_version is 99, this diffbench"),
    "unknown key": (first_record(lambda d: d.update(mood="good")), "record.json: mood: Extra inputs are not permitted"),
    "not a number": (
        lambda f: f.update({f"cells/{cells(f)[0]}/record.json": f[f"cells/{cells(f)[0]}/record.json"].replace(
            b'"value": 0.97', b'"value": NaN')}),
        "record.json: scores",
    ),
    "no record": (lambda f: f.update({f"cells/{cells(f)[0]}/record.json": b"{"}), "record.json: no readable JSON"),
    "foreign manifest": (edit(MANIFEST, lambda d: d.update(schema_version=2)), "manifest.json: schema_version is 2"),
    "odd name": (edit(MANIFEST, lambda d: d.update(name="../../x")), "manifest.json: name"),
    "other name": (edit(MANIFEST, lambda d: d.update(name="other")), "run.json is named 'monday', and the manifest"),
    "no run": (lambda f: f.pop("run.json"), "run.json: missing"),
    "foreign run": (edit("run.json", lambda d: d.update(schema_version=9)), "run.json: schema_version is 9"),
    "other program": (edit(MANIFEST, lambda d: d.update(diffbench="9.9")), "packed by diffbench 9.9, and this is"),
    "other schema": (edit(MANIFEST, lambda d: d.update(score_schema=1)), "its score schema is 1, and this diffbench"),
    "listed as unfinished": (
        edit(MANIFEST, lambda d: d.update(unfinished=[{"organism": "a", "reference": "b", "row": "c", "seed": 0}])),
        "a c s0 against b is listed as unfinished, and it is there or was not asked for",
    ),
    "more asked for": (
        edit("run.json", lambda d: d["config"].update(seeds=list(range(9)))),
        "a missing cell: halfswap diff-sae s8 against base is asked for",
    ),
    "newer organism": (
        first_record(lambda d: d["cell"].update(organism_version=9)),
        "organism version 9: halfswap is known up to version 1 here",
    ),
    "other null class": (
        first_record(lambda d: d["cell"].update(null_class="identity")),
        "null class: its record says identity, and the organism's recipe None",
    ),
    "stranger's control": (
        lambda f: edit(next(name for name in f if "quokka" in name and name.endswith("record.json")),
                       lambda d: d["cell"].update(control=True))(f),
        "control: quokka-diff version 1 of diffbench 0.1.0 is no control here",
    ),
    "negative cost": (
        first_record(lambda d: d["timings"].update(method_seconds=-1.0)), "record.json: timings.method_seconds"
    ),
    "endless platform": (
        first_record(lambda d: d["timings"].update(platform="x" * 100_000)), "record.json: timings.platform"
    ),
    "other entry": (
        edit(MANIFEST, lambda d: d["cells"][0].update(row="better")), "its record does not agree with the manifest's"
    ),
    "other baseline": (
        lambda f: edit(next(name for name in f if "mean-difference" in name and name.endswith("record.json")),
                       lambda d: d["cell"].update(baseline=False))(f),
        "baseline: its record says False, and of this version of the method it is True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_archive_is_refused_though_its_manifest_was_made_to_fit(
    what: str, archive: Path, tmp_path: Path
) -> None:
    change, message = FORGED[what]
    broken = "record" in what or what in ("unknown key", "not a number", "negative cost", "endless platform")
    told = refusal(forged(archive, change, rows=not broken), tmp_path)
    assert message in told, told


def test_a_changed_record_is_found_by_its_hash_or_else_changes_the_choice(archive: Path, tmp_path: Path) -> None:
    """Whoever changes a score has to list its hash anew, and then other cells have to carry their Diffs."""
    cell = picked_cell(archive, picked=False)
    name = f"cells/{cell}/record.json"
    better = edit(name, lambda d: d["scores"]["recovery"]["headline"].update(value=0.11))
    assert refusal(forged(archive, better, sign=False, rows=False), tmp_path).startswith(f"{name}: oversized or cut")
    same = edit(name, lambda d: d["scores"]["recovery"]["headline"].update(value=0.9))
    for n, (rows, message) in enumerate(((False, "not agree with the manifest's entry"), (True, "its hash "))):
        (tmp_path / str(n)).mkdir()
        told = refusal(forged(archive, same, rows=rows), tmp_path / str(n))
        assert message in told, told


def test_another_file_of_the_same_size_has_a_wrong_hash(archive: Path, tmp_path: Path) -> None:
    name = f"cells/{picked_cell(archive)}/diff/tensors.safetensors"
    change = lambda files: files.update({name: files[name][::-1]})  # noqa: E731
    assert refusal(forged(archive, change, sign=False, rows=False), tmp_path).startswith(f"{name}: wrong hash")
    (tmp_path / "b").mkdir()
    told = refusal(forged(archive, change), tmp_path / "b")
    assert told == "diff/tensors.safetensors: wrong hash: it is not the Diff that was scored"


def test_diffs_of_other_cells_than_the_chosen_ones_are_refused(archive: Path, tmp_path: Path) -> None:
    picked, other = picked_cell(archive), picked_cell(archive, picked=False)

    def swap(files: Files) -> None:
        for part in ("diff.json", "tensors.safetensors"):
            files[f"cells/{other}/diff/{part}"] = files.pop(f"cells/{picked}/diff/{part}")

    def admit(files: Files) -> None:
        swap(files)
        edit(MANIFEST, lambda d: [c.update(carries_diff=c["folder"] == other) for c in d["cells"]])(files)

    into = tmp_path / "into"
    into.mkdir()
    inspected = inspect(forged(archive, admit), into)
    keys = {name: record.key for name, record in inspected.records.items()}
    assert inspected.refused[keys[picked]] == "its hash chooses it to carry its Diff, and it carries none"
    assert inspected.refused[keys[other]].startswith("it carries a Diff, and its hash does not choose it")


def test_files_beside_a_record_are_those_that_it_names(archive: Path, tmp_path: Path) -> None:
    cell = picked_cell(archive, picked=False)
    told = refusal(forged(archive, lambda files: files.update({f"cells/{cell}/sheet.json": b"{}"})), tmp_path)
    assert told == "sheet.json: wrong hash: it is not the file that its record names"


def test_weights_of_no_chosen_cell_are_refused(archive: Path, tmp_path: Path) -> None:
    name = f"models/{'0' * 64}/model.safetensors"
    told = refusal(forged(archive, lambda files: files.update({name: b"x"})), tmp_path)
    assert told == f"{name}: weights that no chosen cell is about"


def test_a_member_that_is_larger_than_any_may_be_is_refused_before_it_is_read(archive: Path, tmp_path: Path) -> None:
    """The header promises a terabyte, which nobody has to send for it to be dangerous."""
    files = members(archive)
    name = f"cells/{picked_cell(archive)}/record.json"
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as out:
        for member in (MANIFEST, "run.json"):
            info = tarfile.TarInfo(member)
            info.size = 1 << 40
            out.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    assert f"{MANIFEST}: oversized: {1 << 40} bytes" in refusal(tmp_path / "b.tar.gz", tmp_path)
    (tmp_path / "c").mkdir()
    large = lambda d: [m.update(size=m["size"] + 1) for m in d["members"] if m["name"] == name]  # noqa: E731
    told = refusal(forged(archive, edit(MANIFEST, large), sign=False, rows=False), tmp_path / "c")
    assert told.startswith(f"{name}: oversized or cut: {len(files[name])} bytes")


def test_an_archive_that_would_fill_the_disk_is_refused_with_its_first_member(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("diffbench.inspection.shutil.disk_usage", lambda path: usage)
    assert "the archive would take " in refusal(archive, tmp_path)
    assert [path.name for path in (tmp_path / "into").iterdir()] == [MANIFEST]


def test_the_manifest_comes_first_and_its_order_is_kept(archive: Path, tmp_path: Path) -> None:
    files = list(members(archive).items())
    write_archive(tmp_path / "b.tar.gz", [*files[1:], files[0]])
    assert "comes first, where manifest.json belongs" in refusal(tmp_path / "b.tar.gz", tmp_path)
    for n, (order, message) in enumerate(
        (
            ([files[0], files[2], files[1], *files[3:]], "not in the manifest, or not in its place"),
            (files[:-1], f"{files[-1][0]}: missing, and the manifest lists it"),
            (files[:1], "missing, and the manifest lists it"),
        )
    ):
        (tmp_path / str(n)).mkdir()
        write_archive(tmp_path / "b.tar.gz", order)
        assert message in refusal(tmp_path / "b.tar.gz", tmp_path / str(n))


def test_a_challenge_has_to_be_the_one_that_was_named(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "monday", synthetic_records()[:9])
    path = packed(run, tmp_path / "a.tar.gz", challenge="quokka")
    for n, challenge in enumerate(("quokka", None)):
        (tmp_path / str(n)).mkdir()
        assert inspect(path, tmp_path / str(n), challenge).problems == ()
    (tmp_path / "c").mkdir()
    [problem] = inspect(path, tmp_path / "c", "wombat").problems
    assert problem == "its choice hangs on the challenge 'quokka', and not on 'wombat'"


def test_a_tampered_score_is_refused_with_its_row(archive: Path, tmp_path: Path, recounted: Any) -> None:
    key = sorted(choice(archive))[0]
    recounted[key] = Recounted(TAMPERED, 80, 0.8)
    found = found_in(archive, tmp_path)
    assert not found.accepted and found.count("refused") == 1 and found.count("verified") == 1
    [row] = [row for row in found.rows if row.state == "refused"]
    assert (row.key, row.reason, row.figures, row.largest) == (key, TAMPERED, 80, 0.8)


def test_a_score_that_its_parts_do_not_give_is_refused_in_every_row(tmp_path: Path) -> None:
    """Most rows are not scored again: what they say twice is compared."""
    records = synthetic_records()
    for at, honest in enumerate(records):
        if honest.scores is not None and at % 7 == 0:
            recovery = honest.scores.recovery.model_copy(update={"headline": Figure.of(0.9)})
            scores = honest.scores.model_copy(update={"recovery": recovery})
            records[at] = honest.model_copy(update={"scores": scores})
    changed = {item.key for item in records if item.scores and item.scores.recovery.headline.value == 0.9}
    pack(synthetic_run(tmp_path / "run", records)).write(tmp_path / "a.tar.gz")
    (tmp_path / "in").mkdir()
    found = inspect(tmp_path / "a.tar.gz", tmp_path / "in")
    assert len(changed) > 1 and not changed <= found.picked and found.refused.keys() == changed
    assert all("recovery.headline: 0.9 is not the mean of its budgets" in why for why in found.refused.values())


def test_a_paid_judges_figures_need_its_verdicts(archive: Path, tmp_path: Path, recounted: Any) -> None:
    key = sorted(choice(archive))[0]
    recounted[key] = Recounted(None, 80, 0.0, judged=False)
    found = found_in(archive, tmp_path)
    [row] = [row for row in found.rows if row.key == key]
    assert found.accepted and row.state == "unverified" and (row.reason or "").startswith("its judge is not asked")


def test_a_judge_that_was_replayed_is_told(
    archive: Path, tmp_path: Path, recounted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recounted |= {key: Recounted(None, 80, 0.0, judged=False) for key in choice(archive)}
    monkeypatch.setattr(examination, "_judging", lambda *_: ("follows", None))
    rows = [row for row in found_in(archive, tmp_path).rows if row.state == "verified"]
    assert {row.reason for row in rows} == {"scores verified; its judge was replayed, not asked"} and len(rows) == 2


def rechosen(files: Files) -> None:
    """Moves Diffs to where the choice has fallen since: a submitter has all of them."""
    parts = ("diff.json", "tensors.safetensors")
    found = {name.split("/")[1]: Record.model_validate_json(data) for name, data in files.items() if "/record" in name}
    picked = chosen(list(found.values()))
    made = {}
    for cell, item in found.items():
        for part in parts:
            files.pop(f"cells/{cell}/diff/{part}", None)
            if item.key in picked:
                files[f"cells/{cell}/diff/{part}"] = f"{part} of {item.key}".encode()
        made[cell] = item.key in picked
    edit(MANIFEST, lambda d: [c.update(carries_diff=made[c["folder"]]) for c in d["cells"]])(files)


def leave_out(files: Files) -> None:
    """A cell that is not there, and is listed as unfinished."""
    hide_cell(files)
    gone = {"organism": "halfswap", "reference": "base", "row": "quokka-diff", "seed": 7}
    edit(MANIFEST, lambda d: d.update(unfinished=[gone]))(files)
    rechosen(files)


def test_cells_that_are_not_there_are_told_and_kept(archive: Path, tmp_path: Path, recounted: Any) -> None:
    short = forged(archive, leave_out)
    result = CliRunner().invoke(main, ["leaderboard", "verify", str(short), "--out", str(tmp_path / "v.json")])
    assert result.exit_code == 0, result.output
    assert "1 cells asked for and not there: halfswap quokka-diff s7 against base" in result.stderr
    [cell] = read_verification(tmp_path / "v.json").unfinished
    assert cell.name == "halfswap quokka-diff s7 against base"


@pytest.mark.parametrize(
    "config", [{}, {"organisms": []}, {"seeds": [0]}, {"tier": "laptop"}, {"judge": "other"}, {"methods": ["diff-sae"]}]
)
def test_a_configuration_that_does_not_ask_for_what_is_there_is_refused(
    config: dict[str, Any], archive: Path, tmp_path: Path
) -> None:
    change = edit("run.json", lambda d: d["config"].update(config) if config else d["config"].clear())
    told = refusal(forged(archive, change), tmp_path)
    assert "run.json does not ask for" in told and "nothing tells what else is missing" in told, told


def test_a_configuration_that_asks_for_more_than_memory_holds_is_refused(archive: Path, tmp_path: Path) -> None:
    huge = {"organisms": [f"o{n}" for n in range(2000)], "seeds": list(range(20_000))}
    told = refusal(forged(archive, edit("run.json", lambda d: d["config"].update(huge))), tmp_path)
    assert told.startswith("run.json asks for 120000000 cells, and at most 200000 are read"), told


def test_what_is_refused_as_a_whole_is_not_scored(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was scored")

    monkeypatch.setattr(examination, "recount", refuse)
    found = found_in(forged(archive, hide_cell), tmp_path)
    assert not found.accepted and "a missing cell" in found.problems[0] and found.count("verified") == 0


def test_the_command_prints_and_keeps_what_was_found(archive: Path, tmp_path: Path, recounted: Any) -> None:
    result = CliRunner().invoke(main, ["leaderboard", "verify", str(archive)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\nverified  halfswap ") == 2
    assert result.stderr.splitlines()[-1].startswith("2 rows verified, 22 unverified, 0 refused; written to ")
    found = read_verification(tmp_path / "a.tar.gz.verification.json")
    assert found.accepted and found.tolerance == Tolerance()
    recounted[sorted(choice(archive))[0]] = Recounted(TAMPERED, 80, 0.8)
    result = CliRunner().invoke(main, ["leaderboard", "verify", str(archive), "--json", "--absolute", "0.5"])
    told = json.loads(result.stdout)
    assert result.exit_code == 1 and told["accepted"] is False and told["tolerance"]["absolute"] == 0.5
    assert sum(line.startswith("refused: halfswap ") for line in result.stderr.splitlines()) == 1
    archive.write_bytes(archive.read_bytes()[:-100])
    result = CliRunner().invoke(main, ["leaderboard", "verify", str(archive), "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["accepted"] is False
    assert result.stderr.startswith("refused: no whole .tar.gz") and len(result.stderr.splitlines()) == 1


def test_what_is_verified_are_the_bytes_that_were_looked_at(tmp_path: Path, archive: Path, recounted: Any) -> None:
    run = synthetic_run(tmp_path / "ours")
    assert (
        trust_in(read_run(run)) == Trust(submitted=False)
        and trust_in(read_run(run)).mark(read_run(run).records[0]) == "own"
    )
    found = found_in(archive, tmp_path)
    files = members(archive)
    for name in [name for name in files if name.endswith("record.json")]:
        (run / name).write_bytes(files[name])
    (run / "submission.json").write_bytes(files[MANIFEST])
    assert trust_in(read_run(run)) == Trust(submitted=True)  # without a verification nothing is verified, or one's own
    (run / "verification.json").write_text(found.model_dump_json())
    assert trust_in(read_run(run)).verified == choice(archive)
    marks = {trust_in(read_run(run)).mark(item) for item in read_run(run).records}
    assert marks == {"verified", "unverified"}
    cell = run / "cells" / picked_cell(archive) / "record.json"
    cell.write_bytes(cell.read_bytes().replace(b"12.5", b"0.01"))
    assert len(trust_in(read_run(run)).verified) == len(choice(archive)) - 1
    for content in ("{", '{"schema_version": 1, "rows": "all"}'):
        (run / "verification.json").write_text(content)
        assert trust_in(read_run(run)) == Trust(submitted=True)
    (run / "submission.json").unlink()
    (run / "verification.json").unlink()
    (run / "verification.json").symlink_to("/etc/passwd")
    assert trust_in(read_run(run)) == Trust(submitted=True)
    with pytest.raises(RecordError, match="symbolic link"):
        read_verification(run / "verification.json")


def test_numbers_are_compared_within_the_tolerance_and_states_exactly() -> None:
    near, tolerance = Tolerance(absolute=0.01, relative=0.1), Figure.of(1.0, 0.9, 1.1)
    for other, n in (
        (Figure.of(1.1, 0.9, 1.1), 0),
        (Figure.of(1.2, 0.9, 1.1), 1),
        (Figure.of(1.0, 0.5, 1.1), 1),
        (Figure.of(1.0), 2),
        (Figure.undefined("why"), 1),
    ):
        comparing = Comparing(near)
        comparing.compare(tolerance, other, "r")
        assert (len(comparing.found), comparing.figures) == (n, 1), comparing.found
    comparing = Comparing(near)
    comparing.compare(Figure.undefined("one"), Figure.undefined("another reason"), "r")
    comparing.compare((1, "a", True), (1, "a", False), "facts")
    comparing.compare((1,), (1, 2), "long")
    assert comparing.found == ["facts[2]: True there, False here", "long: (1,) there, (1, 2) here"]
