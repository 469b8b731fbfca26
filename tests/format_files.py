"""Dictionaries in other projects' formats, with each format's own formula written out in float64.

Every case writes files as that project does and returns a function of raw activations: the activities f [T, n] and
the reconstruction, [T, d] or [T, 2, d].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, N, LAYER = 24, 40, 3
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class Case:
    """What was written, what the reader must be told, and what it computes."""

    path: Path
    format: str
    forward: Forward
    arguments: dict[str, Any] = field(default_factory=dict)


class Draw:
    """Random tensors, all different."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * scale / shape[0] ** 0.5

    def positive(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) * 0.4 + 0.1


def rows(seed: int = 5, count: int = 300) -> tuple[Tensor, Tensor]:
    """h_b and h_t, [T, d] each."""
    draw = torch.Generator().manual_seed(seed)
    h_b = torch.randn(count, D, generator=draw) * 2 + 0.5
    return h_b, h_b + torch.randn(count, D, generator=draw)


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def largest(x: Tensor, k: int) -> Tensor:
    """x where it is among the k largest of its row, else 0."""
    return x * (x >= x.sort(dim=1, descending=True).values[:, k - 1 : k])


def sae_lens(folder: Path, architecture: str, seed: int = 0, **changes: Any) -> Case:
    draw = Draw(seed)
    w = {"W_enc": draw(D, N), "b_enc": draw(N, scale=3), "W_dec": draw(N, D, scale=3), "b_dec": draw(D, scale=4)}
    if architecture == "jumprelu":
        w["threshold"] = draw(N, scale=3)  # some negative
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": N,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": f"blocks.{LAYER}.hook_resid_post"},
    }
    if architecture == "topk":
        cfg |= {"k": 7, "rescale_acts_by_decoder_norm": False}
    cfg |= changes
    folder.mkdir(parents=True, exist_ok=True)
    save_file(w, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        p = {name: tensor.double() for name, tensor in w.items()}
        pre = (x.double() - (p["b_dec"] if cfg["apply_b_dec_to_input"] else 0)) @ p["W_enc"] + p["b_enc"]
        norm = torch.ones(N).double()
        if architecture == "topk":
            if cfg["rescale_acts_by_decoder_norm"]:
                norm = p["W_dec"].norm(dim=1)
            f = relu(largest(pre * norm, cfg["k"]))
        else:
            f = relu(pre) * (pre > p["threshold"] if architecture == "jumprelu" else 1)
        return f, (f / norm) @ p["W_dec"] + p["b_dec"]

    return Case(folder, "saelens", forward, {"input": "tuned"})


def gemma_scope(folder: Path, suffix: str, seed: int = 0, *, small: bool = False) -> Case:
    draw = Draw(seed)
    w = {"W_enc": draw(D, N), "b_enc": draw(N), "W_dec": draw(N, D), "b_dec": draw(D, scale=4)}
    w["threshold"] = draw.positive(N) * 3
    stored = {(name.lower() if small else name): tensor for name, tensor in w.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if suffix == "npz":
        np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in stored.items()})
    else:
        save_file(stored, folder / "params.safetensors")
    arguments: dict[str, Any] = {"input": "tuned"}
    if small:
        config = {"architecture": "jump_relu", "hf_hook_point_in": f"model.layers.{LAYER}.output"}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        arguments["layer"] = LAYER

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        p = {name: tensor.double() for name, tensor in w.items()}
        pre = x.double() @ p["W_enc"] + p["b_enc"]
        f = (pre > p["threshold"]) * relu(pre)
        return f, f @ p["W_dec"] + p["b_dec"]

    return Case(folder, "gemma-scope", forward, arguments)


TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
}


def dictionary_learning(folder: Path, name: str, seed: int = 0, *, normalised: bool = False) -> Case:
    draw, k, theta, mean, scale = Draw(seed), 6, 0.3, torch.zeros(D), 1.0
    encoder, decoder, c, b = draw(D, N).T.contiguous(), draw(N, D).T.contiguous(), draw(N), draw(D, scale=4)
    w: dict[str, Tensor]
    if name in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        w = {"W_enc": encoder.T.contiguous(), "b_enc": c, "W_dec": decoder.T.contiguous(), "b_dec": b}
    else:
        w = {"encoder.weight": encoder, "encoder.bias": c, "decoder.weight": decoder}
        w[{"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec")] = b
    if name in ("BatchTopKSAE", "AutoEncoderTopK", "MatryoshkaBatchTopKSAE"):
        w |= {"k": torch.tensor(k, dtype=torch.int32), "threshold": torch.tensor(theta)}
    if name == "JumpReluAutoEncoder":
        w["threshold"] = draw.positive(N)
    if name == "MatryoshkaBatchTopKSAE":
        w["group_sizes"] = torch.tensor([10, N - 10])
    if normalised:
        mean, scale = draw(D, scale=3), 0.37
        w |= {"target_rms": torch.tensor(1.0), "activation_mean": mean, "activation_std": draw.positive(D)}
        w["activation_global_scale"] = torch.tensor(scale)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(w, folder / "ae.pt")
    trainer = {"trainer_class": TRAINERS[name], "dict_class": name, "activation_dim": D, "dict_size": N}
    trainer |= {"layer": LAYER, "submodule_name": f"resid_post_layer_{LAYER}", "k": k}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"d_submodule": D}}))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x.double() - mean.double()) * float(torch.tensor(scale))
        if name not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
            z = z - b.double()
        g = relu(z @ encoder.double().T + c.double())
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            g = g * (g > float(torch.tensor(theta)))
        if name == "JumpReluAutoEncoder":
            g = g * (g > w["threshold"].double())
        if name == "AutoEncoderTopK":
            g = largest(g, k)
        y = g @ decoder.double().T + b.double()
        return g, y / (float(torch.tensor(scale)) + 1e-8) + mean.double() if normalised else y

    return Case(folder, "dictionary-learning", forward, {"input": "tuned"})


def crosscoder_learning(
    folder: Path,
    name: str = "BatchTopKCrossCoder",
    normalisation: str = "CROSSCODER",
    seed: int = 0,
    *,
    normalised: bool = True,
    file: str = "model.safetensors",
) -> Case:
    draw, theta = Draw(seed), 0.8
    encoder, c = torch.stack([draw(D, N), draw(D, N)]), draw(N)
    decoder, b = torch.stack([draw(N, D, scale=5), draw(N, D, scale=4)]), torch.stack([draw(D, scale=4), draw(D)])
    w = {"encoder.weight": encoder, "encoder.bias": c, "decoder.weight": decoder, "decoder.bias": b}
    names = ("CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED")
    w["code_normalization_id"] = torch.tensor(names.index(normalisation) + 1)
    mean, scale = torch.zeros(2, D), torch.ones(2)
    deviation = torch.full((2, D), torch.nan)
    if normalised:
        mean, deviation = torch.stack([draw(D, scale=3), draw(D, scale=2)]), draw.positive(2, D)
        scale = 1.7 / (deviation.square().sum(dim=1) + 1e-8).sqrt()
    stored_mean = mean if normalised else torch.full((2, D), torch.nan)
    w |= {"target_rms": torch.tensor(1.7), "activation_mean": stored_mean, "activation_std": deviation}
    w["activation_global_scale"] = scale
    if name == "BatchTopKCrossCoder":
        w |= {"k": torch.tensor(6, dtype=torch.int32), "threshold": torch.tensor(theta)}
    config: dict[str, Any] = {"activation_dim": D, "dict_size": N, "num_layers": 2, "code_normalization": normalisation}
    config |= {"code_normalization_alpha_sae": 0.7, "code_normalization_alpha_cc": 0.2, "dict_class": name}
    folder.mkdir(parents=True, exist_ok=True)
    if file.endswith(".pt"):
        torch.save(w, folder / file)
        config["trainer_class"] = f"{name}Trainer"
        (folder / "config.json").write_text(json.dumps({"trainer": config}))
    else:
        save_file(w, folder / file)
        (folder / "config.json").write_text(json.dumps(config))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        x, dec = x.double().reshape(-1, 2, D), decoder.double()
        z = (x - mean.double()) * scale.double()[:, None]
        f = relu(sum(z[:, m] @ encoder[m].double() for m in (0, 1)) + c.double())  # type: ignore[arg-type]
        if name == "BatchTopKCrossCoder":
            total = dec[0].norm(dim=1) + dec[1].norm(dim=1)
            joint = torch.cat([dec[0], dec[1]], dim=1).norm(dim=1)
            norm = {"CROSSCODER": total, "SAE": joint, "MIXED": 0.7 * joint + 0.2 * total, "NONE": torch.ones(N)}
            f = f * (f * norm[normalisation] > float(torch.tensor(theta)))
        y = torch.stack([f @ dec[m] + b[m].double() for m in (0, 1)], dim=1)
        return f, y / (scale.double()[:, None] + 1e-8) + mean.double() if normalised else y

    return Case(folder, "crosscoder-learning", forward, {"layer": LAYER})


def ckkissane(folder: Path, seed: int = 0) -> Case:
    draw, scales = Draw(seed), (0.25, 0.31)
    w = {"W_enc": torch.stack([draw(D, N), draw(D, N)]), "b_enc": draw(N), "W_dec": draw(N, 2, D)}
    w["b_dec"] = torch.stack([draw(D), draw(D)])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(w, folder / "cc_weights.pt")
    cfg = {"d_in": D, "dict_size": N, "hook_point": f"blocks.{LAYER + 1}.hook_resid_pre", "enc_dtype": "fp32"}
    (folder / "cfg.json").write_text(json.dumps(cfg))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        p = {name: tensor.double() for name, tensor in w.items()}
        z = x.double().reshape(-1, 2, D) * torch.tensor(scales, dtype=torch.float64)[:, None]
        f = relu(torch.einsum("tmd,mdn->tn", z, p["W_enc"]) + p["b_enc"])
        y = torch.einsum("tn,nmd->tmd", f, p["W_dec"]) + p["b_dec"]
        return f, y / torch.tensor(scales, dtype=torch.float64)[:, None]

    return Case(folder, "ckkissane", forward, {"scales": scales})
