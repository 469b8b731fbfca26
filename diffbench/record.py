"""Record: what happened in one cell (organism x pair x method x seed). Knows nothing of models or torch.

Its scores are `diffbench.scores.Scores`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from diffbench.atomic import write_text
from diffbench.errors import RecordError
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.recipe import Difficulty, Null, first_problem
from diffbench.scores import Scores
from diffbench.truth import Schema
from diffbench.vocabulary import Vocabulary

RECORD_BYTES = 8 << 20
COLUMN_NAME = r"[a-z0-9_]{1,64}"
"""Names of columns by which latents can be ranked."""
Status = Literal["ok", "error", "not_applicable"]
Versioned = TypeVar("Versioned", bound=Schema)


class LayerFacts(Schema):
    """What a layer's residual stream can carry, printed beside every row."""

    layer: int
    coverage: Figure = Field(description="KL(tuned || hybrid none) / KL(tuned || reference); may exceed 1")
    ceiling: Figure = Field(description="R_model of the layer's true delta")
    ceiling_affected: Figure = Field(description="the same at affected positions")
    necessity: Figure = Field(description="N of the layer's true delta, the ceiling of every necessity")
    necessity_affected: Figure = Field(description="the same at affected positions")


class Invariants(Schema):
    """Causal scores whose value is known, measured on a sample of the evaluation text."""

    nothing: Figure = Field(description="R_model of the edit that adds nothing: 0 within 1e-3")
    true_delta: Figure = Field(description="R_hybrid of the true difference: 1 within 1e-3")
    weight_delta: Figure = Field(description="R_model of the full difference of all weights: 1 within 1e-3")


class PairFacts(Schema):
    """What holds for the pair whatever the method."""

    layer: int = Field(description="the layer that was scored")
    layer_rule: str
    kl: Figure = Field(description="mean KL(tuned || reference) in nats, evaluation split, unmasked positions")
    kl_noise: float = Field(description="mean KL of the tuned model to itself through the patching path, nats")
    kl_affected: Figure
    kl_affected_share: Figure = Field(description="share of the KL mass at affected positions")
    trigger_rate: float = Field(description="share of unmasked positions that are affected")
    outlier_share: float = Field(description="share of positions masked for their norm")
    outlier_norms: tuple[float, float] = Field(description="norms of h_b and h_t above which they are")
    harvest_dtype: Literal["float32", "bfloat16"] = Field("float32", description="what the models computed the rows in")
    harvest_ratio: Figure = Field(
        Figure(state="n/a", reason="the models ran in float32; no other precision was asked for"),
        description="root mean square of delta over that of its rounding error in bfloat16, on a sample",
    )
    streamed: bool = Field(False, description="methods train on rows made on the fly; a sample of them is stored")
    vocabulary: Vocabulary | None = Field(None, description="rows of the embeddings that both models were cut to")
    n_positions: int
    n_documents: int
    matmul: str = Field(description="float32 matmul setting of PyTorch, chosen after an error probe")
    r_mean_delta: Figure = Field(description="R_hybrid of the mean difference, added everywhere: a control")
    r_mean_delta_affected: Figure = Field(description="the same at affected positions")
    invariants: Invariants
    layers: tuple[LayerFacts, ...]


class Cell(Schema):
    """What was asked for."""

    organism: str
    organism_version: int
    organism_seed: int | None = Field(None, description="from which the organism was generated")
    family: str | None = Field(None, description="of organisms; null: a pair of one's own")
    training: str | None = Field(None, description="how the tuned model was made: full, lora, none, gauge or given")
    null_class: Null | None = Field(None, description="of an organism that lacks the intended change")
    difficulty: Difficulty | None = Field(None, description="where the organism stands on a ladder")
    reference: Literal["base", "control"]
    method: str
    ranking: str | None = Field(
        None,
        pattern=f"^{COLUMN_NAME}$",
        description="column by which the engine ordered the latents; null: the method's order",
    )
    method_version: int
    method_package: str = Field(description="distribution and version that brought the method")
    control: bool = Field(description="a pinned control row, no competitor")
    baseline: bool = Field(False, description="a cheap baseline, over the best of which others show their lift")
    changed: bool | None = Field(None, description="whether anything was changed on purpose; null: nobody knows")
    access: tuple[str, ...]
    seed: int
    options_passed: dict[str, Any]
    options: dict[str, Any] = Field(description="resolved: passed ones and defaults")
    tier: str
    judge: str

    @property
    def row(self) -> str:
        """By what tables tell its row: the method, or ``method@ranking``."""
        return self.method if self.ranking is None else f"{self.method}@{self.ranking}"


class Budget(Schema):
    """What the tier allows."""

    tokens: int
    components: int
    seconds: float


class Hashes(Schema):
    """SHA-256 of whatever could change the numbers."""

    recipe: str
    base: str
    reference_model: str
    tuned_model: str
    pair: str
    diff: dict[str, str] | None = Field(None, description="of each file of the Diff")
    judged: dict[str, str] | None = Field(
        None,
        description="of the files that a judge's scores follow from: what it was shown, what is true, what it said",
    )
    dashboard: str | None = Field(None, description="of what is drawn of the cell")
    score_code: str


SHORT, MANY = 500, 200
"""Characters of a text, and entries, that a record may have where a machine is described."""
Short = Annotated[str, Field(max_length=SHORT)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Timings(Schema):
    """Cost; the only part of a record that may differ between two runs of the same cell."""

    started: str = Field(max_length=SHORT, description="UTC, ISO 8601")
    method_seconds: Amount
    score_seconds: Amount
    peak_memory_mb: Amount
    harvest_seconds: Amount = Field(description="what the shared harvest cost; charged to every method")
    sandbox: Short = Field(description="how the method process was confined, or 'none'")
    usage: dict[Short, Annotated[int, Field(ge=0)]] = Field(
        max_length=MANY, description="tokens, calls and FLOPs through the ModelPair"
    )
    versions: dict[Short, Short] = Field(max_length=MANY, description="packages")
    platform: Short


class Rescored(Schema):
    """That the scores were made anew from the Diff that is kept, without running the method."""

    from_key: str = Field(description="key of the record that the run of the method left")
    pair: str = Field(description="SHA-256 of everything the pair followed from that the method ran on")


class Record(Schema):
    """One cell: what was asked, what happened, what it cost."""

    schema_version: Literal[3] = 3
    key: str = Field(description="SHA-256 of everything that can change the scores")
    fit: str | None = Field(None, description="SHA-256 of everything that can change the Diff; rankings share a fit")
    cell: Cell
    status: Status
    reason: str | None = Field(None, max_length=2000, description="why there are no scores, in one line")
    budget: Budget
    hashes: Hashes
    pair: PairFacts
    scores: Scores | None = None
    rescored: Rescored | None = Field(None, description="null: scored by the run that ran the method")
    timings: Timings

    @model_validator(mode="after")
    def _status_agrees(self) -> Self:
        if (self.status == "ok") != (self.scores is not None):
            raise ValueError("a record has scores exactly when its status is ok")
        if self.status != "ok" and not self.reason:
            raise ValueError("a record without scores gives a reason")
        return self

    def write(self, path: Path) -> None:
        """Write the record atomically: its presence means that the cell is finished."""
        document = self.model_dump(mode="json")
        write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        RecordError: naming file and key when it is missing, too large, of another version or malformed.
    """
    if not path.exists():
        raise RecordError(f"{path}: no such record; the cell is not finished")
    return read_document(path, Record, RECORD_BYTES)


def read_document(path: Path, schema: type[Versioned], most: int, advice: str = "") -> Versioned:
    """Read a JSON document with a ``schema_version``.

    Args:
        path: the file.
        schema: what it must be.
        most: bytes it may have.
        advice: what to do about one that cannot be used.

    Raises:
        RecordError: naming file and key when it is too large, of another version or malformed.
    """
    known = schema.model_fields["schema_version"].default
    try:
        if path.stat().st_size > most:
            raise RecordError(f"{path}: larger than {most} bytes{advice}")
        text = path.read_text(encoding="utf-8")
        with suppress(ValidationError):
            found = schema.model_validate_json(text)
            if "schema_version" in found.model_fields_set:
                return found
        document = json.loads(text)  # says better what is wrong
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: no readable JSON ({one_line(error, 200)}){advice}") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != known:
        raise RecordError(f"{path}: schema_version is {version!r}, this diffbench reads {known}{advice}")
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise RecordError(f"{path}: {first_problem(error)}{advice}") from None
