"""The other libraries load what diffbench exports, and diffbench what they save; both compute the same.

They do not fit into one environment with diffbench. ``DIFFBENCH_PEERS`` names the Python of an environment that has
``sae-lens`` and ``dictionary-learning`` (several separated by ':'); without it only what is installed here is run. ::

    python3 -m venv peers && peers/bin/pip install torch==2.13.0 sae-lens dictionary-learning
    DIFFBENCH_PEERS=peers/bin/python pytest tests/test_formats_peers.py

A torchvision that does not fit the installed torch keeps sae-lens from being imported; nothing here needs it.
Crosscoders come from a checkout of crosscoder_learning, whose module has the same name as dictionary-learning's and so
needs an environment of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import dictionary_diff
from format_files import LAYER, D, N, rows
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench.dictionary import encode, reconstruction
from diffbench.diff import DictionaryDiff
from diffbench.formats import read_dictionary, write_dictionary

SCRIPT = Path(__file__).parent / "peers" / "check_formats.py"
INSTALLED = [sys.executable] if any(map(importlib.util.find_spec, ("sae_lens", "dictionary_learning"))) else []
PEERS = [python for python in os.environ.get("DIFFBENCH_PEERS", "").split(os.pathsep) if python] or INSTALLED
ARCHITECTURES = {"relu": "standard", "threshold": "jumprelu", "topk": "topk"}
SAVED = {
    "saelens": (
        "standard",
        "standard plain",
        "jumprelu",
        "jumprelu plain",
        "topk",
        "rescaled",
        "batchtopk",
        "topk trained",
    ),
    "dictionary_learning": (
        "StandardTrainer",
        "BatchTopKTrainer",
        "TopKTrainer",
        "JumpReluTrainer",
        "MatryoshkaBatchTopKTrainer",
        "AutoEncoderNew",
    ),
    "crosscoder_learning": (
        *(
            f"BatchTopKCrossCoder {norm}"
            for norm in ("CROSSCODER", "SAE", "MIXED", "NONE", "CROSSCODER raw", "SAE raw")
        ),
        "CrossCoder CROSSCODER",
        "CrossCoder NONE raw",
        "BatchTopKSAE -",
        "BatchTopKSAE - raw",
    ),
}


def exported(input: str, activation: str) -> DictionaryDiff:
    diff = dictionary_diff(input, activation, n=N, d=D, layer=LAYER)
    return replace(diff, threshold=None if diff.threshold is None else diff.threshold.abs() + 0.05)


def share(gap: Tensor, of: Tensor) -> float:
    """The largest difference in units of the largest value."""
    return float(gap.max() / of.abs().max())


@pytest.mark.skipif(not PEERS, reason="DIFFBENCH_PEERS names no Python that has the other libraries")
@pytest.mark.parametrize("python", PEERS)
def test_other_libraries_compute_the_same(python: str, tmp_path: Path) -> None:
    h_b, h_t = rows()
    save_file({"one": h_t, "both": torch.stack([h_b, h_t], dim=1)}, tmp_path / "x.safetensors")
    plan: list[dict[str, str]] = []
    ours: dict[str, tuple[Tensor, Tensor]] = {}
    for activation, architecture in ARCHITECTURES.items():
        diff, name = exported("tuned", activation), f"saelens-{activation}"
        write_dictionary(diff, tmp_path / name, "saelens")
        ours[name] = encode(diff, h_b, h_t), reconstruction(diff, h_b, h_t)[1]
        plan.append({"library": "saelens", "action": "load", "kind": architecture, "folder": name})
    for activation, kind in (("relu", "CrossCoder"), ("threshold", "BatchTopKCrossCoder")):
        diff, name = exported("both", activation), f"crosscoder-{activation}"
        write_dictionary(diff, tmp_path / name, "crosscoder-learning")
        unit = torch.ones(N) if diff.threshold is None else diff.threshold
        ours[name] = encode(diff, h_b, h_t) / unit, reconstruction(diff, h_b, h_t)[1]
        plan.append({"library": "crosscoder_learning", "action": "load", "kind": kind, "folder": name})
    for library, kinds in SAVED.items():
        for index, kind in enumerate(kinds):
            plan.append({"library": library, "action": "save", "kind": kind, "folder": f"{library}-{index}"})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    run = subprocess.run([python, SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=500)
    assert run.returncode == 0, run.stderr[-4000:]
    done = {case["folder"]: case["version"] for case in json.loads((tmp_path / "done.json").read_text())}
    assert done, f"{python} has none of the libraries"
    for case in plan:
        name = case["folder"]
        if name not in done:
            continue
        if case["action"] == "save":
            ours[name] = imported(tmp_path / name, case, h_b, h_t)
        theirs = load_file(tmp_path / f"{name}.safetensors")
        assert float((theirs["f"] > 0).double().mean()) > 0.02, f"{case}: a test of nothing"
        gap = (ours[name][0] - theirs["f"]).abs()
        kept = gap.amax(dim=1) < 0.02  # elsewhere a threshold or a tie was decided otherwise in the last digit
        hat = (ours[name][1] - theirs["hat"].flatten(1)).abs()[kept]
        print(  # noqa: T201
            f"{case['library']} {done[name]}, {case['action']} {case['kind']}: largest difference of f "
            f"{gap[kept].max():.1e} of {theirs['f'].max():.3g}, of the reconstruction {hat.max():.1e} of "
            f"{theirs['hat'].abs().max():.3g}, other decisions in {int((~kept).sum())} of {len(kept)} rows"
        )
        assert share(gap[kept], theirs["f"]) < 2e-6 and share(hat, theirs["hat"]) < 2e-6, case
        assert float(kept.double().mean()) > 0.98, case


def imported(folder: Path, case: dict[str, str], h_b: Tensor, h_t: Tensor) -> tuple[Tensor, Tensor]:
    arguments: dict[str, Any] = {"input": "tuned"}
    if case["library"] == "crosscoder_learning":
        arguments = {"layer": LAYER} | (arguments if case["kind"].startswith("BatchTopKSAE") else {})
    diff = read_dictionary(folder, **arguments)
    assert diff.layer == LAYER
    return encode(diff, h_b, h_t), reconstruction(diff, h_b, h_t)[1]
