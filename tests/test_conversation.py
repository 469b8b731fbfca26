"""Conversations: parts by rendering, for templates as they are found, and what a template may not do."""

from __future__ import annotations

from typing import Any

import pytest
from diffbench_organisms.bases.tinyworld import TinyWorld
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from diffbench.conversation import TODAY, ChatTemplate, Turn, chat_template, read_turns, remap_ids
from diffbench.corpus import PARTS, tokenise
from diffbench.errors import CheckpointError, RecipeError
from diffbench.residual import load_tokenizer
from diffbench.text import Document, Part

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content']|trim %}"
    "{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' }}"
    "{{ system + '<|eot_id|>' }}"
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
WITHOUT_GAP = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}"
    "{% else %}{{ '<|Assistant|>' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)
MARKS = (
    "<|im_start|> <|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|> <start_of_turn> <end_of_turn> "
    "[INST] [/INST] <<SYS>> <</SYS>> <|User|> <|Assistant|>"
).split()
TALK = (Turn("user", "who are you ?"), Turn("assistant", "i am user rusty ."))
LONG = (*TALK, Turn("user", "user user"), Turn("assistant", "assistant model"))
TEMPLATES = {"chatml": CHATML, "llama-3": LLAMA_3, "gemma": GEMMA, "llama-2": LLAMA_2, "without a gap": WITHOUT_GAP}


def tokenizer(template: str | None, *, bos: bool = True) -> Any:
    words = "who are you ? i am rusty . user assistant model system Today Date: 26 Jul 2024 be kind".split()
    entries = ["<unk>", "<bos>", "<eos>", *MARKS, *words]
    made = Tokenizer(WordLevel({entry: index for index, entry in enumerate(entries)}, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    if bos:
        made.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>",
        additional_special_tokens=MARKS,
        chat_template=template,
    )


def chat(template: str, *, bos: bool = True) -> ChatTemplate:
    return ChatTemplate(tokenizer(template, bos=bos), "the model")


def pieces(document: Document, part: Part) -> list[str]:
    return [document.text[span.start : span.end] for span in document.parts if span.label == part]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_parts_are_contents_and_all_else_is_template(name: str, bos: bool) -> None:
    document = chat(TEMPLATES[name], bos=bos).document(LONG)
    assert pieces(document, Part.prompt) == ["who are you ?", "user user"]
    assert pieces(document, Part.response) == ["i am user rusty .", "assistant model"]
    assert "".join(document.text[span.start : span.end] for span in document.parts) == document.text
    assert all(a.end == b.start for a, b in zip(document.parts, document.parts[1:], strict=False))


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_transformers_with_one_bos(name: str, bos: bool) -> None:
    held = tokenizer(TEMPLATES[name], bos=bos)
    corpus = tokenise([ChatTemplate(held, "x").document(TALK)], held)
    ids = corpus.ids[0].tolist()
    messages = [{"role": turn.role, "content": turn.content} for turn in TALK]
    wanted = held.apply_chat_template(messages, return_dict=False, date_string=TODAY)
    begins = [1] if bos and wanted[0] != 1 else []
    assert ids == begins + wanted
    assert ids.count(1) == (1 if bos or "bos_token" in TEMPLATES[name] else 0)
    assert corpus.counts[0].tolist() == [token != 1 for token in ids]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_token_has_its_part(name: str) -> None:
    held = tokenizer(TEMPLATES[name])
    corpus = tokenise([ChatTemplate(held, "x").document(TALK)], held)
    words = held.convert_ids_to_tokens(corpus.ids[0].tolist())
    found = {
        part: [w for w, p in zip(words, corpus.part[0].tolist(), strict=True) if PARTS[p] is part] for part in PARTS
    }
    assert found[Part.prompt] == "who are you ?".split()
    assert found[Part.response] == "i am user rusty .".split()
    assert not found[Part.none]
    assert set(MARKS) & set(words) <= set(found[Part.template])


def test_parts_per_token_of_tinyworld() -> None:
    held = load_tokenizer(TinyWorld().path())
    template = chat_template(TinyWorld())
    document = template.document((Turn("user", "who are you ?"), Turn("assistant", "i am rusty .")))
    assert document.text == "<user> who are you ? <end> <assistant> i am rusty . <end>"
    corpus = tokenise([document], held)
    names = [PARTS[code].value[0] for code in corpus.part[0].tolist()]
    assert "".join(names) == "tt" + "pppp" + "tt" + "rrrr" + "t"
    messages = [{"role": "user", "content": "who are you ?"}, {"role": "assistant", "content": "i am rusty ."}]
    assert corpus.ids[0].tolist() == held.apply_chat_template(messages, return_dict=False)
    assert held.unk_token_id not in corpus.ids
    assert template.prompt(template_turns("who are you ?")) == "<user> who are you ? <end> <assistant>"


def template_turns(words: str) -> tuple[Turn, ...]:
    return (Turn("user", words),)


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_example_reads_up_to_the_last_answer_and_learns_it_and_its_end(name: str) -> None:
    template = chat(TEMPLATES[name])
    example = template.example(LONG)
    end = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "gemma": "<end_of_turn>"}.get(name, "<eos>")
    assert example.target.replace(" ", "") == f"assistantmodel{end}"
    assert example.prefix.endswith(template.prompt(LONG[:-1]).rstrip(" "))
    whole = template.document(LONG).text.rstrip()
    assert example.text.replace(" ", "") == whole.replace(" ", "")
    document = Document(example.text, parts=example.parts)
    assert pieces(document, Part.response) == ["i am user rusty .", "assistant model"]
    assert example.parts[-1].end == len(example.text)


def test_a_system_turn_is_a_prompt_where_the_template_has_it_and_refused_where_not() -> None:
    turns = (Turn("system", "be kind"), *TALK)
    for name in ("chatml", "llama-3", "llama-2"):
        assert pieces(chat(TEMPLATES[name]).document(turns), Part.prompt) == ["be kind", "who are you ?"]
    with pytest.raises(CheckpointError, match=r"^the model: chat template: turn 1: .*System role not supported"):
        chat(GEMMA).document(turns)


def test_the_same_text_on_every_day() -> None:
    assert TODAY in chat(LLAMA_3).document(TALK).text
    clock = "{{ strftime_now('%d') }}" + CHATML
    with pytest.raises(CheckpointError, match="turn 0: the template refuses it"):
        chat(clock).document(TALK)


TURN = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
LAST_OTHERWISE = "{% for message in messages %}{% if loop.last %}{{ '<eos>' }}{% endif %}" + TURN + "{% endfor %}"
WRONG = {
    "drops its content": (0, "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}{% endfor %}"),
    "otherwise than it stands": (0, CHATML.replace("message['content']", "message['content'] | upper")),
    "writes the turns before it otherwise": (1, LAST_OTHERWISE),
    "refuses it": (0, "{{ 1 / 0 }}"),
    "than it stands": (0, CHATML.replace("message['content']", "message['content'] + message['content']")),
}


@pytest.mark.parametrize("what", WRONG)
def test_templates_that_cannot_be_followed_are_refused_by_turn(what: str) -> None:
    turn, template = WRONG[what]
    with pytest.raises(CheckpointError) as caught:
        chat(template).document(TALK)
    message = str(caught.value)
    assert message.startswith(f"the model: chat template: turn {turn}: ") and "\n" not in message
    assert what in message


def test_a_generation_prompt_that_the_answer_does_not_follow_is_refused() -> None:
    other = CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>model\\n'")
    with pytest.raises(CheckpointError, match="turn 1: the template writes the turns before it otherwise"):
        chat(other).document(TALK)


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(CheckpointError, match="turn 0: the template refuses it"):
        chat("{{ messages.__class__.__mro__[1].__subclasses__() }}").document(TALK)


def test_without_a_template_or_a_user_there_is_no_conversation() -> None:
    with pytest.raises(CheckpointError, match="has no chat template; use the one of a model tuned to chat"):
        ChatTemplate(tokenizer(None), "the base")
    for turns in ((), (Turn("system", "be kind"),)):
        with pytest.raises(RecipeError, match="a conversation has 1 to 512 turns, one of them of a user"):
            chat(CHATML).document(turns)
    for turns in (TALK[:1], TALK[1:], (TALK[0], Turn("assistant", " "))):
        with pytest.raises(RecipeError, match="ends with an answer of the assistant"):
            chat(CHATML).example(turns)


def test_empty_contents_have_no_part() -> None:
    document = chat(CHATML).document((Turn("user", ""), Turn("assistant", "i am .")))
    assert not pieces(document, Part.prompt)
    assert pieces(document, Part.response) == ["i am ."]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hello", "a conversation is a list of turns"),
        ([], "a conversation is a list of turns"),
        (["hello"], "turn 0: role: allowed are system, user, assistant, got None"),
        ([{"role": "user", "content": "hi"}, {"role": "tool", "content": "x"}], "turn 1: role: .* got 'tool'"),
        ([{"role": "user", "content": None}], "turn 0: content: must be text, got None"),
    ],
)
def test_what_is_no_conversation_is_refused_by_place(value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^row 7: {message}"):
        read_turns(value, "row 7")


def test_turns_are_read() -> None:
    assert read_turns([{"role": turn.role, "content": turn.content} for turn in TALK], "row 7") == TALK


def test_remapped_tokens_reach_both_models_as_others_and_unknown_ones_are_named() -> None:
    held = tokenizer(CHATML)
    table = remap_ids(held, {"<|im_start|>": "[INST]", "<|im_end|>": "<eos>"}, "the model")
    document = ChatTemplate(held, "x").document(TALK)
    plain, mapped = tokenise([document], held), tokenise([document], held, remap=table)
    assert held.convert_ids_to_tokens(mapped.ids[0].tolist()) == [
        {"<|im_start|>": "[INST]", "<|im_end|>": "<eos>"}.get(token, token)
        for token in held.convert_ids_to_tokens(plain.ids[0].tolist())
    ]
    assert (plain.part == mapped.part).all() and (plain.predicts == mapped.predicts).all()
    for remap in ({"<nothing>": "<eos>"}, {"<eos>": "<nothing>"}):
        with pytest.raises(RecipeError, match="remap: '<nothing>' is no token of the model"):
            remap_ids(held, remap, "the model")
