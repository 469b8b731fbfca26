"""Adapter: a LoRA adapter in PEFT's own format on a base model, merged into it or switched on and off.

Weight-decomposed and rank-stabilised updates, patterns of ranks, modules that are stored whole, trained rows of an
embedding and a vocabulary of another size are all read; what is not read is refused by its setting's name.

A folder with ``adapter_config.json`` and ``adapter_model.safetensors`` stands for the model that its base becomes.
The base is a local folder: the caller's, else the one that the configuration names, else ``base/`` in that folder.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffbench.errors import CheckpointError
from diffbench.line import one_line

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
NAMED_BASE = "base_model_name_or_path"
READ: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none", "all", "lora_only"),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "lora_bias": (False,),
    "target_parameters": (None, []),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
}
"""What settings may be; the first value is the default. Other initialisations change the base before it is trained."""
WORDS = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|lm_head|embed_out)(\.base_layer|\.original_module|\.modules_to_save)?\.weight$"
)
"""Names of embeddings that an adapter's file holds whole."""
FACTOR = re.compile(r"\.lora_[AB]\.weight$")
"""Names of the matrices that a plain LoRA adapter consists of."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What a plain LoRA adapter adds to the matrix of one module: scale * b @ a.

    Attributes:
        module: its name in the base model.
        a: [r, d_in].
        b: [d_out, r].
        scale: alpha / r, or alpha / sqrt(r) where it is stabilised; negative where it is taken away.
    """

    module: str
    a: Tensor
    b: Tensor
    scale: float


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
    for name, allowed in READ.items():
        if config.get(name, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{folder / CONFIG}: {name} {config[name]!r}: adapters of this kind are not read; merge it into its "
                "base and save the whole model"
            )
    return config


def adapted_rows(folder: Path) -> int | None:
    """Rows of the embeddings that an adapter brings along; None: its base's, as they are.

    Raises:
        CheckpointError: if its file cannot be read, or holds embeddings of several sizes.
    """
    read_config(folder)
    found = {name: shape[0] for name, shape in _shapes(folder).items() if WORDS.search(name)}
    if len(set(found.values())) > 1:
        sizes = ", ".join(f"{one_line(name, 100)} {rows}" for name, rows in sorted(found.items()))
        raise CheckpointError(f"{folder}: the embeddings of the adapter have unequal numbers of rows: {sizes}")
    return next(iter(found.values()), None)


def switchable(folder: Path) -> bool:
    """Whether the base is the base again, bit for bit, when the adapter on it is switched off.

    It is not where the adapter writes into the base itself: trained biases, embeddings that it carries along.
    """
    config = read_config(folder)
    aside = tuple(config.get("modules_to_save") or ())
    carried = [(name, found) for name in _shapes(folder) if (found := WORDS.search(name))]
    apart = (found[1] is None and name.removesuffix(".weight").endswith(aside) for name, found in carried)
    return config.get("bias", "none") == "none" and (not carried or (bool(aside) and all(apart)))


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except Exception as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read ({one_line(error, 200)})") from None


def merged(model: Any, folder: Path) -> Any:
    """``model`` with the adapter's weights added to its own; it is changed in place.

    Raises:
        CheckpointError: if the adapter does not fit.
    """
    attached = _attach(model, folder)
    _untie(attached)
    try:
        return attached.merge_and_unload().eval().requires_grad_(False)
    except Exception as error:
        raise CheckpointError(f"{folder}: the adapter cannot be merged: {one_line(error, 300)}") from None


def low_rank(model: Any, folder: Path) -> tuple[LowRank, ...]:
    """What an adapter adds to each module of ``model``, which cannot be used afterwards, in the model's order.

    Raises:
        CheckpointError: if the adapter does not fit, or is more than pairs of factors.
    """
    read_config(folder)
    other = next((name for name in sorted(_shapes(folder)) if not FACTOR.search(name)), None)
    if other is not None:
        raise CheckpointError(f"the adapter is no plain LoRA: it holds {one_line(other, 200)}")
    found = []
    for name, module in _attach(model, folder).get_base_model().named_modules():
        for adapter in getattr(module, "lora_A", ()):
            a, b = (matrix[adapter].weight.detach().cpu() for matrix in (module.lora_A, module.lora_B))
            found.append(LowRank(name, a, b, float(module.scaling[adapter])))
    return tuple(found)


def _untie(attached: Any) -> None:
    """Give adapted layers weights of their own: what is added to one must not appear where it shares them."""
    import torch

    owners: dict[int, int] = {}
    for module in attached.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for module in attached.modules():
        weight = getattr(getattr(module, "base_layer", None), "weight", None)
        if hasattr(module, "lora_A") and weight is not None and owners.get(id(weight), 0) > 1:
            module.base_layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


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
        return self._on and any(_acts(module) for block in blocks for module in block.modules())


def _acts(module: Any) -> bool:
    whole = getattr(module, "modules_to_save", None)
    if whole is not None and hasattr(module, "original_module"):
        before = module.original_module.state_dict()
        return any(
            not tensor.equal(before[name]) for one in whole.values() for name, tensor in one.state_dict().items()
        )
    if len(getattr(module, "lora_magnitude_vector", None) or ()):
        return True  # trained lengths of columns, which next to never stay what they were
    return any(bool(module.get_delta_weight(name).any()) for name in getattr(module, "lora_B", ()))


def _attach(model: Any, folder: Path) -> Any:
    """The model as a PEFT model, every tensor of the file in its place."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    rows = adapted_rows(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of is checked below
            if rows is not None:
                _resize(model, rows, folder)
            attached = PeftModel.from_pretrained(model, str(folder), is_trainable=False, torch_device="cpu")
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except CheckpointError:
        raise
    except Exception as error:  # as many ways to be wrong as a model folder has
        raise CheckpointError(f"{folder}: the adapter does not fit its base: {one_line(error, 300)}") from None
    found = get_peft_model_state_dict(attached, save_embedding_layers=False)
    whole = attached.state_dict()
    for name in filter(WORDS.search, stored.keys() - found.keys()):
        place = name.replace(".modules_to_save.", ".modules_to_save.default.")
        found |= {name: whole[place]} if place in whole else {}
    astray = sorted(stored.keys() ^ found.keys()) or [
        name for name, tensor in stored.items() if not found[name].cpu().float().allclose(tensor.float(), rtol=1e-2)
    ]
    if astray or not stored:
        where = f"{one_line(astray[0], 100)} finds no place" if astray else f"{WEIGHTS} is empty"
        raise CheckpointError(f"{folder}: the adapter does not fit its base: {where}")
    return attached.eval().requires_grad_(False)


def _resize(model: Any, rows: int, folder: Path) -> None:
    """Give the base as many words as the adapter's embeddings have; the adapter must bring all that are new."""
    before = int(model.get_input_embeddings().weight.shape[0])
    if rows == before:
        return
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {name for name, module in model.named_modules() if any(module is one for one in both)}
    brought = {name for name in names if any(f".{name}." in f".{stored}" for stored in _shapes(folder))}
    if rows > before and brought != names and both[0].weight is not both[1].weight:
        lacking = ", ".join(sorted(names - brought))
        raise CheckpointError(
            f"{folder}: the adapter's vocabulary has {rows} rows and its base's {before}, but it brings none for "
            f"{lacking}; merge it into its base and save the whole model"
        )
    model.resize_token_embeddings(rows, mean_resizing=False)
