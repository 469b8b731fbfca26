"""Exchange: the folder that a method process sees of a comparison, and what is taken from it afterwards.

::

    in/reference/  in/tuned/         two models in Hugging Face format, under these names alone; the tokenizer in tuned/
    in/base_*/                       the base of an adapter in one of them, unless it is in/reference/
    in/text.safetensors              token ids without labels
    in/activations.safetensors       paired activations at the layer
    out/diff/diff.json  out/diff/tensors.safetensors
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from diffbench.adapter import CONFIG, NAMED_BASE, base_folder, is_adapter
from diffbench.errors import DiffError

LINK_ABOVE = 256 << 20
TEXT, ACTIVATIONS = "text.safetensors", "activations.safetensors"
HEADER_BYTES, TENSOR_BYTES = 16 << 20, 8 << 30
DIFF, HEADER, TENSORS = "diff", "diff.json", "tensors.safetensors"


def assemble(folder: Path, reference: Path, tuned: Path, prepared: Path, base: Path | None = None) -> Path:
    """Bring models and prepared files together in a new ``folder`` and return it.

    Args:
        folder: is made.
        reference: a model folder.
        tuned: a model folder with its tokenizer.
        prepared: holds text and activations.
        base: what a model folder that holds an adapter belongs on; None: the folder that the adapter names.
    """
    folder.mkdir()
    placed: dict[Path, str] = {}
    for name, source in (("reference", reference), ("tuned", tuned)):
        _place_model(source, folder / name)
        if is_adapter(source):
            under = base_folder(source, base).resolve()
            if under not in placed:
                placed[under] = f"base_{name}"
                _place_model(under, folder / placed[under])
            _name_base(folder / name / CONFIG, placed[under])
        placed.setdefault(source.resolve(), name)
    for name in (TEXT, ACTIVATIONS):
        place_file(prepared / name, folder / name)
    return folder


def write_inputs(folder: Path, reference: Path, tuned: Path, texts: Sequence[str], layer: int) -> None:
    """Harvest ``texts`` at ``layer`` and write the whole folder: what `check` and tests run methods on."""
    from diffbench.corpus import tokenise
    from diffbench.harvest import harvest
    from diffbench.pairing import check_pair
    from diffbench.residual import load_tokenizer, outline, pair_of
    from diffbench.text import Document

    base = reference if is_adapter(tuned) else None
    tokenizer = load_tokenizer(tuned, base=base)
    check_pair(outline(reference), outline(tuned, base=base), tokenizer, layer)
    corpus = tokenise([Document(text) for text in texts], tokenizer)
    prepared = folder.parent / f"{folder.name}-prepared"
    prepared.mkdir()
    corpus.save(prepared / TEXT, labelled=False)
    harvest(*pair_of(reference, tuned, base=base), corpus, layer).save(prepared / ACTIVATIONS)
    assemble(folder, reference, tuned, prepared, base)


def _place_model(source: Path, folder: Path) -> None:
    folder.mkdir()
    for file in sorted(source.iterdir()):
        if file.is_file():
            place_file(file, folder / file.name)


def _name_base(config: Path, where: str) -> None:
    """Point an adapter to its base beside it; what its own configuration names would tell what the model is."""
    document = json.loads(config.read_text(encoding="utf-8"))
    config.unlink()
    config.write_text(json.dumps(document | {NAMED_BASE: f"../{where}"}), encoding="utf-8")
    config.chmod(0o444)


def keep_diff(left: Path, folder: Path) -> Path:
    """Copy the two files of a Diff, and nothing else that a method may have left, into ``folder``/diff.

    Nothing is followed: a link in place of the folder or of a file could lead to another cell's Diff.

    Raises:
        DiffError: if one is missing, too large or no plain file.
    """
    target = folder / DIFF
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise DiffError(f"{DIFF}: the method left no folder of this name") from None
    try:
        for name, limit in ((HEADER, HEADER_BYTES), (TENSORS, TENSOR_BYTES)):
            _copy_plain(name, handle, limit, target / name)
    finally:
        os.close(handle)
    return target


def _copy_plain(name: str, folder: int, limit: int, target: Path) -> None:
    try:
        # Not blocking: a pipe of this name would wait for a writer for ever.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        raise DiffError(f"{name}: the method left no plain file of this name") from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
        os.close(handle)
        if stat.S_ISREG(facts.st_mode):
            raise DiffError(f"{name}: {facts.st_size} bytes, more than {limit}")
        raise DiffError(f"{name}: the method left no plain file of this name")
    with os.fdopen(handle, "rb") as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def place_file(source: Path, target: Path) -> None:
    """Copy a small file, read-only; link a large one, which is safe where the method process cannot write it."""
    if source.stat().st_size > LINK_ABOVE:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)
    target.chmod(0o444)
