"""Survey: all that a judge is asked when it is calibrated against a gold set."""

from __future__ import annotations

from dataclasses import dataclass

from diffbench.account import Account
from diffbench.gold import GoldAccount, GoldSet
from diffbench.question import Choose, Grade, Question

MOST_ROTATED = 40
"""Accounts that are asked about in every order of the statements."""

BEFORE = "This paragraph was typed in one sitting and read through twice before it was handed in."
AFTER = (
    "Its sentences were kept short where that was possible. The spelling is the usual one, and there are no "
    "abbreviations. The order of the sentences has no meaning. Headings were left out because the text is brief. "
    "Nobody else has looked through it. It ends here so as not to take up more room."
)
"""Sentences that say nothing of any model, put around an account to make it longer."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Questions by what they are for, in the order of the gold set's accounts.

    Attributes:
        gold: whose accounts they are about.
        repeats: times that the grades are asked for.
        grades: of each account.
        padded: of each account with sentences that say nothing around it.
        rotated: the accounts that are asked about in every order of the statements.
        choices: for each of those, the question in every order: rotation r begins with statement r.
    """

    gold: GoldSet
    repeats: int
    grades: tuple[Grade, ...]
    padded: tuple[Grade, ...]
    rotated: tuple[GoldAccount, ...]
    choices: tuple[tuple[Choose, ...], ...]

    @property
    def once(self) -> tuple[Question, ...]:
        """All that is asked at the first time; repeats are about the grades alone."""
        return (*self.grades, *self.padded, *(choice for turns in self.choices for choice in turns))


def survey_of(gold: GoldSet, repeats: int) -> Survey:
    """The questions of a calibration.

    Args:
        gold: what to calibrate against.
        repeats: how often to ask for each grade, at least once.

    Raises:
        ValueError: if it is less.
    """
    if repeats < 1:
        raise ValueError(f"a question is asked at least once, got {repeats}")
    rotated = spread([one for one in gold.accounts if one.grade is not None], MOST_ROTATED)
    return Survey(
        gold=gold,
        repeats=repeats,
        grades=tuple(gold.grading(one) for one in gold.accounts),
        padded=tuple(gold.grading(one, padded(one.account)) for one in gold.accounts),
        rotated=rotated,
        choices=tuple(_rotations(gold.choosing(one)) for one in rotated),
    )


def padded(account: Account) -> Account:
    """An account with sentences around its statement that say nothing."""
    text = " ".join(part for part in (BEFORE, account.statement, AFTER) if part)
    return account.model_copy(update={"statement": text})


def spread(accounts: list[GoldAccount], most: int) -> tuple[GoldAccount, ...]:
    """At most so many accounts, spread evenly over the list, the first one among them."""
    n = len(accounts)
    return tuple(accounts if n <= most else (accounts[place * n // most] for place in range(most)))


def _rotations(choice: Choose) -> tuple[Choose, ...]:
    said = choice.statements
    turned = (said[turn:] + said[:turn] for turn in range(len(said)))
    return tuple(choice.model_copy(update={"statements": statements}) for statements in turned)
