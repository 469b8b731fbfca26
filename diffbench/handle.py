"""Handle: what a Diff offers to intervene with; the same questions for edits of the stream and of the weights.

Shapes: n components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from torch import Tensor

from diffbench.diff import DictionaryDiff, Diff, WeightDiff
from diffbench.edit import ActivationEdit, Streams, edit_of
from diffbench.patching import Arm, Patch, Run, Towards, WeightArm, noise_like
from diffbench.residual import Model
from diffbench.weight_edit import WeightEdit


class Handle(ABC):
    """What a Diff offers to intervene with: the same questions for edits of the stream and of the weights."""

    @property
    @abstractmethod
    def layer(self) -> int:
        """The 0-based block whose output is edited, or looked at."""

    @property
    @abstractmethod
    def n_components(self) -> int:
        """Components that can be chosen among."""

    @property
    def sparse(self) -> bool:
        """Whether a component adds nothing at most positions by construction."""
        return False

    @property
    def directional(self) -> bool:
        """Whether a component is one direction, so that k of them compare with k principal ones."""
        return True

    def reaches(self, components: Tensor) -> bool:
        """Whether a hybrid run sees all that some components do: not so of weights above the layer."""
        return True

    @abstractmethod
    def order(self) -> Tensor:
        """[n] components, most changed first."""

    @abstractmethod
    def arm(
        self,
        components: Tensor | None,
        *,
        run: Run = "hybrid",
        factor: float = 1.0,
        towards: Towards = "tuned",
    ) -> Patch:
        """Some components times ``factor``; None: the full edit with its biases."""

    @abstractmethod
    def error(self) -> Patch:
        """What the full edit leaves out, in a hybrid run."""

    @abstractmethod
    def bias(self) -> Patch | None:
        """What is added with no component at all; None where there is no such thing."""

    @abstractmethod
    def noise(self, components: Tensor, seed: int) -> Patch:
        """Random directions, at each position as long as what some components add."""


@dataclass(frozen=True)
class StreamHandle(Handle):
    """Of a `DictionaryDiff` or `DirectionDiff`."""

    edit: ActivationEdit

    @property
    def layer(self) -> int:
        """The block whose output is edited."""
        return self.edit.layer

    @property
    def n_components(self) -> int:
        """Latents or directions."""
        return self.edit.diff.n_components

    @property
    def sparse(self) -> bool:
        """True of dictionaries."""
        return self.edit.sparse

    def order(self) -> Tensor:
        """See `Handle.order`."""
        return self.edit.order()

    def arm(
        self,
        components: Tensor | None,
        *,
        run: Run = "hybrid",
        factor: float = 1.0,
        towards: Towards = "tuned",
    ) -> Patch:
        """See `Handle.arm`."""

        def added(rows: Streams) -> Tensor:
            whole = self.edit.full(rows) if components is None else self.edit.subset(rows, components)
            return whole if factor == 1.0 else factor * whole

        return Arm(self.layer, added, run, towards)

    def error(self) -> Patch:
        """See `Handle.error`."""
        return Arm(self.layer, lambda rows: rows.h_t - rows.h_b - self.edit.full(rows))

    def bias(self) -> Patch | None:
        """See `Handle.bias`."""
        return Arm(self.layer, lambda rows: self.edit.bias().expand_as(rows.h_b))

    def noise(self, components: Tensor, seed: int) -> Patch:
        """See `Handle.noise`."""
        return Arm(self.layer, lambda rows: noise_like(rows, self.edit.subset(rows, components), seed))

    @property
    def additive_differs(self) -> bool:
        """Whether the *additive* form of a set adds something else than *replace*: not so of a diff-SAE's."""
        return isinstance(self.edit.diff, DictionaryDiff) and self.edit.diff.input != "delta"

    def additive(self, components: Tensor) -> Patch:
        """Some latents in the *additive* form."""
        return Arm(self.layer, lambda rows: self.edit.additive(rows, components))


@dataclass(frozen=True)
class WeightHandle(Handle):
    """Of a `WeightDiff`, seen at the pair's layer."""

    edit: WeightEdit
    at: int

    @property
    def layer(self) -> int:
        """The pair's layer: in a hybrid run the tuned model goes on from there."""
        return self.at

    @property
    def n_components(self) -> int:
        """Rank-one or whole components."""
        return self.edit.n_components

    @property
    def directional(self) -> bool:
        """False of whole components: each of them is a change of many directions."""
        return not self.edit.diff.whole

    def reaches(self, components: Tensor) -> bool:
        """See `Handle.reaches`."""
        return self.edit.below(self.layer, components)

    def order(self) -> Tensor:
        """See `Handle.order`."""
        return self.edit.order()

    def arm(
        self,
        components: Tensor | None,
        *,
        run: Run = "hybrid",
        factor: float = 1.0,
        towards: Towards = "tuned",
    ) -> Patch:
        """See `Handle.arm`."""
        return WeightArm(self.layer, self.edit, components, factor, run, towards)

    def error(self) -> Patch:
        """See `Handle.error`."""
        return WeightArm(self.layer, self.edit, left_out=True)

    def bias(self) -> Patch | None:
        """Weights have no bias of their own."""
        return None

    def noise(self, components: Tensor, seed: int) -> Patch:
        """See `Handle.noise`."""
        return replace(WeightArm(self.layer, self.edit, components), noise=seed)


def handle_of(diff: Diff, reference: Model, tuned: Model, layer: int) -> Handle | None:
    """The handle of a Diff; None where its kind cannot be intervened with.

    Args:
        diff: what a method returned.
        reference: the model of h_b; for a `WeightDiff` a whole model, no switched adapter.
        tuned: the model of h_t.
        layer: the pair's layer.

    Raises:
        DiffError: if a `WeightDiff` does not fit the models.
    """
    if isinstance(diff, WeightDiff):
        return WeightHandle(WeightEdit(diff, reference, tuned), layer)
    edit = edit_of(diff)
    return None if edit is None else StreamHandle(edit)
