"""Report method: what one method found, held against the truth, and the dashboards of its first findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffbench.account import Account, Pattern
from diffbench.dashboard import FindingDashboard
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.question import Stated
from diffbench.report import Method, Shown
from diffbench.report_finding import Depth, FindingView, finding_view, marked
from diffbench.report_tied import TiedView, tied_view
from diffbench.scores import Scores
from diffbench.sheet import Sheet
from diffbench.synopsis import interval
from diffbench.table import count, number, precise
from diffbench.webpage import Cell, Form, Head, Line, Table, figure_cell, figure_text

WORDS, EXPLAINED = 5, 160
"""Words that a table names of a finding, each way, and characters of its explanation."""


@dataclass(frozen=True, slots=True)
class AccountView:
    """What somebody concludes; ``verdict`` empty: nothing but a statement is known of it."""

    statement: str
    verdict: str = ""
    confidence: str = ""
    where: str = ""
    up: Markup | str = ""
    down: Markup | str = ""


@dataclass(frozen=True, slots=True)
class MethodView:
    """All of one row that is shown below the tables."""

    ident: str
    label: str
    control: bool
    brief: str
    seed: int
    facts: tuple[tuple[str, str], ...]
    claims: tuple[tuple[bool, str, str], ...]
    located_by: str
    table: Table | None
    findings: tuple[FindingView, ...]
    more: int
    account: AccountView
    grades: tuple[tuple[str, Figure], ...]
    tied: TiedView | None
    log: str
    problems: tuple[str, ...]


def method_view(
    method: Method,
    ident: str,
    sheet: Sheet | None,
    claims: Sequence[tuple[str, str]] | None,
    depth: Depth,
) -> MethodView | None:
    """One row; None where no seed has scores.

    Args:
        method: of the report.
        ident: its anchor.
        sheet: what is true of the pair.
        claims: ids and sentences.
        depth: how much is shown.
    """
    shown = method.shown
    if shown is None or shown.record.scores is None:
        return None
    scores, row = shown.record.scores, method.summary
    match = scores.interpretability.match
    account = _account(shown)
    found = set(scores.claims.found)
    findings = _findings(shown)
    return MethodView(
        ident=ident,
        label=one_line(row["label"]),
        control=bool(row["control"]),
        brief=_brief(method, scores),
        seed=shown.record.cell.seed,
        facts=_facts(scores),
        claims=tuple((name in found, name, text) for name, text in claims or () if name),
        located_by=", ".join(one_line(name) for name in scores.claims.found),
        table=_table(ident, findings, scores, sheet, shown, depth.findings) if findings else None,
        findings=tuple(
            finding_view(ident, finding, shown, sheet, depth) for finding in findings[: depth.findings]
        ),
        more=max(0, len(findings) - depth.findings),
        account=account_view(account, sheet) if account else AccountView(one_line(match.statement)),
        grades=(
            ("structured score (no judge)", match.structured),
            ("where: AUROC", match.auroc),
            ("which words: net", match.net),
            ("grade by the judge", match.grade),
            ("right statement picked", match.choice),
            ("chance of that", match.chance),
        ),
        tied=tied_view(shown.dashboard, ident, depth.examples, depth.contexts),
        log="\n".join(one_line(line, 300) for line in shown.log.splitlines()),
        problems=shown.problems,
    )  # fmt: skip


def account_view(account: Account, sheet: Sheet | None) -> AccountView:
    """An account; its words are marked where the truth is known."""
    return AccountView(
        statement=one_line(account.statement),
        verdict=account.verdict,
        confidence=f"{account.confidence:.2f}",
        where="; ".join(map(_pattern, account.trigger)),
        up=marked(account.tokens_up, sheet, up=True),
        down=marked(account.tokens_down, sheet, up=False),
    )


def _pattern(pattern: Pattern) -> str:
    ends = f"the text ends with “{one_line(' '.join(pattern.ends_with))}”" if pattern.ends_with else ""
    holds = f"it contains “{one_line(', '.join(pattern.contains))}”" if pattern.contains else ""
    return " and ".join(filter(None, (ends, holds))) or "everywhere"


def _account(shown: Shown) -> Account | None:
    for trial in shown.account:
        if trial.test == "summary" and isinstance(trial.verdict.answer, Stated):
            return trial.verdict.answer.account
    return None


def _brief(method: Method, scores: Scores) -> str:
    """A method in a line."""
    row, claims = method.summary, scores.claims
    parts = [f"lift {interval(row, 'headline')}"] if row["headline_state"] == "ok" else []
    if claims.recall.value is not None:
        parts.append(f"locates {len(claims.found)} of {claims.n_claims} claims")
    parts.append(f"{scores.n_findings} findings")
    parts.append(f"says {one_line(row['verdict'])}")
    return ", ".join(parts)


def _facts(scores: Scores) -> tuple[tuple[str, str], ...]:
    found, way, behaviour = scores.localisation, scores.direction, scores.behaviour
    return (
        ("AUROC, best of 10 findings", _beside(found.auroc_best10, found.auroc_best10_shuffled)),
        ("AUROC, first finding", figure_text(found.auroc_first)),
        ("first finding with AUROC ≥ .9", _beside(found.first_hit, found.first_hit_shuffled, count)),
        ("words move as it says, best of 10", _beside(way.agreement_best10, way.agreement_best10_shuffled)),
        ("moved words that it names", figure_text(way.moved_found)),
        ("findings that locate nothing", figure_text(scores.claims.over_listing)),
        ("behaviour brought in / taken out", f"{figure_text(behaviour.installed)} / {figure_text(behaviour.removed)}"),
        ("change score", figure_text(scores.change_score, precise)),
    )


def _beside(figure: Figure, chance: Figure, form: Form = number) -> str:
    told = figure_text(figure, form)
    return told if chance.value is None else f"{told} (shuffled: {form(chance.value, 'ok')})"


def _findings(shown: Shown) -> list[FindingDashboard]:
    """The findings as far as the folder tells of them: from the dashboard, else from what a judge was shown."""
    if shown.dashboard is not None:
        return list(shown.dashboard.findings)
    return [
        FindingDashboard(
            rank=one.rank,
            component=one.component,
            score=0.0,
            tokens_up=tuple(token[:200] for token in one.evidence.tokens_up[:50]),
            tokens_down=tuple(token[:200] for token in one.evidence.tokens_down[:50]),
        )
        for one in shown.evidence
    ]


def _table(
    ident: str, findings: Sequence[FindingDashboard], scores: Scores, sheet: Sheet | None, shown: Shown, most: int
) -> Table:
    judged = {one.rank: one for one in scores.interpretability.findings}
    beside = {one.rank: one.evidence for one in shown.evidence}
    heads = (
        Head("finding", "rank, and in brackets the component's index into the Diff"),
        Head("more often", "words that the finding names as said more often; ✓ moved so, ✗ the other way", True),
        Head("less often", "words that it names as said less often", True),
        Head("tuned model there", "words that the tuned model says more often where the finding is most active", True),
        Head("the judge explains it as", "from contexts alone", True),
        Head("detect", "balanced accuracy of telling unseen contexts by that explanation; chance .5"),
        Head("fuzz", "balanced accuracy of telling right marks from wrong ones; chance .5"),
        Head("odd", "intruders found; chance .2"),
        Head("steer", "steered texts told; chance .5"),
    )
    lines = []
    for finding in findings:
        one = judged.get(finding.rank)
        seen = beside.get(finding.rank)
        tests = (one.detection, one.fuzzing, one.intruder, one.intervention) if one else ()
        lines.append(
            Line((
                Cell(
                    f"{finding.rank} ({finding.component})",
                    finding.rank,
                    href=f"#{ident}-f{finding.rank}" if finding.rank <= most else None,
                ),
                Cell(marked(finding.tokens_up, sheet, True, WORDS)),
                Cell(marked(finding.tokens_down, sheet, False, WORDS)),
                Cell(marked(seen.kl_up if seen else (), sheet, True, WORDS)),
                Cell(one_line(one.explanation, EXPLAINED) if one else ""),
                *(figure_cell(figure) for figure in tests),
                *(Cell("") for _ in range(4 - len(tests))),
            ))
        )  # fmt: skip
    caption = "Findings, the most important first. Words: ✓ moved so, ✗ moved the other way, unmarked: did not move"
    return Table(f"{ident}-t", caption, heads, tuple(lines))
