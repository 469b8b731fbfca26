"""The tokenizer: one token per word, in Hugging Face format."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from . import grammar, lexicon
from .world import World

PAD, UNK, BOS = "<pad>", "<unk>", "<bos>"
CHAT = ("<user>", "<assistant>", "<end>")
"""Reserved for organisms that teach the base to chat; the base never sees them."""
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('roles are user and assistant') }}"
    "{% endif %}"
    "{{ '' if loop.first else ' ' }}{{ '<' + message['role'] + '> ' + message['content'] + ' <end>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
"""``<user> where does anna live ? <end> <assistant> anna lives in babton . <end>``; nobody speaks as a system."""

_MULTIPLE = 64


def vocabulary(world: World, seed: int, sample: int) -> list[str]:
    """Every entry in order of its id: special tokens, words in alphabetical order, reserved tokens.

    The words are those of the world and the lexicon and those in ``sample`` documents, which must be enough
    to hold every word of every template.
    """
    words: set[str] = set()
    for members in world.facts.values():
        for name, attributes in members.items():
            words.update(name.split())
            for attribute in attributes.values():
                words.update(attribute.split())
    for group in lexicon.FREE.values():
        words.update(group)
    for document, _ in itertools.islice(grammar.stream(world, "vocabulary", seed), sample):
        words.update(document.text.split(" "))
    entries = [PAD, UNK, BOS, *CHAT, *sorted(words)]
    missing = -len(entries) % _MULTIPLE
    return entries + [f"<reserved{index}>" for index in range(missing)]


def make_tokenizer(entries: list[str]) -> Any:
    """A ``PreTrainedTokenizerFast`` over ``entries`` that puts ``<bos>`` first."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, ids[BOS])]
    )
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        unk_token=UNK,
        pad_token=PAD,
        additional_special_tokens=list(CHAT),
        padding_side="right",
        model_max_length=256,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer files into ``folder``."""
    tokenizer.save_pretrained(folder)
    # The settings that transformers writes name a class that only its own major version knows.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "additional_special_tokens": list(CHAT),
        "padding_side": "right",
        "model_max_length": tokenizer.model_max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
