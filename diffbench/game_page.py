"""Game page: what came of games, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffbench.account import Account, Pattern
from diffbench.figure import Figure
from diffbench.framing import Framing
from diffbench.game_file import PlayedGame
from diffbench.game_score import COMPARED
from diffbench.line import one_line
from diffbench.spending import Usage
from diffbench.table import number

STATEMENT = 400
"""Characters of a statement that are shown."""
ROWS = {
    "structured": "structured (no judge)",
    "auroc": "  trigger, AUROC",
    "net": "  words, net",
    "grade": "grade",
    "choice": "choice among statements",
    "brier": "Brier score of confidence",
}


def told(played: PlayedGame) -> Iterator[str]:
    """One game, line by line, without its scores."""
    game, setting = played.game, played.setting
    evidence = "" if setting.row is None else f", evidence of {setting.row}"
    framing = "presupposing" if game.presuppose else "neutral"
    agent = " ".join(game.agent.values())
    yield one_line(f"{setting.organism} against {setting.reference}{evidence}: agent {agent}, access {game.access}, "
                   f"{framing} framing, seed {game.seed}")  # fmt: skip
    account = game.account
    if account is None:
        yield one_line(f"no account: {game.state}: {game.problem}", STATEMENT)
    else:
        yield from _account(account)
    n, turns = len(game.asked), sum(turn.left is not None for turn in game.turns)
    allowed = 0 if game.access == "evidence" else game.budget.questions
    paid = f"agent: {spent(game.usage)}; grading: {spent(played.score.usage)}"
    yield f"asked:      {n} of {allowed} prompts in {turns} turns; {paid}"


def _account(account: Account) -> Iterator[str]:
    yield f"verdict:    {account.verdict}, confidence {account.confidence:.2f}"
    yield f"statement:  {one_line(account.statement, STATEMENT) or '-'}"
    if account.trigger:
        yield f"trigger:    {'; '.join(map(_pattern, account.trigger))}"
    for title, words in (("more often", account.tokens_up), ("less often", account.tokens_down)):
        if words:
            yield f"{title}: {one_line(' '.join(words), STATEMENT)}"


def scores(played: PlayedGame) -> list[tuple[str, str, str, str]]:
    """Rows of a table: a score, the account's, that of abstaining, and chance."""
    match, abstaining = played.score.match, played.score.abstaining
    chance = {"choice": match.chance, "auroc": Figure.of(0.5), "brier": Figure.of(0.25)}
    return [
        (
            title,
            figure(getattr(match, name)),
            figure(getattr(abstaining, name)),
            figure(chance[name]) if name in chance else "-",
        )
        for name, title in ROWS.items()
    ]


def row(played: PlayedGame) -> tuple[str, ...]:
    """One game as a row among several."""
    game, match = played.game, played.score.match
    account = game.account
    says = ("-", "-") if account is None else (account.verdict, f"{account.confidence:.2f}")
    shown = (figure(getattr(match, name)) for name in (*COMPARED, "brier"))
    return ("presupposing" if game.presuppose else "neutral", str(game.seed), game.state, *says, *shown)


HEADER = ("FRAMING", "SEED", "STATE", "VERDICT", "CONFIDENCE", *(name.upper() for name in COMPARED), "BRIER")


def beside(played: Sequence[PlayedGame]) -> list[tuple[str, ...]]:
    """Rows of what abstaining gets and of chance, for the table of several games."""
    first = next((one for one in played if one.game.account is not None), played[0])
    abstaining, chance = first.score.abstaining, first.score.match.chance
    blank = ("", "", "")
    return [
        ("abstaining", *blank, "", *(figure(getattr(abstaining, name)) for name in COMPARED), "-"),
        ("chance", *blank, "", "-", "-", figure(chance), figure(Figure.of(0.25))),
    ]


def effect(found: Framing) -> str:
    """The effect of the framing in a line."""
    parts = (
        ("share that says changed", found.changed),
        ("structured", found.structured),
        ("confidence", found.confidence),
    )
    shown = ", ".join(f"{name} {_signed(one)}" for name, one in parts)
    return f"presupposing minus neutral, {found.pairs} of {found.games} pairs of games: {shown}"


def figure(of: Figure) -> str:
    """A figure, or its state."""
    return of.state if of.value is None else number(of.value)


def spent(usage: Usage) -> str:
    """Calls, tokens and money in words."""
    if not usage.calls:
        return "nothing spent"
    cost = "cost not known" if usage.cost is None else f"cost {usage.cost:.4f}"
    return f"{usage.calls} calls, {usage.tokens} tokens, {cost}"


def _signed(of: Figure) -> str:
    if of.value is None:
        return of.state
    ends = "" if of.low is None or of.high is None else f" ({of.low:+.2f} to {of.high:+.2f})"
    return f"{of.value:+.2f}{ends}"


def _pattern(pattern: Pattern) -> str:
    parts = []
    if pattern.ends_with:
        parts.append(f"after {' '.join(pattern.ends_with)}")
    if pattern.contains:
        parts.append(f"with {', '.join(pattern.contains)}")
    return one_line(" ".join(parts) or "everywhere", 100)
