"""Weight edit: components of a `WeightDiff` added to a model's parameters, and taken away again to the last bit.

Shapes: n components; W [d_out, d_in] as ``nn.Linear`` has it (a ``Conv1D`` of GPT-2 keeps the transpose).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diffbench.architecture import Model, blocks
from diffbench.diff import WeightDiff, order_of
from diffbench.errors import DiffError


class WeightEdit:
    """A `WeightDiff` on a pair of whole models (an adapter must be merged into its base first)."""

    def __init__(self, diff: WeightDiff, reference: Model, tuned: Model) -> None:
        """Check that every component fits the models.

        Raises:
            DiffError: if it names a module or parameter that the models do not have, or has vectors of another size.
        """
        self.diff = diff
        self._reference, self._tuned = dict(reference.named_parameters()), dict(tuned.named_parameters())
        self._flipped: set[str] = set()
        """Parameters that hold the transpose of W."""
        self._block = _blocks_of(reference)
        for names in diff.parameters:
            for name in names:
                self._check_parameter(name)
        for index, module in enumerate(diff.modules):
            self._check_module(index, module, reference)

    @property
    def n_components(self) -> int:
        """Components of the Diff."""
        return self.diff.n_components

    def order(self) -> Tensor:
        """[n] components, most changed first."""
        return order_of(self.diff)

    def below(self, layer: int, components: Tensor) -> bool:
        """Whether all that some components change acts at or below a layer, so that its stream shows all of it."""
        chosen = components.tolist()
        if self.diff.whole:
            names = [name for component in chosen for name in self.diff.parameters[component]]
        else:
            names = [f"{self.diff.modules[component]}.weight" for component in chosen]
        return all(self._block[name] <= layer for name in names)

    def deltas(self, components: Tensor | None = None) -> dict[str, Tensor]:
        """What some components (None: all) add to each parameter, by its name; shaped as the parameter."""
        chosen = range(self.n_components) if components is None else components.tolist()
        return self._whole(chosen) if self.diff.whole else self._rank_one(chosen)

    @contextmanager
    def applied(self, model: Model, components: Tensor | None = None, factor: float = 1.0) -> Iterator[None]:
        """``model``, one of the two or of their kind, has ``factor`` times some components added while inside."""
        parameters = dict(model.named_parameters())
        before: dict[str, Tensor] = {}
        try:
            for name, delta in self.deltas(components).items():
                parameter = parameters[name].data
                before[name] = parameter.clone()
                parameter.add_(delta.to(parameter), alpha=factor)
            yield
        finally:
            for name, held in before.items():
                parameters[name].data.copy_(held)  # taking away what was added would leave rounding behind

    def _whole(self, chosen: list[int] | range) -> dict[str, Tensor]:
        factors: dict[str, float] = {}
        for component in chosen:
            for name in self.diff.parameters[component]:
                factors[name] = factors.get(name, 0.0) + float(self.diff.sigma[component])
        return {name: factor * (self._tuned[name] - self._reference[name]).data for name, factor in factors.items()}

    def _rank_one(self, chosen: list[int] | range) -> dict[str, Tensor]:
        by_module: dict[str, list[int]] = {}
        for component in chosen:
            by_module.setdefault(self.diff.modules[component], []).append(component)
        found: dict[str, Tensor] = {}
        for module, components in by_module.items():
            u = torch.stack([self.diff.u[i] for i in components])
            v = torch.stack([self.diff.v[i] for i in components])
            delta = (u * self.diff.sigma[components][:, None]).T @ v
            name = f"{module}.weight"
            found[name] = delta.T if name in self._flipped else delta
        return found

    def _check_parameter(self, name: str) -> None:
        if name not in self._reference or name not in self._tuned:
            raise DiffError(f"parameters: the models have no parameter {name[:80]!r}")
        if self._reference[name].shape != self._tuned[name].shape:
            raise DiffError(f"parameters: {name[:80]!r} has other shapes in the two models")

    def _check_module(self, index: int, name: str, reference: Model) -> None:
        weight = self._reference.get(f"{name}.weight")
        if weight is None or weight.dim() != 2 or isinstance(reference.get_submodule(name), nn.Embedding):
            raise DiffError(f"modules: {name[:80]!r} is no module with a weight matrix of its own")
        flipped = not isinstance(reference.get_submodule(name), nn.Linear)
        if flipped:
            self._flipped.add(f"{name}.weight")
        d_out, d_in = weight.T.shape if flipped else weight.shape
        u, v = self.diff.u[index].numel(), self.diff.v[index].numel()
        if (u, v) != (d_out, d_in):
            raise DiffError(f"u, v: {u} and {v} entries, but module {name[:80]} maps {d_in} to {d_out}")


def _blocks_of(model: Model) -> dict[str, int]:
    """The block of each parameter by its name; -1: embedded below the first; their number: above all of them."""
    found = {id(parameter): at for at, block in enumerate(blocks(model)) for parameter in block.parameters()}
    embedded = (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    found |= {id(parameter): -1 for parameter in embedded}
    return {name: found.get(id(parameter), len(blocks(model))) for name, parameter in model.named_parameters()}
