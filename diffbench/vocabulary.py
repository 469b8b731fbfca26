"""Vocabulary: the rows of two models' embeddings that are compared; one of them may have more rows at its end."""

from __future__ import annotations

from pydantic import Field

from diffbench.truth import Schema


class Vocabulary(Schema):
    """Rows of the embeddings of a pair. Both models are cut to the rows they have in common, on the way in and out."""

    rows: int = Field(ge=1, description="rows that both models have, and that both are compared on")
    reference: int = Field(ge=1, description="rows of the reference before it was cut")
    tuned: int = Field(ge=1, description="rows of the tuned model before it was cut")

    @classmethod
    def common(cls, reference: int, tuned: int) -> Vocabulary:
        """The vocabulary of two models with so many rows each."""
        return cls(rows=min(reference, tuned), reference=reference, tuned=tuned)

    @property
    def same(self) -> bool:
        """Whether neither model is cut."""
        return self.reference == self.tuned

    def told(self) -> str:
        """What was cut off, for people; "" where nothing was."""
        if self.same:
            return ""
        which, more = ("reference", self.reference) if self.reference > self.tuned else ("tuned model", self.tuned)
        return f"rows {self.rows}..{more - 1} of the {which}'s embeddings are left out: the other model has {self.rows}"
