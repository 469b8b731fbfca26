"""Sums of usage, and limits that hold before anything is spent."""

from __future__ import annotations

import threading

import pytest

from diffbench.errors import BudgetExceeded, OptionError
from diffbench.spending import FREE, Allowance, Usage, cover, tab

ONE = Usage(calls=1, tokens_in=10, tokens_out=5, cost=0.25)


def test_usage_adds_up() -> None:
    assert ONE + ONE == Usage(calls=2, tokens_in=20, tokens_out=10, cost=0.5) and ONE.tokens == 15
    assert FREE + ONE == ONE and FREE.cost == 0.0
    unknown = ONE + Usage(calls=1, cost=None)
    assert unknown.cost is None and unknown.calls == 2 and (unknown + ONE).cost is None


@pytest.mark.parametrize(
    ("limit", "fits"),
    [({"calls": 3}, 3), ({"tokens": 46}, 3), ({"tokens": 45}, 3), ({"money": 0.75}, 3), ({"money": 0.7}, 2), ({}, 9)],
)
def test_a_limit_is_never_passed(limit: dict[str, float], fits: int) -> None:
    allowance = Allowance(**limit)  # type: ignore[arg-type]
    for _ in range(fits):
        allowance.hold(ONE)
    if limit:
        [name] = limit
        with pytest.raises(BudgetExceeded, match=f"could bring {name} to"):
            allowance.hold(ONE)
    assert allowance.spent == FREE
    for _ in range(fits):
        allowance.settle(ONE, Usage(calls=1))
    assert allowance.spent == Usage(calls=fits) and allowance._held == Usage(cost=0.0)


def test_what_was_spent_and_what_is_put_aside_count_together() -> None:
    allowance = Allowance(calls=2)
    allowance.hold(ONE)
    allowance.settle(ONE, ONE)
    allowance.hold(ONE)
    with pytest.raises(BudgetExceeded):
        allowance.hold(ONE)
    allowance.settle(ONE, FREE)
    allowance.hold(ONE)


def test_money_needs_a_price() -> None:
    with pytest.raises(OptionError, match="DIFFBENCH_JUDGE_PRICE"):
        Allowance(money=1).hold(Usage(calls=1, cost=None))
    allowance = Allowance(money=1)
    allowance.hold(ONE)
    allowance.settle(ONE, Usage(calls=1, cost=None))
    with pytest.raises(OptionError, match="no known price"):
        allowance.hold(ONE)
    unpriced = Allowance(calls=1)
    unpriced.hold(Usage(calls=1, cost=None))
    unpriced.settle(Usage(calls=1, cost=None), Usage(calls=1, cost=None))
    assert unpriced.spent == Usage(calls=1, cost=None)


def test_each_attempt_at_a_question_is_covered() -> None:
    allowance = Allowance(calls=3)
    with tab(allowance, ONE) as opened:
        cover(ONE)
        cover(ONE)
        with pytest.raises(BudgetExceeded):
            cover(ONE)
        assert opened.held.calls == 3
        opened.usage = Usage(calls=2, tokens_in=4, cost=0.1)
    assert allowance.spent == Usage(calls=2, tokens_in=4, cost=0.1) and allowance._held.calls == 0
    cover(ONE)  # no question is being answered
    assert allowance.spent.calls == 2
    with pytest.raises(BudgetExceeded), tab(allowance, Usage(calls=2)):
        pytest.fail("not covered")
    with pytest.raises(KeyError), tab(allowance, ONE):
        raise KeyError
    assert allowance._held.calls == 0 and allowance.spent.calls == 2


def test_threads_have_tabs_of_their_own() -> None:
    allowance, gate, held = Allowance(), threading.Barrier(4), []

    def answer(n: int) -> None:
        with tab(allowance, ONE) as opened:
            gate.wait(10)
            for _ in range(n):
                cover(ONE)
            gate.wait(10)
            held.append((n, opened.held.calls))

    threads = [threading.Thread(target=answer, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [(n, n + 1) for n in range(4)] and allowance._held.calls == 0
