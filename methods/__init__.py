"""Methods that come with diffbench, registered like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from diffbench import Method, hookimpl


@hookimpl
def diffbench_methods() -> Iterable[type[Method]]:
    """The bundled methods and the controls that every table pins."""
    from .controls import Nothing, Oracle, RandomDictionary
    from .crosscoders import CrosscoderBatchTopK, CrosscoderL1, CrosscoderLambda, CrosscoderShared, CrosscoderTied
    from .directions import ActivationDifferenceLens, MeanDifference, Pca
    from .outputs import LogitDiffMining, TokenKL
    from .saes import BaseSae, ChatSae, DiffSae, SaePair
    from .sampling import ContrastiveSampling, PerplexityDifferencing
    from .weights import LayerStitching, LoraDirections, TaskArithmetic, WeightSvd

    dictionaries = [CrosscoderBatchTopK, CrosscoderL1, CrosscoderLambda, CrosscoderShared, CrosscoderTied]
    saes = [BaseSae, ChatSae, DiffSae, SaePair]
    directions = [MeanDifference, ActivationDifferenceLens, Pca]
    outputs = [TokenKL, LogitDiffMining, PerplexityDifferencing, ContrastiveSampling]
    weights = [WeightSvd, LoraDirections, TaskArithmetic, LayerStitching]
    return [*dictionaries, *saes, *directions, *outputs, *weights, Nothing, Oracle, RandomDictionary]
