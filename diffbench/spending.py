"""Spending: what questions cost, and the allowance that is looked at before each of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from diffbench.errors import BudgetExceeded, OptionError
from diffbench.truth import Schema


class Usage(Schema):
    """Calls, tokens and money. Unknown money (no price is known) is None, and stays None in sums."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.tokens_in + self.tokens_out

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            cost=None if self.cost is None or other.cost is None else self.cost + other.cost,
        )


FREE = Usage()


@dataclass(slots=True)
class Allowance:
    """Limits that hold whatever happens: each question is covered by its estimate before it is asked.

    Attributes:
        calls: most calls; None: any number.
        tokens: most tokens, in and out.
        money: most money, in the currency of the prices.
        spent: so far, replies that came to nothing included.
    """

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    spent: Usage = FREE
    _held: Usage = FREE
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def hold(self, estimate: Usage) -> None:
        """Put an estimate aside.

        Raises:
            BudgetExceeded: if it is not covered.
            OptionError: if money is limited and no price is known: such a limit would never hold.
        """
        if self.money is not None and estimate.cost is None:
            raise OptionError("a limit on money needs the price of the model; set DIFFBENCH_JUDGE_PRICE=IN,OUT")
        with self._lock:
            total = self.spent + self._held + estimate
            if self.money is not None and total.cost is None:
                raise OptionError("a limit on money is set, and what was spent so far has no known price")
            for name, limit, asked in (
                ("calls", self.calls, total.calls),
                ("tokens", self.tokens, total.tokens),
                ("money", self.money, total.cost),
            ):
                if limit is not None and asked is not None and asked > limit:
                    raise BudgetExceeded(f"the next question could bring {name} to {asked:g}, {limit:g} are allowed")
            self._held += estimate

    def settle(self, estimate: Usage, usage: Usage) -> None:
        """Replace an estimate by what was really spent."""
        with self._lock:
            self.spent += usage
            held = self._held
            self._held = Usage(
                calls=held.calls - estimate.calls,
                tokens_in=held.tokens_in - estimate.tokens_in,
                tokens_out=held.tokens_out - estimate.tokens_out,
                cost=None if held.cost is None or estimate.cost is None else held.cost - estimate.cost,
            )


@dataclass(slots=True)
class Tab:
    """One question: what is put aside for it, and what it did cost.

    Attributes:
        usage: set by who knows it, before the tab is closed.
    """

    allowance: Allowance
    held: Usage
    usage: Usage = FREE

    def hold(self, estimate: Usage) -> None:
        """Put more aside; raises as `Allowance.hold` does."""
        self.allowance.hold(estimate)
        self.held += estimate


_TAB: ContextVar[Tab | None] = ContextVar("tab", default=None)


@contextmanager
def tab(allowance: Allowance, estimate: Usage) -> Iterator[Tab]:
    """Put an estimate aside for a question that is answered in the block, and settle it afterwards.

    Raises:
        BudgetExceeded, OptionError: as `Allowance.hold` does.
    """
    allowance.hold(estimate)
    opened = Tab(allowance, estimate)
    before = _TAB.set(opened)
    try:
        yield opened
    finally:
        _TAB.reset(before)
        allowance.settle(opened.held, opened.usage)


def cover(estimate: Usage) -> None:
    """Put aside what one more attempt at the question costs that is being answered in this thread.

    The estimate of a question covers one attempt. Whoever makes a further one calls this first.

    Raises:
        BudgetExceeded: if it is not covered; the attempt must not be made.
    """
    opened = _TAB.get()
    if opened is not None:
        opened.hold(estimate)
