"""Report finding: one finding in a run's report, with its dashboards, the judge's tests and steered samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffbench.account import plain
from diffbench.chart import HEIGHTS, histogram
from diffbench.dashboard import (
    LEAST_COSINE,
    Dashboard,
    FeatureDashboard,
    FindingDashboard,
    Histogram,
    KLContext,
    KLDashboard,
    Move,
    Neighbour,
)
from diffbench.finding_evidence import FindingEvidence
from diffbench.line import one_line
from diffbench.report import Shown
from diffbench.scores import FindingJudged
from diffbench.shading import chip, largest, sentence, shaded, word
from diffbench.sheet import Sheet
from diffbench.table import number, precise, share
from diffbench.webpage import figure_text

NO_DASHBOARD = "its cell has no dashboard; runs of an older diffbench have none, `diffbench rescore` makes them"
ATTRIBUTIONS = "KL attributions of all tokens that were looked at, nats per unit of length; the more negative, the more"
ATTRIBUTIONS += " responsible"
EITHER_WAY = "KL attributions of all tokens that were looked at, nats per unit of length; the direction is added with"
EITHER_WAY += " either sign, so the larger in size, the more responsible"
ACTIVITY = "activity at the positions where it is not zero"


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of each method is shown."""

    findings: int
    contexts: int
    samples: int
    examples: int


@dataclass(frozen=True, slots=True)
class ContextView:
    """A piece of text with its shades; of a KL dashboard with what is said next and which tokens moved."""

    text: Markup
    note: str = ""
    said: Markup | str = ""
    more: Markup | str = ""
    less: Markup | str = ""


@dataclass(frozen=True, slots=True)
class FindingView:
    """One finding.

    Attributes:
        kl, feature: facts by name; captions say what a picture shows.
        samples: prompt, what the reference says after it, and with the component added.
        sampled: how these were chosen.
    """

    ident: str
    rank: int
    component: int
    up: Markup
    down: Markup
    text: str
    explanation: str
    tests: tuple[tuple[str, str], ...]
    kl: tuple[tuple[str, str], ...]
    kl_picture: Markup | None
    kl_caption: str
    kl_contexts: tuple[ContextView, ...]
    no_kl: str
    feature: tuple[tuple[str, str], ...]
    feature_picture: Markup | None
    feature_caption: str
    feature_contexts: tuple[ContextView, ...]
    no_feature: str
    neighbours: tuple[tuple[str, str, Markup], ...]
    samples: tuple[tuple[str, str, str], ...]
    sampled: str


def finding_view(ident: str, finding: FindingDashboard, shown: Shown, sheet: Sheet | None, depth: Depth) -> FindingView:
    """One finding of a cell.

    Args:
        ident: anchor of its method.
        finding: as the dashboard, or the evidence, has it.
        shown: the cell.
        sheet: what is true of the pair.
        depth: how much is shown.
    """
    scores, dashboard = shown.record.scores, shown.dashboard
    judged = {one.rank: one for one in scores.interpretability.findings} if scores else {}
    one = judged.get(finding.rank)
    evidence = next((seen for seen in shown.evidence if seen.rank == finding.rank), None)
    kl, feature = finding.kl, finding.feature
    top_kl = max((largest(context.text.values) for context in kl.contexts), default=0.0) if kl else 0.0
    top = max((largest(context.values) for context in feature.contexts), default=0.0) if feature else 0.0
    ranks = {known.rank for known in dashboard.findings[: depth.findings]} if dashboard else set()
    contexts = [ContextView(shaded(c.tokens, c.values, top, c.at), _size(c.values, c.at))
                for c in (feature.contexts[: depth.contexts] if feature else ())]  # fmt: skip
    if feature is None and evidence is not None:
        contexts = _excerpts(evidence, depth.contexts)
    return FindingView(
        ident=f"{ident}-f{finding.rank}",
        rank=finding.rank,
        component=finding.component,
        up=marked(finding.tokens_up, sheet, True, 6),
        down=marked(finding.tokens_down, sheet, False, 6),
        text=one_line(finding.text or "", 1000),
        explanation=one_line(one.explanation, 1000) if one else "",
        tests=_tests(one),
        kl=_kl_facts(kl) if kl else (),
        kl_picture=_picture("KL attributions", _measured(kl), kl.attributions) if kl else None,
        kl_caption=f"{_measured(kl)}; {HEIGHTS}" if kl else "",
        kl_contexts=tuple(_kl_context(context, top_kl) for context in (kl.contexts[: depth.contexts] if kl else ())),
        no_kl="" if kl else one_line((dashboard.no_kl if dashboard else NO_DASHBOARD) or "none for this finding"),
        feature=_feature_facts(feature) if feature else (),
        feature_picture=_picture("Activity", ACTIVITY, feature.activity) if feature else None,
        feature_caption=f"{ACTIVITY}; {HEIGHTS}",
        feature_contexts=tuple(contexts),
        no_feature="" if feature else one_line(_no_feature(dashboard, bool(contexts))),
        neighbours=tuple(
            _neighbour(ident, near, ranks)
            for near in (feature.neighbours if feature else ())
            if near.cosine >= LEAST_COSINE
        ),
        samples=_samples(evidence, depth.samples),
        sampled=_sampled(evidence, depth.samples),
    )


def _picture(title: str, text: str, values: Histogram) -> Markup:
    return histogram(title, f"{text}.", values.low, values.high, values.counts, lambda value: precise(value))


def _measured(kl: KLDashboard) -> str:
    return EITHER_WAY if kl.either_way else ATTRIBUTIONS


def _no_feature(dashboard: Dashboard | None, excerpts: bool) -> str:
    why = (dashboard.no_feature if dashboard else NO_DASHBOARD) or "none for this finding"
    return f"{why}; these are contexts that a judge was shown" if excerpts else why


def _tests(one: FindingJudged | None) -> tuple[tuple[str, str], ...]:
    if one is None:
        return ()
    return (
        ("detection", figure_text(one.detection)),
        ("fuzzing", figure_text(one.fuzzing)),
        ("intruder", figure_text(one.intruder)),
        ("intervention", figure_text(one.intervention)),
    )


def _kl_facts(kl: KLDashboard) -> tuple[tuple[str, str], ...]:
    chance = "" if kl.chance is None else f"; by chance {kl.chance * kl.n_contexts:.3g} ({share(kl.chance)})"
    top = f"at {kl.n_top} of {kl.n_contexts} tokens of high KL{chance}"
    if not kl.n_top:
        top = f"at none of {kl.n_contexts} tokens of high KL{chance}, so there is no context to show"
    by = "attributions by size" if kl.either_way else "attributions"
    return (
        (f"among the top 3 {by}", top),
        ("the first of all", f"at {kl.n_first}"),
    )


def _kl_context(context: KLContext, top: float) -> ContextView:
    said = Markup('<b class="tok">{}</b> <small>{}</small> → <b class="tok">{}</b> <small>{}</small>').format(
        word(context.reference_top), _odds(context.reference_top_p), word(context.tuned_top), _odds(context.tuned_top_p)
    )
    most = max((abs(move.nats) for move in (*context.increased, *context.decreased)), default=0.0)
    more = Markup(" ").join(_move(move, abs(move.nats), most) for move in context.increased)
    less = Markup(" ").join(_move(move, -abs(move.nats), most) for move in context.decreased)
    note = f"attribution {precise(context.attribution)}, place {context.place}"
    text = shaded(context.text.tokens, context.text.values, top, context.text.at)
    return ContextView(text, note, said, more, less)


def _move(move: Move, nats: float, most: float) -> Markup:
    told = f"{_odds(move.reference)} → {_odds(move.tuned)}"
    return Markup('<span class="move">{} <small>{}</small></span>').format(chip(move.token, nats, most), told)


def _odds(value: float) -> str:
    return "<0.1%" if 0 < value < 0.001 else share(value)


def _feature_facts(feature: FeatureDashboard) -> tuple[tuple[str, str], ...]:
    facts = [("active", f"at {feature.n_active:,} of {feature.n_positions:,} positions")]
    if feature.frequency.state == "n/a":
        places = f"the top {share(feature.n_active / max(1, feature.n_positions))} of {feature.n_positions:,} positions"
        facts = [("dense, shown where it is largest", places if feature.n_active else "it is the same everywhere")]
    facts.append(("frequency", figure_text(feature.frequency, share)))
    facts.append(("relative norm", figure_text(feature.relative_norm)))
    facts += [(f"ν {one_line(name, 40).replace('_', ' ')}", figure_text(nu)) for name, nu in feature.nu.items()]
    return tuple(facts)


def _neighbour(ident: str, near: Neighbour, ranks: set[int]) -> tuple[str, str, Markup]:
    """Where it leads to, what it is, and the words that it promotes."""
    told = f"component {near.component}, place {near.rank}, cosine {number(near.cosine)}"
    return (f"#{ident}-f{near.rank}" if near.rank in ranks else "", told, _plain_words(near.tokens_up, 5))


def _excerpts(evidence: FindingEvidence, most: int) -> list[ContextView]:
    chosen = sorted((one for one in evidence.evidence.excerpts if one.active), key=lambda one: -abs(one.activity))[
        :most
    ]
    top = max((largest(one.activities or (one.activity,)) for one in chosen), default=0.0)
    found = []
    for one in chosen:
        values: Sequence[float | None] = one.activities
        if len(values) != len(one.tokens):
            values = [*[None] * (len(one.tokens) - 1), one.activity]
        start = max(0, len(one.tokens) - 32)
        text = shaded(one.tokens[start:], values[start:], top, len(one.tokens) - 1 - start)
        found.append(ContextView(text, f"activity {precise(one.activity)}"))
    return found


def _size(values: Sequence[float | None], at: int) -> str:
    value = values[at] if at < len(values) else None
    return "" if value is None else f"activity {precise(value)}"


def _samples(evidence: FindingEvidence | None, most: int) -> tuple[tuple[str, str, str], ...]:
    """Those first at which adding the component makes a difference."""
    pairs = sorted(evidence.steered if evidence else (), key=lambda pair: pair.plain == pair.steered)[:most]
    return tuple((sentence(pair.prompt), sentence(pair.plain), sentence(pair.steered)) for pair in pairs)


def _sampled(evidence: FindingEvidence | None, most: int) -> str:
    """How the samples were chosen, and of how many."""
    pairs = evidence.steered if evidence else ()
    same = sum(pair.plain == pair.steered for pair in pairs)
    told = f"{min(most, len(pairs))} of {len(pairs)} texts that a judge was shown, those first that steering changes"
    return f"{told}; it leaves {same} of {len(pairs)} as they were."


def _plain_words(tokens: Sequence[str], most: int) -> Markup:
    return marked(tokens, None, True, most)


def marked(tokens: Sequence[str], sheet: Sheet | None, up: bool, most: int = 20) -> Markup:
    """Words that somebody names, each with a mark: moved so, or the other way; without a mark: neither."""
    so, otherwise = _moved(sheet, up), _moved(sheet, not up)
    parts = []
    for token in tokens[:most]:
        named = plain(token)
        sign = "" if sheet is None else " ✓" if named in so else " ✗" if named in otherwise else ""
        kind = {" ✓": "ok", " ✗": "no"}.get(sign, "")
        parts.append(Markup('<b class="tok {}">{}{}</b>').format(kind, word(token), sign))
    if len(tokens) > most:
        parts.append(Markup("<small>+{}</small>").format(len(tokens) - most))
    return Markup(" ").join(parts)


def _moved(sheet: Sheet | None, up: bool) -> set[str]:
    words = () if sheet is None else sheet.moved_up if up else sheet.moved_down
    return {plain(name) for moved in words for name in moved.names}
