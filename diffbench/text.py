"""Text with labelled spans: what generators write and what strata are read from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of characters ``[start, end)`` of a document and what it is.

    Labels are ``kind:value`` strings such as ``colour:blue``. A span labels the words *to be predicted*:
    the model position that speaks of it is the one before its first token.

    Attributes:
        about: what the words are about, as dotted names from the general to the particular, where the generator knows:
            a fact as ``fact.entity.bazing.habitat``, a free word as ``free.story.adj``; "" elsewhere.
    """

    start: int
    end: int
    label: str
    about: str = ""


class Part(StrEnum):
    """Which part of a conversation a token is; a plain text has none."""

    none = "none"
    template = "template"
    prompt = "prompt"
    response = "response"


@dataclass(frozen=True, slots=True)
class Document:
    """One text and its spans, in order of ``start``. Spans may be absent; they never overlap.

    Attributes:
        parts: the parts of a conversation, labelled with a `Part`, in order and without overlap; none in a plain text.
    """

    text: str
    spans: tuple[Span, ...] = ()
    parts: tuple[Span, ...] = ()

    def cut(self, span: Span) -> str:
        """The text before ``span``, without trailing blanks: a prefix whose next word the span is."""
        return self.text[: span.start].rstrip()
