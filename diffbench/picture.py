"""Picture: the dashboard of a cell, from its Diff and the pair."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffbench.activity import has_activity
from diffbench.bench import Bench
from diffbench.corpus import Corpus
from diffbench.dashboard import FINDINGS, Dashboard, FeatureDashboard, FindingDashboard, KLDashboard
from diffbench.diff import DictionaryDiff, Diff, OutputDiff
from diffbench.exchange import TEXT
from diffbench.feature_dashboard import feature_dashboards
from diffbench.ground import Ground
from diffbench.interpretability import scene_of
from diffbench.kl_dashboard import attributed, kl_dashboards
from diffbench.lens import Lens
from diffbench.tied_dashboard import tied_dashboard


@dataclass(frozen=True, slots=True)
class _Halves:
    """One kind of dashboard by component, or why there is none."""

    why: str | None
    kl: dict[int, KLDashboard | None] = field(default_factory=dict)
    feature: dict[int, FeatureDashboard] = field(default_factory=dict)


def picture(bench: Bench, ground: Ground, diff: Diff) -> Dashboard:
    """What is drawn of a cell: its first ten findings, and a tied crosscoder's triples.

    Args:
        bench: the pair.
        ground: the same pair with its evaluation text.
        diff: that fits it.

    Raises:
        DiffError: if an activity is not finite.
    """
    scene = scene_of(bench)
    first = diff.findings[:FINDINGS]
    components = list(dict.fromkeys(finding.component for finding in first))
    lens = Lens.of(bench.tuned, bench.tokenizer, Corpus.load(bench.comparison.path / "in" / TEXT))
    kl = _kl(ground, diff, components, scene.names)
    feature = _Halves("the Diff has no findings")
    if components and has_activity(diff):
        found = feature_dashboards(scene, diff, components, lens)
        feature = _Halves(None, feature=dict(zip(components, found, strict=True)))
    elif components:
        feature = _Halves("the Diff has no activity at single tokens")
    return Dashboard(
        findings=tuple(
            FindingDashboard(
                rank=finding.rank,
                component=finding.component,
                score=finding.score,
                tokens_up=finding.tokens_up,
                tokens_down=finding.tokens_down,
                text=finding.text,
                kl=kl.kl.pop(finding.component, None),  # once, where several findings speak of one component
                feature=feature.feature.pop(finding.component, None),
            )
            for finding in first
        ),
        no_kl=kl.why,
        no_feature=feature.why,
        tied=tied_dashboard(scene, diff, lens) if isinstance(diff, DictionaryDiff) else None,
    )


def _kl(ground: Ground, diff: Diff, components: list[int], names: list[str]) -> _Halves:
    why = _no_attribution(ground, diff, components)
    if why is not None:
        return _Halves(why)
    places = attributed(ground, diff)
    if places is None:
        return _Halves("the two models differ by no more than noise at every token")
    return _Halves(None, kl=dict(zip(components, kl_dashboards(ground, places, components, names), strict=True)))


def _no_attribution(ground: Ground, diff: Diff, components: list[int]) -> str | None:
    """Why no component can be responsible for the KL at a token; None where it can."""
    if not components:
        return "the Diff has no findings"
    if isinstance(diff, OutputDiff):
        return "an output diff has no handle on the models"
    same = ground.same()
    return same.reason if same is not None else None
