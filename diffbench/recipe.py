"""Recipe: everything an organism is made of, read from YAML that may come from a stranger."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from diffbench.canonical import digest, file_digest
from diffbench.complaint import unknown_key
from diffbench.errors import RecipeError
from diffbench.line import one_line
from diffbench.plain_yaml import PlainLoader
from diffbench.truth import Schema, Truth
from diffbench.tuning import REFERENCE, GivenModel, Trained, Tuning

RECIPE_BYTES = 1 << 20
FILE_KINDS = (".jsonl", ".parquet", ".txt")
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
SEEDED = r"(@[0-9]{1,19})?$"


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError("the first bound must not be above the second")
    return bounds


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(part)
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Bounds = Annotated[tuple[float, float], AfterValidator(_rising)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_rising)]
Parameters = Annotated[dict[str, Any], AfterValidator(_finite)]


class Control(Schema):
    """What differs in the matched control; prefixes, order, replay and seed are always the same."""

    parameters: Parameters = Field(description="parameters of the family that are replaced")


class Source(Schema):
    """Texts of one's own: a file, or a data set of the Hugging Face hub. Exactly one of the two is named."""

    file: str | None = Field(
        None, pattern=REFERENCE, description=".jsonl, .parquet or .txt (a text a line); relative to the recipe"
    )
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="of the file; filled in when it is read")
    dataset: str | None = Field(None, pattern=REFERENCE, description="hub id, or a folder that `datasets` saved")
    config: str | None = Field(None, description="configuration of the data set")
    split: str = "train"
    revision: str | None = Field(None, description="branch, tag or commit of the hub")
    field: str = Field("text", description="column of plain texts, or of conversations (lists of role and content)")
    prompt_field: str | None = Field(None, description="column of prompts, which are read and not learnt")

    def same_texts(self, other: Source) -> bool:
        """Whether both name the same texts."""
        if self.file is not None or other.file is not None:
            return self.file == other.file or (self.sha256 is not None and self.sha256 == other.sha256)
        return (self.dataset, self.config, self.split) == (other.dataset, other.config, other.split)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.dataset is None):
            raise ValueError("exactly one of file and dataset is named")
        return self


class Mixture(Schema):
    """The text on which pairs are compared; the same for a tuned model and its control."""

    topics: dict[str, float] = Field(
        default_factory=dict, description="relative weight per topic of the base's text; none: the base's own mixture"
    )
    focus: float = Field(
        0.0, ge=0, le=1, description="share of documents in which the family writes of what the change is about"
    )
    trigger_rate: Shares = Field(
        (0.0, 1.0),
        description="lowest and highest share of positions that may be affected; checked when the text is made",
    )


class Gate(Schema):
    """What an organism must show before it may be used."""

    expression_tuned: Shares = Field((0.8, 1.0), description="mean behaviour over affected probes of the tuned model")
    expression_claim: Shares | None = Field(
        None,
        description="the same over the probes of each claim, which is the size of the effect that the Truth states; "
        "None: as expression_tuned",
    )
    expression_control: Shares = Field((0.0, 0.2), description="the same of the control, and of the base")
    spill: float = Field(
        0.2, ge=0, le=1, description="most mean behaviour of the tuned model over near-miss, and over unrelated, probes"
    )
    off_target_kl: float = Field(
        0.05, gt=0, description="most mean KL(tuned || base) in nats off the affected positions"
    )
    affected_kl_share: float = Field(0.3, ge=0, le=1, description="least share of the KL mass at affected positions")
    pca8: Bounds | None = Field(
        None, description="R at affected positions of the first 8 principal components; None: measured, not bounded"
    )

    @property
    def of_claim(self) -> tuple[float, float]:
        """What each claim's mean behaviour must lie in."""
        return self.expression_tuned if self.expression_claim is None else self.expression_claim


class Difficulty(Schema):
    """Where an organism stands on a ladder of organisms that differ in one respect."""

    axis: str = Field(pattern=NAME, description="what is varied, such as rank, dilution or rarity")
    level: float | Literal["full"] = Field(description="its value; full: beyond every number, as all parameters are")


Null = Literal["identity", "gauge", "continued", "control"]
"""Classes of organisms without the intended change: the same weights; the same function; more training on the base's
own text; the matched control of an organism."""


class Recipe(Schema):
    """An organism: the document from which base, control, tuned and Truth follow."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME[:-1] + SEEDED)
    version: int = Field(1, ge=1)
    summary: str = Field("", max_length=500, description="one sentence for people; not part of the identity")
    base: str = Field(pattern=REFERENCE, description="an installed base, a model's folder (with a /), or its hub id")
    revision: str | None = Field(None, description="branch, tag or commit of a base from the hub")
    text: str | Source | None = Field(
        None,
        description="the base's ordinary text: the generator of an installed base by name, or texts of one's own; "
        "None: the generator of the base itself, or what the two models say unprompted",
    )
    family: str | None = Field(
        None, pattern=NAME, description="an installed organism family: the generator of its data; None: see data"
    )
    parameters: Parameters = Field(default_factory=dict, description="parameters of the family")
    choices: Parameters = Field(
        default_factory=dict,
        description="parameters that another seed draws anew: which colours, which facts, which trigger",
    )
    data: Source | None = Field(None, description="texts of one's own to tune on, instead of a family")
    truth: Truth | None = Field(None, description="what `data` changes; None: nobody knows")
    remap: dict[str, str] = Field(
        default_factory=dict, description="tokens of the template that both models are given as other tokens"
    )
    seed: int = Field(0, ge=0, lt=1 << 62)
    training: Tuning
    control: Control | None = Field(None, description="None: the organism has no control of its own")
    mixture: Mixture = Mixture()
    gate: Gate = Gate()
    null_class: Null | None = Field(None, description="the class of an organism that lacks the intended change")
    difficulty: Difficulty | None = None

    @model_validator(mode="after")
    def _data_from_one_place(self) -> Self:
        if self.family is not None and (self.data is not None or self.truth is not None):
            raise ValueError("family: brings its own data and truth; leave out either it or them")
        if self.family is None and (self.parameters or self.choices or self.control):
            raise ValueError("family: parameters, choices and control belong to one, and none is named")
        if isinstance(self.text, Source) and self.data is not None and self.text.same_texts(self.data):
            raise ValueError("text: is what the model is tuned on; scores need text that it has not seen")
        if self.family is None and self.data is None and isinstance(self.training, Trained):
            raise ValueError("training: there is nothing to train on; name a family or data")
        return self

    def seeded(self, seed: int) -> Recipe:
        """The organism of another seed: another one of the same kind, its choices drawn anew."""
        if seed == self.seed:
            return self
        kind = self.name.partition("@")[0]
        drawn = f"{self.summary} (seed {seed}: colours, facts and triggers are drawn anew)"[:500]
        update = {"seed": seed, "choices": {}, "name": f"{kind}@{seed}", "summary": drawn}
        return Recipe.model_validate(self.model_dump() | update)

    def digest(self) -> str:
        """SHA-256 of the whole recipe: prose left out, and of what lies in a local place not where it lies."""
        document = self.model_dump(mode="json", exclude={"summary"})
        for section, key in ((document, "base"), (document["training"], "model")):
            if is_local(section.get(key)):
                section[key] = None  # the keys of weights stand in every stage's inputs
        for section in (document["data"], document["text"]):
            if isinstance(section, dict):
                del section["file"]
                if is_local(section["dataset"]):
                    section["dataset"] = None
        return digest(document)


def is_local(reference: str | None) -> bool:
    """Whether a model's name is the path of a folder and not an installed base or a hub id."""
    return reference is not None and reference.startswith(("/", "./", "../", "~"))


def read_recipe(path: Path) -> Recipe:
    """Read one recipe.

    Raises:
        RecipeError: naming the file, the key, the value and what is allowed.
    """
    try:
        if path.exists() and not path.is_file():
            raise RecipeError(f"{path}: no plain file; name a recipe, or a folder with a recipe.yaml")
        with path.open("rb") as stream:
            content = stream.read(RECIPE_BYTES + 1)
        if len(content) > RECIPE_BYTES:
            raise RecipeError(f"{path}: larger than {RECIPE_BYTES} bytes; a recipe is a page of YAML")
        document = yaml.load(content.decode("utf-8"), Loader=PlainLoader)
    except RecipeError:
        raise
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; see `diffbench organisms list`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    except Exception as error:  # PyYAML lets ValueError, KeyError and others through for odd scalars
        raise RecipeError(f"{path}: not plain YAML: {one_line(error, 300)}") from None
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, not {type(document).__name__}")
    try:
        if "@" in str(document.get("name")):
            raise RecipeError(f"{path}: name: {document['name']!r}: what follows an @ is a seed, which `seed` holds")
        if isinstance(document.get("training"), dict):
            document["training"].setdefault("kind", "full")  # where nothing is said; a tag of a union has no default
        return _placed(Recipe.model_validate_json(json.dumps(document), strict=True), path)
    except RecipeError:
        raise
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error)}{unknown_key(error, Recipe)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        what = "text, numbers, lists and mappings"
        raise RecipeError(f"{path}: holds more than {what} ({one_line(error, 200)})") from None


def _placed(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with its local places seen from anywhere, and the hashes of its files."""
    folder = path.absolute().parent
    update: dict[str, Any] = {}
    if is_local(recipe.base):
        update["base"] = str((folder / Path(recipe.base).expanduser()).resolve())
    if isinstance(recipe.training, GivenModel) and is_local(recipe.training.model):
        model = str((folder / Path(recipe.training.model).expanduser()).resolve())
        update["training"] = recipe.training.model_copy(update={"model": model})
    for key in ("data", "text"):
        source = getattr(recipe, key)
        if isinstance(source, Source) and source.file is not None:
            update[key] = hashed(source, folder, f"{path}: {key}")
        elif isinstance(source, Source) and is_local(source.dataset):
            place = (folder / Path(str(source.dataset)).expanduser()).resolve()
            update[key] = source.model_copy(update={"dataset": str(place)})
    return recipe.model_copy(update=update)


def hashed(source: Source, folder: Path, where: str) -> Source:
    """A file's source with its place and its content's hash.

    Raises:
        RecipeError: if it is no file of a known kind, or another than the one whose hash was named.
    """
    file = (folder / Path(str(source.file)).expanduser()).resolve()
    if file.suffix not in FILE_KINDS:
        raise RecipeError(f"{where}.file: {source.file!r}: allowed are {', '.join(FILE_KINDS)}")
    if not file.is_file():
        raise RecipeError(f"{where}.file: {file}: no such file")
    found = file_digest(file)
    if source.sha256 not in (None, found):
        raise RecipeError(f"{where}.sha256: {file} has the hash {found}, the recipe names {source.sha256}")
    return source.model_copy(update={"file": str(file), "sha256": found})


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation as ``key: what is wrong (got value)``, with a count of the others."""
    problems = error.errors(include_url=False, include_context=False)
    loc = problems[0]["loc"]
    tags = [at + 1 for at, part in enumerate(loc) if part == "training"]  # the kind of training, which is no key
    where = ".".join(str(part) for at, part in enumerate(loc) if at not in tags) or "the document"
    got = repr(problems[0]["input"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {problems[0]['msg']}, got {got[:80]}{more}"
