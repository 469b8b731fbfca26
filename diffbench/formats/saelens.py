"""SAELens: ``cfg.json`` and ``sae_weights.safetensors`` of an SAE, read and written.

The functions are those of SAELens' inference classes, with x the input, s = ``apply_b_dec_to_input``::

    pre = (x - s b_dec) W_enc + b_enc           x̂ = f W_dec + b_dec
    standard: f = relu(pre)    jumprelu: f = relu(pre) [pre > threshold]    topk: f = relu of the k largest pre

Shapes: W_enc [d, n], W_dec [n, d], b_enc and threshold [n], b_dec [d].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffbench.diff import DictionaryDiff, Input
from diffbench.errors import DiffError
from diffbench.formats.folding import one_stream
from diffbench.formats.hooks import residual_layer
from diffbench.formats.settings import Asked, Settings
from diffbench.formats.source import Source

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = {"relu": "standard", "threshold": "jumprelu", "topk": "topk"}
LAYOUT = "6.0.0"
"""The first SAELens version with this layout of ``cfg.json``; older files are rewritten by SAELens when it loads them,
which drops what it does not know."""


def recognises(source: Source) -> bool:
    """A two-dimensional W_enc, and a ``cfg.json`` with ``d_sae`` or ``architecture``."""
    return (
        source.dimensions("W_enc") == 2
        and source.has_settings
        and source.settings.where.name == CONFIG
        and any(key in source.settings for key in ("d_sae", "architecture"))
    )


def read(source: Source, asked: Asked) -> DictionaryDiff:
    """An SAE; refuses every configuration under which the weights alone do not decide the numbers."""
    settings = source.settings
    asked.no_scales(source.weights)
    architecture = settings.one_of("architecture", ARCHITECTURES.values())
    _check_unscaled(source, settings)
    width, n = source.shape("W_enc", 2)
    for key, size in (("d_in", width), ("d_sae", n)):
        if settings.whole(key) != size:
            raise settings.refuse(key, f"is {settings.whole(key)}, but W_enc of {source.weights.name} has {size}")
    names = {"W_enc", "W_dec", "b_enc", "b_dec"} | ({"threshold"} if architecture == "jumprelu" else set())
    source.only(names, {"scaling_factor"})
    encoder, decoder = source.tensor("W_enc", width, n).T, source.tensor("W_dec", n, width)
    encoder_bias, bias = source.tensor("b_enc", n), source.tensor("b_dec", width)
    k = None
    if architecture == "topk":
        k = settings.whole("k")
        if not 1 <= k <= n:
            raise settings.refuse("k", f"{k} latents cannot be kept of a dictionary of {n}")
        if "rescale_acts_by_decoder_norm" in settings and settings.flag("rescale_acts_by_decoder_norm"):
            encoder, encoder_bias, decoder = _unit_decoder(source, encoder, encoder_bias, decoder)
    input, layer = _place(settings, asked)
    return one_stream(
        layer=layer,
        input=asked.one_input(source.weights) if input is None else input,
        encoder=encoder,
        encoder_bias=encoder_bias,
        decoder=decoder,
        bias=bias,
        threshold=source.tensor("threshold", n) if architecture == "jumprelu" else None,
        k=k,
        subtracted=bias if settings.flag("apply_b_dec_to_input") else None,
    )


def write(diff: DictionaryDiff, folder: Path) -> None:
    """An SAE with its learned thresholds as JumpReLU; nothing is folded, so every bit is kept."""
    if diff.input == "both":
        raise DiffError("input: SAELens has no crosscoders; export this dictionary as crosscoder-learning")
    assert diff.decoder is not None and diff.bias is not None  # checked before
    n, width = diff.encoder.shape
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[diff.activation],
        "d_in": width,
        "d_sae": n,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": LAYOUT,
            "sae_lens_training_version": None,
            "diffbench": {"input": diff.input, "layer": diff.layer},
        },
    }
    if diff.input != "delta":  # a difference stands at no hook of either model
        config["metadata"]["hook_name"] = f"blocks.{diff.layer}.hook_resid_post"
    tensors = {"W_enc": diff.encoder.T, "W_dec": diff.decoder, "b_enc": diff.encoder_bias, "b_dec": diff.bias}
    if diff.activation == "threshold":
        assert diff.threshold is not None
        tensors["threshold"] = diff.threshold
    if diff.activation == "topk":
        config |= {"k": diff.k, "rescale_acts_by_decoder_norm": False}
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _check_unscaled(source: Source, settings: Settings) -> None:
    settings.expect("normalize_activations", "none", "scales inputs by what is not in the file")
    settings.flag("apply_b_dec_to_input")
    if "reshape_activations" in settings:
        settings.expect("reshape_activations", "none", "is not for the residual stream")
    for key in ("finetuning_scaling_factor", "use_error_term"):
        if settings.has(key):
            settings.expect(key, False, "changes the reconstruction")
    for key in ("activation_fn", "activation_fn_str"):
        if settings.has(key):
            settings.one_of(key, ("relu",) if settings.text("architecture") != "topk" else ("relu", "topk"))
    if settings.text("architecture") == "jumprelu" and settings.has("rescale_acts_by_decoder_norm"):
        settings.expect("rescale_acts_by_decoder_norm", False, "leaves open what the threshold is compared with")
    if "scaling_factor" in source.names:
        factor = source.tensor("scaling_factor", *source.shape("scaling_factor", 1))
        if not torch.equal(factor, torch.ones_like(factor)):
            raise source.refuse("scaling_factor", "is not 1; versions of SAELens differ in what they multiply by it")
    for where in (settings, settings.section("metadata") if settings.has("metadata") else None):
        if where is not None and where.has("model_from_pretrained_kwargs"):
            model = where.section("model_from_pretrained_kwargs")
            if model.has("center_writing_weights"):
                model.expect(
                    "center_writing_weights", False, "shifts the residual stream against the published model's"
                )


def _place(settings: Settings, asked: Asked) -> tuple[Input | None, int]:
    """Input and layer, from the metadata of an export or the hook that an SAE of a single model names."""
    metadata = settings.section("metadata") if settings.has("metadata") else settings
    if metadata.has("diffbench"):
        own = metadata.section("diffbench")
        input = cast(Input, own.one_of("input", ("delta", "tuned", "base")))
        if asked.input not in (None, input):
            raise own.refuse("input", f"is {input!r}, but {asked.input!r} was given")
        return input, asked.block(settings.where, own.whole("layer"))
    for key in ("hook_name", "hook_point"):
        if metadata.has(key):
            return None, asked.block(settings.where, residual_layer(metadata, key))
    return None, asked.block(settings.where, None)


def _unit_decoder(source: Source, encoder: Tensor, encoder_bias: Tensor, decoder: Tensor) -> tuple[Tensor, ...]:
    """``rescale_acts_by_decoder_norm``: the decoder's norms multiply pre-activations, and divide what is decoded."""
    norm = decoder.double().norm(dim=1)
    if bool((norm == 0).any()):
        raise source.refuse("W_dec", "has a row of zeros, by whose norm rescale_acts_by_decoder_norm divides")
    return encoder.double() * norm[:, None], encoder_bias.double() * norm, decoder.double() / norm[:, None]
