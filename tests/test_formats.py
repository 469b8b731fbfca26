"""What is read computes what its own project defines, and every field that changes numbers is folded or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import (
    LAYER,
    TRAINERS,
    Case,
    D,
    N,
    ckkissane,
    crosscoder_learning,
    dictionary_learning,
    gemma_scope,
    rows,
    sae_lens,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench import CheckpointError, OptionError
from diffbench.dictionary import encode, reconstruction
from diffbench.diff import DictionaryDiff
from diffbench.formats import FORMATS, read_dictionary

Write = Callable[[Path], Case]
CASES: dict[str, Write] = {
    "standard": lambda folder: sae_lens(folder, "standard"),
    "standard, nothing subtracted": lambda folder: sae_lens(folder, "standard", apply_b_dec_to_input=False),
    "jumprelu": lambda folder: sae_lens(folder, "jumprelu"),
    "topk": lambda folder: sae_lens(folder, "topk"),
    "topk, rescaled": lambda folder: sae_lens(folder, "topk", rescale_acts_by_decoder_norm=True),
    "npz": lambda folder: gemma_scope(folder, "npz"),
    "params": lambda folder: gemma_scope(folder, "safetensors"),
    "small letters": lambda folder: gemma_scope(folder, "safetensors", small=True),
    "normalised sae": lambda folder: dictionary_learning(folder, "BatchTopKSAE", normalised=True),
    "l1": lambda folder: crosscoder_learning(folder, "CrossCoder"),
    "l1, raw, pt": lambda folder: crosscoder_learning(folder, "CrossCoder", normalised=False, file="model_final.pt"),
    "batchtopk, raw": lambda folder: crosscoder_learning(folder, normalised=False),
    "batchtopk, pt": lambda folder: crosscoder_learning(folder, file="ae_final.pt"),
    "ckkissane": ckkissane,
}
CASES |= {name: lambda folder, name=name: dictionary_learning(folder, name) for name in TRAINERS}  # type: ignore[misc]
CASES |= {
    f"batchtopk, {norm}": lambda folder, norm=norm: crosscoder_learning(folder, normalisation=norm)  # type: ignore[misc]
    for norm in ("CROSSCODER", "SAE", "MIXED", "NONE")
}


def as_double(diff: DictionaryDiff) -> DictionaryDiff:
    """The same numbers in float64, so that what is measured is the folding and not the product of matrices."""
    values = ((item.name, getattr(diff, item.name)) for item in fields(diff))
    floats = {name: value.double() for name, value in values if isinstance(value, Tensor) and value.is_floating_point()}
    return replace(diff, **floats)


def computed(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The dictionary's own target, activities of it and reconstruction."""
    target, hat = reconstruction(diff, h_b, h_t)
    return target, encode(diff, h_t if diff.input == "base" else h_b, h_t), hat


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("named", [True, False])
def test_it_computes_the_formats_own_formula(name: str, named: bool, tmp_path: Path) -> None:
    case = CASES[name](tmp_path / "files")
    diff = read_dictionary(case.path, format=case.format if named else None, **case.arguments)
    diff.check(D, LAYER + 1, 0)
    assert diff.layer == LAYER and diff.n_components == N
    h_b, h_t = rows()
    x = torch.cat([h_b, h_t], dim=1) if diff.input == "both" else h_t
    f, hat = case.forward(x)
    hat = hat.reshape(len(x), -1)
    assert 0.02 < float((f > 0).double().mean()) < 0.8 and float(f.max()) > 0.5, "a test of nothing"
    _, exact_f, exact_hat = computed(as_double(diff), h_b.double(), h_t.double())
    # At a threshold the rounding of a weight to float32 may decide; a whole activity would be off by more than 0.1.
    same = (exact_f - f).abs().amax(dim=1) < 0.05
    assert float(same.double().mean()) > 0.99
    assert relative(exact_f[same], f[same]) < 1e-6 and relative(exact_hat[same], hat[same]) < 1e-6
    target, rough_f, rough_hat = computed(diff, h_b, h_t)
    assert torch.equal(target, x)
    assert relative(rough_f[same], f[same]) < 1e-5 and relative(rough_hat[same], hat[same]) < 1e-5


@pytest.mark.parametrize("input", ["delta", "tuned", "base"])
def test_the_caller_says_what_an_sae_reads(input: Any, tmp_path: Path) -> None:
    case = gemma_scope(tmp_path, "npz")
    diff = read_dictionary(tmp_path, input=input, layer=LAYER)
    h_b, h_t = rows()
    x = {"delta": h_t - h_b, "tuned": h_t, "base": h_b}[input]
    target, hat = reconstruction(diff, h_b, h_t)
    assert torch.equal(target, x) and relative(hat, case.forward(x)[1]) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    gemma_scope(tmp_path, "safetensors")
    path = tmp_path / "params.safetensors"
    stored = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(stored, path)
    diff = read_dictionary(tmp_path, input="tuned", layer=0)
    assert torch.equal(diff.encoder, stored["W_enc"].T.float()) and diff.encoder.dtype == torch.float32


def test_nothing_is_folded_where_nothing_is_to_fold(tmp_path: Path) -> None:
    sae_lens(tmp_path / "sae", "jumprelu", apply_b_dec_to_input=False)
    stored = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    diff = read_dictionary(tmp_path / "sae", input="delta")
    assert torch.equal(diff.encoder, stored["W_enc"].T) and torch.equal(diff.encoder_bias, stored["b_enc"])
    assert diff.threshold is not None and torch.equal(diff.threshold, stored["threshold"])
    crosscoder_learning(tmp_path / "cc", "CrossCoder", normalised=False)
    stored = load_file(tmp_path / "cc" / "model.safetensors")
    both = read_dictionary(tmp_path / "cc", layer=1)
    assert torch.equal(both.encoder[:, D:], stored["encoder.weight"][1].T), "the tuned model is the second"
    assert both.decoder_base is not None and torch.equal(both.decoder_base, stored["decoder.weight"][0])
    assert both.bias_tuned is not None and torch.equal(both.bias_tuned, stored["decoder.bias"][1])


def test_outputs_are_divided_by_what_the_library_divides_by(tmp_path: Path) -> None:
    """It adds 1e-8 to the scale, which is seen where activations are large and the scale is small."""
    crosscoder_learning(tmp_path, "CrossCoder")
    path = tmp_path / "model.safetensors"
    stored = load_file(path)
    stored["activation_global_scale"] = torch.tensor([1e-4, 1e-3])
    save_file(stored, path)
    diff = read_dictionary(tmp_path, layer=1)
    assert diff.decoder_base is not None and diff.bias_tuned is not None
    scale = stored["activation_global_scale"].double() + 1e-8
    assert relative(diff.decoder_base, stored["decoder.weight"][0].double() / scale[0]) < 1e-6
    expected = stored["decoder.bias"][1].double() / scale[1] + stored["activation_mean"][1].double()
    assert relative(diff.bias_tuned, expected) < 1e-6


@pytest.mark.parametrize("theta", [0.8, 0.0])
def test_a_latent_without_decoder_never_fires(theta: float, tmp_path: Path) -> None:
    crosscoder_learning(tmp_path)
    path = tmp_path / "model.safetensors"
    stored = load_file(path)
    stored["decoder.weight"][:, 3] = 0.0
    stored["threshold"] = torch.tensor(theta)
    save_file(stored, path)
    diff = read_dictionary(tmp_path, layer=1)
    f = encode(diff, *(1000 * h for h in rows()))
    assert float(f[:, 3].max()) == 0.0 and int((f.amax(dim=0) > 0).sum()) == N - 1


def test_early_crosscoders_need_the_callers_word(tmp_path: Path) -> None:
    case = crosscoder_learning(tmp_path, normalised=False, file="ae_final.pt")
    stored = torch.load(tmp_path / "ae_final.pt", weights_only=True)
    early = {name: value for name, value in stored.items() if "activation" not in name and name != "target_rms"}
    torch.save({f"_orig_mod.{name}": value for name, value in early.items()}, tmp_path / "ae_final.pt")
    with pytest.raises(OptionError, match=r"ae_final.pt: activation_global_scale: missing.*give scales"):
        read_dictionary(tmp_path, layer=1)
    diff = read_dictionary(tmp_path, layer=1, scales=(1.0, 1.0))
    h_b, h_t = rows()
    assert relative(encode(diff, h_b, h_t), case.forward(torch.cat([h_b, h_t], dim=1))[0]) < 1e-5
    scaled = read_dictionary(tmp_path, layer=1, scales=(0.5, 2.0))
    assert relative(encode(scaled, h_b * 2, h_t / 2), case.forward(torch.cat([h_b, h_t], dim=1))[0]) < 1e-5


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.3.hook_resid_post", 3),
        ("blocks.3.hook_resid_pre", 2),
        ("model.layers.7", 7),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.3.hook_resid_mid", None),
        ("blocks.3.hook_mlp_out", None),
        ("blocks.3.attn.hook_z", None),
        ("blocks.3.hook_resid_post.x", None),
    ],
)
def test_a_hook_names_the_block_whose_output_it_is(hook: str, layer: int | None, tmp_path: Path) -> None:
    sae_lens(tmp_path, "standard", metadata={"hook_name": hook})
    if layer is None:
        with pytest.raises(CheckpointError, match=r"cfg\.json: metadata\.hook_name: .*the output of a block|leaving"):
            read_dictionary(tmp_path, input="tuned", layer=3)
        return
    assert read_dictionary(tmp_path, input="tuned").layer == layer
    with pytest.raises(OptionError, match=f"layer: 9 was given, but the file says {layer}"):
        read_dictionary(tmp_path, input="tuned", layer=9)


@pytest.mark.parametrize(
    ("write", "arguments", "words"),
    [
        (lambda folder: sae_lens(folder, "standard"), {}, "input: delta, tuned or base"),
        (lambda folder: sae_lens(folder, "standard"), {"input": "both"}, "'both' is for crosscoders"),
        (lambda folder: sae_lens(folder, "standard"), {"input": "tuned", "scales": (1.0, 1.0)}, "scales"),
        (lambda folder: gemma_scope(folder, "npz"), {"input": "tuned"}, "give the layer"),
        (lambda folder: gemma_scope(folder, "npz"), {"input": "tuned", "layer": -1}, "-1 does not exist"),
        (lambda folder: gemma_scope(folder, "npz", small=True), {"input": "tuned", "layer": 0}, "the file says 3"),
        (crosscoder_learning, {}, "give the layer"),
        (crosscoder_learning, {"layer": 1, "input": "delta"}, "a crosscoder reads both models"),
        (crosscoder_learning, {"layer": 1, "scales": (1.0, 1.0)}, "scales: this file leaves none open"),
        (ckkissane, {}, "are not in the file; give scales"),
        (ckkissane, {"scales": (0.0, 1.0)}, "two positive numbers"),
        (ckkissane, {"scales": (float("nan"), 1.0)}, "two positive numbers"),
    ],
)
def test_what_files_leave_open_is_asked_for(
    write: Write, arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(OptionError, match=words) as refusal:
        read_dictionary(tmp_path, **arguments)
    assert "\n" not in str(refusal.value)


def test_a_layer_of_a_trainer_without_a_module_is_only_a_number(tmp_path: Path) -> None:
    dictionary_learning(tmp_path, "AutoEncoder")
    document = json.loads((tmp_path / "config.json").read_text())
    for name in (None, "some_module"):
        document["trainer"]["submodule_name"] = name
        (tmp_path / "config.json").write_text(json.dumps(document))
        with pytest.raises(OptionError, match="give the layer"):
            read_dictionary(tmp_path, input="tuned")
        assert read_dictionary(tmp_path, input="tuned", layer=7).layer == 7
    document["trainer"]["submodule_name"] = "mlp_layer_3"
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="'mlp_layer_3' is not the residual stream"):
        read_dictionary(tmp_path, input="tuned", layer=3)


def test_no_two_formats_claim_the_same_files(tmp_path: Path) -> None:
    from diffbench.formats.source import open_source

    for index, write in enumerate(CASES.values()):
        case = write(tmp_path / str(index))
        source = open_source(case.path)
        assert [name for name, known in FORMATS.items() if known.module().recognises(source)] == [case.format]
