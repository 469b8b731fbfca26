"""Diff: what a method claims changed. Data only, in four closed kinds.

A Diff is a JSON header (`diff.json`) and named tensors (`tensors.safetensors`); no code, no pickle. Everything the
engine asks of it (activity, edits, scores) is computed by the engine, so a Diff can be re-scored without its method.

Shapes: n components, d residual width, V vocabulary. h_b, h_t are the residual streams leaving block ``layer``
(0-based) of the reference and the tuned model; delta = h_t - h_b. All tensors are in raw activation space:
a method that normalises its inputs folds that back before it returns.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from diffbench.errors import DiffError
from diffbench.line import one_line
from diffbench.record import COLUMN_NAME
from diffbench.scores import Verdict
from diffbench.truth import Schema

DIFF_SCHEMA = 1
MAX_FINDINGS = 1000
MAX_TOKENS = 50
MAX_COLUMNS = 200
ENGINE_COLUMNS = ("kl_attribution", "kl_attribution_tuned")
"""Columns that the engine measures itself: of d_t - d_b, or whatever a component adds, for every Diff that has an edit;
of d_t, for dictionaries of two decoders."""
OWN_COLUMNS = frozenset(
    {"latent", "rank", "group", *ENGINE_COLUMNS}
    | {f"tokens_{way}{side}" for way in ("up", "down") for side in ("", "_tuned", "_base")}
)
"""Names that the engine itself uses in the table of a dictionary's latents."""

Input = Literal["delta", "both", "tuned", "base"]
"""What a dictionary is trained on: the difference, both streams side by side, or one of them."""


class Finding(Schema):
    """One thing a method says, most important first."""

    rank: int = Field(ge=1)
    component: int = Field(ge=0, description="index into the Diff's components")
    layer: int | None = Field(None, description="0-based block whose output it speaks of")
    module: str | None = Field(None, max_length=200, description="parameter module, for weight diffs")
    score: float = Field(description="the method's own importance, higher = more; comparable within one Diff only")
    tokens_up: tuple[Annotated[str, Field(max_length=200)], ...] = Field((), max_length=MAX_TOKENS)
    tokens_down: tuple[Annotated[str, Field(max_length=200)], ...] = Field((), max_length=MAX_TOKENS)
    text: str | None = Field(None, max_length=4000, description="the method's own account, if it has one")


class Reordered(Schema):
    """What the engine writes into a header when it ranks components by a column that it measures itself."""

    ranking: str | None = Field(
        None,
        pattern=f"^{COLUMN_NAME}$",
        description="the column that the order follows: falling, ties by index, NaN last; None: the method's own order",
    )
    order: tuple[int, ...] | None = Field(
        None, description="components, most changed first, where the engine ranked them; None: as the tensors say"
    )


class DictionaryHeader(Reordered):
    """Header of a `DictionaryDiff`."""

    kind: Literal["dictionary"] = "dictionary"
    layer: int = Field(ge=0)
    input: Input = Field(description="what the encoder reads; 'both' is [h_b, h_t] concatenated")
    activation: Literal["relu", "threshold", "topk"]
    k: int | None = Field(None, ge=1, description="for topk: latents kept per token")


class DirectionHeader(Reordered):
    """Header of a `DirectionDiff`."""

    kind: Literal["direction"] = "direction"
    layer: int = Field(ge=0)


class WeightHeader(Reordered):
    """Header of a `WeightDiff`."""

    kind: Literal["weight"] = "weight"
    modules: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        (), description="of rank-one components, in component order"
    )
    parameters: tuple[tuple[Annotated[str, Field(max_length=200)], ...], ...] = Field(
        (), description="of whole components: the parameters whose full difference each adds"
    )


class OutputHeader(Schema):
    """Header of an `OutputDiff`."""

    kind: Literal["output"] = "output"
    score: Literal["kl", "tokens"] | None = Field(
        description="per-position score: 'kl' is KL(tuned || reference); 'tokens' the tuned model's expectation of "
        "token_scores for the next token; None: no per-token score"
    )
    samples: tuple[Annotated[str, Field(max_length=4000)], ...] = Field((), max_length=MAX_FINDINGS)


class DiffDocument(Schema):
    """The JSON half of any Diff."""

    schema_version: Literal[1] = 1
    header: Annotated[DictionaryHeader | DirectionHeader | WeightHeader | OutputHeader, Field(discriminator="kind")]
    findings: tuple[Finding, ...] = Field((), max_length=MAX_FINDINGS)
    change_score: float | None = Field(None, description="higher = more change; None: the engine computes its own")
    verdict: Verdict = Field("abstain", description="apart from an empty list of findings")
    notes: dict[str, str | float | int | bool | None] = Field(
        default_factory=dict, max_length=100, description="what the method wants recorded of its fit"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffBase(ABC):
    """What all four kinds share."""

    findings: tuple[Finding, ...] = ()
    change_score: float | None = None
    verdict: Verdict = "abstain"
    notes: dict[str, str | float | int | bool | None] = field(default_factory=dict)

    def check(self, width: int, n_layers: int, vocabulary: int) -> None:
        """Raise `DiffError` if the Diff does not fit models of this residual width, depth and vocabulary."""
        ranks = [finding.rank for finding in self.findings]
        if ranks != list(range(1, len(ranks) + 1)):
            raise DiffError(f"findings: ranks must be 1, 2, 3, ... in order, got {ranks[:5]}")
        self._check(width, n_layers, vocabulary)
        n = self.n_components
        for finding in self.findings:
            if finding.component >= n:
                raise DiffError(f"findings: component {finding.component} does not exist, there are {n}")

    @property
    @abstractmethod
    def n_components(self) -> int:
        """How many components `activity` has columns for."""

    @abstractmethod
    def _check(self, width: int, n_layers: int, vocabulary: int) -> None:
        """Raise `DiffError` for a tensor of the wrong shape, type or content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryDiff(DiffBase):
    """A sparse dictionary at a layer and an order on its latents.

    f = act(encoder @ x + encoder_bias) with x named by ``input``; 'threshold' keeps f_j where it exceeds
    ``threshold[j]``, 'topk' keeps the k largest of each token. Reconstruction:

    - ``input`` "delta": decoder, bias reconstruct delta (diff-SAE);
    - "both": decoder_base, bias_base reconstruct h_b and decoder_tuned, bias_tuned reconstruct h_t (crosscoders;
      a tied triple is three latents that share decoder rows and an entry of ``group``);
    - "tuned", "base": decoder, bias reconstruct h_t or h_b (chat-SAE, base-SAE).
    """

    kind: ClassVar[str] = "dictionary"
    layer: int
    input: Input
    activation: Literal["relu", "threshold", "topk"]
    encoder: Tensor  # [n, d], or [n, 2d] for "both"
    encoder_bias: Tensor  # [n]
    threshold: Tensor | None = None  # [n], for "threshold"
    k: int | None = None
    decoder: Tensor | None = None  # [n, d]
    bias: Tensor | None = None  # [d]
    decoder_base: Tensor | None = None  # [n, d], for "both"
    decoder_tuned: Tensor | None = None  # [n, d]
    bias_base: Tensor | None = None  # [d]
    bias_tuned: Tensor | None = None  # [d]
    order: Tensor  # [n] int64, a permutation: most changed first
    group: Tensor | None = None  # [n] int64, names of tied triples
    columns: dict[str, Tensor] = field(default_factory=dict)  # [n] each: what rankings are made of; NaN = undefined
    ranking: str | None = None  # the column that `order` follows; None: the method's own order

    @property
    def n_components(self) -> int:
        """Latents."""
        return self.encoder.shape[0]

    def _check(self, width: int, n_layers: int, vocabulary: int) -> None:
        _check_layer(self.layer, n_layers)
        n = self.encoder.shape[0] if self.encoder.dim() == 2 else -1
        d_in = 2 * width if self.input == "both" else width
        shapes: dict[str, tuple[int, ...]] = {"encoder": (n, d_in), "encoder_bias": (n,)}
        if self.input == "both":
            for side in ("base", "tuned"):
                shapes |= {f"decoder_{side}": (n, width), f"bias_{side}": (width,)}
        else:
            shapes |= {"decoder": (n, width), "bias": (width,)}
        if self.activation == "threshold":
            shapes["threshold"] = (n,)
        for name, shape in shapes.items():
            _check_tensor(name, getattr(self, name), shape)
        check_column_names(self.columns)
        for name, column in self.columns.items():
            _check_tensor(f"columns.{name}", column, (n,), finite=False)
            if bool(column.isinf().any()):
                raise DiffError(f"columns.{name}: holds infinite values; NaN says that there is none")
        if self.ranking is not None and self.ranking not in (*self.columns, *ENGINE_COLUMNS):
            raise DiffError(f"ranking: there is no column {self.ranking!r}")
        _check_order(self.order, n)
        if self.group is not None and (self.group.shape != (n,) or self.group.dtype != torch.int64):
            raise DiffError(f"group: needs {n} int64 entries")
        if self.activation == "topk" and not (self.k and 1 <= self.k <= n):
            raise DiffError(f"k: topk needs 1 <= k <= {n}, got {self.k}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionDiff(DiffBase):
    """A few directions of the residual stream, in order of importance.

    The activity of component i is <delta - centre, v_i>. The edit of a set adds, per component, its activity times
    v_i, or, where ``constant`` is given, constant_i v_i at every token; the full edit also adds ``bias``.
    """

    kind: ClassVar[str] = "direction"
    layer: int
    directions: Tensor  # [n, d], unit rows
    centre: Tensor  # [d]
    bias: Tensor  # [d]
    constant: Tensor | None = None  # [n]
    positions: Tensor | None = None  # [n] int64: the token position it holds at, -1 for all
    order: Tensor | None = None  # [n] int64, a permutation: most changed first; None: as they are listed
    ranking: str | None = None  # the column that `order` follows, where the engine ranked them

    @property
    def n_components(self) -> int:
        """Directions."""
        return self.directions.shape[0]

    def _check(self, width: int, n_layers: int, vocabulary: int) -> None:
        _check_layer(self.layer, n_layers)
        n = self.directions.shape[0] if self.directions.dim() == 2 else -1
        _check_tensor("directions", self.directions, (n, width))
        _check_tensor("centre", self.centre, (width,))
        _check_tensor("bias", self.bias, (width,))
        if self.constant is not None:
            _check_tensor("constant", self.constant, (n,))
        if n and not torch.allclose(self.directions.norm(dim=1), torch.ones(n), atol=1e-3):
            raise DiffError("directions: rows must have unit norm; put the size into `constant` or `centre`")
        if self.positions is not None and (self.positions.shape != (n,) or self.positions.dtype != torch.int64):
            raise DiffError(f"positions: needs {n} int64 entries")
        if self.order is not None:
            _check_order(self.order, n)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDiff(DiffBase):
    """Components of the parameter difference, all of one of two kinds.

    Rank-one components sigma u v^T of W_tuned - W_base [d_out, d_in] of named linear modules: component i belongs to
    ``modules[i]``; its activity is sigma_i (v_i . x_in) at that module of the tuned model.

    Whole components: component i adds sigma_i times the full difference of the parameters ``parameters[i]`` (names as
    in ``named_parameters()`` of the models), which the engine reads from the two models itself. It is a change of many
    directions at once, so it has no per-token activity and is compared with no budget of directions.
    """

    kind: ClassVar[str] = "weight"
    sigma: Tensor  # [n]
    modules: tuple[str, ...] = ()
    u: tuple[Tensor, ...] = ()  # n of [d_out]
    v: tuple[Tensor, ...] = ()  # n of [d_in]
    parameters: tuple[tuple[str, ...], ...] = ()
    order: Tensor | None = None  # [n] int64, a permutation: most changed first; None: as they are listed
    ranking: str | None = None  # the column that `order` follows, where the engine ranked them

    @property
    def n_components(self) -> int:
        """Rank-one or whole components."""
        return len(self.parameters) if self.whole else len(self.modules)

    @property
    def whole(self) -> bool:
        """Whether components are full differences of parameters."""
        return bool(self.parameters)

    def _check(self, width: int, n_layers: int, vocabulary: int) -> None:
        if self.parameters and self.modules:
            raise DiffError("modules, parameters: components are all of rank one or all whole, not both")
        n, vectors = self.n_components, len(self.modules)
        if len(self.u) != vectors or len(self.v) != vectors:
            raise DiffError(f"u, v: need one vector for each of the {vectors} rank-one components")
        _check_tensor("sigma", self.sigma, (n,))
        for index, names in enumerate(self.parameters):
            if not names or len(set(names)) != len(names):
                raise DiffError(f"parameters: component {index} names no parameter, or one twice")
        if self.order is not None:
            _check_order(self.order, n)
        for index, (u, v) in enumerate(zip(self.u, self.v, strict=True)):
            _check_tensor(f"u.{index}", u, (u.numel(),))
            _check_tensor(f"v.{index}", v, (v.numel(),))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDiff(DiffBase):
    """What was seen from outside: a score per token, token lists, samples. It has no causal handle."""

    kind: ClassVar[str] = "output"
    score: Literal["kl", "tokens"] | None
    token_scores: Tensor | None = None  # [V]
    samples: tuple[str, ...] = ()

    @property
    def n_components(self) -> int:
        """One where there is a per-token score, else none."""
        return 0 if self.score is None else 1

    def _check(self, width: int, n_layers: int, vocabulary: int) -> None:
        if self.score == "tokens":
            _check_tensor("token_scores", self.token_scores, (vocabulary,))


Diff = DictionaryDiff | DirectionDiff | WeightDiff | OutputDiff


def check_column_names(names: Iterable[str]) -> None:
    """Raise `DiffError` for too many columns, or a name that cannot stand in a table or on the command line."""
    found = list(names)
    if len(found) > MAX_COLUMNS:
        raise DiffError(f"columns: {len(found)} of them, at most {MAX_COLUMNS} are allowed")
    for name in found:
        if not re.fullmatch(COLUMN_NAME, name):
            raise DiffError(f"columns: {one_line(repr(name), 90)} is no name; write a-z, 0-9 and _, at most 64 of them")
        if name in OWN_COLUMNS:
            raise DiffError(f"columns: {name!r} is a name that diffbench uses itself; choose another")


def order_of(diff: DictionaryDiff | DirectionDiff | WeightDiff) -> Tensor:
    """[n] int64: the components of a Diff, most changed first."""
    return torch.arange(diff.n_components) if diff.order is None else diff.order


def falling(column: Tensor) -> Tensor:
    """[n] int64: the order in which a column [n] falls; ties by index, NaN last."""
    order = column.nan_to_num(nan=0.0).argsort(descending=True, stable=True)
    return order[column[order].isnan().to(torch.int8).argsort(stable=True)]


def _check_layer(layer: int, n_layers: int) -> None:
    if not 0 <= layer < n_layers:
        raise DiffError(f"layer: {layer} does not exist, the models have blocks 0..{n_layers - 1}")


def _check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], *, finite: bool = True) -> None:
    if tensor is None:
        raise DiffError(f"{name}: missing; needs shape {list(shape)}")
    if -1 in shape or tuple(tensor.shape) != shape:
        raise DiffError(f"{name}: has shape {list(tensor.shape)}, needs {list(shape)}")
    if tensor.dtype != torch.float32:
        raise DiffError(f"{name}: is {tensor.dtype}, needs float32")
    if finite and not bool(torch.isfinite(tensor).all()):
        raise DiffError(f"{name}: holds NaN or infinite values")


def _check_order(order: Tensor, n: int) -> None:
    if order.dtype != torch.int64 or order.shape != (n,) or not torch.equal(order.sort().values, torch.arange(n)):
        raise DiffError(f"order: must be a permutation of 0..{n - 1} as int64")
