"""``--base``, ``--tuned`` and what goes with them: two models of one's own instead of an organism."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from diffbench.errors import OptionError

if TYPE_CHECKING:
    from diffbench.own_pair import OwnPair

_OPTIONS = (
    click.option("--base", help="A model of your own: its folder, or its hub id if it was downloaded."),
    click.option("--tuned", help="The model that came out of it, likewise; its tokenizer serves both."),
    click.option("--adapter", help="Instead of --tuned: an adapter on the base, in PEFT's format."),
    click.option(
        "--text",
        metavar="FILE|DATASET",
        help="Text to compare them on: .jsonl, .parquet, .txt, a folder that `datasets` saved, or a data set's hub id."
        "  [default: what the two models say unprompted]",
    ),
    click.option("--text-field", default="text", show_default=True, help="Its column of texts or conversations."),
    click.option(
        "--remap",
        multiple=True,
        metavar="FROM=TO",
        help="A token of the tuned model's template that both are given as another one; repeat.",
    ),
)


def own_pair(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of two models."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def pair_of(asked: dict[str, Any]) -> OwnPair | None:
    """Take the options of two models out of ``asked``; None: it names organisms.

    Raises:
        OptionError: if an option is there without the base that it belongs to, or a remap has another form.
    """
    from diffbench.request import PAIR, pair_asked

    values = {name: asked.pop(name) for name in PAIR}
    remap: dict[str, str] = {}
    for part in values["remap"]:
        before, equals, after = part.partition("=")
        if not (before and equals and after):
            raise OptionError(f"--remap {part!r}: write FROM=TO, two tokens as the tokenizer names them")
        remap[before] = after
    return pair_asked(values | {"remap": remap or None})
