"""One submitted task, as its client sees it: what it reports, how it ends."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from diffbench.workwire import LIMIT, Frames, Json

Kind = Literal["ok", "raised", "timeout", "killed", "crashed"]
FATAL = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}

_finished = threading.Condition()


@dataclass(frozen=True)
class TaskResult:
    """How a task ended.

    Attributes:
        ok: whether there is an answer.
        answer: what the function returned.
        error: one line, type and message; the traceback is in the task's log.
        kind: ``raised`` by the function, over its ``timeout``, ``killed`` from outside (on request, or for want of
            memory), or ``crashed``: ended without a valid answer.
        user_error: whether a ``DiffbenchError`` was raised. A confined task can claim what it likes here.
        seconds: wall clock from fork to end.
        peak_rss_mb: the largest resident size of the process.
        confinement: what ``sandbox.confine`` achieved, or ``none``.
    """

    ok: bool
    answer: Json
    error: str | None
    kind: Kind
    user_error: bool
    seconds: float
    peak_rss_mb: float
    confinement: str


class Task:
    """One submitted task. All methods may be called from any thread."""

    def __init__(
        self,
        epitaph: Callable[[], str],
        pipe: int,
        keeper: socket.socket,
        seconds: float | None,
        journal: tuple[IO[bytes], Path] | None,
    ) -> None:
        self._epitaph = epitaph
        self._pipe = pipe
        self._keeper = keeper
        self._seconds = seconds
        self._journal = journal
        self._frames = Frames()
        self._asked = False
        self._result: TaskResult | None = None
        self._thread = threading.Thread(target=self._follow, name="diffbench-task", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether the result is there."""
        return self._result is not None

    def wait(self, timeout: float | None = None) -> TaskResult:
        """The result, as soon as it is there.

        Raises:
            TimeoutError: it was not there within ``timeout`` seconds; the task goes on.
        """
        with _finished:
            _finished.wait_for(self.done, timeout)
        if self._result is None:
            raise TimeoutError(f"the task did not end within {timeout:g} s")
        return self._result

    def kill(self) -> None:
        """End the task and everything it started; ``wait`` then says ``killed``."""
        self._asked = True
        self._stop()

    def progress(self) -> tuple[str, float] | None:
        """The last thing the task reported."""
        return self._frames.progress

    def _stop(self) -> None:
        # The keeper takes the end of this direction as the order to end the task.
        with suppress(OSError):
            self._keeper.shutdown(socket.SHUT_WR)

    def _follow(self) -> None:
        """Read the task's pipe until its keeper has said how it ended, or has itself ended."""
        status = bytearray()
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        poller.register(self._keeper, select.POLLIN)
        ended = False
        while not ended:
            for handle, _ in poller.poll():
                if handle == self._pipe:
                    if not self._read_pipe():
                        poller.unregister(self._pipe)
                    if self._frames.fault:
                        self._stop()
                    continue
                try:
                    received = self._keeper.recv(65536)
                except OSError:
                    received = b""
                status += received
                ended = not received
        while self._frames.fault is None and self._read_pipe():
            continue
        result = self._judge(bytes(status))
        os.close(self._pipe)
        self._keeper.close()
        self._keep_journal()
        with _finished:
            self._result = result
            _finished.notify_all()

    def _read_pipe(self) -> bool:
        """Take in what there is; False when there is nothing more."""
        try:
            data = os.read(self._pipe, 1 << 20)
        except BlockingIOError:
            return False
        self._frames.feed(data)
        return bool(data)

    def _keep_journal(self) -> None:
        """Append what a confined task wrote, or the end of it, to the log that it must not know of."""
        if self._journal is None:
            return
        stream, log = self._journal
        with stream, suppress(OSError), log.open("ab") as named:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LIMIT))
            while piece := stream.read(1 << 20):
                named.write(piece)

    def _judge(self, status: bytes) -> TaskResult:
        try:
            end: dict[str, Any] = json.loads(status)
        except ValueError:
            end = {"code": None, "cause": None, "seconds": 0.0, "peak_rss_mb": 0.0}
        kind, error = self._verdict(end)
        answer = self._frames.answer if kind == "ok" else None
        user_error = kind == "raised" and self._frames.user_error
        confinement = self._frames.confinement or "none"
        return TaskResult(
            kind == "ok", answer, error, kind, user_error, end["seconds"], end["peak_rss_mb"], confinement
        )

    def _verdict(self, end: Mapping[str, Any]) -> tuple[Kind, str | None]:
        code, cause, frames = end["code"], end["cause"], self._frames
        if cause == "timeout":
            return "timeout", f"time budget of {self._seconds:g} s exceeded"
        if frames.fault:
            return "crashed", f"WorkerError: {frames.fault}"
        if self._asked or cause == "request":
            return "killed", "WorkerError: killed on request"
        if code is None or cause == "server":
            return "crashed", f"WorkerError: {self._epitaph()}"
        if code in (-9, -15):
            return "killed", f"WorkerError: killed by {FATAL[-code]} (out of memory?)"
        if code < 0:
            return "crashed", f"WorkerError: the process died of {FATAL.get(-code, f'signal {-code}')}"
        if frames.error is not None:
            return "raised", frames.error
        if not frames.answered or code != 0:
            return "crashed", f"WorkerError: the process ended with exit code {code} and without an answer"
        return "ok", None


def wait_any(tasks: Sequence[Task], timeout: float | None = None) -> list[Task]:
    """Wait until at least one of ``tasks`` is done; returns all that are (none, if the time ran out)."""
    with _finished:
        _finished.wait_for(lambda: not tasks or any(task.done() for task in tasks), timeout)
    return [task for task in tasks if task.done()]
