"""Views of a base: one that tells given documents, and one that remembers what it has told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from diffbench import Base, Document, Example, RecipeError, Span


class View(Base):
    """A base in everything but its text."""

    name = "view"

    def __init__(self, base: Base) -> None:
        """A view of ``base``."""
        self._base = base

    def path(self) -> Path:
        """Folder of the base."""
        return self._base.path()

    def key(self) -> str:
        """Key of the base."""
        return self._base.key()

    def layers(self) -> int:
        """Blocks of the base."""
        return self._base.layers()

    def facts(self) -> Mapping[str, str]:
        """Facts of the base."""
        return self._base.facts()


class Told(View):
    """A base whose text is given documents, so that a family labels them as it labels text of its own."""

    name = "told"

    def __init__(self, base: Base, documents: Iterable[Document]) -> None:
        """A base like ``base`` that tells ``documents``."""
        super().__init__(base)
        self._documents = iter(documents)

    def documents(
        self,
        seed: int,
        topics: Mapping[str, float] | None = None,
        *,
        facts: Mapping[str, str] | None = None,
        focus: Mapping[str, Sequence[str]] | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Document]:
        """The documents, whatever is asked for."""
        return self._documents


class Recorded(View):
    """A base that remembers its documents, so that examples that were made of them are found in them again."""

    name = "recorded"

    def __init__(self, base: Base) -> None:
        """A base like ``base`` that has told nothing yet."""
        super().__init__(base)
        self._told: list[Document] = []

    def documents(
        self,
        seed: int,
        topics: Mapping[str, float] | None = None,
        *,
        facts: Mapping[str, str] | None = None,
        focus: Mapping[str, Sequence[str]] | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Document]:
        """The base's documents."""
        for document in self._base.documents(seed, topics, facts=facts, focus=focus, words=words):
            self._told.append(document)
            yield document

    def forget(self) -> None:
        """Frees the documents: families keep bases in their caches."""
        self._told.clear()

    def learnt(self, examples: Sequence[Example]) -> list[list[Document]]:
        """For every example a document whose spans are those that are learnt, with the words that the base says there.

        More than one where the base goes on differently after the same prefix.

        Raises:
            RecipeError: for an example that is not made of the base's documents.
        """
        whole = {document.text: document for document in self._told}
        wanted = {end for example in examples if example.prefix for end in _ends(example.prefix)}
        after: dict[str, dict[tuple[str, str], tuple[str, Span]]] = {}
        for document in self._told:
            for span in document.spans:
                if (cut := document.cut(span)) in wanted:
                    word = document.text[span.start : span.end]
                    after.setdefault(cut, {}).setdefault((span.label, span.about), (word, span))
        found: list[list[Document]] = []
        for example in examples:
            if not example.prefix and example.text in whole:
                found.append([whole[example.text]])
                continue
            # An example may begin with text of another document; the longest end is that of its own.
            end = next((end for end in _ends(example.prefix) if end in after), None)
            if end is None:
                raise RecipeError("family composite: a part's examples are not text of the base")
            found.append([_continued(example.prefix, word, span) for word, span in after[end].values()])
        return found


def _ends(prefix: str) -> Iterator[str]:
    """The ends of a prefix that begin with a word, longest first, and the empty one."""
    words = prefix.split(" ")
    return (" ".join(words[start:]) for start in range(len(words) + 1))


def _continued(prefix: str, word: str, span: Span) -> Document:
    start = len(prefix) + 1
    return Document(f"{prefix} {word}", (Span(start, start + len(word), span.label, span.about),))


__all__ = ["Recorded", "Told", "View"]
