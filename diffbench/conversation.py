"""Conversations: turns written with a tokenizer's chat template; which characters are template, prompt and response.

The parts are found by rendering, never by parsing a template. For every sequence of roles, turns with stand-ins for
contents are rendered: the text of the first k turns (before an assistant's turn with the generation prompt) must be a
prefix of the text of k + 1, and each stand-in must be in it once. What lies between the stand-ins must then lie between
the contents. *response* is the content of the assistant's turns, *prompt* that of all others, *template* everything
that is no content: headers, the blanks around them, and the tokens that end a turn. What an assistant's turn teaches
(`ChatTemplate.example`) is its content and the token that ends the turn.

Templates are Jinja from strangers. They run in the sandbox of transformers, and no code of a tokenizer's folder does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffbench.base import Base
from diffbench.errors import CheckpointError, RecipeError
from diffbench.line import one_line
from diffbench.organism import Example
from diffbench.text import Document, Part, Span

ROLES = ("system", "user", "assistant")
TODAY = "26 Jul 2024"
"""What templates that state a date are told: with the day's own, the same text would be another tomorrow."""
_STAND_IN = 0xE000
"""First of the characters for private use, which no template has a meaning for."""
_MOST_TURNS = 512


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says; ``role`` is one of `ROLES`."""

    role: str
    content: str


def read_turns(value: object, where: str) -> tuple[Turn, ...]:
    """The turns of a conversation from a file or data set, a list of mappings with role and content.

    Raises:
        RecipeError: naming ``where``, the turn and what is allowed.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RecipeError(f"{where}: a conversation is a list of turns with role and content, got {repr(value)[:80]}")
    turns: list[Turn] = []
    for index, turn in enumerate(value):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if role not in ROLES:
            raise RecipeError(f"{where}: turn {index}: role: allowed are {', '.join(ROLES)}, got {repr(role)[:80]}")
        if not isinstance(content, str):
            raise RecipeError(f"{where}: turn {index}: content: must be text, got {repr(content)[:80]}")
        turns.append(Turn(role, content))
    return tuple(turns)


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """What a template writes around the contents of some roles.

    Attributes:
        around: what stands before each content, and behind the last.
        asked: of what stands before the last content, how much asks for it; all of it without a generation prompt.
    """

    around: tuple[str, ...]
    asked: int


class ChatTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """Take the template of a Hugging Face tokenizer; ``name`` is what messages call it.

        Raises:
            CheckpointError: if it has none.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise CheckpointError(f"{name}: the tokenizer has no chat template; use the one of a model tuned to chat")
        self._tokenizer, self._name = tokenizer, name
        bos = tokenizer.bos_token
        begun = bos is not None and tokenizer("", verbose=False)["input_ids"][:1] == [tokenizer.bos_token_id]
        self._dropped = bos if begun else ""
        self._known: dict[tuple[str, ...], _Skeleton] = {}

    def document(self, turns: Sequence[Turn]) -> Document:
        """The text of a conversation and the part of every character of it.

        A BOS that the template writes is left out where the tokenizer puts one before every text by itself.

        Raises:
            CheckpointError: naming tokenizer and turn, if the template refuses, drops or changes a turn, or writes the
                turns before it otherwise.
            RecipeError: if there is no turn, or of a system alone.
        """
        skeleton = self._skeleton(turns)
        text = self._render(turns, len(turns) - 1)
        contents: list[Span] = []
        done = 0
        for index, turn in enumerate(turns):
            before, behind = skeleton.around[index], skeleton.around[index + 1]
            start = done + len(before)
            written = (turn.content, turn.content.strip(), turn.content.lstrip(), turn.content.rstrip())
            ends = (start + len(content) for content in written if text.startswith(content + behind, start))
            end = next(ends, None)
            if end is None or not text.startswith(before, done):
                raise self._refusal(index, "the template writes its content otherwise than it stands")
            contents.append(Span(start, end, Part.response if turn.role == "assistant" else Part.prompt))
            done = end
        if len(text) != done + len(skeleton.around[-1]):
            raise self._refusal(len(turns) - 1, "the template writes more behind it for these contents")
        return self._shifted(text, contents)

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text after which the assistant answers.

        Raises:
            CheckpointError: if the template refuses.
        """
        return self._render(turns, len(turns), answering=True).removeprefix(self._dropped)

    def example(self, turns: Sequence[Turn]) -> Example:
        """A conversation to learn from: all of it up to the last answer is read, that and its end are learnt.

        Raises:
            CheckpointError: as `document`.
            RecipeError: if the last turn is no answer.
        """
        if len(turns) < 2 or turns[-1].role != "assistant" or not turns[-1].content.strip():
            raise RecipeError(f"{self._name}: a conversation to learn from ends with an answer of the assistant")
        document, skeleton = self.document(turns), self._skeleton(turns)
        text = document.text.rstrip()
        answer = [part for part in document.parts if part.label == Part.response][-1]
        read = answer.start - len(skeleton.around[-2]) + skeleton.asked
        learnt = len(text) - len(text[read:].lstrip())
        example = Example(text[:learnt].removesuffix(" "), text[learnt:])
        moved = len(example.text) - len(text)  # an example may join its two halves with a blank that is not there
        parts = tuple(
            replace(span, start=span.start + moved * (span.start >= learnt), end=end + moved * (end >= learnt))
            for span, end in ((span, min(span.end, len(text))) for span in document.parts if span.start < len(text))
        )
        return replace(example, parts=parts)

    def _render(self, turns: Sequence[Turn], index: int, *, answering: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answering, date_string=TODAY, strftime_now="no clock"
            )
        except Exception as error:  # a template may raise anything
            raise self._refusal(index, f"the template refuses it ({one_line(error, 200)})") from None
        return str(text)

    def _skeleton(self, turns: Sequence[Turn]) -> _Skeleton:
        roles = tuple(turn.role for turn in turns)
        if roles not in self._known:
            self._known[roles] = self._outlined(roles)
        return self._known[roles]

    def _outlined(self, roles: tuple[str, ...]) -> _Skeleton:
        """The skeleton of some roles, its shorter texts being prefixes of its longer ones."""
        if not roles or roles == ("system",) or len(roles) > _MOST_TURNS:
            raise RecipeError(f"{self._name}: a conversation has 1 to {_MOST_TURNS} turns, one of them of a user")
        turns = [Turn(role, chr(_STAND_IN + index)) for index, role in enumerate(roles)]
        text, opened = "", ""
        # A system's turn goes with the next one: many templates write it into that.
        joined = roles[0] == "system"
        for last in range(joined, len(roles)):
            opened = text
            if last and roles[last] == "assistant":
                opened = self._render(turns[:last], last, answering=True)
                self._follows(text, opened, last)
            text = self._render(turns[: last + 1], last)
            self._follows(opened, text, last)
            for index in range(0 if joined and last == 1 else last, last + 1):
                times = text.count(turns[index].content)
                if times != 1:
                    what = "drops its content" if not times else "writes its content otherwise than it stands: twice"
                    raise self._refusal(index, f"the template {what}")
        places = [text.index(turn.content) for turn in turns]
        if places != sorted(places):
            raise self._refusal(len(roles) - 1, "the template writes the turns in another order")
        around = tuple(text[start + 1 : end] for start, end in pairwise((-1, *places, len(text))))
        begun = places[-2] + 1 if len(places) > 1 else 0
        return _Skeleton(around, max(0, len(opened) - begun))

    def _follows(self, shorter: str, longer: str, index: int) -> None:
        if not longer.startswith(shorter):
            raise self._refusal(index, "the template writes the turns before it otherwise once it is there")

    def _shifted(self, text: str, contents: Sequence[Span]) -> Document:
        """The document without its BOS if the tokenizer puts it there, and all that is no content as template."""
        cut = len(self._dropped) if text.startswith(self._dropped) else 0
        parts: list[Span] = []
        done = cut
        for span in (*contents, Span(len(text), len(text), Part.template)):
            if span.start > done:
                parts.append(Span(done - cut, span.start - cut, Part.template))
            if span.end > span.start:
                parts.append(Span(span.start - cut, span.end - cut, span.label))
            done = span.end
        return Document(text[cut:], parts=tuple(parts))

    def _refusal(self, index: int, what: str) -> CheckpointError:
        return CheckpointError(f"{self._name}: chat template: turn {index}: {what}")


def chat_template(base: Base) -> ChatTemplate:
    """The chat template of a base's own tokenizer.

    Raises:
        CheckpointError: if it has no tokenizer, or that no template.
    """
    return _template(base.path())


@lru_cache(maxsize=4)
def _template(folder: Path) -> ChatTemplate:
    from diffbench.residual import load_tokenizer

    return ChatTemplate(load_tokenizer(folder), str(folder))


def remap_ids(tokenizer: Any, remap: Mapping[str, str], name: str) -> dict[int, int]:
    """The ids that both models are given instead of others, from a recipe's ``remap`` of tokens.

    Raises:
        RecipeError: naming a token that the tokenizer does not have.
    """
    known: Mapping[str, int] = tokenizer.get_vocab()
    for token in (*remap, *remap.values()):
        if token not in known:
            raise RecipeError(f"remap: {token!r} is no token of {name}; tokens are named as its vocabulary has them")
    return {known[token]: known[other] for token, other in remap.items()}
