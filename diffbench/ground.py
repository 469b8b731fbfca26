"""Ground: what causal scores of a pair stand on, whatever the method.

Shapes: N documents, L positions, S strata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from safetensors.torch import load_file
from torch import Tensor

from diffbench.causal import KLSums, recovery, sweep
from diffbench.comparison import Comparison, noise_floor
from diffbench.corpus import Corpus
from diffbench.figure import Figure
from diffbench.patching import Limits, Patch
from diffbench.residual import Model
from diffbench.strata import inside


@dataclass(frozen=True, slots=True)
class Ground:
    """What causal scores stand on: the pair, its evaluation text, and what was measured of it whatever the method.

    Attributes:
        kl: sums by name: reference, tuned, none, pca1, pca2, ...
        token_kl: [N, L], KL(p_tuned || p_reference) at each position that predicts.
        strata: [N, L, S] bool.
        limits: outlier norms at the pair's layer.
        floor: nats per position under which KL is noise.
    """

    reference: Model
    tuned: Model
    corpus: Corpus
    kl: dict[str, KLSums]
    token_kl: Tensor
    strata: Tensor
    limits: Limits
    floor: float

    @classmethod
    def of(cls, comparison: Comparison, reference: Model, tuned: Model) -> Ground:
        """Read what a prepared comparison holds."""
        stored = load_file(comparison.path / "kl.safetensors")
        positions, token_kl = stored.pop("positions"), stored.pop("token_kl")
        corpus, facts = Corpus.load(comparison.path / "evaluation.safetensors"), comparison.facts()
        return cls(
            reference=reference,
            tuned=tuned,
            corpus=corpus,
            kl={name: KLSums(sums=table, positions=positions) for name, table in stored.items()},
            token_kl=token_kl,
            strata=inside(corpus, token_kl),
            limits={facts.layer: facts.outlier_norms},
            floor=noise_floor(facts.kl_noise),
        )

    def sweep(self, arms: Mapping[str, Patch], only: Tensor | None = None) -> dict[str, KLSums]:
        """`diffbench.causal.sweep` on this ground."""
        return sweep(
            self.reference, self.tuned, self.corpus, arms, strata=self.strata, limits=self.limits, only=only
        ).kl

    def same(self) -> Figure | None:
        """Why nothing can be recovered: the two models say the same; None where they do not."""
        found = recovery(self.kl["reference"], self.kl["reference"], None, self.floor)
        return None if found.state == "ok" else Figure.undefined(f"the two models: {found.reason}")
