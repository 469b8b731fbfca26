"""Gauge: another basis, the same function, on every architecture that has a layout; everything else is refused."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from diffbench import gauge
from diffbench.errors import CheckpointError
from diffbench.gauge import LAYOUTS, TOLERANCE, regauge
from diffbench.plugins import find_base
from diffbench.residual import load_model, load_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2),
    "gpt_neo": GPTNeoConfig(
        vocab_size=50,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES),
}


def random_model(config: Any, seed: int = 0) -> Any:
    """A model whose every tensor, gains and biases included, differs from a constant."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def written(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    random_model(CONFIGS[name]).to(dtype).save_pretrained(folder)
    return folder


def norm64(norm: Any, x: torch.Tensor) -> torch.Tensor:
    gain = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * gain


@torch.inference_mode()
def exact(folder: Path) -> torch.Tensor:
    """Logits in float64 throughout: norms and softmax of the library itself go through float32."""
    model = load_model(folder).double()
    softmax = torch.nn.functional.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(norm64, module)
        ids = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(5))
        found: torch.Tensor = model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_function_is_the_same_and_every_matrix_another(name: str, tmp_path: Path) -> None:
    base = written(tmp_path / "base", name)
    off = regauge(base, tmp_path / "out", seed=1)
    assert off <= TOLERANCE
    before, after = exact(base), exact(tmp_path / "out")
    assert float(before.abs().max()) > 0.5
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert old.keys() == new.keys()
    # What has no axis in the stream and none of neurons stays: biases of queries and keys, norms within a head.
    same = {key for key in old if torch.equal(old[key], new[key])}
    assert all("q_norm" in key or "k_norm" in key or key.endswith("attn.bias") or "bias" in key for key in same)
    assert not any(key.endswith("proj.weight") or "embed" in key for key in same)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_norm_that_takes_the_mean_away_gets_no_signs(name: str, tmp_path: Path) -> None:
    base = written(tmp_path / "base", name)
    regauge(base, tmp_path / "out", seed=1)
    key = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}[name]
    old, new = (load_file(folder / "model.safetensors")[key] for folder in (base, tmp_path / "out"))
    signed = not torch.equal(old.sort(dim=1).values, new.sort(dim=1).values)
    assert signed == LAYOUTS[name].signs
    torch.testing.assert_close(old.abs().sort(dim=1).values, new.abs().sort(dim=1).values, rtol=0, atol=0)


def test_a_gauge_follows_from_its_seed(tmp_path: Path) -> None:
    base = written(tmp_path / "base", "llama")
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        regauge(base, tmp_path / name, seed)
        weights.append(load_file(tmp_path / name / "model.safetensors")["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_bfloat16_loses_no_digit(tmp_path: Path) -> None:
    base = written(tmp_path / "base", "gemma2", torch.bfloat16)
    regauge(base, tmp_path / "out", seed=3)
    new = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}
    torch.testing.assert_close(exact(tmp_path / "out"), exact(base), rtol=0, atol=1e-10)


def test_several_files_stay_several(tmp_path: Path) -> None:
    random_model(CONFIGS["llama"]).save_pretrained(tmp_path / "base", max_shard_size="8KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    regauge(tmp_path / "base", tmp_path / "out", seed=1)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in (tmp_path / "base").iterdir()}
    torch.testing.assert_close(exact(tmp_path / "out"), exact(tmp_path / "base"), rtol=0, atol=1e-10)


def test_tinyworld_in_another_gauge(tmp_path: Path) -> None:
    base = find_base("tinyworld")().path()
    off = regauge(base, tmp_path / "out", seed=0)
    assert off <= TOLERANCE
    assert load_model(tmp_path / "out").get_output_embeddings().weight is not None
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors"), "tied embeddings stay tied"
    assert load_tokenizer(tmp_path / "out").get_vocab() == load_tokenizer(base).get_vocab()


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    config = GPTJConfig(vocab_size=50, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"no gauge is known for 'gptj' models; known are gemma2, gpt2, gpt_neo,"):
        regauge(tmp_path / "base", tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def harm_tensor(base: Path) -> None:
    tensors = load_file(base / "model.safetensors") | {"model.layers.0.self_attn.sinks": torch.ones(2)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def harm_shape(base: Path) -> None:
    tensors = load_file(base / "model.safetensors") | {"model.norm.weight": torch.ones(15)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def harm_files(base: Path) -> None:
    (base / "model.safetensors").unlink()


def harm_config(base: Path) -> None:
    (base / "config.json").write_text("{")


def harm_quantised(base: Path) -> None:
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"bits": 4}}
    (base / "config.json").write_text(json.dumps(config))


def harm_half(base: Path) -> None:
    content = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (harm_tensor, "self_attn.sinks: no gauge is known for this tensor of llama"),
        (harm_shape, r"norm.weight: \(15,\) is no shape for llama"),
        (harm_files, "no safetensors here"),
        (harm_config, "cannot be read"),
        (harm_quantised, "a quantised model has no other gauge"),
        (harm_half, "cannot be read"),
    ],
)
def test_what_is_not_as_expected_is_refused_and_leaves_nothing(harm: Any, said: str, tmp_path: Path) -> None:
    base = written(tmp_path / "base", "llama")
    harm(base)
    with pytest.raises(CheckpointError, match=said) as refused:
        regauge(base, tmp_path / "out", seed=0)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_layout_that_does_not_hold_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer norm under signs is another function: what is written is compared before anybody gets it."""
    base = written(tmp_path / "base", "gpt2")
    wrong = gauge.Layout(True, LAYOUTS["gpt2"].outside, LAYOUTS["gpt2"].block)
    monkeypatch.setitem(LAYOUTS, "gpt2", wrong)
    with pytest.raises(CheckpointError, match="in another gauge its logits differ by"):
        regauge(base, tmp_path / "out", seed=0)
    shutil.rmtree(base)
    assert not list(tmp_path.iterdir())
