"""Folder: the files of an export, written to a new folder all at once or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffbench.atomic import new_folder
from diffbench.errors import DiffbenchError, OptionError, RecordError


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file.

    Attributes:
        path: within the folder, its parts made of letters, digits and ``._@+-`` alone.
        content: of it.
    """

    path: str
    content: bytes


def publish(files: Iterable[ExportedFile], to: Path) -> list[Path]:
    """Write files to a folder that is new or empty, and return their paths in order.

    Raises:
        OptionError: if something is there.
        RecordError: if two files have one name.
        DiffbenchError: if it cannot be written.
    """
    if to.is_symlink() or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise OptionError(f"--to {to}: is there and not an empty folder; name a new one")
    written: list[str] = []
    try:
        with new_folder(to) as draft:
            for file in files:
                if file.path in written:
                    raise RecordError(f"{file.path}: two files of the export have this name")
                target = draft / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.content)
                written.append(file.path)
    except OSError as error:
        raise DiffbenchError(f"{to}: cannot be written ({error.strerror}); name another --to") from None
    return [to / name for name in sorted(written)]
