"""Prospect: what judging cells would cost with a judge that is paid, told before any of them is scored."""

from __future__ import annotations

from collections.abc import Sequence

from diffbench.account import Account
from diffbench.conclusion import conclude, notes_of
from diffbench.finding_evidence import FindingEvidence, Steered
from diffbench.judge import Judge, Reply
from diffbench.judging import judge_findings, texts_of
from diffbench.panel import Panel
from diffbench.question import Answer, Evidence, Excerpt, Fact, Graded, Marked, Marks, Pick, Question, Stated, Text
from diffbench.quote import Quote, quote
from diffbench.sheet import Sheet

FINDINGS = 10
"""Of a cell that are judged at most."""
CONTROLS = 2
"""Dictionaries of each pair that are judged as controls."""
CONTEXTS, WINDOW, CONTINUATIONS = 100, 12, 10
"""At most, as `diffbench.gathering` gathers them."""
WORD = "wording"
EXPLANATION = "x" * 600
"""As long as a long explanation."""


class _Stand(Judge):
    """Stands for a judge: remembers what it is asked and answers something of the right form."""

    name = "stand-in"

    def __init__(self, contexts: int) -> None:
        self.contexts = contexts  # type: ignore[misc]
        self.asked: list[Question] = []

    def answer(self, question: Question) -> Reply:
        self.asked.append(question)
        return Reply("ok", _answer(question, len(self.asked)))


def _answer(question: Question, n: int) -> Answer:
    match question.kind:
        case "explain":
            return Text(text=f"{n} {EXPLANATION}")  # no two alike, or questions about them would be one
        case "detect" | "fuzz":
            return Marks(marks=(True,) * len(question.contexts))
        case "summarise" | "play":
            return Stated(account=Account(verdict="changed", statement=EXPLANATION, confidence=0.5))
        case "grade":
            return Graded(grade=0)
        case _:
            return Pick(pick=0)


def prospect(judge: Judge, n_cells: int, n_pairs: int) -> Quote:
    """An upper estimate for cells that are to be scored, with ten findings each and as many contexts as there can be.

    Args:
        judge: whom the questions would be put to.
        n_cells: to be scored.
        n_pairs: of which the controls have not been judged.
    """
    one = [_finding(rank) for rank in range(1, FINDINGS + 1)]
    cell = _quoted(judge, cell_questions(judge, one))
    control = _quoted(judge, finding_questions(judge, one))
    return _times(cell, n_cells) + _times(control, CONTROLS * n_pairs)


def finding_questions(judge: Judge, findings: Sequence[FindingEvidence]) -> list[Question]:
    """What a judge is asked about findings, with a long explanation in the place of those that it has not given yet."""
    stand = _Stand(judge.contexts)
    judge_findings(Panel(stand), findings, 0)
    return stand.asked


def cell_questions(judge: Judge, findings: Sequence[FindingEvidence]) -> list[Question]:
    """The same with what the judge concludes."""
    stand = _Stand(judge.contexts)
    panel = Panel(stand)
    notes = notes_of(findings, texts_of(judge_findings(panel, findings, 0).trials))
    fact = Fact(statement=EXPLANATION, trigger=EXPLANATION)
    conclude(panel, notes, "changed", Sheet(changed=True, facts=(fact,)), 0)
    return stand.asked


def _quoted(judge: Judge, questions: Sequence[Question]) -> Quote:
    return quote(Panel(judge), questions)


def _times(one: Quote, n: int) -> Quote:
    usage = one.usage.model_copy(
        update={
            "calls": n * one.usage.calls,
            "tokens_in": n * one.usage.tokens_in,
            "tokens_out": n * one.usage.tokens_out,
            "cost": None if one.usage.cost is None else n * one.usage.cost,
        }
    )
    return one.model_copy(update={"questions": n * one.questions, "kept": n * one.kept, "usage": usage})


def _finding(rank: int) -> FindingEvidence:
    """As much evidence as there can be, none of it like that of another finding."""

    def words(n: int, length: int = WINDOW) -> tuple[str, ...]:
        return tuple(f"{WORD}{rank}.{n}.{at}" if at == 0 else WORD for at in range(length))

    excerpts = [Excerpt(tokens=words(n), active=n % 2 == 0, activity=1.0) for n in range(2 * CONTEXTS)]
    marked = [Marked(tokens=words(n + 2 * CONTEXTS), marked=(WINDOW - 1,)) for n in range(CONTEXTS)]
    texts = [Steered(prompt=words(n, WINDOW // 2), plain=words(n), steered=words(-1 - n)) for n in range(CONTINUATIONS)]
    tokens = words(0, CONTINUATIONS)
    return FindingEvidence(
        rank=rank,
        component=rank,
        n_active=CONTEXTS,
        n_positions=CONTEXTS,
        evidence=Evidence(
            excerpts=tuple(excerpts[:CONTEXTS]), tokens_up=tokens, tokens_down=tokens, kl_up=tokens, kl_down=tokens
        ),
        tests=tuple(excerpts[CONTEXTS:]),
        marked_right=tuple(marked[: CONTEXTS // 2]),
        marked_wrong=tuple(marked[CONTEXTS // 2 :]),
        steered=tuple(texts),
    )
