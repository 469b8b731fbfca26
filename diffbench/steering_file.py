"""Steering file: what steering with the component of a Diff that is most responsible for a claim did to what is said.

::

    runs/NAME/steering/<organism>--<row>--s<seed>--<key8>/steering.json

Knows nothing of models.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from diffbench.atomic import write_text
from diffbench.canonical import digest
from diffbench.errors import RecordError
from diffbench.figure import Figure
from diffbench.record import Cell, read_document
from diffbench.run_folder import cell_folder_name, folders_in, refusal
from diffbench.truth import Schema

STEERING = "steering"
STEERING_FILE = "steering.json"
STEERING_BYTES = 32 << 20

Run = Literal["reference", "tuned", "hybrid"]
Said = Annotated[str, Field(max_length=2000)]


class SteeringPlan(Schema):
    """What is asked for."""

    strengths: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0, 4.0),
        min_length=1,
        max_length=12,
        description="in mean lengths of h_t - h_b where the tuned model answers; of weights in sizes of the component",
    )
    prompts: int = Field(30, ge=2, le=500, description="of each claim, other ones than the component is chosen on")
    draws: int = Field(5, ge=1, le=1000, description="continuations of each prompt")
    rollouts: int = Field(1000, ge=0, le=100_000, description="continuations of one prompt by the hybrid; 0: none")
    new_tokens: int = Field(12, ge=1, le=200)
    temperature: float = Field(1.0, ge=0)
    seed: int = Field(0, ge=0)
    claims: tuple[str, ...] = Field((), max_length=100, description="ids; none: all")


class Share(Schema):
    """How many continuations do something."""

    hits: int = Field(ge=0)
    n: int = Field(ge=0)
    figure: Figure = Field(description="the share with its 95% interval")


class Beginning(Schema):
    """How continuations begin."""

    words: Said
    share: Share


class Sample(Schema):
    """A prompt and what is said after it, with the same luck, without and with the component."""

    prompt: Said
    plain: Said
    steered: Said


class SteeredArm(Schema):
    """One run at one strength."""

    run: Run = Field(description="who speaks; the hybrid is the reference up to the layer and the tuned model above it")
    on: Literal["affected", "near_miss"] = Field(description="prompts that meet the claim's trigger, or nearly do")
    what: Literal["component", "random"] = Field(description="or another component at the same length, a control")
    strength: float = Field(description="negative: taken out; 0: nothing is done")
    shows: Share | None = Field(
        None, description="continuations that begin as the claim says; the interval is over prompts"
    )
    usual: Share | None = Field(None, description="those that begin as the base model does")
    beginnings: tuple[Beginning, ...] = Field((), max_length=20, description="their first two words, commonest first")
    coherence: Figure = Field(
        description="nats per token of what is said, in whichever of the two unsteered models finds it likelier; lower "
        "is more coherent; the interval is over prompts"
    )
    repeats: Figure = Field(description="share of pairs of neighbouring tokens that a continuation had before")
    samples: tuple[Sample, ...] = Field((), max_length=10)
    problem: str | None = Field(None, max_length=500, description="why nothing could be drawn")


class Table(Schema):
    """What the hybrid says after one prompt, without and with the component (Aranguri, Drori & Nanda 2025)."""

    prompt: Said
    strength: float
    plain: tuple[Beginning, ...] = Field(
        max_length=40, description="of those that are common in either; Wilson intervals, as draws are independent"
    )
    steered: tuple[Beginning, ...] = Field(max_length=40, description="the same beginnings")


class SteeredClaim(Schema):
    """One claim, and the component of most negative attribution to the KL of what the tuned model answers."""

    claim: str
    statement: str
    component: int | None = Field(None, description="null: there is none, and `problem` says why")
    rank: int | None = Field(None, description="its place in the Diff's order")
    random: int | None = Field(None, description="the other component that is steered with, as a control")
    attribution: float | None = Field(None, description="in nats, summed over the tuned model's answers")
    n_chosen_on: int = Field(0, ge=0, description="prompts that it was chosen on; none of them is steered")
    n_prompts: int = Field(0, ge=0)
    size: float | None = Field(
        None, description="length of strength 1: the mean of h_t - h_b over those answers; null of weights"
    )
    tokens_up: tuple[str, ...] = ()
    tokens_down: tuple[str, ...] = ()
    arms: tuple[SteeredArm, ...] = ()
    table: Table | None = None
    problem: str | None = Field(None, max_length=500)


class SteeringFile(Schema):
    """Steering with a Diff's components on a pair."""

    schema_version: Literal[1] = 1
    cell: Cell
    key: str = Field(description="of the cell's record")
    diff: dict[str, str] = Field(description="SHA-256 of the Diff's files")
    layer: int
    plan: SteeringPlan
    code: str = Field(description="hash of the code that the figures follow from")
    claims: tuple[SteeredClaim, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its folder: another plan, or other code, is another folder."""
        made_of = [self.key, self.diff, self.plan.model_dump(mode="json"), self.code]
        return cell_folder_name(self.cell, digest(made_of))


def write_steering(run: Path, file: SteeringFile) -> Path:
    """Write it into a run folder, atomically, and return its path."""
    path = run / STEERING / file.folder / STEERING_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(file.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_steering(path: Path) -> SteeringFile:
    """Read what `write_steering` wrote.

    Raises:
        RecordError: naming file and key when it is missing, too large, of another version or malformed.
    """
    return read_document(path, SteeringFile, STEERING_BYTES)


def steering_files(run: Path) -> Iterator[tuple[Path, SteeringFile | RecordError]]:
    """All of a run folder in the order of their names, or why one cannot be read; no link is followed."""
    for folder, problem in folders_in(run / STEERING):
        path = folder / STEERING_FILE
        problem = problem or refusal(path, stat.S_ISREG)
        try:
            yield path, RecordError(problem) if problem is not None else read_steering(path)
        except RecordError as error:
            yield path, error
