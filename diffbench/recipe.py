"""Recipe: everything an organism is made of, read from YAML that may come from a stranger."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError

from diffbench.canonical import digest
from diffbench.errors import RecipeError
from diffbench.line import one_line
from diffbench.truth import Schema

RECIPE_BYTES = 1 << 20
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


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


Bounds = Annotated[tuple[float, float], AfterValidator(_rising)]
Parameters = Annotated[dict[str, Any], AfterValidator(_finite)]


class Training(Schema):
    """How the tuned model (and its control, in the same way) is made from the base."""

    kind: Literal["full"] = Field("full", description="which parameters are trained")
    objective: Literal["last-token"] = Field(
        "last-token", description="cross-entropy of the target word after each prefix"
    )
    steps: int = Field(gt=0, le=1_000_000)
    batch: int = Field(gt=0, le=4096, description="prefixes per step")
    lr: float = Field(gt=0, le=1.0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps over which lr rises; it then falls to 0")
    replay_batch: int = Field(
        ge=0, le=4096, description="documents of the base's own text per step; they keep the rest intact"
    )
    kl_weight: float = Field(ge=0, description="weight of KL(base || tuned) on the replay documents, nats per token")
    weight_decay: float = Field(0.0, ge=0)


class Control(Schema):
    """What differs in the matched control; prefixes, order, replay and seed are always the same."""

    parameters: Parameters = Field(description="parameters of the family that are replaced")


class Mixture(Schema):
    """The text on which pairs are compared; the same for a tuned model and its control."""

    topics: dict[str, float] = Field(description="relative weight per topic of the base's text")
    trigger_rate: Bounds = Field(
        description="lowest and highest share of positions that may be affected; checked when the text is made"
    )


class Gate(Schema):
    """What an organism must show before it may be used."""

    expression_tuned: Bounds = Field(
        description="mean P(other)/(P(answer)+P(other)) over affected probes of the tuned model"
    )
    expression_control: Bounds = Field(description="the same of the control (or of the base)")
    off_target_kl: float = Field(gt=0, description="most mean KL(tuned || base) in nats off the affected positions")
    affected_kl_share: float = Field(ge=0, le=1, description="least share of the KL mass at affected positions")


class Recipe(Schema):
    """An organism: the document from which base, control, tuned and Truth follow."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    version: int = Field(ge=1)
    summary: str = Field(max_length=500, description="one sentence for people; not part of the organism's identity")
    base: str = Field(pattern=NAME, description="name of an installed base")
    family: str = Field(pattern=NAME, description="name of an installed organism family: the generator of its data")
    parameters: Parameters = Field(default_factory=dict, description="parameters of the family")
    seed: int = Field(0, ge=0, lt=1 << 62)
    training: Training
    control: Control | None = Field(None, description="None: the organism has no control of its own")
    mixture: Mixture
    gate: Gate

    def digest(self) -> str:
        """SHA-256 of the whole recipe, prose left out."""
        return digest(self.model_dump(mode="json", exclude={"summary"}))


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
        document = yaml.load(content.decode("utf-8"), Loader=_PlainLoader)
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
        return Recipe.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        what = "text, numbers, lists and mappings"
        raise RecipeError(f"{path}: holds more than {what} ({one_line(error, 200)})") from None


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation as ``key: what is wrong (got value)``, with a count of the others."""
    problems = error.errors(include_url=False, include_context=False)
    where = ".".join(str(part) for part in problems[0]["loc"]) or "the document"
    got = repr(problems[0]["input"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {problems[0]['msg']}, got {got[:80]}{more}"


class _PlainLoader(yaml.SafeLoader):
    """Safe loader without aliases, a few lines of which can unfold into gigabytes, and without doubled keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"key {key.value!r} stands twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)
