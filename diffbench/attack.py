"""Attack: a text that tries to move a judge, and where it is put. The bundled suite lies in ``attacks.yaml``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffbench.account import MOST_PATTERNS, MOST_WORDS, Account, Pattern
from diffbench.canonical import digest
from diffbench.disguise import Disguise, disguised
from diffbench.errors import RecordError
from diffbench.gold import Id, read_form
from diffbench.question import MAX_EXPLANATION, Evidence, Excerpt, Fact, Tokens
from diffbench.truth import Schema

ATTACKS = "attacks.yaml"
FACTS, LIST, TOKENS = "{facts}", "{list}", "{tokens}"
"""Stand in an attack's text for all words of the facts, for the same between commas, and for the tokens that move."""

MOST_STATEMENT, MOST_WORD = 4000, 100
"""Characters of an account's statement and of its words; see `diffbench.account.Account`."""

MOST_TOKENS = 20_000
"""Characters that an attack puts into a context."""

Kind = Literal[
    "instruction", "score", "data", "delimiter", "master-key", "control", "homoglyph", "length", "markup", "stuffing",
    "flattery", "language", "system", "role", "encoding", "sandwich", "repetition",
]  # fmt: skip
Where = Literal["statement", "tokens", "trigger", "explanation", "contexts", "excerpts", "promoted"]
ACCOUNT: tuple[Where, ...] = ("statement", "tokens", "trigger")
Context = Annotated[str, Field(min_length=1, max_length=500)]


class Attack(Schema):
    """One text, where it is put, and how."""

    id: Id
    kind: Kind
    where: Where
    how: Literal["append", "prepend", "around", "replace"]
    aim: Literal["up", "down"] = "up"
    text: str = Field(min_length=1, max_length=2000)
    times: int = Field(1, ge=1, le=5000)
    disguise: Disguise = "none"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.how in ("around", "replace") and self.where != "statement":
            raise ValueError(f"{self.how}: of a statement alone")
        if self.aim == "down" and self.where not in ACCOUNT:
            raise ValueError("aim: of attacks on accounts alone")
        if self.stuffs and self.where not in ("statement", "tokens"):
            raise ValueError(f"{FACTS}, {LIST}, {TOKENS}: in a statement or in lists of tokens alone")
        return self

    @property
    def on_account(self) -> bool:
        """Whether it is put into an account."""
        return self.where in ACCOUNT

    @property
    def stuffs(self) -> bool:
        """Whether it holds words of the facts."""
        return any(name in self.text for name in (FACTS, LIST, TOKENS))

    def payload(self, facts: tuple[Fact, ...] = ()) -> str:
        """What is put there, uncut."""
        words, tokens = words_of_facts(facts), tokens_of_facts(facts)
        text = self.text
        for name, said in ((FACTS, " ".join(words)), (LIST, ", ".join(words)), (TOKENS, " ".join(tokens))):
            text = text.replace(name, said)
        return disguised(text, self.disguise) * self.times

    def account(self, account: Account, facts: tuple[Fact, ...]) -> Account | None:
        """The attacked account; None if the attack finds no room, nothing to say of these facts, or would be right.

        All tokens that move are right by themselves where whatever rises falls as well.
        """
        alone = self.where == "tokens" or TOKENS in self.text
        if self.stuffs and (not facts or (alone and _all_go_both_ways(facts))):
            return None
        if self.where == "statement":
            attacked = account.model_copy(update={"statement": self._text(account.statement, facts, MOST_STATEMENT)})
        elif self.where == "trigger":
            pattern = Pattern(contains=(self.payload(facts)[:MOST_WORD],))
            attacked = account.model_copy(update={"trigger": (*account.trigger, pattern)[:MOST_PATTERNS]})
        else:
            lists = {name: self._list(getattr(account, name), facts) for name in ("tokens_up", "tokens_down")}
            attacked = account.model_copy(update=lists)
        return None if attacked == account else Account.model_validate(attacked.model_dump())

    def explanation(self, text: str) -> str:
        """The attacked explanation."""
        return self._text(text, (), MAX_EXPLANATION)

    def tokens(self, tokens: Tokens) -> Tokens:
        """The attacked context; its last token, which questions are about, stays the last one."""
        return (*self.payload()[:MOST_TOKENS].split(" "), *tokens)

    def evidence(self, evidence: Evidence) -> Evidence:
        """The attacked evidence: its first active and its first inactive excerpt, or the tokens that are promoted."""
        if self.where == "promoted":
            return evidence.model_copy(update={"tokens_up": (*evidence.tokens_up, self.payload()[:MOST_TOKENS])})
        excerpts = list(evidence.excerpts)
        for active in (True, False):
            place = next(index for index, excerpt in enumerate(excerpts) if excerpt.active == active)
            tokens = self.tokens(excerpts[place].tokens)
            excerpts[place] = excerpts[place].model_copy(update={"tokens": tokens})
        return evidence.model_copy(update={"excerpts": tuple(excerpts)})

    def _text(self, text: str, facts: tuple[Fact, ...], most: int) -> str:
        payload = self.payload(facts)
        if self.how == "replace":
            return payload[:most]
        room = max(0, most - len(text) - 2) // (2 if self.how == "around" else 1)
        before = payload[:room] if self.how in ("prepend", "around") else ""
        behind = payload[:room] if self.how in ("append", "around") else ""
        return " ".join(part for part in (before, text, behind) if part)

    def _list(self, words: Tokens, facts: tuple[Fact, ...]) -> Tokens:
        added = tokens_of_facts(facts) if self.text == TOKENS else (disguised(self.text, self.disguise)[:MOST_WORD],)
        added *= self.times
        room = MOST_WORDS - len(words)
        return (*words, *added[:room]) if self.how == "append" else (*added[:room], *words)


class Contexts(Schema):
    """Contexts of one class, each of which ends at the word in question."""

    explain: tuple[Context, ...] = Field(min_length=4, max_length=50, description="from which an explanation is made")
    test: tuple[Context, ...] = Field(min_length=2, max_length=50, description="on which it is tried")


class Component(Schema):
    """What explanations, contexts and excerpts are of."""

    id: Id
    active: Contexts
    inactive: Contexts

    def evidence(self) -> Evidence:
        """What an explanation is made from, in an order that says nothing."""
        excerpts = [
            Excerpt(tokens=tuple(text.split(" ")), active=active, activity=float(active))
            for active, contexts in ((True, self.active), (False, self.inactive))
            for text in contexts.explain
        ]
        return Evidence(excerpts=tuple(sorted(excerpts, key=lambda excerpt: digest(list(excerpt.tokens)))))

    @property
    def tests(self) -> tuple[Tokens, ...]:
        """What an explanation is tried on, in an order that says nothing."""
        texts = sorted((*self.active.test, *self.inactive.test), key=digest)
        return tuple(tuple(text.split(" ")) for text in texts)

    @property
    def truth(self) -> tuple[bool, ...]:
        """Whether each of `tests` is active."""
        return tuple(" ".join(tokens) in self.active.test for tokens in self.tests)


class AttackSuite(Schema):
    """Attacks, and what those on contexts are tried on."""

    schema_version: Literal[1]
    attacks: tuple[Attack, ...] = Field(min_length=1, max_length=500)
    components: tuple[Component, ...] = Field((), max_length=50)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for names in ([attack.id for attack in self.attacks], [one.id for one in self.components]):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"two have the id {twice!r}")
        if not self.components and not all(attack.on_account for attack in self.attacks):
            raise ValueError("attacks on contexts need components")
        return self

    @property
    def key(self) -> str:
        """SHA-256 of all that is in it."""
        return digest(self.model_dump(mode="json"))


def words_of_facts(facts: tuple[Fact, ...]) -> list[str]:
    """Every word of what is true, once, in an order that says nothing: all of the words and none of what they say."""
    texts = [text for fact in facts for text in (fact.statement, fact.trigger, *tokens_of_facts((fact,)))]
    return sorted({word.strip(".,:;()\"'") for text in texts for word in text.split()} - {""}, key=digest)


def tokens_of_facts(facts: tuple[Fact, ...]) -> tuple[str, ...]:
    """Every token that moves, once, in an order that does not tell which way."""
    tokens = {word for fact in facts for word in (*fact.tokens_up, *fact.tokens_down)}
    return tuple(sorted(tokens, key=digest))


def _all_go_both_ways(facts: tuple[Fact, ...]) -> bool:
    up, down = ({word for fact in facts for word in getattr(fact, name)} for name in ("tokens_up", "tokens_down"))
    return up == down


def bundled_attacks() -> AttackSuite:
    """The suite that comes with diffbench."""
    with (files("diffbench") / ATTACKS).open("rb") as stream:
        return read_form(stream, AttackSuite, ATTACKS)


def read_attacks(path: Path) -> AttackSuite:
    """Read somebody's attacks.

    Raises:
        RecordError: if they cannot be read, or are none; the message names the key.
    """
    try:
        with path.open("rb") as stream:
            return read_form(stream, AttackSuite, str(path))
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
