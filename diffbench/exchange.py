"""Exchange: the folder that a method process sees of a comparison, and what is taken from it afterwards.

::

    in/reference/  in/tuned/         two models in Hugging Face format, under these names alone; the tokenizer in tuned/
    in/text.safetensors              token ids without labels
    in/activations.safetensors       paired activations at the layer
    out/diff/diff.json  out/diff/tensors.safetensors
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from diffbench.errors import DiffError

LINK_ABOVE = 256 << 20
TEXT, ACTIVATIONS = "text.safetensors", "activations.safetensors"
DIFF, HEADER, TENSORS = "diff", "diff.json", "tensors.safetensors"


def assemble(folder: Path, reference: Path, tuned: Path, prepared: Path) -> Path:
    """Bring models and prepared files together in a new ``folder`` and return it.

    Args:
        folder: is made.
        reference: a model folder.
        tuned: a model folder with its tokenizer.
        prepared: holds text and activations.
    """
    folder.mkdir()
    for name, source in (("reference", reference), ("tuned", tuned)):
        (folder / name).mkdir()
        for file in sorted(source.iterdir()):
            if file.is_file():
                _place(file, folder / name / file.name)
    for name in (TEXT, ACTIVATIONS):
        _place(prepared / name, folder / name)
    return folder


def write_inputs(folder: Path, reference: Path, tuned: Path, texts: Sequence[str], layer: int) -> None:
    """Harvest ``texts`` at ``layer`` and write the whole folder: what `check` and tests run methods on."""
    from diffbench.activations import harvest
    from diffbench.corpus import tokenise
    from diffbench.residual import load_model, load_tokenizer
    from diffbench.text import Document
    from diffbench.truth import Stratum

    tokenizer = load_tokenizer(tuned)
    most = sum(len(text) for text in texts) + 1
    corpus = tokenise([Document(text) for text in texts], tokenizer, lambda _: Stratum.unrelated, max_tokens=most)
    prepared = folder.parent / f"{folder.name}-prepared"
    prepared.mkdir()
    corpus.save(prepared / TEXT, labelled=False)
    harvest(load_model(reference), load_model(tuned), corpus, layer).save(prepared / ACTIVATIONS)
    assemble(folder, reference, tuned, prepared)


def keep_diff(left: Path, folder: Path) -> Path:
    """Copy the two files of a Diff, and nothing else that a method may have left, into ``folder``/diff.

    Raises:
        DiffError: if one is missing or no plain file.
    """
    target = folder / DIFF
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in (HEADER, TENSORS):
        source = left / name
        if source.is_symlink() or not source.is_file():
            raise DiffError(f"{name}: the method left no plain file of this name")
        shutil.copyfile(source, target / name, follow_symlinks=False)
    return target


def _place(source: Path, target: Path) -> None:
    """Small files are copied; large ones linked, which is safe where the method process cannot write them."""
    if source.stat().st_size > LINK_ABOVE:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)
    target.chmod(0o444)
