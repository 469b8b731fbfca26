"""Weights: the difference of the parameters, taken apart into singular components, by layers, or not at all.

What needs torch is imported where it runs, so that listing and resuming stay fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from diffbench import Field, Method, MethodOptions

if TYPE_CHECKING:
    from torch import Tensor

    from diffbench import Context, Diff, Finding, ModelPair, WeightChange, WeightDiff


class WeightSvd(Method):
    """Singular components of every linear module's difference."""

    name = "weight-svd"
    summary = "largest singular components of W_t - W_b over all linear modules"
    reference = "Zhong & Raghunathan 2025 (arXiv 2508.00161)"
    access = frozenset({"weights"})
    baseline = True

    class Options(MethodOptions):
        """How many, and in which order."""

        components: int = Field(512, ge=1, le=100_000, description="components to keep, up to the tier's limit")
        relative: bool = Field(
            False, description="order by the singular value over the Frobenius norm of the reference's own matrix"
        )

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Decompose matrix by matrix and keep the largest components; those that rounding could make are left out.

        The change score is the Frobenius norm of the difference of all parameters over that of the reference's.
        """
        from diffbench import ROUNDING, principal_parts

        limit = min(self.options.components, ctx.budget.components)
        size, best = _Size(), list[_Component]()
        linear = 0.0
        for change in pair.weight_changes():
            delta, base = size.add(change)
            if not change.changed or change.module is None:
                continue
            linear += delta
            for u, sigma, v in zip(*principal_parts(change.matrix, limit), strict=True):
                if float(sigma) > ROUNDING * sqrt(base):
                    # Of a matrix that was zero before, any change would be infinitely large.
                    score = float(sigma) / sqrt(base) if self.options.relative and base > 0 else float(sigma)
                    best.append(_Component(change.module, u.float().clone(), float(sigma), v.float().clone(), score))
            best = sorted(best, key=lambda component: -component.score)[:limit]
        kept = sum(component.sigma**2 for component in best)
        notes = {
            "share_of_linear_modules": kept / linear if linear > 0 else None,
            "share_of_all_parameters": kept / size.delta if size.delta > 0 else None,
        }
        return _rank_one(best, size.relative, pair, notes)


class LoraDirections(Method):
    """Singular components of what a LoRA adapter adds."""

    name = "lora-directions"
    summary = "singular components of the LoRA adapter's B A; not applicable to other fine-tunes"
    reference = "Hu et al. 2021 (arXiv 2106.09685)"
    access = frozenset({"weights"})
    baseline = True

    class Options(MethodOptions):
        """How many."""

        components: int = Field(1024, ge=1, le=100_000, description="components to keep, up to the tier's limit")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Decompose the product of the factors of each module without forming it.

        The change score is the Frobenius norm of what the adapter adds over that of all of the reference's parameters.

        Raises:
            NotApplicable: if the models do not differ by plain LoRA adapters alone.
        """
        import torch

        from diffbench import ROUNDING, factored_parts

        found: list[_Component] = []
        squares = 0.0
        modules: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for part in pair.adapter():
            modules.setdefault(part.module, []).append((part.scale * part.b.double(), part.a.double()))
        for module, pairs in modules.items():
            b, a = torch.cat([b for b, _ in pairs], dim=1), torch.cat([a for _, a in pairs])
            u, sigma, v = factored_parts(b, a)
            squares += float(sigma.square().sum())
            keep = (sigma > ROUNDING * sigma.max()).nonzero().flatten().tolist()
            found += [_Component(module, u[i].float(), float(sigma[i]), v[i].float(), float(sigma[i])) for i in keep]
        found.sort(key=lambda component: -component.sigma)
        base = sum(float(weight.double().square().sum()) for weight in pair.weights("reference").values())
        best = found[: min(self.options.components, ctx.budget.components)]
        kept = sum(component.sigma**2 for component in best)
        notes = {"share_of_adapter": kept / squares if squares > 0 else None, "modules": len(modules)}
        return _rank_one(best, sqrt(squares / base), pair, notes)


class TaskArithmetic(Method):
    """The whole difference of the parameters, times a scale."""

    name = "task-arithmetic"
    summary = "the full weight difference as one component, times a scale"
    reference = "Ilharco et al. 2023 (arXiv 2212.04089)"
    access = frozenset({"weights"})
    baseline = True

    class Options(MethodOptions):
        """How much of it."""

        scale: float = Field(
            1.0, ge=-100, le=100, description="what the difference is multiplied by; 1: the tuned model"
        )

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Every parameter that differs, in one component."""
        from diffbench import Finding

        size, names, n = _Size(), list[str](), 0
        for change in pair.weight_changes():
            size.add(change)
            n += 1
            if change.changed:
                names.append(change.name)
        told = f"{len(names)} of {n} parameters differ, by {size.relative:.3g} of their size in all"
        found = (Finding(rank=1, component=0, score=size.relative, text=told),) if names else ()
        return _whole([names] if names else [], self.options.scale, size.relative, found)


class LayerStitching(Method):
    """Layers of the reference replaced by the tuned model's, from below."""

    name = "layer-stitching"
    summary = "blocks replaced by the tuned model's one after the other from below"
    reference = "Minder & Dumas 2025, appendix (model stitching)"
    access = frozenset({"weights"})
    baseline = True

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """One component a block, in order from below; findings name the blocks by how much they changed.

        Embeddings go with the first block; what comes after the last one (final norm, unembedding) is a component of
        its own. Where nothing differs there is no component.
        """
        from diffbench import Finding

        whole = _Size()
        names: dict[int, list[str]] = {}
        sizes: dict[int, _Size] = {}
        for change in pair.weight_changes():
            whole.add(change)
            part = change.layer if change.layer is not None else 0 if change.embedding else pair.n_layers
            sizes.setdefault(part, _Size()).add(change)
            if change.changed:
                names.setdefault(part, []).append(change.name)
        parts = sorted(names)
        ranked = sorted(parts, key=lambda part: -sizes[part].relative)
        found = tuple(
            Finding(
                rank=rank,
                component=parts.index(part),
                layer=min(part, pair.n_layers - 1),
                score=sizes[part].relative,
                text=f"{_part(part, pair.n_layers)}: {len(names[part])} parameters differ, by "
                f"{sizes[part].relative:.3g} of their size",
            )
            for rank, part in enumerate(ranked, start=1)
        )
        return _whole([names[part] for part in parts], 1.0, whole.relative, found)


@dataclass(frozen=True, slots=True)
class _Component:
    """sigma u v^T of a module, and what it is ordered by."""

    module: str
    u: Tensor
    sigma: float
    v: Tensor
    score: float


@dataclass(slots=True)
class _Size:
    """Sums of squares of differences and of the reference's parameters."""

    delta: float = 0.0
    base: float = 0.0

    def add(self, change: WeightChange) -> tuple[float, float]:
        """Take in a parameter and return its own two sums."""
        delta = float(change.delta.square().sum()) if change.changed else 0.0
        base = float(change.base.double().square().sum())
        self.delta += delta
        self.base += base
        return delta, base

    @property
    def relative(self) -> float:
        """Norm of the difference over that of the reference; over nothing it is the norm itself."""
        return sqrt(self.delta / self.base) if self.base > 0 else sqrt(self.delta)


def _rank_one(
    components: Sequence[_Component], relative: float, pair: ModelPair, notes: dict[str, float | int | None]
) -> WeightDiff:
    import torch

    from diffbench import WeightDiff, describe

    diff = WeightDiff(
        modules=tuple(component.module for component in components),
        sigma=torch.tensor([component.sigma for component in components], dtype=torch.float32),
        u=tuple(component.u for component in components),
        v=tuple(component.v for component in components),
        change_score=relative,
        notes={**notes},
    )
    return describe(diff, pair, torch.tensor([component.score for component in components], dtype=torch.float64))


def _whole(names: Sequence[Sequence[str]], scale: float, relative: float, findings: tuple[Finding, ...]) -> WeightDiff:
    import torch

    from diffbench import ROUNDING, WeightDiff

    return WeightDiff(
        parameters=tuple(map(tuple, names)),
        sigma=torch.full((len(names),), scale),
        findings=findings,
        change_score=relative,
        verdict="changed" if relative > ROUNDING else "unchanged",
    )


def _part(part: int, n_layers: int) -> str:
    if part == n_layers:
        return "final norm and unembedding"
    return "embeddings and block 0" if part == 0 else f"block {part}"
