"""Gauge: a model in another basis of its residual stream: other weights everywhere, the same function.

An RMS norm treats every signed permutation of the stream's coordinates alike, a layer norm every permutation; the
neurons of an MLP may be permuted as well. Permutations and signs round nothing, so weights of any dtype keep their
digits. Which axis of which tensor lies in the stream is written down by architecture; nothing is guessed.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench.atomic import new_folder
from diffbench.errors import CheckpointError
from diffbench.line import one_line
from diffbench.residual import load_model
from diffbench.seeds import derive

CONFIG = "config.json"
TOLERANCE = 1e-4
"""Largest difference of a logit in float32, relative to the largest logit where that is above 1."""
PROBE_DOCUMENTS, PROBE_TOKENS = 4, 32
COPIED = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True, slots=True)
class Axes:
    """Which axis of a tensor lies in the stream, and which one counts the neurons of an MLP.

    Attributes:
        signed: whether the entries change sign with their coordinate; the gains of a norm do not.
    """

    stream: int | None = None
    neurons: int | None = None
    signed: bool = True


INTO, OUT_OF, GAIN, KEPT = Axes(stream=0), Axes(stream=1), Axes(stream=0, signed=False), Axes()
"""Of a matrix [out, in]: written to the stream, or read from it; a norm's gain or shift; untouched."""
BLOCK = r"(?:\w+\.)?(?:layers|h)\.(\d+)\."
Rules = tuple[tuple[str, Axes], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """An architecture: the tensors outside of its blocks and in each of them, by name.

    Attributes:
        signs: whether its norms are RMS norms, which allow signs.
    """

    signs: bool
    outside: Rules
    block: Rules


def _gated(*norms: str) -> Layout:
    """Llama and its descendants, in which the names of the norms differ."""
    block = tuple((rf"{norm}\.weight", GAIN) for norm in norms)
    return Layout(
        signs=True,
        outside=(
            (r"(?:model\.)?embed_tokens\.weight|lm_head\.weight", OUT_OF),
            (r"(?:model\.)?norm\.weight", GAIN),
        ),
        block=(
            *block,
            (r"self_attn\.[qkv]_proj\.weight", OUT_OF),
            (r"self_attn\.[qkv]_proj\.bias|self_attn\.[qk]_norm\.weight|self_attn\.rotary_emb\.inv_freq", KEPT),
            (r"self_attn\.o_proj\.(?:weight|bias)", INTO),
            (r"mlp\.(?:gate|up)_proj\.weight", Axes(stream=1, neurons=0)),
            (r"mlp\.(?:gate|up)_proj\.bias", Axes(neurons=0)),
            (r"mlp\.down_proj\.weight", Axes(stream=0, neurons=1)),
            (r"mlp\.down_proj\.bias", INTO),
        ),
    )


_LLAMA = _gated("input_layernorm", "post_attention_layernorm")
LAYOUTS: dict[str, Layout] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _gated(
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
    ),
    "gpt2": Layout(  # its matrices are stored as [in, out]
        signs=False,
        outside=(
            (r"(?:transformer\.)?(?:wte|wpe)\.weight|lm_head\.weight", OUT_OF),
            (r"(?:transformer\.)?ln_f\.(?:weight|bias)", GAIN),
        ),
        block=(
            (r"ln_[12]\.(?:weight|bias)", GAIN),
            (r"attn\.c_attn\.weight", INTO),
            (r"attn\.c_attn\.bias|attn\.bias|attn\.masked_bias", KEPT),
            (r"attn\.c_proj\.weight", OUT_OF),
            (r"(?:attn|mlp)\.c_proj\.bias", INTO),
            (r"mlp\.c_fc\.weight", Axes(stream=0, neurons=1)),
            (r"mlp\.c_fc\.bias", Axes(neurons=0)),
            (r"mlp\.c_proj\.weight", Axes(stream=1, neurons=0)),
        ),
    ),
    "gpt_neo": Layout(
        signs=False,
        outside=(
            (r"(?:transformer\.)?(?:wte|wpe)\.weight|lm_head\.weight", OUT_OF),
            (r"(?:transformer\.)?ln_f\.(?:weight|bias)", GAIN),
        ),
        block=(
            (r"ln_[12]\.(?:weight|bias)", GAIN),
            (r"attn\.attention\.[qkv]_proj\.weight", OUT_OF),
            (r"attn\.attention\.(?:bias|masked_bias)", KEPT),
            (r"attn\.attention\.out_proj\.(?:weight|bias)", INTO),
            (r"mlp\.c_fc\.weight", Axes(stream=1, neurons=0)),
            (r"mlp\.c_fc\.bias", Axes(neurons=0)),
            (r"mlp\.c_proj\.weight", Axes(stream=0, neurons=1)),
            (r"mlp\.c_proj\.bias", INTO),
        ),
    ),
    "gpt_neox": Layout(
        signs=False,
        outside=(
            (r"(?:gpt_neox\.)?embed_in\.weight|embed_out\.weight|lm_head\.weight", OUT_OF),
            (r"(?:gpt_neox\.)?final_layer_norm\.(?:weight|bias)", GAIN),
        ),
        block=(
            (r"(?:input|post_attention)_layernorm\.(?:weight|bias)", GAIN),
            (r"attention\.query_key_value\.weight", OUT_OF),
            (r"attention\.(?:query_key_value\.bias|bias|masked_bias|rotary_emb\.inv_freq)", KEPT),
            (r"attention\.dense\.(?:weight|bias)", INTO),
            (r"mlp\.dense_h_to_4h\.weight", Axes(stream=1, neurons=0)),
            (r"mlp\.dense_h_to_4h\.bias", Axes(neurons=0)),
            (r"mlp\.dense_4h_to_h\.weight", Axes(stream=0, neurons=1)),
            (r"mlp\.dense_4h_to_h\.bias", INTO),
        ),
    ),
}
"""Architectures by ``model_type``."""


def regauge(base: Path, out: Path, seed: int) -> float:
    """Write the model of a folder in another gauge, drawn from the seed, with everything else as it is.

    Args:
        base: a model in Hugging Face format, safetensors, of an architecture in `LAYOUTS`.
        out: is made, whole or not at all.
        seed: the same seed gives the same gauge.

    Returns:
        The largest difference of a logit in float32 between the two models on random tokens.

    Raises:
        CheckpointError: if the architecture or a tensor of it is not known, or the two models do not say the same.
    """
    config = _config(base)
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{base}: no safetensors here; save the model with save_pretrained")
    gauge = _Gauge.draw(str(config["model_type"]), int(config.get("hidden_size") or config["n_embd"]), seed)
    with new_folder(out) as draft:
        for file in files:
            save_file(_turned(file, gauge), draft / file.name, metadata={"format": "pt"})
        for other in sorted(base.iterdir()):
            if other.is_file() and other.suffix in COPIED:
                shutil.copyfile(other, draft / other.name)
        before, after = _logits(base, config, seed), _logits(draft, config, seed)
        off = float((before - after).abs().max())
        if not off <= TOLERANCE * max(1.0, float(before.abs().max())):
            raise CheckpointError(
                f"{base}: in another gauge its logits differ by {off:.1e}, more than {TOLERANCE:g}: the tensors of "
                f"this model are not laid out as those of other {config['model_type']} models"
            )
    return off


def _config(base: Path) -> dict[str, Any]:
    try:
        config = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{base / CONFIG}: cannot be read ({one_line(error, 200)})") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in LAYOUTS:
        raise CheckpointError(f"{base}: no gauge is known for {kind!r} models; known are {', '.join(sorted(LAYOUTS))}")
    if config.get("quantization_config") is not None:
        raise CheckpointError(f"{base}: a quantised model has no other gauge; take the original weights")
    assert isinstance(config, dict)
    return config


@dataclass(frozen=True, slots=True)
class _Gauge:
    """A change of basis: coordinate i of the new stream is ``signs[i]`` times coordinate ``order[i]`` of the old."""

    kind: str
    order: Tensor
    signs: Tensor
    seed: int
    neurons: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def draw(cls, kind: str, width: int, seed: int) -> _Gauge:
        draw = torch.Generator().manual_seed(derive(seed, "gauge"))
        order = torch.randperm(width, generator=draw)
        signs = 2 * torch.randint(2, (width,), generator=draw) - 1
        return cls(kind, order, signs if LAYOUTS[kind].signs else torch.ones_like(signs), seed)

    def axes(self, name: str) -> tuple[Axes, int] | None:
        """Where a tensor has the stream, and its block (-1: none); None if nothing is known of the tensor."""
        layout, inside = LAYOUTS[self.kind], re.match(BLOCK, name)
        rules, rest = (layout.block, name[inside.end() :]) if inside else (layout.outside, name)
        found = next((axes for pattern, axes in rules if re.fullmatch(pattern, rest)), None)
        return None if found is None else (found, int(inside[1]) if inside else -1)

    def turn(self, tensor: Tensor, axes: Axes, block: int) -> Tensor:
        """A tensor of the model in the new basis."""
        if axes.stream is not None:
            tensor = tensor.index_select(axes.stream, self.order)
            if axes.signed:
                shape = [-1 if axis == axes.stream else 1 for axis in range(tensor.dim())]
                tensor = tensor * self.signs.view(shape).to(tensor.dtype)
        if axes.neurons is not None:
            tensor = tensor.index_select(axes.neurons, self._neurons(block, tensor.shape[axes.neurons]))
        return tensor.contiguous()

    def _neurons(self, block: int, n: int) -> Tensor:
        if (block, n) not in self.neurons:
            draw = torch.Generator().manual_seed(derive(self.seed, "neurons", str(block)))
            self.neurons[block, n] = torch.randperm(n, generator=draw)
        return self.neurons[block, n]


def _turned(file: Path, gauge: _Gauge) -> dict[str, Tensor]:
    """A file's tensors in the new basis, in their own dtype."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({one_line(error, 200)})") from None
    turned = {}
    for name, tensor in tensors.items():
        known = gauge.axes(name)
        if known is None:
            raise CheckpointError(f"{file}: {one_line(name, 100)}: no gauge is known for this tensor of {gauge.kind}")
        axes, block = known
        if axes.stream is not None and not (
            axes.stream < tensor.dim() and tensor.shape[axes.stream] == len(gauge.order)
        ):
            raise CheckpointError(f"{file}: {one_line(name, 100)}: {tuple(tensor.shape)} is no shape for {gauge.kind}")
        turned[name] = gauge.turn(tensor, axes, block)
    return turned


@torch.inference_mode()
def _logits(folder: Path, config: dict[str, Any], seed: int) -> Tensor:
    """Logits in float32 on random tokens."""
    longest = int(config.get("max_position_embeddings") or config.get("n_positions") or PROBE_TOKENS)
    draw = torch.Generator().manual_seed(derive(seed, "gauge probes"))
    ids = torch.randint(int(config["vocab_size"]), (PROBE_DOCUMENTS, min(longest, PROBE_TOKENS)), generator=draw)
    model = load_model(folder)
    logits: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
    return logits.float().cpu()
