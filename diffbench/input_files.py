"""Input files: what a method's options name by path, such as a trained dictionary, known by its content alone.

They are looked up and hashed before anything runs, recorded by name and SHA-256, and placed into the folder that the
method process sees: ``in/files/<option>/<name>``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffbench.canonical import digest, file_digest
from diffbench.errors import OptionError
from diffbench.exchange import place_file
from diffbench.method import Method, MethodOptions, is_file_field

FILES = "files"
MOST_BYTES, MOST_FILES = 64 << 30, 10_000


@dataclass(frozen=True, slots=True)
class InputFile:
    """What one option names.

    Attributes:
        option: name of the option.
        name: of the file or folder, as it was named.
        source: the file or folder, links resolved.
        sha256: of the file's content, or of the names and contents in a folder.
        parts: path within ``source`` ('' for a file), size and time of change of every file.
    """

    option: str
    name: str
    source: Path
    sha256: str
    parts: tuple[tuple[str, int, int], ...]

    def described(self) -> dict[str, str]:
        """As records name it: no machine's path."""
        return {"name": self.name, "sha256": self.sha256}

    def inside(self, inputs: Path) -> Path:
        """Where it lies in the inputs folder of a method process."""
        return inputs / FILES / self.option / self.name


def input_files(method: type[Method], options: MethodOptions) -> tuple[InputFile, ...]:
    """The files that a method's options name, hashed; relative paths start at the working folder.

    Raises:
        OptionError: if one is missing, no plain file or folder, a folder with links that lead out of it, or too large.
    """
    names = [name for name, field in method.Options.model_fields.items() if is_file_field(field)]
    values = {name: getattr(options, name) for name in names}
    return tuple(_input_file(method.name, name, value) for name, value in values.items() if value is not None)


def recorded(values: dict[str, Any], files: Sequence[InputFile]) -> dict[str, Any]:
    """Options with every file named as records name it."""
    return values | {file.option: file.described() for file in files if file.option in values}


def placed(options: MethodOptions, files: Sequence[InputFile], inputs: Path) -> MethodOptions:
    """Put the files into an inputs folder; returns the options with the paths that the method process sees.

    Raises:
        OptionError: if one has changed since it was hashed.
    """
    for file in files:
        for part, size, changed in file.parts:
            source, target = file.source / part, file.inside(inputs) / part
            facts = source.stat() if source.exists() else None
            if facts is None or (facts.st_size, facts.st_mtime_ns) != (size, changed):
                raise OptionError(f"option {file.option}: {source} has changed since the run began; run again")
            target.parent.mkdir(parents=True, exist_ok=True)
            place_file(source.resolve(), target)
    return options.model_copy(update={file.option: str(file.inside(inputs)) for file in files})


def _input_file(method: str, option: str, value: str) -> InputFile:
    where = f"{method}: option {option}: {value!r}"
    name = Path(os.path.abspath(value)).name
    if not (name and name.isprintable()):
        raise OptionError(f"{where} has no name that can be recorded")
    try:
        source = Path(value).resolve()
        kind = source.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise OptionError(f"{where} is neither a plain file nor a folder")
        parts = tuple(_parts(source, where))
        if sum(size for _, size, _ in parts) > MOST_BYTES:
            raise OptionError(f"{where} is larger than {MOST_BYTES >> 30} GiB")
        hashes = {part: file_digest(source / part) for part, _, _ in parts}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"{where} cannot be read ({reason}); name a file or folder") from None
    return InputFile(option, name, source, hashes[""] if stat.S_ISREG(kind) else digest(hashes), parts)


def _parts(source: Path, where: str) -> Iterator[tuple[str, int, int]]:
    """Every file of a folder in the order of its path, or the file itself."""
    if source.is_file():
        facts = source.stat()
        yield "", facts.st_size, facts.st_mtime_ns
        return
    n = 0
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in [*sorted(names), *(name for name in folders if Path(folder, name).is_symlink())]:
            path = Path(folder, name)
            if not path.resolve().is_relative_to(source) or not path.is_file():
                raise OptionError(f"{where} holds {name!r}, which leads out of it or is no plain file; copy the files")
            part = str(path.relative_to(source))
            if not part.isprintable():
                raise OptionError(f"{where} holds {part!a}, a name that is no text")
            n += 1
            if n > MOST_FILES:
                raise OptionError(f"{where} holds more than {MOST_FILES} files")
            facts = path.stat()
            yield part, facts.st_size, facts.st_mtime_ns
    if not n:
        raise OptionError(f"{where} is an empty folder")
