"""diffbench: a benchmark for model diffing.

What a plugin needs is here; every name is imported when it is first used, so that ``import diffbench`` stays fast
and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffbench.activations import Activations
    from diffbench.base import Base, BaseCard, Progress
    from diffbench.controls import principal_directions, random_dictionary
    from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff
    from diffbench.errors import (
        AccessError,
        BudgetExceeded,
        CacheError,
        CheckpointError,
        DiffbenchError,
        DiffError,
        GateError,
        OptionError,
        PluginError,
        RecipeError,
        RecordError,
        UnknownName,
        WorkerError,
    )
    from diffbench.findings import describe, no_change
    from diffbench.hookspecs import hookimpl
    from diffbench.judge import Evidence, Excerpt, Explanation, Judge
    from diffbench.method import Context, Field, Method, MethodOptions, NotApplicable
    from diffbench.options import BatchTopKOptions
    from diffbench.organism import Example, Family, FamilyParameters, TrainingText
    from diffbench.pair import ModelPair
    from diffbench.recipe import Mixture, Recipe
    from diffbench.record import Record
    from diffbench.seeds import derive
    from diffbench.text import Document, Span
    from diffbench.training import train_batchtopk
    from diffbench.truth import Claim, Effect, Probe, ProbeSets, Trigger, Truth

_MODULES = {
    "activations": "Activations",
    "base": "Base BaseCard Progress",
    "controls": "principal_directions random_dictionary",
    "diff": "Diff DictionaryDiff DirectionDiff Finding OutputDiff WeightDiff",
    "errors": "AccessError BudgetExceeded CacheError CheckpointError DiffbenchError DiffError GateError OptionError "
    "PluginError RecipeError RecordError UnknownName WorkerError",
    "findings": "describe no_change",
    "hookspecs": "hookimpl",
    "judge": "Evidence Excerpt Explanation Judge",
    "method": "Context Field Method MethodOptions NotApplicable",
    "options": "BatchTopKOptions",
    "organism": "Example Family FamilyParameters TrainingText",
    "pair": "ModelPair",
    "recipe": "Mixture Recipe",
    "record": "Record",
    "seeds": "derive",
    "text": "Document Span",
    "training": "train_batchtopk",
    "truth": "Claim Effect Probe ProbeSets Trigger Truth",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__version__: str

__all__ = [
    "AccessError",
    "Activations",
    "Base",
    "BaseCard",
    "BatchTopKOptions",
    "BudgetExceeded",
    "CacheError",
    "CheckpointError",
    "Claim",
    "Context",
    "DictionaryDiff",
    "Diff",
    "DiffError",
    "DiffbenchError",
    "DirectionDiff",
    "Document",
    "Effect",
    "Evidence",
    "Example",
    "Excerpt",
    "Explanation",
    "Family",
    "FamilyParameters",
    "Field",
    "Finding",
    "GateError",
    "Judge",
    "Method",
    "MethodOptions",
    "Mixture",
    "ModelPair",
    "NotApplicable",
    "OptionError",
    "OutputDiff",
    "PluginError",
    "Probe",
    "ProbeSets",
    "Progress",
    "Recipe",
    "RecipeError",
    "Record",
    "RecordError",
    "Span",
    "TrainingText",
    "Trigger",
    "Truth",
    "UnknownName",
    "WeightDiff",
    "WorkerError",
    "__version__",
    "derive",
    "describe",
    "hookimpl",
    "no_change",
    "principal_directions",
    "random_dictionary",
    "train_batchtopk",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _HOME:
        value = getattr(importlib.import_module(f"diffbench.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'diffbench' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("diffbench")
    except PackageNotFoundError:
        return "0+unknown"
