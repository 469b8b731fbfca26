"""Exchange: the folder that a method process sees of a comparison, and what is taken from it afterwards.

::

    in/reference/  in/tuned/         two models in Hugging Face format, under these names alone; the tokenizer in tuned/
    in/base_*/                       the base of an adapter in one of them, unless it is in/reference/
    in/text.safetensors              token ids without labels
    in/activations.safetensors       paired activations at the layer
    out/diff/diff.json  out/diff/tensors.safetensors

Of a model's folder only the files that a model needs are handed over, without what tells where it comes from: names in
its configuration, notes in the headers of its weights, times of its files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import safe_open

from diffbench.adapter import CONFIG, NAMED_BASE, base_folder, is_adapter
from diffbench.cache import cache_root
from diffbench.errors import DiffError

LINK_ABOVE = 256 << 20
TEXT, ACTIVATIONS = "text.safetensors", "activations.safetensors"
MODEL_FILES = re.compile(
    r"(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|chat_template)\.json|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json|(vocab|merges)\.txt|[\w.-]+\.model"
    r"|chat_template\.jinja"
)
"""Names of the files that loading a model, an adapter and a tokenizer reads; anything else stays behind."""
TELLING = ("_name_or_path", "name_or_path", "_commit_hash", "revision", "special_tokens_map_file", "tokenizer_file")
"""Keys of configurations that name the model or the place it comes from; no loader needs them."""
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
    from diffbench.pairing import check_pair, check_text
    from diffbench.residual import find_tokenizer, load_tokenizer, outline, pair_of
    from diffbench.text import Document

    base = reference if is_adapter(tuned) else None
    tokenizer = load_tokenizer(tuned, base=base)
    theirs = find_tokenizer(reference)
    words = check_pair(outline(reference), outline(tuned, base=base), tokenizer, layer, reference_tokenizer=theirs)
    corpus = tokenise([Document(text) for text in texts], tokenizer)
    check_text(corpus, words)
    prepared = folder.parent / f"{folder.name}-prepared"
    prepared.mkdir()
    corpus.save(prepared / TEXT, labelled=False)
    harvest(*pair_of(reference, tuned, base=base), corpus, layer).save(prepared / ACTIVATIONS)
    assemble(folder, reference, tuned, prepared, base)


def _place_model(source: Path, folder: Path) -> None:
    folder.mkdir()
    for file in sorted(source.iterdir()):
        if not (file.is_file() and MODEL_FILES.fullmatch(file.name)):
            continue
        target = folder / file.name
        if file.suffix == ".safetensors" and _notes(file):
            _copy_without_notes(file, target)
        else:
            place_file(file, target)
        if file.name in ("config.json", "generation_config.json", "tokenizer_config.json", CONFIG):
            _edit(target, dict.fromkeys(TELLING))


def _name_base(config: Path, where: str) -> None:
    """Point an adapter to its base beside it; what its own configuration names would tell what the model is."""
    _edit(config, {NAMED_BASE: f"../{where}"})


def _edit(file: Path, changes: dict[str, str | None]) -> None:
    """Change keys of a placed JSON file, or take them away (None); a file that has none of these stays as it is."""
    document = json.loads(file.read_text(encoding="utf-8"))
    changes = {key: value for key, value in changes.items() if value is not None or key in document}
    if changes:
        kept = {key: value for key, value in document.items() if key not in changes}
        kept |= {key: value for key, value in changes.items() if value is not None}
        file.unlink()  # it may be a link to the model's own file
        file.write_text(json.dumps(kept, indent=2), encoding="utf-8")
        _seal(file)


def _notes(weights: Path) -> dict[str, str]:
    """What the header of a weights file says beside the format: names of runs, of teams, of data sets."""
    with safe_open(weights, framework="np") as file:
        return {key: value for key, value in (file.metadata() or {}).items() if (key, value) != ("format", "pt")}


def _copy_without_notes(source: Path, target: Path) -> None:
    """Copy a weights file with a header of its own that says nothing but the format."""
    with source.open("rb") as stream, target.open("wb") as copy:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        text = json.dumps(header | {"__metadata__": {"format": "pt"}}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        copy.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(stream, copy)
    _seal(target)


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
    """Copy a small file, read-only; link a large one, which is safe where the method process cannot write it.

    A copy has no time of its own, and neither has a link into the cache; a file of somebody's own keeps its time.
    """
    if source.stat().st_size > LINK_ABOVE:
        try:
            os.link(source, target)
        except OSError:
            pass  # another file system
        else:
            if cache_root().resolve() in source.resolve().parents:
                with suppress(OSError):  # a cache of somebody else's
                    os.utime(target, ns=(0, 0))
            return
    shutil.copyfile(source, target)
    _seal(target)


def _seal(file: Path) -> None:
    file.chmod(0o444)
    os.utime(file, ns=(0, 0))
