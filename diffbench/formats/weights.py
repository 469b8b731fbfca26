"""Weight files as named tensors, whatever a stranger put there: no code is run and nothing unfolds beyond a size."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from diffbench.errors import CheckpointError
from diffbench.exchange import TENSOR_BYTES
from diffbench.formats.settings import shown
from diffbench.line import one_line

SUFFIXES = (".safetensors", ".npz", ".pt")
SAFE_TORCH = (2, 6)
"""torch.load could be made to run code below this version even with ``weights_only`` (CVE-2025-32434)."""


def load_weights(file: Path, real: Path) -> dict[str, Tensor]:
    """Every tensor as stored.

    Args:
        file: what messages call it; its ending says how it is read.
        real: the plain file.

    Raises:
        CheckpointError: if it is damaged, holds anything but tensors, or unfolds to too much.
    """
    load = {".safetensors": _load_safetensors, ".npz": _load_npz, ".pt": _load_pt}.get(file.suffix)
    if load is None:
        raise CheckpointError(f"{file}: weight files end in {', '.join(SUFFIXES)}")
    try:
        return load(file, real)
    except (CheckpointError, KeyboardInterrupt):
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(f"{file}: damaged, or holds objects besides tensors, which may run code") from None
    except Exception as error:  # each library raises types of its own for damaged files
        raise CheckpointError(f"{file}: not readable ({one_line(error, 200)})") from None


def _load_safetensors(file: Path, real: Path) -> dict[str, Tensor]:
    with safe_open(real, framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}


def _load_npz(file: Path, real: Path) -> dict[str, Tensor]:
    _check_archive(file, real)
    tensors = {}
    with np.load(real, allow_pickle=False) as stored:
        for name in stored.files:
            values = stored[name]
            if values.dtype.kind not in "fiu":
                raise CheckpointError(f"{file}: {one_line(name, 80)}: is {values.dtype}, needs numbers")
            tensors[name] = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), order="C"))
    return tensors


def _load_pt(file: Path, real: Path) -> dict[str, Tensor]:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < SAFE_TORCH:
        raise CheckpointError(f"{file}: torch {torch.__version__} may run code of such a file; install 2.6 or newer")
    if zipfile.is_zipfile(real):
        _check_archive(file, real)
    with warnings.catch_warnings():  # of torch about a pickle that it may refuse next
        warnings.simplefilter("ignore")
        stored = torch.load(real, map_location="cpu", weights_only=True)
    if not isinstance(stored, dict):
        raise CheckpointError(f"{file}: holds no named tensors, but {shown(stored)}")
    size = 0
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file}: {one_line(name, 80)}: is {one_line(type(value).__name__, 80)}, needs a tensor; "
                "a backup of an unfinished training cannot be read"
            )
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(f"{file}: {one_line(name, 80)}: is no plain tensor")
        size += value.numel() * value.element_size()  # a few bytes can stand for any size, stretched by strides
    if size > TENSOR_BYTES:
        raise CheckpointError(f"{file}: unfolds to {size} bytes, more than {TENSOR_BYTES}")
    return {name: value.detach() for name, value in stored.items()}


def _check_archive(file: Path, real: Path) -> None:
    with zipfile.ZipFile(real) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > TENSOR_BYTES:
        raise CheckpointError(f"{file}: unfolds to {size} bytes, more than {TENSOR_BYTES}")
