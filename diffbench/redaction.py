"""Redaction: what a run says of the machine and the person behind it, taken out before it is published."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffbench.cache import cache_root
from diffbench.secret import LEAST_IN_ANSWERS, Secrets

ADDRESS = "[address]"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
_PATH = re.compile(
    r"(?<![\w./\\~-])"  # the path begins here: `and/or` and `google/gemma` are none
    r"(?:~[\w.-]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|[/\\]{1,2})"
    r"(?:[^\s/\\\"'`,;:=()<>|\[\]{}]+[/\\]+)*"
    r"([^\s/\\\"'`,;:=()<>|\[\]{}]+|(?=[/\\]))[/\\]*"
)
_TELLING = re.compile(r"(?i)key|token|secret|passw|credential")


def redacted(text: str) -> str:
    """A text in which a path is its last part, and addresses and what looks like a secret are hidden."""
    text = Secrets.of(secret_values()).out_of(text)
    return _PATH.sub(lambda found: found[1] or "", _URL.sub(ADDRESS, text))


def redacted_json(value: Any) -> Any:
    """A JSON value with every text in it redacted, keys too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted(str(key)): redacted_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_json(part) for part in value]
    return value


def secret_values() -> list[str]:
    """Values of this process's environment that nobody else is to see, by the names of their variables."""
    return [
        value for name, value in os.environ.items() if _TELLING.search(name) and len(value) >= LEAST_IN_ANSWERS
    ]  # fmt: skip


def traces(data: bytes, places: Iterable[Path] = ()) -> str | None:
    """What bytes that are about to be published still tell of this machine, in words; None: nothing that is known.

    Args:
        data: a file's content.
        places: folders whose paths must not be in it, beside home, cache, temporary and working folder.
    """
    own = {Path.home(), cache_root(), Path.cwd(), Path(tempfile.gettempdir()), *places}
    for place in sorted(map(str, own), key=len, reverse=True):
        if len(place) > 1 and re.search(re.escape(place.encode()) + rb"(?![\w.-])", data):
            return "a path of this machine"
    if any(value.encode("utf-8", "surrogateescape") in data for value in secret_values()):
        return "a secret of this machine's environment"
    return None
