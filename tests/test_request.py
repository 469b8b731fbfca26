"""A run asked for from Python is the run that the command makes; what cannot be asked for is one line."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from run_factory import NANO, snapshot

import diffbench
from diffbench import campaign, request
from diffbench.build import resolve
from diffbench.cli import main
from diffbench.errors import DiffbenchError, OptionError
from diffbench.recipe import read_recipe
from diffbench.request import Request
from diffbench.tier import TIERS

pytest_plugins = ("run_factory",)

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
[EXAMPLE] = [code for code in BLOCKS if "diffbench.run(" in code]


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """An import of ``diffbench.NAME`` binds the name to the module, whatever it was before."""
    modules = {module.name for module in pkgutil.iter_modules(diffbench.__path__)}
    assert not modules & set(diffbench.__all__)


@pytest.mark.parametrize("first", ["import diffbench.campaign, diffbench.request, diffbench.cli.run", "diffbench.run"])
def test_run_is_a_function_in_whatever_order_things_are_imported(first: str) -> None:
    code = (
        f"import diffbench\n{first}\nimport diffbench.campaign, diffbench.request, diffbench.cli.run\n"
        "assert callable(diffbench.run) and callable(diffbench.load_run)\n"
        "try:\n    import diffbench.run\nexcept ModuleNotFoundError:\n    pass\nelse:\n    raise SystemExit(1)\n"
        "import sys; assert callable(diffbench.run) and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


ASKED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "organism": (
        {"organism": "halfswap", "method": "pca", "seeds": 3, "controls": False,
         "options": {"pca": {"components": "3"}}},
        ("--organism", "halfswap", "--method", "pca", "--seed", "3", "--no-controls", "-o", "pca.components=3"),
    ),
    "several": (
        {"organism": [Path("a.yaml"), "b c"], "method": ["x", "y@z"], "seeds": range(2), "organism_seeds": (1, 2, 5),
         "references": ["base", "control"], "tier": "nano", "judge": "j:m", "layer": 1, "harvest_dtype": "auto",
         "streaming": True, "jobs": 2, "overwrite": True},
        ("--organism", "a.yaml", "--organism", "b c", "--method", "x", "--method", "y@z", "--seed", "0", "--seed", "1",
         "--organism-seeds", "1-2,5", "--reference", "base", "--reference", "control", "--tier", "nano", "--judge",
         "j:m", "--layer", "1", "--harvest-dtype", "auto", "--streaming", "--jobs", "2", "--overwrite"),
    ),
    "pair": (
        {"base": "a/b", "tuned": "c/d", "text": "t/u", "text_field": "messages", "remap": {"<x>": "<y>"},
         "name": "mine"},
        ("--base", "a/b", "--tuned", "c/d", "--text", "t/u", "--text-field", "messages", "--remap", "<x>=<y>", "--name",
         "mine"),
    ),
    "adapter": ({"base": "a/b", "adapter": "c/d"}, ("--base", "a/b", "--adapter", "c/d")),
}  # fmt: skip


class _Caught(DiffbenchError):
    """Raised in the place of a run."""


@pytest.mark.parametrize("what", ASKED)
def test_what_python_asks_for_is_what_the_command_asks_for(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[tuple[Any, ...]] = []

    def execute(config: Any, folder: Path, *, passed: Any, argv: Any, notify: Any, overwrite: bool) -> None:
        caught.append((config, folder, passed, overwrite))
        raise _Caught(str(argv))

    monkeypatch.setattr(request, "execute", execute)
    asked, words = ASKED[what]
    with pytest.raises(_Caught) as called:
        diffbench.run(**asked)
    result = CliRunner().invoke(main, ["run", *words])
    assert result.exit_code == 2 and len(caught) == 2, result.output
    assert caught[0] == caught[1]
    command = ast.literal_eval(str(called.value))
    assert command[:2] == ("python", "-c")
    with pytest.raises(_Caught):
        exec(command[2], {})  # the line that is kept asks for the same once more
    assert caught[2] == caught[0]


def test_the_example_of_the_readme_runs(
    warm: object, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a mini organism instead, with little text, and in a thread, as a notebook may run it."""
    code = EXAMPLE.replace("halfswap", "quokka").replace("from-python", "quokka")
    mini = resolve(read_recipe(recipe))
    monkeypatch.setattr(campaign, "find_organism", lambda name: {"quokka": mini}[name])
    monkeypatch.setitem(TIERS, "smoke", NANO)
    monkeypatch.chdir(tmp_path)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            exec(compile(code, "README.md", "exec"), {"__name__": "notebook"})
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []
    shown, said = capfd.readouterr()
    assert "quokka v1, tuned against base" in shown and "rank_low" in shown and "r_at_8_state" in shown
    assert said.splitlines()[-1].startswith("5 cells (0 reused, 0 failed) in ")
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 10

    before = snapshot(tmp_path / "runs")
    document = json.loads((tmp_path / "runs" / "quokka" / "run.json").read_text())
    space: dict[str, Any] = {}
    exec(document["argv"][2].replace("diffbench.run(", "again = diffbench.run(quiet=True, "), space)
    assert capfd.readouterr() == ("", "") and snapshot(tmp_path / "runs") == before
    assert len(space["again"].records) == 5 and space["again"].path == tmp_path / "runs" / "quokka"
    assert diffbench.run("quokka", "nothing", tier="smoke", controls=False, seeds=0).frame["row"].tolist() == [
        "nothing"
    ]
    assert capfd.readouterr().err.startswith("1 cells (1 reused, 0 failed)")


REFUSED: dict[str, dict[str, Any]] = {
    "no organism named 'halfswop'; did you mean halfswap": {"organism": "halfswop"},
    "no tier named 'smok'": {"organism": "halfswap", "tier": "smok"},
    "no method named 'pcaa'": {"organism": "halfswap", "method": "pcaa"},
    "name either organisms": {},
    "not both": {"organism": "halfswap", "base": "a", "tuned": "b"},
    "belongs to two models of your own": {"tuned": "b"},
    "--base A needs either --tuned B": {"base": "a"},
    "own pair: remap": {"base": "a", "tuned": "b", "remap": ["x"]},
    "seeds.0: .*greater than or equal to 0": {"organism": "halfswap", "seeds": -1},
    "seeds.1: .*less than or equal to": {"organism": "halfswap", "seeds": [0, 2**63]},
    "seeds: none is named": {"organism": "halfswap", "seeds": []},
    "seeds.0: .*valid integer": {"organism": "halfswap", "seeds": "x"},
    "layer: .*greater than or equal to 0": {"organism": "halfswap", "layer": -1},
    "references.0: ": {"organism": "halfswap", "references": "nothing"},
    "harvest_dtype: ": {"organism": "halfswap", "harvest_dtype": "float16"},
    "options.pca: ": {"organism": "halfswap", "options": {"pca": 3}},
    "'../up' is a path; a run lies in": {"organism": "halfswap", "name": "../up"},
    "'..' is a path; a run lies in": {"organism": "halfswap", "name": ".."},
    "'.' is a path; a run lies in": {"organism": "halfswap", "name": "."},
    "'-x' is no name for a run": {"organism": "halfswap", "name": "-x"},
    "'' is no name for a run": {"organism": "halfswap", "name": ""},
    "' ' is no name for a run": {"organism": "halfswap", "name": " "},
    r"'x\\n' is no name for a run": {"organism": "halfswap", "name": "x\n"},
    r"'\\x1b\[0m' is no name for a run": {"organism": "halfswap", "name": "\x1b[0m"},
    "methods: none is named": {"organism": "halfswap", "method": []},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_run_is_raised_in_one_line_and_leaves_nothing(message: str, tmp_path: Path) -> None:
    with pytest.raises(DiffbenchError, match=message) as caught:
        diffbench.run(**REFUSED[message], runs_dir=tmp_path / "runs", quiet=True)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_an_unknown_word_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="methods"):
        diffbench.run("halfswap", methods=["pca"])  # type: ignore[call-arg]


def test_a_request_says_what_was_passed_and_where_it_lies() -> None:
    asked = {"organisms": ["halfswap", "./my own.yaml"], "tier": "smoke", "judge": "offline"}
    made = Request.of(asked, ["organisms", "judge"], argv=["x"], runs_dir=Path("there"))
    assert made.passed == {"organisms": ["halfswap", "./my own.yaml"], "judge": "offline"}
    assert made.folder == Path("there/halfswap-my-own") and made.config.tier == "smoke"
    typed = Request.of(asked, [], argv=["/x/diffbench/__main__.py", "run", "--organism", "halfswap"])
    assert typed.argv == ("diffbench", "run", "--organism", "halfswap"), "as it can be typed"
    with pytest.raises(OptionError, match="teir"):
        Request.of({"teir": "smoke"}, [], argv=[])
