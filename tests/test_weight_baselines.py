"""Baselines on weights: planted differences are found, add up to the whole, and name every parameter once."""

from __future__ import annotations

import copy
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import LAYERS, WIDTH
from pair_factory import MODELS, TARGETS, Folder, adapter, full, inputs, made_in, moved, open_pair, run, save
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffbench.adapter import WEIGHTS
from diffbench.diff import WeightDiff
from diffbench.exchange import assemble
from diffbench.method import NotApplicable
from diffbench.residual import load_model
from diffbench.weight_edit import WeightEdit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return made_in(tmp_path_factory)


def differences(path: Path) -> dict[str, Tensor]:
    """W_t - W_b of every parameter that differs, in float64, tied ones once."""
    reference, tuned = (dict(load_model(path / side).named_parameters()) for side in ("reference", "tuned"))
    return {
        name: weight.double() - reference[name].double()
        for name, weight in tuned.items()
        if not weight.equal(reference[name])
    }


def relative(path: Path) -> float:
    base = sum(float(w.double().square().sum()) for w in load_model(path / "reference").parameters())
    return sqrt(sum(float(delta.square().sum()) for delta in differences(path).values()) / base)


def added(diff: WeightDiff, module: str) -> Tensor:
    parts = zip(diff.modules, diff.sigma, diff.u, diff.v, strict=True)
    return sum(s.double() * torch.outer(u.double(), v.double()) for name, s, u, v in parts if name == module)  # type: ignore[return-value]


def in_modules(path: Path) -> dict[str, Tensor]:
    """[d_out, d_in]: the difference of every linear module with a matrix of its own that differs."""
    reference, tuned = load_model(path / "reference"), load_model(path / "tuned")
    embedding = tuned.get_input_embeddings().weight
    found = {}
    for name, module in tuned.named_modules():
        turned = type(module).__name__ == "Conv1D"
        if (isinstance(module, torch.nn.Linear) and module.weight is not embedding) or turned:
            delta = module.weight.double() - reference.get_submodule(name).weight.double()
            if delta.any():
                found[name] = delta.T if turned else delta
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_svd_components_add_up_to_the_whole_difference(kind: str, folder: Folder) -> None:
    path = folder(f"moved {kind}")
    diff = run("weight-svd", path, components=2000)
    expected = in_modules(path)
    assert set(diff.modules) == set(expected)
    for module, matrix in expected.items():
        torch.testing.assert_close(added(diff, module), matrix, rtol=0, atol=1e-6)
    every = torch.cat([torch.linalg.svdvals(matrix) for matrix in expected.values()])
    torch.testing.assert_close(
        diff.sigma.double(), every.sort(descending=True).values[: len(diff.sigma)], rtol=1e-5, atol=1e-6
    )
    assert diff.change_score == pytest.approx(relative(path))
    linear = float(sum(matrix.square().sum() for matrix in expected.values()))
    some = run("weight-svd", path, components=7)
    assert some.n_components == 7
    kept = float(every.sort(descending=True).values[:7].square().sum())
    assert some.notes["share_of_linear_modules"] == pytest.approx(kept / linear, rel=1e-5)
    assert some.change_score == diff.change_score


@pytest.mark.parametrize(
    ("kind", "module"), [("gpt2", "transformer.h.1.mlp.c_proj"), ("llama", "model.layers.1.mlp.down_proj")]
)
def test_a_planted_difference_of_rank_two_is_found(kind: str, module: str, tmp_path: Path) -> None:
    reference = MODELS[kind]()
    tuned = copy.deepcopy(reference)
    weight = tuned.get_submodule(module).weight
    generator = torch.Generator().manual_seed(0)
    d_in = weight.numel() // WIDTH
    u, v = (torch.linalg.qr(torch.randn(d, 2, generator=generator).double())[0] for d in (WIDTH, d_in))
    planted = (u * torch.tensor([0.5, 0.2])) @ v.T
    weight += (planted.T if kind == "gpt2" else planted).float()
    path = full(tmp_path, reference, tuned)
    diff = run("weight-svd", path)
    assert diff.modules == (module, module)
    torch.testing.assert_close(diff.sigma, torch.tensor([0.5, 0.2]), rtol=1e-5, atol=0)
    torch.testing.assert_close(added(diff, module), planted, rtol=0, atol=1e-6)
    pair = open_pair(path)
    for component, finding in enumerate(diff.findings):
        assert (finding.module, finding.layer, finding.component) == (module, 1, component)
        [(up, down)] = pair.logit_lens(diff.u[component][None])
        assert (finding.tokens_up, finding.tokens_down) == (tuple(up), tuple(down)) and up
    x = torch.randn(4, d_in)
    outputs = [model.get_submodule(module)(x) for model in (reference, tuned)]
    activity = diff.sigma * (x @ torch.stack(diff.v).T)
    torch.testing.assert_close(outputs[1] - outputs[0], activity @ torch.stack(diff.u), rtol=1e-4, atol=1e-5)


def test_components_may_be_ordered_by_relative_size(folder: Folder) -> None:
    path = folder("moved llama")
    reference = load_model(path / "reference")
    diff = run("weight-svd", path, components=40, relative=True)
    sizes = [
        float(s) / float(reference.get_submodule(m).weight.norm())
        for s, m in zip(diff.sigma, diff.modules, strict=True)
    ]
    assert [finding.score for finding in diff.findings] == pytest.approx(sizes, rel=1e-5)
    expected = torch.cat(
        [torch.linalg.svdvals(m) / reference.get_submodule(name).weight.norm() for name, m in in_modules(path).items()]
    )
    assert sizes == pytest.approx(expected.sort(descending=True).values[:40].tolist(), rel=1e-5)
    assert sorted(diff.sigma.tolist(), reverse=True) != diff.sigma.tolist()


@pytest.mark.parametrize("kind", MODELS)
def test_lora_directions_are_those_of_the_merged_difference(kind: str, folder: Folder) -> None:
    path = folder(f"adapter {kind}")
    diff, whole = run("lora-directions", path), run("weight-svd", path)
    expected = in_modules(path)
    assert set(diff.modules) == set(expected)
    for module, matrix in expected.items():
        assert diff.modules.count(module) == 3  # the rank
        torch.testing.assert_close(added(diff, module), matrix, rtol=0, atol=1e-6)
        ranks = diff.sigma[[name == module for name in diff.modules]]
        torch.testing.assert_close(ranks.double(), torch.linalg.svdvals(matrix)[:3], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(diff.sigma, whole.sigma[: len(diff.sigma)], rtol=1e-4, atol=1e-6)
    assert len(whole.sigma) == len(diff.sigma)  # what rounding makes of the merged weights is no component
    assert diff.change_score == pytest.approx(relative(path), rel=1e-4)
    assert diff.notes["share_of_adapter"] == pytest.approx(1.0)
    assert run("lora-directions", path, components=2).n_components == 2
    assert any(finding.tokens_up for finding in diff.findings)


def test_an_adapter_against_its_control_is_the_difference_of_the_two(tmp_path: Path) -> None:
    base = save(MODELS["llama"](), tmp_path / "base")
    one, other = (adapter(base, tmp_path / f"adapter{seed}", TARGETS["llama"], seed=seed) for seed in (1, 2))
    path = inputs(tmp_path / "one", base, one)  # text and activations alone are taken from here
    path = assemble(tmp_path / "in", other, one, tmp_path / "one-prepared", base)
    diff = run("lora-directions", path)
    for module, matrix in in_modules(path).items():
        assert diff.modules.count(module) == 6
        torch.testing.assert_close(added(diff, module), matrix, rtol=0, atol=1e-6)
    assert diff.change_score == pytest.approx(relative(path), rel=1e-4)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "no plain LoRA: it holds .*lora_magnitude_vector"),
        ({"modules_to_save": ["gate_proj"]}, "no plain LoRA: it holds .*gate_proj"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "no plain LoRA: it holds .*lora_embedding_A"),
    ],
)
def test_what_is_no_plain_lora_is_not_applicable(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    base = save(MODELS["llama"](), tmp_path / "base")
    tuned = adapter(
        base,
        tmp_path / "adapter",
        **({"targets": TARGETS["llama"]} | {"targets": config.pop("target_modules", ["q_proj"])} | config),
    )
    with pytest.raises(NotApplicable, match=reason):
        run("lora-directions", inputs(tmp_path / "in", base, tuned))


def test_full_fine_tunes_and_foreign_references_have_no_adapter(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="is a whole model and no adapter"):
        run("lora-directions", folder("moved llama"))
    base, other = save(MODELS["llama"](), tmp_path / "base"), save(moved(MODELS["llama"]()), tmp_path / "other")
    tuned = adapter(base, tmp_path / "adapter", TARGETS["llama"])
    inputs(tmp_path / "first", base, tuned)
    path = assemble(tmp_path / "in", other, tuned, tmp_path / "first-prepared", base)
    with pytest.raises(NotApplicable, match="belongs on another model than the reference"):
        run("lora-directions", path)


def test_scales_of_stabilised_and_patterned_adapters(tmp_path: Path) -> None:
    base = save(MODELS["llama"](), tmp_path / "base")
    tuned = adapter(
        base,
        tmp_path / "adapter",
        TARGETS["llama"],
        use_rslora=True,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"down_proj": 8},
    )
    path = inputs(tmp_path / "in", base, tuned)
    scales = {part.module.rpartition(".")[2]: (part.scale, len(part.a)) for part in open_pair(path).adapter()}
    assert scales == {"q_proj": (pytest.approx(5 / sqrt(2)), 2), "down_proj": (pytest.approx(8 / sqrt(3)), 3)}
    diff = run("lora-directions", path)
    for module, matrix in in_modules(path).items():
        torch.testing.assert_close(added(diff, module), matrix, rtol=0, atol=1e-5)


def test_an_adapter_that_does_nothing_is_no_change(tmp_path: Path) -> None:
    base = save(MODELS["llama"](), tmp_path / "base")
    tuned = adapter(base, tmp_path / "adapter", TARGETS["llama"])
    stored = load_file(tuned / WEIGHTS)
    save_file({name: w * (0 if "lora_B" in name else 1) for name, w in stored.items()}, tuned / WEIGHTS)
    diff = run("lora-directions", inputs(tmp_path / "in", base, tuned))
    assert (diff.verdict, diff.n_components, diff.change_score, diff.findings) == ("unchanged", 0, 0.0, ())


def test_a_tied_unembedding_has_no_directions_of_its_own(tmp_path: Path) -> None:
    base = save(MODELS["tied-llama"](), tmp_path / "base")
    path = inputs(tmp_path / "in", base, adapter(base, tmp_path / "adapter", ["q_proj", "lm_head"]))
    with pytest.raises(NotApplicable, match="changes lm_head, which has no matrix of its own in the reference"):
        run("lora-directions", path)
    for name in ("weight-svd", "task-arithmetic", "layer-stitching"):
        with pytest.raises(NotApplicable, match=r"lm_head.weight: the reference has none, the tuned model has one"):
            run(name, path)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["lora-directions", "weight-svd", "task-arithmetic", "layer-stitching"])
def test_all_components_make_the_reference_the_tuned_model(name: str, kind: str, folder: Folder) -> None:
    path = folder(f"adapter {kind}")
    diff = run(name, path)
    reference, tuned = load_model(path / "reference"), load_model(path / "tuned")
    ids = torch.arange(1, 30)[None]
    before, after = reference(ids).logits, tuned(ids).logits
    with WeightEdit(diff, reference, tuned).applied(reference):
        torch.testing.assert_close(reference(ids).logits, after, rtol=1e-4, atol=1e-4)
    assert float((before - after).abs().max()) > 0.1


@pytest.mark.parametrize("what", ["moved", "adapter"])
@pytest.mark.parametrize("kind", MODELS)
def test_whole_components_name_every_parameter_that_differs_once(what: str, kind: str, folder: Folder) -> None:
    path = folder(f"{what} {kind}")
    expected = differences(path)
    task, stitched = run("task-arithmetic", path, scale=2.5), run("layer-stitching", path)
    assert task.sigma.tolist() == [2.5] and set(task.parameters[0]) == set(expected)
    named = [name for names in stitched.parameters for name in names]
    assert len(task.parameters[0]) == len(named) == len(expected) and set(named) == set(expected)
    assert set(stitched.sigma.tolist()) == {1.0}
    assert task.change_score == stitched.change_score == pytest.approx(relative(path))


@pytest.mark.parametrize("kind", MODELS)
def test_layers_are_stitched_from_below(kind: str, folder: Folder) -> None:
    path = folder(f"moved {kind}")
    diff = run("layer-stitching", path)
    assert diff.order is None and diff.n_components == LAYERS + 1
    blocks, below, above = {
        "gpt2": (
            "transformer.h.",
            {"transformer.wte.weight", "transformer.wpe.weight"},
            {"transformer.ln_f.weight", "transformer.ln_f.bias"},
        ),
        "llama": ("model.layers.", {"model.embed_tokens.weight"}, {"model.norm.weight", "lm_head.weight"}),
        "tied-llama": ("model.layers.", {"model.embed_tokens.weight"}, {"model.norm.weight"}),
    }[kind]
    for layer, names in enumerate(diff.parameters[:-1]):
        inside = {name for name in names if name.startswith(f"{blocks}{layer}.")}
        assert len(inside) > 5 and set(names) - inside == (below if layer == 0 else set())
    assert set(diff.parameters[-1]) == above
    reference, deltas = dict(load_model(path / "reference").named_parameters()), differences(path)
    for finding in diff.findings:
        names = diff.parameters[finding.component]
        size = sqrt(
            sum(float(deltas[n].square().sum()) for n in names)
            / sum(float(reference[n].double().square().sum()) for n in names)
        )
        assert finding.score == pytest.approx(size) and finding.layer == min(finding.component, LAYERS - 1)


def test_stitching_all_layers_gives_the_tuned_model(folder: Folder) -> None:
    path = folder("moved gpt2")
    reference, tuned = load_model(path / "reference"), load_model(path / "tuned")
    deltas, parameters = differences(path), dict(reference.named_parameters())
    ids = torch.arange(1, 20)[None]
    distances = []
    for names in run("layer-stitching", path).parameters:
        for name in names:
            parameters[name] += deltas[name].float()
        distances.append(float((reference(ids).logits - tuned(ids).logits).abs().max()))
    assert distances[-1] < 1e-5 < min(distances[:-1])


def test_a_change_outside_every_matrix_is_a_change_without_components(folder: Folder) -> None:
    path = folder("biased")
    diff = run("weight-svd", path)
    assert (diff.verdict, diff.n_components, diff.findings) == ("changed", 0, ())
    assert diff.change_score == pytest.approx(relative(path)) and diff.notes["share_of_all_parameters"] == 0
    assert run("task-arithmetic", path).parameters == run("layer-stitching", path).parameters == (("lm_head.bias",),)
