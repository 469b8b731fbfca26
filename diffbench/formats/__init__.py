"""Formats: sparse dictionaries as other projects keep them on disk, read into a `DictionaryDiff` and written from one.

A reader that cannot be sure of a bias, a scale or a threshold refuses, in one line that names file, key and reason.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from diffbench.errors import CheckpointError, DiffbenchError, OptionError, UnknownName

if TYPE_CHECKING:
    from diffbench.diff import DictionaryDiff, Input
    from diffbench.formats.settings import Asked
    from diffbench.formats.source import Source


class Reader(Protocol):
    """What the module of a format offers; one that writes also has ``write``."""

    def recognises(self, source: Source) -> bool:
        """Whether names and shapes of the tensors, and the configuration, are those of this format."""

    def read(self, source: Source, asked: Asked) -> DictionaryDiff:
        """The dictionary in raw space; refuses what it cannot be sure of."""


class Writer(Reader, Protocol):
    """The module of a format that can be written."""

    def write(self, diff: DictionaryDiff, folder: Path) -> None:
        """Write the files of the format into an empty folder, or raise `DiffError` before the first of them."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format: what it is called, what it consists of, and which of its dictionaries are read and written."""

    name: str
    files: str
    reads: str
    writes: str
    needs: str

    def module(self) -> Reader:
        """Its reader, imported when it is needed."""
        return cast(Reader, importlib.import_module(f"{__name__}.{self.name.replace('-', '_')}"))


FORMATS = {
    known.name: known
    for known in (
        Format(
            "saelens",
            "cfg.json, sae_weights.safetensors",
            "standard, jumprelu (BatchTopK is saved as jumprelu), topk",
            "SAEs of delta, tuned or base",
            "input; layer unless a residual hook is named",
        ),
        Format(
            "crosscoder-learning",
            "config.json with model.safetensors or a .pt file",
            "CrossCoder, BatchTopKCrossCoder of two models, the reference first",
            "crosscoders, relu or threshold",
            "layer; scales where the file has no normaliser",
        ),
        Format(
            "dictionary-learning",
            "config.json with ae.pt or model.safetensors",
            "AutoEncoder, AutoEncoderNew, BatchTopKSAE, MatryoshkaBatchTopKSAE, AutoEncoderTopK, JumpReluAutoEncoder",
            "",
            "input; layer unless the module is named resid_post",
        ),
        Format(
            "ckkissane",
            "cfg.json with cc_weights.pt, or N_cfg.json with N.pt",
            "the L1 crosscoder of two models, the reference first",
            "",
            "scales: what the activations of each model were multiplied by",
        ),
        Format(
            "gemma-scope",
            "params.npz or params.safetensors",
            "JumpReLU SAEs of the residual stream",
            "",
            "input; layer unless config.json names a residual hook",
        ),
    )
}
"""Every format by its name."""


def read_dictionary(
    path: Path | str,
    *,
    format: str | None = None,
    input: Input | None = None,
    layer: int | None = None,
    scales: tuple[float, float] | None = None,
) -> DictionaryDiff:
    """Read a dictionary that was trained elsewhere, or exported by `write_dictionary`.

    Everything is folded into raw space and converted to float32. Latents keep the order of the file unless the file
    was exported from a Diff. Activities are those of the file: no latent is rescaled.

    Args:
        path: a folder, or a weight file with its configuration beside it.
        format: a name of `FORMATS`; None: found from the files.
        input: what an SAE was trained on; crosscoders read "both" and need none.
        layer: block whose output the dictionary reads, 0-based. Required where the file does not say it, and compared
            where it does.
        scales: for crosscoders without a normaliser in the file: the factors that raw activations of the reference
            and the tuned model were multiplied by in training; (1, 1) says that they were raw.

    Raises:
        CheckpointError: a file is missing, damaged, foreign, or leaves a bias, scale or threshold open.
        UnknownName: there is no such format.
        OptionError: ``input``, ``layer`` or ``scales`` is missing, or contradicts the file.
    """
    from diffbench.formats.carried import load_carried
    from diffbench.formats.settings import Asked
    from diffbench.formats.source import open_source

    asked = Asked(input, layer, scales)
    chosen = None if format is None else find_format(format)
    source = open_source(Path(path))
    chosen = _detect(source) if chosen is None else chosen
    reader = chosen.module()
    if not reader.recognises(source):
        raise CheckpointError(f"{source.weights}: does not look like {chosen.name} ({chosen.files}); it holds {source}")
    carried = load_carried(source)
    diff = reader.read(source, asked if carried is None else carried.confirm(asked))
    diff = diff if carried is None else carried.restore(diff)
    try:
        diff.check(diff.encoder.shape[1] // (2 if diff.input == "both" else 1), diff.layer + 1, 0)
    except DiffbenchError as error:
        raise CheckpointError(f"{source.weights}: {error}") from None
    return diff


def write_dictionary(diff: DictionaryDiff, path: Path | str, format: str) -> None:
    """Write a dictionary as a new folder in another project's format, so that reading it back is exact.

    Beside the files of the format stands ``diffbench.safetensors``: order, groups, columns, findings, and those
    tensors that do not come back from the other format bit for bit. Without it the dictionary is still the same
    function, up to rounding.

    Args:
        diff: the dictionary.
        path: the folder to make; it must not exist.
        format: a name of `FORMATS` that is written.

    Raises:
        UnknownName: there is no such format.
        OptionError: this format is only read.
        DiffError: the dictionary is malformed, or the format has no place for it.
        DiffbenchError: ``path`` exists or cannot be written.
    """
    from diffbench.atomic import new_folder
    from diffbench.formats.carried import save_carried
    from diffbench.formats.settings import Asked
    from diffbench.formats.source import open_source

    chosen, path = find_format(format), Path(path)
    if not chosen.writes:
        written = ", ".join(known.name for known in FORMATS.values() if known.writes)
        raise OptionError(f"format {chosen.name} is only read; formats that are written: {written}")
    diff.check(diff.encoder.shape[-1] // (2 if diff.input == "both" else 1), diff.layer + 1, 0)
    if path.is_symlink() or path.exists():
        raise DiffbenchError(f"{path}: exists already; name a folder that does not")
    writer = cast(Writer, chosen.module())
    try:
        with new_folder(path) as draft:
            writer.write(diff, draft)
            source = open_source(draft)
            back = writer.read(source, Asked(diff.input if diff.input != "both" else None, diff.layer, None))
            save_carried(diff, back, source)
    except OSError as error:
        raise DiffbenchError(f"{path}: cannot be written ({error.strerror})") from error


def find_format(name: str) -> Format:
    """The format of this name, or `UnknownName`."""
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return FORMATS[name]


def _detect(source: Source) -> Format:
    found = [known for known in FORMATS.values() if known.module().recognises(source)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(known.name for known in found)
        raise CheckpointError(f"{source.weights}: could be {names}; say which one is meant")
    raise CheckpointError(
        f"{source.weights}: in none of the formats {', '.join(FORMATS)}; it holds {source}; "
        "say which format is meant to learn what is missing"
    )
