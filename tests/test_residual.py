"""Reading and replacing the residual stream, on every architecture of the same code path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import labelled_corpus, small_pair
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from diffbench.architecture import cut_words, word_rows
from diffbench.errors import CheckpointError, OptionError
from diffbench.precision import DEVICE, compute_device
from diffbench.residual import (
    ModelFolder,
    blocks,
    final_gain,
    hidden,
    hidden_from,
    hidden_layers,
    last_logits,
    load_model,
    load_pair,
    load_tokenizer,
    logits,
    logits_from,
    unembed,
    vocabulary,
    width,
)

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
CONFIGS = {
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
    "qwen2": Qwen2Config(**SIZES),
    "gpt2": GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.2),
    "neox": GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "gpt-neo": GPTNeoConfig(
        vocab_size=60,
        hidden_size=16,
        num_layers=3,
        num_heads=2,
        attention_types=[[["global", "local", "global"], 1]],
        window_size=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    ),
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
}


def model_of(name: str) -> Any:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval().requires_grad_(False)


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
    return ids * mask, mask


def replaced(model: Any, ids: torch.Tensor, mask: torch.Tensor, layer: int, stream: torch.Tensor) -> torch.Tensor:
    """Logits of a whole run in which a hook puts ``stream`` in place of a block's output."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = blocks(model)[layer].register_forward_hook(hook)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    handle.remove()
    return logits


@pytest.mark.parametrize("name", CONFIGS)
def test_putting_a_stream_back_changes_nothing_and_another_one_does(name: str) -> None:
    model, (ids, mask) = model_of(name), ragged()
    expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask]
    streams = hidden_layers(model, ids, mask, [0, 1, 2])
    torch.testing.assert_close(unembed(model, streams[2][mask]), expected)
    for layer in range(3):
        torch.testing.assert_close(hidden(model, ids, mask, layer), streams[layer])
        torch.testing.assert_close(
            logits_from(model, ids, mask, layer, streams[layer])[mask], expected, atol=1e-5, rtol=1e-5
        )
        moved = streams[layer] + torch.randn(16, generator=torch.Generator().manual_seed(1))
        continued = logits_from(model, ids, mask, layer, moved)[mask]
        torch.testing.assert_close(continued, replaced(model, ids, mask, layer, moved)[mask], atol=1e-5, rtol=1e-5)
        rows = hidden_from(model, ids, mask, layer, moved)[mask]
        torch.testing.assert_close(unembed(model, rows), continued, atol=1e-5, rtol=1e-5)
        assert (continued - expected).abs().max() > 1e-2
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask], expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_streams_are_those_that_transformers_names(name: str) -> None:
    model, (ids, mask) = model_of(name), ragged()
    states = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
    for layer in range(2):  # the last one is stored behind the final norm
        torch.testing.assert_close(hidden(model, ids, mask, layer)[mask], states[layer + 1][mask])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_final_norm_divides_and_multiplies_by_its_gain(name: str) -> None:
    model = model_of(name)
    gain = torch.rand(16, generator=torch.Generator().manual_seed(3)) + 0.5
    parameters = dict(model.named_parameters())
    [final] = [key for key in parameters if key.endswith(("norm.weight", "ln_f.weight")) and "layers." not in key]
    parameters[final].data.copy_(gain - 1 if name == "gemma2" else gain)
    torch.testing.assert_close(final_gain(model), gain)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_is_found_and_cut(name: str) -> None:
    model, (ids, mask) = model_of(name), ragged()
    ids = ids.clamp(max=49)
    assert (len(blocks(model)), width(model), vocabulary(model), word_rows(model)) == (3, 16, 60, 60)
    whole, last = logits(model, ids, mask), last_logits(model, ids, mask)
    cut_words(model, 50)
    assert (vocabulary(model), word_rows(model), model.config.vocab_size) == (50, 50, 50)
    torch.testing.assert_close(logits(model, ids, mask), whole[..., :50])
    torch.testing.assert_close(last_logits(model, ids, mask), last[..., :50])


def test_the_device_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_device() == torch.device("cuda")
    monkeypatch.setenv(DEVICE, "cpu")
    assert compute_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(DEVICE, "cuda:1")
    assert compute_device() == torch.device("cuda", 1)
    for wrong, said in (("cuda:2", "PyTorch finds 2 GPUs here"), ("gpu", "is no device; allowed are cpu, cuda")):
        monkeypatch.setenv(DEVICE, wrong)
        with pytest.raises(OptionError, match=f"{DEVICE}: '{wrong}'.*{said}"):
            compute_device()


class Elsewhere:
    """A model that seems to be on a device of its own: tensors must be brought there, and come back from there."""

    def __init__(self, model: Any) -> None:
        self.held = model
        self.device = torch.device("cuda")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.held, name)


def test_inputs_go_to_the_model_and_results_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, mask) = Elsewhere(model_of("llama")), ragged()
    moved: list[torch.device] = []
    move = torch.Tensor.to

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.device):
            moved.append(args[0])
            return tensor
        return move(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    monkeypatch.setattr(Elsewhere, "__call__", lambda self, **kwargs: self.held(**kwargs), raising=False)
    there, here = torch.device("cuda"), torch.device("cpu")
    for found in (
        lambda: hidden(model, ids, mask, 1),
        lambda: last_logits(model, ids, mask),
        lambda: logits(model, ids, mask),
    ):
        moved.clear()
        found()
        assert moved[:2] == [there, there] and moved[-1] == here


def test_models_are_loaded_onto_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pair()[0].save_pretrained(tmp_path)
    monkeypatch.setattr("diffbench.residual.compute_device", lambda: torch.device("meta"))
    for model in (load_model(tmp_path), ModelFolder(tmp_path).load(), *load_pair(tmp_path, tmp_path)):
        assert model.device.type == "meta"


def test_nothing_stays_hooked_after_an_error() -> None:
    tuned, corpus = small_pair()[1], labelled_corpus(30)
    before = [len(block._forward_hooks) for block in blocks(tuned)]
    with pytest.raises(RuntimeError):
        logits_from(tuned, corpus.ids, corpus.mask, 1, torch.zeros(1, 1, 3))
    assert [len(block._forward_hooks) for block in blocks(tuned)] == before
    assert all("forward" not in vars(block) for block in blocks(tuned))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(tmp_path)
    small_pair()[0].save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.float32
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path / "none")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no known place"):
        blocks(torch.nn.Linear(1, 1))
