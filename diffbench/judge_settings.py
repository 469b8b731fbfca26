"""Judge settings: how a judge behind a server is asked, from environment variables ``DIFFBENCH_JUDGE_...``.

Address and key of the server are not among them: the openai client has its own variables for these, ``OPENAI_BASE_URL``
and ``OPENAI_API_KEY``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, ValidationError

from diffbench.errors import JudgeError
from diffbench.line import one_line
from diffbench.truth import Schema

PREFIX = "DIFFBENCH_JUDGE_"

Price = Annotated[float, Field(ge=0, le=1e6)]


class JudgeSettings(Schema):
    """How a judge behind a server is asked. Each field is read from the variable of its name, in capitals."""

    parallel: int = Field(8, ge=1, le=256, description="questions asked at once")
    timeout: float = Field(120.0, gt=0, le=3600, description="seconds for one answer, from the first byte to the last")
    retries: int = Field(6, ge=0, le=50, description="times that a question is sent again after errors of the server")
    backoff: float = Field(1.0, gt=0, le=60, description="seconds before the first of these; doubled each time")
    longest_wait: float = Field(60.0, gt=0, le=3600, description="seconds between two tries at most")
    price: tuple[Price, Price] | None = Field(None, description="money per million tokens, in and out: IN,OUT")
    max_tokens: int = Field(4096, ge=16, le=1_000_000, description="tokens of one answer, thinking included")
    temperature: float = Field(0.0, ge=0, le=2)

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Money for some tokens; None where no price is known."""
        return None if self.price is None else (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6


def read_settings(environment: Mapping[str, str] | None = None) -> JudgeSettings:
    """The settings of an environment, by default this process's; a variable that is empty is not set.

    Raises:
        JudgeError: if one is malformed.
    """
    given = os.environ if environment is None else environment
    found = {name: given.get(PREFIX + name.upper(), "").strip() for name in JudgeSettings.model_fields}
    values: dict[str, object] = {name: value for name, value in found.items() if value}
    if "price" in values:
        values["price"] = found["price"].split(",")
    try:
        return JudgeSettings.model_validate(values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        why = error.errors()[0]["msg"]
        form = " (write IN,OUT per million tokens, as 0.15,0.6)" if name == "price" else ""
        raise JudgeError(f"{PREFIX}{name.upper()}={one_line(found[name], 60)}: {why}{form}") from None
