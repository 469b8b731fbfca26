"""Dashboard: what a person looks at to understand a finding, made while a cell is scored. Knows nothing of models.

KL dashboards are those of Aranguri, Drori & Nanda 2025, the pictures of tied triples those of Aranguri 2025 (figures 2
to 5). A dashboard lies beside its record as ``dashboard.json``, so that a page is made without any model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from diffbench.atomic import write_text
from diffbench.figure import Figure
from diffbench.record import read_document
from diffbench.truth import Schema

DASHBOARD = "dashboard.json"
"""In a cell's folder."""
DASHBOARD_BYTES = 16 << 20
LEAST_COSINE = 0.1
"""Under it two directions have nothing in common, and are no neighbours."""
FINDINGS = 10
"""Findings that have a dashboard: the first ones."""

Token = Annotated[str, Field(max_length=200)]


class Shaded(Schema):
    """A piece of a document with a value for each token."""

    document: int = Field(ge=0, description="index into the split that the text is from")
    tokens: tuple[Token, ...] = Field(max_length=64)
    values: tuple[float | None, ...] = Field(max_length=64, description="one for each token; null: it has none")
    at: int = Field(ge=0, description="which of the tokens it was chosen for")


class Move(Schema):
    """A token whose probability differs between the two models."""

    token: Token
    reference: float = Field(ge=0, le=1, description="its probability in the reference model")
    tuned: float = Field(ge=0, le=1)
    nats: float = Field(description="p_t log(p_t / p_r) of an increased token, p_r log(p_r / p_t) of a decreased one")


class KLContext(Schema):
    """A context at whose end the two models differ, and what they say there."""

    text: Shaded = Field(
        description="evaluation split; values: KL(tuned || reference) of the prediction of each token, in nats. ``at`` "
        "is the context's last token: what differs is the prediction of the token behind it, shown where there is one"
    )
    reference_top: Token = Field(description="the reference's most probable next token")
    tuned_top: Token
    reference_top_p: float = Field(ge=0, le=1)
    tuned_top_p: float = Field(ge=0, le=1)
    increased: tuple[Move, ...] = Field(max_length=3)
    decreased: tuple[Move, ...] = Field(max_length=2)
    attribution: float = Field(description="of the finding here: d KL / d lambda, in nats per unit of length")
    place: int = Field(
        ge=1, le=3, description="1: no other component has a more negative attribution here, or a larger one by size"
    )


class Histogram(Schema):
    """How often a value lies in each of some bins of equal width."""

    low: float = Field(description="lower end of the first bin")
    high: float = Field(description="upper end of the last bin")
    counts: tuple[int, ...] = Field(max_length=64)


class KLDashboard(Schema):
    """Where a finding is among the three components most responsible for the KL."""

    n_contexts: int = Field(ge=0, description="tokens of high KL that were looked at")
    n_top: int = Field(ge=0, description="of them those where the finding is among the top 3")
    n_first: int = Field(ge=0, description="of them those where it is the first")
    chance: float | None = Field(
        None, ge=0, le=1, description="share of tokens where one of that many components is among the top 3 by chance"
    )
    either_way: bool = Field(
        False, description="the components are added with either sign, so that attributions count by their size"
    )
    attributions: Histogram = Field(description="over all the tokens that were looked at")
    contexts: tuple[KLContext, ...] = Field(max_length=16, description="of those of the top 3, the highest KL first")


class Neighbour(Schema):
    """Another component with a like direction."""

    component: int
    rank: int = Field(ge=1, description="its place in the Diff's order")
    cosine: float
    tokens_up: tuple[Token, ...] = Field((), max_length=5)


class FeatureDashboard(Schema):
    """Where a component is active, and what it writes."""

    n_positions: int = Field(ge=0, description="positions of the judge split")
    n_active: int = Field(ge=0, description="of them those where it is active; dense ones: the largest two percent")
    frequency: Figure = Field(description="share of the positions where it is active; n/a for dense components")
    contexts: tuple[Shaded, ...] = Field(
        max_length=16, description="where it is most active, one of a document; values: its activity"
    )
    activity: Histogram = Field(description="over the positions where it is not zero")
    relative_norm: Figure
    nu: dict[str, Figure] = Field(
        default_factory=dict, max_length=16, description="latent scaling, by target (Minder et al. 2025)"
    )
    neighbours: tuple[Neighbour, ...] = Field((), max_length=8)


class FindingDashboard(Schema):
    """One finding. A half that there is not says why."""

    rank: int = Field(ge=1)
    component: int = Field(ge=0)
    score: float = Field(description="the method's own importance")
    tokens_up: tuple[Token, ...] = Field((), max_length=50)
    tokens_down: tuple[Token, ...] = Field((), max_length=50)
    text: str | None = Field(None, max_length=4000, description="the method's own account")
    kl: KLDashboard | None = Field(None, description="null also where an earlier finding speaks of the same component")
    feature: FeatureDashboard | None = None


class Triple(Schema):
    """One tied triple: how often its members fire. Ratios are null where the shared latent never does."""

    triple: int = Field(ge=0)
    shared: float = Field(ge=0, le=1, description="share of positions where the shared latent fires")
    base: float = Field(ge=0, le=1)
    tuned: float = Field(ge=0, le=1)
    base_to_shared: float | None = None
    tuned_to_shared: float | None = None
    beyond: bool = Field(False, description="its shared latent never fires: its ratios are beyond every scale")


class TripleContexts(Schema):
    """Where the base latent of a triple is active in base text, beside its tuned latent in chats."""

    triple: int = Field(ge=0)
    chosen: Literal["tuned", "base"] = Field(
        description="for its high ratio of tuned, or base, to shared; first those beyond it"
    )
    tokens_up: tuple[Token, ...] = Field((), max_length=10, description="what its tuned decoder promotes")
    base: tuple[Shaded, ...] = Field((), max_length=8)
    tuned: tuple[Shaded, ...] = Field((), max_length=8)


class TiedDashboard(Schema):
    """Of a tied crosscoder."""

    least: float = Field(description="share of positions in which a triple fires at least to have ratios")
    n_triples: int = Field(ge=0)
    triples: tuple[Triple, ...] = Field(max_length=100_000, description="those that fire at least so often")
    base_text: str = Field(max_length=200, description="what the base latents' contexts are from")
    tuned_text: str = Field(max_length=200)
    examples: tuple[TripleContexts, ...] = Field((), max_length=12)


class Dashboard(Schema):
    """All that is drawn of one cell."""

    schema_version: Literal[1] = 1
    findings: tuple[FindingDashboard, ...] = Field((), max_length=FINDINGS)
    no_kl: str | None = Field(None, max_length=500, description="why no finding has a KL dashboard")
    no_feature: str | None = Field(None, max_length=500, description="why no finding has a feature dashboard")
    tied: TiedDashboard | None = None

    def write(self, path: Path) -> None:
        """Write it atomically."""
        document = self.model_dump(mode="json", exclude_defaults=True) | {"schema_version": self.schema_version}
        write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")


def read_dashboard(path: Path) -> Dashboard:
    """Read what `Dashboard.write` wrote.

    Raises:
        RecordError: naming file and key when it is missing, too large, of another version or malformed.
    """
    return read_document(path, Dashboard, DASHBOARD_BYTES)


def rounded(value: float) -> float:
    """Three significant digits: what a shade or a bar needs."""
    return float(f"{value:.3g}")
