"""Report page: a run's report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from diffbench.figure import Figure
from diffbench.game_file import PlayedGame
from diffbench.layout import DETAILS, LAYOUT
from diffbench.line import one_line
from diffbench.record import Record
from diffbench.report import Method, Part, Report
from diffbench.report_finding import Depth
from diffbench.report_method import AccountView, MethodView, account_view, method_view
from diffbench.report_part import PartView, part_view
from diffbench.report_steering import MOST_FILES, steering_views
from diffbench.report_tables import consistency_table, cost_table, detection_tables, standing_tables
from diffbench.synopsis import of_part, overall
from diffbench.table import plain
from diffbench.webpage import environment, render

STYLE = "report.css"
MOST_BYTES = 4_800_000
DEPTHS = (
    Depth(findings=10, contexts=4, samples=2, examples=6),
    Depth(findings=5, contexts=4, samples=2, examples=6),
    Depth(findings=3, contexts=3, samples=2, examples=4),
    Depth(findings=2, contexts=2, samples=1, examples=2),
    Depth(findings=1, contexts=2, samples=1, examples=1),
    Depth(findings=0, contexts=0, samples=0, examples=0),
)
"""How much is shown of each method: the first of these with which the page is not too large."""
EXCHANGES = 6
"""Prompts of a game that are shown."""
MOST_GAMES = 40
MODULE = "__main__.py"
"""What `python -m diffbench` calls the program."""
MOST_LISTED = 200


@dataclass(frozen=True, slots=True)
class GameView:
    """One game."""

    title: str
    account: AccountView
    problem: str
    scores: tuple[tuple[str, Figure, Figure], ...]
    exchanges: tuple[tuple[str, str, str, str], ...]
    more: int


def page(report: Report) -> str:
    """The report, with as much of each method as keeps it under `MOST_BYTES`."""
    text = ""
    for depth in DEPTHS:
        text = render("report.html", **_context(report, depth))
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def command_of(report: Report) -> str:
    """The command that made the run, as it can be typed again."""
    program, *rest = report.run.file.argv or ("diffbench",)
    name = PurePath(one_line(program)).name
    return shlex.join(["diffbench" if name == MODULE else name, *map(one_line, rest)])


def _context(report: Report, depth: Depth) -> dict[str, Any]:
    file = report.run.file
    views = [_part(report, part, f"p{number}", depth) for number, part in enumerate(report.parts, start=1)]
    games = report.games[:MOST_GAMES]
    return {
        "style": Markup(f"{environment().globals['style']}\n{environment().get_template(STYLE).render()}"),
        "name": one_line(file.name),
        "summary": overall(report),
        "parts": views,
        "notes": _notes(report, depth),
        "problems": report.problems[:MOST_LISTED],
        "more_problems": max(0, len(report.problems) - MOST_LISTED),
        "damaged": [f"{one_line(at.as_posix())}: {one_line(why, 300)}" for at, why in report.run.damaged[:MOST_LISTED]],
        "unfinished": [one_line(path.as_posix()) for path in report.run.unfinished[:MOST_LISTED]],
        "standings": standing_tables(report.standings),
        "detection": detection_tables(report.detection),
        "games": [_game(played) for played in games],
        "more_games": len(report.games) - len(games),
        "steering": steering_views(report.steering),
        "more_steering": max(0, len(report.steering) - MOST_FILES),
        "consistency": consistency_table(report.consistency),
        "cost": cost_table(report.parts),
        "provenance": _provenance(report),
        "time": _time(report),
        "versions": sorted({(one_line(n), one_line(v)) for r in report.run.records for n, v in _versions(r)}),
        "hashes": _hashes(report.parts),
        "config": json.dumps(plain(file.config), indent=1, ensure_ascii=False),
        "command": command_of(report),
        "folder": one_line(report.run.path.name),
        "glossary": [(column.head, column.legend) for column in (*LAYOUT, *DETAILS[1:])],
    }  # fmt: skip


def _part(report: Report, part: Part, ident: str, depth: Depth) -> tuple[PartView, str, tuple[MethodView, ...]]:
    named = [(method, f"{ident}-m{number}") for number, method in enumerate(part.methods, start=1)]
    anchors = {(m.summary["row"], m.summary["variant"]): anchor for m, anchor in named if m.shown is not None}
    view = part_view(part, ident, anchors)
    ordered: list[tuple[Method, str]] = sorted(named, key=lambda pair: bool(pair[0].summary["control"]))
    found = [method_view(method, anchor, part.sheet, view.claims, depth) for method, anchor in ordered]
    return view, of_part(report, part), tuple(one for one in found if one is not None)


def _notes(report: Report, depth: Depth) -> list[str]:
    """What is left out, in words."""
    seeds = {record.cell.seed for record in report.run.records}
    notes = []
    if len(seeds) > 1:
        notes.append("Tables are means over method seeds; findings, dashboards and samples are of the lowest seed.")
    shown = f"the first {depth.findings} findings" if depth.findings else "no dashboards"
    notes.append(
        f"Shown of each method: {shown}, {depth.contexts} contexts of each and {depth.samples} samples. The folder of "
        "each cell holds the rest (dashboard.json, evidence.parquet, verdicts.jsonl)."
    )
    if depth is not DEPTHS[0]:
        notes.append(f"That is less than usual: with more, this page would be larger than {MOST_BYTES / 1e6:.1f} MB.")
    if report.unread:
        notes.append(f"Of {report.unread} rows only the scores are shown: details are read of the first ones alone.")
    return notes


def _game(played: PlayedGame) -> GameView:
    game, setting, score = played.game, played.setting, played.score
    evidence = "" if setting.row is None else f", evidence of {setting.row}"
    framing = "presupposing" if game.presuppose else "neutral"
    title = (
        f"{setting.organism} against {setting.reference}{evidence}: agent {' '.join(game.agent.values())}, "
        f"access {game.access}, {framing} framing, seed {game.seed}"
    )
    names = (("structured score", "structured"), ("grade", "grade"), ("right statement picked", "choice"))
    exchanges = game.asked
    return GameView(
        title=one_line(title, 300),
        account=account_view(game.account, None) if game.account else AccountView(""),
        problem=one_line(game.problem or "", 300) if game.account is None else "",
        scores=tuple((word, getattr(score.match, name), getattr(score.abstaining, name)) for word, name in names),
        exchanges=tuple(
            (
                one_line(one.prompt, 200),
                one_line(one.first[0] if one.first else "", 200),
                one_line(one.second[0] if one.second else "", 200),
                one_line(one.remark or "", 200),
            )
            for one in exchanges[:EXCHANGES]
        ),
        more=max(0, len(exchanges) - EXCHANGES),
    )


def _provenance(report: Report) -> list[tuple[str, str]]:
    file, records = report.run.file, report.run.records
    told = file.provenance
    judges = sorted({record.cell.judge for record in records})
    confined = sorted({record.timings.sandbox for record in records})
    rules = sorted({f"layer {record.pair.layer} ({record.pair.layer_rule})" for record in records})
    return [
        ("diffbench", one_line(told.diffbench)),
        ("Python", one_line(told.python)),
        ("platform", one_line(told.platform)),
        ("started", one_line(told.started)),
        ("tiers", one_line(", ".join(sorted({record.cell.tier for record in records})) or "none")),
        ("judges", one_line(", ".join(judges) or "none")),
        ("method seeds", ", ".join(map(str, sorted({record.cell.seed for record in records}))) or "none"),
        ("layers", one_line("; ".join(rules) or "none")),
        ("method processes were confined by", one_line(", ".join(confined) or "none")),
        ("scores made anew from kept Diffs", f"{sum(r.rescored is not None for r in records)} of {len(records)} cells"),
    ]


def _time(report: Report) -> list[tuple[str, str]]:
    time = report.run.file.time
    if time is None:
        return []
    named = ("starting", "building", "preparing", "methods", "scoring", "comparing", "total")
    found = [(f"{name} (projected)", f"{getattr(time, name):,.0f} s") for name in named]
    measured = "it did not end" if time.measured is None else f"{time.measured:,.0f} s"
    return [*found, ("total (measured)", measured), ("side by side", str(time.jobs))]


def _versions(record: Record) -> Iterator[tuple[str, str]]:
    yield from record.timings.versions.items()


def _hashes(parts: Sequence[Part]) -> list[tuple[str, list[tuple[str, str]]]]:
    """SHA-256 of what the numbers of each table follow from."""
    found = []
    for part in parts:
        record = next((method.records[0] for method in part.methods if method.records), None)
        if record is not None:
            hashes = record.hashes.model_dump(include={"recipe", "base", "reference_model", "tuned_model", "pair"})
            told = [(name, one_line(value)) for name, value in hashes.items()]
            told.append(("score_code", one_line(record.hashes.score_code)))
            found.append((one_line(part.section.key["organism"]), told))
    return found
