"""Canonical JSON and its hash: what keys of caches and cells are made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(document: Any) -> str:
    """JSON with sorted keys, no blanks, finite numbers only: equal documents give equal bytes.

    Raises:
        ValueError: if a number is NaN or infinite.
        TypeError: if something is no JSON value.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(document: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``document``."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
