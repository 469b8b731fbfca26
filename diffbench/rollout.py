"""Rollouts: continuations of texts drawn from a steered pair, and what swapping one token does to them.

Every draw follows from the seed, the text and the number of the rollout alone: neither the company in a batch nor what
is done to the models changes which random numbers a rollout gets, so that runs are compared on the same luck. The
company changes logits by rounding, so a token can be another one in another company where two are next to equally
probable, or the luck falls next to the border of two; the same call says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diffbench.architecture import Model, blocks, vocabulary
from diffbench.causal import token_kl
from diffbench.corpus import Corpus
from diffbench.decoding import Decoding, cacheable, decoding, together, token_bytes
from diffbench.errors import DiffError, OptionError
from diffbench.figure import Figure
from diffbench.residual import hidden, unembed
from diffbench.seeds import derive
from diffbench.steering import BATCH_TOKENS, Speaker
from diffbench.tally import Count, difference

MOST_BYTES = 1 << 26
"""Of logits at once."""
KEPT_BYTES = 1 << 30
"""Of keys and values at once."""
BELOW_ONE = 1 - 2.0**-52


@dataclass(frozen=True, slots=True)
class Sampling:
    """How continuations are drawn.

    Attributes:
        new_tokens: the most tokens of a continuation.
        n: continuations of each text.
        temperature: 0: always the most probable token.
        seed: of all draws.
        ends: tokens that end a continuation and are no part of it; see `diffbench.architecture.ends_of`.
        words: only tokens below it are said; None: all.
    """

    new_tokens: int
    n: int = 1
    temperature: float = 1.0
    seed: int = 0
    ends: tuple[int, ...] = ()
    words: int | None = None

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.n < 1 or self.temperature < 0:
            raise OptionError("sampling: new_tokens and n must be at least 1, and the temperature at least 0")


def rollouts(speaker: Speaker, prompts: Corpus, sampling: Sampling) -> list[list[list[int]]]:
    """Tokens of the continuations: ``sampling.n`` of each document of ``prompts``, in order.

    Texts of unequal length are continued each from its own last token; texts that have come to be the same are run
    once. Models that `diffbench.decoding.cacheable` knows are read token by token, others as `whole_rollouts` does.

    Raises:
        OptionError: if the models have no places for texts so long.
        DiffError: if what is added leads to NaN or infinite logits.
    """
    [said] = rollouts_each([speaker], prompts, sampling)
    return said


def rollouts_each(speakers: Sequence[Speaker], prompts: Corpus, sampling: Sampling) -> list[list[list[list[int]]]]:
    """The rollouts of each of some speakers after the same prompts, with the same luck; in one batch where they can be.

    Raises:
        OptionError, DiffError: as `rollouts`, for any of them.
    """
    found: dict[int, list[list[list[int]]]] = {}
    for numbers in together(speakers):
        group = [speakers[number] for number in numbers]
        if cacheable(group[0].reference, group[0].tuned):
            found |= zip(numbers, _cached(group, prompts, sampling), strict=True)
        else:
            found |= {number: whole_rollouts(speakers[number], prompts, sampling) for number in numbers}
    return [found[number] for number in range(len(speakers))]


def whole_rollouts(speaker: Speaker, prompts: Corpus, sampling: Sampling) -> list[list[list[int]]]:
    """As `rollouts`, by a forward pass of the whole text for each token, whatever the models are."""
    texts = _Texts([speaker], prompts, sampling)
    for step in range(sampling.new_tokens):
        open_rows = texts.open.nonzero().flatten()
        if not len(open_rows):
            break
        texts.say(open_rows, _next(speaker, texts, open_rows, step))
    [said] = texts.said()
    return said


def _cached(speakers: Sequence[Speaker], prompts: Corpus, sampling: Sampling) -> list[list[list[list[int]]]]:
    """Of speakers that go together, read token by token."""
    texts = _Texts(speakers, prompts, sampling)
    length = int(prompts.mask.sum(dim=1).max())
    size = min(
        KEPT_BYTES // (token_bytes(speakers[0]) * (length + sampling.new_tokens)),
        MOST_BYTES // (4 * speakers[0].words),
        sampling.n * (BATCH_TOKENS // length),
    )
    with decoding(speakers) as reads:
        for rows in torch.arange(len(texts.open)).split(max(1, size)):
            _go_on(reads, texts, rows)
    return texts.said()


def _go_on(reads: Decoding, texts: _Texts, rows: Tensor) -> None:
    """Continue some rows to their ends; those whose texts are the same so far are one row of ``reads``."""
    sampling = texts.sampling
    batch, who, which = texts.different(rows)
    logits = reads.begin(batch, who)
    for step in range(sampling.new_tokens):
        tokens = _drawn(logits, which, texts.luck[rows, step], sampling)
        texts.say(rows, tokens)
        stay = texts.open[rows]
        if step + 1 == sampling.new_tokens or not bool(stay.any()):
            return
        rows = rows[stay]
        pairs, which = torch.stack([which[stay], tokens[stay]], dim=1).unique(dim=0, return_inverse=True)
        logits = reads.go_on(pairs[:, 0], pairs[:, 1])


class _Texts:
    """All rollouts as far as they have got: rows [R, L] of ids, right-padded, with room for what is to come.

    Speaker by speaker, of each prompt by prompt, of each rollout by rollout.
    """

    def __init__(self, speakers: Sequence[Speaker], prompts: Corpus, sampling: Sampling) -> None:
        longest = int(prompts.mask.sum(dim=1).max()) + sampling.new_tokens - 1  # the last token is never read
        places = speakers[0].places
        if places is not None and longest > places:
            raise OptionError(f"new_tokens: texts of {longest} tokens are longer than the models' {places} places")
        self.sampling, self.n_prompts = sampling, len(prompts)
        self.who = torch.arange(len(speakers)).repeat_interleave(len(prompts) * sampling.n)

        def rows(of_prompts: Tensor) -> Tensor:
            each = of_prompts.repeat_interleave(sampling.n, dim=0)
            return each.repeat(len(speakers), *[1] * (each.dim() - 1))

        self.start = rows(prompts.mask.sum(dim=1))
        self.length = self.start.clone()
        self.open = torch.ones(len(self.start), dtype=torch.bool)
        self.ids = rows(functional.pad(prompts.ids, (0, sampling.new_tokens)))
        self.alone = rows(functional.pad(prompts.mask & ~prompts.counts, (0, sampling.new_tokens)))
        self.luck = torch.cat([_luck(key, sampling) for key in _keys(prompts)]).repeat(len(speakers), 1)

    def say(self, rows: Tensor, tokens: Tensor) -> None:
        """Put one token each behind some rows; one that ends a text closes it."""
        ends = torch.isin(tokens, torch.tensor(self.sampling.ends, dtype=torch.int64))
        self.open[rows[ends]] = False
        rows, tokens = rows[~ends], tokens[~ends]
        self.ids[rows, self.length[rows]] = tokens
        self.length[rows] += 1

    def different(self, rows: Tensor) -> tuple[Corpus, Tensor, Tensor]:
        """The different texts of some rows, the speaker of each [m], and which of them each row has [R]."""
        length = int(self.length[rows].max())
        held = torch.arange(length) < self.length[rows, None]
        ids = torch.where(held, self.ids[rows, :length], -1)
        found, which = torch.unique(torch.cat([self.who[rows, None], ids], dim=1), dim=0, return_inverse=True)
        first = torch.full((len(found),), len(rows)).scatter_reduce(0, which, torch.arange(len(rows)), "amin")
        who, ids = found[:, 0], found[:, 1:]
        mask = ids >= 0
        counts = mask & ~self.alone[rows[first], :length]
        codes = torch.zeros_like(mask, dtype=torch.int8)
        return Corpus(ids.clamp_min(0), mask, counts, torch.zeros_like(mask), codes, codes), who, which

    def said(self) -> list[list[list[list[int]]]]:
        """What came after each prompt, of each speaker."""
        ends = zip(self.ids.tolist(), self.start.tolist(), self.length.tolist(), strict=True)
        each = iter([row[start:end] for row, start, end in ends])
        n = range(self.sampling.n)
        return [[[next(each) for _ in n] for _ in range(self.n_prompts)] for _ in range(int(self.who[-1]) + 1)]


def _next(speaker: Speaker, texts: _Texts, rows: Tensor, step: int) -> Tensor:
    """The next token of each of some rows."""
    batch, _, which = texts.different(rows)
    tokens = torch.empty(len(rows), dtype=torch.int64)
    size = max(1, min(BATCH_TOKENS // batch.ids.shape[1], MOST_BYTES // (4 * speaker.words)))
    for start, part in batch.batches(size):
        mine = ((which >= start) & (which < start + len(part))).nonzero().flatten()
        luck = texts.luck[rows[mine], step]
        tokens[mine] = _drawn(speaker.after(part), which[mine] - start, luck, texts.sampling)
    return tokens


def _drawn(logits: Tensor, which: Tensor, luck: Tensor, sampling: Sampling) -> Tensor:
    """[m]: a token of each row ``which`` [m] of ``logits``: where the distribution function passes ``luck`` [m]."""
    if not bool(logits.isfinite().all()):
        raise DiffError("steering gives NaN or infinite logits; nothing can be drawn from them")
    logits = logits[:, : sampling.words]
    if sampling.temperature == 0:
        return logits.argmax(dim=1)[which]
    reached = (logits.double() / sampling.temperature).softmax(dim=1).cumsum(dim=1)
    tokens = []
    size = max(1, MOST_BYTES // (8 * logits.shape[1]))
    for part, lucky in zip(which.split(size), luck.split(size), strict=True):
        rows = reached[part]
        tokens.append(torch.searchsorted(rows, lucky[:, None] * rows[:, -1:], right=True)[:, 0])
    return torch.cat(tokens)


def _keys(prompts: Corpus) -> list[str]:
    """A name of each prompt that follows from its tokens, and from how often they stand before it."""
    seen: dict[str, int] = {}
    keys = []
    for ids, mask in zip(prompts.ids, prompts.mask, strict=True):
        text = ",".join(map(str, ids[mask].tolist()))
        seen[text] = seen.get(text, 0) + 1
        keys.append(f"{text};{seen[text]}")
    return keys


def _luck(key: str, sampling: Sampling) -> Tensor:
    """[n, new_tokens] float64 in 0..1: the random numbers of one prompt's rollouts."""
    generator = torch.Generator().manual_seed(derive(sampling.seed, "rollout", key))
    drawn = torch.rand(sampling.n, sampling.new_tokens, dtype=torch.float64, generator=generator)
    return drawn.clamp_max(BELOW_ONE)


@dataclass(frozen=True, slots=True)
class Place:
    """A position whose next token the two models see differently.

    Attributes:
        document: index into the corpus.
        position: the last token of the context; the token after it is what is predicted.
        kl: KL(p_reference || p_tuned) there, in nats.
        token: what follows in the text.
        reference_top: the reference's most probable token.
        tuned_top: the tuned model's.
    """

    document: int
    position: int
    kl: float
    token: int
    reference_top: int
    tuned_top: int


@torch.inference_mode()
def high_kl_positions(reference: Model, tuned: Model, corpus: Corpus, n: int) -> list[Place]:
    """The ``n`` predicting positions with the largest KL(p_reference || p_tuned), the largest first."""
    last = len(blocks(reference)) - 1
    size = max(1, MOST_BYTES // (4 * vocabulary(reference)))
    found: list[Place] = []
    for documents, batch in corpus.packed(BATCH_TOKENS):
        where = batch.predicts
        rows = [hidden(model, batch.ids, batch.mask, last)[where] for model in (reference, tuned)]
        places = where.nonzero()
        following = batch.ids[places[:, 0], places[:, 1] + 1]
        for start in range(0, len(places), size):
            part = slice(start, start + size)
            ours, theirs = unembed(reference, rows[0][part]), unembed(tuned, rows[1][part])
            kl = token_kl(ours.float().log_softmax(dim=-1), theirs)
            tops = (documents[places[part, 0]], places[part, 1], kl, following[part], ours.argmax(1), theirs.argmax(1))
            found += map(Place, *(column.tolist() for column in tops))
        found = sorted(found, key=lambda place: (-place.kl, place.document, place.position))[:n]
    return found


@dataclass(frozen=True, slots=True)
class Swap:
    """How often something holds of what follows a token, and of what follows another one in its place."""

    token: int
    other: int
    original: Count
    swapped: Count

    @property
    def difference(self) -> Figure:
        """Share after the other token minus share after the token itself, with its 95% interval."""
        return difference(self.swapped, self.original)


def swap(
    speaker: Speaker,
    corpus: Corpus,
    place: Place,
    sampling: Sampling,
    holds: Callable[[list[int]], bool],
    *,
    token: int | None = None,
    other: int | None = None,
) -> Swap:
    """Continue a text from one of its tokens, and from another token in its place (Aranguri, Drori & Nanda 2025).

    Args:
        speaker: who continues; mostly the reference as it is.
        corpus: that ``place`` is of.
        place: the token after its position is swapped.
        sampling: how many continuations there are, and how they are drawn.
        holds: asked of the tokens after the swapped one, which itself is no part of them.
        token: the one that is swapped; None: the text's own. In a text that the tuned model did not write, the tuned
            model's most probable token is the one to ask about.
        other: the token that comes in; None: the reference's most probable one.

    Raises:
        OptionError, DiffError: as `rollouts`.
    """
    tokens = (place.token if token is None else token, place.reference_top if other is None else other)
    counts = []
    for begun in tokens:
        if begun in sampling.ends:
            counts.append(Count(sampling.n * int(holds([])), sampling.n))
            continue
        context = corpus.rows(torch.tensor([place.document]))
        end = place.position + 2
        prompt = Corpus(*(getattr(context, name)[:, :end].clone() for name in Corpus.__slots__))
        prompt.ids[0, -1] = begun
        [said] = rollouts(speaker, prompt, sampling)
        counts.append(Count(sum(map(holds, said)), sampling.n))
    return Swap(*tokens, *counts)
