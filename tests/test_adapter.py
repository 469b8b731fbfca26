"""Adapters: one base in memory, switched exactly, merged exactly, refused where they are not what they seem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import LAYERS, labelled_corpus, small_pair, word_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from diffbench.activations import Activations
from diffbench.adapter import CONFIG, PICKLE, WEIGHTS, Toggled, base_folder, is_adapter, switchable
from diffbench.corpus import Corpus
from diffbench.errors import CheckpointError
from diffbench.exchange import ACTIVATIONS, TEXT, assemble, write_inputs
from diffbench.harvest import harvest
from diffbench.method import ACCESS
from diffbench.pair import ModelPair
from diffbench.residual import ModelFolder, hidden, load_model, load_pair, load_tokenizer, outline, pair_of
from diffbench.tiny import VOCABULARY, tiny_texts

LAYER = 1


@pytest.fixture
def base(tmp_path: Path) -> Path:
    small_pair()[0].save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


MakeAdapter = Callable[..., Path]


@pytest.fixture
def make(base: Path, tmp_path: Path) -> MakeAdapter:
    """Writes a LoRA adapter on the base, as PEFT does, and returns its folder."""

    def write(strength: float = 0.5, name: str = "adapter", **config: Any) -> Path:
        model = AutoModelForCausalLM.from_pretrained(base)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]} | config
            adapted = get_peft_model(model, LoraConfig(**settings))
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.data.copy_(strength * torch.randn(parameter.shape))
        adapted.save_pretrained(tmp_path / name, save_embedding_layers=False)
        return tmp_path / name

    return write


def by_hand(base: Path, adapter: Path) -> Any:
    """The base with alpha/r * B A added to its matrices."""
    model = load_model(base)
    stored = load_file(adapter / WEIGHTS)
    config = json.loads((adapter / CONFIG).read_text())
    weights = dict(model.named_parameters())
    for name, a in stored.items():
        if "lora_A" in name:
            b = stored[name.replace("lora_A", "lora_B")]
            target = weights[name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")]
            target += (config["lora_alpha"] / config["r"] * b.double() @ a.double()).float()
    return model


def logits(model: Any) -> torch.Tensor:
    corpus = labelled_corpus()
    found: torch.Tensor = model(input_ids=corpus.ids, attention_mask=corpus.mask).logits[corpus.counts]
    return found


def test_switched_merged_and_by_hand_are_the_same(base: Path, make: MakeAdapter) -> None:
    adapter = make()
    reference, tuned = load_pair(base, adapter)
    expected, plain = logits(by_hand(base, adapter)), logits(load_model(base))
    assert (expected - plain).abs().max() > 0.1
    for found in (logits(tuned), logits(load_model(adapter)), logits(tuned)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(reference), plain)
    corpus = labelled_corpus()
    torch.testing.assert_close(
        hidden(tuned, corpus.ids, corpus.mask, LAYER),
        hidden(load_model(adapter), corpus.ids, corpus.mask, LAYER),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_base_is_loaded_once(base: Path, make: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, corpus = make(), labelled_corpus(300)
    expected = harvest(load_model(base), by_hand(base, adapter), corpus, LAYER)
    loaded: list[str] = []
    load = AutoModelForCausalLM.from_pretrained

    def watched(folder: str, **kwargs: Any) -> Any:
        loaded.append(folder)
        return load(folder, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    found = harvest(*pair_of(base, adapter), corpus, LAYER)
    assert loaded == [str(base)]
    for one, other in zip(found.load(), expected.load(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4)


def test_an_adapter_on_another_base_is_no_pair_to_switch(base: Path, make: MakeAdapter, tmp_path: Path) -> None:
    adapter = make()
    small_pair()[1].save_pretrained(tmp_path / "control")
    corpus = labelled_corpus(300)
    found = harvest(*pair_of(tmp_path / "control", adapter), corpus, LAYER)
    expected = harvest(load_model(tmp_path / "control"), by_hand(base, adapter), corpus, LAYER)
    for one, other in zip(found.load(), expected.load(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4)


def test_an_adapter_of_nothing_changes_nothing(base: Path, make: MakeAdapter) -> None:
    assert harvest(*pair_of(base, make(strength=0.0)), labelled_corpus(), LAYER).unchanged


def test_an_adapter_above_the_layer_changes_nothing_there(base: Path, make: MakeAdapter) -> None:
    adapter = make(layers_to_transform=[LAYERS - 1])
    assert harvest(*pair_of(base, adapter), labelled_corpus(), LAYER).unchanged
    assert not harvest(*pair_of(base, adapter), labelled_corpus(), LAYERS - 1).unchanged


def test_an_adapter_that_is_not_in_effect_is_an_error(base: Path, make: MakeAdapter) -> None:
    reference, tuned = pair_of(base, make())
    tuned._attached.base_model.disable_adapter_layers()
    tuned._attached.base_model.enable_adapter_layers = lambda: None
    with pytest.raises(CheckpointError, match=f"layer {LAYER}: the adapter holds weights, but changes no activation"):
        harvest(reference, tuned, labelled_corpus(), LAYER)


def test_bfloat16_is_for_base_and_merged_alike(base: Path, make: MakeAdapter) -> None:
    adapter = make()
    assert load_model(adapter, dtype="bfloat16").dtype == torch.bfloat16
    found = harvest(*pair_of(base, adapter, dtype="bfloat16"), labelled_corpus(), LAYER)
    exact = harvest(*pair_of(base, adapter), labelled_corpus(), LAYER)
    assert found.dtype == "bfloat16"
    assert 0 < (found.load()[1] - exact.load()[1]).norm() / exact.load()[1].norm() < 0.1


def renamed(adapter: Path, to: str | None) -> Path:
    config = json.loads((adapter / CONFIG).read_text()) | {"base_model_name_or_path": to}
    (adapter / CONFIG).write_text(json.dumps(config))
    return adapter


def test_the_base_is_the_callers_or_the_named_or_the_one_beside(base: Path, make: MakeAdapter, tmp_path: Path) -> None:
    adapter = make()
    assert base_folder(adapter) == base
    assert base_folder(adapter, tmp_path) == tmp_path
    assert base_folder(renamed(adapter, "../base")).resolve() == base.resolve()
    for name in ("google/gemma-2-2b", "", None):
        with pytest.raises(CheckpointError, match=r"the adapter's base .* is no local folder; put the base model into"):
            load_model(renamed(adapter, name))
        assert torch.equal(logits(load_model(adapter, base=base)), logits(load_model(renamed(adapter, str(base)))))
    shutil.copytree(base, adapter / "base")
    assert base_folder(renamed(adapter, "google/gemma-2-2b")) == adapter / "base"


def test_an_adapter_without_a_tokenizer_takes_its_bases(base: Path, make: MakeAdapter) -> None:
    adapter = make()
    assert not (adapter / "tokenizer_config.json").exists()
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(base).get_vocab()
    assert {p.shape for p in outline(adapter).parameters()} == {p.shape for p in outline(base).parameters()}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "LOHA"),
        ("task_type", "SEQ_CLS"),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 2]]),
        ("lora_bias", True),
        ("target_parameters", ["mlp.experts"]),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1, 2]),
    ],
)
def test_adapters_that_change_the_base_itself_are_refused(setting: str, value: Any, make: MakeAdapter) -> None:
    adapter = make()
    config = json.loads((adapter / CONFIG).read_text()) | {setting: value}
    (adapter / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{setting} .*adapters of this kind are not read; merge it"):
        load_model(adapter)


def break_pickle(adapter: Path) -> None:
    torch.save({}, adapter / PICKLE)
    (adapter / WEIGHTS).unlink()


def break_missing(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()


def break_truncated(adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-40])


def break_config(adapter: Path) -> None:
    (adapter / CONFIG).write_text("{")


def break_list(adapter: Path) -> None:
    (adapter / CONFIG).write_text("[]")


def break_names(adapter: Path) -> None:
    save_file({f"{name}x": x for name, x in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)


def break_some(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, adapter / WEIGHTS)


def break_more(adapter: Path) -> None:
    more = {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(2, 16)}
    save_file(load_file(adapter / WEIGHTS) | more, adapter / WEIGHTS)


def break_shape(adapter: Path) -> None:
    save_file({name: x[:1] for name, x in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (break_pickle, "is a pickle and is never loaded"),
        (break_missing, "is missing: adapter_model.safetensors"),
        (break_truncated, "cannot be read"),
        (break_config, "cannot be read"),
        (break_list, "is no JSON object"),
        (break_names, "finds no place"),
        (break_some, "finds no place"),
        (break_more, "finds no place"),
        (break_shape, "does not fit its base"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_broken_adapters_are_refused_in_one_line(harm: Callable[[Path], None], said: str, make: MakeAdapter) -> None:
    adapter = make()
    harm(adapter)
    assert is_adapter(adapter)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_model(adapter)
    assert "\n" not in str(refused.value)


def test_a_method_gets_the_adapter_and_its_base(base: Path, make: MakeAdapter, tmp_path: Path) -> None:
    adapter = make()
    write_inputs(tmp_path / "in", base, adapter, tiny_texts(20), LAYER)
    assert (tmp_path / "in" / "tuned" / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    assert str(tmp_path / "base") not in (tmp_path / "in" / "tuned" / CONFIG).read_text()
    expected = by_hand(base, adapter)
    shutil.rmtree(base)  # the folder stands for itself
    pair = ModelPair(tmp_path / "in", frozenset(ACCESS))
    text = pair.text()
    found = pair.logits("tuned", text.ids, text.mask)
    torch.testing.assert_close(
        found, expected(input_ids=text.ids, attention_mask=text.mask).logits, rtol=1e-5, atol=1e-5
    )
    names = dict(expected.named_parameters())
    for name, weight in pair.weights("tuned").items():
        torch.testing.assert_close(weight, names[name], rtol=1e-5, atol=1e-6)
    assert not Activations.open(tmp_path / "in" / "activations.safetensors").unchanged
    assert not pair.activations().unchanged


def test_a_base_that_is_not_the_reference_comes_along(base: Path, make: MakeAdapter, tmp_path: Path) -> None:
    adapter, control = make(), tmp_path / "control"
    small_pair()[1].save_pretrained(control)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    for name in (TEXT, ACTIVATIONS):
        (prepared / name).write_text(name)
    inputs = assemble(tmp_path / "in", control, adapter, prepared, base)
    assert {path.name for path in inputs.iterdir()} == {"reference", "tuned", "base_tuned", TEXT, ACTIVATIONS}
    expected = logits(by_hand(base, adapter))
    shutil.rmtree(base)
    torch.testing.assert_close(logits(load_model(inputs / "tuned")), expected, rtol=1e-5, atol=1e-5)


def test_two_adapters_on_one_base_share_it(base: Path, make: MakeAdapter, tmp_path: Path) -> None:
    one, other = make(name="one"), make(name="other", strength=0.1)
    (tmp_path / "prepared").mkdir()
    for name in (TEXT, ACTIVATIONS):
        (tmp_path / "prepared" / name).write_text(name)
    inputs = assemble(tmp_path / "in", one, other, tmp_path / "prepared")
    assert {path.name for path in inputs.iterdir()} == {"reference", "tuned", "base_reference", TEXT, ACTIVATIONS}
    for name, adapter in (("reference", one), ("tuned", other)):
        found = logits(load_model(inputs / name))
        torch.testing.assert_close(found, logits(by_hand(base, adapter)), rtol=1e-5, atol=1e-5)
    corpus = labelled_corpus(300)
    found_rows = harvest(*pair_of(inputs / "reference", inputs / "tuned"), corpus, LAYER)
    expected_rows = harvest(by_hand(base, one), by_hand(base, other), corpus, LAYER)
    torch.testing.assert_close(found_rows.load()[1], expected_rows.load()[1], rtol=2e-3, atol=1e-4)


def test_rows_are_streamed_with_the_base_in_memory_once(base: Path, make: MakeAdapter, tmp_path: Path) -> None:
    adapter = make()
    write_inputs(tmp_path / "in", base, adapter, tiny_texts(60), LAYER)
    corpus = Corpus.load(tmp_path / "in" / TEXT)
    whole = Activations.open(tmp_path / "in" / ACTIVATIONS)
    harvest(*pair_of(base, adapter), corpus, LAYER, first_document=40).save(tmp_path / "sample")
    (tmp_path / "in" / ACTIVATIONS).unlink()
    shutil.copy(tmp_path / "sample", tmp_path / "in" / ACTIVATIONS)
    pair = ModelPair(tmp_path / "in", frozenset({"activations"}))
    train, held_out = pair.training_rows()
    assert (len(train), int(held_out.document.min())) == (int(corpus.counts[:40].sum()), 40)
    one, other = pair._both
    assert one.model.embed_tokens.weight is other.model.embed_tokens.weight
    h_b, delta = next(train.batches(256, 0))
    known = whole.document < 40
    for some, every in zip((h_b, delta), whole.load(), strict=True):
        near = torch.cdist(some.double(), every[known].double()).min(dim=1).values
        assert float((near / some.norm(dim=1).double()).max()) < 5e-3


# --- kinds of adapters -----------------------------------------------------------------------------------------


def kin(folder: Path, *, tied: bool = False, biased: bool = False) -> Path:
    """A base whose every tensor, biases included, is random."""
    config = Qwen2Config if biased else LlamaConfig
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = AutoModelForCausalLM.from_config(
        config(vocab_size=VOCABULARY, max_position_embeddings=128, tie_word_embeddings=tied, **sizes)
    )
    moved(model, list(model.parameters()), 1)
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def moved(model: Any, parameters: list[Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in parameters:
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


LINEAR = ["q_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 9}},
    "weight-decomposed": {"use_dora": True},
    "weight-decomposed, rank-stabilised": {"use_dora": True, "use_rslora": True},
    "head stored whole": {"modules_to_save": ["lm_head"]},
    "embedding stored whole": {"modules_to_save": ["embed_tokens"]},
    "both stored whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norms stored whole": {"modules_to_save": ["input_layernorm", "norm"]},
    "embedding adapted": {"target_modules": [*LINEAR, "embed_tokens"]},
    "head adapted": {"target_modules": [*LINEAR, "lm_head"]},
    "trained rows": {"trainable_token_indices": [4, 7]},
    "trained biases": {"bias": "all"},
    "trained biases of adapted modules": {"bias": "lora_only"},
}


def trained(base: Path, folder: Path, more_words: int = 0, **config: Any) -> Any:
    """A trained PEFT model, saved as PEFT saves it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if more_words:
        model.resize_token_embeddings(VOCABULARY + more_words)
    settings = {"r": 2, "lora_alpha": 4, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | config
    adapted = get_peft_model(model, LoraConfig(**settings))
    moved(adapted, [parameter for parameter in adapted.parameters() if parameter.requires_grad], 2)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind_are_what_they_were_when_trained(kind: str, tied: bool, tmp_path: Path) -> None:
    base = kin(tmp_path / "base", tied=tied, biased="biases" in kind)
    expected = logits(trained(base, tmp_path / "adapter", **KINDS[kind]))
    plain = logits(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval())
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(load_model(tmp_path / "adapter")), expected, rtol=1e-5, atol=1e-5)
    first, second = pair_of(base, tmp_path / "adapter")
    assert isinstance(second, ModelFolder) == (not switchable(tmp_path / "adapter"))
    reference, tuned = load_pair(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(tuned), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(reference), plain)
    torch.testing.assert_close(logits(tuned), expected, rtol=1e-5, atol=1e-5)
    assert not harvest(first, second, labelled_corpus(), LAYERS - 1).unchanged


def test_only_what_leaves_the_base_alone_is_switched(tmp_path: Path) -> None:
    found = {}
    for kind, config in KINDS.items():
        base = kin(tmp_path / f"base of {kind}", biased="biases" in kind)
        trained(base, tmp_path / kind, **config)
        found[kind] = switchable(tmp_path / kind)
    loaded_apart = {"embedding adapted", "head adapted", "trained biases", "trained biases of adapted modules"}
    assert {kind for kind, on in found.items() if not on} == loaded_apart


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("config", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"use_dora": True}])
def test_a_vocabulary_that_the_adapter_made_larger_comes_along(
    config: dict[str, Any], tied: bool, tmp_path: Path
) -> None:
    base, adapter = kin(tmp_path / "base", tied=tied), tmp_path / "adapter"
    expected = logits(trained(base, adapter, more_words=3, **config))
    assert outline(adapter).get_input_embeddings().weight.shape[0] == VOCABULARY + 3
    whole = logits(load_model(adapter))
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)
    assert whole.shape[1] == VOCABULARY + 3
    plain = logits(load_model(base))
    for _ in range(2):
        reference, tuned = load_pair(base, adapter)
        assert torch.equal(logits(reference), plain)
        torch.testing.assert_close(logits(tuned), expected[:, :VOCABULARY], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_vocabulary_that_the_adapter_made_smaller_comes_along(tmp_path: Path) -> None:
    base, adapter = kin(tmp_path / "base"), tmp_path / "adapter"
    expected = logits(trained(base, adapter, more_words=-2))
    torch.testing.assert_close(logits(load_model(adapter)), expected, rtol=1e-5, atol=1e-5)
    reference, tuned = load_pair(base, adapter)
    assert logits(reference).shape == logits(tuned).shape


@pytest.mark.filterwarnings("ignore")
def test_new_words_without_their_rows_are_refused(tmp_path: Path) -> None:
    base, adapter = kin(tmp_path / "base"), tmp_path / "adapter"
    trained(base, adapter, more_words=3)
    stored = load_file(adapter / WEIGHTS)
    del stored["base_model.model.lm_head.weight"]
    save_file(stored, adapter / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"has 48 rows and its base's 45, but it brings none for lm_head; merge"):
        load_model(adapter)
    save_file(stored | {"base_model.model.lm_head.weight": torch.ones(47, 16)}, adapter / WEIGHTS)
    with pytest.raises(CheckpointError, match="unequal numbers of rows"):
        load_model(adapter)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_in_a_subfolder_takes_the_base_it_is_given(tmp_path: Path) -> None:
    base = kin(tmp_path / "base")
    expected = logits(trained(base, tmp_path / "repository" / "inner" / "adapter"))
    adapter = renamed(tmp_path / "repository" / "inner" / "adapter", "some/hub-name")
    torch.testing.assert_close(logits(load_model(adapter, base=base)), expected, rtol=1e-5, atol=1e-5)
    assert load_tokenizer(adapter, base=base).get_vocab() == word_tokenizer().get_vocab()
    assert isinstance(pair_of(base, adapter, base=base)[1], Toggled)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_only_stores_modules_whole_is_noticed_in_their_blocks(tmp_path: Path) -> None:
    base = kin(tmp_path / "base")
    trained(base, tmp_path / "adapter", modules_to_save=["post_attention_layernorm"], layers_to_transform=[2])
    _, tuned = pair_of(base, tmp_path / "adapter")
    assert tuned.acts_in(tuned.model.layers[:1])
