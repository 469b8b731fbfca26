"""Planted: two streams of activations made from a known two-model dictionary, to ask which features changed.

No model is needed: h_b = sum_j a_j^b d_j^b + dense background, and h_t likewise with the same background, so that what
changed is known exactly. Firing is sparse, sizes are positive, some features are nested in others, and frequencies
follow a power law. Sharkey, Braun & Millidge 2022 and dictionary_learning's toy models do this for one model; here
there are two.

Shapes: T rows, n features, d residual width. Everything is drawn in float64 and handed out in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from torch import Tensor

from diffbench.activations import Activations
from diffbench.errors import OptionError
from diffbench.recipe import first_problem
from diffbench.seeds import derive
from diffbench.truth import Schema

Kind = Literal["shared", "base-only", "tuned-only", "rescaled", "rotated", "recorrelated"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHANGED: tuple[Kind, ...] = KINDS[1:]

LAYER = 0
CHUNK = 16_384
DOCUMENT = 64
LEAST_FIRINGS = 20
"""Held-out rows in which the rarest feature must be expected to fire: fewer show no correlation."""

Array = NDArray[np.float64]
Factor = Annotated[float, Field(gt=0, le=100)]


def _numbers(value: Any) -> Any:
    return tuple(value.split(",")) if isinstance(value, str) else value


class PlantedParameters(Schema):
    """What is planted; every vector's size is relative to a feature's mean size, which is 1."""

    width: int = Field(64, ge=2, le=4096, description="residual width d")
    shared: int = Field(120, ge=0, le=20_000, description="features that are the same in both models")
    base_only: int = Field(8, ge=0, le=2000, description="features that only the base model has")
    tuned_only: int = Field(8, ge=0, le=2000, description="features that only the tuned model has")
    rescaled: int = Field(8, ge=0, le=2000, description="features of another size in the tuned model")
    rotated: int = Field(8, ge=0, le=2000, description="features of another direction in the tuned model")
    recorrelated: int = Field(8, ge=0, le=2000, description="features that fire at other times in the tuned model")
    rate_high: float = Field(0.3, gt=0, lt=1, description="share of rows in which the most frequent feature fires")
    rate_low: float = Field(0.02, gt=0, lt=1, description="the same of the rarest; a power law lies between")
    spread: float = Field(0.5, ge=0, le=1, description="standard deviation of a feature's size where it fires")
    factors: Annotated[tuple[Factor, ...], BeforeValidator(_numbers)] = Field(
        (0.5, 2.0), min_length=1, description="sizes of the rescaled features in the tuned model, in turn"
    )
    angle: float = Field(60.0, gt=0, le=180, description="degrees between the two directions of a rotated feature")
    recorrelation: float = Field(
        0.9, gt=0, le=1, description="share of rows in which a recorrelated feature fires with its partner when tuned"
    )
    nested_share: float = Field(0.25, ge=0, le=1, description="share of the other features that have a parent")
    nesting: float = Field(0.3, ge=0, le=1, description="share of rows in which such a feature needs its parent")
    background: float = Field(0.5, ge=0, description="root mean square norm of the dense noise that both models share")
    noise: float = Field(0.1, ge=0, description="root mean square norm of the noise that each model has of its own")
    offset: float = Field(0.5, ge=0, description="norm of a constant that the tuned model adds; it changes no feature")
    rows: int = Field(200_000, ge=2 * DOCUMENT, le=100_000_000, description="rows for methods")
    held_out_rows: int = Field(20_000, ge=100, le=10_000_000, description="rows for scores; no method sees them")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.rate_low > self.rate_high:
            raise ValueError(f"rate_low: {self.rate_low} is above rate_high = {self.rate_high}")
        if self.n_features == 0:
            raise ValueError("shared: there must be at least one feature of some kind")
        if self.recorrelated > self.shared:
            raise ValueError(
                f"recorrelated: each of the {self.recorrelated} needs a shared partner of its own, "
                f"and shared = {self.shared}"
            )
        if 1.0 in self.factors and self.rescaled:
            raise ValueError("factors: a factor of 1 changes nothing; call such features shared")
        if self.rate_low * self.held_out_rows < LEAST_FIRINGS:
            raise ValueError(
                f"held_out_rows: the rarest feature fires in {self.rate_low * self.held_out_rows:.3g} of "
                f"{self.held_out_rows} rows; {LEAST_FIRINGS} are needed, so raise it or rate_low"
            )
        return self

    @property
    def n_changed(self) -> int:
        """How many features are not shared."""
        return self.base_only + self.tuned_only + self.rescaled + self.rotated + self.recorrelated

    @property
    def n_features(self) -> int:
        """All features."""
        return self.shared + self.n_changed


def planted_parameters(passed: Mapping[str, Any]) -> PlantedParameters:
    """Parameters from values that may be strings, as from the command line.

    Raises:
        OptionError: naming the parameter, the value and what is allowed.
    """
    for name in passed:
        if name not in PlantedParameters.model_fields:
            known = ", ".join(PlantedParameters.model_fields)
            raise OptionError(f"planted: no parameter {name!r}; parameters: {known}")
    try:
        return PlantedParameters.model_validate(dict(passed))
    except ValidationError as error:
        first = error.errors()[0]
        whole = not first["loc"]  # a complaint about several parameters names them itself
        raise OptionError(f"planted: {first['ctx']['error'] if whole else first_problem(error)}") from None


@dataclass(frozen=True, slots=True)
class Features:
    """The dictionary that was planted.

    Attributes:
        kind: of each feature; all but ``shared`` are changed.
        base: direction times size in the base model, [n, d] float32; zero where the model does not have it.
        tuned: the same in the tuned model.
        rate: [n] float64, share of rows in which it fires.
        parent: [n] int64, the feature in which it is nested, or -1.
        partner: [n] int64, the shared feature with which a recorrelated one fires in the tuned model, or -1.
    """

    kind: tuple[Kind, ...]
    base: Tensor
    tuned: Tensor
    rate: Tensor
    parent: Tensor
    partner: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def of(self, *kinds: Kind) -> list[int]:
        """Indices of the features of some kinds."""
        return [index for index, kind in enumerate(self.kind) if kind in kinds]

    @property
    def changed(self) -> list[int]:
        """Indices of all features that are not shared."""
        return self.of(*CHANGED)

    @staticmethod
    def name(index: int) -> str:
        """What a feature is called in tables and token lists."""
        return f"f{index}"


@dataclass(frozen=True, slots=True)
class PlantedRows:
    """Rows whose true firing is known.

    Attributes:
        h_b: [T, d] float32.
        h_t: [T, d] float32.
        delta: h_t - h_b, [T, d] float32, rounded once.
        fired_base: [T, n] float32, the size a_j^b at which each feature fires in the base model, 0 where it does not.
        fired_tuned: the same in the tuned model; it differs for recorrelated features alone.
    """

    h_b: Tensor
    h_t: Tensor
    delta: Tensor
    fired_base: Tensor
    fired_tuned: Tensor


@dataclass(frozen=True, slots=True)
class Planted:
    """A planted pair: what methods get (`activations`) and what they are asked about."""

    parameters: PlantedParameters
    seed: int
    features: Features
    activations: Activations
    held_out: PlantedRows


def plant(parameters: PlantedParameters, seed: int) -> Planted:
    """Draw features and rows; the same seed gives the same pair, other seeds independent ones."""
    world = _World(parameters, seed)
    parts = [(rows.h_b, rows.delta) for rows in world.chunks("rows", parameters.rows)]
    held_out = _joined(list(world.chunks("held out", parameters.held_out_rows)))
    activations = _stored(torch.cat([b for b, _ in parts]), torch.cat([delta for _, delta in parts]))
    return Planted(parameters, seed, world.features, activations, held_out)


class _World:
    """Everything that stays the same from row to row, in float64."""

    def __init__(self, parameters: PlantedParameters, seed: int) -> None:
        self.parameters, self.seed = parameters, seed
        n, d = parameters.n_features, parameters.width
        draw = self.generator("features")
        counts = (getattr(parameters, kind.replace("-", "_")) for kind in KINDS)
        kinds = np.repeat(np.arange(len(KINDS)), list(counts))[draw.permutation(n)]
        self.kind: tuple[Kind, ...] = tuple(KINDS[index] for index in kinds)
        self.recorrelated = np.flatnonzero(kinds == KINDS.index("recorrelated"))
        self.rate = _rates(n, parameters.rate_high, parameters.rate_low)
        self.partner = self._partners(np.flatnonzero(kinds == 0))
        self.parent = self._parents(draw)
        self.base, self.tuned = self._directions(draw)
        self.offset = parameters.offset * _unit(draw.standard_normal((1, d)))[0]
        spectrum = 1 / np.sqrt(np.arange(1, d + 1))
        basis = np.linalg.qr(draw.standard_normal((d, d)))[0]
        self.background: Array = parameters.background * (spectrum / np.linalg.norm(spectrum))[:, None] * basis
        self.features = Features(
            kind=self.kind,
            base=torch.from_numpy(self.base).float(),
            tuned=torch.from_numpy(self.tuned).float(),
            rate=torch.from_numpy(self.rate),
            parent=torch.from_numpy(self.parent),
            partner=torch.from_numpy(self.partner),
        )

    def generator(self, *purpose: str) -> np.random.Generator:
        """An independent stream for one purpose."""
        return np.random.default_rng(derive(self.seed, "planted", *purpose))

    def chunks(self, purpose: str, rows: int) -> Iterator[PlantedRows]:
        """Rows in pieces of bounded size."""
        for start in range(0, rows, CHUNK):
            yield self._rows(self.generator(purpose, str(start)), min(CHUNK, rows - start))

    def _partners(self, shared: NDArray[np.int64]) -> NDArray[np.int64]:
        """A shared feature of its own for each recorrelated one, of the nearest rate; the rate becomes the same."""
        partner = np.full(len(self.kind), -1)
        free = list(shared)
        for index in self.recorrelated:
            nearest = min(free, key=lambda other: (abs(other - index), other))
            free.remove(nearest)
            partner[index], self.rate[index] = nearest, self.rate[nearest]
        return partner

    def _parents(self, draw: np.random.Generator) -> NDArray[np.int64]:
        """A parent at least as frequent for a share of the features; parents have none, recorrelated ones neither."""
        n = len(self.kind)
        parent = np.full(n, -1)
        able = np.setdiff1d(np.arange(1, n), self.recorrelated)
        child = np.zeros(n, dtype=bool)
        child[able[draw.random(len(able)) < self.parameters.nested_share]] = True
        for index in np.flatnonzero(child):
            above = np.setdiff1d(np.flatnonzero(~child[:index]), self.recorrelated)
            if len(above):
                parent[index] = draw.choice(above)
        return parent

    def _directions(self, draw: np.random.Generator) -> tuple[Array, Array]:
        kinds = np.array(self.kind)
        base = _unit(draw.standard_normal((len(kinds), self.parameters.width)))
        tuned = base.copy()
        rescaled, rotated = np.flatnonzero(kinds == "rescaled"), np.flatnonzero(kinds == "rotated")
        factors = np.resize(np.array(self.parameters.factors), len(rescaled))
        tuned[rescaled] *= factors[:, None]
        other = draw.standard_normal((len(rotated), self.parameters.width))
        other = _unit(other - (other * base[rotated]).sum(axis=1, keepdims=True) * base[rotated])
        turn = math.radians(self.parameters.angle)
        tuned[rotated] = math.cos(turn) * base[rotated] + math.sin(turn) * other
        base[kinds == "tuned-only"] = 0
        tuned[kinds == "base-only"] = 0
        return base, tuned

    def _firing(self, draw: np.random.Generator, rows: int) -> tuple[Array, Array]:
        """Sizes [T, n] at which features fire in the base and the tuned model."""
        n = len(self.kind)
        fires = draw.random((rows, n)) < self.rate
        nested = np.flatnonzero(self.parent >= 0)
        above = self.parent[nested]
        within = fires[:, above] & (draw.random((rows, len(nested))) < self.rate[nested] / self.rate[above])
        needs = draw.random((rows, len(nested))) < self.parameters.nesting
        fires[:, nested] = np.where(needs, within, fires[:, nested])
        size = 1 - self.parameters.spread + self.parameters.spread * draw.exponential(size=(rows, n))
        base = fires * size
        tuned = base.copy()
        moved, partner = self.recorrelated, self.partner[self.recorrelated]
        together = draw.random((rows, len(moved))) < self.parameters.recorrelation
        tuned[:, moved] = np.where(together, fires[:, partner], fires[:, moved]) * size[:, moved]
        return base, tuned

    def _rows(self, draw: np.random.Generator, rows: int) -> PlantedRows:
        d = self.parameters.width
        fired_base, fired_tuned = self._firing(draw, rows)
        background = draw.standard_normal((rows, d)) @ self.background
        own = self.parameters.noise / math.sqrt(d) * draw.standard_normal((2, rows, d))
        h_b = fired_base @ self.base + background + own[0]
        h_t = fired_tuned @ self.tuned + background + own[1] + self.offset
        return PlantedRows(*(torch.from_numpy(x).float() for x in (h_b, h_t, h_t - h_b, fired_base, fired_tuned)))


def _rates(n: int, high: float, low: float) -> Array:
    """[n], falling from ``high`` to ``low`` as a power of the rank."""
    exponent = math.log(high / low) / math.log(n) if n > 1 else 0.0
    rates: Array = high * np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return rates


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _joined(parts: list[PlantedRows]) -> PlantedRows:
    names = ("h_b", "h_t", "delta", "fired_base", "fired_tuned")
    return PlantedRows(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _stored(base: Tensor, delta: Tensor) -> Activations:
    """Rows as a harvest leaves them, in documents of equal length."""
    base_scale, delta_scale = _scale(base), _scale(delta)
    index = torch.arange(len(base), dtype=torch.int32)
    return Activations(
        base=(base / base_scale).half(),
        delta=(delta / delta_scale).half(),
        base_scale=base_scale,
        delta_scale=delta_scale,
        document=index // DOCUMENT,
        position=index % DOCUMENT,
        layer=LAYER,
        outlier_share=0.0,
    )


def _scale(x: Tensor) -> float:
    """Root mean square of the entries; 1 where everything is zero."""
    return float(x.double().pow(2).mean().sqrt()) or 1.0
