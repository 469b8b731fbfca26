"""Worded dictionary: a fit's dictionary with the tokens that its latents promote, as the run folder has both.

Shapes: n latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffbench.diff import DictionaryDiff
from diffbench.diff_file import load_diff
from diffbench.errors import DiffError, RecordError
from diffbench.exchange import DIFF
from diffbench.latent_row import LATENTS

TOP = 3
"""Tokens of a latent that count as promoted (Aranguri 2025)."""

Side = Literal["base", "tuned"]


@dataclass(frozen=True, slots=True)
class Worded:
    """A dictionary of two decoders or one.

    Attributes:
        words: by side the promoted tokens of each latent, strongest first; empty where there is one decoder alone.
    """

    diff: DictionaryDiff
    words: dict[Side, list[list[str]]]

    @classmethod
    def load(cls, fit: Path) -> Worded:
        """Read a fit's folder.

        Raises:
            DiffError: if its Diff is no dictionary, or malformed.
            RecordError: if its table of latents does not fit the Diff.
        """
        from diffbench.latent_table import read_latents

        diff = load_diff(fit / DIFF)
        if not isinstance(diff, DictionaryDiff):
            raise DiffError(f"a {diff.kind} diff has no latents")
        if diff.input != "both":
            return cls(diff, {})
        table = read_latents(fit / LATENTS).sort_by("latent")
        if table.column("latent").to_pylist() != list(range(diff.n_components)):
            raise RecordError(f"{fit / LATENTS}: has other latents than the Diff beside it")
        sides: tuple[Side, ...] = ("base", "tuned")
        return cls(diff, {side: table.column(f"tokens_up_{side}").to_pylist() for side in sides})

    def column(self, name: str) -> Tensor:
        """[n] a column of the dictionary.

        Raises:
            DiffError: if it has none of that name.
        """
        if name not in self.diff.columns:
            raise DiffError(f"the dictionary has no column {name!r}")
        return self.diff.columns[name]

    @property
    def live(self) -> Tensor:
        """[n] bool: fires on held-out rows."""
        return self.column("frequency") > 0

    def promoting(self, side: Side, words: Iterable[str], *, every: bool = True) -> Tensor:
        """[n] bool: all (or any) of ``words`` are among the first three tokens that the decoder of a side promotes.

        Raises:
            DiffError: if the dictionary has no such decoder of its own.
        """
        wanted = set(words)
        if side not in self.words:
            raise DiffError(f"a dictionary of {self.diff.input!r} has no decoder of the {side} model by itself")
        tops = [wanted & set(found[:TOP]) for found in self.words[side]]
        return torch.tensor([found == wanted if every else bool(found) for found in tops], dtype=torch.bool)
