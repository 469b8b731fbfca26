"""Sampling: what the models say themselves, from the openings of the same texts.

What needs torch is imported where it runs, so that listing and resuming stay fast. Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffbench import Field, Method, MethodOptions

if TYPE_CHECKING:
    from torch import Tensor

    from diffbench import Context, Diff, ModelPair, Predictions

RISE_FLOOR = 1e-4
"""Mean nats by which log probabilities of what comes must differ: rounding in the same function stays below it."""
PRIOR = 5
"""Occurrences without any change that are added to those of each token, so that rare ones count for less."""
SHORTEST = 8
"""Positions of a text that may be shown: shorter ones are carried by one token."""
PARTING_FLOOR = 2e-4
"""Partings for each token said above which two models differ for sure; rounding makes them part far more seldom."""
LEAST_Z = 2.0
"""z above which a token is named."""
SAMPLE_LENGTH = 4000


class PerplexityDifferencing(Method):
    """Texts and tokens that the tuned model finds likelier than the base does."""

    name = "perplexity-differencing"
    summary = "texts and tokens whose log likelihood rises most from base to tuned, in given and in sampled text"
    reference = "perplexity differencing (arXiv 2605.00994)"
    access = frozenset({"logits", "generate"})
    baseline = True

    class Options(MethodOptions):
        """How much is read and sampled."""

        tokens: int = Field(20_000, ge=1, description="positions of the text to read, of documents spread over it")
        prompts: int = Field(512, ge=0, description="texts that the tuned model goes on with; 0: read given text alone")
        opening: int = Field(4, ge=1, description="tokens of a text's beginning that it is given")
        new_tokens: int = Field(24, ge=2, description="most tokens that it says")
        shown: int = Field(20, ge=0, le=200, description="texts with the largest rise per token to keep")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """A finding for each kind of text, by the tokens whose log likelihood rises and falls most in all.

        The change score is the mean absolute difference in log likelihood per token that comes, over all that is read;
        it says changed where that is above rounding. Tokens are scored on sampled text if there is any.
        """
        from diffbench import Finding, OutputDiff, derive

        options = self.options
        text = pair.text()
        documents = [row[mask].tolist() for row, mask in zip(text.ids, text.mask, strict=True)]
        read = [_read(pair.predictions(tokens=options.tokens), "given text", documents, [0] * len(text), pair)]
        if options.prompts:
            openings = _openings(pair, options.prompts, options.opening, ctx.seed)
            said = pair.continuations("tuned", openings, new_tokens=options.new_tokens, seed=derive(ctx.seed, "tuned"))
            documents = [start + end for start, end in zip(openings, said, strict=True)]
            starts = [len(start) - 1 for start in openings]
            blocks = pair.predictions(documents=documents)
            read.append(_read(blocks, "text that the tuned model writes", documents, starts, pair))
        scored = read[-1]
        size = sum(part.mean * part.n for part in read) / sum(part.n for part in read)
        changed = size > RISE_FLOOR
        read.sort(key=lambda part: -part.mean)
        findings = [
            Finding(
                rank=rank,
                component=0,
                score=part.mean,
                tokens_up=pair.top_tokens(part.rises),
                tokens_down=pair.top_tokens(-part.rises),
                text=f"{part.kind}: {part.mean:.3g} nats per token either way, {part.net:+.3g} on balance",
            )
            for rank, part in enumerate(read, start=1)
        ]
        return OutputDiff(
            score="tokens",
            token_scores=(scored.rises / (scored.counts + PRIOR)).float(),
            samples=_likelier(read, options.shown, pair) if changed else (),
            findings=tuple(findings) if changed else (),
            change_score=size,
            verdict="changed" if changed else "unchanged",
            notes={part.kind: part.n for part in read},
        )


class ContrastiveSampling(Method):
    """Tokens that the two models say more or less often."""

    name = "contrastive-sampling"
    summary = "tokens that differ most in how often both models say them after the same openings (log odds)"
    reference = "Monroe, Colaresi & Quinn 2008 (log odds with an informative Dirichlet prior)"
    access = frozenset({"generate"})
    baseline = True

    class Options(MethodOptions):
        """How much is sampled."""

        prompts: int = Field(1024, ge=1, description="openings that each model goes on with")
        opening: int = Field(4, ge=1, description="tokens of a text's beginning that make an opening")
        new_tokens: int = Field(24, ge=1, description="most tokens that are said after it")
        prior: float = Field(100.0, gt=0, description="tokens of the prior, in the proportions of both models together")
        shown: int = Field(20, ge=0, le=200, description="pairs of texts that part to keep")

    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Both models draw with the same noise, so that equal models say the same, and others part where they differ.

        Tokens are counted from there on: what both say before tells nothing apart. The change score is the number of
        partings for each token said up to there, about the mean total variation of the next-token distributions. It
        says changed above a rate that rounding never reaches, unchanged where no text parts, and abstains in between.
        """
        from diffbench import Finding, OutputDiff, derive

        options, seed = self.options, derive(ctx.seed, "both")
        openings = _openings(pair, options.prompts, options.opening, ctx.seed)
        ctx.report("sampling from the reference", 0.0)
        base = pair.continuations("reference", openings, new_tokens=options.new_tokens, seed=seed)
        ctx.report("sampling from the tuned model", 0.5)
        tuned = pair.continuations("tuned", openings, new_tokens=options.new_tokens, seed=seed)
        starts = [_common(one, other) for one, other in zip(base, tuned, strict=True)]
        parted = [n for n, (one, other) in enumerate(zip(base, tuned, strict=True)) if one != other]
        counts = [_counts(side, starts, pair.vocabulary) for side in (base, tuned)]
        z = log_odds_z(counts[0], counts[1], options.prior)
        rate = len(parted) / max(1, sum(starts) + len(parted))
        up, down = (pair.top_tokens(z.where(z > LEAST_Z, 0.0)), pair.top_tokens((-z).where(-z > LEAST_Z, 0.0)))
        said = Counter((_at(base[n], starts[n], pair), _at(tuned[n], starts[n], pair)) for n in parted)
        often = "; ".join(f"{other} for {one} ({n})" for (one, other), n in said.most_common(3))
        text = f"{len(parted)} of {len(openings)} texts part; most often the tuned model says {often}"
        finding = Finding(rank=1, component=0, score=float(z.abs().max()), tokens_up=up, tokens_down=down, text=text)
        return OutputDiff(
            score="tokens",
            token_scores=z.float(),
            samples=tuple(_both(openings[n], base[n], tuned[n], pair) for n in parted[: options.shown]),
            findings=(finding,) if parted else (),
            change_score=rate,
            verdict="changed" if rate > PARTING_FLOOR else "abstain" if parted else "unchanged",
            notes={"texts": len(openings), "parted": len(parted)},
        )


def log_odds_z(base: Tensor, tuned: Tensor, prior: float) -> Tensor:
    """[V]: z of the log odds of each token in one text against another (Monroe et al. 2008, equations 16, 19 and 20).

    The prior is ``prior`` tokens in the proportions of both texts together. A token in neither text has z = 0, and so
    has one that is all there is.

    Args:
        base: [V] how often each token occurs.
        tuned: [V] the same of the other text; z is positive where it has more of a token.
        prior: strength of the prior.
    """
    counts = [side.double() for side in (base, tuned)]
    both = counts[0] + counts[1]
    share = both / both.sum().clamp_min(1)
    odds, variance = [], share.new_zeros(len(share))
    for side in counts:
        has = side + prior * share
        odds.append((has / (side.sum() + prior - has)).log())
        variance += 1 / has
    return ((odds[1] - odds[0]) / variance.sqrt()).where((both > 0) & (both < both.sum()), 0.0)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens at their beginnings that two texts have in common."""
    shorter = min(len(one), len(other))
    return next((n for n in range(shorter) if one[n] != other[n]), shorter)


def _at(said: Sequence[int], place: int, pair: ModelPair) -> str:
    return repr(pair.token_names(said[place : place + 1])[0]) if place < len(said) else "the end"


def _counts(said: Sequence[Sequence[int]], starts: Sequence[int], vocabulary: int) -> Tensor:
    """[V]: how often each token is said from ``starts`` on."""
    import torch

    tokens = [token for row, start in zip(said, starts, strict=True) for token in row[start:]]
    return torch.bincount(torch.tensor(tokens, dtype=torch.int64), minlength=vocabulary)


@dataclass(frozen=True, slots=True)
class _Rises:
    """How the log likelihood of what comes differs, base to tuned.

    Attributes:
        kind: of text.
        n: positions.
        mean: absolute difference per position, in nats.
        net: difference per position.
        rises: [V] float64, sum of the differences where each token comes.
        counts: [V] how often each comes.
        documents: rise per position of each document, and its ids.
    """

    kind: str
    n: int
    mean: float
    net: float
    rises: Tensor
    counts: Tensor
    documents: list[tuple[float, list[int]]]


def _read(
    blocks: Iterator[Predictions], kind: str, documents: list[list[int]], starts: list[int], pair: ModelPair
) -> _Rises:
    """Read documents from the position in ``starts`` on."""
    import torch

    rises, tokens, places = [], [], []
    first = torch.tensor(starts)
    for block in blocks:
        kept = block.position >= first[block.document]
        rises.append(block.rise[kept].double())
        tokens.append(block.following[kept])
        places.append(block.document[kept])
    rise, token, place = torch.cat(rises), torch.cat(tokens), torch.cat(places)
    lengths = torch.bincount(place, minlength=len(documents))
    sums = rise.new_zeros(len(documents)).index_add_(0, place, rise)
    return _Rises(
        kind=kind,
        n=len(rise),
        mean=float(rise.abs().mean()) if len(rise) else 0.0,
        net=float(rise.mean()) if len(rise) else 0.0,
        rises=rise.new_zeros(pair.vocabulary).index_add_(0, token, rise),
        counts=torch.bincount(token, minlength=pair.vocabulary),
        documents=[
            (float(sums[index] / lengths[index]), documents[index])
            for index in (lengths >= SHORTEST).nonzero().flatten().tolist()
        ],
    )


def _likelier(read: Sequence[_Rises], n: int, pair: ModelPair) -> tuple[str, ...]:
    """The ``n`` texts of all kinds with the largest rise per position."""
    texts = sorted((each for part in read for each in part.documents), key=lambda each: -each[0])[:n]
    return tuple(f"{rise:+.3f} {_text(ids, pair)}"[:SAMPLE_LENGTH] for rise, ids in texts)


def _both(opening: list[int], base: list[int], tuned: list[int], pair: ModelPair) -> str:
    parts = (("", opening), ("reference", base), ("tuned", tuned))
    return "\n".join(f"{name}: {_text(ids, pair)}".removeprefix(": ")[: SAMPLE_LENGTH // 3 - 1] for name, ids in parts)


def _text(ids: list[int], pair: ModelPair) -> str:
    text: str = pair.tokenizer.decode(ids, skip_special_tokens=True)
    return text


def _openings(pair: ModelPair, n: int, opening: int, seed: int) -> list[list[int]]:
    """The first ``opening`` tokens, and what stands before the first that counts, of ``n`` documents drawn at random.

    Documents come several times where there are fewer.

    Raises:
        OptionError: if no document is that long.
    """
    import torch

    from diffbench import OptionError, derive

    text = pair.text()
    ends = (text.counts.cumsum(dim=1) == opening).int().argmax(dim=1) + 1
    long = (text.counts.sum(dim=1) >= opening).nonzero().flatten()
    if not len(long):
        raise OptionError(f"opening: no text has {opening} tokens")
    generator = torch.Generator().manual_seed(derive(seed, "openings"))
    drawn = long[torch.randperm(len(long), generator=generator)].repeat(-(-n // len(long)))[:n].tolist()
    return [text.ids[index, : int(ends[index])].tolist() for index in drawn]
