from __future__ import annotations

import importlib.util
import stat
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from diffbench import DiffbenchError, OptionError, scaffold
from diffbench.cli import main
from diffbench.contract import check_offer

WIDTH = 8


def load(folder: Path, name: str) -> ModuleType:
    """Import one module of a scaffolded package."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(method: Any, delta: torch.Tensor) -> Any:
    """Run a method on made-up activations, without any model."""

    def logit_lens(vectors: torch.Tensor, top: int) -> list[tuple[list[str], list[str]]]:
        assert vectors.dim() == 2 and vectors.shape[1] == WIDTH
        return [(["up"] * top, ["down"] * top) for _ in vectors]

    acts = SimpleNamespace(load=lambda: (torch.zeros_like(delta), delta))
    pair = SimpleNamespace(activations=lambda: acts, logit_lens=logit_lens)
    diff = method().run(pair, SimpleNamespace(seed=0, layer=1, budget=None, report=lambda phrase, fraction: None))
    diff.check(WIDTH, 2, 100)
    return diff


def test_a_new_method_works_as_it_is(tmp_path: Path) -> None:
    folder = scaffold.new_method("my-diff", tmp_path / "package")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "diffbench_my_diff.py",
        "pyproject.toml",
        "test_diffbench_my_diff.py",
    ]
    module = load(folder, "diffbench_my_diff")
    assert module.diffbench_methods() == [module.MyDiff]
    method = check_offer("method", module.MyDiff)
    assert method.name == "my-diff"
    delta = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0)) + 1
    diff = run(method, delta)
    assert diff.n_components == 1 and diff.verdict == "changed"
    assert torch.allclose(diff.constant[0] * diff.directions[0], delta.mean(dim=0), atol=1e-5)
    assert diff.findings[0].tokens_up == ("up",) * 10


def test_a_new_method_finds_nothing_in_identical_models(tmp_path: Path) -> None:
    folder = scaffold.new_method("my-diff", tmp_path / "package")
    diff = run(load(folder, "diffbench_my_diff").MyDiff, torch.zeros(50, WIDTH))
    assert (diff.n_components, diff.findings, diff.verdict) == (0, (), "unchanged")


def test_the_package_declares_its_entry_point(tmp_path: Path) -> None:
    folder = scaffold.new_method("x.y_z-2", tmp_path / "package")
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "diffbench-x-y-z-2"
    assert project["project"]["entry-points"] == {"diffbench": {"x.y_z-2": "diffbench_x_y_z_2"}}
    assert project["tool"]["setuptools"]["py-modules"] == ["diffbench_x_y_z_2"]
    assert load(folder, "diffbench_x_y_z_2").XYZ2.name == "x.y_z-2"
    assert not any("$" in path.read_text() for path in folder.iterdir())


def test_what_is_written_passes_the_linter_of_this_project(tmp_path: Path) -> None:
    folder = scaffold.new_method("my-diff", tmp_path / "package")
    for path in folder.glob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert max(map(len, path.read_text().splitlines())) <= 110


BAD = [
    "",
    "..",
    "../x",
    "a/b",
    "/abs",
    "A",
    "my diff",
    "-x",
    "x-",
    "x.",
    "a\n",
    "ä",
    "a" * 65,
    "$name",
    "methods",
    "organisms",
]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError):
        scaffold.new_method(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["7", "3-way", "a..b", "x"])
def test_odd_names_give_importable_modules(tmp_path: Path, name: str) -> None:
    folder = scaffold.new_method(name, tmp_path / "package")
    module = scaffold.method_names(name).module
    assert module.isidentifier() and load(folder, module).diffbench_methods()[0].name == name


def test_existing_work_is_never_touched(tmp_path: Path) -> None:
    full, file, link = tmp_path / "full", tmp_path / "file", tmp_path / "link"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for target in (full, file, link):
        with pytest.raises(DiffbenchError, match="not empty"):
            scaffold.new_method("my-diff", target)
    assert [path.name for path in full.iterdir()] == ["mine.txt"] and file.read_text() == "mine" and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "link"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = scaffold.new_method("my-diff", tmp_path / "empty")
    assert (folder / "pyproject.toml").is_file()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scaffold.FILES, "no-such.template", "x")
    with pytest.raises(DiffbenchError, match="cannot be written"):
        scaffold.new_method("my-diff", tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["new", "method", "my-diff"])
    assert result.exit_code == 0, result.output
    assert "pip install -e diffbench-my-diff" in result.output and "diffbench check my-diff" in result.output
    assert (tmp_path / "diffbench-my-diff" / "diffbench_my_diff.py").is_file()
    result = CliRunner().invoke(main, ["new", "method", "my-diff"])
    assert result.exit_code == 2 and "not empty" in result.stderr
    assert "diffbench_my_diff" not in sys.modules
