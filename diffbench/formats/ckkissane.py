"""The crosscoder of github.com/ckkissane/crosscoder-model-diff-replication, read.

The function, with x_m = s_m h_m the scaled activations of model m: f = relu(sum_m x_m W_enc[m] + b_enc),
x̂_m = f W_dec[:, m] + b_dec[m]. The s_m are measured anew in each training and are not in the file.

Shapes: W_enc [2, d, n], W_dec [n, 2, d], b_enc [n], b_dec [2, d]; model 0 is the reference, model 1 the tuned one.
"""

from __future__ import annotations

from diffbench.diff import DictionaryDiff
from diffbench.errors import OptionError
from diffbench.formats.folding import Normaliser, two_streams
from diffbench.formats.hooks import residual_layer
from diffbench.formats.settings import Asked
from diffbench.formats.source import Source


def recognises(source: Source) -> bool:
    """A W_enc with an axis for the models."""
    return source.dimensions("W_enc") == 3


def read(source: Source, asked: Asked) -> DictionaryDiff:
    """A crosscoder of two models."""
    source.only({"W_enc", "W_dec", "b_enc", "b_dec"})
    settings = source.settings
    models, width, n = source.shape("W_enc", 3)
    if models != 2:
        raise source.refuse("W_enc", f"is of {models} models, not of 2")
    for key, size in (("d_in", width), ("dict_size", n)):
        if settings.whole(key) != size:
            raise settings.refuse(key, f"is {settings.whole(key)}, but W_enc has {size}")
    asked.both(source.weights)
    layer = asked.block(source.weights, residual_layer(settings, "hook_point"))
    if asked.scales is None:
        raise OptionError(
            f"{source.weights}: the factors that both models' activations were multiplied by in training are not in "
            "the file; give scales: reference and tuned"
        )
    encoder, decoder = source.tensor("W_enc", 2, width, n), source.tensor("W_dec", n, 2, width)
    bias = source.tensor("b_dec", 2, width)
    return two_streams(
        layer=layer,
        encoders=(encoder[0].T, encoder[1].T),
        encoder_bias=source.tensor("b_enc", n),
        decoders=(decoder[:, 0], decoder[:, 1]),
        biases=(bias[0], bias[1]),
        normalisers=(Normaliser.factor(asked.scales[0], width), Normaliser.factor(asked.scales[1], width)),
    )
