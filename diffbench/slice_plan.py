"""Slice plan: the part of all cells that a published leaderboard holds, written down before any of them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from diffbench.campaign import RunConfig
from diffbench.errors import OptionError
from diffbench.line import one_line
from diffbench.plain_yaml import PlainLoader
from diffbench.recipe import first_problem
from diffbench.truth import Schema

SLICE_BYTES = 1 << 20


class SlicePart(Schema):
    """One run of a slice."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="of the run folder, behind the slice's own")
    why: str = Field(max_length=1000, description="what it is there for")
    run: RunConfig


class Slice(Schema):
    """What ``slice.yaml`` holds."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    about: str = Field(max_length=4000)
    parts: tuple[SlicePart, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError("two parts have the same name")
        return self

    def run_name(self, part: SlicePart) -> str:
        """The name of a part's run folder, and of the folder of its records."""
        return f"{self.name}-{part.name}"

    def chosen(self, names: tuple[str, ...]) -> tuple[SlicePart, ...]:
        """The parts of some names in the slice's order; all if none is named.

        Raises:
            OptionError: for a part that there is not.
        """
        known = {part.name for part in self.parts}
        for name in names:
            if name not in known:
                raise OptionError(f"--part {name}: no part of slice {self.name}; there are {', '.join(sorted(known))}")
        return tuple(part for part in self.parts if not names or part.name in names)


def read_slice(path: Path) -> Slice:
    """Read a ``slice.yaml``.

    Raises:
        OptionError: naming file and key when it is missing, too large or malformed.
    """
    try:
        if path.stat().st_size > SLICE_BYTES:
            raise OptionError(f"{path}: larger than {SLICE_BYTES} bytes")
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=PlainLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OptionError(f"{path}: no readable YAML ({one_line(error, 200)})") from None
    try:
        return Slice.model_validate(document)
    except ValidationError as error:
        raise OptionError(f"{path}: {first_problem(error)}") from None
