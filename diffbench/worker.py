"""Work done in fresh processes: a server that has the heavy modules loaded forks one process for every task.

::

    with WorkServer(preload=("torch",)) as server:
        task = server.submit("package.module:function", {"seed": 1}, log=folder / "log.txt", seconds=60)
        result = task.wait()

Only JSON crosses, in both directions. A task may be hostile: whatever it does, ``wait`` returns a ``TaskResult`` and
no process of the task is left by then. This module imports nothing heavy; the other side is ``diffbench.workserver``.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from diffbench.errors import OptionError, WorkerError
from diffbench.sandbox import THREADS, Confinement
from diffbench.worktask import Task, TaskResult, wait_any
from diffbench.workwire import encode, report, take_line, write

__all__ = ["Task", "TaskResult", "WorkServer", "report", "visible_gpus", "wait_any"]

CLOSING_SECONDS = 15.0
GPUS, DEVICE = "CUDA_VISIBLE_DEVICES", "DIFFBENCH_DEVICE"


class WorkServer:
    """A process with modules preloaded, from which every submitted task is forked. Use it as a context manager."""

    def __init__(
        self, preload: Sequence[str] = (), *, env: Mapping[str, str] | None = None, gpus: Sequence[str] = ()
    ) -> None:
        """Remember what to start.

        Args:
            preload: modules to import once, such as ``torch``; they must not start threads.
            env: the whole environment of the server and its tasks; this process's own by default. Thread counts
                are set to 1 unless it sets them.
            gpus: GPUs by the names that ``CUDA_VISIBLE_DEVICES`` takes. Every task sees one of them, the one with the
                fewest tasks; none are given: a task sees what the server sees.
        """
        self._gpus = tuple(gpus)
        self._users: list[tuple[str, Task]] = []
        self._preload = tuple(preload)
        self._env = THREADS | dict(os.environ if env is None else env)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.Lock()
        self._hello: dict[str, Any] | None = None
        self._tasks: list[Task] = []

    def __enter__(self) -> WorkServer:
        mine, theirs = socket.socketpair()
        with theirs:
            # -P keeps the working folder off the import path; a checkout on ours goes on theirs by name.
            source = str(Path(__file__).resolve().parent.parent)
            if source in sys.path and "site-packages" not in source:
                self._env["PYTHONPATH"] = os.pathsep.join(filter(None, (source, self._env.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "diffbench.workserver"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._env,
                cwd="/",  # which says nothing
                start_new_session=True,
            )
        self._control = mine
        # Tied to this thread's life only when that is the life of this process.
        tied = threading.current_thread() is threading.main_thread()
        with suppress(OSError):
            write(mine.fileno(), encode({"preload": self._preload, "client": os.getpid() if tied else None}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ready(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the modules to be loaded; ``submit`` does not need it.

        Returns:
            ``seconds`` (what loading took) and ``threads`` (1, or tasks may hang: a module started threads).

        Raises:
            WorkerError: a module cannot be imported, or the server died.
            TimeoutError: still loading.
        """
        hello = self._greeting(timeout)
        if hello is None:
            raise TimeoutError(f"the work server was not ready within {timeout:g} s")
        if "error" in hello:
            raise WorkerError(str(hello["error"]))
        return hello

    def _greeting(self, timeout: float | None) -> dict[str, Any] | None:
        with self._lock:
            if self._hello is None and self._control is not None:
                readable, _, _ = select.select([self._control], [], [], timeout)
                if readable:
                    line = take_line(self._control)
                    self._hello = json.loads(line) if line else {"error": "the work server died while it started"}
            return self._hello

    def submit(
        self,
        target: str,
        request: Mapping[str, object],
        *,
        log: Path,
        seconds: float | None = None,
        confine: Confinement | None = None,
    ) -> Task:
        """Call ``target(request)`` in a fresh process.

        Args:
            target: ``package.module:function``, imported in that process, once it is confined.
            request: what JSON can hold. The server never sees it, so that no task finds another's in its memory.
            log: a file that gets stdout, stderr and tracebacks; appended to. From a confined task it gets them
                at the end: a process can ask for the name of a file it holds open, and that name tells of the run.
            seconds: wall clock budget.
            confine: what the process may touch; anything, by default.

        Raises:
            WorkerError: the server was not started or has been closed.
            OptionError: the request is no JSON, or the budget is no positive number.
        """
        gpu = self._freest()
        order = _order(target, request, seconds, confine, {} if gpu is None else {GPUS: gpu})
        if self._control is None:
            raise WorkerError("the work server is not running")
        mine, theirs = socket.socketpair()
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        # Opened in any case, so that a log that cannot be written is an error here.
        with theirs, tempfile.TemporaryFile() as held, log.open("ab") as named:
            held.write(order)
            held.flush()
            journal = named if confine is None else tempfile.TemporaryFile()
            # A server that is gone closes the other ends, and the task reports it like any other death.
            with self._lock, suppress(OSError):
                handles = [held.fileno(), journal.fileno(), writer, theirs.fileno()]
                socket.send_fds(self._control, [b"t"], handles)
        os.close(writer)
        late = None if confine is None else (journal, log)
        task = Task(self._epitaph, reader, mine, seconds, late)
        self._tasks = [other for other in self._tasks if not other.done()] + [task]
        if gpu is not None:
            self._users.append((gpu, task))
        return task

    def _freest(self) -> str | None:
        """The GPU with the fewest tasks, the first of several."""
        self._users = [(gpu, task) for gpu, task in self._users if not task.done()]
        busy = [gpu for gpu, _ in self._users]
        return min(self._gpus, key=busy.count, default=None)

    def _epitaph(self) -> str:
        """What is known of the server's end, in one line."""
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):
            hello = self._greeting(0) or {}
            if "error" in hello:
                return str(hello["error"])
            if self._process is not None:
                return f"the work server ended (exit code {self._process.wait(timeout=1)})"
        return "the keeper of this task died"

    def close(self) -> None:
        """End every task and the server; returns when they are gone."""
        process, control = self._process, self._control
        if process is None or control is None:
            return
        for task in self._tasks:
            task.kill()
        started = self._greeting(0)
        with self._lock:
            self._control = None
            control.close()
        if started is None:
            process.kill()
        try:
            process.wait(timeout=CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for task in self._tasks:
            with suppress(TimeoutError):
                task.wait(CLOSING_SECONDS)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that tasks are given, without a library that would start one; none where a device was chosen by name."""
    if os.environ.get(DEVICE, "cuda") != "cuda":
        return ()
    named = os.environ.get(GPUS)
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted((number for number in numbers if number.isdigit()), key=int))


def _order(
    target: str,
    request: Mapping[str, object],
    seconds: float | None,
    confine: Confinement | None,
    environment: Mapping[str, str],
) -> bytes:
    if target.count(":") != 1 or not all(target.split(":")):
        raise OptionError(f"a target is package.module:function, not {target!r}")
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise OptionError(f"a time budget is a positive number of seconds, not {seconds}")
    limits = None
    if confine is not None:
        limits = {
            "read": [os.path.abspath(path) for path in confine.read],
            "write": [os.path.abspath(path) for path in confine.write],
            "network": confine.network,
            "memory_mb": confine.memory_mb,
        }
    order = {"target": target, "request": dict(request), "seconds": seconds, "confine": limits}
    order["environment"] = dict(environment)
    try:
        return json.dumps(order, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise OptionError(f"the request for {target} cannot be written as JSON: {error}") from None
