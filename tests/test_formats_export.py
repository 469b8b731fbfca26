"""Round trips are exact, exports compute the same without what is carried beside them, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from engine_factory import WIDTH, dictionary_diff, one_of_each
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_diff_file import same

from diffbench import CheckpointError, DiffbenchError, DiffError, OptionError, UnknownName
from diffbench.cli import main
from diffbench.dictionary import encode, reconstruction
from diffbench.diff import DictionaryDiff, Finding
from diffbench.diff_file import load_diff, save_diff
from diffbench.formats import read_dictionary, write_dictionary

CARRIED = "diffbench.safetensors"
SAE = [(kind, activation) for kind in ("delta", "tuned", "base") for activation in ("relu", "threshold", "topk")]
CROSSCODER = [("both", "relu"), ("both", "threshold")]


def full(kind: str, activation: str) -> DictionaryDiff:
    """A dictionary with everything that a Diff can hold."""
    diff = dictionary_diff(kind, activation)
    n = diff.n_components
    return replace(
        diff,
        threshold=None if diff.threshold is None else diff.threshold.abs() + 0.01 if kind == "both" else diff.threshold,
        group=torch.arange(n) // 3,
        columns={"energy": torch.randn(n), "nu": torch.full((n,), torch.nan)},
        findings=(Finding(rank=1, component=2, score=0.1, text="grün\nblau"),),
        change_score=0.25,
        verdict="changed",
        notes={"k": 5, "loss": 0.1, "why": None},
    )


def name_of(kind: str) -> str:
    return "crosscoder-learning" if kind == "both" else "saelens"


def assert_same(one: DictionaryDiff, other: DictionaryDiff) -> None:
    for item in fields(one):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if item.name == "columns":
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a)
        else:
            assert same(a, b), item.name


def rows(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(count, WIDTH, generator=draw), torch.randn(count, WIDTH, generator=draw)


@pytest.mark.parametrize(("kind", "activation"), SAE + CROSSCODER)
def test_round_trips_are_exact(kind: str, activation: str, tmp_path: Path) -> None:
    diff = full(kind, activation)
    write_dictionary(diff, tmp_path / "out", name_of(kind))
    again = read_dictionary(tmp_path / "out")
    assert_same(diff, again)
    assert_same(diff, read_dictionary(tmp_path / "out", format=name_of(kind), input=diff.input, layer=diff.layer))


@pytest.mark.parametrize(("kind", "activation"), SAE + CROSSCODER)
def test_the_formats_own_files_are_the_dictionary(kind: str, activation: str, tmp_path: Path) -> None:
    """Without what is carried beside them they are the same function, in the order of the file."""
    diff = full(kind, activation)
    write_dictionary(diff, tmp_path / "out", name_of(kind))
    (tmp_path / "out" / CARRIED).unlink()
    again = read_dictionary(tmp_path / "out", layer=diff.layer)
    assert again.input == diff.input and again.activation == diff.activation and again.k == diff.k
    assert torch.equal(again.order, torch.arange(diff.n_components)) and not again.columns and not again.findings
    if kind != "both":  # nothing is rescaled, so every bit is the format's own
        for name in ("encoder", "encoder_bias", "decoder", "bias", "threshold"):
            assert same(getattr(again, name), getattr(diff, name)), name
    h_b, h_t = rows()
    unit = torch.ones(()) if activation != "threshold" or kind != "both" else diff.threshold
    assert unit is not None
    f, f_again = encode(diff, h_b, h_t), encode(again, h_b, h_t) * unit
    keep = (f - f_again).abs().amax(dim=1) < 1e-5  # elsewhere a threshold is met to the last digit
    assert float(keep.double().mean()) > 0.99 and float((f > 0).double().mean()) > 0.05
    hats = reconstruction(diff, h_b, h_t)[1][keep], reconstruction(again, h_b, h_t)[1][keep]
    assert float((hats[0] - hats[1]).abs().max()) < 1e-5


def test_only_what_does_not_come_back_is_carried(tmp_path: Path) -> None:
    diff = full("delta", "threshold")
    write_dictionary(diff, tmp_path / "sae", "saelens")
    assert set(load_file(tmp_path / "sae" / CARRIED)) == {"order", "group", "columns.energy", "columns.nu"}
    plain = replace(diff, order=torch.arange(diff.n_components), group=None, columns={})
    write_dictionary(plain, tmp_path / "plain", "saelens")
    assert not load_file(tmp_path / "plain" / CARRIED)
    assert_same(plain, read_dictionary(tmp_path / "plain"))
    write_dictionary(full("both", "relu"), tmp_path / "l1", "crosscoder-learning")
    assert "encoder" not in load_file(tmp_path / "l1" / CARRIED)


def test_relative_norms_survive_the_one_threshold_of_a_crosscoder(tmp_path: Path) -> None:
    diff = full("both", "threshold")
    write_dictionary(diff, tmp_path / "out", "crosscoder-learning")
    decoder = load_file(tmp_path / "out" / "model.safetensors")["decoder.weight"]
    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    ratio = decoder[1].norm(dim=1) / decoder[0].norm(dim=1)
    assert torch.allclose(ratio, diff.decoder_tuned.norm(dim=1) / diff.decoder_base.norm(dim=1))


def test_latents_that_nothing_reaches_stay_silent(tmp_path: Path) -> None:
    diff = full("both", "threshold")
    assert diff.threshold is not None
    threshold = diff.threshold.clone()
    threshold[4] = torch.finfo(torch.float32).max
    assert diff.decoder_tuned is not None
    tuned = diff.decoder_tuned.clone()
    tuned[4] = 5.0  # times the threshold it would be infinite
    diff = replace(diff, threshold=threshold, decoder_tuned=tuned)
    write_dictionary(diff, tmp_path / "out", "crosscoder-learning")
    assert_same(diff, read_dictionary(tmp_path / "out"))
    (tmp_path / "out" / CARRIED).unlink()
    h_b, h_t = rows()
    f = encode(read_dictionary(tmp_path / "out", layer=1), h_b * 100, h_t * 100)
    assert float(f[:, 4].max()) == 0.0 and bool((f.max(dim=0).values > 0).sum() > 10)


def test_without_a_positive_threshold_a_crosscoder_is_relu(tmp_path: Path) -> None:
    diff = full("both", "threshold")
    assert diff.threshold is not None
    threshold = -diff.threshold
    threshold[3] = 0.0
    diff = replace(diff, threshold=threshold)
    write_dictionary(diff, tmp_path / "out", "crosscoder-learning")
    assert_same(diff, read_dictionary(tmp_path / "out"))
    (tmp_path / "out" / CARRIED).unlink()
    again = read_dictionary(tmp_path / "out", layer=1)
    assert again.activation == "relu"
    h_b, h_t = rows()
    assert torch.equal(encode(diff, h_b, h_t), encode(again, h_b, h_t))


def test_a_threshold_that_is_not_used_is_not_exported(tmp_path: Path) -> None:
    diff = replace(full("both", "relu"), threshold=torch.ones(24))
    write_dictionary(diff, tmp_path / "out", "crosscoder-learning")
    assert "threshold" not in load_file(tmp_path / "out" / "model.safetensors")
    assert_same(diff, read_dictionary(tmp_path / "out"))


def test_exact_means_every_bit(tmp_path: Path) -> None:
    diff = full("both", "threshold")
    bias = torch.zeros(WIDTH).neg()
    almost_one = torch.full((24,), 1.0).nextafter(torch.tensor(2.0))  # dividing by it moves last digits only
    diff = replace(diff, threshold=almost_one, bias_base=bias)
    write_dictionary(diff, tmp_path / "out", "crosscoder-learning")
    again = read_dictionary(tmp_path / "out")
    assert_same(diff, again)
    assert again.bias_base is not None and bool(again.bias_base.signbit().all())


def test_a_difference_stands_at_no_hook(tmp_path: Path) -> None:
    for kind in ("delta", "base"):
        write_dictionary(full(kind, "relu"), tmp_path / kind, "saelens")
        metadata = json.loads((tmp_path / kind / "cfg.json").read_text())["metadata"]
        assert metadata.get("hook_name") == (None if kind == "delta" else "blocks.1.hook_resid_post")


def test_a_changed_export_is_not_mistaken_for_the_exported(tmp_path: Path) -> None:
    diff = full("delta", "threshold")
    write_dictionary(diff, tmp_path / "out", "saelens")
    path = tmp_path / "out" / "sae_weights.safetensors"
    stored = load_file(path)
    save_file(stored | {"b_dec": stored["b_dec"] + 1}, path)
    with pytest.raises(CheckpointError, match=r"diffbench\.safetensors: belongs to other files.*remove it"):
        read_dictionary(tmp_path / "out")
    (tmp_path / "out" / CARRIED).unlink()
    assert torch.equal(read_dictionary(tmp_path / "out").bias, stored["b_dec"] + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input": "tuned"}, "input: 'tuned' was given, but the file says 'delta'"),
        ({"layer": 2}, "layer: 2 was given, but the file says 1"),
        ({"scales": (1.0, 1.0)}, "scales"),
    ],
)
def test_an_export_answers_for_itself(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_dictionary(full("delta", "threshold"), tmp_path / "out", "saelens")
    with pytest.raises(OptionError, match=words):
        read_dictionary(tmp_path / "out", **arguments)
    (tmp_path / "out" / CARRIED).unlink()
    with pytest.raises(DiffbenchError, match=words.split(" was")[0].split(":")[0]):
        read_dictionary(tmp_path / "out", **arguments)


def test_damaged_carried_files_are_refused(tmp_path: Path) -> None:
    write_dictionary(full("delta", "threshold"), tmp_path / "out", "saelens")
    path = tmp_path / "out" / CARRIED
    tensors = load_file(path)
    with safe_open(path, framework="pt") as stored:
        note = json.loads(stored.metadata()["diffbench"])

    def refused(tensors: dict[str, torch.Tensor], note: Any) -> str:
        save_file(tensors, path, metadata={"diffbench": json.dumps(note)})
        with pytest.raises(CheckpointError) as refusal:
            read_dictionary(tmp_path / "out")
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    assert "unknown tensor 'secret'" in refused(tensors | {"secret": torch.ones(2)}, note)
    assert "columns.energy: has shape" in refused(tensors | {"columns.energy": torch.ones(2)}, note)
    assert "order: must be a permutation" in refused(tensors | {"order": torch.zeros(24, dtype=torch.int64)}, note)
    assert "encoder: is torch.float64" in refused(tensors | {"encoder": torch.ones(24, WIDTH).double()}, note)
    assert "document" in refused(tensors, {**note, "document": {}})
    assert "is of a direction Diff" in refused(
        tensors, {**note, "document": {**note["document"], "header": {"kind": "direction", "layer": 1}}}
    )
    assert "belongs to other files" in refused(tensors, {**note, "sha256": {}})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not readable"):
        read_dictionary(tmp_path / "out")


@pytest.mark.parametrize(
    ("diff", "format", "error", "words"),
    [
        (full("both", "relu"), "saelens", DiffError, "SAELens has no crosscoders"),
        (full("delta", "relu"), "crosscoder-learning", DiffError, "reads both models, this dictionary 'delta'"),
        (full("both", "topk"), "crosscoder-learning", DiffError, "keeps the k largest"),
        (dictionary_diff("both", "threshold"), "crosscoder-learning", DiffError, "only for positive ones"),
        (full("delta", "relu"), "gemma-scope", OptionError, "only read; formats that are written: saelens"),
        (full("delta", "relu"), "sealens", UnknownName, "did you mean saelens"),
        (replace(full("delta", "relu"), bias=torch.full((WIDTH,), torch.nan)), "saelens", DiffError, "bias: holds NaN"),
        (replace(full("delta", "topk"), k=99), "saelens", DiffError, "k: topk needs"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_left(
    diff: DictionaryDiff, format: str, error: type[DiffbenchError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        write_dictionary(diff, tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffbench.formats import carried

    diff = full("delta", "threshold")
    (tmp_path / "out").mkdir()
    with pytest.raises(DiffbenchError, match="exists already"):
        write_dictionary(diff, tmp_path / "out", "saelens")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DiffbenchError, match="exists already"):
        write_dictionary(diff, tmp_path / "link", "saelens")
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffbenchError, match="cannot be written"):
        write_dictionary(diff, tmp_path / "file" / "out", "saelens")

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(carried, "save_carried", full_disk)
    with pytest.raises(DiffbenchError, match=r"new: cannot be written \(No space left"):
        write_dictionary(diff, tmp_path / "new", "saelens")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "out"]


def diffbench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["dictionaries", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = diffbench(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    [line] = result.stderr.splitlines()
    return line


def test_the_command_goes_there_and_back(tmp_path: Path) -> None:
    diff, cell = full("delta", "threshold"), tmp_path / "cell"
    (cell / "diff").mkdir(parents=True)
    save_diff(diff, cell / "diff")
    there = diffbench("export", cell, tmp_path / "there", "--format", "saelens")
    assert there.exit_code == 0 and there.stdout.startswith(f"wrote {tmp_path / 'there'}: 24 latents of width 16"), (
        there
    )
    assert diffbench("export", cell / "diff", tmp_path / "again", "--format", "saelens").exit_code == 0
    back = diffbench("import", tmp_path / "there", tmp_path / "back", "--json")
    assert json.loads(back.stdout) == {
        "path": str(tmp_path / "back"),
        "latents": 24,
        "width": WIDTH,
        "layer": 1,
        "input": "delta",
        "activation": "threshold",
    }
    loaded = load_diff(tmp_path / "back")
    assert isinstance(loaded, DictionaryDiff)
    assert_same(diff, loaded)


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    save_diff(one_of_each()["direction"], tmp_path)
    assert "of kind 'direction'; only dictionaries" in refused(
        "export", tmp_path, tmp_path / "x", "--format", "saelens"
    )
    assert "holds no diff.json" in refused("export", tmp_path / "none", tmp_path / "x", "--format", "saelens")
    assert "no such file" in refused("import", tmp_path / "none", tmp_path / "x")
    assert "no format named 'sae'" in refused("import", tmp_path, tmp_path / "x", "--format", "sae")
    shutil.copytree(tmp_path, tmp_path / "there")
    assert "exists already" in refused("import", tmp_path, tmp_path / "there")
    assert not (tmp_path / "x").exists()


def test_the_list_of_formats() -> None:
    listed = json.loads(diffbench("formats", "--json").stdout)
    assert [entry["name"] for entry in listed if entry["writes"]] == ["saelens", "crosscoder-learning"]
    text = diffbench("formats").stdout
    assert all(entry["name"] in text and entry["needs"] in text for entry in listed)
