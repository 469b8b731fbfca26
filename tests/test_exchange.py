"""What a method process is given, and what is taken from the folder it leaves behind."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffbench import cache, exchange
from diffbench.errors import DiffError
from diffbench.exchange import ACTIVATIONS, DIFF, HEADER, TENSORS, TEXT, assemble, keep_diff


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two model folders and the prepared files, with more in them than a method is to see."""
    for name in ("reference", "tuned"):
        (tmp_path / name / "nested").mkdir(parents=True)
        (tmp_path / name / "nested" / "notes.txt").write_text("not for methods")
        (tmp_path / name / "config.json").write_text(json.dumps({"is": name}))
    (tmp_path / "prepared").mkdir()
    for name in (TEXT, ACTIVATIONS, "truth.json"):
        (tmp_path / "prepared" / name).write_text(name)
    return tmp_path


def assembled(source: Path) -> Path:
    return assemble(source / "in", source / "reference", source / "tuned", source / "prepared")


def test_inputs_are_the_models_the_text_and_the_activations_and_nothing_else(source: Path) -> None:
    folder = assembled(source)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"reference/config.json", "tuned/config.json", TEXT, ACTIVATIONS}
    assert (folder / "tuned" / "config.json").read_text() == '{"is": "tuned"}'


def test_inputs_are_copies_that_cannot_be_written(source: Path) -> None:
    folder = assembled(source)
    for path in (folder / TEXT, folder / "tuned" / "config.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444 and path.stat().st_nlink == 1


LEFTOVERS = ("README.md", "training_args.bin", "trainer_state.json", "optimizer.pt", "recipe.yaml", "pytorch_model.bin")
NEEDED = (
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", "added_tokens.json",
)  # fmt: skip


def test_of_a_models_folder_only_what_is_loaded_is_handed_over(source: Path) -> None:
    for name in (*LEFTOVERS, *NEEDED):
        (source / "tuned" / name).write_text("{}")
    folder = assembled(source)
    assert {path.name for path in (folder / "tuned").iterdir()} == {"config.json", *NEEDED}


def test_configurations_do_not_name_the_model(source: Path) -> None:
    kept = {"model_type": "llama", "vocab_size": 3, "name": "kept"}
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        telling = {"_name_or_path": "team/quokka", "name_or_path": "/home/quokka", "_commit_hash": "quokka"}
        (source / "tuned" / name).write_text(json.dumps(kept | telling))
    folder = assembled(source)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert json.loads((folder / "tuned" / name).read_text()) == kept
        assert "quokka" in (source / "tuned" / name).read_text(), "the model's own file stays as it was"


def test_headers_of_weights_say_nothing_but_the_format(source: Path) -> None:
    tensors = {"a": torch.arange(7.0), "b": torch.ones(3, 5, dtype=torch.bfloat16)}
    save_file(tensors, source / "tuned" / "model.safetensors", metadata={"format": "pt", "run": "quokka"})
    save_file(tensors, source / "reference" / "model.safetensors", metadata={"format": "pt"})
    folder = assembled(source)
    found = {}
    for name in ("reference", "tuned"):
        path = folder / name / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
        assert b"quokka" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        found[name] = load_file(path)
    for key, tensor in tensors.items():
        assert torch.equal(found["tuned"][key], tensor) and torch.equal(found["reference"][key], tensor)


def test_files_have_no_times_of_their_own(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(source / "prepared"))
    (source / "prepared" / "large").write_bytes(b"x" * 100)
    monkeypatch.setattr(exchange, "LINK_ABOVE", 50)
    exchange.place_file(source / "prepared" / "large", source / "linked")
    assert (source / "linked").stat().st_nlink == 2
    folder = assembled(source)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mtime_ns for path in (*files, source / "linked")} == {0}
    assert cache.cache_root() == source / "prepared"


def test_a_time_of_somebodys_own_file_stays(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    before = (source / "prepared" / TEXT).stat().st_mtime_ns
    assembled(source)
    assert (source / "prepared" / TEXT).stat().st_mtime_ns == before > 0


def test_large_files_are_linked_instead_of_copied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    folder = assembled(source)
    assert (folder / TEXT).samefile(source / "prepared" / TEXT)


def test_large_files_are_copied_where_links_do_not_reach(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(exchange, "LINK_ABOVE", 0)
    monkeypatch.setattr(os, "link", refuse)
    assert (assembled(source) / TEXT).read_text() == TEXT


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The diff folder that a method left."""
    folder = tmp_path / "out" / DIFF
    folder.mkdir(parents=True)
    (folder / HEADER).write_text("{}")
    (folder / TENSORS).write_bytes(b"tensors")
    return folder


def test_the_two_files_of_a_diff_are_kept_and_no_other(left: Path, tmp_path: Path) -> None:
    (left / "malware.py").write_text("boom")
    (left / "more").mkdir()
    kept = keep_diff(left, tmp_path / "cell")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {HEADER: b"{}", TENSORS: b"tensors"}


def test_what_an_earlier_attempt_kept_is_replaced(left: Path, tmp_path: Path) -> None:
    stale = tmp_path / "cell" / DIFF / "stale.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    assert not (keep_diff(left, tmp_path / "cell") / "stale.json").exists()


@pytest.mark.parametrize("name", [HEADER, TENSORS])
@pytest.mark.parametrize("kind", ["missing", "link", "dangling", "folder", "pipe"])
def test_anything_but_a_plain_file_is_refused(name: str, kind: str, left: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = left / name
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DiffError, match=f"{name}: the method left no plain file"):
        keep_diff(left, tmp_path / "cell")
    assert not any(b"secret" in p.read_bytes() for p in (tmp_path / "cell").rglob("*") if p.is_file())


def test_a_folder_that_is_a_link_is_refused(left: Path, tmp_path: Path) -> None:
    """A method could otherwise hand in the Diff of another cell, which it can name although it cannot read it."""
    elsewhere = left.rename(tmp_path / "somebody-elses-diff")
    left.symlink_to(elsewhere)
    with pytest.raises(DiffError):
        keep_diff(left, tmp_path / "cell")


def test_a_file_larger_than_a_diff_may_be_is_refused_before_it_is_copied(left: Path, tmp_path: Path) -> None:
    """A sparse file costs a method nothing, and its copy a terabyte."""
    from diffbench.diff_file import HEADER_BYTES

    os.truncate(left / HEADER, HEADER_BYTES + 1)
    with pytest.raises(DiffError, match=HEADER):
        keep_diff(left, tmp_path / "cell")


def test_the_tiny_pair_is_written_by_the_same_code(tmp_path: Path) -> None:
    from diffbench.testing import tiny_pair

    folder = tiny_pair(tmp_path / "pair")
    assert {path.name for path in folder.iterdir()} == {"reference", "tuned", TEXT, ACTIVATIONS}
    places = (str(tmp_path).encode(), b"models/", b"/tmp/")
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(place in content for place in places), path.name
