"""The residual stream of Hugging Face causal models: read it after any block, put something else in its place.

Shapes: B documents, L positions, d residual width, V vocabulary. Layer l is the stream leaving block l (0-based).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffbench.adapter import base_folder, is_adapter, merged, toggled
from diffbench.errors import CheckpointError, OptionError
from diffbench.line import one_line
from diffbench.precision import use_fast_matmul

Dtype = Literal["float32", "bfloat16"]
Model = Any
"""A transformers causal LM; its own classes carry no useful static types."""


def load_model(folder: Path, *, base: Path | None = None, dtype: Dtype = "float32") -> Model:
    """Load a causal LM from a local folder, safetensors only, no code from the folder.

    Args:
        folder: a model, or an adapter, which is merged into its base.
        base: the base of an adapter; None: the one that the adapter names.
        dtype: what the weights are kept and computed in.

    Raises:
        CheckpointError: if the folder holds no such model.
    """
    if is_adapter(folder):
        # Merged in float32: a sum that is rounded to fewer digits would lose much of a small adapter.
        return merged(_load_whole(base_folder(folder, base), "float32"), folder).to(getattr(torch, dtype))
    return _load_whole(folder, dtype)


def _load_whole(folder: Path, dtype: Dtype) -> Model:
    from transformers import AutoModelForCausalLM

    _prepare_loading(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            attn_implementation="eager",  # exact for every architecture, and faster than sdpa on CPUs for short texts
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # a folder can be wrong in many ways, and safetensors raises types of its own
        raise CheckpointError(f"{folder}: cannot be loaded as a causal LM: {one_line(error, 300)}") from None
    return model.eval().requires_grad_(False)


def outline(folder: Path, *, base: Path | None = None) -> Model:
    """The model of a folder without its weights: shapes and names, in no memory to speak of.

    Raises:
        CheckpointError: if the folder's configuration describes no causal LM.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if is_adapter(folder):
        folder = base_folder(folder, base)
    _prepare_loading(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{folder}: cannot be loaded as a causal LM: {one_line(error, 300)}") from None


def _prepare_loading(folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    use_fast_matmul()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no model here (config.json is missing)")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model that is in memory only while it is used."""

    folder: Path
    base: Path | None = None
    dtype: Dtype = "float32"

    def load(self) -> Model:
        """The model, as `load_model` gives it."""
        return load_model(self.folder, base=self.base, dtype=self.dtype)


def pair_of(reference: Path, tuned: Path, *, base: Path | None = None, dtype: Dtype = "float32") -> tuple[Model, Model]:
    """Two models to run one after the other, with no more than one of them in memory.

    A tuned folder that holds an adapter on the reference's own model gives one loaded model, on which the adapter is
    switched off and on; any other pair gives a `ModelFolder` each.

    Raises:
        CheckpointError: if an adapter does not fit its base.
    """
    if is_adapter(tuned) and not is_adapter(reference):
        if base_folder(tuned, base).resolve() == reference.resolve():
            return toggled(_load_whole(reference, dtype), tuned)
    return ModelFolder(reference, base, dtype), ModelFolder(tuned, base, dtype)


def load_pair(
    reference: Path, tuned: Path, *, base: Path | None = None, dtype: Dtype = "float32"
) -> tuple[Model, Model]:
    """Two models in memory at once; an adapter on the reference's own model shares its weights.

    Raises:
        CheckpointError: if a folder holds no model.
    """
    one, other = pair_of(reference, tuned, base=base, dtype=dtype)
    return _in_memory(one), _in_memory(other)


def _in_memory(model: Model | ModelFolder) -> Model:
    return model.load() if isinstance(model, ModelFolder) else model


def load_tokenizer(folder: Path, *, base: Path | None = None) -> Any:
    """Load a tokenizer from a local folder, no code from the folder; an adapter without one takes its base's.

    Raises:
        CheckpointError: if the folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    if is_adapter(folder) and not (folder / "tokenizer_config.json").is_file():
        folder = base_folder(folder, base)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no tokenizer: {one_line(error, 300)}") from None


def check_layer(model: Model, layer: int) -> None:
    """Refuse a layer that a model does not have.

    Raises:
        OptionError: naming the layers there are.
    """
    n_layers = len(blocks(model))
    if not 0 <= layer < n_layers:
        raise OptionError(f"layer: {layer} does not exist, the models have blocks 0..{n_layers - 1}")


def blocks(model: Model) -> nn.ModuleList:
    """The model's transformer blocks, in order.

    Raises:
        CheckpointError: if this architecture keeps them in a place we do not know.
    """
    inner = _inner(model)
    for name in ("layers", "h"):
        found = getattr(inner, name, None)
        if isinstance(found, nn.ModuleList) and len(found) > 0:
            return found
    raise CheckpointError(f"{type(model).__name__}: its blocks are in no known place (model.layers, transformer.h)")


def width(model: Model) -> int:
    """Residual width d."""
    return int(model.config.hidden_size)


def vocabulary(model: Model) -> int:
    """Rows V of the unembedding."""
    return int(model.get_output_embeddings().weight.shape[0])


def final_gain(model: Model) -> Tensor:
    """[d]: what the final norm multiplies each coordinate by, its division by the size left out.

    Raises:
        CheckpointError: if this architecture keeps its final norm in a place we do not know.
    """
    inner = _inner(model)
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
        norm = getattr(inner, name, None)
        if isinstance(norm, nn.LayerNorm):
            return norm.weight.detach()
        if isinstance(norm, nn.Module):
            # Of a vector of ones, whose root mean square is 1, an RMS norm returns its gain, however it stores it.
            gain: Tensor = norm(torch.ones(width(model), device=model.device)).detach()
            return gain
    raise CheckpointError(f"{type(model).__name__}: its final norm is in no known place (model.norm, transformer.ln_f)")


class _Stop(Exception):
    """Ends a forward pass as soon as the wanted layer is known."""


def hidden(model: Model, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """Residual stream [B, L, d] leaving block ``layer``; nothing above it is computed."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept.append(_stream(output))
        raise _Stop

    handle = blocks(model)[layer].register_forward_hook(keep)
    try:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    except _Stop:
        pass
    finally:
        handle.remove()
    return kept[0]


def hidden_and_logits(model: Model, ids: Tensor, mask: Tensor, layers: list[int]) -> tuple[dict[int, Tensor], Tensor]:
    """Residual streams [B, L, d] leaving each of ``layers``, and logits [B, L, V], from one forward pass."""
    kept: dict[int, Tensor] = {}
    handles = []
    for layer in layers:

        def keep(_module: nn.Module, _args: Any, output: Any, layer: int = layer) -> None:
            kept[layer] = _stream(output)

        handles.append(blocks(model)[layer].register_forward_hook(keep))
    try:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return kept, logits


def last_logits(model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Next-token logits [B, V] after the last token of each document; others are computed where documents end."""
    ends, which = (mask.sum(dim=1) - 1).unique(return_inverse=True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=ends).logits
    return logits[torch.arange(len(ids)), which]  # type: ignore[no-any-return]


def logits_from(model: Model, ids: Tensor, mask: Tensor, layer: int, stream: Tensor) -> Tensor:
    """Logits [B, L, V] of ``model`` continued from ``stream`` [B, L, d] put in place of block ``layer``'s output.

    The model uses its own attention mask and positions; blocks up to ``layer`` are skipped.
    """
    with _continued(model, layer, stream):
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # type: ignore[no-any-return]


@contextmanager
def _continued(model: Model, layer: int, stream: Tensor) -> Iterator[None]:
    """Blocks up to ``layer`` hand on what they get, and the last of them puts out ``stream``."""
    started = blocks(model)[: layer + 1]

    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = blocks(model)[layer].register_forward_hook(replace)
    try:
        for block in started:
            block.forward = _identity_tuple if _returns_tuple(block) else _identity
        yield
    finally:
        handle.remove()
        for block in started:
            vars(block).pop("forward", None)  # the instance attribute; the class's own method shows again


def _inner(model: Model) -> Any:
    return getattr(model, "model", None) or getattr(model, "transformer", None) or getattr(model, "gpt_neox", None)


def _returns_tuple(block: nn.Module) -> bool:
    """Older blocks (GPT-NeoX, GPT-J) return a tuple whose first entry is the stream."""
    annotation = str(type(block).forward.__annotations__.get("return", ""))
    return annotation.startswith(("tuple", "Tuple", "typing.Tuple"))


def _identity(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


def _identity_tuple(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor]:
    return (hidden_states,)


def _stream(output: Any) -> Tensor:
    stream = output[0] if isinstance(output, tuple) else output
    return stream  # type: ignore[no-any-return]
