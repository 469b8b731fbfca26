"""What leaves a bias, a scale or a threshold open is refused in one line that names file, key and reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from format_files import D, N, ckkissane, crosscoder_learning, dictionary_learning, gemma_scope, sae_lens
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench import CheckpointError, DiffbenchError
from diffbench.formats import read_dictionary

Break = Callable[[Path], Any]
ASKED: dict[str, Any] = {"input": "tuned", "layer": 3}
CROSSCODER: dict[str, Any] = {"layer": 3}


def settings(name: str, **changes: Any) -> Break:
    """Change keys of a configuration; a dotted key is inside a section, `...` takes it away."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        for path, value in changes.items():
            *sections, key = path.split("__")
            place = document
            for section in sections:
                place = place.setdefault(section, {})
            if value is ...:
                del place[key]
            else:
                place[key] = value
        (folder / name).write_text(json.dumps(document))

    return apply


def tensors(name: str, change: Callable[[dict[str, Tensor]], Any]) -> Break:
    """Change what a weight file holds."""

    def apply(folder: Path) -> None:
        path = folder / name
        stored = torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)
        change(stored)
        torch.save(stored, path) if path.suffix == ".pt" else save_file(stored, path)

    return apply


def put(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], Any]:
    return lambda stored: stored.__setitem__(key, value)


def spoil(key: str, value: float) -> Callable[[dict[str, Tensor]], Any]:
    return lambda stored: stored[key].view(-1).__setitem__(0, value)


SAE, CFG = "sae_weights.safetensors", "cfg.json"
SAELENS: list[tuple[str, Break, str]] = [
    (
        "jumprelu",
        settings(CFG, architecture="gated"),
        r"cfg\.json: architecture: 'gated' is not read; read are standard",
    ),
    ("jumprelu", settings(CFG, architecture="batchtopk"), "'batchtopk' is not read"),
    ("jumprelu", settings(CFG, architecture=...), r"cfg\.json: architecture: missing"),
    ("jumprelu", settings(CFG, architecture="standard"), "threshold: unknown tensor"),
    ("standard", settings(CFG, architecture="jumprelu"), "threshold: missing"),
    ("jumprelu", settings(CFG, apply_b_dec_to_input=...), r"cfg\.json: apply_b_dec_to_input: missing"),
    ("jumprelu", settings(CFG, apply_b_dec_to_input="yes"), "apply_b_dec_to_input: needs true or false"),
    ("jumprelu", settings(CFG, normalize_activations=...), "normalize_activations: missing"),
    ("jumprelu", settings(CFG, normalize_activations="layer_norm"), "normalize_activations: is 'layer_norm', which"),
    ("jumprelu", settings(CFG, normalize_activations="constant_norm_rescale"), "'constant_norm_rescale'"),
    ("jumprelu", settings(CFG, normalize_activations="expected_average_only_in"), "'expected_average_only_in'"),
    ("jumprelu", settings(CFG, reshape_activations="hook_z"), "reshape_activations"),
    ("jumprelu", settings(CFG, finetuning_scaling_factor=True), "finetuning_scaling_factor"),
    ("standard", settings(CFG, activation_fn="tanh-relu"), "activation_fn: 'tanh-relu' is not read"),
    ("jumprelu", settings(CFG, rescale_acts_by_decoder_norm=True), "what the threshold is compared with"),
    ("jumprelu", settings(CFG, d_sae=N + 1), f"d_sae: is {N + 1}, but W_enc of sae_weights.safetensors has {N}"),
    ("jumprelu", settings(CFG, d_in=True), "d_in: needs a whole number"),
    ("topk", settings(CFG, k=N + 1), f"k: {N + 1} latents cannot be kept of a dictionary of {N}"),
    ("topk", settings(CFG, k=0), "k: 0 latents"),
    ("topk", settings(CFG, k=2.5), "k: needs a whole number, got 2.5"),
    ("topk", settings(CFG, k=...), "k: missing"),
    (
        "jumprelu",
        settings(CFG, metadata__model_from_pretrained_kwargs={"center_writing_weights": True}),
        "metadata.model_from_pretrained_kwargs.center_writing_weights",
    ),
    ("jumprelu", settings(CFG, metadata__hook_name=7), "metadata.hook_name: needs a text"),
    ("jumprelu", settings(CFG, metadata=[]), "metadata: needs an object"),
    ("jumprelu", tensors(SAE, put("scaling_factor", torch.full((N,), 2.0))), "scaling_factor: is not 1"),
    ("jumprelu", tensors(SAE, put("W_skip", torch.ones(2))), "W_skip: unknown tensor"),
    ("jumprelu", tensors(SAE, lambda stored: stored.pop("b_dec")), "b_dec: missing"),
    ("jumprelu", tensors(SAE, put("b_dec", torch.ones(D + 1))), rf"b_dec: has shape \[{D + 1}\], needs \[{D}\]"),
    ("jumprelu", tensors(SAE, put("b_enc", torch.ones(N, dtype=torch.int64))), "b_enc: is torch.int64, needs float32"),
    ("jumprelu", tensors(SAE, put("b_enc", torch.ones(N).to(torch.float8_e4m3fn))), "b_enc: is torch.float8"),
    ("jumprelu", tensors(SAE, put("b_enc", torch.full((N,), 1e300, dtype=torch.float64))), "b_enc: holds NaN"),
    ("jumprelu", tensors(SAE, spoil("threshold", torch.nan)), "threshold: holds NaN or infinite"),
    ("jumprelu", tensors(SAE, spoil("W_enc", torch.inf)), "W_enc: holds NaN or infinite"),
    ("jumprelu", tensors(SAE, put("W_enc", torch.ones(D, 0))), "W_enc: has shape"),
    ("jumprelu", lambda folder: (folder / CFG).unlink(), "in none of the formats"),
    ("jumprelu", lambda folder: (folder / CFG).write_text("{"), r"cfg\.json: no readable JSON"),
    ("jumprelu", lambda folder: (folder / CFG).write_text("[" * 100_000), r"cfg\.json: no readable JSON"),
    ("jumprelu", lambda folder: (folder / CFG).write_bytes(b"\xff\xfe"), r"cfg\.json: no readable JSON"),
    ("jumprelu", lambda folder: (folder / CFG).write_text("[]"), r"cfg\.json: needs a JSON object"),
    ("jumprelu", lambda folder: (folder / "config.json").write_text("{}"), "only one of them can be meant"),
    ("jumprelu", lambda folder: os.truncate(folder / SAE, 3000), rf"{SAE}: not readable"),
    ("jumprelu", lambda folder: os.truncate(folder / SAE, 4), rf"{SAE}: not readable"),
    ("jumprelu", lambda folder: (folder / SAE).unlink(), "holds no weight file"),
]


@pytest.mark.parametrize(("architecture", "change", "words"), SAELENS, ids=[f"{a}-{w[:40]}" for a, _, w in SAELENS])
def test_saelens(architecture: str, change: Break, words: str, tmp_path: Path) -> None:
    sae_lens(tmp_path, architecture)
    read_dictionary(tmp_path, **ASKED)
    change(tmp_path)
    with pytest.raises(DiffbenchError, match=words) as refusal:
        read_dictionary(tmp_path, **ASKED)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_a_row_of_zeros_cannot_be_divided_by(tmp_path: Path) -> None:
    sae_lens(tmp_path, "topk", rescale_acts_by_decoder_norm=True)
    tensors(SAE, lambda stored: stored["W_dec"][3].zero_())(tmp_path)
    with pytest.raises(CheckpointError, match="W_dec: has a row of zeros"):
        read_dictionary(tmp_path, **ASKED)


AE, CONFIG = "ae.pt", "config.json"
DICTIONARY_LEARNING: list[tuple[str, Break, str]] = [
    ("BatchTopKSAE", settings(CONFIG, trainer__dict_class="GatedAutoEncoder"), "'GatedAutoEncoder' is not read"),
    ("AutoEncoder", settings(CONFIG, trainer__trainer_class="PAnnealTrainer"), "'PAnnealTrainer' is not read"),
    ("BatchTopKSAE", settings(CONFIG, trainer__dict_class=...), "trainer.dict_class: missing"),
    ("BatchTopKSAE", settings(CONFIG, trainer__dict_class=["BatchTopKSAE"]), "dict_class: needs a text"),
    ("BatchTopKSAE", settings(CONFIG, trainer__dict_size=N + 1), f"trainer.dict_size: is {N + 1}"),
    ("BatchTopKSAE", settings(CONFIG, trainer__k=3), r"trainer\.k: is 3, but 6 in ae\.pt"),
    ("BatchTopKSAE", settings(CONFIG, trainer__layer=9), "layer: is 9, but submodule_name is 'resid_post_layer_3'"),
    ("BatchTopKSAE", lambda folder: (folder / CONFIG).unlink(), "the configuration is missing"),
    ("BatchTopKSAE", tensors(AE, put("threshold", torch.tensor(-1.0))), "threshold: is -1: it was never measured"),
    ("BatchTopKSAE", tensors(AE, put("threshold", torch.ones(N))), "threshold: has shape"),
    ("BatchTopKSAE", tensors(AE, lambda stored: stored.pop("threshold")), "threshold: missing"),
    ("BatchTopKSAE", tensors(AE, put("k", torch.tensor(N + 1))), f"k: {N + 1} latents cannot be kept"),
    ("BatchTopKSAE", tensors(AE, put("k", torch.tensor(6.0))), "k: needs one whole number"),
    ("BatchTopKSAE", tensors(AE, put("k", torch.tensor([6, 6]))), "k: needs one whole number"),
    ("BatchTopKSAE", tensors(AE, put("r_mag", torch.ones(2))), "r_mag: unknown tensor"),
    ("BatchTopKSAE", tensors(AE, put("target_rms", torch.tensor(1.0))), "activation_global_scale: missing"),
    ("AutoEncoder", tensors(AE, spoil("bias", torch.nan)), "bias: holds NaN"),
    ("AutoEncoder", tensors(AE, put("encoder.weight", torch.ones(1, N, D))), "does not look like dictionary-learning"),
    ("AutoEncoder", tensors(AE, put("decoder.bias", torch.ones(D))), "decoder.bias: unknown tensor"),
    ("MatryoshkaBatchTopKSAE", tensors(AE, put("group_sizes", torch.tensor([3, 4]))), "do not add up to"),
    ("MatryoshkaBatchTopKSAE", tensors(AE, put("group_sizes", torch.tensor([1.0]))), "needs whole numbers"),
    ("AutoEncoderTopK", settings(CONFIG, trainer__dict_class="BatchTopK"), "'BatchTopK' is not read"),
]


@pytest.mark.parametrize(
    ("name", "change", "words"), DICTIONARY_LEARNING, ids=[f"{a}-{w[:40]}" for a, _, w in DICTIONARY_LEARNING]
)
def test_dictionary_learning(name: str, change: Break, words: str, tmp_path: Path) -> None:
    dictionary_learning(tmp_path, name)
    read_dictionary(tmp_path, **ASKED)
    change(tmp_path)
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_dictionary(tmp_path, format=None if "look like" not in words else "dictionary-learning", **ASKED)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


MODEL = "model.safetensors"
CROSSCODERS: list[tuple[Break, str]] = [
    (settings(CONFIG, code_normalization="SAE"), r"code_normalization: is SAE, but CROSSCODER in model\.safetensors"),
    (settings(CONFIG, code_normalization="L7"), "code_normalization: 'L7' is not read"),
    (settings(CONFIG, dict_class="CrossCoder"), "dict_class: is CrossCoder, but the tensors are those of a BatchTopK"),
    (settings(CONFIG, dict_class="MyCoder"), "'MyCoder' is not read"),
    (settings(CONFIG, dict_size=N - 1), "dict_size"),
    (settings(CONFIG, num_layers=3), "num_layers: is 3"),
    (settings(CONFIG, encoder_layers=[1, 0]), "encoder_layers: is set"),
    (settings(CONFIG, dict_class_kwargs={"encoder_layers": "[1, 0]"}), r"dict_class_kwargs\.encoder_layers: is set"),
    (tensors(MODEL, put("threshold", torch.tensor(-1.0))), "it was never measured"),
    (tensors(MODEL, put("k", torch.tensor(N + 1))), "k: "),
    (tensors(MODEL, put("encoder.weight", torch.ones(3, D, N))), "is of 3 models or layers, not of 2"),
    (tensors(MODEL, put("decoder.weight", torch.ones(2, D, N))), "decoder.weight: has shape"),
    (tensors(MODEL, put("activation_mean", torch.ones(2, D + 1))), "activation_mean: has shape"),
    (tensors(MODEL, spoil("activation_mean", torch.nan)), "activation_mean: is NaN in part"),
    (tensors(MODEL, spoil("activation_std", torch.nan)), "activation_std: is NaN in part"),
    (tensors(MODEL, lambda stored: stored["activation_std"].fill_(torch.nan)), "activation_std: is NaN in part"),
    (tensors(MODEL, spoil("activation_mean", torch.inf)), "activation_mean: holds NaN or infinite"),
    (tensors(MODEL, spoil("activation_global_scale", 0.0)), "activation_global_scale: needs to be positive"),
    (tensors(MODEL, spoil("activation_global_scale", torch.nan)), "activation_global_scale: holds NaN"),
    (tensors(MODEL, lambda stored: stored.pop("activation_std")), "activation_std: missing"),
    (tensors(MODEL, put("code_normalization_id", torch.tensor(9))), "code_normalization_id: is 9"),
    (tensors(MODEL, put("inhibition", torch.tensor(9))), "inhibition: unknown tensor"),
]


@pytest.mark.parametrize(("change", "words"), CROSSCODERS, ids=[words[:40] for _, words in CROSSCODERS])
def test_crosscoders(change: Break, words: str, tmp_path: Path) -> None:
    crosscoder_learning(tmp_path)
    read_dictionary(tmp_path, **CROSSCODER)
    change(tmp_path)
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_dictionary(tmp_path, **CROSSCODER)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_what_the_threshold_of_a_crosscoder_is_compared_with_must_be_known(tmp_path: Path) -> None:
    crosscoder_learning(tmp_path / "a", normalisation="DECOUPLED")
    with pytest.raises(CheckpointError, match="DECOUPLED: each model has activities of its own"):
        read_dictionary(tmp_path / "a", **CROSSCODER)
    crosscoder_learning(tmp_path / "b", normalisation="MIXED")
    settings(CONFIG, code_normalization_alpha_cc=...)(tmp_path / "b")
    with pytest.raises(CheckpointError, match="code_normalization_alpha_cc: missing"):
        read_dictionary(tmp_path / "b", **CROSSCODER)
    (tmp_path / "b" / CONFIG).unlink()
    with pytest.raises(CheckpointError, match="MIXED, whose weights stand in a configuration"):
        read_dictionary(tmp_path / "b", **CROSSCODER)
    crosscoder_learning(tmp_path / "c")
    tensors(MODEL, lambda stored: stored.pop("code_normalization_id"))(tmp_path / "c")
    read_dictionary(tmp_path / "c", **CROSSCODER)  # the configuration says it
    (tmp_path / "c" / CONFIG).unlink()
    with pytest.raises(CheckpointError, match="code_normalization_id: missing"):
        read_dictionary(tmp_path / "c", **CROSSCODER)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (settings(CFG, hook_point=...), "hook_point: missing"),
        (settings(CFG, d_in=1), "d_in: is 1"),
        (tensors("cc_weights.pt", put("W_enc", torch.ones(3, D, N))), "is of 3 models"),
        (tensors("cc_weights.pt", put("b_dec", torch.ones(D))), "b_dec: has shape"),
        (tensors("cc_weights.pt", put("x", torch.ones(D))), "x: unknown tensor"),
        (lambda folder: (folder / CFG).unlink(), "the configuration is missing"),
    ],
)
def test_ckkissane(change: Break, words: str, tmp_path: Path) -> None:
    ckkissane(tmp_path)
    read_dictionary(tmp_path, scales=(1.0, 1.0))
    change(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        read_dictionary(tmp_path, scales=(1.0, 1.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tensors("params.safetensors", put("affine_skip_connection", torch.ones(D, D))), "affine_skip_connection: unk"),
        (tensors("params.safetensors", put("w_dec", torch.ones(N, 2, D))), r"W_dec: has shape"),
        (tensors("params.safetensors", put("W_enc", torch.ones(D, N))), "W_enc: stands twice"),
        (settings(CONFIG, architecture="topk"), "architecture: 'topk' is not read"),
        (settings(CONFIG, hf_hook_point_in="model.layers.3.self_attn.o_proj.input"), "not the residual stream"),
        (settings(CONFIG, hf_hook_point_out="model.layers.3.output"), "a transcoder's"),
        (settings(CONFIG, affine_connection=True), "affine_connection"),
    ],
)
def test_gemma_scope(change: Break, words: str, tmp_path: Path) -> None:
    gemma_scope(tmp_path, "safetensors", small=True)
    read_dictionary(tmp_path, input="tuned")
    change(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        read_dictionary(tmp_path, input="tuned")
