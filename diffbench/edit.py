"""Edit: what a Diff adds to the reference model's residual stream, computed by the engine from the Diff alone.

Shapes: T rows, d residual width, n components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench import dictionary
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, order_of


@dataclass(frozen=True, slots=True)
class Streams:
    """Paired rows: h_b, h_t [T, d] float32 and the token position [T] of each."""

    h_b: Tensor
    h_t: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.position)

    def at(self, index: slice | Tensor) -> Streams:
        """Some of the rows."""
        return Streams(self.h_b[index], self.h_t[index], self.position[index])


@dataclass(frozen=True, slots=True)
class ActivationEdit:
    """Adds to h_b at ``layer``; made from a dictionary or from directions."""

    diff: DictionaryDiff | DirectionDiff

    @property
    def layer(self) -> int:
        """The 0-based block whose output is edited."""
        return self.diff.layer

    def order(self) -> Tensor:
        """[n] components, most changed first, as the Diff ranks them."""
        return order_of(self.diff)

    def bias(self) -> Tensor:
        """[d]: what is added with no component: the point k = 0."""
        return dictionary.bias(self.diff) if isinstance(self.diff, DictionaryDiff) else self.diff.bias

    def full(self, streams: Streams) -> Tensor:
        """[T, d]: all components and the bias."""
        if isinstance(self.diff, DictionaryDiff):
            return dictionary.added_by_all(self.diff, streams.h_b, streams.h_t)
        return self.diff.bias + _along(self.diff, streams, torch.arange(self.diff.n_components))

    def subset(self, streams: Streams, components: Tensor) -> Tensor:
        """[T, d]: some components, *replace* form, without bias."""
        if isinstance(self.diff, DictionaryDiff):
            return dictionary.added_by(self.diff, streams.h_b, streams.h_t, components)
        return _along(self.diff, streams, components)

    def additive(self, streams: Streams, components: Tensor) -> Tensor:
        """[T, d]: some latents, *additive* form, without bias; of directions the same as `subset`."""
        if isinstance(self.diff, DictionaryDiff):
            return dictionary.added_additively(self.diff, streams.h_b, streams.h_t, components)
        return _along(self.diff, streams, components)

    def activity(self, streams: Streams) -> Tensor:
        """[T, n]: f_j of a dictionary, <delta - centre, v_i> of directions."""
        if isinstance(self.diff, DictionaryDiff):
            return dictionary.encode(self.diff, streams.h_b, streams.h_t)
        return _projections(self.diff, streams)

    @property
    def sparse(self) -> bool:
        """Whether activity is zero at most positions by construction."""
        return isinstance(self.diff, DictionaryDiff)


def edit_of(diff: Diff) -> ActivationEdit | None:
    """The activation edit of a Diff, or None where its kind has no handle on the residual stream."""
    return ActivationEdit(diff) if isinstance(diff, DictionaryDiff | DirectionDiff) else None


def _projections(diff: DirectionDiff, streams: Streams) -> Tensor:
    activity = (streams.h_t - streams.h_b - diff.centre) @ diff.directions.T
    if diff.positions is not None:
        applies = (diff.positions == -1) | (diff.positions == streams.position[:, None])
        activity = activity * applies
    return activity


def _along(diff: DirectionDiff, streams: Streams, components: Tensor) -> Tensor:
    if diff.constant is None:
        coefficients = _projections(diff, streams)[:, components]
    else:
        coefficients = diff.constant[components].expand(len(streams.h_b), -1)
        if diff.positions is not None:
            chosen = diff.positions[components]
            coefficients = coefficients * ((chosen == -1) | (chosen == streams.position[:, None]))
    return coefficients @ diff.directions[components]
