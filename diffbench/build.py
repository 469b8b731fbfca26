"""Build: from a recipe to base, control, tuned and Truth in the private cache, behind the gate.

Each stage is a task for a worker process: it takes and gives JSON and leaves a finished cache entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffbench import cache
from diffbench.adapter import is_adapter
from diffbench.base import Base
from diffbench.canonical import digest
from diffbench.complaint import unknown_key
from diffbench.drawn import Draw
from diffbench.errors import RecipeError
from diffbench.organism import Family, TrainingText
from diffbench.own_data import OwnData
from diffbench.own_pair import base_of, family_of, given_place
from diffbench.recipe import Recipe, first_problem, read_recipe
from diffbench.seeds import derive
from diffbench.truth import Stratum, Truth
from diffbench.tuning import GivenModel, NoTuning, Regauging, Trained

MODEL, ORGANISM = "models", "organisms"
TRUTH_FILE = "truth.json"
TRAIN = "train"
"""The portion of a base's text that models are tuned on; the others are named as splits."""
GATE_TOKENS, SIZE_TOKENS = 20_000, 5_000
"""Text that a gate is measured on; the second where no truth is known, and only the size of a change is measured."""
BUILD_CODE = (
    "diffbench.adapter",
    "diffbench.architecture",
    "diffbench.build",
    "diffbench.checkpoint",
    "diffbench.complaint",
    "diffbench.conversation",
    "diffbench.corpus",
    "diffbench.dataset",
    "diffbench.drawn",
    "diffbench.finetune",
    "diffbench.gauge",
    "diffbench.holdout",
    "diffbench.lessons",
    "diffbench.lora",
    "diffbench.mixing",
    "diffbench.ordinary",
    "diffbench.organism",
    "diffbench.own_data",
    "diffbench.own_pair",
    "diffbench.precision",
    "diffbench.plain_yaml",
    "diffbench.recipe",
    "diffbench.residual",
    "diffbench.sampled",
    "diffbench.seeds",
    "diffbench.text",
    "diffbench.tokenizer",
    "diffbench.truth",
    "diffbench.tuning",
    "diffbench.vocabulary",
)
"""Code that the weights of a model follow from."""
GATE_CODE = (
    *BUILD_CODE,
    "diffbench.activations",
    "diffbench.causal",
    "diffbench.controls",
    "diffbench.dictionary",
    "diffbench.diff",
    "diffbench.edit",
    "diffbench.expression",
    "diffbench.figure",
    "diffbench.gate",
    "diffbench.gate_report",
    "diffbench.harvest",
    "diffbench.interval",
    "diffbench.layer_rule",
    "diffbench.patching",
    "diffbench.record",
    "diffbench.scores",
    "diffbench.strata",
    "diffbench.weight_edit",
)
"""Code that an organism's Truth and gate report follow from."""


@dataclass(frozen=True)
class Organism:
    """A recipe with what its names stand for; everything a stage needs, before anything is built.

    Attributes:
        given: the family's parameters as the recipe has them; `parameters` are the same with the seed's choices.
        teacher: the organism whose tuned model teaches; None: the base does, or nobody.
    """

    recipe: Recipe
    family: Family
    base: Base
    given: Any
    teacher: Organism | None = None

    @cached_property
    def parameters(self) -> Any:
        """The family's parameters, what the recipe leaves open drawn from its seed."""
        return self._draw.parameters()

    @property
    def _draw(self) -> Draw:
        return Draw(self.family, self.base, self.given, self.recipe.seed, cache.code_version(*BUILD_CODE))

    def keep_parameters(self) -> None:
        """Keep what the seed chose, so that the next task need not draw it again."""
        self._draw.keep(self.parameters)

    @cached_property
    def control_parameters(self) -> Any | None:
        """The same for the matched control; None: there is none."""
        if self.recipe.control is None:
            return None
        values = self.parameters.model_dump() | self.recipe.control.parameters
        return _parameters(self.recipe, self.family, values, "control.parameters")

    @property
    def has_control(self) -> bool:
        """Whether there is a matched control."""
        return self.recipe.control is not None

    def model_inputs(self, role: str) -> dict[str, Any]:
        """What the weights of ``tuned`` or ``control`` follow from; equal documents share one cache entry."""
        training = self.recipe.training
        if isinstance(training, NoTuning):
            return {"stage": "model", "same": self.base.key()}
        if isinstance(training, GivenModel):
            return {"stage": "model", "given": given_place(training).key(), "base": self.base.key()}
        inputs = {
            "stage": "model",
            "base": self.base.key(),
            "training": training.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "code": cache.code_version(*BUILD_CODE),
            "base_code": cache.plugin_version(type(self.base)),
            "libraries": cache.libraries(),
        }
        if isinstance(training, Regauging):
            return inputs
        parameters: Any = self.parameters if role == "tuned" else self.control_parameters
        return inputs | {
            "family": self.family.name,
            "text": self.base.text_key(),
            "data": self.family.key() if isinstance(self.family, OwnData) else None,
            "parameters": parameters.model_dump(mode="json"),
            "family_code": cache.plugin_version(type(self.family)),
            "teacher": None if self.teacher is None else self.teacher.model_key(self.teacher.taught(role)),
        }

    def inputs(self) -> dict[str, Any]:
        """What Truth and gate report follow from."""
        return {
            "stage": "organism",
            "tuned": self.model_inputs("tuned"),
            "control": self.model_inputs("control") if self.has_control else None,
            "family": self.family.name,
            "family_code": cache.plugin_version(type(self.family)),
            "parameters": self.parameters.model_dump(mode="json"),
            "truth": _document(self.recipe.truth),
            "text": self.base.text_key(),
            "remap": self.recipe.remap,
            "seed": self.recipe.seed,
            "mixture": self.recipe.mixture.model_dump(mode="json"),
            "gate": self.recipe.gate.model_dump(mode="json"),
            "code": cache.code_version(*GATE_CODE),
            "libraries": cache.libraries(),
        }

    def taught(self, role: str) -> str:
        """Which of its models teaches another organism's ``role``: a control learns from the control."""
        return "tuned" if role == "tuned" else "control" if self.has_control else "base"

    def training_text(self, role: str) -> TrainingText:
        """What ``tuned`` or ``control`` learns from."""
        parameters = self.parameters if role == "tuned" else self.control_parameters
        return self.family.training_text(self.base.portion(TRAIN), parameters, self.recipe.seed)

    def roles(self) -> tuple[str, ...]:
        """The models that must be made."""
        if isinstance(self.recipe.training, NoTuning | GivenModel):
            return ()
        return ("tuned", "control") if self.has_control else ("tuned",)

    def model_path(self, role: str) -> Path:
        """Folder of base, tuned or control."""
        if role == "base" or isinstance(self.recipe.training, NoTuning):
            return self.base.path()
        if isinstance(self.recipe.training, GivenModel):
            return given_place(self.recipe.training).folder()
        return cache.entry(MODEL, self.model_inputs(role)) / "model"

    def model_key(self, role: str) -> str:
        """Hash that stands for the weights of base, tuned or control."""
        if role == "base" or isinstance(self.recipe.training, NoTuning):
            return self.base.key()
        return digest(self.model_inputs(role))

    def truth(self) -> Truth | None:
        """Claims and probes; None: nobody knows what changed.

        The size of each claim's effect is what the gate asks for and measures.
        """
        truth = self.family.truth(self.base, self.parameters, self.recipe.seed)
        return None if truth is None else truth.sized(*self.recipe.gate.of_claim)


def resolve(recipe: Recipe) -> Organism:
    """Look up family and base of a recipe and check its parameters.

    Raises:
        UnknownName: if the family or base is not installed.
        RecipeError: naming the parameter, its value and what is allowed.
    """
    family, base = family_of(recipe), base_of(recipe)
    given = _parameters(recipe, family, recipe.parameters | recipe.choices)
    if recipe.control is not None:  # refused now, and drawn later
        _parameters(recipe, family, given.model_dump() | recipe.control.parameters, "control.parameters")
    return Organism(recipe=recipe, family=family, base=base, given=given, teacher=_teacher(recipe, family))


def _teacher(recipe: Recipe, family: Family) -> Organism | None:
    """The organism that teaches a recipe's tuned model: one of the same family, of the same seed."""
    name = recipe.training.teacher if isinstance(recipe.training, Trained) else None
    if name is None or name == "base":
        return None
    found = {teacher.name: teacher for teacher in map(read_recipe, family.recipes())}
    teacher = found.get(name)
    if teacher is None or (isinstance(teacher.training, Trained) and teacher.training.teacher is not None):
        allowed = ["base", *sorted(n for n, r in found.items() if getattr(r.training, "teacher", None) is None)]
        raise RecipeError(
            f"organism {recipe.name}: training.teacher: {name!r} teaches nothing here; allowed are {', '.join(allowed)}"
        )
    own = recipe.name.partition("@")[2]
    return resolve(teacher.seeded(int(own)) if own else teacher)


def _parameters(recipe: Recipe, family: Family, values: Mapping[str, Any], where: str = "parameters") -> Any:
    try:
        return family.Parameters.model_validate(dict(values))
    except ValidationError as error:
        complaint = first_problem(error) + unknown_key(error, family.Parameters)
        raise RecipeError(f"organism {recipe.name}: {where}.{complaint}") from None


def train_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: make one model of an organism unless it is there. Request: recipe, role."""
    organism = resolve(Recipe.model_validate(request["recipe"]))
    organism.keep_parameters()
    return {"path": str(_made(organism, request["role"]))}


def _made(organism: Organism, role: str) -> Path:
    """The cache entry of a model, made now if it is not there; its teacher first."""
    from diffbench.finetune import Ground, finetune
    from diffbench.gauge import regauge
    from diffbench.worker import report

    recipe, training = organism.recipe, organism.recipe.training
    base, name = organism.base.path(), recipe.base

    def fill(folder: Path) -> None:
        if isinstance(training, Regauging):
            regauge(base, folder / "model", recipe.seed)
            return
        assert isinstance(training, Trained)  # the others have no model of their own to be made
        teacher = base if training.teacher == "base" else None
        if organism.teacher is not None:
            taught = organism.teacher.taught(role)
            if taught != "base":
                _made(organism.teacher, taught)
            teacher = organism.teacher.model_path(taught)
        text = organism.training_text(role)
        finetune(Ground(base, name, teacher), text, training, recipe.seed, folder / "model", report)

    return cache.publish(MODEL, organism.model_inputs(role), fill)


def gate_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: measure an organism whose models are there and store Truth and report. Request: recipe."""
    from diffbench.gate import Subjects, measure
    from diffbench.pairing import check_pair
    from diffbench.pairing import check_text as check_words
    from diffbench.residual import find_tokenizer, load_model, load_tokenizer, outline

    organism = resolve(Recipe.model_validate(request["recipe"]))
    organism.keep_parameters()
    base = organism.model_path("base")

    def fill(folder: Path) -> None:
        truth = organism.truth()
        tuned = organism.model_path("tuned")
        tokenizer = load_tokenizer(tuned, base=base)
        words = check_pair(
            outline(base), outline(tuned, base=base), tokenizer, reference_tokenizer=find_tokenizer(base)
        )
        rows = None if words.same else words.rows
        subjects = Subjects(
            base=load_model(base, rows=rows),
            tuned=load_model(tuned, base=base, rows=rows),
            control=load_model(organism.model_path("control"), base=base, rows=rows) if organism.has_control else None,
            tokenizer=tokenizer,
            adapter=tuned if is_adapter(tuned) else None,
        )
        tokens = GATE_TOKENS if truth is not None else SIZE_TOKENS
        corpus = split(organism, truth, tokenizer, "gate", tokens)
        check_words(corpus, words)
        report = measure(organism.recipe, truth, subjects, corpus, _training_texts(organism))
        (folder / TRUTH_FILE).write_text(json.dumps(_document(truth), indent=1) + "\n", encoding="utf-8")
        (folder / "gate.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")

    return {"path": str(cache.publish(ORGANISM, organism.inputs(), fill))}


def _document(truth: Truth | None) -> Any:
    return None if truth is None else truth.model_dump(mode="json")


def _training_texts(organism: Organism) -> tuple[str, ...]:
    """What the tuned model learnt to say, without the replay, which is the base's own."""
    if not isinstance(organism.recipe.training, Trained):
        return ()
    return tuple(example.text for example in organism.training_text("tuned").examples)


def stored_truth(organism: Organism) -> Truth | None:
    """The Truth of an organism that was gated; None: nobody knows what changed."""
    document = cache.read_json(cache.entry(ORGANISM, organism.inputs()) / TRUTH_FILE)
    return None if document is None else Truth.model_validate(document)


def split(organism: Organism, truth: Truth | None, tokenizer: Any, name: str, n_tokens: int) -> Any:
    """Labelled corpus of one split of the organism's mixture; splits of different names are independent.

    Raises:
        RecipeError: if the text triggers more or less often than the recipe states.
    """
    from diffbench.conversation import remap_ids
    from diffbench.corpus import tokenise
    from diffbench.gate import trigger_rate

    recipe = organism.recipe
    seed = derive(recipe.seed, "split", name)
    documents = organism.family.documents(organism.base.portion(name), organism.parameters, recipe.mixture, seed)
    stratum = (lambda _: Stratum.unrelated) if truth is None else truth.stratum
    remap = remap_ids(tokenizer, recipe.remap, "the tuned model's tokenizer")
    corpus = tokenise(documents, tokenizer, stratum, max_tokens=n_tokens, remap=remap)
    if not bool(corpus.predicts.any()):
        raise RecipeError(f"organism {recipe.name}: mixture: split {name!r} has no text of two tokens or more")
    if corpus.n_tokens < n_tokens:
        raise RecipeError(
            f"organism {recipe.name}: text: too little: split {name!r} has {corpus.n_tokens} tokens of the {n_tokens} "
            f"that are needed; name some {n_tokens / corpus.n_tokens:.2g} times as much text, or use --tier smoke"
        )
    if truth is not None and truth.changed:
        low, high = recipe.mixture.trigger_rate
        rate = trigger_rate(corpus)
        if not low <= rate <= high:
            raise RecipeError(
                f"organism {recipe.name}: mixture.trigger_rate: {rate:.4f} of the positions of split {name!r} are "
                f"affected, the recipe states {low:g} to {high:g}"
            )
    return corpus
