"""Weight sensitivity: how KL(p_reference || p_tuned) changes with the reference's weights along components of a Diff.

For a rank-one component û v̂^T of a module's W, <dKL/dW, û v̂^T> = sum over positions of (g . û)(x . v̂), where x is what
the module reads and g the gradient at what it puts out: no gradient is ever as large as W. A weight acts at every
position, BOS among them.

Shapes: B documents of a batch, L positions, d residual width, T rows, n components, k of them of one module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffbench.architecture import Model, blocks, vocabulary
from diffbench.corpus import Corpus
from diffbench.diff import WeightDiff
from diffbench.errors import DiffError
from diffbench.residual import hidden, unembed
from diffbench.sensitivity import chunks, kl_slope, tuned_rows
from diffbench.weight_edit import WeightEdit


@torch.inference_mode(False)
@torch.enable_grad()
def rank_one_attribution(diff: WeightDiff, reference: Model, tuned: Model, batch: Corpus, where: Tensor) -> Tensor:
    """[B, n] float32: attribution of rank-one components, the KL summed over ``where`` [B, L] of each document.

    Raises:
        DiffError: if a module is not there, shares its weight, takes no part, maps vectors of another size, or reads
            those of all documents in one heap, as experts do.
    """
    watch = _RankOne(diff, reference, len(batch))
    _differentiate(reference, tuned, batch, where, watch)
    if idle := watch.modules.keys() - watch.run:
        raise DiffError(f"modules: {min(idle)[:80]!r} takes no part in what the models say")
    return watch.found


@torch.inference_mode(False)
@torch.enable_grad()
def whole_attribution(diff: WeightDiff, reference: Model, tuned: Model, batch: Corpus, where: Tensor) -> Tensor:
    """[n] float32: attribution of whole components, the KL summed over ``where`` [B, L].

    The gradients of all parameters that are named are held at once.

    Raises:
        DiffError: if a parameter is not there or has another shape; a model with an adapter on it must be merged.
    """
    edit = WeightEdit(diff, reference, tuned)
    named = dict(reference.named_parameters())
    watch = _Whole({name: named[name] for names in diff.parameters for name in names})
    frozen = [parameter for parameter in watch.parameters.values() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        _differentiate(reference, tuned, batch, where, watch)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return torch.tensor([watch.along(edit.deltas(torch.tensor([i]))) for i in range(diff.n_components)])


@dataclass(frozen=True, slots=True)
class _Call:
    """A tensor of one run to differentiate with respect to.

    Attributes:
        name: of the module or parameter.
        leaf: the tensor; of a module, a zero added to what it puts out.
        x: what the module reads.
    """

    name: str
    leaf: Tensor
    x: Tensor


class _Watch(ABC):
    """What gradients are wanted of, beside the stream."""

    @abstractmethod
    def on(self) -> AbstractContextManager[list[_Call]]:
        """The reference is run while inside; the calls of that run."""

    @abstractmethod
    def take(self, call: _Call, gradient: Tensor, documents: Tensor) -> None:
        """Take in a gradient of the KL; ``documents``: which one each row of that run was of."""


class _RankOne(_Watch):
    """Adds zeros to what the modules of a `WeightDiff` put out; the hooks are there only while a run is made."""

    def __init__(self, diff: WeightDiff, reference: Model, n_documents: int) -> None:
        self.diff = diff
        self.modules = {name: _linear(reference, name) for name in dict.fromkeys(diff.modules)}
        self.columns = {name: [i for i, its in enumerate(diff.modules) if its == name] for name in self.modules}
        self.found = torch.zeros(n_documents, diff.n_components)
        self.run: set[str] = set()

    @contextmanager
    def on(self) -> Iterator[list[_Call]]:
        """See `_Watch.on`."""
        calls: list[_Call] = []
        handles = []

        def add_zeros(name: str, _module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
            self._check(name, args[0], output)
            leaf = torch.zeros_like(output, requires_grad=True)
            calls.append(_Call(name, leaf, args[0].detach()))
            return output + leaf  # type: ignore[no-any-return]

        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(partial(add_zeros, name)))
            yield calls
        finally:
            for handle in handles:
                handle.remove()

    def take(self, call: _Call, gradient: Tensor, documents: Tensor) -> None:
        """See `_Watch.take`."""
        if gradient.dim() < 3 or len(gradient) != len(documents):
            raise DiffError(f"modules: {call.name[:80]!r} reads vectors without telling which document they are of")
        columns = self.columns[call.name]
        u, v = (torch.stack([_unit(side[i]) for i in columns]) for side in (self.diff.u, self.diff.v))
        values = (gradient.to(u.device).float() @ u.T) * (call.x.to(u.device).float() @ v.T)
        signs = self.diff.sigma[columns] / self.diff.sigma[columns].abs()
        sums = values.flatten(1, -2).sum(dim=1) * signs
        self.found.index_put_((documents[:, None], torch.tensor(columns)), sums, accumulate=True)
        self.run.add(call.name)

    def _check(self, name: str, x: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not isinstance(x, Tensor) or x.shape[:-1] != output.shape[:-1]:
            raise DiffError(f"modules: {name[:80]!r} does not map vectors to vectors")
        for i in self.columns[name]:
            u, v = self.diff.u[i].numel(), self.diff.v[i].numel()
            if (u, v) != (output.shape[-1], x.shape[-1]):
                raise DiffError(
                    f"u, v: {u} and {v} entries, but module {name[:80]} maps {x.shape[-1]} to {output.shape[-1]}"
                )


class _Whole(_Watch):
    """Parameters themselves; their gradients are summed over documents."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.parameters = parameters
        self.gradients: dict[str, Tensor] = {}

    @contextmanager
    def on(self) -> Iterator[list[_Call]]:
        """See `_Watch.on`."""
        yield [_Call(name, parameter, parameter) for name, parameter in self.parameters.items()]

    def take(self, call: _Call, gradient: Tensor, documents: Tensor) -> None:
        """See `_Watch.take`."""
        held = self.gradients.get(call.name)
        self.gradients[call.name] = gradient.float() if held is None else held.add_(gradient)

    def along(self, deltas: dict[str, Tensor]) -> float:
        """The slope along some deltas, all of them together of length 1; NaN where they are 0."""
        size = sum(float(delta.double().pow(2).sum()) for delta in deltas.values()) ** 0.5
        slope = sum(
            float((self.gradients[name] * delta).sum(dtype=torch.float64))
            for name, delta in deltas.items()
            if name in self.gradients
        )
        return slope / size if size else float("nan")


def _differentiate(reference: Model, tuned: Model, batch: Corpus, where: Tensor, watch: _Watch) -> None:
    """One backward pass through the reference: words first, a few positions at a time, then all blocks."""
    ids, mask = batch.ids.clone(), batch.mask.clone()  # tensors of inference mode cannot be differentiated with
    with watch.on() as inside:
        stream = hidden(reference, ids, mask, len(blocks(reference)) - 1)
    target, rows, documents = tuned_rows(tuned, ids, mask, where), stream.detach()[where], where.nonzero()[:, 0]
    parts = []
    for chunk in chunks(len(rows), vocabulary(reference)):
        row = rows[chunk].requires_grad_()
        with watch.on() as above:
            logits = unembed(reference, row)
        slope = kl_slope(logits.detach(), tuned, target[chunk])
        pull, *others = torch.autograd.grad(logits, [row, *(call.leaf for call in above)], slope, allow_unused=True)
        parts.append(pull)
        _hand(watch, above, others, documents[chunk])
    if stream.requires_grad:
        pull = torch.zeros_like(stream)
        pull[where] = torch.cat(parts)
        leaves = [call.leaf for call in inside]
        _hand(watch, inside, torch.autograd.grad(stream, leaves, pull, allow_unused=True), torch.arange(len(ids)))


def _hand(watch: _Watch, calls: list[_Call], gradients: Sequence[Tensor | None], documents: Tensor) -> None:
    for call, gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            watch.take(call, gradient, documents)


def _linear(model: Model, name: str) -> nn.Module:
    try:
        module: nn.Module = model.get_submodule(name)
    except AttributeError:
        raise DiffError(f"modules: the models have no module {name[:80]!r}") from None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise DiffError(f"modules: {name[:80]!r} is no module with one weight that reads vectors")
    owners = sum(held is weight for part in model.modules() for held in part.parameters(recurse=False))
    if owners > 1:
        raise DiffError(f"modules: {name[:80]!r} shares its weight with another module; it is not one map of vectors")
    return module


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm()
    return unit
