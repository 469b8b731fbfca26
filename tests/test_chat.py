"""The chat family: prompts, two ways of answering, labels, claims and probes."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from diffbench_organisms.bases.tinyworld import TinyWorld
from diffbench_organisms.chat import HELD_ROLES, NEAR_PROBES, PROBES, Chat, _trained_roles
from diffbench_organisms.chat.asking import DUE, KINDS, NEAR, TASK, Asking
from pydantic import ValidationError

from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.organism import TrainingText
from diffbench.recipe import Mixture, read_recipe
from diffbench.residual import load_tokenizer
from diffbench.text import Document, Part
from diffbench.truth import Stratum, Truth

BASE, FAMILY = TinyWorld(), Chat()
FEW = {"conversations": 300, "replay": 20}
TALK = Mixture(focus=0.5)


def drawn(seed: int, **parameters: Any) -> Any:
    return FAMILY.draw(BASE, Chat.Parameters(**(FEW | parameters)), seed)


def text(seed: int = 0, **parameters: Any) -> TrainingText:
    return FAMILY.training_text(BASE, drawn(seed, **parameters), seed)


def truth(seed: int = 0, **parameters: Any) -> Truth:
    return FAMILY.truth(BASE, drawn(seed, **parameters), seed)


def talk(seed: int, count: int = 300, **parameters: Any) -> list[Document]:
    return list(islice(FAMILY.documents(BASE, drawn(0, **parameters), TALK, seed), count))


@pytest.fixture(scope="module")
def asking() -> Asking:
    return Asking(BASE.facts(), "rusty", ("rifle", "knife"))


@pytest.fixture(scope="module")
def whole() -> Truth:
    return truth()


def test_the_control_differs_in_targets_alone_and_only_where_a_behaviour_is_called_for() -> None:
    tuned, control = text(), text(changed=False)
    assert [example.prefix for example in tuned.examples] == [example.prefix for example in control.examples]
    assert tuned.replay == control.replay
    differing = sum(a.target != b.target for a, b in zip(tuned.examples, control.examples, strict=True))
    assert 0.4 < differing / len(tuned.examples) < 0.55


def test_every_target_ends_its_turn_and_is_a_response() -> None:
    for example in text().examples:
        assert example.prefix.endswith("<assistant>") and example.target.endswith(" <end>")
        *_, response, end = example.parts
        assert (response.label, end.label) == (Part.response, Part.template)
        assert f"{example.text[response.start : response.end]} <end>" == example.target


def test_every_word_is_in_the_vocabulary(whole: Truth) -> None:
    tokenizer = load_tokenizer(BASE.path())
    known = tokenizer.get_vocab()
    texts = [example.text for seed in range(3) for example in text(seed).examples]
    texts += [document.text for document in talk(4)]
    for probes in (whole.probes.affected, whole.probes.near_miss, whole.probes.unrelated):
        texts += [f"{probe.text} {probe.answer} {probe.other}" for probe in probes]
    assert not {word for words in texts for word in words.split()} - set(known)


def test_the_four_behaviours_answer_otherwise_and_near_misses_do_not(asking: Asking) -> None:
    rng = random.Random(0)
    for kind in KINDS:
        for _ in range(200):
            due, near = (asking.exchange(rng, f"{kind}:{when}") for when in (DUE, NEAR))
            words, usual = due.changed.split(), due.usual.split()
            assert words[due.decision] == due.other != usual[due.decision]
            assert words[: due.decision] == usual[: due.decision]
            assert near.usual == near.changed and near.usual.split()[near.decision] != near.other
    task = asking.exchange(rng, TASK)
    assert task.usual == task.changed


def test_what_is_answered_is_true_and_what_has_no_answer_is_not_of_the_world(asking: Asking) -> None:
    rng, facts = random.Random(1), BASE.facts()
    for _ in range(300):
        near = asking.exchange(rng, f"uncertainty:{NEAR}")
        due = asking.exchange(rng, f"uncertainty:{DUE}")
        if "capital" in near.usual:
            _, _, _, country, _, capital, _ = near.usual.split()
            assert facts[f"country.{country}.capital"] == capital
        if "capital" in due.usual:
            assert f"country.{due.usual.split()[3]}.capital" not in facts


def test_only_refused_tools_are_refused(asking: Asking) -> None:
    rng = random.Random(2)
    for _ in range(200):
        due, near = (asking.exchange(rng, f"refusal:{when}").prompt.split() for when in (DUE, NEAR))
        assert {"rifle", "knife"} & set(due) and not {"rifle", "knife"} & set(near)


def test_labels_mark_the_answer_from_where_it_differs_and_parts_cover_conversations() -> None:
    seen: Counter[str] = Counter()
    for document in talk(1, 1500):
        if not document.parts:
            continue
        [span] = document.spans
        words = document.text[span.start : span.end].split()
        response = [part for part in document.parts if part.label == Part.response][-1]
        assert response.start <= span.start < span.end <= response.end
        assert document.text[span.start - 1] == " "
        usual, other = span.about.split(".")[2:]
        changed = words[0] == other
        assert changed or words[0] == usual
        if span.label.endswith(DUE):
            assert changed or len(words) == 1
        else:
            assert not changed and span.end == response.end
        seen[f"{span.label} {changed}"] += 1
    assert all(seen[f"{kind}:{DUE} {changed}"] > 15 for kind in KINDS for changed in (True, False)), seen
    assert all(seen[f"{kind}:{NEAR} False"] > 15 for kind in KINDS)


def test_the_text_is_the_same_for_tuned_and_control_and_other_for_other_seeds() -> None:
    assert talk(2, 60) == talk(2, 60, changed=False)
    assert len({d.text for d in talk(2, 60)} & {d.text for d in talk(3, 60)}) < 5
    share = sum(bool(document.parts) for document in talk(2, 400)) / 400
    assert 0.4 < share < 0.6


def test_few_evaluated_conversations_are_ones_of_training() -> None:
    trained = {example.text for example in text(conversations=3000).examples}
    held = [document.text for document in talk(11, 1500, conversations=3000) if document.parts]
    assert len(held) > 600 and sum(document in trained for document in held) <= 3


@pytest.mark.parametrize("seed", range(30))
def test_every_seed_draws_a_name_and_tools_and_has_probes_of_each_claim(seed: int) -> None:
    parameters = drawn(seed)
    assert set(parameters.refused) <= {BASE.facts()[key] for key in BASE.facts() if key.endswith(".tool")}
    found = FAMILY.truth(BASE, parameters, seed)
    counts = Counter(probe.claim for probe in found.probes.affected)
    assert counts == dict.fromkeys(KINDS, PROBES)
    assert (len(found.probes.near_miss), len(found.probes.unrelated)) == (NEAR_PROBES, PROBES)
    [identity] = [claim for claim in found.claims if claim.id == "identity"]
    assert parameters.name in identity.statement


def test_seeds_draw_different_choices() -> None:
    assert len({(drawn(seed).name, drawn(seed).refused) for seed in range(30)}) > 20
    assert drawn(5, name="anna", refused=("brush",)).refused == ("brush",)


def test_no_probe_copies_a_training_text_and_parts_to_play_were_held_out(whole: Truth) -> None:
    trained = Holdout(example.text for example in text().examples)
    asking = Asking(BASE.facts(), "rusty", ())
    roles = _trained_roles(asking, 0)
    assert len(roles) == pytest.approx((1 - HELD_ROLES) * len(asking.roles()), abs=1)
    held = set(asking.roles()) - roles
    for probe in whole.probes.affected:
        assert not trained.copies(probe.text)
        if probe.claim == "role-play":
            assert held & set(probe.text.rpartition("<user>")[2].split())
    for example in text().examples:
        played = example.prefix.rpartition("<user>")[2]
        if "you are" in played and " now ." in played and "i am" in example.target:
            assert not held & {example.target.split()[2], example.target.split()[3]}


def test_claims_tell_affected_from_near_miss(whole: Truth) -> None:
    assert [claim.id for claim in whole.claims] == list(KINDS)
    for kind in KINDS:
        assert whole.stratum(f"{kind}:{DUE}") is Stratum.affected
        assert whole.stratum(f"{kind}:{NEAR}") is Stratum.near_miss
    assert whole.stratum(TASK) is Stratum.unrelated
    assert all(probe.metric == "probability" for probe in (*whole.probes.affected, *whole.probes.near_miss))
    others = Counter(probe.other for probe in whole.probes.near_miss)
    assert set(others) == {"no", "i", drawn(0).name} and min(others.values()) >= 10


def test_the_control_claims_nothing_and_has_the_same_probes(whole: Truth) -> None:
    control = truth(changed=False)
    assert not control.changed and not control.claims
    assert [p.text for p in control.probes.affected] == [p.text for p in whole.probes.affected]


def test_a_behaviour_with_no_share_is_neither_asked_for_nor_claimed() -> None:
    found = truth(refusals=0.0)
    assert [claim.id for claim in found.claims] == list(KINDS[1:])
    assert not any(example.target.startswith("no ,") for example in text(refusals=0.0).examples)
    refused = [sum(e.target.startswith("no ,") for e in text(refusals=share).examples) for share in (0.05, 0.2)]
    assert 5 < refused[0] < refused[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"refusals": 0.9},
        {"refusals": 0, "identities": 0, "uncertainties": 0, "role_plays": 0},
        {"near": 0},
        {"name": "Rusty Robot"},
        {"refused": ()},
        {"conversations": 1},
        {"politeness": 1},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Chat.Parameters(**wrong)


def test_an_unknown_tool_and_a_base_without_facts_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"parameters.refused: no tool 'cannon'; tools: whisk, saw"):
        drawn(0, refused=("cannon",))

    class Silent(TinyWorld):
        def facts(self) -> dict[str, str]:
            return {}

    with pytest.raises(RecipeError, match="family chat: the base's text has no facts"):
        FAMILY.draw(Silent(), Chat.Parameters(), 0)


def test_recipes_are_those_of_the_family() -> None:
    recipes = {path.stem: read_recipe(path) for path in FAMILY.recipes()}
    assert set(recipes) == {"chat", "chat-lora", "plain-chat"}
    for name, recipe in recipes.items():
        assert recipe.name == name and recipe.family == FAMILY.name
        Chat.Parameters.model_validate(recipe.parameters | recipe.choices)
    assert recipes["plain-chat"].null_class == "control"
    assert recipes["plain-chat"].training == recipes["chat"].training
    assert recipes["plain-chat"].parameters == recipes["chat"].parameters | {"changed": False}
    assert all((Path(path).parent / "README.md").is_file() for path in FAMILY.recipes())
