"""Readiness: whether all that a recipe names is there, before anything is made."""

from __future__ import annotations

from diffbench.build import Organism
from diffbench.errors import RecipeError
from diffbench.own_data import OwnData
from diffbench.tuning import GivenModel


def check_places(organism: Organism) -> None:
    """Look for all that must be there before anything is made: models, text and data.

    Raises:
        CheckpointError: if a model is not on this machine, with the command that fetches it.
        RecipeError: if text or data are not.
    """
    organism.base.check()
    if isinstance(organism.recipe.training, GivenModel):
        organism.model_path("tuned")
    if isinstance(organism.family, OwnData):
        organism.family.key()


def check_text(organism: Organism) -> None:
    """Draw one document of the organism's mixture, so that wrong topics are refused before anything is trained.

    Raises:
        RecipeError: if the base has no such text.
    """
    recipe = organism.recipe
    if not organism.base.at_hand:
        return
    try:
        next(organism.family.documents(organism.base, organism.parameters, recipe.mixture, recipe.seed))
    except StopIteration:
        raise RecipeError(f"organism {recipe.name}: mixture: gives no text") from None
    except RecipeError as error:
        raise RecipeError(f"organism {recipe.name}: mixture: {error}") from None
