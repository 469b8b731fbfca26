"""Workers: the two servers that tasks are forked from, and how many lines of work share the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from diffbench.cell import PRELOAD, method_server
from diffbench.duration import Durations
from diffbench.errors import WorkerError
from diffbench.plugins import ONLY
from diffbench.worker import Task, WorkServer, visible_gpus, wait_any

ENGINE_PRELOAD = (*PRELOAD, "diffbench.finetune", "diffbench.score", "diffbench.intake")
POLL_SECONDS = 0.2

Notify = Callable[[str, float], None]
Job = Iterator["Task | list[Work]"]
"""A generator of tasks: it is resumed when the task it yielded is done. It may also yield work that is now possible."""


@dataclass(slots=True, eq=False)
class Work:
    """A job, and how it is told of.

    Attributes:
        name: as progress names it.
        job: what is to be done.
        counts: whether it is one of those that are counted, or only what these wait for.
    """

    name: str
    job: Job
    counts: bool = True


@dataclass(slots=True)
class Workers:
    """The engine's own server and the one for methods, started when they are first needed.

    Attributes:
        jobs: tasks side by side.
        notify: gets a phrase and the fraction of the stage that is done.
        trusted: distributions, besides diffbench itself, that bring the families, bases and judge of the run.
        durations: what was learnt of how long stages take; remembered at the end.
    """

    jobs: int
    notify: Notify
    trusted: tuple[str, ...] = ()
    _stack: ExitStack = field(default_factory=ExitStack)
    _servers: dict[str, WorkServer] = field(default_factory=dict)
    durations: Durations = field(default_factory=Durations)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            with suppress(TimeoutError, WorkerError):
                self.durations.note(("start",), server.ready(0)["seconds"])
        self.durations.save()
        self._stack.close()

    def engine(self) -> WorkServer:
        """Server for the engine's own stages. It holds truths and scores, so it loads only the plugins it needs."""
        env = dict(os.environ) | {ONLY: ",".join(self.trusted)}
        return self._server("engine", lambda: WorkServer(preload=ENGINE_PRELOAD, env=env, gpus=visible_gpus()))

    def methods(self) -> WorkServer:
        """Server for method processes."""
        return self._server("methods", method_server)

    def _server(self, name: str, make: Callable[[], WorkServer]) -> WorkServer:
        if name not in self._servers:
            self._servers[name] = self._stack.enter_context(make())
        return self._servers[name]

    def run(self, what: str, works: Sequence[Work], total: int | None = None) -> None:
        """Drive jobs to their end, ``self.jobs`` of them at a time; what a job makes possible is done next.

        Args:
            what: what is done, as progress names it.
            works: what can be done now.
            total: how many works will have counted in the end; all of ``works``, by default.
        """
        waiting = list(reversed(works))
        tally = _Tally(what, len(works) if total is None else total, sum(not work.counts for work in works))
        running: dict[Task, Work] = {}
        while waiting or running:
            while waiting and len(running) < self.jobs:
                tally.add(self._advance(running, waiting, waiting.pop()))
            for task in wait_any(list(running), POLL_SECONDS):
                tally.add(self._advance(running, waiting, running.pop(task)))
            self.notify(*tally.told(running))
        self.durations.save()

    @staticmethod
    def _advance(running: dict[Task, Work], waiting: list[Work], work: Work) -> Work | None:
        """Resume a job until its next task; returns the work if it is finished."""
        for step in work.job:
            if not isinstance(step, list):
                running[step] = work
                return None
            waiting.extend(reversed(step))
        return work


@dataclass(slots=True)
class _Tally:
    """How far some works have come."""

    what: str
    total: int
    others: int
    finished: int = 0
    ended: int = 0

    def add(self, work: Work | None) -> None:
        if work is not None:
            self.ended += 1
            self.finished += work.counts

    def told(self, running: dict[Task, Work]) -> tuple[str, float]:
        """A phrase, and the fraction of all works that is done."""
        parts, done = [], float(self.ended)
        for task, work in running.items():
            phrase, fraction = task.progress() or ("", 0.0)
            parts.append(f"{work.name}: {phrase}" if phrase else work.name)
            done += fraction
        phrase = f"{self.what} {self.finished}/{self.total} " + "; ".join(parts)
        return phrase, done / max(1, self.total + self.others)
