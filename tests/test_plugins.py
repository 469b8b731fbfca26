from __future__ import annotations

import logging
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import Install

from diffbench import plugins
from diffbench.errors import PluginError, UnknownName
from diffbench.method import Method


def method_source(*names: str, hook: str = "diffbench_methods", extra: str = "") -> str:
    """A plugin module with one method class per name."""
    classes = "".join(
        f"class M{i}(Method):\n    name = {name!r}\n    summary = 'test'\n    def run(self, pair, ctx): ...\n\n"
        for i, name in enumerate(names)
    )
    offered = ", ".join(f"M{i}" for i in range(len(names)))
    return (
        f"from diffbench import Method, hookimpl\n{textwrap.dedent(extra)}\n{classes}\n"
        f"@hookimpl\ndef {hook}():\n    return [{offered}]\n"
    )


def failures_of(distribution: str) -> list[plugins.Failure]:
    return [failure for failure in plugins.load_plugins().failures if distribution in failure.distribution]


def test_a_method_is_found_with_its_provenance(install: Install) -> None:
    install("stranger", method_source("zeta", "alpha"), version="2.5")
    found = plugins.load_plugins()
    assert found.methods["alpha"].name == "alpha"
    assert list(found.methods) == sorted(found.methods)
    assert plugins.provenance(plugins.find_method("zeta")) == "stranger 2.5"
    [loaded] = [entry for entry in found.loaded if entry.distribution == "stranger"]
    assert (loaded.entry_point, loaded.version, loaded.hooks) == ("stranger", "2.5", ("diffbench_methods",))
    assert failures_of("stranger") == []


def test_bundled_plugins_register_like_any_other() -> None:
    found = plugins.load_plugins()
    assert {loaded.entry_point for loaded in found.loaded} == {"announce", "judges", "methods", "organisms"}
    assert found.failures == []
    assert "tinyworld" in found.bases and found.families and found.judges and found.methods
    assert all(plugins.provenance(method).startswith("diffbench ") for method in found.methods.values())


BROKEN = {
    "no-import": ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    "syntax": ("def broken(:\n", "SyntaxError"),
    "exits": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "no-hook": ("x = 1\n", "implements no hook"),
    "misspelt": (method_source("misspelt", hook="diffbench_method"), "unknown hook 'diffbench_method'"),
    "bad-argument": (
        "from diffbench import hookimpl\n@hookimpl\ndef diffbench_cell_finished(nonsense): ...\n",
        "nonsense",
    ),
    "raising": ("from diffbench import hookimpl\n@hookimpl\ndef diffbench_methods(): 1 / 0\n", "ZeroDivisionError"),
    "not-iterable": ("from diffbench import hookimpl\n@hookimpl\ndef diffbench_methods(): return 7\n", "TypeError"),
    "no-class": (
        "from diffbench import hookimpl\n@hookimpl\ndef diffbench_methods(): return [7]\n",
        "7 is no subclass",
    ),
    "no-family": ("from diffbench import hookimpl\n@hookimpl\ndef diffbench_organisms(): return [int]\n", "int"),
    "no-judge": ("from diffbench import hookimpl\n@hookimpl\ndef diffbench_judges(): return [int]\n", "int"),
    "bad-name": (method_source("Not A Name"), "must match"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_a_failure_and_breaks_nothing(install: Install, case: str) -> None:
    source, error = BROKEN[case]
    install("sound", method_source("sound-method"))
    install(case, source, version="0.3")
    assert plugins.find_method("sound-method").name == "sound-method"
    [failure] = failures_of(case)
    assert error in failure.error and "\n" not in failure.error
    assert (failure.entry_point, failure.distribution, failure.version) == (case, case, "0.3")
    assert failures_of("sound") == []


MALFORMED = {
    "version = 'beta'": "`version` must be of type int",
    "version = True": "`version` must be of type int",
    "control = 'maybe'": "`control` must be of type bool",
    "reference = None": "`reference` must be of type str",
    "access = frozenset({'minds'})": "unknown access ['minds']",
    "Options = dict": "Options must be a subclass of diffbench.MethodOptions",
    "class Options(MethodOptions):\n        k: int": "Options need defaults",
    "class Options(MethodOptions):\n        lr: float = float('nan')": "Options need defaults",
    "class Options(MethodOptions):\n        what: object = object()": "Options need defaults",
}


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_method_is_refused_when_it_is_loaded(install: Install, line: str) -> None:
    """Whatever would otherwise fail in the middle of a run of everybody's methods."""
    source = method_source("odd").replace("Method, hookimpl", "Method, MethodOptions, hookimpl")
    install("odd", source.replace("    summary = 'test'\n", f"    summary = 'test'\n    {line}\n"))
    assert "odd" not in plugins.load_plugins().methods
    [failure] = failures_of("odd")
    assert MALFORMED[line] in failure.error


def test_unforeseen_errors_keep_their_traceback(install: Install) -> None:
    install("raising", BROKEN["raising"][0])
    [failure] = failures_of("raising")
    assert "1 / 0" in failure.traceback and "ZeroDivisionError" in failure.traceback


def test_one_broken_class_does_not_hide_its_neighbours(install: Install) -> None:
    install("mixed", method_source("good", "BAD", "fine"))
    assert {"good", "fine"} <= set(plugins.load_plugins().methods)
    assert len(failures_of("mixed")) == 1


def test_two_methods_of_one_name_are_unusable_and_name_both(install: Install) -> None:
    install("first", method_source("same", "apart"), version="1.1")
    install("second", method_source("same"), version="2.2")
    found = plugins.load_plugins()
    assert "same" not in found.methods and "apart" in found.methods
    with pytest.raises(PluginError, match=r"first 1\.1 and second 2\.2.*diffbench plugins"):
        plugins.find_method("same")
    [failure] = failures_of("second")
    assert failure.distribution == "first, second"


def test_the_same_class_offered_twice_is_one_method(install: Install) -> None:
    install("origin", method_source("shared"))
    install(
        "again",
        "from diffbench import hookimpl\nimport origin\n@hookimpl\ndef diffbench_methods(): return [origin.M0]\n",
    )
    assert plugins.find_method("shared").name == "shared"
    assert failures_of("again") == []


@pytest.mark.parametrize(
    ("value", "seen"),
    [("", set()), (" ", set()), ("one-a", {"one"}), ("ONE_A, two-b", {"one", "two"}), (None, {"one", "two"})],
)
def test_load_plugins_variable(
    install: Install, monkeypatch: pytest.MonkeyPatch, value: str | None, seen: set[str]
) -> None:
    install("one-a", method_source("one"))
    install("two-b", method_source("two"))
    if value is not None:
        monkeypatch.setenv(plugins.ONLY, value)
    found = plugins.load_plugins()
    assert set(found.methods) & {"one", "two"} == seen
    assert "methods" in {loaded.entry_point for loaded in found.loaded}


def test_unknown_names_list_the_nearest(install: Install) -> None:
    install("stranger", method_source("lens-of-differences"))
    with pytest.raises(UnknownName, match="lens-of-differences"):
        plugins.find_method("lens-of-difference")
    for find, kind in ((plugins.find_family, "family"), (plugins.find_base, "base"), (plugins.find_judge, "judge")):
        with pytest.raises(UnknownName, match=f"no {kind} named 'zzz'"):
            find("zzz")


def test_a_name_whose_plugin_failed_points_to_the_failure(install: Install) -> None:
    install("diffbench-lost", "import no_such_module_at_all\n", entry_point="lost-method")
    for name in ("lost", "lost-method", "diffbench-lost"):
        with pytest.raises(PluginError, match=r"no_such_module_at_all.*diffbench plugins"):
            plugins.find_method(name)
    with pytest.raises(UnknownName, match=r"1 plugin failed, see `diffbench plugins`"):
        plugins.find_method("something-else")


def test_what_a_plugin_prints_does_not_spoil_stdout(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("chatty", method_source("chatty", extra="print('hello from import')"))
    assert "chatty" in plugins.load_plugins().methods
    out, err = capsys.readouterr()
    assert out == "" and "hello from import" in err


def test_methods_are_not_asked_for_until_needed(install: Install) -> None:
    install(
        "lazy",
        "from diffbench import hookimpl\nasked = []\n"
        "@hookimpl\ndef diffbench_methods():\n    asked.append(1)\n    return []\n",
    )
    found = plugins.load_plugins()
    import lazy  # type: ignore[import-not-found]

    assert found.bases and lazy.asked == []
    assert found.methods is found.methods and lazy.asked == [1]


def test_cell_finished_reaches_everyone_and_never_raises(
    install: Install, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    hook = "from diffbench import hookimpl\nseen = []\n@hookimpl\ndef diffbench_cell_finished(record, path):\n    "
    install("a-bad", hook + "raise SystemExit('no')\n")
    install("b-good", hook + "seen.append((record, path))\n")
    record: Any = object()
    with caplog.at_level(logging.WARNING):
        plugins.notify_cell_finished(record, tmp_path)
    import b_good  # type: ignore[import-not-found]

    assert b_good.seen == [(record, tmp_path)]
    assert "a-bad 1.0: diffbench_cell_finished: SystemExit: no" in caplog.text


class Importable(Method):
    name = "importable"
    summary = "a method at the top of a module"

    def run(self, pair: Any, ctx: Any) -> Any:
        raise NotImplementedError


def test_a_method_is_found_again_by_its_target() -> None:
    target = plugins.method_target(Importable)
    assert target == f"{__name__}:Importable"
    assert plugins.load_method(target) is Importable


def test_a_method_that_cannot_be_imported_has_no_target() -> None:
    class Local(Importable):
        pass

    with pytest.raises(PluginError, match="cannot be imported"):
        plugins.method_target(Local)
    for target in ("no_such_module:M", f"{__name__}:Missing", f"{__name__}:pytest", "diffbench.method:Method", ":", ""):
        with pytest.raises(PluginError):
            plugins.load_method(target)
