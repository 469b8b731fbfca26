"""Tokenizers of local folders, of models and of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffbench.adapter import base_folder, is_adapter
from diffbench.errors import CheckpointError
from diffbench.line import one_line

CONFIG = "tokenizer_config.json"
FILES = (CONFIG, "tokenizer.json", "tokenizer.model")


def load_tokenizer(folder: Path, *, base: Path | None = None) -> Any:
    """Load a tokenizer from a local folder, no code from the folder; an adapter without one takes its base's.

    Raises:
        CheckpointError: if the folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    if is_adapter(folder) and not (folder / CONFIG).is_file():
        folder = base_folder(folder, base)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: no tokenizer: {one_line(error, 300)}") from None


def find_tokenizer(folder: Path, *, base: Path | None = None) -> Any | None:
    """The tokenizer of a model's folder, or of an adapter's base; None where there is none."""
    if is_adapter(folder) and not (folder / CONFIG).is_file():
        folder = base_folder(folder, base)
    there = any((folder / name).is_file() for name in FILES)
    return load_tokenizer(folder, base=base) if there else None
