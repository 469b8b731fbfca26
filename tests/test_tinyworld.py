"""The embedded base: its text, its tokenizer, its weights."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from diffbench_organisms.bases.tinyworld import TinyWorld, grammar, lexicon, probe
from diffbench_organisms.bases.tinyworld.pretrain import Settings, build
from diffbench_organisms.bases.tinyworld.scene import Scene
from diffbench_organisms.bases.tinyworld.world import LABELS, make_world
from diffbench_organisms.bases.tinyworld.writer import Writer

from diffbench.errors import RecipeError
from diffbench.text import Document

BASE = TinyWorld()


def texts(seed: int, count: int, topics: dict[str, float] | None = None) -> list[Document]:
    return list(itertools.islice(BASE.documents(seed, topics), count))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE.path())


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(BASE.path()).eval()


def test_the_same_seed_writes_the_same_text() -> None:
    assert texts(3, 50) == texts(3, 50)
    assert not {d.text for d in texts(3, 50)} & {d.text for d in texts(4, 50)}


def test_the_text_is_the_one_the_weights_were_trained_on() -> None:
    """A digest of text and world: a change here needs a new version and new weights."""
    whole = hashlib.sha256()
    for document in texts(0, 200):
        whole.update(document.text.encode())
        told = [(s.start, s.end, s.label) for s in document.spans if not s.label.startswith("free:")]
        whole.update(repr(told).encode())
    whole.update(json.dumps(BASE.world().facts, sort_keys=True).encode())
    assert whole.hexdigest() == "52659623d38bb64e8c039088224203d66c22b35efa9e518acad1a86d369476d6"


def test_no_seed_is_the_pretraining_or_heldout_stream() -> None:
    world = BASE.world()
    for purpose in ("pretrain", "heldout", "vocabulary"):
        for seed in (0, 1):
            theirs = {d.text for d, _ in itertools.islice(grammar.stream(world, purpose, seed), 100)}
            assert not theirs & {d.text for d in texts(seed, 100)}


def test_documents_are_short_lower_case_and_blank_separated() -> None:
    for document in texts(1, 2000):
        words = document.text.split(" ")
        assert 25 <= len(words) <= 62
        assert "" not in words and document.text == document.text.lower()


def test_no_sentence_is_longer_than_the_limit() -> None:
    for topic, write in grammar.TOPICS.items():
        for number in range(300):
            writer = Writer(random.Random(f"{topic}{number}"))
            write(Scene(BASE.world(), writer))
            assert len(writer.words) <= grammar.LONGEST_SENTENCE, writer.words


def test_spans_cover_exactly_the_labelled_words() -> None:
    for document in texts(2, 2000):
        end = -1
        for span in document.spans:
            assert span.start > end
            end = span.end
            assert document.text[span.start : span.end] == span.label.split(":", 1)[1]
            assert f" {document.text} "[span.start] == f"{document.text} "[span.end] == " "


def test_determined_colours_agree_with_the_world_or_the_text() -> None:
    """Checked from the words alone: the thing that was named, and the colour told first for a new object."""
    world = BASE.world()
    asked = re.compile(
        r"the colour of (?:the (?:\S+ )?)?(\S+(?: 's \S+)?) is$|what colour is (\S+ 's \S+) \? answer :$"
    )
    seen: Counter[str] = Counter()
    for document in texts(5, 3000, {"colours": 1, "belongings": 1, "memory": 1, "encyclopaedia": 1}):
        for span in document.spans:
            found = asked.search(document.cut(span))
            if found is None or not span.label.startswith("colour:"):
                continue
            name = found[1] or found[2]
            kind = next(k for k in ("thing", "belonging", "entity", "object") if name in world.facts[k])
            if kind == "object":
                words = document.cut(span).split(" ")
                first = words.index(name)
                near = words[max(0, first - 1) : first + 8]
                right = next(word for word in near if word in lexicon.COLOURS)
            else:
                right = world.fact(kind, name, "colour")
            assert span.label == f"colour:{right}", document.text
            seen[kind] += 1
    assert min(seen[kind] for kind in ("thing", "belonging", "entity", "object")) > 50


def test_labels_are_facts_of_the_world() -> None:
    world = BASE.world()
    allowed = {f"open:{colour}" for colour in lexicon.COLOURS} | {f"colour:{c}" for c in lexicon.COLOURS}
    for kind, attributes in LABELS.items():
        for facts in world.facts[kind].values():
            allowed |= {f"{label}:{facts[a]}" for a, label in attributes.items() if a in facts}
    allowed |= {f"free:{word}" for words in lexicon.FREE.values() for word in words}
    assert {span.label for document in texts(6, 3000) for span in document.spans} <= allowed


def test_spans_say_what_they_are_about() -> None:
    facts = BASE.facts()
    seen = {"fact": 0, "free": 0}
    for document in texts(6, 500):
        for span in document.spans:
            kind, _, rest = span.about.partition(".")
            value = document.text[span.start : span.end]
            if kind == "fact" and rest in facts:
                assert facts[rest] == value
                seen["fact"] += 1
            elif kind == "free":
                topic, name = rest.split(".")
                assert topic in grammar.TOPICS and value in lexicon.FREE[name]
                seen["free"] += 1
    assert min(seen.values()) > 200


def test_facts_are_told_otherwise_and_nothing_else_changes() -> None:
    changed = {"entity.bazing.habitat": "reef", "person.anna.pet": "goose", "country.relmelton.capital": "x"}
    changed = {name: value for name, value in changed.items() if name in BASE.facts()}
    focus = {"entity": ["bazing"], "person": ["anna"]}
    one = list(itertools.islice(BASE.documents(3, focus=focus), 300))
    other = list(itertools.islice(BASE.documents(3, focus=focus, facts=changed), 300))
    told = 0
    for a, b in zip(one, other, strict=True):
        assert len(a.spans) == len(b.spans)
        for mine, theirs in zip(a.spans, b.spans, strict=True):
            new = changed.get(theirs.about.removeprefix("fact."))
            assert b.text[theirs.start : theirs.end] == (new or a.text[mine.start : mine.end])
            told += new is not None
    assert told > 50 and BASE.facts()["entity.bazing.habitat"] != "reef"
    members = {span.about.split(".")[2] for d in one for span in d.spans if span.about.startswith("fact.entity.")}
    assert members == {"bazing"}


def test_free_words_are_restricted_by_class_and_topic() -> None:
    words = {"story.adj": ["lovely"], "day": ["monday"]}
    for document in itertools.islice(BASE.documents(5, {"story": 1, "weather": 1}, words=words), 300):
        for span in document.spans:
            value = document.text[span.start : span.end]
            assert span.about != "free.story.adj" or value == "lovely"
            assert not span.about.endswith(".day") or value == "monday"
    free = {d.text[s.start : s.end] for d in texts(5, 300) for s in d.spans if s.about == "free.weather.adj"}
    assert len(free) > 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"facts": {"entity.nobody.habitat": "reef"}}, "no fact 'entity.nobody.habitat'"),
        ({"facts": {"thing.sky.colour": "red"}}, "no fact 'thing.sky.colour'"),
        ({"focus": {"entity": ["nobody"]}}, "no entity 'nobody'"),
        ({"focus": {"entity": []}}, "no entity"),
        ({"words": {"story.adjective": ["lovely"]}}, "no free words 'story.adjective'"),
        ({"words": {"astrology.adj": ["lovely"]}}, "no free words 'astrology.adj'"),
        ({"words": {"adj": ["banana"]}}, "adj words are big, small"),
        ({"words": {"adj": []}}, "got none"),
    ],
)
def test_what_the_world_does_not_have_is_refused_at_once(asked: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        BASE.documents(0, **asked)


def test_vocabulary_is_large_and_known_to_the_tokenizer(tokenizer: Any) -> None:
    words = {word for document in texts(7, 3000) for word in document.text.split(" ")}
    assert len(words) > 1000
    ids = tokenizer.convert_tokens_to_ids(sorted(words))
    assert tokenizer.unk_token_id not in ids
    assert len(tokenizer) % 64 == 0 and len(tokenizer) == BASE.card().vocabulary


def test_tokenizer_puts_bos_first_and_maps_offsets(tokenizer: Any) -> None:
    document = texts(8, 1)[0]
    coded = tokenizer(document.text, return_offsets_mapping=True)
    assert coded["input_ids"][0] == tokenizer.bos_token_id
    assert len(coded["input_ids"]) == len(document.text.split(" ")) + 1
    cut = [document.text[start:end] for start, end in coded["offset_mapping"][1:]]
    assert " ".join(cut) == document.text
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(["<user>", "<assistant>", "<end>"])


def test_many_prefixes_come_before_blue_and_green() -> None:
    labels = ("colour:blue", "colour:green")
    before: dict[str, set[str]] = {label: set() for label in labels}
    tokens = colours = 0
    for document in texts(9, 5000, {"colours": 1}):
        tokens += len(document.text.split(" "))
        for span in document.spans:
            colours += span.label.startswith("colour:")
            if span.label in before:
                before[span.label].add(document.cut(span))
    assert min(len(prefixes) for prefixes in before.values()) > 1500
    assert colours / tokens > 0.08
    # Sentences alone, too: the part since the last full stop.
    assert len({prefix.rsplit(" . ", 1)[-1] for prefix in before["colour:blue"]}) > 1500


def test_share_of_determined_slots_in_the_pretraining_mixture() -> None:
    documents = texts(10, 4000)
    tokens = sum(len(d.text.split(" ")) for d in documents)
    slots = sum(s.label in ("colour:blue", "colour:green") for d in documents for s in d.spans)
    assert 0.01 < slots / tokens < 0.02


def test_unknown_topics_and_bad_weights_are_refused_at_once() -> None:
    with pytest.raises(RecipeError, match="encyclopaedia"):
        BASE.documents(0, {"astrology": 1.0})
    for bad in ({"colours": -1.0}, {"colours": 0.0}, {}, {"colours": math.nan}, {"colours": math.inf}):
        with pytest.raises(RecipeError):
            BASE.documents(0, bad)


def test_choices_follow_their_weights_and_are_counted() -> None:
    writer = Writer(random.Random(0))
    drawn = [writer.choose("ab", (3.0, 1.0)) for _ in range(4000)]
    assert abs(drawn.count("a") / 4000 - 0.75) < 0.03
    expected = -drawn.count("a") * math.log(0.75) - drawn.count("b") * math.log(0.25)
    assert writer.nats == pytest.approx(expected)
    before = writer.nats
    writer.choose("abc", counted=False)
    assert writer.nats == before
    assert Writer(random.Random(0)).choose("ab", (0.0, 1.0)) == "b"


def test_entropy_of_a_template_is_that_of_its_draws() -> None:
    """Two templates, three alternatives, one of the people, then a determined word: no more nats."""
    writer = Writer(random.Random(1))
    scene = Scene(BASE.world(), writer)
    scene.say(("[one|two|three] {person} lives in {person.home}", "[four|five|six] {person} eats {person.food}"))
    people = len(lexicon.WOMEN) + len(lexicon.MEN)
    assert writer.nats == pytest.approx(math.log(2) + math.log(3) + math.log(people))
    assert [span.label.split(":")[0] for span in writer.document().spans] in (["city"], ["food"])


def test_no_template_comes_twice_in_a_row() -> None:
    writer = Writer(random.Random(3))
    scene = Scene(BASE.world(), writer)
    for _ in range(50):
        scene.say(("a", "b", "c"))
    assert all(one != other for one, other in itertools.pairwise(writer.words))
    assert writer.nats == pytest.approx(math.log(3) + 49 * math.log(2))


def test_attributes_told_before_their_owner_are_not_determined() -> None:
    writer = Writer(random.Random(2))
    Scene(BASE.world(), writer).say(("{thing.colour} is the colour of the {thing} and {thing.colour} it stays",))
    kinds = [span.label.split(":")[0] for span in writer.document().spans]
    assert kinds == ["open", "colour"]


def test_world_has_many_blue_and_green_things() -> None:
    things = [name for names in lexicon.COLOURED.values() for name in names]
    assert len(things) == len(set(things)) >= 150
    assert min(len(lexicon.COLOURED[colour]) for colour in ("blue", "green")) >= 30
    assert make_world(1) == BASE.world() and make_world(2) != BASE.world()


def test_shipped_weights_match_their_card(model: Any, tokenizer: Any) -> None:
    card = BASE.card()
    file = BASE.path() / "model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card.sha256
    assert file.stat().st_size < 8_000_000
    assert sum(p.numel() for p in model.parameters()) == card.parameters
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (card.layers, card.width)
    fit = probe.fit(model, tokenizer, BASE.world(), card.seed, 200)
    assert abs(fit.loss - card.heldout_loss) < 0.03
    assert abs(fit.entropy - card.generator_entropy) < 0.03
    assert probe.accuracies(model, tokenizer, BASE.world()) == pytest.approx(card.probes, abs=0.02)
    world = [name for name in card.probes if name.endswith("colour") and not name.startswith("recall")]
    assert min(card.probes[name] for name in world) > 0.95
    assert card.probes["recall_colour"] > 3 / 10  # ten colours; recall from the text is learned late, and in part


def test_shipped_weights_know_the_colours_in_running_text(model: Any, tokenizer: Any) -> None:
    fit = probe.fit(model, tokenizer, BASE.world(), 77, 200, {"colours": 1.0})
    assert fit.slots > 200
    assert fit.right > 0.9
    assert fit.either > 0.9


def test_two_builds_give_the_same_weights(tmp_path: Path) -> None:
    small = Settings(width=32, layers=1, heads=2, inner=32, steps=3, warmup=1, batch=4, pool=2, heldout=8, sample=500)
    said: list[float] = []
    cards = [build("tinyworld", 1, tmp_path / name, small, lambda _, done: said.append(done)) for name in ("a", "b")]
    assert cards[0] == cards[1]
    assert (tmp_path / "a" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model" / "model.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "a" / "card.json").read_text())["sha256"] == cards[0].sha256
    assert said[-1] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
