"""Gold: accounts with the grades that they deserve, which judges are calibrated against.

The bundled set lies in ``gold.yaml``, with the conventions by which it was graded; anybody may bring another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import IO, Annotated, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from diffbench.account import Account
from diffbench.canonical import digest
from diffbench.complaint import unknown_key
from diffbench.errors import RecordError
from diffbench.line import one_line
from diffbench.plain_yaml import PlainLoader
from diffbench.question import Choose, Fact, Grade
from diffbench.recipe import first_problem
from diffbench.truth import Schema

GOLD = "gold.yaml"
MOST_BYTES = 1 << 20
MOST_STATEMENT = 3000
"""Characters of an account's statement, which leaves room for what is added to it."""

Form = TypeVar("Form", bound=Schema)
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]
Said = Annotated[str, Field(min_length=1, max_length=500)]


class GoldPair(Schema):
    """What is true of a pair, and what else an account might be said to speak of. No fact: nothing was changed."""

    statement: Said = Field(description="what was changed, in one sentence")
    distractors: tuple[Said, ...] = Field(min_length=1, max_length=7, description="wrong statements of the same kind")
    facts: tuple[Fact, ...] = Field((), max_length=20)

    @property
    def statements(self) -> tuple[str, ...]:
        """What a judge may choose from, the right one first."""
        return (self.statement, *self.distractors)

    @model_validator(mode="after")
    def _statements_differ(self) -> Self:
        if len(set(self.statements)) != len(self.statements):
            raise ValueError("two statements are the same")
        return self


class GoldAccount(Schema):
    """One account with its grade.

    Attributes:
        grade: None: it abstains.
        borderline: careful graders may differ by one, or a judge of words alone is tempted.
        unseen: the rules of the offline judge were not adjusted on it.
        why: one line that justifies the grade.
    """

    id: Id
    pair: str
    account: Account
    grade: int | None = Field(ge=0, le=4)
    borderline: bool
    unseen: bool = False
    why: str = Field(min_length=1, max_length=300)

    @model_validator(mode="after")
    def _statement_leaves_room(self) -> Self:
        if len(self.account.statement) > MOST_STATEMENT:
            raise ValueError(f"a statement of more than {MOST_STATEMENT} characters")
        return self


class GoldSet(Schema):
    """Accounts, and the pairs that they are of."""

    schema_version: Literal[1]
    pairs: dict[str, GoldPair] = Field(min_length=1, max_length=500)
    accounts: tuple[GoldAccount, ...] = Field(min_length=1, max_length=2000)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        seen: set[str] = set()
        for one in self.accounts:
            if one.id in seen:
                raise ValueError(f"two accounts have the id {one.id!r}")
            if one.pair not in self.pairs:
                raise ValueError(f"account {one.id!r} is of a pair that is not there: {one.pair!r:.60}")
            seen.add(one.id)
        return self

    def __len__(self) -> int:
        return len(self.accounts)

    @property
    def key(self) -> str:
        """SHA-256 of all that is in it."""
        return digest(self.model_dump(mode="json"))

    def pair_of(self, account: GoldAccount) -> GoldPair:
        """The pair that an account is of."""
        return self.pairs[account.pair]

    def is_null(self, account: GoldAccount) -> bool:
        """Whether it is of a pair in which nothing was changed on purpose."""
        return not self.pair_of(account).facts

    def grading(self, account: GoldAccount, said: Account | None = None) -> Grade:
        """The question for the grade of an account, or of another one that is said of the same pair."""
        return Grade(facts=self.pair_of(account).facts, account=account.account if said is None else said)

    def choosing(self, account: GoldAccount, said: Account | None = None) -> Choose:
        """The question which statement an account speaks of; the right one comes first."""
        statements = self.pair_of(account).statements
        return Choose(account=account.account if said is None else said, statements=statements)

    def graded(self, *grades: int) -> Iterator[GoldAccount]:
        """The accounts with one of some grades, in their order."""
        return (one for one in self.accounts if one.grade in grades)


def bundled_gold() -> GoldSet:
    """The gold set that comes with diffbench."""
    with (files("diffbench") / GOLD).open("rb") as stream:
        return read_form(stream, GoldSet, GOLD)


def read_gold(path: Path) -> GoldSet:
    """Read somebody's gold set.

    Raises:
        RecordError: if it cannot be read, or is none; the message names the key.
    """
    try:
        with path.open("rb") as stream:
            return read_form(stream, GoldSet, str(path))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def read_form(stream: IO[bytes], form: type[Form], name: str) -> Form:
    """Parse a page of plain YAML that may be a stranger's.

    Raises:
        RecordError: naming the page, the key, the value and what is allowed.
    """
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise RecordError(f"{name}: larger than {MOST_BYTES} bytes")
    try:
        document = yaml.load(content.decode("utf-8"), Loader=PlainLoader)
    except Exception as error:  # PyYAML lets ValueError, KeyError, RecursionError and others through
        raise RecordError(f"{name}: not plain YAML: {one_line(error, 300)}") from None
    try:
        return form.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise RecordError(f"{name}: {first_problem(error)}{unknown_key(error, form)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{name}: holds more than text, numbers, lists and mappings ({one_line(error, 200)})"
        ) from None
