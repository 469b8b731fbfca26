"""Checkpoint: a causal LM or an adapter that is there already, in a folder or in the local cache of the hub.

No network is ever asked: what is not there is named together with the command that fetches it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from diffbench.adapter import CONFIG as ADAPTER_CONFIG
from diffbench.adapter import is_adapter, read_config
from diffbench.base import Base
from diffbench.canonical import digest, file_digest
from diffbench.errors import CheckpointError
from diffbench.line import one_line
from diffbench.ordinary import OrdinaryText
from diffbench.recipe import is_local
from diffbench.text import Document

PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""Weights, settings and tokenizer; what else a folder holds is neither read nor part of its key."""
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "adapter_model.bin")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
PREPARE = "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model or an adapter is.

    Attributes:
        reference: path of a folder, as `is_local` tells, or a hub id.
        revision: branch, tag or commit of the hub; None: its main branch.
        subfolder: within the folder or the repository.
    """

    reference: str
    revision: str | None = None
    subfolder: str | None = None

    def folder(self) -> Path:
        """The folder, complete.

        Raises:
            CheckpointError: if it is not on this machine, or holds no model, no safetensors, or not all of them.
        """
        root = Path(self.reference).expanduser() if is_local(self.reference) else self._snapshot()
        folder = root / self.subfolder if self.subfolder else root
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder" + self._advice())
        self._check(folder)
        return folder

    def key(self) -> str:
        """SHA-256 that stands for weights, settings and tokenizer, whatever the folder's name.

        Raises:
            CheckpointError: as `folder`.
        """
        folder = self.folder()
        files = sorted({file for pattern in PATTERNS for file in folder.glob(pattern) if file.is_file()})
        return digest({file.name: _content(file) for file in files})

    def _snapshot(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        try:
            return Path(snapshot_download(self.reference, revision=self.revision, local_files_only=True))
        except HFValidationError:
            raise CheckpointError(
                f"{self.reference!r} is neither a folder (./NAME or /PATH) nor a hub id (OWNER/NAME)"
            ) from None
        except OSError:  # of which the hub's own errors are kinds
            raise CheckpointError(f"{self.reference}: is not on this machine{self._advice()}") from None

    def _check(self, folder: Path) -> None:
        if is_adapter(folder):
            read_config(folder)
            return
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: no model here (neither config.json nor {ADAPTER_CONFIG}){self._advice()}")
        shards = _shards(folder)
        missing = next((name for name in shards if not (folder / name).is_file()), None)
        if missing is not None and any(file for pattern in PICKLES for file in folder.glob(pattern)):
            raise CheckpointError(
                f"{self.reference}: its weights are pickles, which are never loaded; convert them where you trust "
                f"them: python -c \"{PREPARE}; [k.from_pretrained({self.reference!r}).save_pretrained('converted') "
                'for k in (M, T)]", and name ./converted'
            )
        if missing is not None:
            raise CheckpointError(f"{folder}: {missing} is missing{self._advice()}")

    def _advice(self) -> str:
        if is_local(self.reference):
            return ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"; fetch it with: hf download {self.reference}{revision}"


def _shards(folder: Path) -> Sequence[str]:
    """The weight files that a model is made of."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return ("model.safetensors",)
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: cannot be read ({one_line(error, 200)})") from None


def _content(file: Path) -> str:
    """What stands for a file's content; the hub's cache names its files by it already."""
    place = file.resolve()
    if place.parent.name == "blobs":
        return place.name
    facts = place.stat()
    return _hashed(place, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hashed(file: Path, size: int, changed: int) -> str:
    return file_digest(file)


class Checkpoint(Base):
    """A base that is anybody's checkpoint, with the text that a recipe names for it."""

    name: ClassVar[str] = "checkpoint"

    def __init__(self, place: Place, text: OrdinaryText) -> None:
        """Take a place and a text; nothing is looked for before it is asked for."""
        self.place, self._text = place, text

    def path(self) -> Path:
        """Folder in Hugging Face format.

        Raises:
            CheckpointError: if it is not on this machine or no model, with the command that fetches it.
        """
        folder = self.place.folder()
        if is_adapter(folder):
            raise CheckpointError(f"{folder}: is an adapter; a base is a whole model")
        return folder

    def key(self) -> str:
        """SHA-256 of weights, settings and tokenizer."""
        return self.place.key()

    def layers(self) -> int:
        """Number of transformer blocks, as its settings have it."""
        file = self.path() / "config.json"
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings = settings.get("text_config", settings)
            return int(next(settings[name] for name in LAYERS if name in settings))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{file}: cannot be read ({one_line(error, 200)})") from None
        except StopIteration:
            raise CheckpointError(f"{file}: names no number of layers ({', '.join(LAYERS)})") from None

    def documents(
        self,
        seed: int,
        topics: Mapping[str, float] | None = None,
        *,
        facts: Mapping[str, str] | None = None,
        focus: Mapping[str, Sequence[str]] | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Document]:
        """The text that goes with it; texts of one's own end, and have no topics, facts or classes of words."""
        found: Iterator[Document] = self._text.documents(seed, topics, facts=facts, focus=focus, words=words)
        return found

    def facts(self) -> Mapping[str, str]:
        """All facts of its text."""
        return self._text.facts()

    def portion(self, name: str) -> Base:
        """The same model with one portion of its text."""
        return Checkpoint(self.place, self._text.portion(name))

    def text_key(self) -> Any:
        """What its text follows from."""
        return self._text.key()

    def check(self) -> None:
        """Look for the model and the text.

        Raises:
            CheckpointError: if the model is not on this machine.
            RecipeError: if the text is not.
        """
        self.path()
        self._text.check()

    @property
    def at_hand(self) -> bool:
        """Whether its text is there without running a model."""
        return self._text.at_hand
