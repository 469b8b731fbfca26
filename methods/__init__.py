"""Methods that come with diffbench, registered like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from diffbench import Method, hookimpl


@hookimpl
def diffbench_methods() -> Iterable[type[Method]]:
    """The bundled methods and the controls that every table pins."""
    from .controls import Nothing, Oracle, RandomDictionary
    from .crosscoders import CrosscoderBatchTopK, CrosscoderL1, CrosscoderLambda, CrosscoderShared, CrosscoderTied
    from .directions import MeanDifference, Pca
    from .saes import BaseSae, ChatSae, DiffSae, SaePair

    dictionaries = [CrosscoderBatchTopK, CrosscoderL1, CrosscoderLambda, CrosscoderShared, CrosscoderTied]
    return [*dictionaries, BaseSae, ChatSae, DiffSae, SaePair, MeanDifference, Pca, Nothing, Oracle, RandomDictionary]
