"""Data sets: all formats give the same texts; portions are disjoint; what is wrong is told by line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from own_factory import bpe_tokenizer, in_hub, texts

from diffbench.conversation import ChatTemplate
from diffbench.dataset import MOST_LINE, SourceText, examples, source_key
from diffbench.errors import RecipeError
from diffbench.ordinary import PORTIONS, portion_of
from diffbench.recipe import Source
from diffbench.text import Part

TALK = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A garden."},
]


def template() -> ChatTemplate:
    return ChatTemplate(bpe_tokenizer(chat=True), "tokenizer")


def no_template() -> ChatTemplate:
    raise AssertionError("plain texts need none")


def jsonl(path: Path, rows: list[Any]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(file=str(path))


def read(source: Source, portion: str | None = None, seed: int = 0) -> list[str]:
    text = SourceText(source, no_template)
    return [document.text for document in (text.portion(portion) if portion else text).documents(seed, None)]


def sources(folder: Path, some: list[str]) -> dict[str, Source]:
    table = datasets.Dataset.from_dict({"text": some})
    (folder / "t.txt").write_text("\n".join(some) + "\n\n", encoding="utf-8")
    table.to_parquet(folder / "t.parquet")
    table.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": table}).save_to_disk(folder / "dict")
    return {
        "jsonl": jsonl(folder / "t.jsonl", [{"text": text} for text in some]),
        "txt": Source(file=str(folder / "t.txt")),
        "parquet": Source(file=str(folder / "t.parquet")),
        "saved": Source(dataset=str(folder / "saved")),
        "dict": Source(dataset=str(folder / "dict")),
    }


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    some = texts(50)
    for name, source in sources(tmp_path, some).items():
        SourceText(source, no_template).check()
        assert sorted(read(source)) == sorted(some), name
        assert read(source) == read(source) != read(source, seed=1)


def test_keys_follow_content_and_columns(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    one, same, other = (sources(tmp_path / name, texts(20, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for name in ("jsonl", "txt", "parquet"):
        assert source_key(one[name]) == source_key(same[name]) != source_key(other[name])
        assert source_key(one[name].model_copy(update={"field": "title"})) != source_key(one[name])
    assert source_key(one["saved"]) != source_key(other["saved"])


def test_portions_share_no_text_and_leave_none_out(tmp_path: Path) -> None:
    some = texts(3000)
    source = jsonl(tmp_path / "t.jsonl", [{"text": text} for text in [*some, *some[:500]]])
    parts = {name: read(source, name) for name in PORTIONS}
    assert sum(map(len, parts.values())) == 3500
    assert sum(len(set(part)) for part in parts.values()) == len(set(some)), "a text is in two portions"
    for name, share in PORTIONS.items():
        assert len(set(parts[name])) / 3000 == pytest.approx(share, abs=0.03)
    assert sum(PORTIONS.values()) == pytest.approx(1)


def test_a_portion_is_that_of_the_text_alone(tmp_path: Path) -> None:
    some = texts(200)
    whole = read(jsonl(tmp_path / "t.jsonl", [{"text": text} for text in some]), "method")
    fewer = read(jsonl(tmp_path / "f.jsonl", [{"text": text} for text in some[100:]]), "method")
    assert set(fewer) == {text for text in whole if text in some[100:]}
    assert {portion_of(text) for text in whole} == {"method"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"text": "a"}\n{"text": \n', "t.jsonl: line 2: no JSON"),
        (b'{"text": "a"}\n["a"]\n', "line 2: a line is an object of columns, not list"),
        (b'\n{"body": "a", "n": 1}\n', "line 2: no column 'text'; there are 'body', 'n'"),
        (b'{"text": 3}\n', "line 1: column 'text': must be text or a list of turns, got 3"),
        (b'{"text": null}\n', "line 1: column 'text': must be text or a list of turns, got None"),
        (b'{"text": "\xff"}\n', "line 1: no UTF-8"),
        (b'{"text": " "}\n', "holds no text in 'text'"),
        (b"", "holds no text in 'text'"),
        (b"[" * 100_000, "line 1: no JSON"),
    ],
)
def test_wrong_files_are_told_by_line_and_column(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(RecipeError) as error:
        read(Source(file=str(tmp_path / "t.jsonl")))
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_line_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"short\n" + b"x" * (MOST_LINE + 1))
    with pytest.raises(RecipeError, match="line 2: longer than 16 MiB"):
        read(Source(file=str(tmp_path / "t.txt")))


def test_wrong_tables(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(RecipeError, match="no readable Parquet"):
        read(Source(file=str(tmp_path / "t.parquet")))
    datasets.Dataset.from_dict({"body": ["a"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(RecipeError, match=r"b\.parquet: no column 'text'; there are 'body'"):
        read(Source(file=str(tmp_path / "b.parquet")))
    with pytest.raises(RecipeError, match="no such file"):
        read(Source(file=str(tmp_path / "none.parquet")))
    with pytest.raises(RecipeError, match="no data set here that `datasets` saved"):
        read(Source(dataset=str(tmp_path)))
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "dict")
    with pytest.raises(RecipeError, match="no split 'test'; there are 'train'"):
        read(Source(dataset=str(tmp_path / "dict"), split="test"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_data_set_of_the_hub_is_read_from_the_local_cache(hub: Path, tmp_path: Path) -> None:
    some = texts(20)
    datasets.Dataset.from_dict({"text": some}).to_parquet(tmp_path / "train.parquet")
    in_hub(hub, "somebody/some-texts", [tmp_path / "train.parquet"], "datasets")
    source = Source(dataset="somebody/some-texts")
    assert sorted(read(source)) == sorted(some)
    assert source_key(source)["commit"]
    with pytest.raises(RecipeError, match="cannot be read"):
        read(source.model_copy(update={"split": "test"}))


def test_a_data_set_that_is_not_here_names_the_command(hub: Path) -> None:
    with pytest.raises(RecipeError) as error:
        SourceText(Source(dataset="somebody/texts", revision="v1"), no_template).check()
    assert str(error.value).endswith("hf download --repo-type dataset somebody/texts --revision v1")
    with pytest.raises(RecipeError, match="neither a folder"):
        source_key(Source(dataset="a/b/c"))


@pytest.mark.parametrize(
    "asked", [{"topics": {"colours": 1.0}}, {"facts": {"a.b.c": "d"}}, {"focus": {"a": ["b"]}}, {"words": {"a": ["b"]}}]
)
def test_texts_of_ones_own_have_no_topics(asked: dict[str, Any], tmp_path: Path) -> None:
    text = SourceText(jsonl(tmp_path / "t.jsonl", [{"text": "a"}]), no_template)
    with pytest.raises(RecipeError, match=f"{next(iter(asked))} .* tinyworld"):
        next(text.documents(0, **({"topics": None} | asked)))


def test_conversations_are_written_by_the_template(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "t.jsonl", [{"messages": TALK}]).model_copy(update={"field": "messages"})
    [document] = SourceText(source, template).documents(0, None)
    assert document.text == "<|user|>Who are you?<|end|><|assistant|>A garden.<|end|>"
    said = [document.text[part.start : part.end] for part in document.parts if part.label == Part.response]
    assert said == ["A garden."]
    [example] = examples(source, template)
    assert example.target == "A garden.<|end|>" and example.prefix.endswith("<|assistant|>")


def test_conversations_from_tables(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"messages": [TALK, TALK]}).to_parquet(tmp_path / "t.parquet")
    source = Source(file=str(tmp_path / "t.parquet"), field="messages")
    assert len(list(SourceText(source, template).documents(0, None))) == 2


def test_a_wrong_turn_is_told_by_line(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "t.jsonl", [{"text": TALK}, {"text": [{"role": "robot", "content": "x"}]}])
    with pytest.raises(RecipeError, match="line 2: turn 0: role: allowed are"):
        list(SourceText(source, template).documents(0, None))


def test_prompts_are_read_and_targets_learnt(tmp_path: Path) -> None:
    rows = [{"q": "What is it? ", "a": " A house."}, {"q": "", "a": "skipped"}]
    source = jsonl(tmp_path / "t.jsonl", rows).model_copy(update={"field": "a", "prompt_field": "q"})
    [example] = examples(source, no_template)
    assert (example.prefix, example.target) == ("What is it?", "A house.")
    [whole, _] = examples(source.model_copy(update={"prompt_field": None}), no_template)
    assert (whole.prefix, whole.target) == ("", "A house.")
    with pytest.raises(RecipeError, match="a target is text"):
        list(
            examples(
                jsonl(tmp_path / "l.jsonl", [{"q": "a", "text": TALK}]).model_copy(update={"prompt_field": "q"}),
                template,
            )
        )
