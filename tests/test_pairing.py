"""Pairs that cannot be compared are refused in one line, from their shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import labelled_corpus, small_pair, word_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffbench.architecture import cut_words
from diffbench.causal import kl_sums
from diffbench.errors import CheckpointError, OptionError
from diffbench.exchange import write_inputs
from diffbench.harvest import harvest
from diffbench.method import ACCESS
from diffbench.pair import ModelPair
from diffbench.pairing import check_pair, check_text
from diffbench.residual import load_model, load_pair, logits, outline, pair_of, vocabulary, vocabulary_of
from diffbench.tiny import SPECIAL, VOCABULARY, WORDS, tiny_texts
from diffbench.vocabulary import Vocabulary

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def shaped(**changes: Any) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**SHAPE | changes))


def refusal(*models: Any, tokenizer: Any = None, layer: int | None = None) -> str:
    with pytest.raises((CheckpointError, OptionError)) as refused:
        check_pair(*models, tokenizer or word_tokenizer(), layer)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_pair_of_one_shape_passes() -> None:
    check_pair(*small_pair(), word_tokenizer(), 2)
    check_pair(shaped(), shaped(intermediate_size=64), word_tokenizer())


def test_widths_and_depths_must_agree() -> None:
    assert "the residual width differs, 16 in the reference and 32" in refusal(shaped(), shaped(hidden_size=32))
    assert "number of blocks differs, 3 in the reference and 4" in refusal(shaped(), shaped(num_hidden_layers=4))


def test_extra_rows_of_a_vocabulary_are_told_and_not_refused() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<tool>", "<think>"])
    words = check_pair(shaped(), shaped(vocab_size=VOCABULARY + 2), tokenizer)
    assert words == Vocabulary(rows=VOCABULARY, reference=VOCABULARY, tuned=VOCABULARY + 2)
    assert words.told() == (
        f"rows {VOCABULARY}..{VOCABULARY + 1} of the tuned model's embeddings are left out: the other model has "
        f"{VOCABULARY}"
    )
    words = check_pair(shaped(vocab_size=VOCABULARY + 64), shaped(), word_tokenizer())
    assert words.rows == VOCABULARY and words.told().startswith(
        f"rows {VOCABULARY}..{VOCABULARY + 63} of the reference"
    )
    assert check_pair(shaped(), shaped(), word_tokenizer()).told() == ""


def test_a_model_must_read_the_words_that_it_says() -> None:
    odd = shaped()
    odd.lm_head = torch.nn.Linear(16, VOCABULARY + 1, bias=False, device="meta")
    said = refusal(shaped(), odd)
    assert f"{VOCABULARY} rows in its embedding and {VOCABULARY + 1} in its unembedding" in said


def test_the_tokenizer_must_stay_within_the_tuned_model() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    for reference in (shaped(), shaped(vocab_size=VOCABULARY + 1)):
        assert f"ids up to {VOCABULARY} ('<tool>')" in refusal(reference, shaped(), tokenizer=tokenizer)


def test_an_id_must_mean_one_word_unless_it_is_a_reserved_one() -> None:
    renamed, other = word_tokenizer(), word_tokenizer()
    renamed.add_tokens(["<tool>"], special_tokens=True)
    other.add_tokens(["<unused0>"], special_tokens=True)
    larger = shaped(vocab_size=VOCABULARY + 1)
    check_pair(larger, larger, renamed, reference_tokenizer=other)
    check_pair(shaped(), larger, renamed, reference_tokenizer=word_tokenizer())
    turned = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({w: i for i, w in enumerate(reversed((*SPECIAL, *WORDS)))}, "<unk>")),
        unk_token="<unk>",
    )
    with pytest.raises(CheckpointError, match="ids stand for other words in the reference than in the tuned model"):
        check_pair(shaped(), shaped(), word_tokenizer(), reference_tokenizer=turned)


@pytest.mark.parametrize("layer", [-1, 3])
def test_the_layer_must_exist(layer: int) -> None:
    assert f"layer: {layer} does not exist, the models have blocks 0..2" in refusal(shaped(), shaped(), layer=layer)


def test_text_must_stay_within_the_vocabulary() -> None:
    corpus = labelled_corpus()
    check_text(corpus, Vocabulary.common(VOCABULARY, VOCABULARY + 8))
    for sizes in ((5, VOCABULARY), (VOCABULARY, 5)):
        with pytest.raises(
            CheckpointError, match=r"token id .* is beyond the 5 rows that both models' embeddings have"
        ):
            check_text(corpus, Vocabulary.common(*sizes))


# --- pairs with unequal vocabularies, all the way ----------------------------------------------------------------


def written(folder: Path, more: int, *, tied: bool, biased: bool = False) -> Path:
    """The same words in a model with ``more`` rows behind them."""
    config = LlamaConfig(
        **SHAPE | {"vocab_size": VOCABULARY + more}, tie_word_embeddings=tied, pad_token_id=VOCABULARY - 1
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        first = torch.randn(VOCABULARY, 16)
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight.data[:VOCABULARY] = first
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("which", ["reference", "tuned"])
def test_both_models_are_cut_to_the_words_that_they_share(which: str, tied: bool, tmp_path: Path) -> None:
    paths = [written(tmp_path / name, 7 * (name == which), tied=tied) for name in ("reference", "tuned")]
    larger = paths[which == "tuned"]
    corpus = labelled_corpus()
    whole = logits(load_model(larger), corpus.ids, corpus.mask)
    assert whole.shape[-1] == VOCABULARY + 7
    models = load_pair(*paths)
    for model in (*models, *(one.load() for one in pair_of(*paths))):
        assert {len(model.get_input_embeddings().weight), vocabulary(model)} == {VOCABULARY}
        assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    cut = models[which == "tuned"]
    torch.testing.assert_close(logits(cut, corpus.ids, corpus.mask), whole[..., :VOCABULARY], rtol=1e-6, atol=1e-6)
    assert vocabulary_of(*paths).rows == VOCABULARY
    assert float(kl_sums(*models, corpus, {})["reference"].mean() or 0.0) >= 0
    assert len(harvest(*pair_of(*paths), corpus, 1)) == int(corpus.counts.sum()) or tied


def test_a_cut_head_keeps_its_bias() -> None:
    model = AutoModelForCausalLM.from_config(
        GPTJConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, bos_token_id=0, eos_token_id=1)
    )
    ids = torch.tensor([[1, 2, 3]])
    torch.nn.init.normal_(model.lm_head.bias)
    whole = model(input_ids=ids).logits
    torch.testing.assert_close(cut_words(model, 15)(input_ids=ids).logits, whole[..., :15])


def test_a_method_process_gets_both_models_cut(tmp_path: Path) -> None:
    paths = [written(tmp_path / name, 7 * (name == "tuned"), tied=True) for name in ("reference", "tuned")]
    write_inputs(tmp_path / "in", *paths, tiny_texts(20), 1)
    pair = ModelPair(tmp_path / "in", frozenset(ACCESS))
    text = pair.text()
    for side in ("reference", "tuned"):
        assert pair.logits(side, text.ids, text.mask).shape[-1] == pair.vocabulary == VOCABULARY
        assert len(pair.weights(side)["model.embed_tokens.weight"]) == VOCABULARY


def test_an_outline_has_the_shapes_and_none_of_the_weights(tmp_path: Path) -> None:
    model = small_pair()[0]
    model.save_pretrained(tmp_path)
    found = outline(tmp_path)
    assert {name: p.shape for name, p in found.named_parameters()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert all(parameter.is_meta for parameter in found.parameters())
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        outline(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal LM"):
        outline(tmp_path)
