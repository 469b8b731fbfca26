"""What crosses between a task and its client: lines of JSON, believed only as far as they are well formed."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from diffbench.line import one_line

Json = Any

LIMIT = 16 * 2**20
"""Bytes a task may send in all; parsed, they can take twenty times as much memory."""
PHRASE, MESSAGE = 200, 2000
PROGRESS_SECONDS = 0.1

_sink: int | None = None
_turn = threading.Lock()
_last: tuple[float, float] = (-math.inf, 0.0)


def answer_to(handle: int) -> None:
    """Make ``handle`` the pipe that ``report`` and ``send`` write to; for the server's children."""
    global _sink
    _sink = handle


def report(phrase: str, fraction: float) -> None:
    """Say how far this task is, for ``Task.progress`` on the other side; does nothing outside a task.

    Args:
        phrase: what is being done.
        fraction: how much of it is, 0 to 1.
    """
    global _last
    now = time.monotonic()
    ends = fraction >= 1 > _last[1]
    if _sink is None or (now - _last[0] < PROGRESS_SECONDS and not ends):
        return
    _last = (now, fraction)
    with suppress(OSError):
        send({"progress": [one_line(phrase, PHRASE), float(fraction) if math.isfinite(fraction) else 0.0]})


def send(message: dict[str, Json]) -> None:
    """Send one line from a task to its client."""
    if _sink is not None:
        line = encode(message)
        with _turn:
            write(_sink, line)


def encode(message: Json) -> bytes:
    """One line of JSON.

    Raises:
        ValueError: a number in it is not finite.
        TypeError: something in it is no JSON.
    """
    return json.dumps(message, allow_nan=False).encode() + b"\n"


def write(handle: int, line: bytes) -> None:
    """Write all of ``line`` to a pipe or socket."""
    data = memoryview(line)
    while data:
        data = data[os.write(handle, data) :]


def take_line(channel: socket.socket) -> bytes:
    """One line from a socket, and not a byte more, since the next may carry file handles; empty at the end."""
    line = bytearray()
    with suppress(OSError):
        while not line.endswith(b"\n"):
            byte = channel.recv(1)
            if not byte:
                return b""
            line += byte
    return bytes(line)


class Frames:
    """The lines of one task, taken in piece by piece.

    Attributes:
        progress: the last phrase and fraction.
        confinement: the first line's word on it, written before the task's own code ran; later ones do not count.
        answered: whether an answer came.
        answer: that answer.
        error: the one line of an exception that was raised.
        user_error: whether it was a ``DiffbenchError``.
        fault: why these lines cannot be believed; nothing after that is read.
    """

    def __init__(self) -> None:
        self.progress: tuple[str, float] | None = None
        self.confinement: str | None = None
        self.answered = False
        self.answer: Json = None
        self.error: str | None = None
        self.user_error = False
        self.fault: str | None = None
        self._rest = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take in the next bytes."""
        if self.fault:
            return
        self._total += len(data)
        if self._total > LIMIT:
            self.fault = f"the task sent more than {LIMIT // 2**20} MiB"
            self._rest.clear()
            return
        searched = len(self._rest)
        self._rest += data
        while not self.fault and (end := self._rest.find(b"\n", searched)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            searched = 0
            try:
                self._take(_strict(line))
            except Exception:  # whatever a stranger sends, the reader must go on
                self.fault = "the task sent something that is no answer"

    def _take(self, message: Json) -> None:
        (name, value), *more = message.items()
        if more or self.answered or self.error is not None:
            raise ValueError("one thing per line, and nothing after the last")
        if name == "confinement":
            self.confinement = self.confinement or one_line(value, PHRASE)
        elif name == "progress":
            phrase, fraction = value
            self.progress = (one_line(phrase, PHRASE), min(1.0, max(0.0, float(fraction))))
        elif name == "answer":
            self.answered, self.answer = True, value
        elif name == "raised":
            self.error, self.user_error = one_line(value["error"], MESSAGE), value["user"] is True
        else:
            raise ValueError(name)


def _strict(line: bytes) -> Json:
    """Parse one line; refuses what JSON writers or files would choke on later: infinities, lone surrogates."""

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(text)
        return value

    message = json.loads(line.decode(), parse_float=number, parse_constant=number)
    if not isinstance(message, dict):
        raise ValueError("no object")
    if b"\\ud" in line.lower():
        json.dumps(message, ensure_ascii=False).encode()
    return message
