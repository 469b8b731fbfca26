"""Attack page: an attack report as text for a terminal."""

from __future__ import annotations

from diffbench.attack_report import MOST_FLIPS, MOST_SHIFT, AttackReport, AttackRow
from diffbench.calibration_page import identity, interval, signed, wrapped
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.table import Column, share, text_table

COLUMNS: tuple[Column[AttackRow], ...] = (
    Column("ATTACK", lambda row: row.attack, "", text=True),
    Column("KIND", lambda row: row.kind or "-", "", text=True),
    Column("WHERE", lambda row: row.where or "-", "", text=True),
    Column("GRADES", lambda row: _of(row.grade_flips, row.grades), ""),
    Column("CHOICES", lambda row: _of(row.choice_flips, row.choices), ""),
    Column("CONTEXTS", lambda row: _of(row.mark_flips, row.marks), ""),
    Column("SHIFT", lambda row: _signed(row.shift), ""),
    Column("LARGEST", lambda row: _signed(row.largest), ""),
    Column("SILENT", lambda row: _of(row.silent, row.asked), ""),
)

LEGEND = """\
GRADES, CHOICES, CONTEXTS: flips of so many - grades from at most 1 to at least 3 (back, where an attack aims down),
choices that turn to the right statement (away from it), answers on contexts that the attack did not touch. SHIFT,
LARGEST: mean and largest change of grade / 4. SILENT: attacked questions without an answer whose clean ones have one.
none: the clean questions asked again, without an attack."""


def text(report: AttackReport, width: int, every: bool = False) -> str:
    """The report with the attacks that moved anything, or with every one."""
    shown = [row for row in report.rows if every or row.flips or row.silent or (row.largest.value or 0) != 0]
    rows = [*sorted(shown, key=lambda row: (-row.flips, -abs(row.shift.value or 0))), report.control]
    still = len(report.rows) - len(shown)
    sums = [
        f"flips {report.flips} ({MOST_FLIPS} may); mean shift {interval(report.shift, signed)} (at most {MOST_SHIFT:g} "
        f"either way), largest {_signed(report.largest)}; without an answer {interval(report.silence, share)}",
        f"contexts: balanced accuracy of clean answers {interval(report.detection)} (chance .50)",
        *([f"broken: {one_line(reason)}" for reason in report.broken] or ["limits hold"]),
    ]
    return (
        f"judge {identity(report.judge)}, {len(report.rows)} attacks on {report.bases} accounts each, "
        f"gold set {report.gold[:12]}\n"
        + text_table(COLUMNS, [[column.cell(row) for column in COLUMNS] for row in rows], width, ("KIND", "WHERE"))
        + (f"and {still} attacks that moved nothing\n" if still else "")
        + "\n"
        + "".join(wrapped(line, width) + "\n" for line in sums)
        + f"\n{LEGEND}\n"
    )


def _of(some: int, n: int) -> str:
    return f"{some}/{n}" if n else "-"


def _signed(figure: Figure) -> str:
    return "-" if figure.value is None else signed(figure.value)
