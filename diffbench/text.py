"""Text with labelled spans: what generators write and what strata are read from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of characters ``[start, end)`` of a document and what it is.

    Labels are ``kind:value`` strings such as ``colour:blue``. A span labels the words *to be predicted*:
    the model position that speaks of it is the one before its first token.
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Document:
    """One text and its spans, in order of ``start``. Spans may be absent; they never overlap."""

    text: str
    spans: tuple[Span, ...] = ()

    def cut(self, span: Span) -> str:
        """The text before ``span``, without trailing blanks: a prefix whose next word the span is."""
        return self.text[: span.start].rstrip()
