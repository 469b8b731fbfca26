"""Settings: what a configuration file and the caller say of a dictionary, one question at a time."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffbench.diff import Input
from diffbench.errors import CheckpointError, OptionError
from diffbench.exchange import HEADER_BYTES
from diffbench.line import one_line


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller says of a dictionary because its file may not."""

    input: Input | None
    layer: int | None
    scales: tuple[float, float] | None

    def __post_init__(self) -> None:
        if self.layer is not None and self.layer < 0:
            raise OptionError(f"layer: {self.layer} does not exist, the first block is 0")
        if self.scales is not None and not (
            len(self.scales) == 2 and all(math.isfinite(scale) and scale > 0 for scale in self.scales)
        ):
            raise OptionError(f"scales: needs two positive numbers, reference and tuned, got {self.scales}")

    def one_input(self, where: Path) -> Input:
        """What an SAE reads."""
        if self.input is None:
            raise OptionError(
                f"{where}: the file does not say what it was trained on; give input: delta, tuned or base"
            )
        if self.input == "both":
            raise OptionError(f"{where}: input 'both' is for crosscoders, and this is an SAE of one stream")
        return self.input

    def both(self, where: Path) -> None:
        """Refuse an input that a crosscoder does not have."""
        if self.input not in (None, "both"):
            raise OptionError(f"{where}: a crosscoder reads both models, not {self.input!r}; leave input out")

    def block(self, where: Path, known: int | None) -> int:
        """The layer: what the file says, what the caller says, and never two answers."""
        if known is not None and self.layer is not None and known != self.layer:
            raise OptionError(f"{where}: layer: {self.layer} was given, but the file says {known}")
        layer = self.layer if known is None else known
        if layer is None:
            raise OptionError(f"{where}: the file does not say which block's output it reads; give the layer, 0-based")
        return layer

    def no_scales(self, where: Path) -> None:
        """Refuse scales where the file settles them."""
        if self.scales is not None:
            raise OptionError(f"{where}: scales: this file leaves none open; leave them out")


class Settings:
    """A JSON object of a configuration; every question names its key when it is refused."""

    def __init__(self, where: Path, values: dict[str, Any], prefix: str = "") -> None:
        self.where = where
        self._values = values
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(key) is not None

    def refuse(self, key: str, reason: str) -> CheckpointError:
        """An error to raise."""
        return CheckpointError(f"{self.where}: {self._prefix}{key}: {reason}")

    def text(self, key: str) -> str:
        """A string."""
        value = self._need(key)
        if not isinstance(value, str):
            raise self.refuse(key, f"needs a text, got {shown(value)}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._need(key)
        if not isinstance(value, bool):
            raise self.refuse(key, f"needs true or false, got {shown(value)}")
        return value

    def whole(self, key: str) -> int:
        """An integer."""
        value = self._need(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(key, f"needs a whole number, got {shown(value)}")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._need(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(key, f"needs a number, got {shown(value)}")
        return float(value)

    def section(self, key: str) -> Settings:
        """An object inside this one."""
        value = self._need(key)
        if not isinstance(value, dict):
            raise self.refuse(key, f"needs an object, got {shown(value)}")
        return Settings(self.where, value, f"{self._prefix}{key}.")

    def one_of(self, key: str, known: Iterable[str]) -> str:
        """One of some texts."""
        value, known = self.text(key), tuple(known)
        if value not in known:
            raise self.refuse(key, f"{shown(value)} is not read; read are {', '.join(known)}")
        return value

    def expect(self, key: str, value: object, meaning: str) -> None:
        """Refuse any other value; ``meaning`` says what it would do to the numbers."""
        got = self._need(key)
        if type(got) is not type(value) or got != value:
            raise self.refuse(key, f"is {shown(got)}, which {meaning}; only {shown(value)} can be read")

    def _need(self, key: str) -> Any:
        if key not in self._values:
            raise self.refuse(key, "missing")
        return self._values[key]


def load_settings(folder: Path, file: Path) -> Settings:
    """Read a JSON object, or raise `CheckpointError`."""
    real = plain_file(folder, file, HEADER_BYTES)
    try:
        values = json.loads(real.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: no readable JSON ({one_line(error, 200)})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: needs a JSON object, got {shown(values)}")
    return Settings(file, values)


def plain_file(folder: Path | None, file: Path, limit: int) -> Path:
    """Where a file of a folder really is; refuses links that lead out of the folder, pipes and files above a size.

    Args:
        folder: what the file must not leave; None where the caller named the file.
        file: the file.
        limit: bytes.
    """
    try:
        real = file.resolve(strict=True)
        facts = os.stat(real)
    except (OSError, RuntimeError):
        raise CheckpointError(f"{file}: missing, or a link to nothing") from None
    if folder is not None and not real.is_relative_to(folder.resolve()):
        raise CheckpointError(f"{file}: is a link out of its folder; copy the folder with its links resolved")
    if not stat.S_ISREG(facts.st_mode):
        raise CheckpointError(f"{file}: not a plain file")
    if facts.st_size > limit:
        raise CheckpointError(f"{file}: {facts.st_size} bytes, more than {limit}")
    return real


def shown(value: object) -> str:
    """A value as it is quoted in messages."""
    return one_line(repr(value), 60)
