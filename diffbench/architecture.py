"""Architecture: where Hugging Face causal models keep their blocks, final norm, words and ends of text.

Shapes: d residual width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffbench.errors import CheckpointError

Model = Any
"""A transformers causal LM; its own classes carry no useful static types."""


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


def ends_of(model: Model, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text, as the tokenizer and the settings and the configuration of the model have them."""
    holders = (tokenizer, getattr(model, "generation_config", None), model.config)
    named = [getattr(holder, "eos_token_id", None) for holder in holders]
    told = [index for name in named for index in (name if isinstance(name, list | tuple) else [name])]
    return tuple(dict.fromkeys(int(index) for index in told if index is not None and 0 <= index < vocabulary(model)))


def word_rows(model: Model) -> int:
    """Rows V of the embedding and of the unembedding.

    Raises:
        CheckpointError: if the two differ.
    """
    read, said = int(model.get_input_embeddings().weight.shape[0]), vocabulary(model)
    if read != said:
        raise CheckpointError(
            f"{type(model).__name__}: {read} rows in its embedding and {said} in its unembedding; the words that a "
            "model reads and says must be the same"
        )
    return read


def cut_words(model: Model, rows: int) -> Model:
    """``model`` with no more than the first ``rows`` words, which it reads and says as before; changed in place."""
    for layer, count in (
        (model.get_input_embeddings(), "num_embeddings"),
        (model.get_output_embeddings(), "out_features"),
    ):
        for name in ("weight", "bias"):
            parameter = getattr(layer, name, None)
            if parameter is not None and len(parameter) > rows:
                parameter.data = parameter.data[:rows].clone()  # tied parameters stay tied: they are one object
        if getattr(layer, count, rows) > rows:
            setattr(layer, count, rows)
        if (getattr(layer, "padding_idx", None) or 0) >= rows:
            layer.padding_idx = None
    if model.config.vocab_size > rows:
        model.config.vocab_size = rows
    return model


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


def _inner(model: Model) -> Any:
    return getattr(model, "model", None) or getattr(model, "transformer", None) or getattr(model, "gpt_neox", None)
