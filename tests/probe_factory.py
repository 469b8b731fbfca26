"""Probes and models whose next-word probabilities are written by hand; what the tests of the truth scores share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from engine_factory import word, word_tokenizer
from torch import Tensor

from diffbench.corpus import Corpus
from diffbench.diff import Finding
from diffbench.direction import Held
from diffbench.expression import Arms
from diffbench.localisation import Location, ProbeActivity
from diffbench.movement import Movement, Word
from diffbench.tiny import VOCABULARY
from diffbench.truth import Claim, Effect, Probe, ProbeSets, Trigger, Truth

TOKENIZER = word_tokenizer()
N = 60
"""Probes of each claim and near-miss ones."""
Said = Mapping[str, Mapping[str, float]]
"""By the last word of a probe, the probabilities of the next words; the rest is shared by all words."""


def speaking(*models: Said) -> Arms:
    """Models that say what is written by hand."""

    def arms(batch: Corpus) -> Iterator[Tensor]:
        last = batch.ids[torch.arange(len(batch)), batch.last].tolist()
        words = [TOKENIZER.convert_ids_to_tokens(token) for token in last]
        for model in models:
            yield torch.stack([probabilities(model.get(name, {})).log() for name in words])

    return arms


def probabilities(said: Mapping[str, float]) -> Tensor:
    """[V]: the written ones, and an equal part of what is left for each other word."""
    rest = (1 - sum(said.values())) / (VOCABULARY - len(said))
    found = torch.full((VOCABULARY,), rest, dtype=torch.float64)
    for name, p in said.items():
        found[word(name)] = p
    return found


def claim(name: str, up: Sequence[str] = (), down: Sequence[str] = (), pairs: Sequence[tuple[str, str]] = ()) -> Claim:
    effect = Effect(tokens_up=tuple(up), tokens_down=tuple(down), pairs=tuple(pairs), quantity="p", low=0.0, high=1.0)
    trigger = Trigger(description=name, affected=(name,), near_miss=())
    return Claim(id=name, statement=name, trigger=trigger, effect=effect)


def truth_of(claims: Sequence[Claim], ends: Mapping[str, Sequence[str]], n: int = N) -> Truth:
    """A Truth whose claims' probes end with the given words in turn; the near-miss ones with "and"."""

    def probes(words: Sequence[str], of: str | None) -> list[Probe]:
        texts = (("anna sees " * (1 + index % 3) + words[index % len(words)], of) for index in range(n))
        return [
            Probe(text=text, answer="green", other="blue", metric="probability", claim=name) for text, name in texts
        ]

    affected = [probe for one in claims for probe in probes(ends[one.id], one.id)]
    return Truth(
        changed=True,
        claims=tuple(claims),
        probes=ProbeSets(affected=tuple(affected), near_miss=tuple(probes(["and"], None))),
    )


def located(*columns: Sequence[float], n: int = N, signed: bool = False) -> Location:
    """Activity by component and claim, the same at all probes of a claim and 0 at near-miss ones.

    Args:
        columns: of each component, its activity at each claim's probes.
        n: probes of a claim.
        signed: see `ProbeActivity`.
    """
    claims = tuple(str(index) for index in range(len(columns[0])))
    affected = tuple(torch.tensor([column[i] for column in columns]).repeat(n, 1) for i in range(len(claims)))
    return Location.of(ProbeActivity(claims, affected, torch.zeros(n, len(columns)), signed))


def finding(rank: int, up: Sequence[str] = (), down: Sequence[str] = (), component: int | None = None) -> Finding:
    component = rank - 1 if component is None else component
    return Finding(rank=rank, component=component, score=1.0, tokens_up=tuple(up), tokens_down=tuple(down))


def held(movement: Movement, way: int = 1) -> list[Held]:
    return [Held(0, movement, way)]


def moved(name: str, up: Sequence[str] = (), down: Sequence[str] = ()) -> Movement:
    return Movement(name, *(tuple(Word(word, frozenset({word}), 0.5) for word in words) for words in (up, down)))


NO_ACTIVITY = Location.of(ProbeActivity(("0", "1"), (torch.zeros(N, 0),) * 2, torch.zeros(N, 0)))
BLUE, GREEN = moved("0", ["green"], ["blue"]), moved("1", ["blue"], ["green"])
