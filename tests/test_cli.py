from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from conftest import Install

from diffbench import DiffbenchError
from diffbench.cli import COMMANDS, LazyGroup, main, terminal


def diffbench(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def refused(*arguments: str) -> str:
    """The one line that a refused command prints."""
    result = diffbench(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("diffbench: error: ")
    return line


def test_help_teaches() -> None:
    text = diffbench("--help").output
    assert "diffbench run --organism halfswap" in text
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name: str) -> None:
    result = diffbench(name, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage: ")


def test_help_line_of_a_command_is_the_one_in_the_list() -> None:
    for name, (_, line) in COMMANDS.items():
        command = main.get_command(click.Context(main), name)
        assert command is not None and command.name == name
        assert line.endswith(".") and len(line) < 80


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


HEAVY = ("torch", "pandas", "transformers", "peft", "openai", "datasets", "pyarrow", "numpy")
MAIN = "import sys; from diffbench.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
COUNT = f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins", "--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = run_python(MAIN + COUNT, *arguments)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["organisms", "list"], ["bases", "list"], ["schema", "record"]])
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    done = run_python(
        MAIN + "print('TORCH', 'torch' in sys.modules, 'diffbench_methods.saes' in sys.modules)", *arguments
    )
    assert done.stdout.rstrip().endswith("TORCH False False"), done.stdout + done.stderr


def test_help_is_fast() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run_python(MAIN, "--help")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffbench", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == diffbench("--version").output
    assert done.stdout.startswith("diffbench ") and "unknown" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["metods"], "methods"),
        (["leaderbord", "build"], "leaderboard"),
        (["methods", "lits"], "list"),
        (["organisms", "verfiy", "x"], "verify"),
        (["new", "methd", "x"], "method"),
    ],
)
def test_unknown_commands_suggest_the_nearest(arguments: list[str], near: str) -> None:
    result = diffbench(*arguments)
    assert result.exit_code == 2
    assert f"did you mean {near}?" in result.stderr and "Traceback" not in result.output


def test_unknown_options_are_usage_errors() -> None:
    result = diffbench("methods", "list", "--jsn")
    assert result.exit_code == 2 and "--json" in result.stderr


def test_unknown_names_list_the_nearest() -> None:
    assert "did you mean halfswap" in refused("organisms", "show", "halfswop")
    assert "did you mean halfswap" in refused("organisms", "verify", "halfsap")
    assert "did you mean tinyworld" in refused("bases", "build", "tinywold", "--out", "x")
    assert "did you mean diff-sae" in refused("methods", "show", "diff-sea")
    assert "no method named" in refused("check", "diff-sea")


def test_errors_are_one_clean_line() -> None:
    assert "\x1b" not in refused("methods", "show", "a\nb\x1b[31m\x07\u202e")


def probe(error: BaseException) -> Result:
    """A command that raises."""

    @click.group(cls=LazyGroup)
    def group() -> None:
        raise error

    return CliRunner().invoke(group, ["methods", "list"])


def test_errors_of_people_and_bugs_differ() -> None:
    result = probe(DiffbenchError("two\nlines\x1b[2J"))
    assert (result.exit_code, result.stderr) == (2, "diffbench: error: two lines\n")
    result = probe(ZeroDivisionError("a bug"))
    assert isinstance(result.exception, ZeroDivisionError)


def test_interrupt_exits_130() -> None:
    result = probe(KeyboardInterrupt())
    assert (result.exit_code, result.stderr) == (130, "diffbench: interrupted\n")


def test_interrupt_of_a_process(tmp_path: Path) -> None:
    code = (
        "import sys, time, click, diffbench.cli as cli\n"
        "@click.command()\ndef wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.modules['waiting'] = type(sys)('waiting'); sys.modules['waiting'].wait = wait\n"
        "cli.COMMANDS['run'] = ('waiting:wait', '.')\ncli.main(['run'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, "diffbench: interrupted")


def test_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m diffbench schema record | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "{\n" and done.stderr == ""


def test_methods_list_and_show() -> None:
    listed = json.loads(diffbench("methods", "list", "--json").stdout)
    names = [method["name"] for method in listed]
    assert names == sorted(names) and "diff-sae" in names
    text = diffbench("methods", "list").stdout
    assert all(name in text for name in names)
    shown = json.loads(diffbench("methods", "show", "diff-sae", "--json").stdout)
    assert shown in listed
    assert shown["access"] == ["activations"] and shown["distribution"].startswith("diffbench ")
    [k] = [option for option in shown["options"] if option["name"] == "k"]
    assert (k["type"], k["range"]) == ("int", ">= 1") and k["description"]
    text = diffbench("methods", "show", "diff-sae").stdout
    assert all(option["name"] in text and option["description"] in text for option in shown["options"])


OPTIONS = """
from typing import Literal
from diffbench import Field, Method, MethodOptions, hookimpl

class M(Method):
    name = "m"
    summary = "evil \\x1b[31m summary\\nover lines"
    class Options(MethodOptions):
        kind: Literal["a", "b"] = Field("a", description="which")
        share: float = Field(0.5, gt=0, le=1, description="how much")
        names: list[str] = Field(default_factory=lambda: ["x"], description="some")
        size: int | None = None
    def run(self, pair, ctx): ...

@hookimpl
def diffbench_methods():
    return [M]
"""


def test_options_of_every_form_are_described(install: Install) -> None:
    install("stranger", OPTIONS)
    shown = json.loads(diffbench("methods", "show", "m", "--json").stdout)
    options = {option["name"]: option for option in shown["options"]}
    assert options["kind"] == {
        "name": "kind", "type": "a|b", "default": "a", "range": "", "description": "which",
    }  # fmt: skip
    assert options["share"]["range"] == "> 0, <= 1"
    assert options["names"]["default"] == ["x"] and options["names"]["type"] == "list[str]"
    assert options["size"]["default"] is None and options["size"]["type"] == "int | None"
    text = diffbench("methods", "show", "m").stdout
    assert "evil summary over lines" in text and "how much" in text


def test_plugins_shows_failures_and_succeeds(install: Install) -> None:
    install("lost", "raise ValueError('a reason')\n", version="4.5")
    result = diffbench("plugins")
    assert result.exit_code == 0
    assert "diffbench_methods" in result.stdout and "lost 4.5 (lost): ValueError: a reason" in result.stderr
    assert "Traceback" not in result.output
    assert "Traceback" in diffbench("plugins", "--tracebacks").stderr
    listing = json.loads(diffbench("plugins", "--json").stdout)
    [failure] = listing["failures"]
    assert (failure["distribution"], failure["error"]) == ("lost", "ValueError: a reason")
    assert {"diffbench_methods"} in [set(loaded["hooks"]) for loaded in listing["loaded"]]


def test_organisms_list_and_show() -> None:
    listed = json.loads(diffbench("organisms", "list", "--json").stdout)
    names = [entry["name"] for entry in listed]
    assert names == sorted(names) and {"halfswap", "noswap"} <= set(names)
    assert all(entry["error"] is None for entry in listed)
    shown = json.loads(diffbench("organisms", "show", "halfswap", "--json").stdout)
    assert shown["recipe"]["name"] == "halfswap" and shown["truth"]["changed"] is True
    text = diffbench("organisms", "show", "halfswap").stdout
    assert shown["truth"]["claims"][0]["statement"] in text
    assert f"{len(shown['truth']['probes']['affected'])} affected probes" in text
    assert "nothing changed" in diffbench("organisms", "show", "noswap").stdout


FAMILY = """
from pathlib import Path
from diffbench import Family, hookimpl

class Broken(Family):
    name = "broken-family"
    summary = "brings recipes that cannot be used"
    def recipes(self):
        return tuple(sorted(Path(__file__).parent.glob("recipes/*.yaml")))
    def training_text(self, base, parameters, seed): ...
    def documents(self, base, parameters, mixture, seed): ...
    def truth(self, base, parameters, seed): ...

class Raising(Broken):
    name = "raising-family"
    def recipes(self):
        raise RuntimeError("no recipes today")

@hookimpl
def diffbench_organisms():
    return [Broken, Raising]
"""


def test_a_broken_recipe_hides_no_other(install: Install, tmp_path: Path) -> None:
    recipes = tmp_path / "site" / "recipes"
    recipes.mkdir()
    [halfswap] = [
        entry for entry in json.loads(diffbench("organisms", "list", "--json").stdout) if entry["name"] == "halfswap"
    ]
    good = json.dumps(
        halfswap["recipe"]
        | {"family": "broken-family", "parameters": {}, "choices": {}, "control": None, "name": "usable"}
    )
    (recipes / "usable.yaml").write_text(good)
    (recipes / "garbled.yaml").write_text("{]")
    (recipes / "unsuited.yaml").write_text(
        good.replace('"usable"', '"unsuited"').replace('"parameters": {}', '"parameters": {"x": 1}')
    )
    (recipes / "baseless.yaml").write_text(good.replace('"usable"', '"baseless"').replace('"tinyworld"', '"flatland"'))
    (recipes / "twice.yaml").write_text(good.replace('"usable"', '"halfswap"'))
    install("stranger", FAMILY)
    listed = json.loads(diffbench("organisms", "list", "--json").stdout)
    errors = {entry["name"]: entry["error"] for entry in listed if entry["family"] != "colour-swap"}
    assert errors["usable"] is None
    assert "garbled.yaml: not plain YAML" in errors["garbled"]
    assert "x" in errors["unsuited"] and "flatland" in errors["baseless"]
    assert "no recipes today" in errors["raising-family"]
    assert {"halfswap", "noswap"} <= {entry["name"] for entry in listed}
    text = diffbench("organisms", "list").stdout
    assert text.count("BROKEN: ") == 4 and "usable" in text
    for name in ("garbled", "unsuited", "baseless"):
        assert errors[name] in refused("organisms", "show", name)
    assert "defined twice" in refused("organisms", "show", "halfswap")


def test_organisms_are_found_by_path(tmp_path: Path) -> None:
    [halfswap] = [
        entry for entry in json.loads(diffbench("organisms", "list", "--json").stdout) if entry["name"] == "halfswap"
    ]
    (tmp_path / "recipe.yaml").write_text(Path(halfswap["path"]).read_text())
    for path in (tmp_path / "recipe.yaml", tmp_path):
        result = diffbench("organisms", "show", str(path), "--json")
        assert json.loads(result.stdout)["recipe"] == halfswap["recipe"]
    assert "no such file" in refused("organisms", "show", str(tmp_path / "other.yaml"))
    (tmp_path / "recipe.yaml").write_text("family: 1\n")
    assert "recipe.yaml" in refused("organisms", "show", str(tmp_path))


@pytest.mark.parametrize(("value", "code", "word"), [(0.5, 0, "passed"), (0.9, 1, "did not pass")])
def test_verify_prints_the_gate_and_exits_by_it(
    monkeypatch: pytest.MonkeyPatch, value: float, code: int, word: str
) -> None:
    from diffbench import campaign
    from diffbench.gate_report import GateCheck, GateReport

    checks = (
        GateCheck(name="expression", value=value, low=0.4, high=0.6),
        GateCheck(name="kl", value=0.0, low=None, high=1.0),
    )

    def verify(names: Any, seeds: Any, report: Any) -> Any:
        found = campaign.find_organisms(names, seeds)
        return [(organism, GateReport(organism=organism.recipe.name, checks=checks, layer=2)) for organism in found]

    monkeypatch.setattr(campaign, "verify", verify)
    result = diffbench("organisms", "verify", "halfswap")
    assert result.exit_code == code and f"halfswap: {word}" in result.stdout
    assert ("FAILED" in result.stdout) == bool(code) and "layer 2" in result.stdout
    result = diffbench("organisms", "verify", "halfswap", "--json")
    [document] = json.loads(result.stdout)
    assert result.exit_code == code and document["passed"] is not bool(code)
    assert [check["passed"] for check in document["checks"]] == [not code, True]
    result = diffbench("organisms", "verify", "halfswap", "noswap", "--organism-seeds", "0,7-8")
    assert result.exit_code == code
    assert [f" {name} " in result.stdout for name in ("halfswap", "halfswap@7", "noswap@8", "halfswap@9")] == [
        True,
        True,
        True,
        False,
    ]
    assert f"{0 if code else 6} of 6 organisms passed" in result.stdout


def test_verify_all_is_of_all_that_stands_on_installed_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffbench import campaign
    from diffbench.errors import RecipeError
    from diffbench.gate_report import GateCheck, GateReport

    asked: list[str] = []

    def verify(names: Any, seeds: Any, report: Any) -> Any:
        asked.extend(names)
        one, other = campaign.find_organisms(("halfswap", "noswap"))
        check = GateCheck.measured("expression, tuned", 0.123456)
        return [(one, GateReport(organism="halfswap", checks=(check,))), (other, RecipeError("training: diverged"))]

    monkeypatch.setattr(campaign, "verify", verify)
    result = diffbench("organisms", "verify", "--all")
    assert result.exit_code == 1  # one could not be made, and the other is shown all the same
    assert "0.123" in result.stdout and "ERROR: training: diverged" in result.stdout
    assert "1 of 2 organisms passed" in result.stdout
    assert {"halfswap", "chat", "gauge"} <= set(asked) and not any("gemma" in name for name in asked)
    document = json.loads(diffbench("organisms", "verify", "--all", "--json").stdout)
    assert [(entry["organism"], entry["error"]) for entry in document] == [
        ("halfswap", None),
        ("noswap", "training: diverged"),
    ]
    for words in ((), ("halfswap", "--all")):
        assert "name organisms, or --all of them" in refused("organisms", "verify", *words)


def test_organisms_of_another_seed_are_found_by_name() -> None:
    shown = json.loads(diffbench("organisms", "show", "halfswap@7", "--json").stdout)
    public = json.loads(diffbench("organisms", "show", "halfswap", "--json").stdout)
    assert (shown["recipe"]["name"], shown["recipe"]["seed"], shown["recipe"]["choices"]) == ("halfswap@7", 7, {})
    colours = [{document["parameters"][key] for key in ("first", "second")} for document in (shown, public)]
    assert colours[1] == {"blue", "green"} != colours[0]
    texts = [{probe["text"] for probe in document["truth"]["probes"]["affected"]} for document in (shown, public)]
    assert not texts[0] & texts[1]
    assert "whole number below 2^62" in refused("organisms", "show", "halfswap@x")
    assert "did you mean halfswap" in refused("organisms", "show", "halfsap@7")


def test_the_schema_of_a_recipe_holds_its_familys_parameters() -> None:
    schema = json.loads(diffbench("schema", "recipe", "--family", "colour-swap").stdout)
    reference = schema["properties"]["parameters"]["$ref"].rpartition("/")[2]
    exchange = schema["$defs"][reference]["properties"]["exchange"]
    assert (exchange["minimum"], exchange["maximum"]) == (0, 1)
    assert schema["properties"]["choices"] == schema["properties"]["parameters"]
    assert schema["properties"]["family"] == {"const": "colour-swap"}
    kinds = schema["properties"]["training"]["discriminator"]["mapping"]
    assert set(kinds) == {"full", "lora", "none", "gauge", "given"}
    assert "--family belongs to recipe" in refused("schema", "truth", "--family", "colour-swap")


def test_bases_list_and_build_refuses_to_overwrite(tmp_path: Path) -> None:
    [base] = [
        entry for entry in json.loads(diffbench("bases", "list", "--json").stdout) if entry["name"] == "tinyworld"
    ]
    assert base["card"]["width"] == 128 and base["error"] is None
    assert "tinyworld" in diffbench("bases", "list").stdout
    (tmp_path / "mine").mkdir()
    assert "exists already" in refused("bases", "build", "tinyworld", "--out", str(tmp_path / "mine"))


@pytest.mark.parametrize("document", ["record", "diff", "truth", "recipe"])
def test_schemas_are_json_schemas(document: str) -> None:
    schema = json.loads(diffbench("schema", document).stdout)
    assert schema["type"] == "object" and "schema_version" in schema["properties"]
    assert schema["additionalProperties"] is False


def test_a_path_that_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    result = diffbench("organisms", "show", f"./{'a' * 300}/recipe.yaml")
    assert result.exit_code == 2 and "name too long" in result.stderr.lower() and result.stderr.count("\n") == 1


def test_progress_off_a_terminal_is_sparse_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.progress() as report:
        for second in range(12):
            now[0] = float(second)
            report("fitting\n[bold]", second // 4 / 4)
    out, err = capsys.readouterr()
    assert out == "" and err == "fitting [bold]: 0%\nfitting [bold]: 25%\n"


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    # The leader hands out one write at a time: it is read until the other end is closed, which Linux reports as EIO.
    code = (
        "import pty, os, sys\n"
        "from diffbench.cli.terminal import progress\n"
        "leader, follower = pty.openpty(); os.dup2(follower, 2); sys.stderr = os.fdopen(2, 'w', closefd=False)\n"
        "with progress() as report:\n    report('fitting [/red]', 0.5)\n"
        "sys.stderr.flush(); os.close(follower); os.close(2)\n"
        "try:\n"
        "    while part := os.read(leader, 65536):\n        os.write(1, part)\n"
        "except OSError:\n    pass\n"
    )
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False, env=environment)
    assert b"fitting [/red]" in done.stdout, done.stderr.decode()
