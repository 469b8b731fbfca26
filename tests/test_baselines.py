"""What all cheap baselines have in common, and the mean difference by position against a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_factory import WIDTH
from pair_factory import Folder, made_in, open_pair, run
from torch import Tensor

from diffbench.diff import DirectionDiff
from diffbench.edit import Streams, edit_of
from diffbench.plugins import load_plugins

OPTIONS: dict[str, dict[str, Any]] = {
    "activation-difference-lens": {},
    "contrastive-sampling": {"prompts": 60},
    "layer-stitching": {},
    "logit-diff-mining": {},
    "perplexity-differencing": {"prompts": 60},
    "task-arithmetic": {},
    "token-kl": {},
    "weight-svd": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return made_in(tmp_path_factory)


def test_all_baselines_are_marked_and_nothing_else_is() -> None:
    marked = {name for name, method in load_plugins().methods.items() if method.baseline}
    assert marked == {*OPTIONS, "lora-directions", "mean-difference", "pca"}


@pytest.mark.parametrize("kind", ["gpt2", "tied-llama"])
@pytest.mark.parametrize("name", OPTIONS)
def test_equal_models_are_unchanged(name: str, kind: str, folder: Folder) -> None:
    diff = run(name, folder(f"equal {kind}"), **OPTIONS[name])
    assert (diff.verdict, diff.change_score, diff.findings) == ("unchanged", 0.0, ())
    assert diff.n_components == (1 if diff.kind == "output" else 0)


@pytest.mark.parametrize("kind", ["gpt2", "tied-llama"])
@pytest.mark.parametrize("name", OPTIONS)
def test_different_models_are_changed_and_a_seed_says_all(name: str, kind: str, folder: Folder) -> None:
    first, again = (run(name, folder(f"moved {kind}"), seed=3, **OPTIONS[name]) for _ in range(2))
    assert first.verdict == "changed" and first.change_score > 0 and first.findings
    assert (first.findings, first.change_score) == (again.findings, again.change_score)


@pytest.mark.parametrize("everywhere", [False, True])
def test_means_by_position_are_those_of_a_loop(everywhere: bool, folder: Folder) -> None:
    path = folder("moved gpt2")
    pair = open_pair(path)
    rows = pair.activations()
    base, delta = (part.double() for part in rows.load())
    expected: dict[int, Tensor] = {}
    sizes = {}
    for position in (1, 2, 3):  # 0 is the BOS
        chosen = [i for i in range(len(rows)) if int(rows.position[i]) == position]
        total = torch.zeros(WIDTH, dtype=torch.float64)
        for i in chosen:
            total += delta[i]
        expected[position] = total / len(chosen)
        sizes[position] = float(expected[position].norm()) / (sum(float(base[i].norm()) for i in chosen) / len(chosen))
    if everywhere:
        expected[-1] = delta.mean(dim=0)
    diff = run("activation-difference-lens", path, positions=3, everywhere=everywhere)
    assert isinstance(diff, DirectionDiff) and diff.constant is not None and diff.positions is not None
    assert sorted(diff.positions.tolist()) == sorted(expected)
    assert diff.constant.tolist() == sorted(diff.constant.tolist(), reverse=True)
    for position, constant, direction in zip(diff.positions.tolist(), diff.constant, diff.directions, strict=True):
        torch.testing.assert_close(constant * direction, expected[position].float(), rtol=1e-5, atol=1e-6)
    assert diff.change_score == pytest.approx(sum(sizes.values()) / 3)
    for finding in diff.findings:
        [(up, down)] = pair.logit_lens(diff.directions[finding.component][None])
        assert (finding.tokens_up, finding.tokens_down) == (tuple(up), tuple(down)) and up
    edit = edit_of(diff)
    assert edit is not None
    places = torch.tensor([0, 1, 2, 3, 4])
    found = edit.full(Streams(h_b=torch.zeros(5, WIDTH), h_t=torch.randn(5, WIDTH), position=places))
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    wanted = torch.stack([expected.get(int(p), zero) + expected.get(-1, zero) for p in places])
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-6)
