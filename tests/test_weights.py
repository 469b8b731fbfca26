"""The parameters of two models side by side: each once, in the orientation in which a module computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import LAYERS, WIDTH, labelled_corpus, word_tokenizer
from pair_factory import MODELS, full, moved, open_pair

from diffbench.errors import CheckpointError
from diffbench.lens import Lens
from diffbench.weights import (
    EXACT_BELOW,
    factored_parts,
    layer_of,
    principal_parts,
    read_out,
    weight_changes,
)


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_comes_once(kind: str) -> None:
    reference = MODELS[kind]()
    tuned = moved(reference)
    changes = list(weight_changes(reference, tuned))
    assert [change.name for change in changes] == [name for name, _ in tuned.named_parameters()]
    both = dict(reference.named_parameters()), dict(tuned.named_parameters())
    for change in changes:
        assert change.changed
        torch.testing.assert_close(change.delta, both[1][change.name].double() - both[0][change.name].double())
    assert not any(change.changed for change in weight_changes(reference, copy.deepcopy(reference)))


@pytest.mark.parametrize("kind", MODELS)
def test_a_matrix_is_what_a_module_computes_with(kind: str) -> None:
    reference = MODELS[kind]()
    tuned = moved(reference)
    matrices = {change.module: change.matrix for change in weight_changes(reference, tuned) if change.module}
    per_block = {"gpt2": 4, "llama": 7, "tied-llama": 7}[kind]
    assert len(matrices) == per_block * LAYERS + (kind == "llama")
    assert ("lm_head" in matrices) == (kind == "llama")  # a tied one is no matrix of its own
    for name, matrix in matrices.items():
        x = torch.randn(5, matrix.shape[1])
        zero = torch.zeros_like(x)
        outputs = [model.get_submodule(name)(x) - model.get_submodule(name)(zero) for model in (reference, tuned)]
        torch.testing.assert_close(outputs[1] - outputs[0], x @ matrix.float().T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_where_a_parameter_belongs(kind: str) -> None:
    reference = MODELS[kind]()
    changes = list(weight_changes(reference, reference))
    prefix = "transformer.h" if kind == "gpt2" else "model.layers"
    for change in changes:
        inside = change.name.startswith(prefix)
        assert change.layer == (int(change.name.removeprefix(f"{prefix}.").split(".")[0]) if inside else None)
        assert layer_of(reference, change.name) == change.layer
    embeddings = [change.name for change in changes if change.embedding]
    assert (
        embeddings
        == {
            "gpt2": ["transformer.wte.weight", "transformer.wpe.weight"],
            "llama": ["model.embed_tokens.weight"],
            "tied-llama": ["model.embed_tokens.weight"],
        }[kind]
    )


def test_models_of_other_parameters_are_refused() -> None:
    tied = MODELS["tied-llama"]()
    untied = copy.deepcopy(tied)
    untied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight + 1, requires_grad=False)
    shape = r"has one of shape \[45, 16\]"
    with pytest.raises(
        CheckpointError, match=f"weights: lm_head.weight: the reference has none, the tuned model {shape}"
    ):
        weight_changes(tied, untied)
    with pytest.raises(
        CheckpointError, match=f"weights: lm_head.weight: the reference {shape}, the tuned model has none"
    ):
        weight_changes(untied, tied)
    with pytest.raises(CheckpointError, match=f"embed_tokens.weight: the reference {shape}, the tuned model has none"):
        weight_changes(MODELS["llama"](), MODELS["gpt2"]())


def rebuilt(parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    u, sigma, v = parts
    return torch.einsum("no,n,ni->oi", u.double(), sigma.double(), v.double())


def check_parts(u: torch.Tensor, sigma: torch.Tensor, v: torch.Tensor, tolerance: float) -> None:
    n = len(sigma)
    for vectors in (u.double(), v.double()):
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(n).double(), atol=tolerance, rtol=0)
    assert bool((sigma[:-1] >= sigma[1:]).all())
    assert bool((u.gather(1, u.abs().argmax(dim=1, keepdim=True)) > 0).all())


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_singular_components_in_float64(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = principal_parts(matrix, 100)
    check_parts(*parts, 1e-12)
    torch.testing.assert_close(rebuilt(parts), matrix)
    torch.testing.assert_close(parts[1], torch.linalg.svdvals(matrix))
    some = principal_parts(matrix, 2)
    for found, expected in zip(some, parts, strict=True):
        assert torch.equal(found, expected[:2])


def test_large_matrices_are_decomposed_to_float32_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    d = EXACT_BELOW + 100
    left, right = (torch.linalg.qr(torch.randn(d, 6, generator=generator).double())[0] for _ in range(2))
    sizes = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.25]).double()
    matrix = (left * sizes) @ right.T + 1e-4 * torch.randn(d, d, generator=generator).double()
    torch.manual_seed(3)
    parts = principal_parts(matrix, 4)
    check_parts(*parts, 1e-4)
    torch.testing.assert_close(parts[1].double(), torch.linalg.svdvals(matrix)[:4], rtol=1e-4, atol=0)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(parts, principal_parts(matrix, 4), strict=True))


def test_factors_give_the_components_of_their_product() -> None:
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(9, 3, generator=generator), torch.randn(3, 7, generator=generator)
    parts, product = factored_parts(b, a), b.double() @ a.double()
    check_parts(*parts, 1e-12)
    torch.testing.assert_close(rebuilt(parts), product)
    whole = principal_parts(product, 3)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected)
    wide = factored_parts(torch.randn(4, 6, generator=generator), torch.randn(6, 5, generator=generator))
    check_parts(*wide, 1e-12)
    assert len(wide[1]) == 4


@pytest.mark.parametrize(
    ("kind", "writer"), [("gpt2", "transformer.h.1.mlp.c_proj"), ("llama", "model.layers.0.self_attn.o_proj")]
)
def test_only_what_can_be_read_is_read(kind: str, writer: str) -> None:
    model, text = MODELS[kind](), labelled_corpus(600)
    lens = Lens.of(model, word_tokenizer(), text)
    vector, logits = torch.randn(WIDTH), torch.randn(model.config.vocab_size)
    other = "transformer.h.1.attn.c_attn" if kind == "gpt2" else "model.layers.0.mlp.up_proj"
    size = model.get_submodule(other).weight.numel() // WIDTH
    found = read_out(model, lens, ["lm_head", other, writer], [logits, torch.randn(size), vector], 4)
    assert found[1] == ([], []) and found[2] == lens.read(vector[None], 4)[0]
    order = sorted(lens.seen.tolist(), key=lambda token: -float(logits[token]))
    assert found[0] == (lens.words(order[:4]), lens.words(order[::-1][:4]))
    with pytest.raises(CheckpointError, match="no module nowhere"):
        read_out(model, lens, ["nowhere"], [vector], 4)


def test_weights_by_name_hold_a_tied_one_once(tmp_path: Path) -> None:
    reference = MODELS["gpt2"]()
    pair = open_pair(full(tmp_path, reference, moved(reference)))
    weights: dict[str, Any] = pair.weights("reference")
    assert list(weights) == [name for name, _ in reference.named_parameters()]
    assert not {"lm_head.weight"} & set(weights)
