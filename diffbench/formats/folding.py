"""Folding: dictionaries of shifted or scaled activations as dictionaries of raw ones. Computed in float64.

Shapes: n latents, d residual width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.diff import DictionaryDiff, Input


@dataclass(frozen=True, slots=True)
class Normaliser:
    """A dictionary that reads (x - mean) * scale instead of raw x, and whose output y stands for y * back + mean.

    ``back`` is 1 / scale but for what a library adds against division by zero.
    """

    mean: Tensor  # [d]
    scale: float
    back: float

    @staticmethod
    def factor(scale: float, width: int) -> Normaliser:
        """Activations were only multiplied."""
        return Normaliser(torch.zeros(width), scale, 1.0 / scale)

    def encoder(self, encoder: Tensor) -> Tensor:
        """Encoder of raw activations, [n, d]."""
        return encoder.double() * self.scale

    def shift(self, encoder: Tensor) -> Tensor:
        """What the raw activations' mean adds to the pre-activations, to be subtracted from the bias, [n]."""
        return encoder.double() @ (self.mean.double() * self.scale)

    def decoder(self, decoder: Tensor) -> Tensor:
        """Decoder to raw activations, [n, d]."""
        return decoder.double() * self.back

    def bias(self, bias: Tensor) -> Tensor:
        """Decoder bias in raw activations, [d]."""
        return bias.double() * self.back + self.mean.double()


def one_stream(
    *,
    layer: int,
    input: Input,
    encoder: Tensor,
    encoder_bias: Tensor,
    decoder: Tensor,
    bias: Tensor,
    threshold: Tensor | None = None,
    k: int | None = None,
    subtracted: Tensor | None = None,
    normaliser: Normaliser | None = None,
) -> DictionaryDiff:
    """An SAE in raw space; relu without a threshold and k.

    Args:
        layer: block whose output it reads.
        input: "delta", "tuned" or "base".
        encoder: [n, d].
        encoder_bias: [n].
        decoder: [n, d].
        bias: [d], added to the reconstruction.
        threshold: [n], of the pre-activations.
        k: latents kept per token.
        subtracted: [d], subtracted from the (normalised) input before the encoder.
        normaliser: of the input and the reconstruction; None: raw.
    """
    shift = torch.zeros(len(encoder_bias), dtype=torch.float64)
    if subtracted is not None:
        shift = shift + encoder.double() @ subtracted.double()
    if normaliser is not None:
        shift = shift + normaliser.shift(encoder)
        encoder, decoder, bias = normaliser.encoder(encoder), normaliser.decoder(decoder), normaliser.bias(bias)
    return DictionaryDiff(
        layer=layer,
        input=input,
        activation="topk" if k is not None else "relu" if threshold is None else "threshold",
        encoder=_stored(encoder),
        encoder_bias=_stored(encoder_bias.double() - shift),
        threshold=None if threshold is None else _stored(threshold),
        k=k,
        decoder=_stored(decoder),
        bias=_stored(bias),
        order=torch.arange(len(encoder_bias)),
    )


def two_streams(
    *,
    layer: int,
    encoders: tuple[Tensor, Tensor],
    encoder_bias: Tensor,
    decoders: tuple[Tensor, Tensor],
    biases: tuple[Tensor, Tensor],
    normalisers: tuple[Normaliser, Normaliser],
    threshold: Tensor | None = None,
) -> DictionaryDiff:
    """A crosscoder in raw space, pairs in the order reference, tuned; relu without a threshold.

    Args:
        layer: block whose output it reads.
        encoders: [n, d] each.
        encoder_bias: [n].
        decoders: [n, d] each.
        biases: [d] each.
        normalisers: of each model's activations.
        threshold: [n], of the pre-activations, which no normaliser changes.
    """
    shift = sum(norm.shift(encoder) for norm, encoder in zip(normalisers, encoders, strict=True))
    base, tuned = normalisers
    return DictionaryDiff(
        layer=layer,
        input="both",
        activation="relu" if threshold is None else "threshold",
        encoder=_stored(torch.cat([base.encoder(encoders[0]), tuned.encoder(encoders[1])], dim=1)),
        encoder_bias=_stored(encoder_bias.double() - shift),
        threshold=None if threshold is None else _stored(threshold),
        decoder_base=_stored(base.decoder(decoders[0])),
        decoder_tuned=_stored(tuned.decoder(decoders[1])),
        bias_base=_stored(base.bias(biases[0])),
        bias_tuned=_stored(tuned.bias(biases[1])),
        order=torch.arange(len(encoder_bias)),
    )


def _stored(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()
