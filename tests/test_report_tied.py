"""The picture of tied triples: where each of them lies, those beyond the scale too, and what is counted."""

from __future__ import annotations

import re

from diffbench.dashboard import Dashboard, TiedDashboard, Triple, TripleContexts
from diffbench.report_tied import TiedView, tied_view


def view(*triples: Triple) -> TiedView:
    """Of some triples, the second of which is an example."""
    example = TripleContexts(triple=1, chosen="tuned")
    tied = TiedDashboard(
        least=0.0005, n_triples=9, triples=triples, base_text="plain text", tuned_text="chats", examples=(example,)
    )
    found = tied_view(Dashboard(tied=tied), "m", 6, 4)
    assert found is not None
    return found


def triple(number: int, shared: float, base: float, tuned: float) -> Triple:
    if not shared:
        return Triple(triple=number, shared=0, base=base, tuned=tuned, beyond=True)
    ratios = {"base_to_shared": base / shared, "tuned_to_shared": tuned / shared}
    return Triple(triple=number, shared=shared, base=base, tuned=tuned, **ratios)


def test_base_goes_across_and_tuned_up_and_what_only_the_tuned_model_has_is_top_left() -> None:
    found = view(triple(0, 0.4, 0.1, 0.3), triple(1, 0, 0, 0.2), triple(2, 0.1, 0.5, 0))
    [dots] = re.findall(r'class="dots" d="M([\d.]+) ([\d.]+)h0"', found.picture)
    x, y = map(float, dots)
    assert (x - 46) / (450 - 46) == round(0.25, 2) and round((262 - y) / (262 - 8), 2) == 0.75
    [far] = re.findall(r'class="far" d="([^"]*)"', found.picture)
    corners = re.findall(r"M([\d.]+) ([\d.]+)h", far)
    assert corners == [("43.4", "5.4"), ("447.4", "259.4")], "top left, and bottom right for a high ratio of base"
    [ring] = re.findall(r'class="ring" cx="([\d.]+)" cy="([\d.]+)"', found.picture)
    assert tuple(map(float, ring)) == (46, 8)
    assert found.picture.index("base to shared") < found.picture.index("tuned to shared")
    assert "beyond the scale" in found.legend


def test_triples_without_a_shared_latent_are_counted_named_and_listed_first() -> None:
    found = view(triple(0, 0.4, 0.1, 0.5), triple(1, 0, 0, 0.2), triple(2, 0.1, 0.05, 0))
    assert found.facts == (
        "3 of 9 triples fire at 0.05% of the positions or more. In 2 of them the tuned latent fires more often than "
        "the shared one, in 0 the base latent; in 1 the shared latent never fires."
    )
    assert found.examples[0].name == "triple 1, chosen for its tuned latent: the shared one never fires"
    rows = re.findall(r'<th scope="row">(\d)</th>((?:<td>.*?</td>)*)', found.listed)
    assert [row for row, _ in rows] == ["1", "0", "2"]
    assert re.findall("<td>(.*?)</td>", rows[0][1]) == ["0%", "0%", "20%", "undef.", "beyond"]
