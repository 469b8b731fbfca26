"""Scoring: one dictionary on one organism with everything cached, attribution of many directions, a large vocabulary.

Each is measured in a process of its own with one thread, because memory is counted from that process's start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.grid_time import ORGANISM, WARMING, GridFailed, run
from benchmarks.lines import Goal, Line, Part
from benchmarks.settings import Settings
from diffbench.errors import RecordError
from diffbench.run_folder import read_run

METHOD = "diff-sae"
SCORE_GOAL, ATTRIBUTION_GOAL, MEMORY_GOAL = 20.0, 1.0, float(1 << 30)
"""Seconds, seconds, bytes over the models."""
DIRECTIONS, WORDS = 2048, 256_000

ATTRIBUTION = """
import json, time, torch
from diffbench.attribution import attribute
from diffbench.corpus import tokenise
from diffbench.diff import DirectionDiff
from diffbench.plugins import find_base
from diffbench.residual import load_model, load_tokenizer, width
from diffbench.text import Document
torch.set_num_threads(1)
folder = find_base("tinyworld")().path()
reference, tuned = load_model(folder), load_model(folder)
torch.manual_seed(0)
for parameter in tuned.parameters():
    parameter += 0.01 * torch.randn_like(parameter)
text = next(find_base("tinyworld")().documents(0))
corpus = tokenise([Document(text.text)], load_tokenizer(folder))
d = width(tuned)
directions = torch.nn.functional.normalize(torch.randn(%d, d), dim=1)
diff = DirectionDiff(layer=2, directions=directions, centre=torch.zeros(d), bias=torch.zeros(d))
where = torch.zeros_like(corpus.predicts)
where[0, int(corpus.last[0]) - 1] = True
attribute(diff, reference, tuned, corpus, where)
started = time.perf_counter()
found = attribute(diff, reference, tuned, corpus, where)
print(json.dumps({"seconds": time.perf_counter() - started, "finite": bool(found.isfinite().all())}))
"""

MEMORY = """
import copy, json, resource, torch
from transformers import LlamaConfig, LlamaForCausalLM
from diffbench.causal import sweep
from diffbench.corpus import Corpus
from diffbench.patching import Arm, none, true_delta
torch.set_num_threads(1)
config = LlamaConfig(vocab_size=%d, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True)
reference = LlamaForCausalLM(config).eval().requires_grad_(False)
tuned = copy.deepcopy(reference)
for block in tuned.model.layers:
    for parameter in block.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
shape = (1, 512)
mask = torch.ones(shape, dtype=torch.bool)
counts = mask.clone()
counts[:, 0] = False
predicts = counts.clone()
predicts[:, -1] = False
codes = torch.zeros(shape, dtype=torch.int8)
ids = torch.randint(0, config.vocab_size, shape)
text = Corpus(ids=ids, mask=mask, counts=counts, predicts=predicts, stratum=codes, part=codes)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arms = {"none": Arm(0, none), "model": Arm(0, true_delta, "model")}
arms["without"] = Arm(0, true_delta, "without", "reference")
kl = sweep(reference, tuned, text, arms).kl
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"bytes": 1024 * (peak - before), "kl": kl["none"].mean()}))
"""


def measure(settings: Settings) -> Part:
    """Seconds of scoring, seconds of attribution, bytes at a large vocabulary."""
    lines, raw = _cell(settings)
    for what, source, key, unit, goal in (
        (
            f"attribution of {DIRECTIONS} directions at one context, tinyworld",
            ATTRIBUTION % DIRECTIONS,
            "seconds",
            "s",
            ATTRIBUTION_GOAL,
        ),
        (f"peak over the models of a sweep, vocabulary {WORDS:,}", MEMORY % WORDS, "bytes", "B", MEMORY_GOAL),
    ):
        found = _alone(source)
        raw[what] = found
        if isinstance(found, str):
            lines.append(Line("score", what, state=found))
        else:
            value = float(found[key])
            lines.append(Line("score", what, ours=value, unit=unit, ratio=value / goal, goal=Goal(most=1)))
    return Part(lines, raw)


def _cell(settings: Settings) -> tuple[list[Line], dict[str, Any]]:
    """Scoring seconds of a cell whose organism, comparison and judge's control are cached."""
    what = f"scoring {METHOD} on {ORGANISM}, one core"
    tier = ["--tier", "smoke"] if settings.quick else []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            run(Path(folder), "warm", [WARMING], tier)
            run(Path(folder), "timed", [METHOD], [*tier, "--jobs", "1"])
            [record] = read_run(Path(folder) / "timed").records
        except (GridFailed, RecordError) as error:
            return [Line("score", what, state=str(error))], {}
    seconds = record.timings.score_seconds
    line = Line("score", what, ours=seconds, unit="s", ratio=seconds / SCORE_GOAL, goal=Goal(most=1), against="20 s")
    return [line], {"record": record.timings.model_dump()}


def _alone(source: str) -> dict[str, Any] | str:
    """What a script prints, or the last line of its complaint."""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
