"""Recount: the chosen cells of a real submission scored again, on a pair that is made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from run_factory import run
from submission_factory import members
from test_stored_cell import edit

from diffbench import runner
from diffbench.cli import main
from diffbench.discrepancy import Comparing
from diffbench.examination import examine, untouched_cache
from diffbench.packing import pack
from diffbench.recount import Recounted, recount
from diffbench.run_folder import RECORD_FILE
from diffbench.submission import MANIFEST, Submission
from diffbench.verification import Tolerance, Verification

pytest_plugins = ("run_factory",)
pytestmark = pytest.mark.usefixtures("warm")

ROWS = ("ranked", "hostile")
ASKED: dict[str, Any] = {"options": {"hostile": {"act": "raises"}}}
NAME = "quokka ranked s0 against base"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("original") / "monday"


@pytest.fixture
def folder(original: Path, recipe: Path, warm: runner.Workers, tmp_path: Path) -> Path:
    """A copy of a run of one method that has scores and one that failed, made once."""
    if not original.exists():
        run(original, recipe, *ROWS, **ASKED)
    shutil.copytree(original, tmp_path / "monday")
    return tmp_path / "monday"


def examined(folder: Path, recipe: Path, **asked: Any) -> Verification:
    archive, work = folder.parent / "a.tar.gz", folder.parent / "work"
    pack(folder).write(archive)
    work.mkdir()
    return examine(archive, work, lambda phrase, fraction: None, organisms=(str(recipe),), **asked)


def test_an_honest_run_comes_out_as_it_says(folder: Path, recipe: Path) -> None:
    found = examined(folder, recipe)
    assert found.accepted, found
    [good] = [row for row in found.rows if row.state == "verified"]
    assert good.name == NAME and good.figures > 100 and good.largest is not None and good.largest <= 1e-6
    assert (good.weights, good.judging) == ("same", "follows")
    [failed] = [row for row in found.rows if row.state == "unverified"]
    assert failed.reason == "it has no scores (error)" and failed.judging is None
    files = members(folder.parent / "a.tar.gz")
    manifest = Submission.model_validate_json(files.pop(MANIFEST))
    assert {Path(name).name for name in files} >= {
        "record.json", "sheet.json", "verdicts.jsonl", "evidence.parquet", "diff.json", "tensors.safetensors",
        "model.safetensors", "run.json",
    }  # fmt: skip
    assert manifest.unfinished == () and json.loads(files["run.json"])["config"]["organisms"] == ["quokka"]
    assert str(recipe.parent).encode() not in b"".join(files.values())
    assert not [name for name in files if name.endswith((".txt", "config.json"))]


def test_a_tampered_score_does_not_come_out(folder: Path, recipe: Path) -> None:
    [cell] = folder.glob("cells/*--ranked--*")

    def better(document: dict[str, Any]) -> None:
        figure = document["scores"]["recovery"]["r_full"]
        figure.update({end: figure[end] + 0.002 for end in ("value", "low", "high") if figure[end] is not None})
        document["pair"]["kl_noise"] += 1.0

    edit(cell, better)
    archive = folder.parent / "a.tar.gz"
    pack(folder, weights=False).write(archive)
    result = CliRunner().invoke(
        main, ["leaderboard", "verify", str(archive), "--organism", str(recipe), "--relative", "0", "--json"]
    )
    told = json.loads(result.stdout)
    assert result.exit_code == 1 and not told["accepted"]
    [row] = [row for row in told["rows"] if row["state"] == "refused"]
    assert row["row"] == "ranked" and row["weights"] == "not carried"
    assert row["reason"].startswith("does not come out as it says: scores.recovery.r_full: ")
    assert "pair.kl_noise: 1 there, " in row["reason"] and row["largest"] == pytest.approx(1.0)
    [line] = [line for line in result.stderr.splitlines() if line.startswith("refused: ")]
    assert line.startswith(f"refused: {NAME}: does not come out as it says")


def test_a_judges_figure_that_its_verdicts_do_not_give_is_refused(
    folder: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cell] = folder.glob("cells/*--ranked--*")
    new = {"state": "ok", "value": 0.75, "low": None, "high": None, "reason": None}
    edit(cell, lambda d: d["scores"]["interpretability"]["match"]["structured"].update(new))
    monkeypatch.setattr(
        "diffbench.examination.recount",
        lambda inspected, *_, **__: dict.fromkeys(inspected.picked, Recounted(None)),
    )
    [row] = [row for row in examined(folder, recipe).rows if row.row == "ranked"]
    assert row.state == "refused" and row.judging == "does not follow"
    assert (row.reason or "").startswith("its judge's figures do not follow from its verdicts: match, structured: ")


def test_an_organism_that_is_not_here_has_to_be_named(folder: Path, recipe: Path) -> None:
    archive, work = folder.parent / "a.tar.gz", folder.parent / "work"
    pack(folder).write(archive)
    work.mkdir()
    found = examine(archive, work, lambda phrase, fraction: None)
    [row] = [row for row in found.rows if row.row == "ranked"]
    assert row.state == "refused" and "no organism named 'quokka'" in (row.reason or "")
    assert (row.reason or "").endswith("name its recipe with --organism")


def test_the_same_weights_under_another_hash_are_the_same_pair(
    folder: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other libraries give another hash; that the model is the same is seen by its bytes, and only by these."""
    [cell] = folder.glob("cells/*--ranked--*")
    tuned = json.loads((cell / RECORD_FILE).read_text())["hashes"]["tuned_model"]
    held = module_held()
    monkeypatch.setattr("diffbench.cache.held", lambda kind, key: held(kind, tuned if key == "5" * 64 else key))
    edit(cell, lambda d: d["hashes"].update(tuned_model="5" * 64))
    archive, seen = folder.parent / "a.tar.gz", []
    pack(folder).write(archive)
    assert f"models/{'5' * 64}/model.safetensors" in members(archive)
    monkeypatch.setattr("diffbench.cache.held", held)

    def rescore(folder: Path, *_: object, **__: object) -> Any:
        seen.append(json.loads(next(folder.glob("cells/*/record.json")).read_text())["hashes"]["tuned_model"])
        raise StopIteration

    monkeypatch.setattr("diffbench.recount.rescore", rescore)
    (folder.parent / "work").mkdir()
    with pytest.raises(StopIteration):
        examine(archive, folder.parent / "work", lambda phrase, fraction: None, organisms=(str(recipe),))
    assert seen == [tuned]


def module_held() -> Any:
    from diffbench import cache

    return cache.held


def test_an_untouched_cache_is_used_for_a_while(tmp_path: Path) -> None:
    from diffbench.cache import cache_root

    before = cache_root()
    with untouched_cache(tmp_path / "cache"):
        assert cache_root() == tmp_path / "cache"
    with untouched_cache(None):
        assert cache_root() == before
    assert cache_root() == before and recount is not None and Comparing(Tolerance()).found == []
