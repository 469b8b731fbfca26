"""Seeds derived from seeds: independent streams for every purpose, the same on every machine."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str) -> int:
    """A 62-bit seed for one purpose; different purposes of the same seed are independent."""
    text = ":".join((str(seed), *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
