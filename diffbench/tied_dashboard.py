"""Tied dashboard: how often the members of a tied crosscoder's triples fire, and where (Aranguri 2025, figures 2 to 5).

The two ratios are base / shared and tuned / shared firings; triples that fire in less than .05% of the rows are set
aside. Where the shared latent never fires they are beyond every scale, and the triple is as exclusive as can be.

Shapes: m triples, n = 3 m latents in the order shared, base, tuned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffbench.corpus import PARTS, Corpus
from diffbench.dashboard import TiedDashboard, Triple, TripleContexts, rounded
from diffbench.diff import DictionaryDiff
from diffbench.feature_dashboard import Active
from diffbench.gathering import Scene
from diffbench.latents import LEAST_FIRING
from diffbench.lens import Lens
from diffbench.text import Part

MOST_TRIPLES = 20_000
OF_EITHER = 3
"""Triples shown of those with the highest ratio of tuned to shared, and of base to shared."""
TEXTS = 5
TOKENS = 6


def tied_dashboard(scene: Scene, diff: DictionaryDiff, lens: Lens) -> TiedDashboard | None:
    """The picture of a tied crosscoder; None of another dictionary.

    Args:
        scene: the pair and the judge's split. Where it has conversations, base latents are shown on plain text and
            tuned ones on conversations; otherwise both on all of it.
        diff: with the columns of its fit.
        lens: names the tokens that tuned decoders promote.

    Raises:
        DiffError: as `diffbench.activity.activity`.
    """
    if diff.group is None or any(name not in diff.columns for name in ("frequency", "base_to_shared")):
        return None
    frequency = diff.columns["frequency"].view(-1, 3)
    of_base = diff.columns["base_to_shared"].view(-1, 3)[:, 1]
    of_tuned = diff.columns["tuned_to_shared"].view(-1, 3)[:, 2]
    often = frequency[:, 0] + frequency[:, 1] + frequency[:, 2] >= LEAST_FIRING
    beyond = often & (frequency[:, 0] == 0)
    plain, chats, texts = _kinds(scene.corpus)
    return TiedDashboard(
        least=LEAST_FIRING,
        n_triples=len(frequency),
        triples=tuple(
            Triple(
                triple=triple,
                shared=rounded(float(frequency[triple, 0])),
                base=rounded(float(frequency[triple, 1])),
                tuned=rounded(float(frequency[triple, 2])),
                base_to_shared=_ratio(of_base[triple]),
                tuned_to_shared=_ratio(of_tuned[triple]),
                beyond=bool(beyond[triple]),
            )
            for triple in often.nonzero().flatten().tolist()[:MOST_TRIPLES]
        ),
        base_text=texts[0],
        tuned_text=texts[1],
        examples=_examples(scene, diff, lens, _highest(frequency, (of_base, of_tuned), beyond), (plain, chats)),
    )


def _kinds(corpus: Corpus) -> tuple[Tensor, Tensor, tuple[str, str]]:
    """[N] bool of plain documents and of conversations, and what they are called."""
    talks = (corpus.part != PARTS.index(Part.none)).any(dim=1)
    if bool(talks.any()) and not bool(talks.all()):
        return ~talks, talks, ("plain text", "conversations")
    every = torch.ones_like(talks)
    what = "conversations" if bool(talks.all()) else "all text (there are no conversations)"
    return every, every, (what, what)


def _highest(frequency: Tensor, ratios: tuple[Tensor, Tensor], beyond: Tensor) -> dict[int, str]:
    """The triples with the highest ratios, those of the tuned latent first, and for which of the two.

    A ratio that is beyond the scale is higher than any other; of two such the one that fires more often is.
    """
    chosen: dict[int, str] = {}
    for member, ratio, side in ((2, ratios[1], "tuned"), (1, ratios[0], "base")):
        often = frequency[:, member]
        known = torch.where(beyond & (often > 0), float("inf"), ratio.nan_to_num(nan=-1.0))
        by_firing = often.argsort(descending=True, stable=True)
        order = by_firing[known[by_firing].argsort(descending=True, stable=True)]
        for triple in order[:OF_EITHER].tolist():
            if float(known[triple]) > 0:
                chosen.setdefault(triple, side)
    return chosen


def _examples(
    scene: Scene, diff: DictionaryDiff, lens: Lens, chosen: dict[int, str], inside: tuple[Tensor, Tensor]
) -> tuple[TripleContexts, ...]:
    """Where the members of some triples are active."""
    assert diff.decoder_tuned is not None  # triples have both decoders
    if not chosen:
        return ()
    latents = [3 * triple + member for triple in chosen for member in (1, 2)]
    active = Active.of(scene, diff, latents)
    words = lens.read(diff.decoder_tuned[[3 * triple for triple in chosen]], TOKENS)
    return tuple(
        TripleContexts(
            triple=triple,
            chosen="tuned" if side == "tuned" else "base",
            tokens_up=tuple(words[index][0]),
            base=tuple(active.strongest(scene, 2 * index, inside[0], TEXTS)),
            tuned=tuple(active.strongest(scene, 2 * index + 1, inside[1], TEXTS)),
        )
        for index, (triple, side) in enumerate(chosen.items())
    )


def _ratio(value: Tensor) -> float | None:
    number = float(value)
    return rounded(number) if abs(number) < float("inf") else None
