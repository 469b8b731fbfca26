"""Chat server: one request to any server that has the chat completions interface, and what can come of it.

Nothing is retried here, and nothing raised that a server caused: what came back is one of three things. No key, address
or header leaves this module, in no message and in no log.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from diffbench.dialect import Dialect
from diffbench.errors import JudgeError
from diffbench.judge_settings import JudgeSettings
from diffbench.line import one_line
from diffbench.prompts import Prompt
from diffbench.secret import Secrets, keep_out_of_logs, secrets_of_address

if TYPE_CHECKING:
    import openai

MAX_BODY = 8 << 20
"""Bytes of a response."""

NO_KEY = "none"
"""Sent as the key to a server of one's own that wants none; the client insists on one."""

_AGAIN = {408, 409, 425, 429}
_BROKE = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
_FILTERED = {"content_filter", "content_policy_violation"}


@dataclass(frozen=True, slots=True)
class Said:
    """A completion.

    Attributes:
        content: what the model wrote; None: nothing.
        refusal: what it or the server says where it would not answer.
        finish: why it ended, in the words of the server.
        tokens_in: tokens of the prompt as the server counts them; None: it does not say.
        tokens_out: tokens of the answer, thinking included.
        model: which model answered, in the words of the server.
    """

    content: str | None
    refusal: str | None
    finish: str
    tokens_in: int | None
    tokens_out: int | None
    model: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing came back that could be read; the same request may do better.

    Attributes:
        why: one line.
        wait: seconds that the server asks to wait; None: it does not say.
        billed: whether the model may have answered all the same, so that it has to be reckoned with.
        answered: whether it did answer, though not as it must.
    """

    why: str
    wait: float | None = None
    billed: bool = False
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """The server does not take the request, and will not if it is sent again as it is.

    Attributes:
        why: one line, with what to do about it where that is known.
        every: whether it takes no other question either.
        dialect: how to ask it instead; None: no other way is likely to help.
    """

    why: str
    every: bool = False
    dialect: Dialect | None = None


class _Usage(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    prompt_tokens: int
    completion_tokens: int


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    """As much of a completion as is read; servers add fields of their own, and leave others out."""

    model_config = ConfigDict(extra="ignore", strict=True)
    choices: list[_Choice]
    usage: Any = None
    model: Any = None


class ChatServer:
    """One server, as the openai client finds it in the environment. May be asked from many threads."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Nothing is read or sent before the first request."""
        self._settings = settings
        self._client: openai.OpenAI | None = None
        self._secrets = Secrets()
        self._lock = threading.Lock()

    def complete(self, model: str, prompt: Prompt, dialect: Dialect) -> Said | Lost | Denied:
        """Send one request.

        Raises:
            JudgeError: if the environment names no server or no key, or not rightly.
        """
        client = self._ready()
        import openai

        seconds, sent = self._settings.timeout, dialect.body(self._settings, prompt.schema)
        end = time.monotonic() + seconds
        try:
            with client.chat.completions.with_streaming_response.create(
                model=model,
                messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
                extra_body=sent,
                timeout=seconds,
            ) as response:
                body = _read(response, end)
        except openai.APIStatusError as error:
            return self._refused(error, dialect, model)
        except openai.APITimeoutError as error:
            return self._lost(f"no answer in {seconds:g} s", error)
        except openai.APIConnectionError as error:
            return self._lost("not reached", error)
        # What the client's libraries raise while they read an error's body, they raise as it is, and which these
        # libraries are depends on the client's version.
        except Exception as error:
            return self._lost("nothing that can be read", error)
        return body if isinstance(body, Lost) else self._said(body)

    def _ready(self) -> openai.OpenAI:
        with self._lock:
            if self._client is None:
                address, key = _address(), _key()
                self._secrets = Secrets.of(_secret_values(address, key))
                import openai

                client = openai.OpenAI(api_key=key, max_retries=0, timeout=self._settings.timeout)
                client.chat.completions.with_streaming_response  # noqa: B018 (its modules have loggers, made now)
                keep_out_of_logs(self._secrets)
                self._client = client
            return self._client

    def _said(self, body: bytes) -> Said | Lost:
        try:
            document = json.loads(body)
            found = _Completion.model_validate(document)
            choice = found.choices[0]
        except (ValueError, RecursionError, IndexError):
            said = self._clean(body.decode("utf-8", "replace"))
            return Lost(f"the server's answer is no completion: {said}", billed=True, answered=True)
        usage = _usage(found.usage)
        refusal = choice.message.refusal or None
        if choice.finish_reason in _FILTERED:
            refusal = refusal or "the server's filter held the answer back"
        content = choice.message.content
        return Said(
            content=None if content is None else self._secrets.out_of_answer(content),
            refusal=None if refusal is None else self._clean(refusal),
            finish=self._clean(choice.finish_reason or ""),
            tokens_in=None if usage is None else usage.prompt_tokens,
            tokens_out=None if usage is None else usage.completion_tokens,
            model=self._clean(found.model) if isinstance(found.model, str) else "",
        )

    def _refused(self, error: openai.APIStatusError, dialect: Dialect, model: str) -> Said | Lost | Denied:
        status, why = error.status_code, self._clean(_message(error.body))
        if str(error.code) in _FILTERED:
            return Said(None, f"the server's filter held the question back: {why}", "", 0, 0, "")
        if str(error.code) in _BROKE or status == 402:
            return Denied(f"the server wants to be paid ({status}): {why}", every=True)
        if status in _AGAIN or status >= 500:
            other = dialect.after(_message(error.body), sure=False) if status >= 500 else None
            if other is not None and other.format != dialect.format:  # some fail where they should refuse
                return Denied(f"the server failed ({status}): {why}", dialect=other)
            return Lost(f"the server failed ({status}): {why}", wait=_wait(error.response.headers))
        if status == 401:
            return Denied(f"the server does not take the key (401); set OPENAI_API_KEY: {why}", every=True)
        if status == 404:
            advice = "OPENAI_BASE_URL mostly ends in /v1, and the model is named as the server names it"
            return Denied(f"the server has no model {model!r} at this address (404); {advice}: {why}", every=True)
        if status in (400, 422):
            other = dialect.after(_message(error.body), _blamed(error.body), sure=True)
            advice = (
                "" if other else "; if it is too long, lower DIFFBENCH_JUDGE_MAX_TOKENS or raise the server's context"
            )
            return Denied(f"the server does not take the question ({status}){advice}: {why}", dialect=other)
        return Denied(f"the server does not take the question ({status}): {why}")

    def _lost(self, what: str, error: Exception) -> Lost:
        cause = error.__cause__ or error
        kind = type(cause).__name__
        sent = kind not in ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
        return Lost(f"{what} ({kind}: {self._clean(str(cause))})", billed=sent)

    def _clean(self, text: str) -> str:
        return one_line(self._secrets.out_of(text[:20_000]), 300)


def _address() -> str:
    address = os.environ.get("OPENAI_BASE_URL", "").strip()
    if address:
        try:
            parts = urlsplit(address)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            fine = False
        if not fine:
            raise JudgeError("OPENAI_BASE_URL is no address of a server; it looks like http://localhost:8000/v1")
    return address


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and os.environ.get("OPENAI_BASE_URL", "").strip():
        return NO_KEY
    if not key:
        raise JudgeError("no key is set: set OPENAI_API_KEY, or for a server of your own OPENAI_BASE_URL")
    if not (key.isascii() and key.isprintable()):
        raise JudgeError("OPENAI_API_KEY holds characters that cannot be sent; set it anew, without line breaks")
    return key


def _secret_values(address: str, key: str) -> list[str]:
    """Every value of the environment that the client may send, or that an error may quote."""
    names = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
    found = [os.environ.get(name, "").strip() for name in names]
    headers = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    found += [header.partition(":")[2].strip() for header in headers]
    found += [] if key == NO_KEY else [key]
    return [value for value in (*found, *secrets_of_address(address)) if value]


def _read(response: Any, end: float) -> bytes | Lost:
    """The body, unless it takes too long, is too long, or breaks off."""
    body = bytearray()
    try:
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_BODY:
                return Lost(f"an answer of more than {MAX_BODY} bytes", billed=True)
            if time.monotonic() > end:
                return Lost("no whole answer in time", billed=True)
    # Only the client's libraries are at work in the loop, and which of them the client uses depends on its version.
    except Exception as error:
        return Lost(f"the answer broke off ({type(error).__name__})", billed=True)
    return bytes(body)


def _usage(found: object) -> _Usage | None:
    try:
        usage = _Usage.model_validate(found)
    except ValidationError:
        return None
    return usage if min(usage.prompt_tokens, usage.completion_tokens) >= 0 else None


def _message(body: object) -> str:
    """What an error says, of the forms that servers have for it."""
    if isinstance(body, Mapping):
        for name in ("message", "detail", "error"):
            if body.get(name):
                return str(body[name])
    return "" if body is None else str(body)


def _blamed(body: object) -> str | None:
    """The parameter that an error names as the reason, if it does; its message may quote the whole request."""
    if isinstance(body, Mapping):
        if isinstance(body.get("param"), str) and body["param"]:
            return str(body["param"])
        details = body.get("detail")
        if isinstance(details, list) and details and all(isinstance(one, Mapping) and "loc" in one for one in details):
            return " ".join(str(one["loc"]) for one in details)
    return None


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, a number or a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        said = headers.get(name)
        if said is None:
            continue
        try:
            seconds = float(said) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
