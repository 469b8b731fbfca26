"""Outlets: runs in the forms that other tools read. Nothing is sent anywhere.

=============  ==================================================================
hf-dataset     a folder that `datasets.load_dataset` reads, with its card
lm-eval        results as lm-evaluation-harness writes them, a file a method
inspect        what judges were asked, as logs of inspect_ai, a file a cell
neuronpedia    the first directions of Diffs, as bodies of uploads of vectors
=============  ==================================================================

Equal records give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffbench.errors import OptionError, UnknownName
from diffbench.outlets.folder import ExportedFile, publish
from diffbench.outlets.source import Source, read_source

FORMATS = ("hf-dataset", "lm-eval", "inspect", "neuronpedia")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported, and how.

    Attributes:
        form: one of `FORMATS`.
        organism: only cells of this one; None: of all.
        method: only cells of this method or ``method@ranking``.
        licence: of a data set, by the Hub's identifier.
        model_id: of vectors, the model's name on Neuronpedia.
        top: vectors of each Diff.
    """

    form: str
    organism: str | None = None
    method: str | None = None
    licence: str = "mit"
    model_id: str | None = None
    top: int | None = None


def export_runs(paths: Sequence[Path], to: Path, wanted: Wanted) -> list[Path]:
    """Write runs, or a leaderboard's table, to a new folder in another tool's form; returns the files.

    Raises:
        UnknownName: if there is no such form, organism or method.
        OptionError: if an option is missing or wrong, or the folder is not empty.
        RecordError: if a path is neither, or a file of a run is missing or not what was scored.
    """
    if wanted.form not in FORMATS:
        raise UnknownName("form of export", wanted.form, FORMATS)
    source = read_source(paths).only(wanted.organism, wanted.method)
    return publish(_files(source, wanted), to)


def _files(source: Source, wanted: Wanted) -> Iterator[ExportedFile]:
    if wanted.form == "hf-dataset":
        from diffbench.outlets.hf_dataset import hf_dataset

        return hf_dataset(source, wanted.licence)
    if wanted.form == "lm-eval":
        from diffbench.outlets.lm_eval import lm_eval

        return lm_eval(source)
    if wanted.form == "inspect":
        from diffbench.outlets.inspect_log import inspect_log

        return inspect_log(source)
    from diffbench.outlets.neuronpedia import neuronpedia

    if wanted.model_id is None or wanted.top is None:
        raise OptionError("neuronpedia: --model-id MODEL and --top N say which model's vectors, and how many of a Diff")
    return neuronpedia(source, wanted.model_id, wanted.top)
