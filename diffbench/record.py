"""Record: what happened in one cell (organism x pair x method x seed). Knows nothing of models or torch.

A score is a `Figure`: a number, or the reason why there is none. Nothing that failed, could not be asked or has no
meaning ever becomes a number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from diffbench.atomic import write_text
from diffbench.errors import RecordError
from diffbench.line import one_line
from diffbench.recipe import Difficulty, Null, first_problem
from diffbench.truth import Schema
from diffbench.vocabulary import Vocabulary

RECORD_BYTES = 8 << 20
COLUMN_NAME = r"[a-z0-9_]{1,64}"
"""Names of columns by which latents can be ranked."""
Status = Literal["ok", "error", "not_applicable"]
Versioned = TypeVar("Versioned", bound=Schema)


class Figure(Schema):
    """One measured number with its 95% interval, or the reason why there is none."""

    state: Literal["ok", "none", "n/a", "undefined"] = Field(
        description="none: asked, and there is none; n/a: the Diff cannot be asked this; "
        "undefined: the quantity has no meaning here"
    )
    value: float | None = None
    low: float | None = Field(
        None, description="lower end of the 95% interval over documents or findings, where there is one"
    )
    high: float | None = None
    reason: str | None = Field(None, max_length=500)

    @model_validator(mode="after")
    def _state_agrees(self) -> Self:
        if (self.state == "ok") != (self.value is not None):
            raise ValueError("a figure has a value exactly when its state is ok")
        if self.state != "ok" and not self.reason:
            raise ValueError("a figure without a value says why")
        for number in (self.value, self.low, self.high):
            if number is not None and not abs(number) < float("inf"):
                raise ValueError("figures are finite")
        return self

    @classmethod
    def of(cls, value: float, low: float | None = None, high: float | None = None) -> Figure:
        """A measured number."""
        return cls(state="ok", value=value, low=low, high=high)

    @classmethod
    def none(cls, reason: str) -> Figure:
        """The question was asked, and the answer is that there is none."""
        return cls(state="none", reason=reason)

    @classmethod
    def not_applicable(cls, reason: str) -> Figure:
        """The Diff cannot be asked this."""
        return cls(state="n/a", reason=reason)

    @classmethod
    def undefined(cls, reason: str) -> Figure:
        """The quantity has no meaning on this pair."""
        return cls(state="undefined", reason=reason)


class BudgetPoint(Schema):
    """R_hybrid at affected positions of the top ``k`` components of the Diff's order, and PCA's at the same k."""

    k: int
    r: Figure
    r_pca: Figure
    lift: Figure = Field(description="r - r_pca")
    active_per_token: Figure = Field(description="mean number of the k components that are active at a position")


class Recovery(Schema):
    """Causal scores at the pair's layer: R = 1 - sum KL(p_tuned || p_E) / sum KL(p_tuned || p_none)."""

    r_full: Figure = Field(description="R_hybrid of the full edit, all unmasked positions")
    r_error: Figure = Field(description="R_hybrid of what the full edit leaves out")
    r_full_affected: Figure
    r_error_affected: Figure
    r_bias_affected: Figure = Field(description="the point k = 0 of the budget curve: biases alone")
    budgets: tuple[BudgetPoint, ...]
    headline: Figure = Field(description="mean over the budgets of R at affected positions minus PCA's")


class Fit(Schema):
    """How well and how sparsely the Diff describes held-out activations."""

    fve: Figure = Field(description="fraction of variance explained of the dictionary's own target")
    fve_delta: Figure = Field(description="fraction of the variance of delta explained by the full edit")
    l0: Figure = Field(description="mean active components per position")
    dead_share: Figure = Field(description="share of components that never fire on held-out text")
    n_components: int


class Localisation(Schema):
    """Does |activity| tell affected from near-miss probes?"""

    auroc_first: Figure = Field(description="AUROC of the first finding, for the claim it fits best")
    auroc_best10: Figure = Field(description="best AUROC among the first ten findings")
    first_hit: Figure = Field(description="rank of the first finding with AUROC >= .9")
    first_hit_shuffled: Figure = Field(description="the same, median over 100 shuffled rankings of all components")
    n_affected: int
    n_near_miss: int


class DetectionScore(Schema):
    """Interpretability of one finding by detection."""

    rank: int
    component: int
    explanation: str
    accuracy: Figure = Field(description="balanced accuracy on held-out contexts")


class Interpretability(Schema):
    """Can a judge who reads an explanation tell activating from other held-out contexts?"""

    judge: str = Field(description="name and version of the judge that scored")
    detection: Figure = Field(description="mean balanced accuracy over the first ten findings")
    control: Figure = Field(description="the same for a random dictionary on the same split")
    lift: Figure = Field(description="detection - control")
    findings: tuple[DetectionScore, ...] = ()


class Scores(Schema):
    """All that a cell is scored by. Identical for the same inputs on the same machine."""

    recovery: Recovery
    fit: Fit
    localisation: Localisation
    interpretability: Interpretability
    change_score: Figure
    verdict: Literal["changed", "unchanged", "abstain"]
    n_findings: int


class LayerFacts(Schema):
    """What a layer's residual stream can carry, printed beside every row."""

    layer: int
    coverage: Figure = Field(description="KL(tuned || hybrid none) / KL(tuned || reference); may exceed 1")
    ceiling: Figure = Field(description="R_model of the layer's true delta")


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
    score_code: str


class Timings(Schema):
    """Cost; the only part of a record that may differ between two runs of the same cell."""

    started: str = Field(description="UTC, ISO 8601")
    method_seconds: float
    score_seconds: float
    peak_memory_mb: float
    harvest_seconds: float = Field(description="what the shared harvest cost; charged to every method")
    sandbox: str = Field(description="how the method process was confined, or 'none'")
    usage: dict[str, int] = Field(description="tokens, calls and FLOPs through the ModelPair")
    versions: dict[str, str] = Field(description="packages")
    platform: str


class Record(Schema):
    """One cell: what was asked, what happened, what it cost."""

    schema_version: Literal[1] = 1
    key: str = Field(description="SHA-256 of everything that can change the scores")
    fit: str | None = Field(None, description="SHA-256 of everything that can change the Diff; rankings share a fit")
    cell: Cell
    status: Status
    reason: str | None = Field(None, max_length=2000, description="why there are no scores, in one line")
    budget: Budget
    hashes: Hashes
    pair: PairFacts
    scores: Scores | None = None
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
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: no readable JSON ({one_line(error, 200)}){advice}") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != known:
        raise RecordError(f"{path}: schema_version is {version!r}, this diffbench reads {known}{advice}")
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise RecordError(f"{path}: {first_problem(error)}{advice}") from None
