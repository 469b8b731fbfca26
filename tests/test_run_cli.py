"""``diffbench run`` as it is typed: what it prints where, how it ends, and that it can be killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from run_factory import DRIVER, answers, command, mini_recipe, run

from diffbench import plugins
from diffbench.cli import main, terminal
from diffbench.leaderboard import LEADERBOARD_SCHEMA

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

METHODS = ("mean-difference", "nothing", "pca")


@pytest.fixture
def ask(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``diffbench run`` on the mini organism in this process, with all of its progress."""
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(terminal, "SECONDS_TO_FIRST_LINE", 0.0)

    def ask(*arguments: str) -> Result:
        fixed = ("run", "--organism", str(recipe), "--tier", "nano", "--runs-dir", str(tmp_path / "runs"))
        return CliRunner().invoke(
            main, [*fixed, *(() if "--controls" in arguments else ("--no-controls",)), *arguments]
        )

    return ask


def test_a_run_prints_its_table_and_says_where_its_files_are(ask: Callable[..., Result], tmp_path: Path) -> None:
    result = ask("--method", "nothing", "--method", "pca")
    assert result.exit_code == 0, result.output
    assert "quokka v1, tuned against base, tier nano" in result.stdout and "\npca " in result.stdout
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("2 cells (0 reused, 0 failed) in ")
    assert lines[-1].endswith(f"records, Diffs and logs: {tmp_path / 'runs' / 'quokka'}")
    assert any(line.startswith("cells 0/2 quokka nothing s0") for line in lines), lines
    again = ask("--method", "nothing", "--method", "pca")
    assert again.exit_code == 0 and again.stdout == result.stdout
    assert again.stderr.startswith("2 cells (2 reused, 0 failed)") and len(again.stderr.splitlines()) == 1


def test_how_activations_are_read_is_asked_for_and_recorded(ask: Callable[..., Result], tmp_path: Path) -> None:
    result = ask("--method", "mean-difference", "--streaming", "--harvest-dtype", "auto")
    assert result.exit_code == 0, result.output
    [record] = (tmp_path / "runs" / "quokka" / "cells").glob("*/record.json")
    pair = json.loads(record.read_text())["pair"]
    assert pair["streamed"] is True
    assert pair["harvest_dtype"] == ("bfloat16" if pair["harvest_ratio"]["value"] >= 10 else "float32")
    plain = ask("--method", "mean-difference")
    assert "(0 reused" in plain.stderr  # other rows may give another answer
    refused = ask("--method", "mean-difference", "--harvest-dtype", "float16")
    assert refused.exit_code == 2 and "float32" in refused.stderr


def test_a_cell_that_failed_is_exit_code_1_with_its_reason(ask: Callable[..., Result]) -> None:
    result = ask("--method", "hostile", "--method", "nothing", "-o", "hostile.act=raises")
    assert result.exit_code == 1, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert line == "failed: quokka hostile: ValueError: three lines of words"
    assert "1 failed" in result.stdout and "\x1b" not in result.output and "Traceback" not in result.output


def test_rankings_are_rows_from_the_command_line_to_the_last_line(ask: Callable[..., Result], tmp_path: Path) -> None:
    rows = ("ranked", "ranked@rising", "hostile@x")
    result = ask(*(word for row in rows for word in ("--method", row)), "-o", "hostile.act=raises", "--jobs", "1")
    assert result.exit_code == 1, result.output
    assert "\nranked " in result.stdout and "\nranked@rising " in result.stdout
    lines = result.stderr.splitlines()
    assert "failed: quokka hostile@x: ValueError: three lines of words" in lines
    assert any(line.startswith("quokka ranked@rising seed 0: lift ") for line in lines), lines
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "runs" / "quokka")])
    assert "\nranked@rising " in shown.stdout and "hostile@x seed 0 (run quokka): error: " in shown.stdout
    document = json.loads(CliRunner().invoke(main, ["show", str(tmp_path / "runs" / "quokka"), "--json"]).stdout)
    assert {row["row"] for row in document["rows"]} == set(rows) == {row["row"] for row in document["summary"]}
    listed = CliRunner().invoke(main, ["latents", str(tmp_path / "runs" / "quokka"), "--sort", "rising", "--top", "2"])
    assert "rankings: falling, partly, rising" in listed.stdout and "ranked on quokka against base" in listed.stdout


def test_methods_that_are_missing_are_mentioned_where_all_were_asked_for(
    ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = plugins.Failure("odd", "odd", "1.0", "SyntaxError: no", "")
    found = plugins.load_plugins()
    monkeypatch.setitem(found._found, "method", {"nothing": plugins.find_method("nothing")})
    monkeypatch.setattr(found, "_failures", [failure])
    assert "1 plugins failed to load" in ask().stderr
    assert "failed to load" not in ask("--method", "nothing").stderr


def test_json_is_all_that_is_on_stdout(ask: Callable[..., Result]) -> None:
    result = ask("--method", "nothing", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0 and document["schema_version"] == LEADERBOARD_SCHEMA
    assert "nothing" in json.dumps(document) and "quokka" in json.dumps(document)


def test_a_table_shows_the_cells_that_were_asked_for(ask: Callable[..., Result]) -> None:
    ask("--method", "nothing", "--name", "both")
    result = ask("--method", "mean-difference", "--name", "both")
    assert "\nmean-difference " in result.stdout and "\nnothing " not in result.stdout


def test_controls_are_run_beside_the_named_methods(ask: Callable[..., Result]) -> None:
    result = ask("--method", "mean-difference", "--controls")
    rows = [line.split()[0] for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    assert (
        rows.index("oracle") < rows.index("nothing") < rows.index("random-dictionary") < rows.index("mean-difference")
    )
    assert result.stderr.splitlines()[-1].startswith("4 cells")


REFUSED = {
    "did you mean smoke": ("--tier", "smok"),
    "no method named 'pcaa'; did you mean pca": ("--method", "pcaa"),
    "method 'pca@': write NAME or NAME@COLUMN": ("--method", "pca@"),
    "method 'pca@a@b': write NAME or NAME@COLUMN": ("--method", "pca@a@b"),
    "no judge named 'x'; known: offline": ("--judge", "x"),
    "-o 'pca': write METHOD.KEY=VALUE": ("-o", "pca"),
    "-o '.k=1': write METHOD.KEY=VALUE": ("-o", ".k=1"),
    "holds characters that are no text": ("--method", "pca", "-o", "pca.components=\udcff"),
    "options: act, argument": ("--method", "hostile", "-o", "hostile.x=1"),
    "no organism named 'halfswop'; did you mean halfswap": ("--organism", "halfswop"),
    "nowhere.yaml: no such file": ("--organism", "./nowhere.yaml"),
    "'..' is a path; a run lies in --runs-dir under a plain name": ("--name", ".."),
    "is no name for a run": ("--name", " "),
    "gate not passed: ": ("--organism", "GATE"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_run_is_one_line_and_exit_code_2(
    message: str, ask: Callable[..., Result], tmp_path: Path
) -> None:
    arguments = list(REFUSED[message])
    if "GATE" in arguments:
        path = mini_recipe(tmp_path, "koala", gate={"off_target_kl": 1e-9})
        result = CliRunner().invoke(
            main, ["run", "--organism", str(path), "--tier", "nano", "--runs-dir", str(tmp_path)]
        )
    else:
        result = ask(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    *_, line = result.stderr.splitlines()
    assert line.startswith("diffbench: error: ") and message in line
    assert "Traceback" not in result.output and not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", "hostile", "-o", "hostile.argument=\udcff"),
        ("--method", "nothing", "--runs-dir", "BAD/\udcff"),
        ("--method", "nothing", "--seed", str(1 << 64)),
    ],
    ids=["option", "folder", "seed"],
)
def test_odd_values_are_run_or_refused_but_never_a_traceback(
    arguments: tuple[str, ...], ask: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File names and arguments need not be text: Python hands them on with lone surrogates."""
    arguments = tuple(argument.replace("BAD", str(tmp_path)) for argument in arguments)
    monkeypatch.setattr(sys, "argv", ["diffbench", "run", *arguments])
    result = ask(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)


RESUMED = f"""{DRIVER.rpartition("main(")[0]}
from diffbench.worker import WorkServer
WorkServer.__enter__ = None
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0
open("modules.txt", "w").write(" ".join(sys.modules))
"""
"""The command line in a process that cannot start a server and then says what it has imported."""


def test_a_finished_run_is_shown_without_torch_and_without_a_process(recipe: Path, tmp_path: Path) -> None:
    run(tmp_path / "runs" / "quokka", recipe, *METHODS)
    methods = [word for method in METHODS for word in ("--method", method)]
    fixed = ["run", "--organism", str(recipe), "--tier", "nano", "--runs-dir", "runs", "--no-controls"]
    arguments = [*fixed, *methods]
    environment = os.environ | {"DIFFBENCH_LOAD_PLUGINS": ""}
    done = subprocess.run(
        [sys.executable, "-c", RESUMED, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr.startswith("3 cells (3 reused, 0 failed)"), done.stderr
    modules = set((tmp_path / "modules.txt").read_text().split())
    assert "diffbench.runner" in modules
    assert modules & {"torch", "transformers", "peft", "openai", "datasets"} == set()


# --- kill -9 ---------------------------------------------------------------------------------------------------


@dataclass
class Survivor:
    """A run that was killed at several moments, with an empty cache at first, and then finished."""

    folder: Path
    cache: Path
    stdout: str
    stderr: str
    code: int
    kept: int
    orphans: list[int]


def family(pid: int) -> dict[int, str]:
    """A process and all that descend from it, each with the time it was started at."""
    parents, started = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(name)], started[int(name)] = int(fields[1]), fields[19]
    found, news = {pid}, {pid}
    while news:
        news = {child for child, parent in parents.items() if parent in news} - found
        found |= news
    return {member: started[member] for member in found if member in started}


def alive(members: dict[int, str]) -> list[int]:
    """Those of them that still run."""
    found = []
    for pid, start in members.items():
        try:
            fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[19] == start and fields[0] != "Z":
            found.append(pid)
    return found


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], delay: float) -> list[int]:
    """Kill a run's process group a moment after it has come that far; returns which of its processes live on."""
    with process:
        deadline = time.monotonic() + 120
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        assert process.poll() is None, process.communicate()
        members = family(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    deadline = time.monotonic() + 20
    while alive(members) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive(members)


@pytest.fixture(scope="module")
def survivor(hostile: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Survivor:
    home = tmp_path_factory.mktemp("killed")
    folder, cache = home / "runs" / "quokka", home / "cache"
    methods = ["--no-controls", *(word for method in METHODS for word in ("--method", method))]
    arguments = ("run", "--organism", recipe, "--tier", "nano", "--jobs", "2", "--runs-dir", home / "runs", *methods)
    stages: tuple[Callable[[], bool], ...] = (
        lambda: any(cache.glob("models/*")),
        lambda: any(cache.glob("comparisons/*")) or any(cache.glob("comparisons/.*")),
        lambda: any(folder.glob("cells/*/record.json")),
    )
    source = random.Random(0)
    orphans: list[int] = []
    for reached, most in zip(stages, (0.3, 0.3, 0.0), strict=True):
        orphans += kill_when(command(*arguments, cache_folder=cache), reached, source.uniform(0, most))
    kept = len(list(folder.glob("cells/*/record.json")))
    with command(*arguments, "--json", cache_folder=cache) as process:
        stdout, stderr = process.communicate(timeout=300)
    return Survivor(folder, cache, stdout, stderr, process.returncode, kept, orphans)


def test_a_killed_run_can_be_finished(survivor: Survivor) -> None:
    assert survivor.code == 0, survivor.stderr
    assert len(answers(survivor.folder)) == len(METHODS)
    assert f"3 cells ({survivor.kept} reused, 0 failed)" in survivor.stderr and 1 <= survivor.kept < 3
    json.loads(survivor.stdout)


def test_a_killed_run_leaves_no_process(survivor: Survivor) -> None:
    assert survivor.orphans == []


def test_a_killed_run_and_another_cache_give_the_same_scores(survivor: Survivor, recipe: Path, tmp_path: Path) -> None:
    """Two jobs and three kills from an empty cache there; one job, another cache and warm servers here."""
    run(tmp_path / "run", recipe, *METHODS, jobs=1)
    assert answers(tmp_path / "run") == answers(survivor.folder)


def test_what_was_killed_leaves_nothing_behind_once_it_is_finished(survivor: Survivor) -> None:
    """Half-made entries and work folders hold copies of models; nobody else will ever delete them."""
    assert list((survivor.cache / "work").iterdir()) == []
    assert [path for kind in survivor.cache.iterdir() for path in kind.glob(".*")] == []
    assert not list(survivor.folder.rglob(".*"))
