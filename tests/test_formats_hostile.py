"""Files made to harm: pickles with code, files that unfold, links, pipes, halves, and names that paint on terminals."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_files import N, dictionary_learning, gemma_scope, sae_lens
from safetensors.torch import load_file, save_file

from diffbench import CheckpointError, UnknownName
from diffbench.formats import read_dictionary, weights

ASKED: dict[str, Any] = {"input": "tuned", "layer": 3}
AE, CFG, CONFIG = "ae.pt", "cfg.json", "config.json"


class Harmful:
    """Unpickled, it would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("way", ["torch", "pickle", "inside", "legacy", "npz"])
def test_pickles_run_nothing(way: str, tmp_path: Path) -> None:
    done = str(tmp_path / "done")
    files = tmp_path / "files"
    dictionary_learning(files, "AutoEncoder")
    weights_of = torch.load(files / AE, weights_only=True)
    if way == "torch":
        torch.save(Harmful(done), files / AE)
    elif way == "pickle":
        (files / AE).write_bytes(pickle.dumps(Harmful(done)))
    elif way == "inside":
        torch.save(weights_of | {"bias": Harmful(done)}, files / AE)
    elif way == "legacy":
        torch.save(weights_of | {"x": Harmful(done)}, files / AE, _use_new_zipfile_serialization=False)
    else:
        gemma_scope(files / "scope", "npz")
        files = files / "scope"
        held = dict(np.load(files / "params.npz"))
        np.savez(files / "params.npz", **(held | {"b_dec": np.array([Harmful(done)], dtype=object)}))
    with pytest.raises(CheckpointError) as refusal:
        read_dictionary(files, **ASKED)
    assert "\n" not in str(refusal.value) and not Path(done).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds no named tensors"),
        ({"ae": {"bias": torch.ones(2)}, "step": 3}, "ae: is dict, needs a tensor; a backup of an unfinished training"),
        ({1: torch.ones(2)}, "needs a tensor"),
        ({"bias": torch.eye(3).to_sparse()}, "no plain tensor"),
        ({"bias": torch.ones(1).expand(1 << 20, 1 << 20)}, "unfolds to 4398046511104 bytes"),
        ({"bias": torch.ones(2, dtype=torch.complex64)}, "in none of the formats"),
    ],
)
def test_pt_files_hold_plain_named_tensors(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_dictionary(tmp_path, **ASKED)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["ae.pt", "params.npz", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\x03\x04 no archive", b"a text\n"])
def test_what_is_no_weight_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: (not readable|damaged)") as refusal:
        read_dictionary(tmp_path, **ASKED)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("write", [dictionary_learning, gemma_scope])
def test_truncated_files_are_refused(write: Any, fraction: float, tmp_path: Path) -> None:
    case = write(tmp_path, "AutoEncoder" if write is dictionary_learning else "npz")
    [path] = (file for file in case.path.iterdir() if file.suffix in (".pt", ".npz"))
    os.truncate(path, int(path.stat().st_size * fraction))
    with pytest.raises(CheckpointError, match=path.name):
        read_dictionary(tmp_path, **ASKED)


def test_small_files_that_unfold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma_scope(tmp_path, "npz")
    held = dict(np.load(tmp_path / "params.npz"))
    np.savez_compressed(tmp_path / "params.npz", **{name: np.zeros_like(array) for name, array in held.items()})
    size = (tmp_path / "params.npz").stat().st_size
    monkeypatch.setattr(weights, "TENSOR_BYTES", size + 100)
    with pytest.raises(CheckpointError, match="unfolds to"):
        read_dictionary(tmp_path, **ASKED)
    dictionary_learning(tmp_path / "pt", "AutoEncoder")
    with zipfile.ZipFile(tmp_path / "pt" / AE, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", b"\0" * (1 << 20))
    with pytest.raises(CheckpointError, match="unfolds to"):
        read_dictionary(tmp_path / "pt", **ASKED)


def test_files_above_a_size_are_not_opened(tmp_path: Path) -> None:
    gemma_scope(tmp_path, "safetensors", small=True)
    with (tmp_path / "params.safetensors").open("ab") as file:
        file.truncate((8 << 30) + 1)  # sparse: no disk is used
    with pytest.raises(CheckpointError, match="8589934593 bytes, more than"):
        read_dictionary(tmp_path, **ASKED)
    with (tmp_path / CONFIG).open("ab") as file:
        file.truncate((16 << 20) + 1)
    os.truncate(tmp_path / "params.safetensors", 0)
    gemma_scope(tmp_path / "other", "safetensors")
    os.replace(tmp_path / "other" / "params.safetensors", tmp_path / "params.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json: 16777217 bytes, more than"):
        read_dictionary(tmp_path, **ASKED)


@pytest.mark.parametrize("name", ["params.npz", "cfg.json", "diffbench.safetensors"])
def test_links_out_of_the_folder_are_not_followed(name: str, tmp_path: Path) -> None:
    sae_lens(tmp_path / "files", "jumprelu") if name == "cfg.json" else gemma_scope(tmp_path / "files", "npz")
    target = tmp_path / "files" / name
    outside = tmp_path / "secret"
    if target.exists():
        os.replace(target, outside)
    else:
        outside.write_bytes(b"")
    target.symlink_to(outside)
    with pytest.raises(CheckpointError, match=f"{name}: is a link out of its folder"):
        read_dictionary(tmp_path / "files", **ASKED)
    target.unlink()
    target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=f"{name}: missing, or a link to nothing"):
        read_dictionary(tmp_path / "files", **ASKED)


def test_links_inside_the_folder_and_named_links_are_followed(tmp_path: Path) -> None:
    gemma_scope(tmp_path / "files", "npz")
    real = tmp_path / "files" / "params.npz"
    (tmp_path / "files" / "blobs").mkdir()
    os.replace(real, tmp_path / "files" / "blobs" / "x")
    real.symlink_to("blobs/x")
    (tmp_path / "named.npz").symlink_to(real)
    (tmp_path / "folder").symlink_to(tmp_path / "files")
    for path in (tmp_path / "files", real, tmp_path / "named.npz", tmp_path / "folder"):
        assert read_dictionary(path, **ASKED).n_components == N


def test_a_saelens_file_without_its_configuration_is_not_taken_for_gemma_scope(tmp_path: Path) -> None:
    sae_lens(tmp_path, "jumprelu")
    (tmp_path / CFG).unlink()
    for name in (None, "gemma-scope", "saelens"):
        with pytest.raises(CheckpointError, match=r"in none of the formats|does not look like"):
            read_dictionary(tmp_path, format=name, **ASKED)


def test_pipes_and_folders_are_no_weight_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.npz")
    with pytest.raises(CheckpointError, match="not a plain file"):
        read_dictionary(tmp_path, **ASKED)
    (tmp_path / "other" / "params.npz").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no weight file"):
        read_dictionary(tmp_path / "other", **ASKED)


def test_what_is_meant_must_be_clear(tmp_path: Path) -> None:
    case = dictionary_learning(tmp_path, "AutoEncoder")
    for name in ("checkpoint_1.pt", "last_eval_logs.pt"):
        torch.save({}, tmp_path / name)
    assert read_dictionary(tmp_path, **ASKED).n_components == N, "ae.pt is the one by its name"
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds ae\.pt, model\.safetensors; name the file"):
        read_dictionary(tmp_path, **ASKED)
    assert read_dictionary(tmp_path / "ae.pt", **ASKED).n_components == N
    with pytest.raises(UnknownName, match="did you mean dictionary-learning"):
        read_dictionary(tmp_path, format="dictionary_learning", **ASKED)
    with pytest.raises(CheckpointError, match=r"does not look like saelens \(cfg\.json, sae_weights\.safetensors\)"):
        read_dictionary(tmp_path / "ae.pt", format="saelens", **case.arguments)
    (tmp_path / "ae.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="weight files end in"):
        read_dictionary(tmp_path / "ae.bin", **ASKED)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read_dictionary(tmp_path / "none", **ASKED)


def test_a_torch_that_is_not_safe_reads_no_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary_learning(tmp_path, "AutoEncoder")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CheckpointError, match=r"torch 2\.5\.1\+cpu may run code"):
        read_dictionary(tmp_path, **ASKED)


def test_names_of_strangers_cannot_paint_on_the_terminal(tmp_path: Path) -> None:
    gemma_scope(tmp_path, "safetensors")
    path = tmp_path / "params.safetensors"
    save_file(load_file(path) | {"\x1b[31mx\n\u202ey": torch.ones(1)}, path)
    with pytest.raises(CheckpointError) as refusal:
        read_dictionary(tmp_path, **ASKED)
    assert str(refusal.value).isprintable()
