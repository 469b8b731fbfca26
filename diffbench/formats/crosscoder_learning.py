"""crosscoder_learning (github.com/science-of-finetuning/crosscoder_learning): crosscoders, read and written.

With x_m the normalised activations of model m, norm_j the code normalisation of latent j::

    g = relu(sum_m x_m W[m] + c)       CrossCoder: f = g       BatchTopKCrossCoder: f_j = g_j [g_j norm_j > threshold]
    x̂_m = f D[m] + b[m]

    norm_j: CROSSCODER sum_m ||D[m, j]||    SAE sqrt(sum_m ||D[m, j]||²)    NONE 1
            MIXED alpha_sae SAE + alpha_cc CROSSCODER

so a latent's own threshold is threshold / norm_j. Model 0 is the reference, model 1 the tuned one.

Shapes: encoder.weight [2, d, n], encoder.bias [n], decoder.weight [2, n, d], decoder.bias [2, d].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffbench.diff import DictionaryDiff
from diffbench.errors import DiffError, OptionError
from diffbench.formats.dictionary_learning import dict_class, learned_threshold
from diffbench.formats.folding import Normaliser, two_streams
from diffbench.formats.hooks import submodule_layer
from diffbench.formats.normaliser import NORMALISER, stored_normaliser
from diffbench.formats.settings import Asked, Settings
from diffbench.formats.source import Source

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLASSES = ("CrossCoder", "BatchTopKCrossCoder")
TRAINERS = ("CrossCoderTrainer", "BatchTopKCrossCoderTrainer")
NORMALISATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
NONE = 4
COMPILED = "_orig_mod."
"""What torch.compile puts before the names of tensors."""

NEEDED = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
UNREACHED = 1e20
"""Thresholds above this are reached by no activation."""


def recognises(source: Source) -> bool:
    """An encoder with an axis for the models."""
    return any(source.dimensions(prefix + "encoder.weight") == 3 for prefix in ("", COMPILED))


def read(source: Source, asked: Asked) -> DictionaryDiff:
    """A crosscoder of two models."""
    source = source.renamed({name: name.removeprefix(COMPILED) for name in source.names})
    settings, name = _class(source)
    batch_top_k = name == "BatchTopKCrossCoder"
    asked.both(source.weights)
    layer = asked.block(source.weights, None if settings is None else submodule_layer(settings))
    normalised = bool(source.names & NORMALISER)
    needed = NEEDED | (NORMALISER if normalised else set()) | ({"k", "threshold"} if batch_top_k else set())
    source.only(needed, {"code_normalization_id"})
    models, width, n = source.shape("encoder.weight", 3)
    if models != 2:
        raise source.refuse("encoder.weight", f"is of {models} models or layers, not of 2")
    if settings is not None:
        _check_sizes(settings, width, n)
    encoder, decoder = source.tensor("encoder.weight", 2, width, n), source.tensor("decoder.weight", 2, n, width)
    bias = source.tensor("decoder.bias", 2, width)
    return two_streams(
        layer=layer,
        encoders=(encoder[0].T, encoder[1].T),
        encoder_bias=source.tensor("encoder.bias", n),
        decoders=(decoder[0], decoder[1]),
        biases=(bias[0], bias[1]),
        normalisers=_normalisers(source, asked, width, normalised),
        threshold=_threshold(source, settings, decoder) if batch_top_k else None,
    )


def write(diff: DictionaryDiff, folder: Path) -> None:
    """A crosscoder in raw space, without normaliser.

    The class has one threshold for all latents: each latent is divided by its own threshold, its decoder rows
    multiplied by it, and the common threshold is 1. Relative decoder norms stay as they are. Without a positive
    threshold it is a relu crosscoder, for activities are positive in either case.
    """
    if diff.input != "both":
        raise DiffError(f"input: a crosscoder reads both models, this dictionary {diff.input!r}; export it as saelens")
    if diff.activation == "topk":
        raise DiffError("activation: crosscoder_learning has no crosscoder that keeps the k largest of each token")
    n, width = diff.encoder.shape[0], diff.encoder.shape[1] // 2
    assert diff.decoder_base is not None and diff.decoder_tuned is not None  # checked before
    assert diff.bias_base is not None and diff.bias_tuned is not None
    encoder, encoder_bias = diff.encoder.detach().cpu(), diff.encoder_bias.detach().cpu()
    decoder = torch.stack([diff.decoder_base.detach().cpu(), diff.decoder_tuned.detach().cpu()])
    config: dict[str, Any] = {"activation_dim": width, "dict_size": n, "num_layers": 2, "code_normalization": "NONE"}
    tensors: dict[str, Tensor] = {}
    if diff.activation == "threshold" and diff.threshold is not None and bool((diff.threshold > 0).any()):
        unit = _unit(diff.threshold.detach().cpu())
        dead = unit > UNREACHED
        encoder = torch.where(dead[:, None], 0.0, encoder / unit[:, None])
        encoder_bias = torch.where(dead, 0.0, encoder_bias / unit)
        decoder = torch.where(dead[:, None], decoder, decoder * unit[:, None])
        config |= {"k": diff.k or n, "dict_class": "BatchTopKCrossCoder"}
        # Only training reads k; a Diff that does not record it says nothing of how many were kept.
        tensors = {"k": torch.tensor(diff.k or n, dtype=torch.int32), "threshold": torch.tensor(1.0)}
    else:
        config["dict_class"] = "CrossCoder"
    nothing = torch.full((2, width), torch.nan)
    tensors |= {
        "encoder.weight": torch.stack([encoder[:, :width].T, encoder[:, width:].T]),
        "encoder.bias": encoder_bias,
        "decoder.weight": decoder,
        "decoder.bias": torch.stack([diff.bias_base.detach().cpu(), diff.bias_tuned.detach().cpu()]),
        "code_normalization_id": torch.tensor(NONE),
        "target_rms": torch.tensor(1.0),
        "activation_mean": nothing,
        "activation_std": nothing.clone(),
        "activation_global_scale": torch.ones(2),
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _class(source: Source) -> tuple[Settings | None, str]:
    """The trainer's answers, and the class: named by the configuration, else told by the tensors, which differ."""
    found = CLASSES["threshold" in source.names]
    if not source.has_settings:
        return None, found
    settings = source.settings
    if "trainer" in settings or "dict_class" in settings:
        settings, name = dict_class(settings, CLASSES, TRAINERS)
        if name != found:
            raise settings.refuse("dict_class", f"is {name}, but the tensors are those of a {found}")
    return settings, found


def _check_sizes(settings: Settings, width: int, n: int) -> None:
    for key, size in (("activation_dim", width), ("dict_size", n), ("num_layers", 2), ("num_decoder_layers", 2)):
        if settings.has(key) and settings.whole(key) != size:
            raise settings.refuse(key, f"is {settings.whole(key)}, but the weights have {size}")
    parts = [settings, settings.section("dict_class_kwargs")] if settings.has("dict_class_kwargs") else [settings]
    for part in parts:
        for key in ("encoder_layers", "latent_processor"):
            if part.has(key):
                raise part.refuse(key, "is set, and changes what the encoder reads or returns")


def _normalisers(source: Source, asked: Asked, width: int, normalised: bool) -> tuple[Normaliser, Normaliser]:
    if normalised:
        asked.no_scales(source.weights)
        base, tuned = stored_normaliser(source, (2, width))
        return base, tuned
    if asked.scales is None:
        raise OptionError(
            f"{source.weights}: activation_global_scale: missing, as in early versions, so whether activations were "
            "scaled in training is not known; give scales: reference and tuned, 1 and 1 for raw activations"
        )
    return Normaliser.factor(asked.scales[0], width), Normaliser.factor(asked.scales[1], width)


def _threshold(source: Source, settings: Settings | None, decoder: Tensor) -> Tensor:
    """Each latent's own threshold [n]: in units of f, before any normaliser is folded into the decoder."""
    n = decoder.shape[1]
    k = source.whole("k")
    if not 1 <= k <= n:
        raise source.refuse("k", f"{k} latents cannot be kept of a dictionary of {n}")
    name = _normalisation(source, settings)
    if name == "DECOUPLED":
        raise source.refuse("code_normalization_id", "is DECOUPLED: each model has activities of its own")
    threshold = learned_threshold(source).double()
    norms = decoder.double().norm(dim=2)
    total, joint = norms.sum(dim=0), norms.square().sum(dim=0).sqrt()
    if name == "MIXED":
        if settings is None:
            raise source.refuse(
                "code_normalization_id", "is MIXED, whose weights stand in a configuration; it is missing"
            )
        weights = (settings.number(f"code_normalization_alpha_{part}") for part in ("sae", "cc"))
        norm = sum(weight * part for weight, part in zip(weights, (joint, total), strict=True))
    else:
        norm = {"CROSSCODER": total, "SAE": joint, "NONE": torch.ones_like(total)}[name]
    # A latent without decoder has score 0, which exceeds no threshold.
    unreached = torch.finfo(torch.float32).max
    return torch.where(norm > 0, threshold / norm.clamp(min=1e-300), unreached).clamp(max=unreached)


def _normalisation(source: Source, settings: Settings | None) -> str:
    named = None
    if settings is not None and settings.has("code_normalization"):
        named = settings.one_of("code_normalization", NORMALISATIONS.values())
    if "code_normalization_id" not in source.names:
        if named is None:
            raise source.refuse("code_normalization_id", "missing, so what the threshold is compared with is not known")
        return named
    number = source.whole("code_normalization_id")
    if number not in NORMALISATIONS:
        raise source.refuse("code_normalization_id", f"is {number}; known are 1 to {len(NORMALISATIONS)}")
    if settings is not None and named not in (None, NORMALISATIONS[number]):
        raise settings.refuse(
            "code_normalization", f"is {named}, but {NORMALISATIONS[number]} in {source.weights.name}"
        )
    return NORMALISATIONS[number]


def _unit(threshold: Tensor) -> Tensor:
    """Thresholds as units of each latent, [n]."""
    low = threshold < 1.0 / UNREACHED
    if bool(low.any()):
        j = int(low.nonzero()[0])
        raise DiffError(
            f"threshold: latent {j} has {float(threshold[j]):g}; a BatchTopKCrossCoder has one threshold for all "
            "latents, which can stand only for positive ones"
        )
    return threshold
