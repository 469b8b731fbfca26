"""Neuronpedia: directions of Diffs as steering vectors, each in the form that its upload takes.

A line of ``vectors.jsonl`` is the body of one ``POST https://www.neuronpedia.org/api/vector/new`` as of August 2026
(commit ebb8426f; the same fields as `NPVector.new` of the client 2.0.0): ``modelId``, ``layerNumber``, ``hookType``,
``vector``, ``vectorDefaultSteerStrength``, ``vectorLabel``. ``vectors.index.json`` says where each comes from. Nothing
is uploaded.

A vector has the unit norm; the index keeps the norm it had: of a dictionary what one unit of a latent adds (two
decoders: tuned minus base), of directions the direction.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from diffbench.errors import DiffError, OptionError, RecordError
from diffbench.line import one_line
from diffbench.outlets.folder import ExportedFile
from diffbench.outlets.source import Source
from diffbench.record import Record
from diffbench.result import RunResult
from diffbench.truth import Schema

if TYPE_CHECKING:
    from torch import Tensor

    from diffbench.diff import DictionaryDiff, DirectionDiff

WIDEST = 24_576
WIDTHS = {
    "gpt2-small": 768,
    "pythia-70m-deduped": 512,
    "gemma-2b": 2048,
    "gemma-2b-it": 2048,
    "gemma-2-2b": 2304,
    "gemma-2-2b-it": 2304,
    "gemma-2-9b": 3584,
    "gemma-2-9b-it": 3584,
    "llama3.1-8b": 4096,
}
"""Of the residual streams of some models, by their names on Neuronpedia."""
logger = logging.getLogger(__name__)
STRENGTH, STRONGEST = 10.0, 100.0
LONGEST_LABEL = 200
MODEL_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
WORDS = 5
"""Tokens of either kind in a label."""
FORMAT = "POST /api/vector/new of neuronpedia.org, August 2026"


class SteeringVector(Schema):
    """The body of one upload, under the names that Neuronpedia has."""

    modelId: str = Field(pattern=f"^{MODEL_ID}$")
    layerNumber: int = Field(ge=0)
    hookType: str = "hook_resid_post"
    vector: tuple[float, ...] = Field(min_length=1, max_length=WIDEST)
    vectorDefaultSteerStrength: float = Field(STRENGTH, ge=-STRONGEST, le=STRONGEST)
    vectorLabel: str = Field(min_length=1, max_length=LONGEST_LABEL)


def neuronpedia(source: Source, model_id: str, top: int, strength: float = STRENGTH) -> Iterator[ExportedFile]:
    """The first directions of every Diff that has any, most important first.

    Args:
        source: what is exported.
        model_id: of the model on Neuronpedia that the vectors are for.
        top: vectors of each Diff.
        strength: default steering strength, of a vector of unit norm.

    Raises:
        OptionError: for a model, a number or a strength that Neuronpedia does not take, or a model whose residual
            stream is known to have another width than the vectors.
        DiffError: if a vector that is asked for is not finite, or zero.
        RecordError: if no Diff there has directions, or a Diff is missing or not what was scored.
    """
    if not re.fullmatch(MODEL_ID, model_id):
        raise OptionError(f"--model-id {model_id!r}: write the model's name on Neuronpedia, such as gemma-2-2b")
    if top < 1 or not -STRONGEST <= strength <= STRONGEST:
        raise OptionError(f"--top: at least 1, got {top}; --strength: from -{STRONGEST:g} to {STRONGEST:g}")
    bodies: list[str] = []
    entries: list[dict[str, Any]] = []
    done: set[str] = set()
    for run in source.runs:
        result = RunResult.of(run)
        for record in run.records:
            if record.status != "ok" or record.key in done:
                continue
            done.add(record.key)
            for component, layer, vector, text in _directions(result, record, top):
                unit, norm = _unit(record, component, vector)
                _check_width(model_id, record, len(unit))
                body = SteeringVector(
                    modelId=model_id,
                    layerNumber=layer,
                    vector=unit,
                    vectorDefaultSteerStrength=strength,
                    vectorLabel=_label(record, component, text),
                )
                bodies.append(body.model_dump_json())
                entries.append(_entry(record, component, norm, body))
    for note in dict.fromkeys(entry["note"] for entry in entries):
        logger.warning("%s", note)
    if not bodies:
        raise RecordError("no finished cell there keeps a DictionaryDiff or a DirectionDiff; its run folder is needed")
    yield ExportedFile("vectors.jsonl", "".join(f"{body}\n" for body in bodies).encode())
    index = {"format": FORMAT, "vectors": entries}
    yield ExportedFile("vectors.index.json", (json.dumps(index, indent=1, ensure_ascii=True) + "\n").encode())


def _check_width(model_id: str, record: Record, width: int) -> None:
    if (known := WIDTHS.get(model_id, width)) != width:
        name = one_line(f"{record.cell.organism} {record.cell.row} s{record.cell.seed}", 200)
        raise OptionError(f"--model-id {model_id}: its residual stream has width {known}, and {name} {width}")


def _directions(result: RunResult, record: Record, top: int) -> Iterator[tuple[int, int, Tensor, str]]:
    """Component, layer, vector [d] and words of the first components of a Diff; none of one without directions."""
    from diffbench.dictionary import difference_decoder
    from diffbench.diff import DictionaryDiff, DirectionDiff, order_of

    diff = result.diff_of(record)
    if not isinstance(diff, DictionaryDiff | DirectionDiff):
        return
    words = _words(diff)
    vectors = difference_decoder(diff) if isinstance(diff, DictionaryDiff) else diff.directions
    for component in order_of(diff)[:top].tolist():
        yield component, diff.layer, vectors[component], words.get(component, "")


def _words(diff: DictionaryDiff | DirectionDiff) -> dict[int, str]:
    """What is said of a component: the method's own text, or the tokens it moves."""
    found: dict[int, str] = {}
    for finding in diff.findings:
        sides = ((sign, tokens[:WORDS]) for sign, tokens in (("+", finding.tokens_up), ("-", finding.tokens_down)))
        moved = "; ".join(f"{sign} {' '.join(tokens)}" for sign, tokens in sides if tokens)
        found.setdefault(finding.component, finding.text or moved)
    return found


def _unit(record: Record, component: int, vector: Tensor) -> tuple[tuple[float, ...], float]:
    """A vector of unit norm, and the norm that it had."""
    norm = float(vector.double().norm())
    if not 0 < norm < float("inf"):
        name = one_line(f"{record.cell.organism} {record.cell.row} s{record.cell.seed}", 200)
        raise DiffError(f"{name}: component {component}: its vector is {'zero' if norm == 0 else 'not finite'}")
    return tuple(float(f"{value:.9g}") for value in (vector.double() / norm).tolist()), norm


def _label(record: Record, component: int, text: str) -> str:
    label = f"{record.cell.row} {component} on {record.cell.organism}" + (f": {text}" if text else "")
    return one_line(label, LONGEST_LABEL)


def _entry(record: Record, component: int, norm: float, body: SteeringVector) -> dict[str, Any]:
    cell = record.cell
    return {
        "label": body.vectorLabel,
        "organism": one_line(cell.organism),
        "reference": cell.reference,
        "method": one_line(cell.row),
        "seed": cell.seed,
        "component": component,
        "hook": f"blocks.{body.layerNumber}.{body.hookType}",
        "width": len(body.vector),
        "base": record.hashes.base,
        "note": f"width {len(body.vector)}, of the pair {one_line(cell.organism, 80)} (base model "
        f"{record.hashes.base[:12]}); nobody checked that it is a vector of {body.modelId}",
        "norm": float(f"{norm:.9g}"),
        "record": record.key,
    }
