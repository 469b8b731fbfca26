"""Files that options name: by content, never by path, read-only, and there in the method's own process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_factory import run

from diffbench import MethodOptions, input_files
from diffbench.check import check_method
from diffbench.diff_file import load_diff
from diffbench.errors import OptionError
from diffbench.input_files import InputFile, placed, recorded
from diffbench.method import Field, FileField, resolve_options
from diffbench.plugins import find_method
from diffbench.record import Record

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")


class Options(MethodOptions):
    k: int = Field(1, description="a number")
    weights: str | None = FileField("the weights")


class Reader:
    name = "reader"
    Options = Options


def found(**values: Any) -> tuple[InputFile, ...]:
    return input_files.input_files(Reader, resolve_options(Reader, values))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files at two depths."""
    path = tmp_path / "sae"
    (path / "deep").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "deep" / "weights.bin").write_bytes(b"\x00\x01")
    return path


def test_an_option_without_a_file_is_none() -> None:
    assert found() == found(k=2) == ()
    assert recorded({"k": 2}, ()) == {"k": 2}


def test_a_file_is_known_by_its_name_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_text("one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.bin").write_text("one")
    [first], [second] = found(weights=str(tmp_path / "a.bin")), found(weights=str(tmp_path / "other" / "a.bin"))
    assert first.described() == second.described() and first.described()["name"] == "a.bin"
    values = {"k": 1, "weights": str(tmp_path / "a.bin")}
    assert recorded(values, [first]) == {"k": 1, "weights": first.described()}
    assert str(tmp_path) not in json.dumps(recorded(values, [first]))
    (tmp_path / "a.bin").write_text("two")
    assert found(weights=str(tmp_path / "a.bin"))[0].sha256 != first.sha256
    monkeypatch.chdir(tmp_path)
    assert found(weights="other/a.bin") == found(weights="./other/../other/a.bin") == (second,)


def test_a_folder_is_known_by_the_names_and_contents_in_it(folder: Path) -> None:
    [first] = found(weights=str(folder))
    assert [part for part, _, _ in first.parts] == ["config.json", "deep/weights.bin"]
    assert found(weights=f"{folder}/")[0] == first
    seen = {first.sha256}
    (folder / "deep" / "weights.bin").rename(folder / "deep" / "weights.pt")
    seen.add(found(weights=str(folder))[0].sha256)
    (folder / "config.json").write_text("[]")
    seen.add(found(weights=str(folder))[0].sha256)
    (folder / "more").write_text("")
    seen.add(found(weights=str(folder))[0].sha256)
    assert len(seen) == 4


def link_out(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(folder.parent / "secret")


def linked_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "deep" / "link").symlink_to(folder.parent / "elsewhere")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def odd_name(folder: Path) -> None:
    (folder / "a\nb").write_text("x")


def loop(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)


BAD: dict[str, Callable[[Path], None]] = {
    "holds 'link', which leads out of it": link_out,
    "holds 'link', which leads out of it or is no plain file": linked_folder,
    "holds 'pipe', which leads out of it or is no plain file": pipe,
    "a name that is no text": odd_name,
    "holds 'loop', which leads out of it or is no plain file": loop,
}


@pytest.mark.parametrize("message", BAD)
def test_a_folder_that_holds_more_than_files_is_refused(message: str, folder: Path) -> None:
    BAD[message](folder)
    with pytest.raises(OptionError, match=message) as caught:
        found(weights=str(folder))
    assert str(caught.value).startswith("reader: option weights: ") and len(str(caught.value).splitlines()) == 1


def test_links_inside_a_folder_may_stay(folder: Path, tmp_path: Path) -> None:
    (folder / "same").symlink_to("config.json")
    [file] = found(weights=str(folder))
    assert [part for part, _, _ in file.parts] == ["config.json", "same", "deep/weights.bin"]
    placed(Options(weights=str(folder)), [file], tmp_path / "in")
    assert not (tmp_path / "in" / "files" / "weights" / "sae" / "same").is_symlink()


@pytest.mark.parametrize("value", ["nowhere", "", "/dev/null", "/", "\x00", "x" * 5000])
def test_what_is_no_file_is_one_line(value: str) -> None:
    with pytest.raises(OptionError) as caught:
        found(weights=value)
    assert len(str(caught.value).splitlines()) == 1 and "weights" in str(caught.value)


def test_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "MOST_FILES", 1)
    with pytest.raises(OptionError, match="holds more than 1 files"):
        found(weights=str(folder))
    monkeypatch.setattr(input_files, "MOST_FILES", 2)
    monkeypatch.setattr(input_files, "MOST_BYTES", 3)
    with pytest.raises(OptionError, match="is larger than 0 GiB"):
        found(weights=str(folder))
    with pytest.raises(OptionError, match="is an empty folder"):
        (folder / "empty").mkdir()
        found(weights=str(folder / "empty"))


def test_placed_read_only_and_named_by_its_new_path(folder: Path, tmp_path: Path) -> None:
    options = Options(weights=str(folder))
    inputs = tmp_path / "in"
    moved = placed(options, found(weights=str(folder)), inputs)
    assert moved == Options(weights=str(inputs / "files" / "weights" / "sae"))
    target = inputs / "files" / "weights" / "sae" / "deep" / "weights.bin"
    assert target.read_bytes() == b"\x00\x01" and target.stat().st_mode & 0o222 == 0
    assert placed(Options(), (), inputs) == Options()


def test_a_file_that_changed_since_is_refused(folder: Path, tmp_path: Path) -> None:
    files = found(weights=str(folder))
    (folder / "config.json").write_text("[1]")
    with pytest.raises(OptionError, match="has changed since the run began; run again"):
        placed(Options(weights=str(folder)), files, tmp_path / "in")
    (folder / "config.json").unlink()
    with pytest.raises(OptionError, match="has changed since"):
        placed(Options(weights=str(folder)), files, tmp_path / "in2")


# --- through the real worker ---------------------------------------------------------------------------------------


def read(folder: Path, recipe: Path, weights: Path) -> tuple[Record, dict[str, Any]]:
    """Run a method that reads what its option names, and say what it noted."""
    outcome = run(folder, recipe, "ranked", options={"ranked": {"weights": str(weights)}})
    [record] = outcome.records
    assert record.status == "ok", record.reason
    [diff] = folder.glob(f"cells/*{record.key[:8]}/diff")
    return record, dict(load_diff(diff).notes)


def test_a_method_reads_the_file_in_its_own_process(folder: Path, recipe: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.txt"
    weights.write_text("three words here")
    record, notes = read(tmp_path / "run", recipe, weights)
    assert notes == {"read": json.dumps({"weights.txt": "three words here"}), "inside": True, "changed": False}
    described = record.cell.options["weights"]
    assert record.cell.options_passed["weights"] == described["name"] == "weights.txt"
    for path in (tmp_path / "run").glob("*/*/*.json"):
        assert str(tmp_path) not in path.read_text(), path
    assert weights.read_text() == "three words here" and os.access(weights, os.W_OK)


def test_other_content_is_another_fit_and_another_place_is_not(recipe: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "weights.txt", tmp_path / "moved" / "weights.txt"
    second.parent.mkdir()
    for path in (first, second):
        path.write_text("one")
    record, _ = read(tmp_path / "run", recipe, first)
    assert run(tmp_path / "run", recipe, "ranked", options={"ranked": {"weights": str(second)}}).reused == 1
    second.write_text("two")
    other, notes = read(tmp_path / "run", recipe, second)
    assert other.fit != record.fit and other.key != record.key and "two" in notes["read"]


def test_a_folder_and_a_link_above_the_size(
    folder: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffbench import exchange

    (folder / "deep" / "weights.bin").write_text("text")
    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    _, notes = read(tmp_path / "run", recipe, folder)
    assert json.loads(notes["read"]) == {"sae/config.json": "{}", "sae/deep/weights.bin": "text"}
    assert notes["changed"] is False and (folder / "config.json").read_text() == "{}"


def test_a_missing_file_is_refused_before_anything_runs(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"ranked: option weights: .*nowhere.* cannot be read") as caught:
        run(tmp_path / "run", recipe, "ranked", options={"ranked": {"weights": str(tmp_path / "nowhere")}})
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "run").exists()


def test_the_contract_is_checked_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_text("three words")
    checks = check_method(find_method("ranked"), {"weights": str(tmp_path / "weights.txt")})
    assert {check.name: check.state for check in checks}["runs"] == "ok", checks
