"""Secret: what must never be shown or kept, and how it is taken out of texts and logs.

Servers echo headers in their errors, clients put addresses into their logs: whatever leaves `diffbench.chat_server`
goes through here first.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN = "[hidden]"

LEAST, LEAST_IN_ANSWERS = 4, 8
"""Characters of a secret. A shorter word, as ``EMPTY`` for a server that wants none, occurs in answers by itself."""

LOGGERS = ("openai", "httpx", "httpcore", "anyio")
"""Loggers of the client's libraries, with those below them and those of their later versions (``httpx2``)."""

_LATER = ("connection", "http11", "http2", "proxy", "socks")  # of modules that are imported when they are needed

_PATTERNS = (
    (
        re.compile(r"(?i)\b(bearer|basic)([\s:=\"'\\]+)(?=\S*\d|\S{16})[A-Za-z0-9._~+/=*-]{6,}"),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(r"(?i)\b(authorization|api[-_]?key|x-api-key)([\"'\s:=\\,b]+)[A-Za-z0-9._~+/*-]{12,}"),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^\s/@\"'<>]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\bsk-[\w*.…-]{4,}"), HIDDEN),
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Some secrets, in every form in which they are likely to be echoed."""

    forms: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, values: Iterable[str]) -> Secrets:
        """Secrets from values as they are set; the longest are looked for first."""
        forms: set[str] = set()
        for value in values:
            if len(value) >= LEAST:
                encoded = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode().rstrip("=")
                forms |= {
                    value,
                    quote(value, safe=""),
                    unquote(value),
                    json.dumps(value)[1:-1],
                    repr(value)[1:-1],
                    encoded,
                }
        return cls(tuple(sorted((form for form in forms if len(form) >= LEAST), key=len, reverse=True)))

    def out_of_answer(self, text: str) -> str:
        """An answer without the secrets themselves; a word like Bearer may be a part of it."""
        for form in self.forms:
            if len(form) >= LEAST_IN_ANSWERS:
                text = text.replace(form, HIDDEN)
        return text

    def out_of(self, text: str) -> str:
        """A message without the secrets, and without whatever looks like one."""
        for form in self.forms:
            text = text.replace(form, HIDDEN)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


def secrets_of_address(url: str) -> list[str]:
    """User, password and query values of a server's address, and the header that a client makes of the first two."""
    try:
        parts = urlsplit(url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        return [url]
    found = [value for _, value in parse_qsl(parts.query)]
    if user or password:
        found += [user, password, f"{user}:{password}", parts.netloc.rpartition("@")[0]]
    return [value for value in found if value]


class _Filter(logging.Filter):
    """Takes secrets out of log records, whoever made them."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: list[Secrets] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass, without secrets."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # malformed by its maker: what it holds cannot be looked at
            return False
        shown = self._without(message)
        if shown != message:
            record.msg, record.args = shown, ()
        if record.exc_info:
            record.exc_text = self._without(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True

    def _without(self, text: str) -> str:
        for secrets in self.secrets:
            text = secrets.out_of(text)
        return text


_FILTER = _Filter()


def keep_out_of_logs(secrets: Secrets) -> None:
    """Keep secrets out of what the client's libraries log, from now on, at every level."""
    if secrets not in _FILTER.secrets:
        _FILTER.secrets.append(secrets)
    later = [f"{top}.{part}" for top in ("httpcore", "httpcore2") for part in _LATER]
    for name in [*LOGGERS, *(f"{top}2" for top in LOGGERS), *later, *logging.Logger.manager.loggerDict]:
        if name.split(".")[0].rstrip("2") in LOGGERS:
            logging.getLogger(name).addFilter(_FILTER)
