"""Pairing: whether two models can be compared at all: same depth, width and words, and a tokenizer that fits.

Vocabularies may differ in their last rows, which both models are cut to before anything is computed.

A model's shapes are enough: `diffbench.residual.outline` gives them without its weights.
"""

from __future__ import annotations

from typing import Any

from diffbench.architecture import word_rows
from diffbench.corpus import Corpus
from diffbench.errors import CheckpointError
from diffbench.residual import Model, blocks, check_layer, width
from diffbench.vocabulary import Vocabulary

NAMED = 3


def check_pair(
    reference: Model, tuned: Model, tokenizer: Any, layer: int | None = None, *, reference_tokenizer: Any | None = None
) -> Vocabulary:
    """Refuse two models whose streams and words do not correspond.

    Args:
        reference: a causal LM, with or without its weights, not cut.
        tuned: the other one.
        tokenizer: the one that both are read with, the tuned model's own.
        layer: the layer asked for; None: none in particular.
        reference_tokenizer: the reference's own, if it has one.

    Returns:
        The words that both have in common, and how many either has; `diffbench.residual.load_pair` cuts both to them.

    Raises:
        CheckpointError: if widths or depths differ, a model reads other words than it says, the tokenizer gives ids
            that the tuned model lacks, or the same id stands for another word in the reference.
        OptionError: if the models have no such layer.
    """
    for what, one, other in (
        ("residual width", width(reference), width(tuned)),
        ("number of blocks", len(blocks(reference)), len(blocks(tuned))),
    ):
        if one != other:
            raise CheckpointError(f"pair: the {what} differs, {one} in the reference and {other} in the tuned model")
    words = Vocabulary.common(word_rows(reference), word_rows(tuned))
    highest = max(tokenizer.get_vocab().values())
    if highest >= words.tuned:
        raise CheckpointError(
            f"pair: the tokenizer gives ids up to {highest} ({_names(tokenizer, words.tuned, highest)}), the tuned "
            f"model knows {words.tuned}; use the tokenizer of this model"
        )
    if reference_tokenizer is not None:
        _check_words(reference_tokenizer, tokenizer, words.rows)
    if layer is not None:
        check_layer(reference, layer)
    return words


def _check_words(reference: Any, tuned: Any, rows: int) -> None:
    """Refuse tokenizers of which one id means two words; special tokens may have been given other names."""
    theirs, ours = ({index: token for token, index in one.get_vocab().items()} for one in (reference, tuned))
    special = set(reference.added_tokens_decoder) | set(tuned.added_tokens_decoder)
    shared = sorted(index for index in theirs.keys() & ours.keys() if index < rows and index not in special)
    other = [index for index in shared if theirs[index] != ours[index]]
    if other:
        raise CheckpointError(
            f"pair: {len(other)} ids stand for other words in the reference than in the tuned model, such as "
            f"{other[0]}, {theirs[other[0]]!r} and {ours[other[0]]!r}; models of different vocabularies cannot be "
            "compared"
        )


def _names(tokenizer: Any, first: int, last: int) -> str:
    """Tokens first..last by name, as far as the tokenizer knows them."""
    names = {index: token for token, index in tokenizer.get_vocab().items() if first <= index <= last}
    listed = [repr(names[index]) for index in sorted(names)[:NAMED]]
    if not listed:
        return "no token of the tokenizer"
    return ", ".join(listed) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def check_text(corpus: Corpus, words: Vocabulary) -> None:
    """Refuse text with token ids that one of the models has no embedding for.

    Raises:
        CheckpointError: naming the id.
    """
    highest = int(corpus.ids.max())
    if highest >= words.rows:
        raise CheckpointError(
            f"text: token id {highest} is beyond the {words.rows} rows that both models' embeddings have (reference "
            f"{words.reference}, tuned {words.tuned}); use text without the words that one of them lacks"
        )
