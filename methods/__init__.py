"""Methods that come with diffbench, registered like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from diffbench import Method, hookimpl


@hookimpl
def diffbench_methods() -> Iterable[type[Method]]:
    """The bundled methods and the controls that every table pins."""
    from .controls import Nothing, Oracle, RandomDictionary
    from .directions import MeanDifference, Pca
    from .sparse import CrosscoderBatchTopK, DiffSae

    return [CrosscoderBatchTopK, DiffSae, MeanDifference, Nothing, Oracle, Pca, RandomDictionary]
