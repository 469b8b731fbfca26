"""Intake: what the engine does with a Diff as soon as a method has left it: see that it fits, and table its latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffbench.comparison import Comparison
from diffbench.corpus import Corpus
from diffbench.diff import DictionaryDiff
from diffbench.diff_file import load_diff
from diffbench.exchange import TEXT
from diffbench.lens import Lens
from diffbench.residual import load_model, load_tokenizer, vocabulary_of
from diffbench.score import check


def intake_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: check a Diff against its pair, and write ``latents.parquet`` of a dictionary.

    Request: `Comparison.request`, diff (folder), out (the file to write).

    Raises:
        DiffError: if the Diff is malformed or does not fit the pair.
        BudgetExceeded: if it holds more components than the tier allows.
    """
    comparison = Comparison.of(request)
    base, (reference, folder) = comparison.organism.model_path("base"), comparison.models()
    rows = vocabulary_of(reference, folder, base=base).rows
    tuned, diff = load_model(folder, base=base, rows=rows), load_diff(Path(request["diff"]))
    check(diff, tuned, comparison.tier)
    if isinstance(diff, DictionaryDiff):
        from diffbench.latent_table import write_latents

        text = Corpus.load(comparison.path / "in" / TEXT)
        write_latents(diff, Lens.of(tuned, load_tokenizer(folder, base=base), text), Path(request["out"]))
    return {}
