"""Duration: how long stages of work took on this machine, remembered in the cache, and how long others will take.

A stage is named from the general to the particular, such as (method, base, tier, name, options). What is not known of
the particular is taken from the nearest general name that is known, and in the end from `DEFAULTS`. The file says no
names, so that it tells nobody what was built; a damaged one counts as empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from diffbench.atomic import write_text
from diffbench.cache import cache_root
from diffbench.canonical import digest
from diffbench.tier import TIERS

FILE, FILE_BYTES = "durations.json", 4 << 20
RECENT, MOST = 8, 5000
"""How many durations are kept of a stage, and of how many stages."""
DEFAULTS = {
    "start": 12.0,
    "train": 60.0,
    "gate": 15.0,
    "prepare": 45.0,
    "control": 10.0,
    "method": 15.0,
    "score": 20.0,
    "consistency": 3.0,
}
"""Seconds of a stage of which nothing is known: about what the embedded base takes in the laptop tier on one core."""
TIERED = ("prepare", "control", "method", "score")
"""Kinds of work whose third name is a tier, with whose text the time grows."""
LEAST_SCALE = 0.2

Stage = tuple[str, ...]
"""Kind of work, and what tells it from other work of the kind, the general first."""


@dataclass(slots=True)
class Durations:
    """Seconds of finished stages, the newest last; those of this machine are read when they are first asked for."""

    _known: dict[str, list[float]] | None = None
    _new: list[tuple[Stage, float]] = field(default_factory=list)

    def note(self, stage: Stage, seconds: float) -> None:
        """Remember how long a stage took."""
        if math.isfinite(seconds) and seconds >= 0:
            self._new.append((stage, seconds))
            if self._known is not None:
                _add(self._known, stage, seconds)

    def expected(self, stage: Stage) -> float:
        """How long a stage will take: the mean of the nearest ones that are known."""
        if self._known is None:
            self._known = _read(_path())
            for noted in self._new:
                _add(self._known, *noted)
        for length in range(len(stage), 0, -1):
            found = self._known.get(_name(stage[:length]))
            if found:
                return math.fsum(found) / len(found)
        return guess(stage)

    def save(self) -> None:
        """Add what was noted to the file; that it cannot be written is no reason to stop."""
        if not self._new:
            return
        known = _read(_path())
        for noted in self._new:
            _add(known, *noted)
        kept = dict(list(known.items())[-MOST:])
        with suppress(OSError):
            write_text(_path(), json.dumps({"schema_version": 1, "seconds": kept}, allow_nan=False) + "\n")
        self._new.clear()


def guess(stage: Stage) -> float:
    """How long a stage takes of whose kind nothing is known."""
    seconds = DEFAULTS[stage[0]]
    if stage[0] in TIERED and len(stage) > 2 and stage[2] in TIERS:
        seconds *= max(LEAST_SCALE, TIERS[stage[2]].tokens / TIERS["laptop"].tokens)
    return seconds


def wall(seconds: Sequence[float], jobs: int) -> float:
    """How long pieces of work take side by side: no less than the longest of them."""
    return max(math.fsum(seconds) / max(1, jobs), max(seconds, default=0.0))


def told(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _path() -> Path:
    return cache_root() / FILE


def _name(stage: Stage) -> str:
    return digest(stage)[:16]


def _add(known: dict[str, list[float]], stage: Stage, seconds: float) -> None:
    for length in range(1, len(stage) + 1):
        name = _name(stage[:length])
        known[name] = [*known.pop(name, []), round(seconds, 3)][-RECENT:]  # moved to the end: the newest are kept


def _read(path: Path) -> dict[str, list[float]]:
    """What a file says, as far as it can be believed."""
    try:
        if path.stat().st_size > FILE_BYTES:
            return {}
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    seconds = document.get("seconds") if isinstance(document, Mapping) else None
    if not isinstance(seconds, Mapping):
        return {}
    return {
        name: [float(value) for value in values][-RECENT:]
        for name, values in seconds.items()
        if isinstance(values, list) and values and all(map(_is_duration, values))
    }


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
