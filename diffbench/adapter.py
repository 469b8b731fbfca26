"""Adapter: a LoRA adapter in PEFT's own format on a base model, merged into it or switched on and off.

A folder with ``adapter_config.json`` and ``adapter_model.safetensors`` stands for the model that its base becomes.
The base is a local folder: the caller's, else the one that the configuration names, else ``base/`` in that folder.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from diffbench.errors import CheckpointError
from diffbench.line import one_line

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
NAMED_BASE = "base_model_name_or_path"
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian"),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
}
"""Settings with which the base without the adapter is the base as it was; the first value is the default."""


def is_adapter(folder: Path) -> bool:
    """Whether a model folder holds an adapter and not a whole model."""
    return (folder / CONFIG).is_file()


def base_folder(folder: Path, given: Path | None = None) -> Path:
    """The folder of the base model that an adapter belongs on.

    Args:
        folder: of the adapter.
        given: the caller's own; else it is looked for.

    Raises:
        CheckpointError: if the base is no local folder; no hub is ever asked.
    """
    if given is not None:
        return given
    named = read_config(folder).get(NAMED_BASE)
    places = [folder / str(named)] if named else []
    for place in (*places, folder / "base"):
        if place.is_dir():
            return place
    raise CheckpointError(
        f"{folder}: the adapter's base {named!r} is no local folder; put the base model into {folder / 'base'} or name "
        f"its folder as {NAMED_BASE} in {CONFIG}"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's configuration, checked.

    Raises:
        CheckpointError: if it is unreadable, its weights are a pickle or missing, or it is no plain LoRA adapter.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read ({one_line(error, 200)})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG}: is no JSON object")
    if not (folder / WEIGHTS).is_file():
        why = f"{PICKLE} is a pickle and is never loaded; save it as" if (folder / PICKLE).exists() else "is missing:"
        raise CheckpointError(f"{folder}: {why} {WEIGHTS}")
    for name, allowed in PLAIN.items():
        if config.get(name, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{folder / CONFIG}: {name} {config[name]!r}: only plain LoRA adapters are read; merge it into its "
                "base and save the whole model"
            )
    return config


def merged(model: Any, folder: Path) -> Any:
    """``model`` with the adapter's weights added to its own; it is changed in place.

    Raises:
        CheckpointError: if the adapter does not fit.
    """
    return _attach(model, folder).merge_and_unload().eval().requires_grad_(False)


def toggled(model: Any, folder: Path) -> tuple[Toggled, Toggled]:
    """Two models that share the weights of one: ``model`` as it was, and with the adapter.

    Raises:
        CheckpointError: if the adapter does not fit.
    """
    attached = _attach(model, folder)
    return Toggled(attached, on=False), Toggled(attached, on=True)


class Toggled:
    """A causal LM that switches an adapter on or off for each of its forward passes; all else is the model's own."""

    def __init__(self, attached: Any, *, on: bool) -> None:
        self._attached, self._on = attached, on

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass, with the arguments and the answer of the model itself."""
        if self._on:
            return self._attached.get_base_model()(*args, **kwargs)
        self._attached.base_model.disable_adapter_layers()
        try:
            return self._attached.get_base_model()(*args, **kwargs)
        finally:
            self._attached.base_model.enable_adapter_layers()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attached.get_base_model(), name)

    def acts_in(self, blocks: Any) -> bool:
        """Whether any of some transformer blocks computes with other weights than the base's."""
        return self._on and any(
            bool(module.get_delta_weight(name).any())
            for block in blocks
            for module in block.modules()
            for name in getattr(module, "lora_B", ())
        )


def _attach(model: Any, folder: Path) -> Any:
    """The model as a PEFT model, every tensor of the file in its place."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    read_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is checked below
            attached = PeftModel.from_pretrained(model, str(folder), is_trainable=False, torch_device="cpu")
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # as many ways to be wrong as a model folder has
        raise CheckpointError(f"{folder}: the adapter does not fit its base: {one_line(error, 300)}") from None
    found = get_peft_model_state_dict(attached, save_embedding_layers=False)
    astray = sorted(stored.keys() ^ found.keys()) or [
        name for name, tensor in stored.items() if not found[name].float().allclose(tensor.float(), rtol=1e-2)
    ]
    if astray or not stored:
        where = f"{one_line(astray[0], 100)} finds no place" if astray else f"{WEIGHTS} is empty"
        raise CheckpointError(f"{folder}: the adapter does not fit its base: {where}")
    return attached.eval().requires_grad_(False)
