"""Method: the plugin class that looks at a pair of models and says what changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from diffbench.errors import OptionError
from diffbench.recipe import first_problem
from diffbench.tier import Tier
from diffbench.truth import Schema

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from diffbench.diff import Diff
    from diffbench.pair import ModelPair

Access = Literal["activations", "logits", "weights", "generate", "training_data"]
ACCESS: tuple[Access, ...] = ("activations", "logits", "weights", "generate", "training_data")


class MethodOptions(Schema):
    """Base of every method's ``Options``: frozen and closed; give each field a default and a description."""


def FileField(description: str) -> Any:
    """An option that names a file or folder; annotate it ``str | None``, it is None by default.

    It is looked up where the command runs, its content decides the key of the result, and the method process gets a
    read-only copy, whose path it finds in the option.
    """
    return Field(None, min_length=1, description=description, json_schema_extra={"file": True})


def is_file_field(field: FieldInfo) -> bool:
    """Whether an option was made by `FileField`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("file") is True


@dataclass(frozen=True, slots=True)
class Context:
    """What a method gets besides the pair.

    Attributes:
        seed: seed everything random with it; the same seed must give the same Diff.
        layer: the 0-based block whose output the run is about.
        budget: what may be used: training tokens, components, seconds.
        out: an empty folder for scratch files; it is thrown away afterwards.
        report: call it with a phrase and a fraction (0..1) now and then.
    """

    seed: int
    layer: int
    budget: Tier
    out: Path
    report: Callable[[str, float], None]


class Method(ABC):
    """One way to see what fine-tuning changed.

    A subclass sets the class attributes, may define a nested ``Options(MethodOptions)``, and fills in `run`.
    It runs in a process of its own, sees two models under opaque names and unlabelled text, and never the truth.
    """

    name: ClassVar[str]
    """As in tables and on the command line: lower case, digits, ``-``."""
    summary: ClassVar[str]
    """One sentence for `diffbench methods list`."""
    reference: ClassVar[str] = ""
    """Where the method comes from: paper, post, or nothing."""
    version: ClassVar[int] = 1
    """Raise it whenever the same inputs give another Diff."""
    access: ClassVar[frozenset[Access]] = frozenset({"activations"})
    """What `run` will touch; everything else raises `AccessError`."""
    control: ClassVar[bool] = False
    """True for rows that are pinned as controls and compete with nobody."""
    baseline: ClassVar[bool] = False
    """True for cheap baselines: other methods show their lift over the best of these."""

    class Options(MethodOptions):
        """No options."""

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @abstractmethod
    def run(self, pair: ModelPair, ctx: Context) -> Diff:
        """Look at the pair and return a Diff.

        Raises:
            OptionError: if the options make no sense for this pair (they are reported, the other cells go on).
            NotApplicable: if the method cannot be asked about such a pair (a row "n/a" with the reason).
        """


class NotApplicable(Exception):
    """Raised by `Method.run` where the method has nothing to say by its nature, with the reason."""


def resolve_options(method: type[Method], passed: Mapping[str, Any]) -> MethodOptions:
    """The method's options with defaults filled in.

    Values may be strings, as from the command line.

    Raises:
        OptionError: naming the method, the option, the value and what is allowed.
    """
    known = method.Options.model_fields
    for name in passed:
        if name not in known:
            listing = ", ".join(sorted(known)) or "none"
            raise OptionError(
                f"{method.name}: no option {name!r}; options: {listing} (`diffbench methods show {method.name}`)"
            )
    try:
        return method.Options.model_validate(dict(passed))
    except ValidationError as error:
        raise OptionError(f"{method.name}: option {first_problem(error)}") from None


__all__ = [
    "ACCESS",
    "Access",
    "Context",
    "Field",
    "FileField",
    "Method",
    "MethodOptions",
    "NotApplicable",
    "is_file_field",
    "resolve_options",
]
