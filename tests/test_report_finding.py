"""What stands beside a finding's pictures: what chance gives, how heights go, how samples were chosen."""

from __future__ import annotations

from typing import Any

from record_factory import record
from report_factory import evidence, finding, scored

from diffbench.dashboard import Dashboard, FindingDashboard, Neighbour
from diffbench.figure import Figure
from diffbench.finding_evidence import Steered
from diffbench.report import Shown
from diffbench.report_finding import Depth, FindingView, finding_view

DEPTH = Depth(findings=5, contexts=4, samples=1, examples=4)


def view(**halves: dict[str, Any]) -> FindingView:
    """Of a finding, halves of which are changed."""
    one = finding(1)
    parts = {name: getattr(one, name).model_copy(update=change) for name, change in halves.items()}
    changed: FindingDashboard = one.model_copy(update=parts)
    [known, _] = evidence()
    pair = known.steered[0]
    same = Steered(prompt=pair.prompt, plain=pair.plain, steered=pair.plain)
    known = known.model_copy(update={"steered": (same, pair, same)})
    shown = Shown(record("m", scored=scored()), "m", Dashboard(findings=(changed,)), (known,), (), "", ())
    return finding_view("m", changed, shown, None, DEPTH)


def test_chance_is_told_where_it_is_known() -> None:
    assert view().kl[0] == ("among the top 3 attributions", "at 12 of 32 tokens of high KL")
    known = view(kl={"chance": 0.375})
    assert known.kl[0][1] == "at 12 of 32 tokens of high KL; by chance 12 (37.5%)"
    assert "the more negative, the more responsible; heights by the square root" in known.kl_caption
    none = view(kl={"chance": 0.375, "n_top": 0, "n_first": 0, "contexts": ()})
    assert none.kl[0][1].startswith("at none of 32 tokens") and "no context to show" in none.kl[0][1]


def test_directions_of_either_sign_count_by_size() -> None:
    found = view(kl={"either_way": True})
    assert found.kl[0][0] == "among the top 3 attributions by size"
    assert "the larger in size, the more responsible" in found.kl_caption and "negative" not in found.kl_caption
    assert found.kl_picture is not None and "larger in size" in found.kl_picture


def test_a_dense_component_is_shown_where_it_is_largest() -> None:
    dense = {"frequency": Figure.not_applicable("never off"), "n_positions": 8003}
    assert ("active", "at 160 of 8,000 positions") in view().feature
    found = view(feature=dense).feature
    assert found[0] == ("dense, shown where it is largest", "the top 2% of 8,003 positions")
    assert "heights by the square root" in view().feature_caption
    assert view(feature={**dense, "n_active": 0}).feature[0][1] == "it is the same everywhere"


def test_directions_that_have_nothing_in_common_are_not_listed() -> None:
    near = (Neighbour(component=2, rank=2, cosine=0.1), Neighbour(component=3, rank=3, cosine=0.003))
    assert [told for _, told, _ in view(feature={"neighbours": near}).neighbours] == [
        "component 2, place 2, cosine .10"
    ]  # fmt: skip


def test_samples_say_how_they_were_chosen() -> None:
    found = view()
    assert [plain == steered for _, plain, steered in found.samples] == [False]
    assert found.sampled == (
        "1 of 3 texts that a judge was shown, those first that steering changes; it leaves 2 of 3 as they were."
    )
