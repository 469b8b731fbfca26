"""dictionary_learning (github.com/saprmarks/dictionary_learning): ``config.json`` and ``ae.pt``, read.

With x the input, b the bias that is subtracted before the encoder and added after the decoder::

    AutoEncoder: f = relu(W (x - b) + c)          AutoEncoderNew: f = relu(W x + c), x̂ = D f + b
    BatchTopKSAE, MatryoshkaBatchTopKSAE: g = relu(W (x - b) + c), f = g [g > threshold]
    AutoEncoderTopK: f = the k largest of g
    JumpReluAutoEncoder: pre = x W_enc + b_enc, f = relu(pre [pre > threshold])

Its trainers fold the norm that they divide activations by into the biases before they save. The same classes of
crosscoder_learning carry a normaliser, which is folded here. The library may rescale latents to unit decoders when it
loads an AutoEncoder; here they stay as they are in the file.

Shapes: encoder.weight [n, d], decoder.weight [d, n]; W_enc [d, n], W_dec [n, d].
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from diffbench.diff import DictionaryDiff
from diffbench.formats.folding import Normaliser, one_stream
from diffbench.formats.hooks import submodule_layer
from diffbench.formats.normaliser import NORMALISER, stored_normaliser
from diffbench.formats.settings import Asked, Settings
from diffbench.formats.source import Source

LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
MATRICES = {"W_enc", "b_enc", "W_dec", "b_dec"}
TENSORS = {
    "AutoEncoder": LINEAR | {"bias"},
    "AutoEncoderNew": LINEAR | {"decoder.bias"},
    "BatchTopKSAE": LINEAR | {"b_dec", "k", "threshold"},
    "AutoEncoderTopK": LINEAR | {"b_dec", "k"},
    "JumpReluAutoEncoder": MATRICES | {"threshold"},
    "MatryoshkaBatchTopKSAE": MATRICES | {"k", "threshold", "group_sizes"},
}
"""Classes whose function is known, and their tensors."""

TRAINERS = (
    "StandardTrainer",
    "StandardTrainerAprilUpdate",
    "BatchTopKTrainer",
    "MatryoshkaBatchTopKTrainer",
    "TopKTrainer",
    "JumpReluTrainer",
)


def recognises(source: Source) -> bool:
    """One matrix per direction, in a .pt file or beside a ``config.json`` that names a class."""
    if source.dimensions("encoder.weight") == 2:
        return True
    if source.dimensions("W_enc") != 2:
        return False
    named = source.has_settings and any(key in source.settings for key in ("trainer", "dict_class"))
    return named or source.weights.suffix == ".pt"


def read(source: Source, asked: Asked) -> DictionaryDiff:
    """An SAE; the class comes from the configuration, for two classes have the same tensors and differ in function."""
    asked.no_scales(source.weights)
    settings, name = dict_class(source.settings, TENSORS, TRAINERS)
    layer = asked.block(source.weights, submodule_layer(settings))
    needed, optional = TENSORS[name], {"threshold"} if name == "AutoEncoderTopK" else set()
    if name == "BatchTopKSAE" and source.names & NORMALISER:
        needed = needed | NORMALISER
    source.only(needed, optional)
    n, width, encoder, encoder_bias, decoder = _matrices(source, name)
    for key, size in (("activation_dim", width), ("dict_size", n)):
        if settings.has(key) and settings.whole(key) != size:
            raise settings.refuse(key, f"is {settings.whole(key)}, but the encoder has {size}")
    bias = source.tensor({"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec"), width)
    k = _kept(source, settings, n) if "k" in needed else None
    threshold: Tensor | None = None
    if name == "JumpReluAutoEncoder":
        threshold = source.tensor("threshold", n)
    elif "threshold" in needed:
        threshold = learned_threshold(source).expand(n)
    if name == "MatryoshkaBatchTopKSAE":
        _check_groups(source, n)
    normaliser: Normaliser | None = None
    if NORMALISER <= needed:
        [normaliser] = stored_normaliser(source, (width,))
    return one_stream(
        layer=layer,
        input=asked.one_input(source.weights),
        encoder=encoder,
        encoder_bias=encoder_bias,
        decoder=decoder,
        bias=bias,
        threshold=threshold,
        k=k if name == "AutoEncoderTopK" else None,
        subtracted=None if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else bias,
        normaliser=normaliser,
    )


def dict_class(settings: Settings, known: Collection[str], trainers: tuple[str, ...]) -> tuple[Settings, str]:
    """The section with the trainer's answers and the class of the dictionary; unknown ones are refused by name."""
    if "trainer" in settings:
        settings = settings.section("trainer")
        settings.one_of("trainer_class", trainers)
    return settings, settings.one_of("dict_class", known)


def learned_threshold(source: Source) -> Tensor:
    """The one threshold of a BatchTopK dictionary, []; it is -1 until the first time it is measured."""
    threshold = source.tensor("threshold")
    if threshold < 0:
        raise source.refuse("threshold", f"is {float(threshold):g}: it was never measured, so inference is undefined")
    return threshold


def _matrices(source: Source, name: str) -> tuple[int, int, Tensor, Tensor, Tensor]:
    if MATRICES <= TENSORS[name]:
        width, n = source.shape("W_enc", 2)
        return n, width, source.tensor("W_enc", width, n).T, source.tensor("b_enc", n), source.tensor("W_dec", n, width)
    n, width = source.shape("encoder.weight", 2)
    encoder, decoder = source.tensor("encoder.weight", n, width), source.tensor("decoder.weight", width, n)
    return n, width, encoder, source.tensor("encoder.bias", n), decoder.T


def _kept(source: Source, settings: Settings, n: int) -> int:
    k = source.whole("k")
    if not 1 <= k <= n:
        raise source.refuse("k", f"{k} latents cannot be kept of a dictionary of {n}")
    if settings.has("k") and settings.whole("k") != k:
        raise settings.refuse("k", f"is {settings.whole('k')}, but {k} in {source.weights.name}")
    return k


def _check_groups(source: Source, n: int) -> None:
    sizes = source.integers("group_sizes")
    if sum(sizes) != n or min(sizes, default=0) < 1:
        raise source.refuse("group_sizes", f"{sizes[:8]} do not add up to {n} latents")
