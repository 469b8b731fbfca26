"""Agreement: the fast step's gradients and selections against a float64 restatement; no time is measured here.

Gradients are compared given the fast step's own selection, auxiliary loss of dead latents included. Selections are
compared with a full sort of the float64 scores. The tests assert the same at smaller sizes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from dictionary_reference import reference
from torch import Tensor

from benchmarks.jobs import Kind, Shape, Training
from benchmarks.lines import Goal, Line, Part
from benchmarks.mixtures import Mixture
from benchmarks.settings import Settings
from benchmarks.sides.diffbench_training import trainer
from diffbench.codes import Code
from diffbench.design import TopK
from diffbench.precision import use_fast_matmul
from diffbench.training import Trainer

SHAPES = (Shape(32, 256, 8, 512), Shape(96, 1000, 16, 1024), Shape(128, 2048, 32, 2048))
CASES: tuple[tuple[Kind, str], ...] = (("sae", "squared"), ("crosscoder", "squared"), ("crosscoder", "norm"))
TRAINED = 20
CHECKED = 4
WEAK = 0.02
DEAD_SHARE = 4
GRADIENT, FLIPS = 1e-5, 1.0


@dataclass(slots=True)
class Agreement:
    """Largest differences over the steps that were checked.

    Attributes:
        gradient: largest difference of an entry over the largest entry, over all parameters.
        flips: differing selections of every 65,536.
        dead: latents that the auxiliary loss was about, fewest over the steps.
    """

    gradient: float = 0.0
    flips: float = 0.0
    dead: int = 1 << 30


def measure(settings: Settings) -> Part:
    """Maxima over shapes and kinds, each after some steps of training."""
    torch.set_num_threads(1)
    use_fast_matmul()
    part = Part()
    for shape in SHAPES[: 1 if settings.quick else None]:
        for kind, error in CASES:
            what = f"{kind} {shape}, {error} error"
            found = _check(Training(kind, shape, steps=200, error="norm" if error == "norm" else "squared"))
            part.raw[what] = asdict(found)
            part.lines += [
                Line(
                    "gradients",
                    f"{what}, {found.dead} dead",
                    against="float64 autograd",
                    unit="of the largest",
                    ratio=found.gradient,
                    goal=Goal(most=GRADIENT),
                ),
                Line(
                    "selections",
                    what,
                    against="float64 sort",
                    unit="differ of 65,536",
                    ratio=found.flips,
                    goal=Goal(most=FLIPS),
                ),
            ]
    return part


def _check(job: Training) -> Agreement:
    mixture = Mixture(job.shape.width, 1 if job.kind == "sae" else 2, job.seed)
    mine = trainer(job)
    seen = _watch(mine)
    found = Agreement()
    for step in range(TRAINED + CHECKED):
        x = mixture.batch(step, job.shape.batch)
        if step < TRAINED:
            mine.step(x)
            continue
        dead = _kill(mine, job.shape.latents // DEAD_SHARE)
        mine.gradients(x)
        kept = _dense(seen[-1], mine, x) > 0
        dead = dead[~kept[:, dead].any(dim=0)]
        grads = [parameter.grad for parameter in mine.parameters()]
        exact = reference(mine, x, dead, kept)
        for grad, of in zip(grads, exact.gradients, strict=True):
            assert grad is not None
            found.gradient = max(found.gradient, float((grad.double() - of).abs().max() / of.abs().max()))
        sorted_ = reference(mine, x, dead).kept
        found.flips = max(found.flips, float((kept != sorted_).sum()) / 2 / float(kept.sum()) * 65536)
        found.dead = min(found.dead, len(dead))
        mine.step(x)
    return found


def _kill(mine: Trainer, count: int) -> Tensor:
    """Make the first latents count as silent for long, and so weak that none of them is ever kept."""
    assert isinstance(mine.design.sparsity, TopK)
    mine._silent[:count] = mine.design.sparsity.dead_after
    mine.encoder[:count] *= WEAK
    mine.encoder_bias[:count] = 0
    return torch.arange(count)


def _watch(mine: Trainer) -> list[Code]:
    """The codes that the trainer's selection returns, as they come."""
    seen: list[Code] = []
    select = mine.selection.select

    def watched(pre: Tensor, bias: Tensor, weight: Tensor) -> tuple[Code, float | None]:
        code, smallest = select(pre, bias, weight)
        seen[:] = [code]
        return code, smallest

    mine.selection.select = watched  # type: ignore[method-assign]
    return seen


def _dense(code: Code, mine: Trainer, x: Tensor) -> Tensor:
    """[B, n]: activities, zero where a latent is not kept."""
    n = len(mine.encoder)
    return code.decode(torch.eye(n))[-1].view(len(x), n)
