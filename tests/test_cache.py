from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from diffbench import cache
from diffbench.errors import CacheError

INPUTS = {"stage": "test", "seed": 1, "nested": {"lr": 0.5, "words": ["a", "b"]}}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path) -> None:
    (folder / "value").write_text("42")


@pytest.mark.parametrize(
    "other",
    [
        INPUTS | {"seed": 2},
        INPUTS | {"seed": 1.5},
        INPUTS | {"more": None},
        INPUTS | {"nested": {"lr": 0.5, "words": ["b", "a"]}},
        {"stage": "test", "seed": 1},
    ],
)
def test_every_input_changes_the_key(other: dict[str, Any]) -> None:
    assert cache.entry("k", INPUTS) != cache.entry("k", other)


def test_the_order_of_keys_does_not() -> None:
    assert cache.entry("k", dict(reversed(INPUTS.items()))) == cache.entry("k", INPUTS)
    assert cache.entry("other", INPUTS) != cache.entry("k", INPUTS)


def test_filled_once_with_the_document_that_was_hashed(root: Path) -> None:
    assert cache.finished("k", INPUTS) is None
    path = cache.publish("k", INPUTS, fill)
    assert path.is_relative_to(root / "k")
    assert (path / "value").read_text() == "42"
    assert json.loads((path / "inputs.json").read_text()) == INPUTS
    assert cache.finished("k", INPUTS) == path
    assert cache.publish("k", INPUTS, lambda _: pytest.fail("filled twice")) == path


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), CacheError("no")])
def test_a_crash_while_filling_leaves_nothing(error: BaseException) -> None:
    def crash(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        cache.publish("k", INPUTS, crash)
    assert cache.finished("k", INPUTS) is None
    assert os.listdir(cache.cache_root() / "k") == []
    assert (cache.publish("k", INPUTS, fill) / "value").read_text() == "42"


def test_of_two_that_fill_the_first_one_wins() -> None:
    def slow(folder: Path) -> None:
        cache.publish("k", INPUTS, fill)
        (folder / "value").write_text("late")

    path = cache.publish("k", INPUTS, slow)
    assert (path / "value").read_text() == "42"
    assert os.listdir(path.parent) == [path.name]


def test_what_a_killed_process_left_is_removed() -> None:
    path = cache.entry("k", INPUTS)
    (path.parent / f".{path.name[:16]}.left").mkdir(parents=True)
    cache.publish("k", INPUTS, fill)
    assert os.listdir(path.parent) == [path.name]


def test_what_cannot_be_hashed_is_no_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        cache.entry("k", {"lr": float("nan")})
    with pytest.raises(TypeError):
        cache.entry("k", {"lr": {1, 2}})


# BUG cache.py publish: a folder that lost its inputs.json is filled in vain each time and handed out damaged.
def test_an_entry_that_is_not_finished_is_filled_anew() -> None:
    path = cache.publish("k", INPUTS, fill)
    (path / "inputs.json").unlink()
    (path / "value").write_text("half")
    assert (cache.publish("k", INPUTS, fill) / "value").read_text() == "42"
    assert cache.finished("k", INPUTS) == path


def test_content_that_changed_in_place_is_made_anew(root: Path) -> None:
    path = cache.publish("k", INPUTS, fill)
    (path / "value").write_text("43")  # of the same size
    assert cache.finished("k", INPUTS) is None
    assert (cache.publish("k", INPUTS, fill) / "value").read_text() == "42"


@pytest.mark.parametrize("content", ["42", "43"])
@pytest.mark.parametrize("seconds", [-10, 10])
def test_a_copy_of_a_cache_is_compared_once(
    content: str, seconds: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever times the copy has, and whether it was damaged before it was copied."""
    path = cache.publish("k", INPUTS, fill)
    (path / "value").write_text(content)
    copied = (path / "files.json").stat().st_mtime_ns + seconds * 10**9
    os.utime(path / "value", ns=(copied, copied))
    assert cache.finished("k", INPUTS) == (path if content == "42" else None)
    if content == "42":
        monkeypatch.setattr(cache, "file_digest", lambda _: pytest.fail("compared again"))
        assert cache.finished("k", INPUTS) == path


def test_damaged_json_is_named(tmp_path: Path) -> None:
    for content in (b"", b"{", b"\xff"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(CacheError, match=r"x\.json: damaged .*delete its folder"):
            cache.read_json(tmp_path / "x.json")
    with pytest.raises(CacheError, match="damaged"):
        cache.read_json(tmp_path / "missing.json")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"cannot be written.*DIFFBENCH_CACHE"):
        cache.publish("k", INPUTS, fill)


# BUG cache.py publish: whatever file the work itself misses is reported as a cache that cannot be written.
def test_a_file_that_the_work_misses_is_not_the_caches_fault() -> None:
    def work(folder: Path) -> None:
        Path("/nowhere/model.safetensors").read_bytes()

    with pytest.raises(FileNotFoundError):
        cache.publish("k", INPUTS, work)


def test_scratch_folders_are_new_and_go(root: Path) -> None:
    with cache.scratch() as one, cache.scratch() as other:
        assert one != other and one.is_dir()  # what another process works in stays
        assert Path(one).is_relative_to(root)
    assert not Path(one).exists()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two sub-packages, and a module beside it."""
    folder = tmp_path / "keyed_package"
    for name in ("__init__.py", "one/__init__.py", "one/part.py", "two/__init__.py", "two/part.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    (tmp_path / "keyed_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def version(*modules: str) -> str:
    cache.code_version.cache_clear()
    return cache.code_version(*modules)


# BUG cache.py code_version: sources are keyed by file name alone, so of two __init__.py only one is hashed.
@pytest.mark.parametrize("name", ["__init__.py", "one/__init__.py", "one/part.py", "two/__init__.py", "two/part.py"])
def test_every_source_of_a_package_counts(package: Path, name: str) -> None:
    before = version("keyed_package")
    assert version("keyed_package") == before
    (package / name).write_text("changed = True\n")
    assert version("keyed_package") != before


def test_every_module_counts(package: Path) -> None:
    before = version("keyed_package", "keyed_module")
    assert version("keyed_package") != before
    (package.parent / "keyed_module.py").write_text("changed = True\n")
    assert version("keyed_package", "keyed_module") != before


def test_a_plugin_is_its_whole_package(package: Path) -> None:
    plugin = type("Plugin", (), {"__module__": "keyed_package.one.part"})
    before = cache.plugin_version(plugin)
    (package / "two/part.py").write_text("changed = True\n")
    cache.code_version.cache_clear()
    assert cache.plugin_version(plugin) != before


def test_a_module_without_source_is_refused() -> None:
    for name in ("no_such_module_at_all",):
        with pytest.raises(CacheError, match=name):
            version(name)


def test_libraries_are_named_with_versions() -> None:
    assert {"numpy", "safetensors", "tokenizers", "torch", "transformers"} <= cache.libraries().keys()
    assert all(cache.libraries().values())


def test_a_lock_whose_file_was_removed_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process may open a lock's file before its holder removes it, and lock it afterwards."""
    import fcntl

    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path))
    path = tmp_path / "locks" / "thing"
    flock, opened = fcntl.flock, []

    def removed_before_it_is_locked(handle: object, how: int) -> None:
        if not opened:
            opened.append(path.stat().st_ino)
            path.unlink()
        flock(handle, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", removed_before_it_is_locked)
    with cache._lock("thing") as alone:
        assert alone and path.exists()
        with cache._lock("thing") as another:
            assert not another
    assert not path.exists()
