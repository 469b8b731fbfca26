"""Decoding: continuations token by token, against a forward pass of the whole text for each token, in turns.

Both draw with the same luck. Their logits differ by rounding, so one continuation of some thousand can be another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch.nn.functional import normalize

from benchmarks.lines import Goal, Line, Part
from benchmarks.settings import Settings
from diffbench.corpus import Corpus, tokenise
from diffbench.gathering import NEW_TOKENS, PROMPT_TOKENS, PROMPTS
from diffbench.plugins import find_base
from diffbench.residual import load_model, load_tokenizer, width
from diffbench.rollout import Sampling, rollouts_each, whole_rollouts
from diffbench.steering import Direction, Run, Speaker, Steer, stream_size

LAYER, FINDINGS = 2, 10
GOAL, MOST_OTHER = Goal(least=3), 0.05
Said = list[list[list[list[int]]]]


def measure(settings: Settings) -> Part:
    """Ratios of the seconds of both ways, and whether they say the same."""
    torch.set_num_threads(1)
    base = find_base("tinyworld")()
    reference, tuned = load_model(base.path()), load_model(base.path())
    torch.manual_seed(0)
    for parameter in tuned.parameters():
        parameter += 0.01 * torch.randn_like(parameter)
    documents = zip(base.documents(0), range(400), strict=False)
    corpus = tokenise([one for one, _ in documents], load_tokenizer(base.path()))
    size = stream_size(reference, corpus, LAYER)
    ways = normalize(torch.randn(FINDINGS, width(reference)), dim=1)

    def speakers(run: Run, n: int) -> list[Speaker]:
        return [Speaker(Steer(Direction(way, size), LAYER, run=run), reference, tuned) for way in ways[:n]]

    cases: list[tuple[str, Run, int, int, int]] = [
        (f"{run}, one direction, 64 prompts x 32 tokens", run, 1, 64, 32) for run in ("reference", "hybrid")
    ]
    what = f"reference, {FINDINGS} directions, {PROMPTS} prompts x {NEW_TOKENS} tokens, as scoring has it"
    cases.append((what, "reference", FINDINGS, PROMPTS, NEW_TOKENS))
    part = Part()
    for what, run, n, prompts, new_tokens in cases:
        text = _begun(corpus, prompts)
        rounds = _rounds(speakers(run, n), text, Sampling(new_tokens=new_tokens), 2 if settings.quick else 7)
        part.lines.append(_line(what, rounds))
        part.raw[what] = [asdict(one) for one in rounds]
    return part


@dataclass(frozen=True, slots=True)
class _Round:
    """Seconds of the processor of both ways, and how many continuations are not the same."""

    ours: float
    whole: float
    other: int
    n: int


def _rounds(speakers: list[Speaker], text: Corpus, sampling: Sampling, n: int) -> list[_Round]:
    """The first is not counted."""
    found = []
    for _ in range(n):
        ours, said = _timed(lambda: rollouts_each(speakers, text, sampling))
        whole, expected = _timed(lambda: [whole_rollouts(speaker, text, sampling) for speaker in speakers])
        pairs = [(one, other) for a, b in zip(said, expected, strict=True) for one, other in zip(a, b, strict=True)]
        found.append(_Round(ours, whole, sum(one != other for one, other in pairs), len(pairs)))
    return found[1:]


def _begun(corpus: Corpus, n: int) -> Corpus:
    """The beginnings of some documents, no two alike."""
    long = corpus.rows(corpus.mask.sum(dim=1) >= PROMPT_TOKENS)
    begun = long.ids[:, :PROMPT_TOKENS].tolist()
    first = {tuple(ids): row for row, ids in reversed(list(enumerate(begun)))}
    part = long.rows(torch.tensor(sorted(first.values())[:n]))
    return Corpus(*(getattr(part, name)[:, :PROMPT_TOKENS] for name in Corpus.__slots__))


def _timed(say: Callable[[], Said]) -> tuple[float, Said]:
    started = time.process_time()
    said = say()
    return time.process_time() - started, said


def _line(what: str, rounds: list[_Round]) -> Line:
    ratios = [one.whole / one.ours for one in rounds]
    other = max(one.other / one.n for one in rounds)
    return Line(
        "decode",
        what,
        ours=median(one.ours for one in rounds),
        against="whole texts",
        other=median(one.whole for one in rounds),
        unit="s",
        ratio=median(ratios),
        spread=(min(ratios), max(ratios)),
        goal=GOAL,
        state="measured" if other <= MOST_OTHER else f"{other:.0%} of the continuations are not the same",
    )
