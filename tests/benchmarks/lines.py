"""Lines: the table on standard output and the JSON file; what could not be measured is a state, never a number."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 180


@dataclass(frozen=True, slots=True)
class Goal:
    """What the ratio should be; it is stated and compared, and nothing fails where it is missed."""

    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"

    def met(self, value: float) -> bool:
        """Whether a ratio is on the right side."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True)
class Line:
    """One row.

    Attributes:
        part: of the benchmark.
        what: is measured.
        ours: diffbench's number.
        other: what it is compared with: name and number.
        unit: of both numbers.
        ratio: the number that counts.
        spread: its lowest and highest value over the rounds.
        goal: what it should be.
        state: "measured", or why there is no number.
    """

    part: str
    what: str
    ours: float | None = None
    against: str = ""
    other: float | None = None
    unit: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: Goal | None = None
    state: str = "measured"

    def verdict(self) -> str:
        """The goal and whether it was met."""
        if self.goal is None:
            return ""
        if self.ratio is None:
            return f"{self.goal}"
        return f"{self.goal} {'met' if self.goal.met(self.ratio) else 'missed'}"


@dataclass(slots=True)
class Part:
    """What a part of the benchmark found: rows of the table, and what they were computed from, for the file."""

    lines: list[Line] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


def print_table(lines: list[Line]) -> None:
    """On standard output."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "what", "diffbench", "against", "its number", "unit", "ratio", "spread", "goal"):
        table.add_column(name, justify="right" if name in ("diffbench", "its number", "ratio") else "left")
    for line in lines:
        if line.state != "measured":
            table.add_row(line.part, line.what, line.state, line.against, "", "", "", "", line.verdict())
            continue
        spread = "" if line.spread is None else f"{line.spread[0]:.3g}..{line.spread[1]:.3g}"
        table.add_row(
            line.part,
            line.what,
            number(line.ours),
            line.against,
            number(line.other),
            line.unit,
            number(line.ratio),
            spread,
            line.verdict(),
        )
    Console(width=WIDTH, highlight=False).print(table)


def number(value: float | None) -> str:
    """Four digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_json(parts: dict[str, Part], settings: object, path: Path) -> None:
    """All lines, what they were computed from, and the machine."""
    document = {
        "machine": machine(),
        "settings": settings,
        "parts": {
            name: {
                "lines": [asdict(line) | {"goal": line.verdict()} for line in part.lines],
                "measured": part.raw,
            }
            for name, part in parts.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, default=_plain) + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("diffbench", "torch", "numpy", "transformers")},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(
            asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
