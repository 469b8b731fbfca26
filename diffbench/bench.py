"""Bench: a prepared comparison with its models, Truth and judge in memory, for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffbench.comparison import Comparison
from diffbench.corpus import Corpus
from diffbench.judge import Judge
from diffbench.plugins import find_judge
from diffbench.residual import Model, load_pair, load_tokenizer
from diffbench.truth import Truth


@dataclass(frozen=True, slots=True)
class Bench:
    """What scoring a comparison needs in memory."""

    comparison: Comparison
    truth: Truth | None
    reference: Model
    tuned: Model
    tokenizer: Any
    judge: Judge

    @classmethod
    def open(cls, comparison: Comparison, judge: str, *, apart: bool = False) -> Bench:
        """Load models, Truth and judge.

        Args:
            comparison: prepared.
            judge: its name.
            apart: the models share no weights, so that they can be edited.
        """
        base = comparison.organism.model_path("base")
        reference, tuned = load_pair(*comparison.models(), base=base, apart=apart)
        return cls(
            comparison=comparison,
            truth=comparison.truth(),
            reference=reference,
            tuned=tuned,
            tokenizer=load_tokenizer(comparison.models()[1], base=base),
            judge=find_judge(judge)(),
        )

    def corpus(self, name: str) -> Corpus:
        """The evaluation or judge split."""
        return Corpus.load(self.comparison.path / f"{name}.safetensors")
