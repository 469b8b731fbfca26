"""A method of another package: the mean difference, added everywhere at a chosen strength."""

from __future__ import annotations

from collections.abc import Iterable

from diffbench import Context, Diff, DirectionDiff, Field, Finding, Method, MethodOptions, ModelPair, hookimpl


class ExampleMean(Method):
    """The mean of the activation difference as one direction."""

    name = "example-mean"
    summary = "example of a third-party method: the mean difference at a chosen strength"

    class Options(MethodOptions):
        """How strongly the direction is added."""

        strength: float = Field(1.0, gt=0, le=2, description="1 adds the mean difference itself")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """One direction, or none where the models do not differ."""
        _, delta = pair.activations().load()
        mean = delta.mean(dim=0)
        size = mean.norm()
        n = int(size > 0)
        directions = (mean / size.clamp_min(1e-12)).repeat(n, 1)
        ctx.report("averaged", 1.0)
        return DirectionDiff(
            layer=ctx.layer,
            directions=directions,
            centre=mean * 0,
            bias=mean * 0,
            constant=(size * self.options.strength).repeat(n),
            findings=tuple(
                Finding(rank=1, component=0, layer=ctx.layer, score=float(size), tokens_up=up, tokens_down=down)
                for up, down in pair.logit_lens(directions)
            ),
            change_score=float(size),
            verdict="changed" if n else "unchanged",
        )


@hookimpl
def diffbench_methods() -> Iterable[type[Method]]:
    """The one method of this package."""
    return [ExampleMean]
