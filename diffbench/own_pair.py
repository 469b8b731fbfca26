"""Own pairs: what a recipe's base, text and family stand for, and the recipe of two models that somebody brings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffbench.base import Base
from diffbench.checkpoint import Checkpoint, Place
from diffbench.conversation import ChatTemplate
from diffbench.dataset import SourceText
from diffbench.errors import OptionError, RecipeError
from diffbench.ordinary import GeneratedText, OrdinaryText
from diffbench.organism import Family
from diffbench.own_data import OwnData
from diffbench.plugins import find_base, find_family
from diffbench.recipe import FILE_KINDS, Recipe, Source, first_problem, hashed, is_local
from diffbench.sampled import SampledText
from diffbench.truth import Schema
from diffbench.tuning import GivenModel

LONGEST_NAME = 30


def base_of(recipe: Recipe) -> Base:
    """The base of a recipe with its ordinary text; weights and texts are looked for when they are asked for.

    Raises:
        UnknownName: if an installed base is named that is not there.
        RecipeError: if an installed base is given another text than its own.
    """
    if not is_local(recipe.base) and "/" not in recipe.base:
        if recipe.revision is not None:
            raise RecipeError(f"organism {recipe.name}: revision: {recipe.base} is an installed base and has none")
        base: Base = find_base(recipe.base)()
        if recipe.text in (None, recipe.base):
            return base
        raise RecipeError(
            f"organism {recipe.name}: text: {recipe.base} is an installed base and brings its own text; leave it out"
        )
    place = Place(recipe.base, recipe.revision)
    return Checkpoint(place, _text(recipe, place))


def family_of(recipe: Recipe) -> Family:
    """The installed family that a recipe names, or the recipe's own data.

    Raises:
        UnknownName: if there is no family of that name.
    """
    if recipe.family is None:
        return OwnData(recipe)
    family: Family = find_family(recipe.family)()
    return family


def given_place(training: GivenModel) -> Place:
    """Where a tuned model is that is there already."""
    return Place(training.model, training.revision, training.subfolder)


def _text(recipe: Recipe, base: Place) -> OrdinaryText:
    tuned = given_place(recipe.training) if isinstance(recipe.training, GivenModel) else None
    if isinstance(recipe.text, str):
        return GeneratedText(find_base(recipe.text)())
    if recipe.text is None:
        return SampledText(base, tuned, recipe.seed)

    def template() -> ChatTemplate:
        from diffbench.residual import load_tokenizer

        folder = base.folder()
        return ChatTemplate(
            load_tokenizer(folder if tuned is None else tuned.folder(), base=folder), (tuned or base).reference
        )

    return SourceText(recipe.text, template)


class OwnPair(Schema):
    """Two models of somebody's own, as a command names them.

    Attributes:
        base: a folder, a hub id, or an installed base.
        tuned: folder or hub id of another model; None: see ``adapter``.
        adapter: folder or hub id of an adapter on the base.
        text: a file, a data set's hub id, or a folder that `datasets` saved; None: what the models say unprompted.
        text_field: column of the texts.
        remap: tokens that both models are given as others.
    """

    base: str
    tuned: str | None = None
    adapter: str | None = None
    text: str | None = None
    text_field: str = "text"
    remap: Mapping[str, str] = {}

    def recipe(self) -> Recipe:
        """The recipe of the pair, of which no truth is known.

        Raises:
            OptionError: if not exactly one of tuned and adapter is named, or one of the names is none.
            RecipeError: if the text is a file that cannot be read.
        """
        if (self.tuned is None) == (self.adapter is None):
            raise OptionError("--base A needs either --tuned B, a whole model, or --adapter C, an adapter on A")
        tuned = str(self.tuned or self.adapter)
        document: dict[str, Any] = {
            "name": f"{_plain(self.base)}-vs-{_plain(tuned)}",
            "summary": "two models of somebody's own; no truth is known of them",
            "base": _reference(self.base),
            "text": self._source(),
            "training": {"kind": "given", "model": _reference(tuned)},
            "remap": dict(self.remap),
        }
        try:
            return Recipe.model_validate(document)
        except ValidationError as error:
            raise OptionError(f"own pair: {first_problem(error)}") from None

    def _source(self) -> Source | None:
        if self.text is None:
            return None
        if Path(self.text).is_file() or self.text.endswith(FILE_KINDS):
            return hashed(Source(file=self.text, field=self.text_field), Path.cwd(), "--text")
        return Source(dataset=_reference(self.text), field=self.text_field)


def _reference(name: str) -> str:
    """A folder by its whole path, whether or not it was named as one; all else as it is."""
    if is_local(name) or Path(name).is_dir():
        return str(Path(name).expanduser().absolute())
    return name


def _plain(name: str) -> str:
    """The last part of a name, in letters that the name of an organism may have."""
    last = Path(name).expanduser().absolute().name
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")[:LONGEST_NAME].strip("-._") or "model"
