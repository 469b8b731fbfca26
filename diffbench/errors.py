"""Every error a user can cause, and what each one means.

::

    DiffbenchError                 one line for people: what, where, what to do (exit code 2)
    ├── UnknownName                no such method, organism, base, judge, run; carries the nearest names
    ├── RecipeError                an organism recipe is missing, malformed or hostile
    ├── OptionError                an option of a method, run or budget is wrong
    ├── PluginError                a plugin cannot be loaded or breaks the contract
    ├── CheckpointError            a model, adapter, tokenizer or weight file cannot be used
    ├── CacheError                 a cache entry is damaged or cannot be written
    ├── GateError                  an organism did not pass its gate; carries the numbers
    ├── DiffError                  what a method left behind is no valid Diff
    ├── RecordError                a run folder or record cannot be read
    ├── SubmissionError            a submission to a leaderboard cannot be packed, believed or merged
    ├── AccessError                a method touched what it had not declared
    ├── JudgeError                 a judge cannot be asked: not configured, not reached, or only errors came back
    ├── BudgetExceeded             a cell used up its tokens, components or seconds
    └── WorkerError                a worker process was killed or died without an answer

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DiffbenchError(Exception):
    """Base of all errors that are shown as one line and end a command with exit code 2."""


class UnknownName(DiffbenchError):
    """No such thing; the message lists the nearest names that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.42)
        if near:
            advice = "did you mean " + " or ".join(near) + "?"
        elif known:
            advice = "known: " + ", ".join(known[:12])
        else:
            advice = "none is installed"
        super().__init__(f"no {kind} named {name!r}; {advice}{'; ' + hint if hint else ''}")
        self.near = near


class RecipeError(DiffbenchError):
    """An organism recipe is missing, malformed or hostile."""


class OptionError(DiffbenchError):
    """An option of a method, a run or a budget is wrong."""


class PluginError(DiffbenchError):
    """A plugin cannot be loaded or breaks the plugin contract."""


class CheckpointError(DiffbenchError):
    """A model, adapter, tokenizer or weight file cannot be used."""


class CacheError(DiffbenchError):
    """A cache entry is damaged or cannot be written."""


class GateError(DiffbenchError):
    """An organism did not pass its gate; the message carries the measured numbers."""


class DiffError(DiffbenchError):
    """What a method left behind is no valid Diff."""


class RecordError(DiffbenchError):
    """A run folder or a record cannot be read."""


class SubmissionError(DiffbenchError):
    """A submission to a leaderboard cannot be packed, believed or merged."""


class AccessError(DiffbenchError):
    """A method touched something it had not declared in ``access``."""


class BudgetExceeded(DiffbenchError):
    """A cell used up its tokens, components or seconds."""


class WorkerError(DiffbenchError):
    """A worker process was killed or ended without an answer."""


class JudgeError(DiffbenchError):
    """A judge cannot be asked: it is not configured, not reached, or gives nothing but errors.

    Attributes:
        usage: what was spent before it failed (`diffbench.spending.Usage`), if anything.
    """

    def __init__(self, message: str, usage: object = None) -> None:
        super().__init__(message)
        self.usage = usage
