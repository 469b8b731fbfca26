"""``diffbench latents`` and what `methods show` and `schema` say about rankings, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from engine_factory import dictionary_diff, labelled_corpus, small_pair, word_tokenizer
from record_factory import run_file
from test_fits import fit_file, left

from diffbench.cli import main
from diffbench.fits import publish_fit
from diffbench.latent_table import write_latents
from diffbench.lens import Lens
from diffbench.run_folder import write_run_file


def fit(folder: Path, method: str, columns: dict[str, Any] | None, seed: int = 0) -> Path:
    """A finished fit of a run, whose dictionary has six latents."""
    path = folder / "fits" / f"o--{method}--s{seed}--aaaaaaaa"
    leaving = left(folder.parent / f"left-{method}-{seed}", table=False)
    if columns is not None:
        lens = Lens.of(small_pair()[1], word_tokenizer(), labelled_corpus(400))
        named = {name: torch.tensor(values) for name, values in columns.items()}
        diff = dictionary_diff("delta", n=6)
        object.__setattr__(diff, "columns", named)
        object.__setattr__(diff, "order", torch.tensor([5, 4, 3, 2, 1, 0]))
        write_latents(diff, lens, leaving / "latents.parquet")
    publish_fit(path, leaving, fit_file().model_copy(update={"method": method, "seed": seed}))
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents") / "runs" / "demo"
    folder.mkdir(parents=True)
    write_run_file(folder, run_file("demo"))
    nan = float("nan")
    columns = {"energy": [1.0, 6.0, 3.0, 2.0, 5.0, 4.0], "mine": [nan, 0.5, nan, nan, 0.25, nan], "none": [nan] * 6}
    fit(folder, "sae", columns)
    fit(folder, "sae", columns, seed=1)
    fit(folder, "other", {"energy": [1.0] * 6})
    fit(folder, "pca", None)
    return folder


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["latents", *map(str, arguments)], env={"COLUMNS": "200"})


def entries(*arguments: object) -> list[dict[str, Any]]:
    result = ask(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_every_fit_with_its_rankings_and_its_first_latents(demo: Path) -> None:
    found = {(e["method"], e["seed"]): e for e in entries(demo)}
    assert list(found) == [("other", 0), ("pca", 0), ("sae", 0), ("sae", 1)]
    sae = found["sae", 0]
    assert list(sae["rankings"]) == ["energy", "mine"] and "mean squared norm" in sae["rankings"]["energy"]
    assert [row["latent"] for row in sae["latents"]] == [5, 4, 3, 2, 1, 0]
    assert [row["rank"] for row in sae["latents"]] == [1, 2, 3, 4, 5, 6]
    assert sae["latents"][0]["mine"] is None and sae["latents"][0]["tokens_up"]
    assert Path(sae["file"]).is_file()
    assert found["pca", 0] | {"latents": None, "file": None, "rankings": {}} == found["pca", 0]


def test_sorted_by_a_column(demo: Path) -> None:
    [entry] = entries(demo, "--method", "sae", "--seed", 0, "--sort", "mine", "--top", 3)
    assert [row["latent"] for row in entry["latents"]] == [1, 4, 0]
    [entry] = entries(demo, "--method", "sae", "--seed", 1, "--sort", "energy", "--top", 2)
    assert [row["latent"] for row in entry["latents"]] == [1, 4]
    assert [e["latents"] is None for e in entries(demo, "--sort", "mine")] == [True, True, False, False]


def test_for_people(demo: Path) -> None:
    result = ask(demo, "--sort", "mine", "--top", 2)
    assert result.exit_code == 0 and "\x1b" not in result.output
    lines = result.stdout.splitlines()
    assert "sae on o against base, seed 0, by mine" in lines and "rankings: energy, mine" in lines
    assert "pca on o against base, seed 0: its Diff is no dictionary and has no latents" in lines
    assert "no ranking 'mine' here" in lines
    header = next(line for line in lines if line.startswith("LATENT"))
    assert header.split() == ["LATENT", "RANK", "mine", "energy", "PROMOTES", "SUPPRESSES"]
    row = next(line for line in lines if line.startswith("1 "))
    assert row.split()[:4] == ["1", "5", "0.5", "6"]


def test_by_the_name_of_a_run(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo.parent.parent)
    assert ask("demo", "--method", "other").exit_code == 0


WRONG = {
    "no method with a finished fit in this run named 'sea'; did you mean sae": ("--method", "sea"),
    "no ranking in these fits named 'enrgy'; did you mean energy": ("--sort", "enrgy"),
    "no finished fit that was asked for": ("--seed", 7),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_not_there_is_one_line(message: str, demo: Path) -> None:
    result = ask(demo, *WRONG[message])
    assert result.exit_code == 2 and result.stdout == "" and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert "it has no run.json" in ask(tmp_path).stderr


def test_damaged_fits_hide_no_other_and_changed_tables_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    write_run_file(folder, run_file("demo"))
    fit(folder, "good", {"energy": [1.0] * 6})
    (folder / "fits" / "bad").mkdir()
    (folder / "fits" / "bad" / "fit.json").write_text("{")
    (folder / "fits" / "link").symlink_to(tmp_path)
    result = ask(folder)
    assert result.exit_code == 0 and "good on o" in result.stdout
    assert [line[:9] for line in result.stderr.splitlines()] == ["damaged: "] * 2
    table = next(folder.glob("fits/o--good*/latents.parquet"))
    table.write_bytes(table.read_bytes() + b"x")
    result = ask(folder)
    assert result.exit_code == 2 and "latents.parquet: changed or missing since" in result.stderr


def test_a_dictionary_that_nothing_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    write_run_file(folder, run_file("demo"))
    fit(folder, "bare", {})
    assert "rankings: none" in ask(folder).stdout


def test_looking_at_latents_needs_no_torch(demo: Path) -> None:
    code = "import sys\nfrom diffbench.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n" \
           "    assert end.code == 0\nassert 'torch' not in sys.modules"  # fmt: skip
    arguments = [sys.executable, "-c", code, "latents", str(demo)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0 and "sae on o" in done.stdout, done.stderr


def test_methods_say_how_to_rank_anew() -> None:
    for name in ("pca", "nothing"):
        text = CliRunner().invoke(main, ["methods", "show", name]).stdout
        assert f"--method {name}@COLUMN" in text and f"diffbench latents RUN --method {name}" in text


@pytest.mark.parametrize(("name", "field"), [("latents", "relative_norm"), ("fit", "sandbox")])
def test_the_files_have_a_schema(name: str, field: str) -> None:
    document = json.loads(CliRunner().invoke(main, ["schema", name]).stdout)
    assert document["properties"][field]["description"]
