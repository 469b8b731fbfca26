"""Continuation: what a model says after prompts of token ids, many at a time.

Drawn at temperature 1 from the whole distribution, or greedily: settings that a model's folder brings along do not
count.
Shapes: B prompts of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from diffbench.architecture import Model, vocabulary
from diffbench.corpus import Corpus
from diffbench.errors import OptionError
from diffbench.seeds import derive

MOST_PROMPTS = 256
MOST_SCORES = 1 << 25
"""Next-token scores of a batch."""

Ids = Sequence[int]


def continued(
    model: Model,
    prompts: Sequence[Ids],
    *,
    new_tokens: int,
    ends: Ids,
    known: int,
    sample: bool = True,
    seed: int | None = None,
) -> Iterator[list[int]]:
    """What the model says after each prompt, in order, up to and without the first end.

    Two models that draw with the same seed draw with the same noise: their answers part only where their predictions
    differ.

    Args:
        model: a causal LM.
        prompts: token ids, at least one each.
        new_tokens: most tokens of an answer; fewer where the model has no more places.
        ends: tokens that end an answer.
        known: tokens from this id on have no name and are never said.
        sample: draw; else take the likeliest token each time.
        seed: of the draws; None: they follow torch's global seed.

    Raises:
        OptionError: if a prompt is empty, or leaves no room for an answer.
    """
    longest = max(map(len, prompts), default=0)
    places = getattr(model.config, "max_position_embeddings", None)
    room = new_tokens if places is None else min(new_tokens, int(places) - longest)
    if prompts and (room < 1 or not all(prompts)):
        raise OptionError(f"prompts: have 1 to {longest} tokens; the model has {places} places for prompt and answer")
    size = max(1, min(MOST_PROMPTS, MOST_SCORES // vocabulary(model)))
    settings = {
        "do_sample": sample,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": room,
        "eos_token_id": list(ends) or None,
        "pad_token_id": next(iter(ends), 0),
        "suppress_tokens": list(range(known, vocabulary(model))) or None,
    }
    for start in range(0, len(prompts), size):
        ids, mask = _left_padded(prompts[start : start + size])
        with torch.inference_mode(), _own_settings(model), _seeded(seed, start):
            said = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=type(model.generation_config)(**settings),
            )
        for row in said[:, ids.shape[1] :].tolist():
            yield row[: next((n for n, token in enumerate(row) if token in ends), len(row))]


def corpus_of(documents: Sequence[Ids], bos: int | None) -> Corpus:
    """Documents of token ids as a corpus without labels; the first token does not count where it is the BOS.

    Raises:
        OptionError: if there is no document, or an empty one.
    """
    if not documents or not all(documents):
        raise OptionError("documents: there must be some, of at least one token each")
    lengths = torch.tensor([len(document) for document in documents])
    place = torch.arange(int(lengths.max()))
    mask = place < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = torch.tensor([token for document in documents for token in document])
    counts = mask.clone()
    counts[:, 0] &= ids[:, 0] != (-1 if bos is None else bos)
    none = torch.zeros(mask.shape, dtype=torch.int8)
    predicts = counts & (place < lengths[:, None] - 1)
    return Corpus(ids=ids, mask=mask, counts=counts, predicts=predicts, stratum=none, part=none.clone())


def _left_padded(prompts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest], every prompt at the right end."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


@contextmanager
def _seeded(seed: int | None, start: int) -> Iterator[None]:
    """Every batch draws by a seed of its own, so that one that ended early does not move the next."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, str(start)))
        yield


@contextmanager
def _own_settings(model: Model) -> Iterator[None]:
    """What a call leaves open is filled in from the model, which has it from a file beside its weights."""
    kept = model.generation_config
    model.generation_config = type(kept)()
    try:
        yield
    finally:
        model.generation_config = kept
