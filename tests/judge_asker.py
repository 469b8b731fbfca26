"""Asks a judge that notes in a file what it was asked, as a process of its own.

``python judge_asker.py NOTES N SECONDS`` puts N questions, each of which takes SECONDS, and prints the verdicts.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import ClassVar

from diffbench.judge import Judge, Reply
from diffbench.panel import Panel
from diffbench.question import Evidence, Excerpt, Question, Text
from diffbench.spending import Usage


class NotingJudge(Judge):
    """Answers with a text that follows from the question; one line of its file for each time it is asked."""

    name: ClassVar[str] = "noting"
    paid: ClassVar[bool] = True
    parallel = 4

    def __init__(self, notes: Path, seconds: float = 0.0) -> None:
        self.notes, self.seconds = notes, seconds

    def answer(self, question: Question) -> Reply:
        assert isinstance(question, Evidence)
        word = question.excerpts[0].tokens[0]
        with self.notes.open("ab", buffering=0) as stream:
            stream.write(f"{word}\n".encode())
        time.sleep(self.seconds)
        return Reply("ok", Text(text=f"at {word}"), raw=word, usage=Usage(calls=1, tokens_in=10, tokens_out=2))

    def estimate(self, question: Question) -> Usage:
        return Usage(calls=1, tokens_in=10, tokens_out=5)


def evidence(word: str) -> Evidence:
    """A question about a word."""
    return Evidence(excerpts=(Excerpt(tokens=(word,), active=True, activity=1.0),))


def main() -> None:
    notes, n, seconds = sys.argv[1:]
    panel = Panel(NotingJudge(Path(notes), float(seconds)))
    print(os.getpid(), flush=True)  # noqa: T201
    for verdict in panel.ask([evidence(f"w{number}") for number in range(int(n))]):
        print(verdict.state, verdict.raw)  # noqa: T201


if __name__ == "__main__":
    main()
