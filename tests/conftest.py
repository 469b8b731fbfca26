"""What all tests share: no network, no plugins of strangers, a cache of their own, a tiny pair."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DIFFBENCH_LOAD_PLUGINS"] = ""
# A shell that starts its jobs in the background has them ignore it, and every process that is started inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[Path]:
    """One cache for the whole session, so that an organism is built once, and never the user's."""
    with tempfile.TemporaryDirectory(prefix="diffbench-tests-") as folder:
        before = os.environ.get("DIFFBENCH_CACHE")
        os.environ["DIFFBENCH_CACHE"] = folder
        yield Path(folder)
        if before is None:
            del os.environ["DIFFBENCH_CACHE"]
        else:
            os.environ["DIFFBENCH_CACHE"] = before


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Reference and tuned model: two random layers of width 32, one matrix apart."""
    from diffbench import tiny

    return tiny.tiny_checkpoints(tmp_path_factory.mktemp("tiny"))


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one module and one entry point, for this test only."""
    from diffbench.plugins import load_plugins

    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delenv("DIFFBENCH_LOAD_PLUGINS")

    def install(name: str, source: str, version: str = "1.0", entry_point: str | None = None) -> None:
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[diffbench]\n{entry_point or name} = {module}\n")
        modules.append(module)
        importlib.invalidate_caches()
        load_plugins.cache_clear()

    modules: list[str] = []
    load_plugins.cache_clear()
    yield install
    load_plugins.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)
