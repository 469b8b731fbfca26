"""The offline judge: explains by a rule, decides by its sentence alone, and answers every kind of question."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pytest
from test_rule import HOSTILE, excerpts_of, noise

from diffbench.judge import Reply
from diffbench.offline_judge import OfflineJudge
from diffbench.question import Detect, Evidence, Fuzz, Intervene, Intrude, Marked, Marks, Pick, Text

JUDGE = OfflineJudge()


def explain(*passed: Any, **named: Any) -> str:
    reply = JUDGE.answer(Evidence(excerpts=passed[0], **named))
    assert isinstance(reply.answer, Text)
    return reply.answer.text


def detect(explanation: str, contexts: list[tuple[str, ...]]) -> list[bool]:
    reply = JUDGE.answer(Detect(explanation=explanation, contexts=tuple(contexts)))
    assert isinstance(reply.answer, Marks)
    return list(reply.answer.marks)


def picked(reply: Reply) -> int | None:
    assert isinstance(reply.answer, Pick)
    return reply.answer.pick


def test_without_a_rule_nothing_is_active() -> None:
    for excerpts in ((), excerpts_of([("a",)], []), excerpts_of([], [("a",)])):
        text = explain(excerpts)
        assert text == "No rule was found."
        assert detect(text, [("a",), ()]) == [False, False]


@pytest.mark.parametrize("word", [word for word in HOSTILE if word.isprintable() or word.encode("utf-8", "ignore")])
def test_hostile_words_are_explained_and_detected(word: str) -> None:
    word = word.encode("utf-8", "replace").decode()  # no question can hold a lone surrogate
    rng = random.Random(4)
    text = explain(excerpts_of(noise(rng, 20, (word,)), noise(rng, 20)), tokens_up=(word,), tokens_down=(word,))
    assert detect(text, [("n1", word), ("n1", word + "x"), ("n1", "n2")]) == [True, False, False]


def test_promoted_words_do_not_decide() -> None:
    rng = random.Random(5)
    excerpts = excerpts_of(noise(rng, 20, ("red",)), noise(rng, 20))
    contexts = noise(rng, 50) + noise(rng, 5, ("red",))
    plain, told = explain(excerpts), explain(excerpts, tokens_up=("n1", "n2"), tokens_down=("red",))
    assert told.endswith('(precision 1.00, recall 1.00); promotes "n1", "n2"; suppresses "red".')
    assert detect(plain, contexts) == detect(told, contexts)


@pytest.mark.parametrize("text", ["", "It fires on colours.", 'Active where the last word is "red"', '"' * 10_000])
def test_a_foreign_explanation_is_malformed(text: str) -> None:
    marked = Marked(tokens=("red",), marked=(0,))
    for question in (
        Detect(explanation=text, contexts=(("red",),)),
        Fuzz(explanation=text, contexts=(marked,)),
        Intervene(explanation=text, prompt=("a",), texts=(("b",), ("c",))),
    ):
        reply = JUDGE.answer(question)
        assert reply.state == "malformed" and reply.answer is None and "no sentence" in (reply.problem or "")


def test_marks_are_right_where_the_rule_holds_at_half_of_them() -> None:
    rule = 'Active where the last word is "red".'
    contexts = [(0,), (1,), (0, 1), (0, 1, 2), ()]
    reply = JUDGE.answer(
        Fuzz(explanation=rule, contexts=tuple(Marked(tokens=("red", "x", "y"), marked=marks) for marks in contexts))
    )
    assert reply.answer == Marks(marks=(True, False, True, False, False))


def test_the_intruder_has_least_in_common_with_the_others() -> None:
    family = [("a", "b", "red"), ("c", "d", "red"), ("e", "b", "red"), ("g", "h", "red")]
    for place in range(5):
        shown = [*family[:place], ("p", "q", "blue"), *family[place:]]
        contexts = tuple(Marked(tokens=tokens, marked=(2,)) for tokens in shown)
        assert picked(JUDGE.answer(Intrude(contexts=contexts))) == place


def test_the_steered_text_has_the_promoted_words() -> None:
    sentence = 'No rule was found; promotes "red"; suppresses "blue".'
    texts = (("the", "red", "fox"), ("the", "blue", "fox"))
    for order in ((0, 1), (1, 0)):
        question = Intervene(explanation=sentence, prompt=("see",), texts=(texts[order[0]], texts[order[1]]))
        assert picked(JUDGE.answer(question)) == order.index(0)


def test_a_tie_is_broken_whatever_the_order() -> None:
    """By the texts themselves, so that the choice is a coin that does not see which one stands first."""
    rng = random.Random(0)
    first = 0
    for n in range(400):
        texts = ((f"w{n}", f"v{rng.randrange(9)}"), (f"u{n}",))
        one, other = (
            picked(JUDGE.answer(Intervene(explanation="No rule was found.", prompt=(), texts=(texts[a], texts[b]))))
            for a, b in ((0, 1), (1, 0))
        )
        assert one is not None and other == 1 - one
        first += one == 0
    assert 150 < first < 250


SCRIPT = """
import random, sys
from diffbench.question import Evidence, Excerpt
from diffbench.offline_judge import OfflineJudge
rng = random.Random(7)
words = [tuple(f"n{rng.randrange(20)}" for _ in range(12)) for _ in range(100)]
excerpts = tuple(Excerpt(tokens=w, active=i % 2 == 0, activity=1.0) for i, w in enumerate(words))
print(OfflineJudge().answer(Evidence(excerpts=excerpts)).raw)
assert "torch" not in sys.modules
"""


def test_same_bytes_in_every_process_and_without_torch() -> None:
    texts = set()
    for hash_seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    assert "Active where" in texts.pop()
