"""Dialect: which parts of the chat completions interface a server takes. All take the messages; the rest varies."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffbench.answer_form import JsonSchema
from diffbench.judge_settings import JudgeSettings

_TOO_LONG = re.compile(r"context.{0,20}(length|window|size)|maximum context|too (long|large)|exceed|at most \d")
_ABOUT_FORMAT = re.compile(
    r"response_format|response format|json_schema|json_object|json schema|grammar|guided|structured"
)
_ABOUT_LIMIT = re.compile(r"max_tokens|max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server is asked; what it was found not to take is left out.

    Attributes:
        format: what it is told of the form of the answer, besides the words of the prompt.
        limit: under which name it is told how long an answer may be.
        temperature: whether it is told a temperature; a model with reasoning may take none but its own.
    """

    format: Literal["json_schema", "json_object", "none"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens", "none"] = "max_tokens"
    temperature: bool = True

    def body(self, settings: JudgeSettings, schema: JsonSchema) -> dict[str, Any]:
        """What is sent besides model and messages."""
        found: dict[str, Any] = {}
        if self.format == "json_schema":
            told = {"name": "answer", "strict": True, "schema": schema}
            found["response_format"] = {"type": "json_schema", "json_schema": told}
        elif self.format == "json_object":
            found["response_format"] = {"type": "json_object"}
        if self.limit != "none":
            found[self.limit] = settings.max_tokens
        if self.temperature:
            found["temperature"] = settings.temperature
        return found

    def after(self, complaint: str, reason: str | None = None, *, sure: bool) -> Dialect | None:
        """What to try when a server complains; None: nothing of this can be meant.

        Args:
            complaint: what it says.
            reason: the parameter that it names as the reason, if it does.
            sure: whether it did refuse the request as it was, so that even without a word about it the form of the
                answer may be the reason. Else it must be named.
        """
        if _TOO_LONG.search(complaint.casefold()):
            return None
        said = (reason or complaint).casefold()
        if self.temperature and "temperature" in said:
            return replace(self, temperature=False)
        if self.limit != "none" and _ABOUT_LIMIT.search(said):
            return replace(self, limit="max_completion_tokens" if self.limit == "max_tokens" else "none")
        if self.format != "none" and (sure or _ABOUT_FORMAT.search(said)):
            return replace(self, format="json_object" if self.format == "json_schema" else "none")
        return None

    def told(self, settings: JudgeSettings) -> str:
        """What was sent, in one line for the record."""
        limit = "no limit of tokens (refused)" if self.limit == "none" else f"{self.limit} {settings.max_tokens}"
        temperature = f"temperature {settings.temperature:g}" if self.temperature else "temperature refused"
        form = "no response_format (refused)" if self.format == "none" else f"response_format {self.format}"
        return f"{form}, {temperature}, {limit}"
