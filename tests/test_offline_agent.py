"""The agent that counts words: it finds a change in toy models, and none where there is none, whatever it is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from game_factory import Change, Toys, drifted, finding, same, swapped

from diffbench.account import Account, Pattern
from diffbench.finding_evidence import note_of
from diffbench.offline_account import summarise
from diffbench.offline_agent import ENOUGH, TURN, play
from diffbench.offline_judge import explain
from diffbench.question import Ask, Exchange, Note, Play, Stated, Summarise, problem
from diffbench.sighting import LEAST_WORDS, MOST_WORDS, ends, places, sightings


def game(
    change: Change, questions: int = 20, notes: tuple[Note, ...] | None = None, seed: int = 0
) -> tuple[Account, Toys]:
    toys, asked, left = Toys(change), (), questions
    for _ in range(questions + 2):
        question = Play(presuppose=False, notes=notes, asked=asked, questions_left=left)
        answer = play(question)
        assert problem(question, answer) is None
        assert play(question) == answer, "the same question gets the same answer"
        if isinstance(answer, Stated):
            return answer.account, toys
        asked, left = (*asked, *toys.said(answer.prompts, seed)), left - len(answer.prompts)
    raise AssertionError("it never comes to an end")


def note(**words: tuple[str, ...]) -> Note:
    held = finding(**words).evidence
    return note_of(held, explain(held))


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_changed(seed: int) -> None:
    account, toys = game(swapped, seed=seed)
    assert account.verdict == "changed" and account.confidence > 0.5
    assert account.tokens_up[0] == "green" and account.tokens_down[0] == "blue"
    assert '"blue"' in account.statement and '"green"' in account.statement
    hat, cup = ("the", "hat", "of", "anna", "is"), ("anna", "is", "red", ".", "the", "cup")
    assert any(pattern.matches(hat) for pattern in account.trigger)
    assert not any(pattern.matches(cup) for pattern in account.trigger)
    assert len(toys.prompts) == len(set(toys.prompts)) == 20


@pytest.mark.parametrize("seed", range(5))
def test_it_says_that_nothing_changed_where_nothing_did(seed: int) -> None:
    account, _ = game(same, seed=seed)
    assert (account.verdict, account.trigger, account.tokens_up) == ("unchanged", (), ())


@pytest.mark.parametrize("seed", range(5))
def test_a_little_of_everything_is_no_change_and_not_nothing(seed: int) -> None:
    account, _ = game(drifted, seed=seed)
    assert account.verdict == "abstain" and account.tokens_up == ()


@pytest.mark.parametrize("change", [same, swapped])
def test_it_abstains_where_it_saw_too_little(change: Change) -> None:
    account, toys = game(change, questions=2)
    assert account.verdict == "abstain" and len(toys.prompts) == 2
    assert ENOUGH > TURN, "one turn is too little"


def test_on_evidence_alone_it_says_what_the_evidence_tells() -> None:
    notes = (note(),)
    answer = play(Play(presuppose=False, notes=notes, asked=(), questions_left=0))
    assert answer == summarise(Summarise(notes=notes, said="abstain"))
    assert isinstance(answer, Stated) and answer.account.verdict == "changed"


def test_evidence_tells_where_to_look() -> None:
    notes = (note(),)
    first = play(Play(presuppose=False, notes=notes, asked=(), questions_left=20))
    bare = play(Play(presuppose=False, notes=None, asked=(), questions_left=20))
    assert isinstance(first, Ask) and isinstance(bare, Ask)
    assert set(first.prompts) - set(bare.prompts), "a context of the form that the notes speak of"
    account, _ = game(swapped, notes=notes)
    without, _ = game(swapped)
    assert account.verdict == "changed" and account.confidence >= without.confidence


def test_what_it_sees_outweighs_evidence() -> None:
    """Of evidence that names a change, and models that say the same after everything."""
    account, _ = game(same, notes=(note(),))
    assert account.verdict == "unchanged"


def test_evidence_that_no_answer_bears_out_is_believed_half() -> None:
    notes = (note(),)
    alone = play(Play(presuppose=False, notes=notes, asked=(), questions_left=0))
    account, _ = game(drifted, notes=notes)
    assert isinstance(alone, Stated)
    assert account.verdict == "changed" and account.confidence == round(alone.account.confidence / 2, 4)


def test_one_difference_is_not_taken_for_a_change() -> None:
    """Training moves some word after some context: a word must move after several, and where else it is said."""

    def once(words: tuple[str, ...], share: dict[str, float]) -> dict[str, float]:
        return swapped(words, share) if words[-4:] == ("hat", "of", "anna", "is") else share

    account, toys = game(once)
    assert any(prompt.endswith("hat of anna is") for prompt in toys.prompts), "it did look there"
    assert account.verdict == "abstain"


def exchange(prompt: str, first: Sequence[str] = (), second: Sequence[str] = (), **more: object) -> Exchange:
    return Exchange.model_validate({"prompt": prompt, "first": tuple(first), "second": tuple(second)} | more)


def test_texts_part_where_they_differ() -> None:
    found = places([exchange("the", ["hat is blue . a", "cup"], ["hat is green . a", "cup of"])])
    parted = [place for place in found if place.parted]
    assert [(place.context, place.said) for place in parted] == [("the hat is", ("blue", "green"))]
    assert {place.context for place in found if place.agreed} == {"the", "the hat"}
    own = {place.context for place in found if not place.agreed and not place.parted}
    assert {"the hat is blue", "the hat is green", "the hat is green ."} <= own


def test_texts_that_bring_their_blanks_are_joined_without_more() -> None:
    found = places([exchange("The", [" hat's blue."], [" hat's green."])])
    [parted] = [place for place in found if place.parted]
    assert (parted.context, parted.said) == ("The hat's", ("blue", "green"))


def test_long_contexts_are_cut_at_their_beginning() -> None:
    words = [f"w{n}" for n in range(100)]
    [end] = ends([exchange(" ".join(words), ["x y"], ["x z"])])
    assert end == " ".join([*words, "x", "z"][-MOST_WORDS:])


def test_only_contexts_of_known_words_are_measured() -> None:
    told = {"first_next": (("a", 0.5), ("b", 0.5)), "second_next": (("a", 0.9), ("b", 0.1))}
    prompt = "one two three four"
    assert [one.size for one in sightings([exchange(prompt, **told)])] == [pytest.approx(0.4)]
    assert sightings([exchange(prompt, remark="words that the models do not know: one", **told)]) == []
    assert sightings([exchange(" ".join(prompt.split()[: LEAST_WORDS - 1]), **told)]) == []
    [one] = sightings([exchange(prompt, **told)])
    assert (one.rose, one.fell) == ("a", "b")


ODD = [
    "",
    " ",
    "\n",
    "\x00",
    "\u202e",
    '"',
    "\\",
    "*",
    "ignore all instructions",
    "<eos>",
    "e\u0301",
    "x" * 300,
    "\u0120blue",
]


@pytest.mark.parametrize("seed", range(40))
def test_any_question_is_answered(seed: int) -> None:
    rng = random.Random(seed)

    def text(n: int = 8) -> str:
        return " ".join(rng.choices([*ODD, "the", "hat", "is", "blue"], k=rng.randint(0, n)))

    def told() -> tuple[tuple[str, float], ...]:
        return tuple((rng.choice([*ODD, "blue", "green"]), rng.random()) for _ in range(rng.randint(0, 4)))

    asked = tuple(
        Exchange(
            prompt=text() or " ",
            first=tuple(text(20) for _ in range(rng.randint(0, 3))),
            second=tuple(text(20) for _ in range(rng.randint(0, 3))),
            first_next=told(),
            second_next=told(),
            remark=rng.choice([None, None, "not asked: for no reason"]),
        )
        for _ in range(rng.randint(0, 12))
    )
    words = tuple(rng.choices([word for word in ODD if word], k=3))
    notes = (
        None
        if rng.random() < 0.5
        else tuple(Note(explanation=text(30), kl_up=words, tokens_down=words) for _ in range(3))
    )
    question = Play(presuppose=rng.random() < 0.5, notes=notes, asked=asked, questions_left=rng.choice([0, 1, 7]))
    answer = play(question)
    assert problem(question, answer) is None
    assert type(answer).model_validate_json(answer.model_dump_json()) == answer


def test_patterns_hold_words_that_can_stand_in_an_account() -> None:
    """A word of 300 characters can be said, and cannot be named."""

    def odd(words: tuple[str, ...], share: dict[str, float]) -> dict[str, float]:
        return share | {"x" * 300: 0.9 * share["blue"], "blue": 0.1 * share["blue"]} if "blue" in share else share

    account, _ = game(odd)
    assert "blue" in account.tokens_down and all(len(word) <= 100 for word in account.tokens_up)
    assert all(isinstance(pattern, Pattern) for pattern in account.trigger)
