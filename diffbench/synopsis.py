"""Synopsis: what a run says, in a sentence or two. Written from its tables, and no more than they bear out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from diffbench.line import one_line
from diffbench.report import Part, Report
from diffbench.standing import PairTest
from diffbench.summary import OWN_TRACK, Row
from diffbench.table import number

HEADLINE = "headline"
PCA, PCA_ALIKE = "pca", 0.005
"""The row that lifts are over, and how little its own lift is."""
NAMED = 4
"""Rows that are named in a sentence."""


def competitors(rows: Sequence[Row]) -> list[Row]:
    """Rows with a lift that compete, the best first: no controls, no partial ones, none of their own track."""
    found = [
        row
        for row in rows
        if row["status"] == "ok"
        and not row["control"]
        and OWN_TRACK not in row["access"]
        and row[f"{HEADLINE}_state"] == "ok"
    ]
    return sorted(found, key=lambda row: (-row[HEADLINE], row["label"]))


def overall(report: Report) -> str:
    """The first sentences of a report: what the run found, organism by organism, and what failed."""
    sentences = [of_part(report, part) for part in report.parts[:NAMED]]
    if len(report.parts) > NAMED:
        sentences.append(f"{len(report.parts) - NAMED} more tables follow.")
    return " ".join([*(sentence for sentence in sentences if sentence), failures(report)])


def of_part(report: Report, part: Part) -> str:
    """What one table says."""
    name = one_line(part.section.key["organism"])
    against = "" if part.section.key["reference"] == "base" else f" against its {part.section.key['reference']}"
    if part.changed is False or part.null_class is not None:
        return f"{name}{against} is a null: {_alarms(part)}"
    ranked = competitors(part.section.summary)
    if not ranked:
        return f"On {name}{against} no competing method has a lift over PCA."
    best = ranked[0]
    if best["row"] == PCA and best[HEADLINE] < PCA_ALIKE:
        told = (
            f"On {name}{against} no method recovers more than PCA of the differences at the same number of components"
        )
        return f"{told}. {_beside_next(report, part, ranked)}{_located(part)}"
    told = f"On {name}{against} {_called(best)} recovers most: lift over PCA {interval(best, HEADLINE)}"
    if best[HEADLINE] < 0:
        told += ", which is less than PCA of the differences recovers with as many components"
    return f"{told}. {_beside_next(report, part, ranked)}{_located(part)}"


def interval(row: Row, name: str) -> str:
    """A figure of a summary row with its interval."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = number(row[name])
    return value if low is None or high is None else f"{value} [{number(low)}, {number(high)}]"


def units(row: Row) -> str:
    """What the interval of a row is over."""
    if row["unit"] == "documents":
        return "documents of this organism"
    return "method seeds" if row["unit"] else ""


def failures(report: Report) -> str:
    """How many cells have no scores."""
    run = report.run
    ended = Counter(record.status for record in run.records)
    counts = (
        (ended["error"], "failed"),
        (ended["not_applicable"], "not applicable"),
        (len(run.damaged), "damaged"),
        (len(run.unfinished), "unfinished"),
    )
    parts = [f"{ended['ok']} of {sum(n for n, _ in counts) + ended['ok']} cells are scored"]
    parts += [f"{n} {word}" for n, word in counts if n]
    return f"{', '.join(parts)}."


def _beside_next(report: Report, part: Part, ranked: Sequence[Row]) -> str:
    """Whether the best row is told apart from the next one, as far as that can be known."""
    if len(ranked) == 1:
        return "No other method competes."
    best, following = ranked[0], ranked[1]
    told = f"Next is {_called(following)} with {interval(following, HEADLINE)}"
    test = _pair(report, part, best, following)
    if test is not None and test.p is not None:
        p = f"{test.p:.2g}" if test.p >= 0.001 else "under .001"
        said = "separated" if test.separated else "not separated"
        return f"{told}: {said} by a paired test over {test.units} units (p {p}, corrected over all pairs)."
    seeds = max(best["seeds_ok"], following["seeds_ok"])
    if seeds == 1:
        return f"{told}. With one seed of each method nobody knows whether another seed would change this order."
    return f"{told}. These seeds are too few, or too alike, for a test of the order."


def _located(part: Part) -> str:
    """Which methods locate how much of what is true."""
    rows = [row for row in part.section.summary if not row["control"] and row["claims_recall_state"] == "ok"]
    found = sorted((row for row in rows if row["claims_recall"] > 0), key=lambda row: -row["claims_recall"])
    if not rows:
        return ""
    if not found:
        return f" None of {len(rows)} methods locates a claim of what was changed."
    named = ", ".join(f"{one_line(row['label'])} {number(row['claims_recall'])}" for row in found[:NAMED])
    others = len(rows) - min(len(found), NAMED)
    rest = (
        ""
        if not others
        else f"; {others} other{'' if others == 1 else 's'} {'none' if len(found) <= NAMED else 'no more'}"
    )
    return f" Share of the true claims that is located: {named}{rest}."


def _pair(report: Report, part: Part, best: Row, following: Row) -> PairTest | None:
    """The paired test of two rows, where a table of standings is about this organism alone."""
    wanted = {best["label"], following["label"]}
    key = part.section.key
    kinds = {str(one.section.key["organism"]).partition("@")[0] for one in report.parts}
    for table in report.standings:
        alone = table.scope == key["organism"] or len(kinds) == 1
        if alone and (table.reference, table.tier) == (key["reference"], key["tier"]):
            found = [test for test in table.pairs if {test.first, test.second} == wanted]
            if found:
                return found[0]
    return None


def _called(row: Row) -> str:
    return f"{one_line(row['label'])} (a cheap baseline)" if row["baseline"] else one_line(row["label"])


def _alarms(part: Part) -> str:
    """Who says, at any seed, that something was changed where nothing was."""
    scored = [method for method in part.methods if method.shown is not None]
    said = [
        method.summary
        for method in scored
        if any(record.scores is not None and record.scores.verdict == "changed" for record in method.records)
    ]
    if not said:
        return f"none of {len(scored)} scored rows says that something was changed."
    methods = [row for row in said if not row["control"]]
    names = ", ".join(one_line(row["label"]) for row in methods[:NAMED])
    more = f" and {len(methods) - NAMED} more" if len(methods) > NAMED else ""
    asked = sum(not method.summary["control"] for method in scored)
    told = f"{len(methods)} of {asked} methods say that something was changed"
    told += f" ({names}{more})" if methods else ""
    controls = len(said) - len(methods)
    return told + (f", and {controls} of the controls." if controls else ".")
