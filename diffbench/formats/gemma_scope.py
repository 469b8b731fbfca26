"""Gemma Scope: JumpReLU SAEs as ``params.npz`` or ``params.safetensors`` (Lieberum et al. 2024), read.

The function, with nothing subtracted from the input: pre = x W_enc + b_enc, f = relu(pre) [pre > threshold],
x̂ = f W_dec + b_dec. Gemma Scope 2 writes ``w_enc`` and ``w_dec`` in small letters, and a ``config.json``.

Shapes: W_enc [d, n], W_dec [n, d], b_enc and threshold [n], b_dec [d].
"""

from __future__ import annotations

from diffbench.diff import DictionaryDiff
from diffbench.formats.folding import one_stream
from diffbench.formats.hooks import residual_layer
from diffbench.formats.settings import Asked
from diffbench.formats.source import Source

SMALL = {"w_enc": "W_enc", "w_dec": "W_dec"}
FILE = "params.safetensors"
NAMES = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}


def recognises(source: Source) -> bool:
    """Two matrices and a threshold as Gemma Scope writes them, and no other project's configuration.

    SAELens has the same tensors and may subtract a bias before the encoder, but never writes npz, small letters or
    this file name.
    """
    own = source.weights.suffix == ".npz" or source.weights.name == FILE or "w_enc" in source.names
    source = source.renamed(SMALL)
    foreign = source.has_settings and any(key in source.settings for key in ("d_sae", "trainer", "dict_class"))
    return own and source.dimensions("W_enc") == 2 and "threshold" in source.names and not foreign


def read(source: Source, asked: Asked) -> DictionaryDiff:
    """An SAE of the residual stream."""
    asked.no_scales(source.weights)
    source = source.renamed(SMALL)
    source.only(NAMES)
    known = None
    if source.has_settings:
        settings = source.settings
        settings.one_of("architecture", ("jump_relu", "jumprelu"))
        if settings.has("hf_hook_point_out"):
            raise settings.refuse("hf_hook_point_out", "is a transcoder's, which reads one place and writes another")
        if settings.has("affine_connection"):
            settings.expect("affine_connection", False, "adds to the reconstruction")
        if settings.has("hf_hook_point_in"):
            known = residual_layer(settings, "hf_hook_point_in")
    width, n = source.shape("W_enc", 2)
    return one_stream(
        layer=asked.block(source.weights, known),
        input=asked.one_input(source.weights),
        encoder=source.tensor("W_enc", width, n).T,
        encoder_bias=source.tensor("b_enc", n),
        decoder=source.tensor("W_dec", n, width),
        bias=source.tensor("b_dec", width),
        threshold=source.tensor("threshold", n),
    )
