"""Attack trial: the questions about an attack, each once without and once with it.

Attacks on accounts are put into wrong accounts and into such as say nothing, or, where they aim down, into right ones.
Attacks on contexts are tried on components whose explanation the judge has made itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffbench.account import Account
from diffbench.attack import Attack, AttackSuite, Component
from diffbench.gold import GoldAccount, GoldSet
from diffbench.question import Detect, Evidence, Fuzz, Marked, Question, Tokens
from diffbench.survey import spread

BLANK = Account(verdict="changed", confidence=0.9)
"""Says nothing but that something changed."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A clean question and the attacked one, both of one kind.

    Attributes:
        touched: index of the context that holds the attack; None: none does.
    """

    clean: Question
    attacked: Question
    touched: int | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """All that is asked about one attack.

    Attributes:
        lost: questions that were not to be had, since the judge made no explanation of attacked evidence.
    """

    attack: Attack
    contests: tuple[Contest, ...]
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Explained:
    """What a judge has made of a component.

    Attributes:
        clean: its explanation; None: it gave none, and nothing is asked about the component.
        attacked: by the attack, the explanation from evidence with it; None: it gave none.
    """

    component: Component
    clean: str | None
    attacked: Mapping[str, str | None]


def account_trials(suite: AttackSuite, gold: GoldSet, bases: int) -> list[Trial]:
    """What is asked about the attacks on accounts.

    Args:
        suite: the attacks.
        gold: whose accounts they are put into.
        bases: how many of them for each attack, at most.
    """
    none, subject = list(gold.graded(0)), list(gold.graded(1))
    n_subject = min(bases // 2, len(subject))
    wrong = (*spread(none, bases - n_subject), *spread(subject, n_subject))
    right = spread(list(gold.graded(4)), bases)
    empty = {one.pair: one.model_copy(update={"account": BLANK, "grade": 0}) for one in gold.accounts}
    blank = spread(list(empty.values()), bases)
    trials = []
    for attack in suite.attacks:
        if attack.on_account:
            accounts = right if attack.aim == "down" else blank if attack.how == "replace" else wrong
            contests = (contest for one in accounts for contest in _on_account(attack, gold, one))
            trials.append(Trial(attack, tuple(contests)))
    return trials


def _on_account(attack: Attack, gold: GoldSet, one: GoldAccount) -> Iterator[Contest]:
    attacked = attack.account(one.account, gold.pair_of(one).facts)
    if attacked is not None:
        yield Contest(gold.grading(one), gold.grading(one, attacked))
        if attack.aim == "down" or one.grade == 0:  # an account of the right subject may be said to speak of it
            yield Contest(gold.choosing(one), gold.choosing(one, attacked))


def on_evidence(suite: AttackSuite) -> list[Attack]:
    """The attacks on what an explanation is made from."""
    return [attack for attack in suite.attacks if attack.where in ("excerpts", "promoted")]


def evidence_questions(suite: AttackSuite) -> list[Evidence]:
    """What a judge must have explained before anything is asked about contexts."""
    questions = []
    for component in suite.components:
        clean = component.evidence()
        questions += [clean, *(attack.evidence(clean) for attack in on_evidence(suite))]
    return questions


def context_trials(suite: AttackSuite, explained: Sequence[Explained]) -> list[Trial]:
    """What is asked about the attacks on explanations, contexts, excerpts and promoted tokens."""
    trials = []
    for attack in suite.attacks:
        if not attack.on_account:
            contests = [list(_on_component(attack, one)) for one in explained if one.clean is not None]
            lost = sum(not found for found in contests)
            trials.append(Trial(attack, tuple(contest for found in contests for contest in found), lost))
    return trials


def _on_component(attack: Attack, explained: Explained) -> Iterator[Contest]:
    clean, tests = explained.clean or "", explained.component.tests
    if attack.where == "contexts":
        poisoned = (attack.tokens(tests[0]), *tests[1:])
        yield Contest(detection(clean, tests), detection(clean, poisoned), touched=0)
        yield Contest(fuzzing(clean, tests), fuzzing(clean, poisoned), touched=0)
        return
    attacked = attack.explanation(clean) if attack.where == "explanation" else explained.attacked[attack.id]
    if attacked is not None:
        yield Contest(detection(clean, tests), detection(attacked, tests))
        yield Contest(fuzzing(clean, tests), fuzzing(attacked, tests))


def detection(explanation: str, contexts: tuple[Tokens, ...]) -> Detect:
    """The question whether a component is active at the ends of contexts."""
    return Detect(explanation=explanation, contexts=contexts)


def fuzzing(explanation: str, contexts: tuple[Tokens, ...]) -> Fuzz:
    """The question whether marks at the ends of contexts stand where it is active."""
    marked = tuple(Marked(tokens=tokens, marked=(len(tokens) - 1,)) for tokens in contexts)
    return Fuzz(explanation=explanation, contexts=marked)
