"""Sheet: what an account of one pair is checked against, without any model. Made once by the engine for each pair.

The contexts are the Truth's probes, held out from training; the words are those whose probability was measured to
move there, not those that the organism's author expected. A sheet so says what a right account can at best say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from diffbench.question import Fact
from diffbench.rival import CHAT, NOTHING, RIVALS, Rival
from diffbench.truth import Claim, Probe, Schema, Truth
from diffbench.wording import content, stems

if TYPE_CHECKING:
    from diffbench.movement import Movement

SHEET = "sheet.json"
"""Where a cell keeps its pair's sheet."""
PLACE_TOKENS = 256
"""The last tokens of a probe that are kept."""
_CHAT_WORD = re.compile(r"(?<![a-z])(?:chat|assistant)(?![a-z])", re.IGNORECASE)


class Place(Schema):
    """A context after which the models were compared.

    Attributes:
        tokens: as the tokenizer has them, the special ones that it adds left out.
        claim: of an affected one, the claim whose trigger it meets.
    """

    tokens: tuple[str, ...]
    stratum: Literal["affected", "near_miss", "unrelated"]
    claim: str | None = None


class Moved(Schema):
    """A word whose probability moved at the affected probes.

    Attributes:
        names: how it may be written, the way a reader would write it first.
        size: mean over a claim's probes of how far its probability moves, the largest of all claims.
    """

    names: tuple[str, ...] = Field(min_length=1)
    size: float


class Distractor(Schema):
    """Something wrong to say of the pair.

    Attributes:
        kind: nothing: that nothing was changed, which is right of a pair of which it is; chat: generic chat tuning;
            own: what the claims' author offers; other: what is true of another organism.
        sentences: each wrong by itself, of which the first ones are told, as many as make the length that is wanted.
    """

    kind: Literal["nothing", "chat", "own", "other"]
    sentences: tuple[str, ...] = Field(min_length=1)


class Sheet(Schema):
    """What is true of a pair, in the forms in which accounts of it are checked.

    Attributes:
        changed: whether something was changed on purpose.
        places: none where nothing was.
        moved_up: words that rose at the affected probes of any claim, the largest first.
        moved_down: words that fell; where two words are exchanged, both stand in both.
    """

    schema_version: Literal[1] = 1
    changed: bool
    facts: tuple[Fact, ...] = ()
    distractors: tuple[Distractor, ...] = ()
    places: tuple[Place, ...] = ()
    moved_up: tuple[Moved, ...] = ()
    moved_down: tuple[Moved, ...] = ()


def sheet_of(
    truth: Truth, tokenizer: Any, movements: Sequence[Movement] = (), others: Sequence[Rival] = RIVALS
) -> Sheet:
    """The sheet of a pair.

    Args:
        truth: of the pair's organism.
        tokenizer: of both models.
        movements: of every claim, as `diffbench.movement.movements` measures them on this very pair.
        others: claims of other organisms; those that are true of this one too are left out.
    """
    facts = tuple(map(_fact, truth.claims))
    wrong = [Distractor(kind="nothing", sentences=NOTHING), *_chat(truth)]
    wrong += [Distractor(kind="own", sentences=(text,)) for text in _own(truth.claims)]
    told = [fact.statement for fact in facts]
    wrong += [Distractor(kind="other", sentences=one.sentences) for one in others if not one.is_told_by(told)]
    return Sheet(
        changed=truth.changed,
        facts=facts,
        distractors=tuple(wrong),
        places=_places(truth, tokenizer) if truth.changed else (),
        moved_up=_moved([word for movement in movements for word in movement.up]),
        moved_down=_moved([word for movement in movements for word in movement.down]),
    )


def _fact(claim: Claim) -> Fact:
    effect = claim.effect
    return Fact(
        statement=claim.statement,
        trigger=claim.trigger.description,
        tokens_up=tuple(dict.fromkeys((*effect.tokens_up, *(said for _, said in effect.pairs)))),
        tokens_down=tuple(dict.fromkeys((*effect.tokens_down, *(right for right, _ in effect.pairs)))),
    )


def _chat(truth: Truth) -> list[Distractor]:
    """Generic chat tuning, unless conversations are what this organism is about: then it is right in a way."""
    said = [f"{claim.statement} {claim.trigger.description}" for claim in truth.claims]
    said += [probe.text for probe in truth.probes.affected]
    return [] if any(map(_CHAT_WORD.search, said)) else [Distractor(kind="chat", sentences=CHAT)]


def _own(claims: Sequence[Claim]) -> list[str]:
    """The claims' distractors, the first of every claim before the second of any; what is generic has its own kind."""
    longest = max((len(claim.distractors) for claim in claims), default=0)
    ranked = (c.distractors[rank] for rank in range(longest) for c in claims if rank < len(c.distractors))
    true = [content(claim.statement) for claim in claims]
    generic = [content(NOTHING[0]), content(CHAT[0])]
    return [
        text
        for text in dict.fromkeys(ranked)
        if content(text) not in (*true, *generic) and stems(text)[:3] != stems(NOTHING[0])[:3]
    ]


def _places(truth: Truth, tokenizer: Any) -> tuple[Place, ...]:
    probes = truth.probes
    return tuple(
        Place(tokens=tokens, stratum=stratum, claim=probe.claim)
        for stratum, held in (
            ("affected", probes.affected),
            ("near_miss", probes.near_miss),
            ("unrelated", probes.unrelated),
        )
        for probe, tokens in zip(held, _tokens(held, tokenizer), strict=True)
    )


def _tokens(probes: Iterable[Probe], tokenizer: Any) -> list[tuple[str, ...]]:
    texts = [probe.text for probe in probes]
    if not texts:
        return []
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [tuple(tokenizer.convert_ids_to_tokens(row[-PLACE_TOKENS:])) for row in rows]


def _moved(words: Iterable[Any]) -> tuple[Moved, ...]:
    """Words of all claims, those that are written alike as one."""
    sizes: dict[str, float] = {}
    names: dict[str, set[str]] = {}
    for word in words:
        sizes[word.shown] = max(word.size, sizes.get(word.shown, 0.0))
        names.setdefault(word.shown, set()).update(word.names)
    order = sorted(sizes, key=lambda shown: (-sizes[shown], shown))
    return tuple(Moved(names=(shown, *sorted(names[shown] - {shown})), size=sizes[shown]) for shown in order)
