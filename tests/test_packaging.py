"""The wheel as strangers get it: complete, and extended by packages that know nothing but the entry points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "tests" / "plugin_example"
PACKAGES = {"diffbench": "diffbench", "methods": "diffbench_methods", "organisms": "diffbench_organisms"}
SKIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")

BROKEN = {
    "no_import": ("import a_module_that_is_nowhere\n", "No module named 'a_module_that_is_nowhere'"),
    "misspelt": (
        "from diffbench import hookimpl\n\n\n@hookimpl\ndef diffbench_metods():\n    return []\n",
        "unknown hook 'diffbench_metods'",
    ),
}


def pip(*arguments: str | Path) -> None:
    """Run pip off line: what a build needs must be in this environment."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree that has been built nowhere before."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=SKIPPED)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "-w", out)
    [built] = out.glob("*.whl")
    return built


def packaged(path: Path) -> str | None:
    """Where a file of the tree belongs in the wheel."""
    top, *rest = path.relative_to(ROOT).parts
    if "__pycache__" in rest or path.suffix == ".pyc":
        return None
    return "/".join([PACKAGES[top], *rest])


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    tree = {packaged(path) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()} - {None}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    missing, unknown = sorted(map(str, tree - held)), sorted(held - tree)
    assert not missing, f"list these in [tool.setuptools] packages or package-data of pyproject.toml: {missing}"
    assert not unknown, f"in the wheel, but not in the tree: {unknown}"


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel, and this environment's packages behind it."""

    folder: Path
    site: Path

    def run(self, *arguments: str, code: int = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run the installed command in an empty folder, with its own cache."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        # Plugins that a developer has installed behind this environment are none of these tests' business.
        environment["DIFFBENCH_LOAD_PLUGINS"] = ",".join(("diffbench-plugin-example", *BROKEN))
        done = subprocess.run(
            [self.folder / "bin" / "diffbench", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=environment,
            cwd=self.folder / "work",
        )
        assert done.returncode == code, done.stdout[-4000:] + done.stderr[-4000:]
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean environment: diffbench from the wheel, the example beside it, torch and the like from this one."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", vars=scheme))
    behind = dict.fromkeys(entry for entry in sys.path if entry.endswith("-packages") and Path(entry).is_dir())
    (site / "behind.pth").write_text("".join(f"{entry}\n" for entry in behind))
    (folder / "work").mkdir()
    example = folder / "example"
    shutil.copytree(EXAMPLE, example, ignore=SKIPPED)
    python = folder / "bin" / "python"
    for package in (wheel, example):
        pip(
            "--python",
            python,
            "install",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--force-reinstall",
            package,
        )
    return Environment(folder, site)


def test_the_wheel_is_what_runs(installed: Environment) -> None:
    code = "import diffbench, diffbench_methods, diffbench_organisms as o; print(diffbench.__file__, o.__file__)"
    python = installed.folder / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert all(Path(file).is_relative_to(installed.site) for file in done.stdout.split()), done.stdout


def test_a_third_party_method_is_listed_with_its_origin(installed: Environment) -> None:
    loaded = json.loads(installed.run("plugins", "--json").stdout)["loaded"]
    assert {
        "entry_point": "example-mean",
        "distribution": "diffbench-plugin-example",
        "version": "0.2.0",
        "hooks": ["diffbench_methods"],
    } in loaded
    assert {entry["entry_point"] for entry in loaded} >= {"methods", "organisms", "judges"}
    methods = {method["name"]: method for method in json.loads(installed.run("methods", "list", "--json").stdout)}
    assert methods["example-mean"]["distribution"] == "diffbench-plugin-example 0.2.0"
    assert methods["example-mean"]["options"][0]["name"] == "strength"
    assert "diff-sae" in methods


def test_a_third_party_method_keeps_the_contract(installed: Environment) -> None:
    report = json.loads(installed.run("check", "example-mean", "-o", "strength=0.5", "--json").stdout)
    assert report["passed"] is True
    assert {point["name"] for point in report["checks"]} == {
        "class", "runs", "access", "diff", "budget", "order", "seed", "network", "twins",
    }  # fmt: skip
    assert "strength" in installed.run("check", "example-mean", "-o", "strength=9", code=2).stderr


def test_the_example_passes_its_own_tests(installed: Environment) -> None:
    done = subprocess.run(
        [installed.folder / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "check_example.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=installed.folder / "example",
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_third_party_method_runs_and_gets_its_row(installed: Environment) -> None:
    """The whole way of a stranger: a run on a bundled organism, then a table with the row in it."""
    options = ["--organism", "halfswap", "--method", "example-mean", "--tier", "smoke"]
    installed.run("run", *options, "-o", "example-mean.strength=0.5", "--name", "strangers", timeout=560)
    [path] = (installed.folder / "work" / "runs" / "strangers" / "cells").glob("*--example-mean--*/record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "ok"
    assert record["cell"]["method_package"] == "diffbench-plugin-example 0.2.0"
    assert record["cell"]["options"] == {"strength": 0.5}
    written = json.loads(installed.run("leaderboard", "build", "runs/strangers", "--out", "board", "--json").stdout)[
        "files"
    ]
    assert any("example-mean" in (installed.folder / "work" / file).read_text() for file in written)


def test_broken_neighbours_are_listed_and_break_nothing(installed: Environment, tmp_path: Path) -> None:
    for name, (source, _) in BROKEN.items():
        package = tmp_path / name
        package.mkdir()
        (package / f"{name}.py").write_text(source)
        (package / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\n[tool.setuptools]\npy-modules = ["{name}"]\n'
            f'[project.entry-points.diffbench]\n{name} = "{name}"\n'
        )
        python = installed.folder / "bin" / "python"
        pip("--python", python, "install", "--no-deps", "--no-build-isolation", "--no-index", package)
    try:
        failures = {
            f["entry_point"]: f["error"] for f in json.loads(installed.run("plugins", "--json").stdout)["failures"]
        }
        assert set(failures) == set(BROKEN)
        assert all(error in failures[name] for name, (_, error) in BROKEN.items())
        assert "example-mean" in installed.run("methods", "list").stdout
        assert "halfswap" in installed.run("organisms", "list").stdout
        assert "failed" in installed.run("methods", "show", "misspelt", code=2).stderr
    finally:
        pip("--python", installed.folder / "bin" / "python", "uninstall", "--yes", *BROKEN)
