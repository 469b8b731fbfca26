"""What a newcomer once ran into."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffbench import cache
from diffbench.build import resolve
from diffbench.catalogue import find_organism
from diffbench.cli import main
from diffbench.errors import RecipeError
from diffbench.readiness import check_text
from diffbench.recipe import read_recipe

HALFSWAP = (Path(__file__).parent.parent / "organisms" / "colours" / "halfswap.yaml").read_text(encoding="utf-8")


def recipe_with(folder: Path, old: str, new: str) -> Path:
    assert old in HALFSWAP
    path = folder / "mine.yaml"
    path.write_text(HALFSWAP.replace(old, new), encoding="utf-8")
    return path


def test_an_entry_with_a_file_cut_short_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "w").write_text("weights")

    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path))
    path = cache.publish("k", {"a": 1}, fill)
    (path / "w").write_text("wei")
    assert cache.finished("k", {"a": 1}) is None
    assert cache.publish("k", {"a": 1}, fill) == path and (path / "w").read_text() == "weights"


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("first: blue", "first: green", "two different colours"),
        ("seed: 0", "seed: 99999999999999999999999999", "seed"),
        ("replay: 4000", "replay: 4000000000000", "replay"),
        ("expression_tuned: [0.4, 0.6]", "expression_tuned: [0.6, 0.4]", "first bound"),
        ("topics: {colours: 3", "topics: {colors: 3", "colors"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_trained(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = recipe_with(tmp_path, old, new)
    with pytest.raises(RecipeError, match=said):
        check_text(resolve(read_recipe(path)))
    result = CliRunner().invoke(main, ["run", "--organism", str(path), "--runs-dir", str(tmp_path / "runs")])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_recipe_that_is_a_pipe_or_a_device_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        with pytest.raises(RecipeError, match="no plain file"):
            find_organism(str(tmp_path / name))


@pytest.mark.parametrize("name", ["../x", "a/b", "/x"])
def test_a_name_is_no_way_out_of_the_runs_folder(tmp_path: Path, name: str) -> None:
    arguments = ["run", "--organism", "halfswap", "--runs-dir", str(tmp_path / "runs"), "--name", name]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "plain name" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_new_method_needs_a_name_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new", "method", "pca", "--out", str(tmp_path / "x")])
    assert result.exit_code == 2 and "installed already" in result.stderr
