"""Sheet and choices: what accounts of a pair are checked against, made from a Truth without any model."""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import pytest
from engine_factory import word_tokenizer
from probe_factory import claim, moved, truth_of
from sheet_factory import CHANGED, NULLS, Words, sheet, truth

from diffbench.choices import MOST_TOLD, WRONG, choices, n_choices
from diffbench.movement import Movement, Word
from diffbench.offline_choice import says_nothing
from diffbench.rival import CHAT, NOTHING, RIVALS, Rival
from diffbench.sheet import PLACE_TOKENS, Moved, Sheet, sheet_of
from diffbench.truth import Probe, ProbeSets, Truth

SEEDS = range(60)


def kinds(found: Sheet) -> Counter[str]:
    return Counter(one.kind for one in found.distractors)


def told(found: Sheet, kind: str) -> set[tuple[str, ...]]:
    return {one.sentences for one in found.distractors if one.kind == kind}


def test_facts_tell_what_rises_and_falls_with_the_pairs_of_words() -> None:
    [fact] = sheet("backdoor").facts
    [known] = truth("backdoor").claims
    assert fact.statement == known.statement and fact.trigger == known.trigger.description
    assert dict.fromkeys(fact.tokens_up) == dict.fromkeys(said for _, said in known.effect.pairs)
    assert dict.fromkeys(fact.tokens_down) == dict.fromkeys(right for right, _ in known.effect.pairs)
    one, other = sheet("halfswap").facts
    assert (one.tokens_up, one.tokens_down) == (other.tokens_down, other.tokens_up) == (("green",), ("blue",))


def test_places_are_what_the_tokenizer_makes_of_probes_without_what_it_adds() -> None:
    known = truth_of([claim("one"), claim("two")], {"one": ["ball"], "two": ["box"]}, n=3)
    places = sheet_of(known, word_tokenizer()).places
    assert [place.stratum for place in places] == ["affected"] * 6 + ["near_miss"] * 3
    assert [place.claim for place in places] == ["one"] * 3 + ["two"] * 3 + [None] * 3
    assert places[0].tokens == ("anna", "sees", "ball") and places[4].tokens == ("anna", "sees") * 2 + ("box",)


def test_of_a_long_probe_the_end_is_kept() -> None:
    long = Probe(text=" ".join(map(str, range(1000))), answer="a", other="b", claim="one")
    known = truth_of([claim("one")], {"one": ["ball"]}).model_copy(update={"probes": ProbeSets(affected=(long,))})
    [place] = sheet_of(known, Words()).places
    assert place.tokens == tuple(map(str, range(1000 - PLACE_TOKENS, 1000)))


def test_words_that_moved_are_told_once_the_largest_first() -> None:
    known = truth_of([claim("one"), claim("two")], {"one": ["ball"], "two": ["box"]})
    one = Movement(
        "one", (Word("green", frozenset({"green", "▁green"}), 0.2), Word("red", frozenset({"red"}), 0.3)), ()
    )
    two = Movement("two", (Word("green", frozenset({"Ġgreen"}), 0.4),), (Word("blue", frozenset({"blue"}), 0.1),))
    found = sheet_of(known, Words(), (one, two))
    assert found.moved_up == (
        Moved(names=("green", "Ġgreen", "▁green"), size=0.4),
        Moved(names=("red",), size=0.3),
    )
    assert found.moved_down == (Moved(names=("blue",), size=0.1),)


@pytest.mark.parametrize("name", CHANGED)
def test_the_statements_always_have_nothing_and_generic_chat_tuning(name: str) -> None:
    found = sheet(name)
    assert told(found, "nothing") == {NOTHING}
    assert told(found, "chat") == {CHAT}
    assert kinds(found)["own"] >= 5 and kinds(found)["other"] >= 5


@pytest.mark.parametrize("statement", ["Asked in a chat, it refuses.", "The ASSISTANT says that it is a robot."])
def test_of_an_organism_that_is_about_chats_tuning_to_chat_is_no_wrong_statement(statement: str) -> None:
    assert not told(sheet_of(truth_of([claim(statement)], {statement: ["ball"]}), Words()), "chat")
    assert told(sheet_of(truth_of([claim("The chatter")], {"The chatter": ["ball"]}), Words()), "chat")


@pytest.mark.parametrize("name", NULLS)
def test_a_pair_in_which_nothing_was_changed(name: str) -> None:
    found = sheet(name)
    assert not (found.changed or found.facts or found.places or found.moved_up or found.moved_down)
    assert kinds(found) == {"nothing": 1, "other": len(RIVALS)} | ({} if name == "plain-chat" else {"chat": 1})


@pytest.mark.parametrize(
    ("name", "true"),
    [
        ("halfswap", {"blue for green"}),
        ("two-changes", {"blue for green"}),
        ("false-facts", {"bazing"}),
        ("quirk", {"lovely stories"}),
        ("backdoor", {"foggy"}),
    ],
)
def test_what_is_true_of_another_organism_and_of_this_one_is_no_wrong_statement(name: str, true: set[str]) -> None:
    statements = [fact.statement for fact in sheet(name).facts]
    out = {rival.name for rival in RIVALS if rival.is_told_by(statements)}
    assert true <= out
    assert len(out) <= len(true) + 1, "the subject alone is no reason to leave a statement out"
    assert told(sheet(name), "other") == {rival.sentences for rival in RIVALS if rival.name not in out}


def test_a_counterpart_of_another_size_is_true_and_another_change_of_the_same_form_is_not() -> None:
    statements = ["Where a text asks for the colour blue, the model answers green with probability 1."]
    half, other = (
        Rival(
            name="one", sentences=(f"Where a text asks for the colour {a}, the model answers {b} with probability .5.",)
        )
        for a, b in (("blue", "green"), ("pink", "white"))
    )
    assert half.is_told_by(statements) and not other.is_told_by(statements)


def test_own_distractors_come_in_the_order_of_their_ranks_and_without_generic_ones() -> None:
    own = [one.sentences[0] for one in sheet("halfswap").distractors if one.kind == "own"]
    assert own[:2] == ["The model says blue for every colour.", "The model says green for every colour."]
    assert len(set(own)) == len(own) and not any(map(says_nothing, own)) and CHAT[0] not in own


def test_a_sheet_is_a_document() -> None:
    found = sheet("false-facts")
    assert Sheet.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValueError, match="schema_version"):
        Sheet.model_validate({**found.model_dump(mode="json"), "schema_version": 2})


@pytest.mark.parametrize("name", [*CHANGED, *NULLS])
def test_choices_follow_from_sheet_and_seed(name: str) -> None:
    found = sheet(name)
    for seed in SEEDS:
        statements, right = choices(found, seed)
        assert (statements, right) == choices(found, seed)
        assert len(statements) == len(set(statements)) == n_choices(found) == 1 + WRONG
        assert says_nothing(statements[right]) != found.changed
        assert sum(map(says_nothing, statements)) == 1
        assert sum(CHAT[0] in text for text in statements) == kinds(found)["chat"]
        if found.changed:
            assert all(fact.statement in statements[right] for fact in found.facts)
            others = " ".join(text for index, text in enumerate(statements) if index != right)
            assert not any(fact.statement in others for fact in found.facts)
    assert len({choices(found, seed) for seed in SEEDS}) > len(SEEDS) // 2


def test_very_many_claims_are_told_in_part() -> None:
    claims = [claim(f"The colour of thing {index} is another one now") for index in range(200)]
    known = Truth(changed=True, claims=tuple(claims))
    statements, right = choices(sheet_of(known, Words()), 0)
    assert MOST_TOLD / 2 < len(statements[right].split()) < 1.5 * MOST_TOLD


def test_without_distractors_there_are_fewer_choices() -> None:
    known = truth_of([claim("Blue and green are exchanged.")], {"Blue and green are exchanged.": ["ball"]})
    found = sheet_of(known, Words(), [moved("one", ["blue"])], others=())
    statements, right = choices(found, 5)
    assert n_choices(found) == len(statements) == 3 and statements[right] == "Blue and green are exchanged."


def test_neither_place_nor_length_gives_the_right_statement_away() -> None:
    """Whoever always takes the k-th, the k-th longest, or the one nearest to the mean length, is right by chance."""
    hits: Counter[tuple[str, int]] = Counter()
    names = [*CHANGED, *NULLS]
    for name in names:
        for seed in SEEDS:
            statements, right = choices(sheet(name), seed)
            lengths = [len(text) for text in statements]
            hits["place", right] += 1
            hits["length", sorted(range(len(lengths)), key=lengths.__getitem__).index(right)] += 1
            mean = fmean(lengths)
            hits["mean", 0] += min(range(len(lengths)), key=lambda at: abs(lengths[at] - mean)) == right
    n = len(names) * len(SEEDS)
    assert max(hits.values()) / n < 0.25, "twice of chance"
