"""Source: a weight file and its configuration, opened without trusting them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from diffbench.errors import CheckpointError
from diffbench.exchange import TENSOR_BYTES
from diffbench.formats.settings import Settings, load_settings, plain_file
from diffbench.formats.weights import SUFFIXES, load_weights
from diffbench.line import one_line

CARRIED = "diffbench.safetensors"
WEIGHTS = (
    "sae_weights.safetensors",
    "params.npz",
    "params.safetensors",
    "model.safetensors",
    "ae.pt",
    "model_final.pt",
    "ae_final.pt",
    "cc_weights.pt",
)
"""Names that weight files have in folders where other files of their kind may stand."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Source:
    """Tensors of one weight file, as stored, and the configuration beside it."""

    def __init__(self, weights: Path, tensors: dict[str, Tensor], settings: Settings | None) -> None:
        self.weights = weights
        self._tensors = tensors
        self._settings = settings

    def __str__(self) -> str:
        shown = [f"{one_line(name, 40)} {list(tensor.shape)}" for name, tensor in list(self._tensors.items())[:6]]
        more = len(self._tensors) - len(shown)
        return (", ".join(shown) or "no tensors") + (f" and {more} more" if more else "")

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight file and the configuration, where there is one."""
        return (self.weights,) if self._settings is None else (self.weights, self._settings.where)

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._tensors)

    @property
    def has_settings(self) -> bool:
        """Whether a configuration stands beside the weights."""
        return self._settings is not None

    @property
    def settings(self) -> Settings:
        """The configuration; refused where there is none."""
        if self._settings is None:
            raise CheckpointError(
                f"{self.weights.parent}: the configuration is missing ({' or '.join(_settings_names(self.weights))}), "
                f"and {self.weights.name} alone does not say how it is used"
            )
        return self._settings

    def dimensions(self, name: str) -> int:
        """Number of axes of a tensor, -1 where there is none of this name."""
        return self._tensors[name].dim() if name in self._tensors else -1

    def refuse(self, key: str, reason: str) -> CheckpointError:
        """An error to raise about a tensor."""
        return CheckpointError(f"{self.weights}: {one_line(key, 80)}: {reason}")

    def renamed(self, names: dict[str, str]) -> Source:
        """The same source with other names for some tensors."""
        doubled = sorted(
            name for old, name in names.items() if old in self.names and name != old and name in self.names
        )
        if doubled:
            raise self.refuse(doubled[0], "stands twice, under two spellings")
        return Source(
            self.weights, {names.get(key, key): value for key, value in self._tensors.items()}, self._settings
        )

    def only(self, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
        """Refuse a missing tensor, and one whose part in the computation is unknown."""
        needed = set(needed)
        for name in sorted(needed - self.names):
            raise self.refuse(name, f"missing; the file holds {self}")
        for name in sorted(self.names - needed - set(optional)):
            raise self.refuse(name, "unknown tensor, so what it would do to the numbers is not known")

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must have this many axes, none of them empty."""
        if name not in self._tensors:
            raise self.refuse(name, f"missing; the file holds {self}")
        shape = tuple(self._tensors[name].shape)
        if len(shape) != axes or 0 in shape:
            raise self.refuse(name, f"has shape {list(shape)}, needs {axes} axes that are not empty")
        return shape

    def tensor(self, name: str, *shape: int, finite: bool = True) -> Tensor:
        """A tensor of exactly this shape in float32; half and double precision are converted."""
        if name not in self._tensors:
            raise self.refuse(name, f"missing; the file holds {self}")
        stored = self._tensors[name]
        if tuple(stored.shape) != shape:
            raise self.refuse(name, f"has shape {list(stored.shape)}, needs {list(shape)}")
        if stored.dtype not in FLOATS:
            raise self.refuse(name, f"is {stored.dtype}, needs float32, float16, bfloat16 or float64")
        tensor = stored.to(torch.float32).contiguous()
        if finite and not bool(torch.isfinite(tensor).all()):
            raise self.refuse(name, "holds NaN or infinite values")
        return tensor

    def whole(self, name: str) -> int:
        """A single integer."""
        if name not in self._tensors:
            raise self.refuse(name, f"missing; the file holds {self}")
        stored = self._tensors[name]
        if stored.numel() != 1 or stored.dtype.is_floating_point or stored.dtype == torch.bool:
            raise self.refuse(name, f"needs one whole number, has {stored.dtype} of shape {list(stored.shape)}")
        return int(stored.item())

    def integers(self, name: str) -> list[int]:
        """A row of integers."""
        self.shape(name, 1)
        stored = self._tensors[name]
        if stored.dtype.is_floating_point or stored.dtype == torch.bool:
            raise self.refuse(name, f"needs whole numbers, is {stored.dtype}")
        return [int(value) for value in stored.tolist()]


def open_source(path: Path) -> Source:
    """Open a folder, or a weight file with its configuration beside it.

    Raises:
        CheckpointError: if nothing is there, what is there is ambiguous, too large, a link out of its folder, damaged,
            or anything but tensors.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    weights = _find_weights(folder) if path.is_dir() else path
    # A file that is named by the caller may be a link: they said what to open.
    tensors = load_weights(weights, plain_file(folder if path.is_dir() else None, weights, TENSOR_BYTES))
    beside = [folder / name for name in _settings_names(weights) if os.path.lexists(folder / name)]
    if len(beside) > 1:
        raise CheckpointError(f"{folder}: {' and '.join(file.name for file in beside)}: only one of them can be meant")
    return Source(weights, tensors, load_settings(folder, beside[0]) if beside else None)


def _find_weights(folder: Path) -> Path:
    found = sorted(
        file.name for file in folder.iterdir() if file.suffix in SUFFIXES and file.name != CARRIED and not file.is_dir()
    )
    known = [name for name in found if name in WEIGHTS]
    chosen = known or found
    if not chosen:
        raise CheckpointError(f"{folder}: holds no weight file ({', '.join('*' + suffix for suffix in SUFFIXES)})")
    if len(chosen) > 1:
        raise CheckpointError(f"{folder}: holds {', '.join(chosen[:6])}; name the file that is meant")
    return folder / chosen[0]


def _settings_names(weights: Path) -> tuple[str, ...]:
    return (f"{weights.stem}_cfg.json", "cfg.json", "config.json")
