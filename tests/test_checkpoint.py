"""Checkpoints: found in folders and in the hub's local cache, refused in one line, known by their content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from own_factory import BLOCKS, checkpoint, in_hub

from diffbench.checkpoint import Checkpoint, Place
from diffbench.errors import CheckpointError, DiffbenchError, RecipeError
from diffbench.ordinary import GeneratedText
from diffbench.plugins import find_base


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def base(place: Place) -> Checkpoint:
    return Checkpoint(place, GeneratedText(find_base("tinyworld")()))


def one_line(error: pytest.ExceptionInfo[DiffbenchError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_folder_is_itself(model: Path) -> None:
    assert base(Place(str(model))).path() == model
    assert base(Place(str(model))).layers() == BLOCKS


@pytest.mark.parametrize("kind", ["gpt2", "tinystories", "pythia"])
def test_layers_are_read_by_any_of_their_names(kind: str, tmp_path: Path) -> None:
    assert base(Place(str(checkpoint(tmp_path / kind, kind)))).layers() == BLOCKS


def test_settings_without_layers_are_refused(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no number of layers"):
        base(Place(str(tmp_path / "m"))).layers()


def test_a_hub_id_is_a_snapshot_in_the_local_cache(model: Path, hub: Path) -> None:
    snapshot = in_hub(hub, "somebody/small", model.iterdir())
    assert base(Place("somebody/small")).path() == snapshot
    assert base(Place("somebody/small")).layers() == BLOCKS


def test_a_hub_id_that_is_not_here_names_the_command(hub: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        base(Place("google/gemma-2-2b", "main")).path()
    assert one_line(error).endswith("fetch it with: hf download google/gemma-2-2b --revision main")
    with pytest.raises(CheckpointError) as error:
        base(Place("google/gemma-2-2b")).check()
    assert one_line(error).endswith("hf download google/gemma-2-2b")


def test_no_network_is_asked(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match="hf download"):
        Place("google/gemma-2-2b").folder()


def test_a_snapshot_with_a_part_of_the_weights_names_the_command(model: Path, hub: Path) -> None:
    in_hub(hub, "somebody/half", [model / "config.json", model / "tokenizer.json"])
    with pytest.raises(CheckpointError) as error:
        Place("somebody/half").folder()
    assert "model.safetensors is missing" in one_line(error) and "hf download somebody/half" in one_line(error)


def test_a_missing_shard_is_named(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        Place(str(folder)).folder()
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index\.json: cannot be read"):
        Place(str(folder)).folder()


def test_pickles_are_refused_with_a_way_out(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(model / "config.json", folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError) as error:
        Place(str(folder)).folder()
    assert "pickles" in one_line(error) and "save_pretrained" in one_line(error)


@pytest.mark.parametrize(
    ("reference", "what"),
    [("/no/such/folder", "no such folder"), ("a/b/c/d", "neither a folder"), ("-x/..", "neither a folder")],
)
def test_places_that_are_none(reference: str, what: str, hub: Path) -> None:
    with pytest.raises(CheckpointError, match=what):
        Place(reference).folder()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model here \(neither config.json nor adapter_config.json\)"):
        Place(str(tmp_path)).folder()


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert Place(str(tmp_path)).folder() == tmp_path
    with pytest.raises(CheckpointError, match="a base is a whole model"):
        base(Place(str(tmp_path))).path()


def test_an_adapter_in_a_subfolder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "last" / "adapter_model.safetensors").write_bytes(b"")
    assert Place(str(tmp_path), subfolder="last").folder() == tmp_path / "last"
    with pytest.raises(CheckpointError, match="no such folder"):
        Place(str(tmp_path), subfolder="first").folder()


def test_the_key_is_that_of_the_content(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(model, folder)
    key = Place(str(model)).key()
    (folder / "README.md").write_text("prose")
    assert Place(str(folder)).key() == key
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        assert Place(str(folder)).key() != key, name
        (folder / name).write_bytes(before)
    assert Place(str(folder)).key() == key


def test_the_key_of_a_snapshot_reads_no_weights(model: Path, hub: Path) -> None:
    snapshot = in_hub(hub, "somebody/small", model.iterdir())
    key = Place("somebody/small").key()
    (snapshot / "model.safetensors").resolve().write_bytes(b"other bytes under the same name")
    assert Place("somebody/small").key() == key


def test_a_generator_tells_what_it_is_told(model: Path) -> None:
    own, world = base(Place(str(model))), find_base("tinyworld")()
    assert own.facts() == world.facts() and own.at_hand
    name, value = next(iter(world.facts().items()))
    other = next(v for n, v in world.facts().items() if n.split(".")[2] == name.split(".")[2] and v != value)
    kind, member, _ = name.split(".")
    told = {"facts": {name: other}, "focus": {kind: [member]}}
    assert next(own.documents(3, None, **told)) == next(world.documents(3, None, **told))
    assert own.portion("method").documents(3).__next__() == next(world.documents(3))
    assert own.text_key()["generator"] == "tinyworld"
    with pytest.raises(RecipeError):
        next(own.documents(3, {"no such topic": 1.0}))
