"""Build: from a recipe to base, control, tuned and Truth in the private cache, behind the gate.

Each stage is a task for a worker process: it takes and gives JSON and leaves a finished cache entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffbench import cache
from diffbench.base import Base
from diffbench.canonical import digest
from diffbench.errors import RecipeError
from diffbench.organism import Family
from diffbench.plugins import find_base, find_family
from diffbench.recipe import Recipe, first_problem
from diffbench.seeds import derive
from diffbench.truth import Truth

MODEL, ORGANISM = "models", "organisms"
GATE_TOKENS = 20_000
BUILD_CODE = (
    "diffbench.adapter",
    "diffbench.build",
    "diffbench.corpus",
    "diffbench.finetune",
    "diffbench.organism",
    "diffbench.precision",
    "diffbench.recipe",
    "diffbench.residual",
    "diffbench.seeds",
    "diffbench.text",
    "diffbench.truth",
)
"""Code that the weights of a model follow from."""
GATE_CODE = (
    *BUILD_CODE,
    "diffbench.activations",
    "diffbench.causal",
    "diffbench.dictionary",
    "diffbench.diff",
    "diffbench.edit",
    "diffbench.gate",
    "diffbench.gate_report",
    "diffbench.interval",
    "diffbench.record",
)
"""Code that an organism's Truth and gate report follow from."""


@dataclass(frozen=True, slots=True)
class Organism:
    """A recipe with what its names stand for; everything a stage needs, before anything is built."""

    recipe: Recipe
    family: Family
    base: Base
    parameters: Any
    control_parameters: Any | None

    def model_inputs(self, role: str) -> dict[str, Any]:
        """What the weights of ``tuned`` or ``control`` follow from; equal documents share one cache entry."""
        parameters: Any = self.parameters if role == "tuned" else self.control_parameters
        return {
            "stage": "model",
            "base": self.base.card().sha256,
            "family": self.recipe.family,
            "parameters": parameters.model_dump(mode="json"),
            "training": self.recipe.training.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "code": cache.code_version(*BUILD_CODE),
            "family_code": cache.plugin_version(type(self.family)),
            "base_code": cache.plugin_version(type(self.base)),
            "libraries": cache.libraries(),
        }

    def inputs(self) -> dict[str, Any]:
        """What Truth and gate report follow from."""
        control = None if self.control_parameters is None else self.model_inputs("control")
        return {
            "stage": "organism",
            "tuned": self.model_inputs("tuned"),
            "control": control,
            "mixture": self.recipe.mixture.model_dump(mode="json"),
            "gate": self.recipe.gate.model_dump(mode="json"),
            "code": cache.code_version(*GATE_CODE),
        }

    def roles(self) -> tuple[str, ...]:
        """The models that must be trained."""
        return ("tuned",) if self.control_parameters is None else ("tuned", "control")

    def model_path(self, role: str) -> Path:
        """Folder of base, tuned or control."""
        return self.base.path() if role == "base" else cache.entry(MODEL, self.model_inputs(role)) / "model"

    def model_key(self, role: str) -> str:
        """Hash that stands for the weights of base, tuned or control."""
        return self.base.card().sha256 if role == "base" else digest(self.model_inputs(role))

    def truth(self) -> Truth:
        """Claims and probes."""
        return self.family.truth(self.base, self.parameters, self.recipe.seed)


def resolve(recipe: Recipe) -> Organism:
    """Look up family and base of a recipe and check its parameters.

    Raises:
        UnknownName: if the family or base is not installed.
        RecipeError: naming the parameter, its value and what is allowed.
    """
    family, base = find_family(recipe.family)(), find_base(recipe.base)()
    parameters = _parameters(recipe, family, recipe.parameters)
    control = None
    if recipe.control is not None:
        control = _parameters(recipe, family, recipe.parameters | recipe.control.parameters)
    return Organism(recipe=recipe, family=family, base=base, parameters=parameters, control_parameters=control)


def _parameters(recipe: Recipe, family: Family, values: Mapping[str, Any]) -> Any:
    try:
        return family.Parameters.model_validate(dict(values))
    except ValidationError as error:
        raise RecipeError(f"organism {recipe.name}: parameters.{first_problem(error)}") from None


def check_text(organism: Organism) -> None:
    """Draw one document of the organism's mixture, so that wrong topics are refused before anything is trained.

    Raises:
        RecipeError: if the base has no such text.
    """
    recipe = organism.recipe
    try:
        next(organism.family.documents(organism.base, organism.parameters, recipe.mixture, recipe.seed))
    except StopIteration:
        raise RecipeError(f"organism {recipe.name}: mixture: gives no text") from None
    except RecipeError as error:
        raise RecipeError(f"organism {recipe.name}: mixture: {error}") from None


def train_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: train one model of an organism unless it is there. Request: recipe, role."""
    from diffbench.finetune import finetune
    from diffbench.worker import report

    organism = resolve(Recipe.model_validate(request["recipe"]))
    role = request["role"]
    parameters = organism.parameters if role == "tuned" else organism.control_parameters

    def fill(folder: Path) -> None:
        text = organism.family.training_text(organism.base, parameters, organism.recipe.seed)
        training = organism.recipe.training
        finetune(organism.base.path(), text, training, organism.recipe.seed, folder / "model", report)

    path = cache.publish(MODEL, organism.model_inputs(role), fill)
    return {"path": str(path)}


def gate_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: measure an organism whose models are there and store Truth and report. Request: recipe."""
    from diffbench.gate import measure
    from diffbench.residual import load_model, load_tokenizer

    organism = resolve(Recipe.model_validate(request["recipe"]))

    def fill(folder: Path) -> None:
        truth = organism.truth()
        base, tuned = load_model(organism.model_path("base")), load_model(organism.model_path("tuned"))
        control = None if organism.control_parameters is None else load_model(organism.model_path("control"))
        tokenizer = load_tokenizer(organism.model_path("tuned"))
        corpus = split(organism, truth, tokenizer, "gate", GATE_TOKENS)
        report = measure(organism.recipe.name, organism.recipe.gate, truth, (base, control, tuned), tokenizer, corpus)
        (folder / "truth.json").write_text(truth.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / "gate.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")

    return {"path": str(cache.publish(ORGANISM, organism.inputs(), fill))}


def split(organism: Organism, truth: Truth, tokenizer: Any, name: str, n_tokens: int) -> Any:
    """Labelled corpus of one split of the organism's mixture; splits of different names are independent.

    Raises:
        RecipeError: if the text triggers more or less often than the recipe states.
    """
    from diffbench.corpus import tokenise
    from diffbench.gate import trigger_rate

    recipe = organism.recipe
    seed = derive(recipe.seed, "split", name)
    documents = organism.family.documents(organism.base, organism.parameters, recipe.mixture, seed)
    corpus = tokenise(documents, tokenizer, truth.stratum, max_tokens=n_tokens)
    if not bool(corpus.predicts.any()):
        raise RecipeError(f"organism {recipe.name}: mixture: split {name!r} has no text of two tokens or more")
    if truth.changed:
        low, high = recipe.mixture.trigger_rate
        rate = trigger_rate(corpus)
        if not low <= rate <= high:
            raise RecipeError(
                f"organism {recipe.name}: mixture.trigger_rate: {rate:.4f} of the positions of split {name!r} are "
                f"affected, the recipe states {low:g} to {high:g}"
            )
    return corpus
