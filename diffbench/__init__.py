"""diffbench: a benchmark for model diffing.

What a plugin needs is here, and `run` and `load_run` for whoever works in Python; every name is imported when it is
first used, so that ``import diffbench`` stays fast and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffbench.account import Account, Pattern
    from diffbench.activations import Activations
    from diffbench.adapter import LowRank
    from diffbench.base import Base, BaseCard, EmbeddedBase, Progress
    from diffbench.controls import principal_directions, random_dictionary
    from diffbench.conversation import ChatTemplate, Turn, chat_template
    from diffbench.design import L1, Design, TopK
    from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff
    from diffbench.errors import (
        AccessError,
        BudgetExceeded,
        CacheError,
        CheckpointError,
        DiffbenchError,
        DiffError,
        GateError,
        JudgeError,
        OptionError,
        PluginError,
        RecipeError,
        RecordError,
        UnknownName,
        WorkerError,
    )
    from diffbench.findings import describe, no_change
    from diffbench.fitting import fit_dictionary
    from diffbench.formats import read_dictionary, write_dictionary
    from diffbench.holdout import Holdout
    from diffbench.hookspecs import hookimpl
    from diffbench.judge import Judge, Reply
    from diffbench.latents import latent_columns, with_latents
    from diffbench.method import Context, Field, FileField, Method, MethodOptions, NotApplicable
    from diffbench.mixing import collect_probes, interleave, relabelled
    from diffbench.options import BatchTopKOptions, DictionaryOptions, EitherOptions, L1Options
    from diffbench.organism import Example, Family, FamilyParameters, TrainingText
    from diffbench.pair import ModelPair
    from diffbench.prediction import Predictions
    from diffbench.recipe import Mixture, Recipe
    from diffbench.record import Record
    from diffbench.request import run
    from diffbench.result import RunResult, load_run
    from diffbench.seeds import derive
    from diffbench.spending import Usage
    from diffbench.text import Document, Part, Span
    from diffbench.training import train
    from diffbench.truth import Claim, Effect, Probe, ProbeSets, Trigger, Truth
    from diffbench.weights import ROUNDING, WeightChange, factored_parts, principal_parts

_MODULES = {
    "account": "Account Pattern",
    "activations": "Activations",
    "adapter": "LowRank",
    "base": "Base BaseCard EmbeddedBase Progress",
    "controls": "principal_directions random_dictionary",
    "conversation": "ChatTemplate Turn chat_template",
    "design": "Design L1 TopK",
    "diff": "Diff DictionaryDiff DirectionDiff Finding OutputDiff WeightDiff",
    "errors": "AccessError BudgetExceeded CacheError CheckpointError DiffbenchError DiffError GateError JudgeError "
    "OptionError PluginError RecipeError RecordError UnknownName WorkerError",
    "findings": "describe no_change",
    "fitting": "fit_dictionary",
    "formats": "read_dictionary write_dictionary",
    "holdout": "Holdout",
    "hookspecs": "hookimpl",
    "latents": "latent_columns with_latents",
    "judge": "Judge Reply",
    "method": "Context Field FileField Method MethodOptions NotApplicable",
    "mixing": "collect_probes interleave relabelled",
    "options": "BatchTopKOptions DictionaryOptions EitherOptions L1Options",
    "organism": "Example Family FamilyParameters TrainingText",
    "pair": "ModelPair",
    "prediction": "Predictions",
    "recipe": "Mixture Recipe",
    "record": "Record",
    "request": "run",
    "result": "RunResult load_run",
    "seeds": "derive",
    "spending": "Usage",
    "text": "Document Part Span",
    "training": "train",
    "truth": "Claim Effect Probe ProbeSets Trigger Truth",
    "weights": "ROUNDING WeightChange factored_parts principal_parts",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__version__: str

__all__ = [
    "L1",
    "ROUNDING",
    "AccessError",
    "Account",
    "Activations",
    "Base",
    "BaseCard",
    "BatchTopKOptions",
    "BudgetExceeded",
    "CacheError",
    "ChatTemplate",
    "CheckpointError",
    "Claim",
    "Context",
    "Design",
    "DictionaryDiff",
    "DictionaryOptions",
    "Diff",
    "DiffError",
    "DiffbenchError",
    "DirectionDiff",
    "Document",
    "Effect",
    "EitherOptions",
    "EmbeddedBase",
    "Example",
    "Family",
    "FamilyParameters",
    "Field",
    "FileField",
    "Finding",
    "GateError",
    "Holdout",
    "Judge",
    "JudgeError",
    "L1Options",
    "LowRank",
    "Method",
    "MethodOptions",
    "Mixture",
    "ModelPair",
    "NotApplicable",
    "OptionError",
    "OutputDiff",
    "Part",
    "Pattern",
    "PluginError",
    "Predictions",
    "Probe",
    "ProbeSets",
    "Progress",
    "Recipe",
    "RecipeError",
    "Record",
    "RecordError",
    "Reply",
    "RunResult",
    "Span",
    "TopK",
    "TrainingText",
    "Trigger",
    "Truth",
    "Turn",
    "UnknownName",
    "Usage",
    "WeightChange",
    "WeightDiff",
    "WorkerError",
    "__version__",
    "chat_template",
    "collect_probes",
    "derive",
    "describe",
    "factored_parts",
    "fit_dictionary",
    "hookimpl",
    "interleave",
    "latent_columns",
    "load_run",
    "no_change",
    "principal_directions",
    "principal_parts",
    "random_dictionary",
    "read_dictionary",
    "relabelled",
    "run",
    "train",
    "with_latents",
    "write_dictionary",
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
