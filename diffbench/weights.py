"""Weights: the parameters of two models side by side, one at a time.

Shapes: d_in, d_out what a linear module reads and writes; n singular components.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffbench.architecture import Model, blocks, width
from diffbench.errors import CheckpointError
from diffbench.lens import Lens, Words

ROUNDING = 2.0**-24
"""Relative size under which a difference of float32 weights cannot be told from their rounding."""
WRITERS = frozenset("o_proj down_proj c_proj out_proj dense dense_4h_to_h fc2 fc_out wo w2".split())
"""Last parts of the names of modules whose output is added to the residual stream."""
EXACT_BELOW = 512
"""Smaller side of a matrix up to which all its singular values are worked out."""
SPARE, PASSES = 16, 4
"""Of the randomised decomposition of larger ones: directions beyond those asked for, power iterations."""


@dataclass(frozen=True, slots=True)
class WeightChange:
    """A parameter of both models.

    Attributes:
        name: as in ``named_parameters()``; of a tied one its first name.
        module: the linear module whose own matrix it is; None: of none, as of an unembedding tied to the embedding.
        layer: the 0-based block it belongs to; None: of none.
        embedding: whether it is looked up by token or place.
        transposed: whether the matrix is stored as [d_in, d_out].
        base: of the reference, as it is stored.
        tuned: of the tuned model.
    """

    name: str
    module: str | None
    layer: int | None
    embedding: bool
    transposed: bool
    base: Tensor
    tuned: Tensor

    @property
    def changed(self) -> bool:
        """Whether the two differ at all."""
        return not self.base.equal(self.tuned)

    @property
    def delta(self) -> Tensor:
        """W_tuned - W_base in float64, as it is stored."""
        return self.tuned.double() - self.base.double()

    @property
    def matrix(self) -> Tensor:
        """[d_out, d_in]: W_tuned - W_base of a linear module in float64."""
        return self.delta.T if self.transposed else self.delta


def weight_changes(reference: Model, tuned: Model) -> Iterator[WeightChange]:
    """All parameters of two models of one shape, changed or not, in the tuned model's order; a tied one comes once.

    Raises:
        CheckpointError: if a parameter is in one of the models alone, or tied there alone, or has another shape.
    """
    theirs, ours = (dict(model.named_parameters()) for model in (reference, tuned))
    for name in (*theirs, *ours):
        one, other = (tuple(each[name].shape) if name in each else None for each in (theirs, ours))
        if one != other:
            said = ("has none" if shape is None else f"has one of shape {list(shape)}" for shape in (one, other))
            raise CheckpointError("weights: {}: the reference {}, the tuned model {}".format(name, *said))
    places = _places(tuned)
    return (_change(tuned, name, theirs[name], ours[name], places) for name in ours)


def _change(model: Model, name: str, base: Tensor, tuned: Tensor, places: dict[str, int]) -> WeightChange:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    linear = last == "weight" and (isinstance(module, nn.Linear) or _conv(module))
    return WeightChange(
        name=name,
        module=owner if linear else None,
        layer=_layer(places, name),
        embedding=isinstance(module, nn.Embedding),
        transposed=_conv(module),
        base=base.detach().cpu(),
        tuned=tuned.detach().cpu(),
    )


def principal_parts(matrix: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``n`` singular components of a matrix [d_out, d_in]: u [n, d_out], sigma [n] falling, v [n, d_in].

    Large matrices are decomposed by a randomised method (Halko et al. 2011), which follows torch's global seed. The
    largest entry of every u is positive: singular vectors come with an arbitrary sign.
    """
    n = min(n, *matrix.shape)
    if min(matrix.shape) <= EXACT_BELOW or n + SPARE >= min(matrix.shape):
        u, sigma, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        v = vh.T
    else:
        u, sigma, v = torch.svd_lowrank(matrix.float(), q=n + SPARE, niter=PASSES)
    return _oriented(u[:, :n].T, sigma[:n], v[:, :n].T)


def factored_parts(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular components of b @ a, as `principal_parts` gives them, from b [d_out, r] and a [r, d_in] alone."""
    (q_out, r_out), (q_in, r_in) = (torch.linalg.qr(factor.double()) for factor in (b, a.T))
    u, sigma, vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return _oriented((q_out @ u).T, sigma, vh @ q_in.T)


def _oriented(u: Tensor, sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Components (u [n, d_out], sigma [n], v [n, d_in]) with the largest entry of every u positive."""
    sign = u.gather(1, u.abs().argmax(dim=1, keepdim=True)).sign()
    return u * sign, sigma, v * sign


def layer_of(model: Model, name: str) -> int | None:
    """The 0-based block that a module or parameter belongs to; None: to none."""
    return _layer(_places(model), name)


def read_out(model: Model, lens: Lens, modules: Sequence[str], vectors: Sequence[Tensor], top: int) -> list[Words]:
    """Tokens that outputs of linear modules promote and suppress most.

    What is added to the residual stream is read through the lens, what the unembedding writes as the logits it is; of
    anything else no token is named.

    Args:
        model: has the modules.
        lens: of the same model.
        modules: one for each vector.
        vectors: [d_out] each.
        top: tokens each way.

    Raises:
        CheckpointError: if there is no such module.
    """
    there = dict(model.named_modules())
    missing = next((name for name in modules if name not in there), None)
    if missing is not None:
        raise CheckpointError(f"modules: the model has no module {missing}")
    stream = [index for index, name in enumerate(modules) if _writes(name, there[name], width(model))]
    through = lens.read(torch.stack([vectors[index].float() for index in stream]), top) if stream else []
    read = dict(zip(stream, through, strict=True))
    said = model.get_output_embeddings()
    return [
        read[index] if index in read else lens.strongest(vector, top) if there[name] is said else ([], [])
        for index, (name, vector) in enumerate(zip(modules, vectors, strict=True))
    ]


def _places(model: Model) -> dict[str, int]:
    """Names of the blocks, each with its index."""
    index = {id(block): layer for layer, block in enumerate(blocks(model))}
    return {name: index[id(module)] for name, module in model.named_modules() if id(module) in index}


def _layer(places: dict[str, int], name: str) -> int | None:
    return next((layer for block, layer in places.items() if f"{name}.".startswith(f"{block}.")), None)


def _conv(module: Any) -> bool:
    """Whether a linear module is one of GPT-2's, which store their matrix the other way round."""
    return type(module).__name__ == "Conv1D"


def _writes(name: str, module: Any, d: int) -> bool:
    return name.rpartition(".")[2] in WRITERS and module.weight.shape[1 if _conv(module) else 0] == d
