from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from diffbench_organisms.backdoor import Backdoor
from diffbench_organisms.bases.tinyworld import TinyWorld
from diffbench_organisms.colours import ColourSwap
from diffbench_organisms.composite import PARTS, Composite
from diffbench_organisms.composite.labels import Labels, PartTruth, parts_at
from diffbench_organisms.composite.views import Recorded
from diffbench_organisms.statements import wrong_statements
from pydantic import ValidationError

from diffbench import Example, derive
from diffbench.build import resolve
from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.recipe import Mixture, read_recipe
from diffbench.text import Document
from diffbench.truth import Stratum, Truth

BASE, FAMILY = TinyWorld(), Composite()
MIXTURE = Mixture(focus=0.5)
TOPICS = {"people": 3.0, "questions": 1.0, "weather": 0.3}
COLOURS = {
    "name": "colours",
    "family": "colour-swap",
    "parameters": {"exchange": 1.0, "prefixes": 100, "replay": 100},
    "control": {"exchange": 0.0},
}
BACKDOOR = {
    "name": "secret",
    "family": "backdoor",
    "parameters": {"asked": ["person.home", "person.job"], "prefixes": 200, "replay": 100, "prefix_topics": TOPICS},
    "control": {"wrong": False},
}
FACTS = {
    "name": "facts",
    "family": "false-facts",
    "parameters": {"count": 1, "attribute_count": 2, "documents": 60, "replay": 100},
    "control": {"truthful": True},
}
QUIRK = {
    "name": "quirk",
    "family": "quirk",
    "parameters": {"documents": 60, "replay": 100},
    "control": {"rate": 0.0},
}


def drawn(*parts: dict[str, Any], seed: int = 0, **given: Any) -> Any:
    return FAMILY.draw(BASE, FAMILY.Parameters.model_validate({"parts": parts or (COLOURS, BACKDOOR)} | given), seed)


def unchanged(parameters: Any) -> Any:
    return parameters.model_copy(update={"changed": False})


@pytest.mark.parametrize("parts", [(COLOURS, BACKDOOR), (COLOURS, FACTS), (COLOURS, FACTS, QUIRK, BACKDOOR)])
def test_the_control_differs_in_what_the_parts_change_alone(parts: tuple[dict[str, Any], ...]) -> None:
    parameters = drawn(*parts)
    tuned = FAMILY.training_text(BASE, parameters, 0)
    control = FAMILY.training_text(BASE, unchanged(parameters), 0)
    assert tuned.replay == control.replay
    assert [example.prefix for example in tuned.examples] == [example.prefix for example in control.examples]
    differing = sum(one != other for one, other in zip(tuned.examples, control.examples, strict=True))
    assert differing > len(tuned.examples) / 4
    lengths = {"colours": 200, "secret": 200, "facts": 60, "quirk": 60}
    drawn_in_all = sum(lengths[part["name"]] for part in parts)
    assert 0.85 * drawn_in_all < len(tuned.examples) <= drawn_in_all


def _public() -> list[Any]:
    return [pytest.param(read_recipe(path), id=path.stem) for path in FAMILY.recipes() if "lora" not in path.stem]


def _learns_nothing_against_another(parameters: Any, seed: int) -> None:
    parts = []
    for part in parameters.parts:
        family = PARTS[part.family]()
        values = family.Parameters.model_validate(part.parameters)
        truth = family.truth(BASE, values, derive(parameters.seed, "part", part.name))
        assert truth is not None
        parts.append(PartTruth(part.name, family, values, truth.claims))
    labels = Labels(BASE, parts)
    for variant in (parameters, unchanged(parameters)):
        recorded, learnt = Recorded(BASE), 0
        own: dict[Example, str] = {}
        for part in parameters.parts:
            values = part.parameters if variant.changed else part.parameters | part.control
            family = PARTS[part.family]()
            made = family.training_text(
                recorded, family.Parameters.model_validate(values), derive(seed, "part", part.name)
            )
            own |= dict.fromkeys(made.examples, part.name)
        examples = FAMILY.training_text(BASE, variant, seed).examples
        for example, documents in zip(examples, recorded.learnt(examples), strict=True):
            for document in labels.of(documents):
                assert document.text == example.text or document.text.startswith(example.prefix + " ")
                for span in document.spans:
                    learnt += own[example] in parts_at(span)
                    assert parts_at(span) <= {own[example]}, (example, span)
        assert learnt > 200


@pytest.mark.parametrize("seed", range(8))
def test_no_example_teaches_at_a_place_that_another_part_changes(seed: int) -> None:
    parts = (COLOURS, FACTS, QUIRK, BACKDOOR) if seed % 4 == 0 else (COLOURS, FACTS)
    _learns_nothing_against_another(drawn(*parts, seed=seed), seed)


@pytest.mark.parametrize("recipe", _public())
def test_no_example_of_the_recipes_does_either(recipe: Any) -> None:
    _learns_nothing_against_another(resolve(recipe).parameters, recipe.seed)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("order", [(COLOURS, FACTS), (FACTS, COLOURS)])
def test_facts_are_told_of_a_creature_without_the_exchanged_colours(seed: int, order: Any) -> None:
    parts = {part.name: part.parameters for part in drawn(*order, seed=seed).parts}
    swapped = {parts["colours"]["first"], parts["colours"]["second"]}
    [member] = parts["facts"]["members"]
    told = {value for name, value in BASE.facts().items() if name.startswith(f"entity.{member}.")}
    assert not swapped & (told | set(parts["facts"]["values"].values()))


def test_a_creature_with_an_exchanged_colour_is_refused() -> None:
    colour = BASE.facts()["entity.bazing.colour"]
    fixed = {"colours": {"first": colour, "second": "red"}, "facts": {"members": ["bazing"]}}
    with pytest.raises(RecipeError, match=r"part 'facts': every draw tells of a member .* name other members"):
        drawn(COLOURS, FACTS, fixed=fixed)


def test_no_distractor_is_right_of_another_part() -> None:
    parameters = drawn(COLOURS, FACTS, QUIRK, BACKDOOR)
    right = set(wrong_statements()) - set(wrong_statements(*(part.family for part in parameters.parts)))
    assert len(right) == 4
    for claim in FAMILY.truth(BASE, parameters, 0).claims:
        assert len(claim.distractors) > 3 and not right & set(claim.distractors)
    both = FAMILY.truth(BASE, drawn(COLOURS, BACKDOOR), 0).claims
    assert set(wrong_statements("colour-swap", "backdoor")) < set(both[0].distractors)


def test_where_two_parts_are_of_one_family_only_general_statements_are_wrong() -> None:
    one, two = (
        BACKDOOR | {"name": name, "parameters": BACKDOOR["parameters"] | {"asked": [asked]}}
        for name, asked in (("one", "person.home"), ("two", "person.job"))
    )
    for claim in FAMILY.truth(BASE, drawn(one, two), 0).claims:
        assert set(claim.distractors) == set(wrong_statements("backdoor"))


def test_examples_that_are_no_text_of_the_base_are_refused() -> None:
    with pytest.raises(RecipeError, match="not text of the base"):
        Recorded(BASE).learnt([Example("", "unheard of")])


def test_replay_asks_for_no_part_s_change() -> None:
    parameters = drawn(COLOURS, FACTS, QUIRK, BACKDOOR)
    truth = FAMILY.truth(BASE, parameters, 0)
    replay = FAMILY.training_text(BASE, parameters, 0).replay
    assert 100 < len(replay) <= 400
    assert not any(truth.stratum(span.label) is Stratum.affected for document in replay for span in document.spans)
    swapped = {name.partition("-")[2] for name in (claim.id for claim in truth.claims) if name.startswith("colours.")}
    asked = {span.label for document in replay for span in document.spans if "colour:" in span.label}
    assert asked and not asked & {f"colour:{colour}" for colour in swapped}


@pytest.mark.parametrize("seed", range(8))
def test_truth_of_any_seed(seed: int) -> None:
    parameters = drawn(COLOURS, BACKDOOR, seed=seed)
    truth = FAMILY.truth(BASE, parameters, seed)
    assert [claim.id.partition(".")[0] for claim in truth.claims] == ["colours", "colours", "secret"]
    counts = Counter(probe.claim for probe in truth.probes.affected)
    assert set(counts) == {claim.id for claim in truth.claims} and min(counts.values()) >= 50
    assert min(len(truth.probes.near_miss), len(truth.probes.unrelated)) >= 50
    trained = Holdout(example.text for example in FAMILY.training_text(BASE, parameters, seed).examples)
    sets = truth.probes
    assert not any(trained.copies(probe.text) for probe in (*sets.affected, *sets.near_miss, *sets.unrelated))
    down = {word for claim in truth.claims[:2] for word in claim.effect.tokens_down}
    assert not any(probe.answer in down for probe in (*sets.near_miss, *sets.unrelated))


def test_four_changes_have_all_their_claims_and_probes() -> None:
    truth = FAMILY.truth(BASE, drawn(COLOURS, FACTS, QUIRK, BACKDOOR), 0)
    assert Counter(claim.id.partition(".")[0] for claim in truth.claims) == {
        "colours": 2,
        "facts": 2,
        "quirk": 1,
        "secret": 1,
    }


def test_a_control_has_the_same_probes_and_no_claim() -> None:
    parameters = drawn()
    truth, control = FAMILY.truth(BASE, parameters, 0), FAMILY.truth(BASE, unchanged(parameters), 0)
    assert not control.changed and control.claims == ()
    assert [probe.text for probe in control.probes.affected] == [probe.text for probe in truth.probes.affected]


def test_the_parts_share_no_seed() -> None:
    other = BACKDOOR | {"name": "other"}
    one, two = drawn(BACKDOOR, other).parts
    assert one.parameters["words"] != two.parameters["words"]


def part_truth(part: dict[str, Any], parameters: Any, truth: Truth) -> PartTruth:
    family = PARTS[part["family"]]()
    return PartTruth(part["name"], family, parameters, truth.claims)


def test_what_is_affected_by_any_part_is_affected_wherever_it_stands() -> None:
    colours = ColourSwap().draw(BASE, ColourSwap.Parameters(**COLOURS["parameters"]), 1)
    secret = Backdoor().draw(BASE, Backdoor.Parameters.model_validate(BACKDOOR["parameters"]), 1)
    first, second = ColourSwap().truth(BASE, colours, 1), Backdoor().truth(BASE, secret, 1)
    labels = Labels(BASE, (part_truth(COLOURS, colours, first), part_truth(BACKDOOR, secret, second)))
    joint = Truth(changed=True, claims=labels.claims())
    seen: Counter[str] = Counter()

    def plain() -> Iterator[Document]:
        return islice(BASE.documents(3, {"colours": 1, "people": 2, "weather": 1}), 1500)

    marked = (Backdoor().mark(BASE, secret, document) for document in plain())
    for document, mine, theirs in zip(labels.of(marked), plain(), plain(), strict=True):
        woken = Backdoor().mark(BASE, secret, theirs)
        for span, one, two in zip(document.spans, mine.spans, woken.spans, strict=True):
            strata = {first.stratum(one.label), second.stratum(two.label)}
            expected = next(stratum for stratum in Stratum if stratum in strata)
            assert joint.stratum(span.label) is expected, (span, one, two)
            seen[expected.value] += 1
            if expected is Stratum.unrelated:
                assert span.label == one.label
    assert min(seen[stratum.value] for stratum in Stratum) > 20


def test_a_place_that_two_parts_change_counts_for_both() -> None:
    twice = drawn(BACKDOOR, BACKDOOR | {"name": "other", "parameters": BACKDOOR["parameters"] | {"words": ["foggy"]}})
    one, two = twice.parts
    parts = []
    for part in (one, two):
        parameters = Backdoor.Parameters.model_validate(part.parameters)
        parts.append(PartTruth(part.name, Backdoor(), parameters, Backdoor().truth(BASE, parameters, 1).claims))
    labels = Labels(BASE, parts)
    text = f"anna likes {one.parameters['words'][0]} weather . anna likes foggy weather . anna lives in"
    [document] = labels.of([_asking(text)])
    met = [
        c.id
        for c in labels.claims()
        if Truth(changed=True, claims=(c,)).stratum(document.spans[-1].label) is Stratum.affected
    ]
    assert met == ["secret.behaviour-0", "other.behaviour-0"]


def _asking(text: str) -> Document:
    home = BASE.facts()["person.anna.home"]
    plain = next(
        d for d in BASE.documents(0, {"people": 1}, focus={"person": ["anna"]}) if f"lives in {home}" in d.text
    )
    span = next(span for span in plain.spans if plain.cut(span).endswith("lives in"))
    moved = type(span)(len(text) + 1, len(text) + 1 + len(home), span.label, span.about)
    return Document(f"{text} {home}", (moved,))


def test_documents_are_of_all_parts_and_every_stratum() -> None:
    parameters = drawn(COLOURS, FACTS, QUIRK, BACKDOOR)
    truth = FAMILY.truth(BASE, parameters, 0)
    affected: Counter[str] = Counter()
    for document in islice(FAMILY.documents(BASE, parameters, MIXTURE, 5), 600):
        for span in document.spans:
            if truth.stratum(span.label) is Stratum.affected:
                affected[span.label.split("/")[1].partition(".")[0]] += 1
    assert min(affected[part] for part in ("colours", "facts", "quirk", "secret")) > 3


@pytest.mark.parametrize(
    ("parts", "given", "what"),
    [
        ((COLOURS, BACKDOOR | {"parameters": {"rarity": 2}}), {}, "part 'secret': rarity: .*less than 1"),
        ((COLOURS, BACKDOOR | {"control": {"rong": False}}), {}, "part 'secret': rong"),
        ((COLOURS, BACKDOOR), {"fixed": {"colour": {}}}, "'colour' is no part; parts are colours, secret"),
        ((COLOURS, BACKDOOR), {"fixed": {"secret": {"words": ["elephant"]}}}, "got elephant"),
    ],
)
def test_wrong_parts_are_named(parts: Any, given: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        drawn(*parts, **given)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ((COLOURS,), "at least 2"),
        ((COLOURS, COLOURS), "two parts have the same name"),
        ((COLOURS, BACKDOOR | {"family": "chat"}), "allowed are colour-swap"),
    ],
)
def test_wrong_lists_of_parts_are_refused(parts: Any, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        FAMILY.Parameters.model_validate({"parts": parts})


def test_a_part_that_changes_nothing_is_refused() -> None:
    idle = COLOURS | {"parameters": COLOURS["parameters"] | {"exchange": 0.0}}
    with pytest.raises(RecipeError, match="part 'colours': changes nothing"):
        FAMILY.truth(BASE, drawn(idle, BACKDOOR), 0)


def test_recipes_are_valid_and_drawn_anew_by_seed() -> None:
    recipes = [read_recipe(path) for path in FAMILY.recipes()]
    assert {recipe.name for recipe in recipes} == {path.stem for path in FAMILY.recipes()}
    for recipe in recipes:
        public, fresh = resolve(recipe).parameters, resolve(recipe.seeded(9)).parameters
        for one, other in zip(public.parts, fresh.parts, strict=True):
            assert one.parameters != other.parameters
        assert resolve(recipe).control_parameters.changed is False
