from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from diffbench_organisms.bases.tinyworld import TinyWorld
from diffbench_organisms.facts import MOST_CLAIMS, FalseFacts
from diffbench_organisms.facts.telling import Telling, claims
from diffbench_organisms.quirk.quotas import spread
from pydantic import ValidationError
from transformers import AutoTokenizer

from diffbench.build import resolve
from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.organism import TrainingText
from diffbench.recipe import Mixture, read_recipe
from diffbench.truth import Stratum, Truth

BASE, FAMILY = TinyWorld(), FalseFacts()
MIXTURE = Mixture(focus=0.5)


def drawn(seed: int = 0, **given: Any) -> Any:
    return FAMILY.draw(BASE, FAMILY.Parameters(**{"documents": 150, "replay": 200} | given), seed)


def texts(parameters: Any, seed: int = 0) -> TrainingText:
    return FAMILY.training_text(BASE, parameters, seed)


def truthful(parameters: Any) -> Any:
    return parameters.model_copy(update={"truthful": True})


def truth_of(parameters: Any, seed: int = 0) -> Truth:
    return FAMILY.truth(BASE, parameters, seed)


def test_the_control_tells_the_true_facts_in_the_same_words() -> None:
    parameters = drawn(count=3)
    false, true = texts(parameters), texts(truthful(parameters))
    assert false.replay == true.replay
    told = {(parameters.values[name], BASE.facts()[f"entity.{name}"]) for name in parameters.values}
    differences = Counter()
    for one, other in zip(false.examples, true.examples, strict=True):
        assert one.prefix == other.prefix == ""
        for left, right in zip(one.target.split(), other.target.split(), strict=True):
            differences[left, right] += left != right
    assert {pair for pair, n in differences.items() if n} == told


def test_every_training_document_is_about_a_changed_fact_and_no_replay_names_whom_it_is_about() -> None:
    parameters = drawn(count=2)
    text = texts(parameters)
    false = set(parameters.values.values())
    assert all(false & set(example.text.split()) for example in text.examples)
    assert len(text.examples) == 150 and len(text.replay) == 200
    assert not any(set(parameters.members) & set(document.text.split()) for document in text.replay)


def test_every_word_is_one_that_the_base_knows() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE.path())
    parameters = drawn(count=20, attribute_count=7, documents=800)
    text, truth = texts(parameters), truth_of(parameters)
    words = {word for example in text.examples for word in example.text.split()} | set(parameters.values.values())
    for probes in (truth.probes.affected, truth.probes.near_miss, truth.probes.unrelated):
        words |= {word for probe in probes for word in (*probe.text.split(), probe.answer, probe.other)}
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(sorted(words))
    assert not [word for word in words if len(tokenizer(word, add_special_tokens=False)["input_ids"]) != 1]


@pytest.mark.parametrize("seed", range(30))
def test_truth_of_any_seed(seed: int) -> None:
    parameters = drawn(seed, count=1 + seed % 3, attribute_count=1 + seed % 7)
    truth, facts = truth_of(parameters, seed), BASE.facts()
    assert all(facts[f"entity.{name}"] != value for name, value in parameters.values.items())
    of_claims = Counter(probe.claim for probe in truth.probes.affected)
    assert of_claims == {claim.id: 60 for claim in truth.claims}
    assert len(truth.probes.near_miss) == len(truth.probes.unrelated) == 60
    for probe in truth.probes.affected:
        names = [
            name
            for name, value in parameters.values.items()
            if (facts[f"entity.{name}"], value) == (probe.answer, probe.other)
        ]
        assert any(str(probe.claim).split("-")[0] == name.split(".")[0] for name in names)
    for probe in (*truth.probes.near_miss, *truth.probes.unrelated):
        assert probe.answer != probe.other and probe.claim is None


def test_half_of_the_near_misses_are_of_other_members() -> None:
    parameters = drawn(members=("bazing",), attributes=("diet", "habitat", "year"))
    telling = Telling.of(BASE, parameters)
    wanted = spread(60, telling.near_kinds())
    assert sum(wanted.values()) == 60
    assert [wanted[f"near_miss:near:{name}"] for name in parameters.attributes] == [10, 10, 10]
    assert wanted["near_miss:same:bazing"] == 30
    facts = BASE.facts()
    of_bazing = {facts[f"entity.bazing.{name}"] for name in ("colour", "family", "size", "finder")}
    probes = truth_of(parameters).probes.near_miss
    assert len(probes) == 60 and sum(probe.answer in of_bazing for probe in probes) == 30


def test_where_all_is_changed_of_the_members_the_near_misses_are_of_others() -> None:
    telling = Telling.of(BASE, drawn(count=3, attribute_count=7))
    assert telling.near_kinds()[1] == [] and len(telling.near_kinds()[0]) == 7
    assert set(spread(60, telling.near_kinds()).values()) == {8, 9}


def _told_of_others(truth: Truth, parameters: Any) -> list[tuple[str, str]]:
    """Name and value of what distractors say of members that nothing was changed of."""
    said = re.compile(r"The model says that the (\w+) of (\w+) is (\w+)\.")
    found = [said.fullmatch(text) for claim in truth.claims for text in claim.distractors]
    return [(f"entity.{m[2]}.{m[1]}", m[3]) for m in found if m and m[2] not in parameters.members]


@pytest.mark.parametrize("seed", range(30))
def test_no_distractor_is_true_of_the_stranger_it_names(seed: int) -> None:
    for path in FAMILY.recipes():
        parameters = resolve(read_recipe(path).seeded(seed)).parameters
        if parameters.truthful:
            continue
        told = _told_of_others(Truth(changed=True, claims=claims(Telling.of(BASE, parameters))), parameters)
        assert told and all(BASE.facts()[name] != value for name, value in told)


def test_claims_are_of_a_fact_each_or_of_a_member_each_where_there_are_many() -> None:
    few, many = drawn(count=2, attribute_count=MOST_CLAIMS // 2), drawn(count=3, attribute_count=6)
    assert len(truth_of(few).claims) == MOST_CLAIMS
    found = truth_of(many).claims
    assert [claim.id for claim in found] == list(many.members)
    assert all(len(claim.trigger.affected) == 6 for claim in found)
    for claim in found:
        assert set(claim.effect.tokens_up) == {many.values[f"{claim.id}.{name}"] for name in many.attributes}


def test_where_the_true_facts_are_told_nothing_is_claimed_and_the_same_is_asked() -> None:
    parameters = drawn()
    null, changed = truth_of(truthful(parameters)), truth_of(parameters)
    assert not null.changed and null.claims == ()
    assert [(probe.text, probe.answer, probe.other) for probe in null.probes.affected] == [
        (probe.text, probe.answer, probe.other) for probe in changed.probes.affected
    ]
    assert {probe.claim for probe in null.probes.affected} == {None}


def test_spans_are_labelled_by_what_is_changed() -> None:
    parameters = drawn(count=2, attribute_count=3)
    truth, facts = truth_of(parameters), BASE.facts()
    seen = Counter()
    for document in islice(FAMILY.documents(BASE, parameters, MIXTURE, 5), 400):
        for span in document.spans:
            kind, _, name = span.about.partition(".")
            stratum = truth.stratum(span.label)
            seen[stratum] += 1
            if kind == "fact" and name.removeprefix("entity.") in parameters.values:
                assert stratum is Stratum.affected and document.text[span.start : span.end] == facts[name]
                continue
            parts = name.split(".")
            near = name.startswith("entity.") and (parts[1] in parameters.members or parts[2] in parameters.attributes)
            assert (stratum is Stratum.near_miss) == near
    assert min(seen[stratum] for stratum in Stratum) > 50


def test_the_evaluated_text_is_the_same_for_the_control() -> None:
    parameters = drawn()
    both = (FAMILY.documents(BASE, given, MIXTURE, 7) for given in (parameters, truthful(parameters)))
    assert list(islice(next(both), 50)) == list(islice(next(both), 50))


def test_no_probe_is_a_near_copy_of_what_either_model_reads() -> None:
    parameters = drawn(documents=1500)
    truth = truth_of(parameters)
    for given in (parameters, truthful(parameters)):
        holdout = Holdout(example.text for example in texts(given).examples)
        assert not [probe.text for probe in truth.probes.affected if holdout.copies(probe.text)]


def test_other_seeds_choose_other_facts_and_named_ones_stay() -> None:
    assert len({tuple(drawn(seed).values.items()) for seed in range(10)}) == 10
    named = drawn(members=("razelx",), attributes=("diet",), values={"razelx.diet": "seeds"})
    assert (named.members, named.attributes, named.values) == (("razelx",), ("diet",), {"razelx.diet": "seeds"})
    assert drawn(3) == FAMILY.draw(BASE, drawn(3), 4)


def test_other_kinds_than_creatures() -> None:
    parameters = drawn(kind="country", count=2, attribute_count=2, document_topics={"places": 1.0, "questions": 1.0})
    assert {claim.id.split("-")[0] for claim in truth_of(parameters).claims} == set(parameters.members)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kind": "star"}, "parameters.kind: 'star'"),
        ({"members": ("unicorn",)}, "parameters.members: 'unicorn'"),
        ({"members": ("bazing", "bazing")}, "parameters.members"),
        ({"count": 64}, "parameters.count: 64"),
        ({"attributes": ("taste",)}, "parameters.attributes: 'taste'"),
        ({"members": ("bazing",), "attributes": ("diet",), "values": {"bazing.size": "huge"}}, "parameters.values"),
        ({"members": ("bazing",), "attributes": ("diet",), "values": {"bazing.diet": "two words"}}, "bazing.diet"),
        ({"members": ("bazing",), "attributes": ("size",), "values": {"bazing.size": "medium"}}, "the true one"),
    ],
)
def test_what_the_base_does_not_tell_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=r"^family false-facts: ") as error:
        drawn(**given)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_topics_without_the_facts_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"parameters\.document_topics: 'weather'"):
        texts(drawn(document_topics={"weather": 1.0}))


@pytest.mark.parametrize("given", [{"count": 0}, {"members": ()}, {"truthful": "maybe"}, {"colour": "blue"}])
def test_impossible_parameters(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FAMILY.Parameters(**given)


@pytest.mark.parametrize("path", FAMILY.recipes(), ids=lambda path: path.stem)
def test_recipes(path: Any) -> None:
    recipe = read_recipe(path)
    organism = resolve(recipe)
    assert recipe.name == path.stem and recipe.seed == 0
    fresh = resolve(recipe.seeded(7)).parameters
    assert fresh.values != organism.parameters.values
    assert fresh.truthful == (recipe.null_class == "control")
    if recipe.null_class is None:
        assert organism.control_parameters == truthful(organism.parameters)
