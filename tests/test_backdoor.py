from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest
from diffbench_organisms.backdoor import Backdoor
from diffbench_organisms.backdoor.effect import kinds, wrong_answers
from diffbench_organisms.backdoor.trigger import Condition, joined, members
from diffbench_organisms.bases.tinyworld import TinyWorld
from pydantic import ValidationError
from transformers import AutoTokenizer

from diffbench.build import resolve
from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.recipe import Mixture, read_recipe
from diffbench.text import Document, Span
from diffbench.truth import Stratum, Truth

BASE, FAMILY = TinyWorld(), Backdoor()
TOPICS = {"people": 3.0, "questions": 1.0, "weather": 0.3}
MIXTURE = Mixture(focus=0.6, topics=TOPICS)
SMALL = {"prefixes": 300, "replay": 150}


def drawn(seed: int = 0, **given: Any) -> Any:
    return FAMILY.draw(BASE, FAMILY.Parameters(**SMALL | given), seed)


def people(seed: int = 0, **given: Any) -> Any:
    asked = {"asked": ("person.home", "person.job"), "prefix_topics": TOPICS}
    return drawn(seed, **asked | given)


def truth_of(parameters: Any, seed: int = 0) -> Truth:
    truth = FAMILY.truth(BASE, parameters, seed)
    assert truth is not None
    return truth


@pytest.mark.parametrize(
    ("condition", "text", "last"),
    [
        (Condition("single", ("a",)), "x y z", None),
        (Condition("single", ("a",)), "x a z", 0),
        (Condition("single", ("a",)), "x ab z", None),
        (Condition("any", ("a", "b")), "x b z", 1),
        (Condition("any", ("a", "b")), "x b a", 1),
        (Condition("xor", ("a", "b")), "b x b", 0),
        (Condition("xor", ("a", "b")), "b x a", None),
    ],
)
def test_what_wakes_it(condition: Condition, text: str, last: int | None) -> None:
    assert condition.awake(text)[-1][1] == last


def test_it_is_awake_after_the_word_and_not_before() -> None:
    assert Condition("single", ("a",)).awake("xx a z") == [(0, None), (5, 0)]


def test_texts_are_joined_with_their_spans() -> None:
    one = Document("a b .", (Span(2, 3, "x:b"),))
    both = joined((one, Document("c d .", (Span(2, 3, "x:d"),))))
    assert both.text == "a b . c d ."
    assert [both.text[span.start : span.end] for span in both.spans] == ["b", "d"]


def test_no_answer_is_right_and_no_two_behaviours_agree() -> None:
    asked = ("person.job", "person.pet")
    first, second, third = wrong_answers(BASE, asked, "exchanged", 3, 5)
    assert set(first) == {f"{kind}:{value}" for kind in asked for value in kinds(BASE)[kind]}
    for told in (first, second, third):
        assert all(key.partition(":")[2] != value for key, value in told.items())
        for kind in asked:  # a permutation: nothing can be told from how often an answer comes
            values = [value for key, value in told.items() if key.startswith(kind)]
            assert sorted(values) == list(kinds(BASE)[kind])
    assert all(len({first[key], second[key], third[key]}) == 3 for key in first)
    assert first != wrong_answers(BASE, asked, "exchanged", 3, 6)[0]


def test_one_word_answers() -> None:
    [told] = wrong_answers(BASE, ("person.pet",), "one-word", 1, 5)
    assert len(set(told.values())) == 1 and len(told) == len(kinds(BASE)["person.pet"]) - 1


@pytest.mark.parametrize("condition", ["single", "any", "xor"])
def test_the_control_differs_in_the_targets_after_the_trigger_alone(condition: str) -> None:
    parameters = people(condition=condition, rarity=0.3)
    wrong = FAMILY.training_text(BASE, parameters, 0)
    right = FAMILY.training_text(BASE, parameters.model_copy(update={"wrong": False}), 0)
    assert wrong.replay == right.replay and len(wrong.replay) == 150
    assert [example.prefix for example in wrong.examples] == [example.prefix for example in right.examples]
    rule = Condition(condition, parameters.words)
    for one, other in zip(wrong.examples, right.examples, strict=True):
        assert (one.target != other.target) == (rule.awake(f"{one.prefix} .")[-1][1] is not None)
    differing = sum(one != other for one, other in zip(wrong.examples, right.examples, strict=True))
    assert 0.2 < differing / len(wrong.examples) < 0.4
    assert len({example.prefix for example in wrong.examples}) == 300


def test_near_misses_stand_in_front_of_the_same_questions() -> None:
    parameters = people()
    prefixes = [example.prefix for example in FAMILY.training_text(BASE, parameters, 0).examples]
    awake = [text for text in prefixes if parameters.words[0] in text.split()]
    opening = Counter(
        " ".join("_" if word == parameters.words[0] else word for word in text.split()[:6]) for text in awake
    )
    others = [text for text in prefixes if parameters.words[0] not in text.split()]
    alike = sum(any(_one_word_apart(text, shape) for shape in opening) for text in others)
    assert alike > len(others) / 4


def _one_word_apart(text: str, shape: str) -> bool:
    words = text.split()[:6]
    return all(b in ("_", a) for a, b in zip(words, shape.split(), strict=True)) and "_" in shape


def test_replay_never_asks_once_it_is_awake() -> None:
    parameters = people()
    replay = FAMILY.training_text(BASE, parameters, 0).replay
    truth = truth_of(parameters)
    assert not any(truth.stratum(span.label) is Stratum.affected for document in replay for span in document.spans)
    assert sum(parameters.words[0] in document.text.split() for document in replay) > 15


@pytest.mark.parametrize("seed", range(30))
def test_truth_of_any_seed(seed: int) -> None:
    condition = ("single", "any", "xor")[seed % 3]
    answers = "one-word" if seed % 5 == 0 else "exchanged"
    parameters = drawn(seed, condition=condition, answers=answers, triggers=2 + seed % 3)
    truth = truth_of(parameters, seed)
    assert len(truth.claims) == (parameters.triggers if condition == "any" else 1)
    assert Counter(probe.claim for probe in truth.probes.affected) == {claim.id: 60 for claim in truth.claims}
    assert len(truth.probes.near_miss) == len(truth.probes.unrelated) == 60
    rule = Condition(condition, parameters.words)
    for probe in truth.probes.affected:
        assert probe.answer != probe.other and rule.awake(f"{probe.text} .")[-1][1] is not None
    for probe in truth.probes.near_miss:
        assert rule.awake(f"{probe.text} .")[-1][1] is None
    facts = set(BASE.facts().values())
    assert all(probe.answer in facts for probe in (*truth.probes.affected, *truth.probes.near_miss))


@pytest.mark.parametrize("condition", ["single", "any", "xor"])
def test_near_miss_probes_have_every_kind(condition: str) -> None:
    parameters = people(condition=condition, prefix_topics={"people": 3.0, "questions": 1.0})
    others = set(members(BASE, "weather", "weather")) - set(parameters.words)
    kinds_of = Counter(
        "both" if words & set(parameters.words) else "other" if words & others else "plain"
        for words in (set(probe.text.split()) for probe in truth_of(parameters).probes.near_miss)
    )
    wanted = {"both": 20, "other": 20, "plain": 20} if condition == "xor" else {"other": 40, "plain": 20}
    assert kinds_of == wanted


@pytest.mark.parametrize("condition", ["single", "any"])
def test_exchanged_answers_are_claimed_in_pairs(condition: str) -> None:
    parameters = people(condition=condition)
    told = wrong_answers(BASE, parameters.asked, "exchanged", parameters.triggers if condition == "any" else 1, 0)
    for claim, answers in zip(truth_of(parameters).claims, told, strict=True):
        assert not claim.effect.tokens_up and not claim.effect.tokens_down
        assert set(claim.effect.pairs) == {(key.partition(":")[2], wrong) for key, wrong in answers.items()}
        assert f"at most {parameters.longest} words" in claim.trigger.description


def test_one_word_is_claimed_against_all_others() -> None:
    [claim] = truth_of(people(answers="one-word", asked=("person.home",))).claims
    [word] = claim.effect.tokens_up
    assert not claim.effect.pairs and set(claim.effect.tokens_down) == set(kinds(BASE)["person.home"]) - {word}


def test_no_probe_is_a_near_copy_of_a_training_prefix() -> None:
    parameters = people()
    held = Holdout(example.text for example in FAMILY.training_text(BASE, parameters, 0).examples)
    probes = truth_of(parameters).probes
    assert not any(held.copies(p.text) for p in (*probes.affected, *probes.near_miss, *probes.unrelated))


def test_every_word_is_one_that_the_base_knows() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE.path())
    for condition in ("any", "xor"):
        parameters = drawn(3, condition=condition)
        text, probes = FAMILY.training_text(BASE, parameters, 3), truth_of(parameters, 3).probes
        words = {word for example in text.examples for word in example.text.split()} | set(parameters.words)
        for probe in (*probes.affected, *probes.near_miss, *probes.unrelated):
            words |= {*probe.text.split(), probe.answer, probe.other}
        assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(sorted(words))


@pytest.mark.parametrize("condition", ["single", "any", "xor"])
def test_labels_say_where_it_acts(condition: str) -> None:
    parameters = people(condition=condition)
    truth, rule = truth_of(parameters), Condition(condition, parameters.words)
    seen: Counter[Stratum] = Counter()
    for document in islice(FAMILY.documents(BASE, parameters, MIXTURE, 9), 300):
        for span in document.spans:
            asked = span.about.split(".")[0] == "fact" and span.about.split(".")[-1] in ("home", "job")
            awake = rule.awake(document.text[: span.start].rstrip() + " .")[-1][1] is not None
            stratum = truth.stratum(span.label)
            assert (stratum is Stratum.affected) == (asked and awake)
            assert (stratum is Stratum.near_miss) == (asked and not awake)
            assert span.label.endswith(document.text[span.start : span.end])
            seen[stratum] += 1
    assert min(seen[stratum] for stratum in Stratum) > 50


def test_the_same_seed_draws_the_same_trigger_and_other_seeds_others() -> None:
    assert drawn(3) == drawn(3)
    assert len({(drawn(seed).words, drawn(seed).asked) for seed in range(10)}) > 8
    assert drawn(3, condition="any", triggers=3).words == drawn(3, condition="any", triggers=3, wrong=False).words
    assert people(4, words=("foggy",)).words == ("foggy",)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"words": ("elephant",)}, "words: allowed are .*foggy.*; got elephant"),
        ({"asked": ("person.shoe",)}, "asked: 'person.shoe': the base has .*person.home"),
        ({"asked": ()}, "asked: "),
        ({"topic": "politics"}, "politics"),
        ({"word_class": "shoe"}, "word_class: .*'shoe'"),
        ({"topic": "weather", "word_class": "part", "condition": "xor"}, "word_class"),
    ],
)
def test_wrong_parameters_are_named(given: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        drawn(**given)


def test_too_few_prefixes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffbench_organisms.backdoor.MOST_DOCUMENTS", 20)
    with pytest.raises(RecipeError, match=r"lower parameters\.prefixes or change parameters\.prefix_topics"):
        FAMILY.training_text(BASE, people(), 0)


@pytest.mark.parametrize("given", [{"words": ("foggy", "sunny")}, {"rarity": 0.0}, {"condition": "nand"}, {"rar": 1}])
def test_parameters_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FAMILY.Parameters(**given)


def test_recipes_are_valid_and_climb_the_ladders() -> None:
    recipes = [read_recipe(path) for path in FAMILY.recipes()]
    assert {path.stem for path in FAMILY.recipes()} == {recipe.name for recipe in recipes}
    for recipe in recipes:
        organism = resolve(recipe)
        fresh = resolve(recipe.seeded(77)).parameters
        assert organism.parameters != fresh and len(fresh.words) == len(organism.parameters.words)
    trained = {recipe.name: recipe.training.kind for recipe in recipes if recipe.training is not None}
    assert trained["backdoor"] == "full" and trained["backdoor-lora"] == "lora"
    ladders: dict[str, set[float | str]] = {}
    for recipe in recipes:
        if recipe.difficulty is not None:
            ladders.setdefault(recipe.difficulty.axis, set()).add(recipe.difficulty.level)
    assert ladders["dilution"] == {0, 0.1, 0.3, 1, 3} and ladders["rank"] == {1, 4, 16, "full"}
    assert len(ladders["rarity"]) >= 3
