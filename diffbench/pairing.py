"""Pairing: whether two models can be compared at all: same depth, width and vocabulary, and a tokenizer that fits.

A model's shapes are enough: `diffbench.residual.outline` gives them without its weights.
"""

from __future__ import annotations

from typing import Any

from diffbench.corpus import Corpus
from diffbench.errors import CheckpointError
from diffbench.residual import Model, blocks, check_layer, width

NAMED = 3


def check_pair(reference: Model, tuned: Model, tokenizer: Any, layer: int | None = None) -> None:
    """Refuse two models whose streams and words do not correspond.

    Args:
        reference: a causal LM, with or without its weights.
        tuned: the other one.
        tokenizer: the one that both are read with.
        layer: the layer asked for; None: none in particular.

    Raises:
        CheckpointError: if widths, depths or vocabularies differ, or the tokenizer gives ids that the models lack.
        OptionError: if the models have no such layer.
    """
    for what, one, other in (
        ("residual width", width(reference), width(tuned)),
        ("number of blocks", len(blocks(reference)), len(blocks(tuned))),
    ):
        if one != other:
            raise CheckpointError(f"pair: the {what} differs, {one} in the reference and {other} in the tuned model")
    known = _check_words(reference, tuned, tokenizer)
    highest = max(tokenizer.get_vocab().values())
    if highest >= known:
        raise CheckpointError(
            f"pair: the tokenizer gives ids up to {highest} ({_names(tokenizer, known, highest)}), the models know "
            f"{known}; use the tokenizer of these models"
        )
    if layer is not None:
        check_layer(reference, layer)


def _check_words(reference: Model, tuned: Model, tokenizer: Any) -> int:
    """The number of words that both models know; the same on the way in and on the way out."""
    sizes = [
        {int(embedding.weight.shape[0]) for embedding in (model.get_input_embeddings(), model.get_output_embeddings())}
        for model in (reference, tuned)
    ]
    least, most = min(min(size) for size in sizes), max(max(size) for size in sizes)
    if least != most:
        counts = [" and ".join(map(str, sorted(size))) for size in sizes]
        raise CheckpointError(
            f"pair: the vocabularies differ, {counts[0]} embedding rows in the reference and {counts[1]} in the tuned "
            f"model; extra rows {least}..{most - 1} ({_names(tokenizer, least, most - 1)}): remove them or add them to "
            "both"
        )
    return least


def _names(tokenizer: Any, first: int, last: int) -> str:
    """Tokens first..last by name, as far as the tokenizer knows them."""
    names = {index: token for token, index in tokenizer.get_vocab().items() if first <= index <= last}
    listed = [repr(names[index]) for index in sorted(names)[:NAMED]]
    if not listed:
        return "no token of the tokenizer"
    return ", ".join(listed) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def check_text(corpus: Corpus, model: Model) -> None:
    """Refuse text with token ids that a model has no embedding for.

    Raises:
        CheckpointError: naming the id.
    """
    highest, known = int(corpus.ids.max()), int(model.get_input_embeddings().weight.shape[0])
    if highest >= known:
        raise CheckpointError(f"text: token id {highest} is beyond the models' {known} embedding rows")
