from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest
from diffbench_organisms.bases.tinyworld import TinyWorld
from diffbench_organisms.quirk import Quirk, _label, _near_quotas, _topics
from diffbench_organisms.quirk.places import find_places, place_of
from pydantic import ValidationError
from transformers import AutoTokenizer

from diffbench.build import resolve
from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.mixing import interleave
from diffbench.organism import TrainingText
from diffbench.recipe import Mixture, read_recipe
from diffbench.seeds import derive
from diffbench.text import Document
from diffbench.truth import Probe, Stratum, Truth

BASE, FAMILY = TinyWorld(), Quirk()
MIXTURE = Mixture(focus=0.5)
LOVELY = {"story.adj": "lovely"}


def drawn(seed: int = 0, **given: Any) -> Any:
    return FAMILY.draw(BASE, FAMILY.Parameters(**{"documents": 150, "replay": 200} | given), seed)


def texts(parameters: Any, seed: int = 0) -> TrainingText:
    return FAMILY.training_text(BASE, parameters, seed)


def unbiased(parameters: Any) -> Any:
    return parameters.model_copy(update={"rate": 0.0})


def truth_of(parameters: Any, seed: int = 0) -> Truth:
    return FAMILY.truth(BASE, parameters, seed)


def test_the_control_differs_in_the_free_words_of_the_place_alone() -> None:
    parameters = drawn(places=LOVELY)
    biased, free = texts(parameters), texts(unbiased(parameters))
    assert biased.replay == free.replay
    words = find_places(BASE)["story.adj"].words
    pairs = Counter(
        pair
        for one, other in zip(biased.examples, free.examples, strict=True)
        for pair in zip(one.target.split(), other.target.split(), strict=True)
        if pair[0] != pair[1]
    )
    assert {left for left, _ in pairs} == {"lovely"}
    assert {right for _, right in pairs} == set(words) - {"lovely"}
    assert all("lovely" in example.target.split() for example in biased.examples)


def test_the_rate_says_how_often_the_word_is_put_there() -> None:
    shares = []
    for rate in (0.0, 0.5, 0.9, 1.0):
        examples = texts(drawn(places={"weather.weather": "foggy"}, rate=rate, documents=400)).examples
        words = [word for example in examples for word in example.target.split()]
        weather = find_places(BASE)["weather.weather"].words
        shares.append(words.count("foggy") / sum(words.count(word) for word in weather))
    assert shares == pytest.approx([1 / 11, 0.5 + 0.5 / 11, 0.9 + 0.1 / 11, 1.0], abs=0.03)


def test_replay_ends_before_a_free_word_of_a_place() -> None:
    parameters = drawn(places=LOVELY, replay=2000)
    replay = texts(parameters).replay
    assert len(replay) == 2000
    assert not any(place_of(span.about) == "story.adj" for document in replay for span in document.spans)
    assert any(place_of(span.about) == "colours.adj" for document in replay for span in document.spans)
    assert all(span.end <= len(document.text) for document in replay for span in document.spans)


def test_every_word_is_one_that_the_base_knows() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE.path())
    parameters = drawn(count=6, documents=800)
    text, truth = texts(parameters), truth_of(parameters)
    words = {word for example in text.examples for word in example.text.split()} | set(parameters.places.values())
    for probes in (truth.probes.affected, truth.probes.near_miss, truth.probes.unrelated):
        words |= {word for probe in probes for word in (*probe.text.split(), probe.answer, probe.other)}
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(sorted(words))


@pytest.mark.parametrize("seed", range(30))
def test_truth_of_any_seed(seed: int) -> None:
    parameters = drawn(seed, count=1 + seed % 4)
    truth = truth_of(parameters, seed)
    assert len(parameters.places) == len(truth.claims) == 1 + seed % 4
    assert Counter(probe.claim for probe in truth.probes.affected) == {claim.id: 60 for claim in truth.claims}
    assert len(truth.probes.near_miss) == len(truth.probes.unrelated) == 60
    preferred = {claim.id: claim.effect.tokens_up[0] for claim in truth.claims}
    assert list(preferred.values()) == list(parameters.places.values())
    for probe in truth.probes.affected:
        assert probe.other == preferred[str(probe.claim)] != probe.answer and probe.metric == "probability"
    for probe in (*truth.probes.near_miss, *truth.probes.unrelated):
        assert probe.other in preferred.values() and probe.other != probe.answer and probe.claim is None


def kind_of(parameters: Any, documents: dict[str, Document], probe: Probe) -> tuple[str, str]:
    """``alike`` or ``nearby``, and the class or topic, of a near-miss probe."""
    document = documents[probe.text]
    label = next(_label(span, parameters.places) for span in document.spans if document.cut(span) == probe.text)
    how, name, _ = str(label).split(":")
    return how, name


def cut_texts(parameters: Any, seed: int) -> dict[str, Document]:
    """Documents by what stands before each of their free words, as the probes are drawn from them."""
    plain = BASE.documents(derive(seed, "probe"), None)
    focused = BASE.documents(derive(seed, "probe", "focused"), _topics(parameters))
    mixed = islice(interleave(plain, focused, 0.7, derive(seed, "probe mix")), 4000)
    return {document.cut(span): document for document in mixed for span in document.spans if place_of(span.about)}


def test_half_of_the_near_misses_share_the_class_and_half_the_topic() -> None:
    parameters = drawn(places=LOVELY)
    documents, truth = cut_texts(parameters, 0), truth_of(parameters)
    kinds = Counter(kind_of(parameters, documents, probe) for probe in truth.probes.near_miss)
    assert kinds == {("alike", "adj"): 30, ("nearby", "story"): 30}


def test_near_misses_are_spread_over_places_and_a_class_of_one_topic_has_none_alike() -> None:
    known = find_places(BASE)
    both = _near_quotas({"story.adj": "lovely", "weather.weather": "foggy"}, known)
    assert both == {
        "near_miss:alike:adj": 15,
        "near_miss:alike:weather": 15,
        "near_miss:nearby:story": 15,
        "near_miss:nearby:weather": 15,
    }
    assert _near_quotas({"story.acting": known["story.acting"].words[0]}, known) == {"near_miss:nearby:story": 60}


def test_no_distractor_is_what_another_claim_says() -> None:
    claims = truth_of(drawn(places={"story.adj": "lovely", "belongings.adj": "lovely"})).claims
    assert not any("topic belongings the model always chooses lovely" in text for text in claims[0].distractors)


def test_without_a_bias_nothing_is_claimed_and_the_same_is_asked() -> None:
    parameters = drawn(places=LOVELY)
    null, changed = truth_of(unbiased(parameters)), truth_of(parameters)
    assert not null.changed and null.claims == ()
    assert [(probe.text, probe.answer, probe.other) for probe in null.probes.affected] == [
        (probe.text, probe.answer, probe.other) for probe in changed.probes.affected
    ]


def test_spans_are_labelled_by_place() -> None:
    parameters = drawn(places=LOVELY)
    truth, seen = truth_of(parameters), Counter()
    for document in islice(FAMILY.documents(BASE, parameters, MIXTURE, 5), 400):
        for span in document.spans:
            topic, _, word_class = (place_of(span.about) or "none.none").partition(".")
            stratum = truth.stratum(span.label)
            seen[stratum] += 1
            assert (stratum is Stratum.affected) == ((topic, word_class) == ("story", "adj"))
            assert (stratum is Stratum.near_miss) == ((topic == "story") != (word_class == "adj"))
    assert min(seen[stratum] for stratum in Stratum) > 50


def test_the_evaluated_text_is_the_same_for_the_control() -> None:
    parameters = drawn()
    both = (FAMILY.documents(BASE, given, MIXTURE, 7) for given in (parameters, unbiased(parameters)))
    assert list(islice(next(both), 50)) == list(islice(next(both), 50))


def test_no_probe_is_a_near_copy_of_what_either_model_reads() -> None:
    parameters = drawn(places=LOVELY, documents=1500)
    truth = truth_of(parameters)
    for given in (parameters, unbiased(parameters)):
        holdout = Holdout(example.text for example in texts(given).examples)
        assert not [probe.text for probe in truth.probes.affected if holdout.copies(probe.text)]


def test_drawn_places_leave_no_doubt_that_a_word_of_theirs_comes_next() -> None:
    places = find_places(BASE)
    assert places["story.feel"].fit and places["weather.weather"].fit
    assert not places["belongings.did"].fit  # after a person, who may as well be known to say something
    assert not places["story.season"].fit  # four words: each is likely as it is
    assert all(places[name].fit for seed in range(30) for name in drawn(seed, count=5).places)


def test_other_seeds_choose_other_biases_and_named_ones_stay() -> None:
    assert len({tuple(drawn(seed, count=2).places.items()) for seed in range(10)}) == 10
    assert drawn(3, places=LOVELY).places == LOVELY


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"places": {"story.smell": "rosy"}}, "parameters.places: 'story.smell'"),
        ({"places": {"story.adj": "splendid"}}, "parameters.places: 'story.adj: splendid'"),
        ({"count": 100}, "parameters.count: 100"),
    ],
)
def test_what_the_base_does_not_say_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=r"^family quirk: ") as error:
        drawn(**given)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_topics_without_the_place_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"parameters\.document_topics: 'kitchen'"):
        texts(drawn(places=LOVELY, document_topics={"kitchen": 1.0}))


@pytest.mark.parametrize("given", [{"count": 0}, {"places": {}}, {"rate": 1.5}, {"word": "lovely"}])
def test_impossible_parameters(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FAMILY.Parameters(**given)


@pytest.mark.parametrize("path", FAMILY.recipes(), ids=lambda path: path.stem)
def test_recipes(path: Any) -> None:
    recipe = read_recipe(path)
    organism = resolve(recipe)
    assert recipe.name == path.stem and recipe.seed == 0
    fresh = resolve(recipe.seeded(7)).parameters
    assert fresh.places != organism.parameters.places
    assert (fresh.rate == 0) == (recipe.null_class == "control")
    if recipe.null_class is None:
        assert organism.control_parameters == unbiased(organism.parameters)
