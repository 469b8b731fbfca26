"""Own data: the family of an organism that names none: data of one's own to tune on, or a tuned model that is given."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from diffbench.base import Base
from diffbench.conversation import ChatTemplate, chat_template
from diffbench.dataset import examples, source_key
from diffbench.errors import RecipeError
from diffbench.organism import Family, FamilyParameters, TrainingText
from diffbench.recipe import Mixture, Recipe
from diffbench.seeds import derive
from diffbench.text import Document
from diffbench.truth import Truth
from diffbench.tuning import Trained

MOST_REPLAY = 4000
"""Documents of the base's own text that keep the rest where it was."""


class OwnData(Family):
    """What a recipe without a family stands on."""

    name = "own-data"
    summary = "texts of one's own to tune on, or two models that are there already"

    class Parameters(FamilyParameters):
        """None: the recipe's data and truth say it all."""

    def __init__(self, recipe: Recipe) -> None:
        """Take the recipe's data, truth and training."""
        self._recipe = recipe

    def recipes(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def key(self) -> Any:
        """What the data follow from, as a part of stages' keys; None: there are none.

        Raises:
            RecipeError: if they are not on this machine.
        """
        return None if self._recipe.data is None else source_key(self._recipe.data)

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """The data as examples, and replay from the base's own text.

        Raises:
            RecipeError: naming file, line and column, if the data cannot be read.
        """
        data, training = self._recipe.data, self._recipe.training
        if data is None or not isinstance(training, Trained):
            raise RecipeError(f"organism {self._recipe.name}: data: there is none to tune on")

        def template() -> ChatTemplate:
            return chat_template(base)

        replayed = training.dilution > 0 or (training.replay_batch > 0 and training.kl_weight > 0)
        replay = islice(base.documents(derive(seed, "replay")), MOST_REPLAY if replayed else 0)
        return TrainingText(examples=tuple(examples(data, template)), replay=tuple(replay))

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The base's ordinary text."""
        return base.documents(seed, mixture.topics or None)

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth | None:
        """What the recipe states."""
        return self._recipe.truth
