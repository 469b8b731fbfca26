"""One method process: however a method ends, there is an outcome with its message, and nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_factory import NANO, snapshot

from diffbench import runner
from diffbench.cell import MethodOutcome, finish_method, submit_method
from diffbench.diff_file import load_diff
from diffbench.plugins import find_method
from diffbench.tier import Tier

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("hostile")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffbench.testing import tiny_pair

    return tiny_pair(tmp_path_factory.mktemp("pair"))


class Stage:
    """Runs acts of the hostile method on the tiny pair."""

    def __init__(self, servers: runner.Workers, pair: Path, out: Path) -> None:
        self.servers, self.pair, self.out = servers, pair, out
        self.log = out.with_name("out.log")

    def act(self, act: str, argument: str = "", tier: Tier = NANO) -> MethodOutcome:
        method = find_method("hostile")
        options = method.Options(act=act, argument=argument)
        task = submit_method(self.servers.methods(), self.pair, self.out, method, options, 0, tier)
        return finish_method(task, self.out)


@pytest.fixture
def stage(servers: runner.Workers, pair: Path, tmp_path: Path) -> Iterator[Stage]:
    before = snapshot(pair)
    yield Stage(servers, pair, tmp_path / "out")
    assert snapshot(pair) == before, "the method changed its inputs"


def test_a_method_that_does_well_leaves_a_diff(stage: Stage) -> None:
    outcome = stage.act("fine", "all is well")
    assert (outcome.status, outcome.error, outcome.ok) == ("ok", None, True)
    assert load_diff(outcome.diff_folder).notes == {"said": "all is well"}
    assert 0 < outcome.seconds < NANO.seconds and outcome.peak_memory_mb > 1
    assert {path.name for path in stage.out.iterdir()} == {"diff"}


FAILURES = {
    "raises": "ValueError: three lines of words",
    "ends": "WorkerError: the process ended with exit code 0 and without an answer",
    "dies": "WorkerError: killed by SIGKILL (out of memory?)",
    "nothing": "PluginError: hostile: run() must return a Diff, got NoneType",
    "words": "PluginError: hostile: run() must return a Diff, got dict",
    "nan": "DiffError: centre: holds NaN or infinite values",
    "wide": "DiffError: directions: has shape [1, 64], needs [1, 32]",
    "undeclared": "AccessError: the method used 'generate' but declares activations; add it to `access`",
}


@pytest.mark.parametrize("act", FAILURES)
def test_a_method_that_fails_is_an_error_with_its_message(act: str, stage: Stage) -> None:
    outcome = stage.act(act)
    assert (outcome.status, outcome.error) == ("error", FAILURES[act])
    assert not outcome.diff_folder.exists()


def test_the_traceback_of_a_method_is_in_its_log(stage: Stage) -> None:
    stage.act("raises", "look here")
    text = stage.log.read_text()
    assert "Traceback" in text and "in raises" in text and "ValueError: look here" in text


def test_an_exit_code_is_named(stage: Stage) -> None:
    assert "exit code 3" in str(stage.act("ends", "3").error)


def test_a_method_that_hangs_ends_with_its_budget(stage: Stage) -> None:
    outcome = stage.act("hangs", tier=NANO.model_copy(update={"seconds": 2.0}))
    assert (outcome.status, outcome.error) == ("error", "time budget of 2 s exceeded")
    assert outcome.seconds >= 2


@pytest.mark.parametrize("reason", ["no LoRA adapter in this pair", ""])
def test_not_applicable_is_no_error(reason: str, stage: Stage) -> None:
    outcome = stage.act("not-applicable", reason)
    assert outcome.status == "not_applicable"
    assert outcome.error == (reason or "the method gave no reason")


def test_megabytes_of_output_do_no_harm(stage: Stage) -> None:
    outcome = stage.act("chatters")
    assert outcome.ok
    assert stage.log.stat().st_size < 20 << 20
    assert stage.log.read_text().endswith("the last words\n")


def test_links_that_a_method_leaves_are_not_followed(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    assert stage.act("links", str(tmp_path)).ok
    assert "secret" not in stage.log.read_text() and secret.read_text() == "secret"


def test_a_method_cannot_change_its_inputs(stage: Stage) -> None:
    outcome = stage.act("vandal")
    assert outcome.ok, outcome.error


FORGED = {
    "no object": "[1]",
    "no JSON": "{",
    "a list": json.dumps({"answer": [1, 2]}),
    "wrong usage": json.dumps({"answer": {"usage": [1]}}),
    "lone surrogate": '{"answer": {"not_applicable": "\\ud800"}}',
    "infinity": '{"answer": {"usage": {"tokens": 1e999}}}',
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_answer_without_a_diff_is_an_error(name: str, stage: Stage) -> None:
    outcome = stage.act("forges", FORGED[name])
    assert outcome.status == "error" and outcome.usage == {}, outcome


def test_forged_counts_are_cut_to_what_a_record_can_hold(stage: Stage) -> None:
    claimed = {"tokens": 5, "x" * 100: 1, "huge": 1 << 80, "wrong": "text", "truth": True}
    outcome = stage.act("forges", json.dumps({"answer": {"not_applicable": "no", "usage": claimed}}))
    assert outcome.usage == {"tokens": 5, "x" * 40: 1}
