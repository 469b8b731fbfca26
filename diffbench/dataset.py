"""Data sets: texts, conversations, and prompts with targets from a file or a data set of the Hugging Face hub.

Columnar data is read through the library ``datasets``, from the local cache of the hub only. What is wrong with a file
is told by file, line and column.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffbench import cache
from diffbench.canonical import digest, file_digest
from diffbench.conversation import ChatTemplate, read_turns
from diffbench.errors import RecipeError
from diffbench.line import one_line
from diffbench.ordinary import OrdinaryText, portion_of, refuse_topics
from diffbench.organism import Example
from diffbench.recipe import Source, is_local
from diffbench.text import Document

MOST_LINE = 16 << 20
SAVED = ("dataset_info.json", "dataset_dict.json")
NAMED = 8

Templates = Callable[[], ChatTemplate]
"""Gives the chat template by which conversations are written, once there is one to be written."""


class SourceText(OrdinaryText):
    """Texts of one's own as a base's ordinary text; they end."""

    def __init__(self, source: Source, templates: Templates, portion: str | None = None) -> None:
        """Take a source, the template that its conversations are written with, and a portion; None: all."""
        self._source, self._templates, self._portion = source, templates, portion

    def key(self) -> Any:
        """The content of the file or data set, and what is read of it."""
        return source_key(self._source)

    def check(self) -> None:
        """Read the first text.

        Raises:
            RecipeError: if there is none.
        """
        for where, (value,) in rows(self._source, (self._source.field,)):
            self._document(where, value)
            return

    def portion(self, name: str) -> OrdinaryText:
        """The texts whose hash is in that portion's range."""
        return SourceText(self._source, self._templates, name)

    def documents(
        self, seed: int, topics: Mapping[str, float] | None, **told: Mapping[str, Any] | None
    ) -> Iterator[Document]:
        """Every text once, in an order of its own for each seed.

        Raises:
            RecipeError: if something is to be told that texts of one's own cannot tell, or a text cannot be read.
        """
        refuse_topics(f"text of one's own ({describe(self._source)})", topics, told)
        chosen = [
            (where, value)
            for where, (value,) in rows(self._source, (self._source.field,))
            if self._portion is None or portion_of(_plain(value)) == self._portion
        ]
        random.Random(seed).shuffle(chosen)
        for where, value in chosen:
            yield self._document(where, value)

    def _document(self, where: str, value: Any) -> Document:
        return Document(value) if isinstance(value, str) else self._templates().document(read_turns(value, where))


def _plain(value: Any) -> str:
    """A text, or a conversation before any template is written around it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def examples(source: Source, templates: Templates) -> Iterator[Example]:
    """What a model is tuned to say: targets after prompts, the last answers of conversations, or whole texts.

    Raises:
        RecipeError: naming file, line or row, and column, if one cannot be read.
    """
    columns = (source.field,) if source.prompt_field is None else (source.prompt_field, source.field)
    for where, values in rows(source, columns):
        if not isinstance(values[-1], str):
            if source.prompt_field is not None:
                raise RecipeError(f"{where}: column {source.field!r}: a target is text, not a list of turns")
            yield templates().example(read_turns(values[0], where))
            continue
        prompt = values[0] if source.prompt_field is not None else ""
        if not isinstance(prompt, str):
            raise RecipeError(f"{where}: column {source.prompt_field!r}: a prompt is text, not a list of turns")
        yield Example(prompt.rstrip(), values[-1].strip())


def rows(source: Source, columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Some columns of every row in which none of them is blank, each row with where it stands.

    Raises:
        RecipeError: if there is no such file, data set or column, a row is no text and no list, or none is left.
    """
    n = 0
    for where, row in _raw(source, columns):
        values = tuple(_value(row, column, where) for column in columns)
        if all(value.strip() if isinstance(value, str) else value for value in values):
            n += 1
            yield where, values
    if not n:
        raise RecipeError(f"{describe(source)}: holds no text in {' and '.join(map(repr, columns))}")


def describe(source: Source) -> str:
    """A source as messages name it."""
    return source.file if source.file is not None else f"data set {source.dataset}"


def source_key(source: Source) -> dict[str, Any]:
    """What the texts of a source follow from.

    Raises:
        RecipeError: if it is not on this machine.
    """
    read = source.model_dump(mode="json", include={"config", "split", "field", "prompt_field"})
    if source.file is not None:
        file = Path(source.file)
        if not file.is_file():
            raise RecipeError(f"{file}: no such file")
        return read | {"sha256": source.sha256 or file_digest(file)}
    folder = _folder(source)
    if not is_local(source.dataset):
        return read | {"dataset": source.dataset, "commit": folder.name}
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return read | {"sha256": digest({str(file.relative_to(folder)): file_digest(file) for file in files})}


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise RecipeError(f"{where}: no column {column!r}; there are {_listed(row)}")
    value = row[column]
    if not isinstance(value, str | list | tuple):
        raise RecipeError(f"{where}: column {column!r}: must be text or a list of turns, got {repr(value)[:80]}")
    return value


def _listed(names: Any) -> str:
    listed = [repr(str(name))[:60] for name in names]
    return ", ".join(listed[:NAMED]) + (f" and {len(listed) - NAMED} more" if len(listed) > NAMED else "") or "none"


def _raw(source: Source, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if source.file is None:
        yield from _columnar(_loaded(source), columns, describe(source))
    elif source.file.endswith(".parquet"):
        yield from _columnar(_parquet(Path(source.file)), columns, describe(source))
    else:
        for number, line in _lines(Path(source.file)):
            where = f"{source.file}: line {number}"
            yield where, _parsed(line, where) if source.file.endswith(".jsonl") else {source.field: line}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, by number."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MOST_LINE + 1):
                number += 1
                if len(line) > MOST_LINE:
                    raise RecipeError(f"{file}: line {number}: longer than {MOST_LINE >> 20} MiB; a text a line")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise RecipeError(f"{file}: line {number}: no UTF-8 ({error.reason})") from None
                if text.strip():
                    yield number, text.rstrip("\r\n")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read ({error.strerror})") from None


def _parsed(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: no JSON ({one_line(error, 120)})") from None
    if not isinstance(row, dict):
        raise RecipeError(f"{where}: a line is an object of columns, not {type(row).__name__}")
    return row


def _columnar(table: Any, columns: Sequence[str], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for column in columns:
        if column not in table.column_names:
            raise RecipeError(f"{where}: no column {column!r}; there are {_listed(table.column_names)}")
    for index, row in enumerate(table.select_columns(list(columns))):
        yield f"{where}: row {index}", row


@lru_cache(maxsize=4)
def _parquet(file: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if not file.is_file():
        raise RecipeError(f"{file}: no such file")
    try:
        return datasets.Dataset.from_parquet(str(file), cache_dir=str(cache.cache_root() / "datasets"))
    except Exception as error:  # a file can be broken in many ways, and arrow raises types of its own
        raise RecipeError(f"{file}: no readable Parquet ({one_line(error.__cause__ or error, 200)})") from None


@lru_cache(maxsize=4)
def _loaded(source: Source) -> Any:
    """A data set of a folder that `datasets` saved, or of the hub's local cache."""
    import datasets

    datasets.disable_progress_bars()
    folder = _folder(source)
    try:
        if not is_local(source.dataset):
            kept = str(cache.cache_root() / "datasets")
            return datasets.load_dataset(str(folder), name=source.config, split=source.split, cache_dir=kept)
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise RecipeError(f"{describe(source)}: cannot be read ({one_line(error, 300)})") from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if source.split not in found:
        raise RecipeError(f"{describe(source)}: no split {source.split!r}; there are {_listed(found)}")
    return found[source.split]


def _folder(source: Source) -> Path:
    """Where a data set lies on this machine."""
    name = str(source.dataset)
    if is_local(name):
        folder = Path(name).expanduser()
        if not any((folder / saved).is_file() for saved in SAVED):
            raise RecipeError(f"{folder}: no data set here that `datasets` saved (save_to_disk); or name a file")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    revision = f" --revision {source.revision}" if source.revision else ""
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=source.revision, local_files_only=True))
    except HFValidationError:
        raise RecipeError(
            f"data set {name!r} is neither a folder (./NAME or /PATH) nor a hub id (OWNER/NAME)"
        ) from None
    except OSError:
        raise RecipeError(
            f"data set {name}: is not on this machine; fetch it with: hf download --repo-type dataset {name}{revision}"
        ) from None
