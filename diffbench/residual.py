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

from diffbench.adapter import adapted_rows, base_folder, is_adapter, merged, switchable, toggled
from diffbench.architecture import Model, blocks, cut_words, final_gain, vocabulary, width, word_rows
from diffbench.errors import CheckpointError, OptionError
from diffbench.line import one_line
from diffbench.precision import compute_device, use_fast_matmul
from diffbench.tokenizer import find_tokenizer, load_tokenizer
from diffbench.vocabulary import Vocabulary

__all__ = [
    "Dtype",
    "Model",
    "ModelFolder",
    "blocks",
    "check_layer",
    "final_gain",
    "find_tokenizer",
    "hidden",
    "hidden_from",
    "hidden_layers",
]
__all__ += [
    "last_logits",
    "load_model",
    "load_pair",
    "load_tokenizer",
    "logits",
    "logits_from",
    "outline",
    "pair_of",
    "unembed",
]
__all__ += ["vocabulary", "vocabulary_of", "width"]

Dtype = Literal["float32", "bfloat16"]


def load_model(
    folder: Path,
    *,
    base: Path | None = None,
    dtype: Dtype = "float32",
    rows: int | None = None,
    spread: bool = False,
) -> Model:
    """Load a causal LM from a local folder, safetensors only, no code from the folder, onto the process's device.

    Args:
        folder: a model, or an adapter, which is merged into its base.
        base: the base of an adapter; None: the one that the adapter names.
        dtype: what the weights are kept and computed in.
        rows: words that it is cut to, as a pair's `vocabulary_of` has them; None: all.
        spread: over all devices there are, instead of onto the process's own.

    Raises:
        CheckpointError: if the folder holds no such model.
    """
    if spread:
        return _load_whole(folder, dtype, device_map="auto")
    if is_adapter(folder):
        # Merged in float32: a sum that is rounded to fewer digits would lose much of a small adapter.
        model = merged(_load_whole(base_folder(folder, base), "float32"), folder).to(getattr(torch, dtype))
    else:
        model = _load_whole(folder, dtype)
    return (model if rows is None else cut_words(model, rows)).to(compute_device())


def _load_whole(folder: Path, dtype: Dtype, **placed: str) -> Model:
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
            **placed,
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

    rows = None
    if is_adapter(folder):
        rows, folder = adapted_rows(folder), base_folder(folder, base)
    _prepare_loading(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        config.vocab_size = config.vocab_size if rows is None else rows
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
    rows: int | None = None

    def load(self) -> Model:
        """The model, as `load_model` gives it."""
        return load_model(self.folder, base=self.base, dtype=self.dtype, rows=self.rows)


def vocabulary_of(reference: Path, tuned: Path, *, base: Path | None = None) -> Vocabulary:
    """The words that two models have in common, from their configurations alone.

    Raises:
        CheckpointError: if a folder describes no causal LM, or reads other words than it says.
    """
    return Vocabulary.common(word_rows(outline(reference, base=base)), word_rows(outline(tuned, base=base)))


def pair_of(
    reference: Path, tuned: Path, *, base: Path | None = None, dtype: Dtype = "float32", apart: bool = False
) -> tuple[Model, Model]:
    """Two models to run one after the other, with no more than one of them in memory.

    A tuned folder that holds an adapter on the reference's own model gives one loaded model, on which the adapter is
    switched off and on; any other pair gives a `ModelFolder` each, and so does an adapter that leaves more than
    itself behind. Models with unequal vocabularies are cut to the words that they have in common.

    Args:
        reference: folder of the model of h_b.
        tuned: folder of the model of h_t.
        base: the base of adapters; None: the one that each names.
        dtype: what is computed in.
        apart: an adapter is merged into a base of its own, so that weights can be read and edited.

    Raises:
        CheckpointError: if an adapter does not fit its base.
    """
    words = vocabulary_of(reference, tuned, base=base)
    if not apart and words.same and is_adapter(tuned) and not is_adapter(reference) and switchable(tuned):
        if base_folder(tuned, base).resolve() == reference.resolve():
            return toggled(_load_whole(reference, dtype).to(compute_device()), tuned)
    rows = None if words.same else words.rows
    return ModelFolder(reference, base, dtype, rows), ModelFolder(tuned, base, dtype, rows)


def load_pair(
    reference: Path, tuned: Path, *, base: Path | None = None, dtype: Dtype = "float32", apart: bool = False
) -> tuple[Model, Model]:
    """Two models in memory at once; an adapter on the reference's own model shares its weights, unless they are apart.

    Raises:
        CheckpointError: if a folder holds no model.
    """
    one, other = pair_of(reference, tuned, base=base, dtype=dtype, apart=apart)
    return _in_memory(one), _in_memory(other)


def _in_memory(model: Model | ModelFolder) -> Model:
    return model.load() if isinstance(model, ModelFolder) else model


def check_layer(model: Model, layer: int) -> None:
    """Refuse a layer that a model does not have.

    Raises:
        OptionError: naming the layers there are.
    """
    n_layers = len(blocks(model))
    if not 0 <= layer < n_layers:
        raise OptionError(f"layer: {layer} does not exist, the models have blocks 0..{n_layers - 1}")


class _Stop(Exception):
    """Ends a forward pass as soon as the wanted layer is known."""


def hidden(model: Model, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """Residual stream [B, L, d] leaving block ``layer``; nothing above it is computed.

    Here and below the model may be on another device than ``ids``; what comes back is where ``ids`` are.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept.append(_stream(output))
        raise _Stop

    handle = blocks(model)[layer].register_forward_hook(keep)
    try:
        _run(model, ids, mask)
    except _Stop:
        pass
    finally:
        handle.remove()
    return kept[0].to(ids.device)


def hidden_layers(model: Model, ids: Tensor, mask: Tensor, layers: list[int]) -> dict[int, Tensor]:
    """Residual streams [B, L, d] leaving each of ``layers``, from one forward pass that ends with the highest."""
    kept: dict[int, Tensor] = {}
    handles = []
    *lower, highest = sorted(layers)
    for layer in lower:

        def keep(_module: nn.Module, _args: Any, output: Any, layer: int = layer) -> None:
            kept[layer] = _stream(output).to(ids.device)

        handles.append(blocks(model)[layer].register_forward_hook(keep))
    try:
        kept[highest] = hidden(model, ids, mask, highest)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def logits(model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Next-token logits [B, L, V]."""
    return _run(model, ids, mask).logits.to(ids.device)  # type: ignore[no-any-return]


def last_logits(model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Next-token logits [B, V] after the last token of each document; others are computed where documents end."""
    ends, which = (mask.sum(dim=1) - 1).unique(return_inverse=True)
    found = _run(model, ids, mask, logits_to_keep=ends.to(model.device)).logits.to(ids.device)
    return found[torch.arange(len(ids)), which]  # type: ignore[no-any-return]


def logits_from(model: Model, ids: Tensor, mask: Tensor, layer: int, stream: Tensor) -> Tensor:
    """Logits [B, L, V] of ``model`` continued from ``stream`` [B, L, d] put in place of block ``layer``'s output.

    The model uses its own attention mask and positions; blocks up to ``layer`` are skipped.
    """
    with _continued(model, layer, stream):
        return logits(model, ids, mask)


def hidden_from(model: Model, ids: Tensor, mask: Tensor, layer: int, stream: Tensor) -> Tensor:
    """Residual stream [B, L, d] leaving the last block, of ``model`` continued from ``stream`` as in `logits_from`."""
    last = len(blocks(model)) - 1
    if layer == last:
        return stream
    with _continued(model, layer, stream):
        return hidden(model, ids, mask, last)


def unembed(model: Model, rows: Tensor) -> Tensor:
    """Logits [T, V] of rows [T, d] of the stream leaving the last block: what is above it sees each position alone.

    So the words of few positions can be computed, a few at a time, whatever the vocabulary.
    """
    ids = torch.zeros(len(rows), 1, dtype=torch.long, device=rows.device)
    with _continued(model, len(blocks(model)) - 1, rows[:, None]):
        return logits(model, ids, torch.ones_like(ids))[:, 0]


def _run(model: Model, ids: Tensor, mask: Tensor, **more: Any) -> Any:
    return model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False, **more)


@contextmanager
def _continued(model: Model, layer: int, stream: Tensor) -> Iterator[None]:
    """Blocks up to ``layer`` hand on what they get, and the last of them puts out ``stream``."""
    started = blocks(model)[: layer + 1]
    through = _identity_tuple if _return_tuples(model) else _identity

    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        there = stream.to(_stream(output).device)
        return (there, *output[1:]) if isinstance(output, tuple) else there

    handle = blocks(model)[layer].register_forward_hook(replace)
    try:
        for block in started:
            block.forward = through
        yield
    finally:
        handle.remove()
        for block in started:
            vars(block).pop("forward", None)  # the instance attribute; the class's own method shows again


_TUPLES: dict[type, bool] = {}
"""By class of block: whether it returns a tuple whose first entry is the stream. Annotations do not always say so."""


def _return_tuples(model: Model) -> bool:
    """Whether the model's blocks return tuples, as a forward pass of one token shows once."""
    first = blocks(model)[0]
    if type(first) not in _TUPLES:
        seen: list[bool] = []
        handle = first.register_forward_hook(lambda _module, _args, output: seen.append(isinstance(output, tuple)))
        try:
            _run(model, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long))
        finally:
            handle.remove()
        _TUPLES[type(first)] = seen[0]
    return _TUPLES[type(first)]


def _identity(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


def _identity_tuple(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor]:
    return (hidden_states,)


def _stream(output: Any) -> Tensor:
    stream = output[0] if isinstance(output, tuple) else output
    return stream  # type: ignore[no-any-return]
