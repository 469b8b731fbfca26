"""What the tests of cells and runs share: mini organisms, a nano tier, a hostile plugin, and servers kept warm.

Use it as a pytest plugin (``pytest_plugins = ("run_factory",)``): its fixtures are then the same in every module.
PYTEST_DONT_REWRITE, because the modules that use it also import from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffbench import cache, runner
from diffbench.campaign import RunConfig, RunOutcome, execute
from diffbench.plugins import load_plugins
from diffbench.record import Record
from diffbench.run_folder import read_run
from diffbench.tier import TIERS, Tier

HERE = Path(__file__).resolve().parent
DISTRIBUTION, MODULE = "diffbench-plugin-hostile", "diffbench_plugin_hostile"
NANO = Tier(name="nano", tokens=2000, components=256, seconds=60, evaluation_tokens=600, judge_tokens=800)
DRIVER = f"""
import sys
from diffbench import tier
tier.TIERS["nano"] = tier.Tier.model_validate({NANO.model_dump()!r})
from diffbench.cli import main
main(sys.argv[1:])
"""
"""The command line with the nano tier, for ``python -c``."""


def mini_recipe(folder: Path, name: str, **changes: Any) -> Path:
    """Half-swap made so small that it is built in seconds, and with a gate that everything passes.

    Args:
        folder: where to write the recipe.
        name: of the organism and of the file.
        changes: top-level keys to replace; of ``parameters``, ``gate`` and ``control`` single keys.
    """
    source = Path(str(find_spec("diffbench_organisms").origin)).parent / "colours" / "halfswap.yaml"
    recipe = yaml.safe_load(source.read_text(encoding="utf-8"))
    recipe["name"] = name
    recipe["parameters"] |= {"prefixes": 60, "replay": 40} | changes.pop("parameters", {})
    recipe["training"] |= {"steps": 2, "batch": 4, "replay_batch": 2}
    recipe["mixture"]["trigger_rate"] = [0, 1]
    wide = {"expression_tuned": [0, 1], "expression_control": [0, 1], "off_target_kl": 100, "affected_kl_share": 0}
    recipe["gate"] |= wide | changes.pop("gate", {})
    recipe |= changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def write_distribution(site: Path) -> None:
    """Put the hostile package into ``site`` as if it had been installed there."""
    shutil.copy(HERE / "plugin_hostile" / f"{MODULE}.py", site)
    info = site / f"{MODULE}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[diffbench]\nhostile = {MODULE}\n")
    (info / "RECORD").write_text(f"{MODULE}.py,,\n")


def import_path(*folders: Path) -> str:
    """``PYTHONPATH`` with some folders in front."""
    return os.pathsep.join(filter(None, (*map(str, folders), os.environ.get("PYTHONPATH"))))


class Lent(runner.Workers):
    """Workers whose servers stay warm when the run that borrowed them is over."""

    def __exit__(self, *_: object) -> None:
        self.durations.save()


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hostile distribution in it."""
    site = tmp_path_factory.mktemp("site")
    write_distribution(site)
    return site


@pytest.fixture(scope="module")
def hostile(hostile_site: Path) -> Iterator[Path]:
    """The hostile plugin is installed, here and in the processes that are started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", import_path(hostile_site))
        patch.setenv("DIFFBENCH_LOAD_PLUGINS", DISTRIBUTION)
        patch.syspath_prepend(str(hostile_site))
        patch.setitem(TIERS, "nano", NANO)
        load_plugins.cache_clear()
        yield hostile_site
    load_plugins.cache_clear()


@pytest.fixture(scope="session")
def diary(hostile_site: Path) -> Path:
    """Where the hostile package writes into what kind of process it was imported."""
    return hostile_site.with_name("diary.txt")


@pytest.fixture(scope="session")
def servers(own_cache: Path, hostile_site: Path, diary: Path) -> Iterator[runner.Workers]:
    """Both servers, started once."""
    with runner.Workers(jobs=2, notify=lambda phrase, fraction: None) as workers:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", import_path(hostile_site))
            patch.setenv("DIFFBENCH_LOAD_PLUGINS", DISTRIBUTION)
            patch.setenv("HOSTILE_DIARY", str(diary))
            workers.engine(), workers.methods()
        yield workers


@pytest.fixture
def warm(servers: runner.Workers, hostile: Path, monkeypatch: pytest.MonkeyPatch) -> runner.Workers:
    """Runs of this process use the warm servers."""
    monkeypatch.setattr(
        runner, "Workers", lambda jobs, notify, trusted: Lent(jobs, notify, trusted, servers._stack, servers._servers)
    )
    return servers


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini organism; its name occurs nowhere else."""
    return mini_recipe(tmp_path_factory.mktemp("recipes"), "quokka")


def run(folder: Path, recipe: Path, *methods: str, **asked: Any) -> RunOutcome:
    """Run methods on an organism in this process."""
    notify: Callable[[str, float], None] = asked.pop("notify", lambda phrase, fraction: None)
    overwrite = asked.pop("overwrite", False)
    asked = {"organisms": (str(recipe),), "methods": methods, "controls": False, "tier": "nano", **asked}
    config = RunConfig.model_validate(asked)
    return execute(config, folder, passed={}, argv=("test",), notify=notify, overwrite=overwrite)


def command(*arguments: object, cache_folder: Path | None = None, **changes: str) -> subprocess.Popen[str]:
    """Start ``diffbench`` with the nano tier in a process group of its own."""
    environment = os.environ | {"DIFFBENCH_CACHE": str(cache_folder or cache.cache_root())} | changes
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def answers(folder: Path) -> dict[str, Any]:
    """All of a run's records that must be the same whenever and wherever it is run: everything but timings."""
    return {name: record.model_dump(mode="json", exclude={"timings"}) for name, record in records(folder).items()}


def records(folder: Path) -> dict[str, Record]:
    """The readable records of a run folder, by organism, reference, method and key."""
    found = read_run(folder).records
    return {f"{r.cell.organism} {r.cell.reference} {r.cell.row} s{r.cell.seed} {r.key[:8]}": r for r in found}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and mode of every file under a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode) for path in files}
