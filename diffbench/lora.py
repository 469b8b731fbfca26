"""LoRA: a trainable adapter of low rank on a base model (Hu et al. 2021), through PEFT and kept in its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffbench.adapter import WEIGHTS
from diffbench.errors import RecipeError
from diffbench.line import one_line
from diffbench.residual import Model
from diffbench.tuning import LoraTuning


def with_adapter(model: Model, training: LoraTuning) -> Any:
    """The model with a fresh adapter, whose weights alone are trained; it computes as before until they are.

    Raises:
        RecipeError: if the base has no such modules.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = training.targets if isinstance(training.targets, str) else list(training.targets)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=training.rank,
        lora_alpha=2 * training.rank if training.alpha is None else training.alpha,  # type: ignore[arg-type]
        target_modules=targets,
        lora_dropout=training.dropout,
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(f"training.targets: {training.targets!r}: {one_line(error, 200)}") from None


class WithoutAdapter:
    """A model with an adapter, run as if it had none."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self._model.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass of the base, nothing of it dropped out."""
        learning = self._model.training
        self._model.eval()
        try:
            with self._model.disable_adapter():
                return self._model(*args, **kwargs)
        finally:
            self._model.train(learning)


def save_adapter(model: Any, base_name: str, folder: Path) -> None:
    """Write the adapter in PEFT's format; it names its base as ``base_name`` and no place on this machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def idle_modules(folder: Path) -> int:
    """How many modules an adapter adds nothing to, because one of the two factors of their update is all zeros."""
    from safetensors import safe_open

    idle = set()
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for name in file.keys():
            if ".lora_" in name and not bool(file.get_tensor(name).any()):
                idle.add(name.partition(".lora_")[0])
    return len(idle)
