"""Hooks: which block's output the name of an activation means."""

from __future__ import annotations

import re

from diffbench.formats.settings import Settings

_LENS = re.compile(r"blocks\.(\d{1,4})\.hook_resid_(pre|post)")
_MODULE = re.compile(r"(?:model\.)?layers\.(\d{1,4})(?:\.output)?")
_SUBMODULE = re.compile(r"resid_post(?:_layer_(\d{1,4}))?")


def residual_layer(settings: Settings, key: str) -> int:
    """The 0-based block whose output is named by ``key``.

    ``blocks.L.hook_resid_post`` and ``model.layers.L`` are the output of block L, ``blocks.L.hook_resid_pre`` is that
    of block L - 1. Anything else, and what enters block 0, is refused: it is not the residual stream leaving a block.
    """
    name = settings.text(key)
    if found := _LENS.fullmatch(name):
        layer = int(found[1]) - (found[2] == "pre")
        if layer < 0:
            raise settings.refuse(key, f"{name!r} is the embedding, not the output of a block")
        return layer
    if found := _MODULE.fullmatch(name):
        return int(found[1])
    raise settings.refuse(key, f"{name[:80]!r} is not the residual stream leaving a block")


def submodule_layer(settings: Settings) -> int | None:
    """The block of a trainer's ``submodule_name`` and ``layer``; None where these do not say that it is the output.

    The ``layer`` alone is a number that the trainer's caller made up: it may be the output of a block or of an MLP.
    """
    if not settings.has("submodule_name"):
        return None
    name = settings.text("submodule_name")
    if found := _SUBMODULE.fullmatch(name):
        layer = settings.whole("layer")
        if layer < 0 or (found[1] is not None and int(found[1]) != layer):
            raise settings.refuse("layer", f"is {layer}, but submodule_name is {name!r}")
        return layer
    if "mlp" in name or "att" in name:
        raise settings.refuse("submodule_name", f"{name[:80]!r} is not the residual stream leaving a block")
    return None
