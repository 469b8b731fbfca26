"""The other side of ``diffbench.worker``: loads modules once, then forks a keeper and a task for every order.

::

    server ──fork──▶ keeper ──fork──▶ task        the server reads no order; its only news is four file handles
                                                  the keeper has the clock, and inherits whatever the task leaves
                                                  the task leads a session of its own and answers through its pipe

The keeper is the subreaper of its task: a process that the task started, in whatever session, becomes the keeper's
child when its parent dies. The keeper ends the task when the client's or the server's end of a pipe closes, kills all
its children until none is left, and only then tells the client how it went.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import math
import os
import pkgutil
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from diffbench import workwire
from diffbench.errors import DiffbenchError
from diffbench.line import one_line
from diffbench.sandbox import Confinement, confine
from diffbench.workseal import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PR_SET_PDEATHSIG, prctl

GIVE_UP_SECONDS = 10.0
"""How long to wait for a killed process that the kernel does not let go."""


def main() -> None:
    """Serve until the client closes its end of stdin."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    boot = json.loads(workwire.take_line(control) or b"null")
    if boot is None:
        return
    if boot["client"] is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != boot["client"]:
            return
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Other processes of this user, tasks among them, get neither the memory nor the environment of the server.
    prctl(PR_SET_DUMPABLE, 0)
    start = time.monotonic()
    try:
        for name in boot["preload"]:
            importlib.import_module(name)
    except BaseException as error:
        workwire.write(control.fileno(), workwire.encode({"error": one_line(f"{type(error).__name__}: {error}")}))
        return
    # Pages that the collector never visits stay shared between the server and its tasks.
    gc.collect()
    gc.freeze()
    hello = {"seconds": time.monotonic() - start, "threads": _threads()}
    with suppress(OSError):
        workwire.write(control.fileno(), workwire.encode(hello))
        _serve(control)


def _threads() -> int:
    with suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return threading.active_count()


def _wake_on_child() -> int:
    """A pipe that becomes readable when a child ends."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _drain(handle: int) -> None:
    with suppress(BlockingIOError):
        while os.read(handle, 4096):
            continue


def _serve(control: socket.socket) -> None:
    wake = _wake_on_child()
    life, held = os.pipe()
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake, select.POLLIN)
    keepers: set[int] = set()
    while True:
        ready = dict(poller.poll())
        if wake in ready:
            _drain(wake)
            _reap(keepers)
        if control.fileno() not in ready:
            continue
        data, handles, _, _ = socket.recv_fds(control, 1, 4)
        if not data:
            break
        with suppress(OSError):
            pid = os.fork()
            if pid == 0:
                _keep(handles, life)
            keepers.add(pid)
        for handle in handles:
            os.close(handle)
    os.close(held)
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while keepers and time.monotonic() < deadline:
        select.select([wake], [], [], 0.1)
        _drain(wake)
        _reap(keepers)


def _reap(keepers: set[int]) -> None:
    """Forget the keepers that ended. If one was killed, what it kept is now the server's to end."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid in keepers and os.WIFSIGNALED(status):
                _end_children(except_for=keepers)
            keepers.discard(pid)


def _children() -> list[int]:
    """The processes whose parent is this one, zombies aside."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # The name in parentheses is the process's own choice and may hold anything.
                fields = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == os.getpid() and fields[0] != "Z":
                    found.append(int(name))
    return found


def _end_children(except_for: Collection[int] = ()) -> None:
    """Kill every child, and those that become children because their parent died, until none is left."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    empty = 0
    # A process that forks and exits over and over can slip through a listing. That there is no child at all, the
    # kernel says for sure; where some are to stay, three empty listings have to do.
    while time.monotonic() < deadline and empty < 3:
        rest = [pid for pid in _children() if pid not in except_for]
        empty = 0 if rest or not except_for else empty + 1
        for pid in rest:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while not except_for and os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return


def _keep(handles: list[int], life: int) -> NoReturn:
    """Run one task, end it when it must end, and tell the client; the body of a keeper."""
    try:
        signal.set_wakeup_fd(-1)
        order_handle, log, pipe, channel_handle = handles
        os.dup2(log, 1)
        os.dup2(log, 2)
        _close_all_but({0, 1, 2, order_handle, pipe, channel_handle, life})
        os.setsid()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_DUMPABLE, 0)
        with open(order_handle, "rb") as stream:
            stream.seek(0)
            order = json.load(stream)
        wake = _wake_on_child()
        keeper, start = os.getpid(), time.monotonic()
        child = os.fork()
        if child == 0:
            _work(order, pipe, keeper)
        os.close(pipe)
        with socket.socket(fileno=channel_handle) as channel:
            status = _watch(child, order["seconds"], start, wake, channel, life)
            with suppress(OSError):
                channel.sendall(json.dumps(status).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/dev/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


def _watch(
    child: int, seconds: float | None, start: float, wake: int, channel: socket.socket, life: int
) -> dict[str, Any]:
    poller = select.poll()
    for handle in (wake, channel.fileno(), life):
        poller.register(handle, select.POLLIN)
    cause, given_up = None, math.inf
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        now = time.monotonic()
        if pid or now > given_up:
            break
        if cause is not None:
            time.sleep(0.001)
            continue
        left = None if seconds is None else max(0.0, start + seconds - now) * 1000 + 1
        ready = dict(poller.poll(left))
        _drain(wake)
        if channel.fileno() in ready:
            cause = "request"
        elif life in ready:
            cause = "server"
        elif seconds is not None and time.monotonic() >= start + seconds:
            cause = "timeout"
        if cause:
            given_up = time.monotonic() + GIVE_UP_SECONDS
            os.kill(child, signal.SIGKILL)
    ended = time.monotonic()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    _end_children()
    # The largest resident size is in KiB on Linux and in bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cause": cause,
        "seconds": ended - start,
        "peak_rss_mb": usage.ru_maxrss / unit,
    }


def _work(order: dict[str, Any], pipe: int, keeper: int) -> NoReturn:
    """Do one task; the body of the process that is forked for it."""
    try:
        _settle(pipe, keeper)
        os.environ.update(order["environment"])  # before anything asks which GPUs there are
        try:
            line = workwire.encode({"answer": _call(order)})
        except BaseException as error:
            traceback.print_exc()
            said = {"error": one_line(f"{type(error).__name__}: {error}"), "user": isinstance(error, DiffbenchError)}
            line = workwire.encode({"raised": said})
        workwire.write(pipe, line)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _settle(pipe: int, keeper: int) -> None:
    """Cut every tie to the keeper but the pipe."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)
    prctl(PR_SET_DUMPABLE, 1)
    _close_all_but({0, 1, 2, pipe})
    # When memory runs out, a task should die and not the client that keeps the results.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    workwire.answer_to(pipe)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _call(order: dict[str, Any]) -> workwire.Json:
    limits = order["confine"]
    if limits is not None:
        read, write = (tuple(Path(path) for path in limits[key]) for key in ("read", "write"))
        achieved = confine(Confinement(read, write, limits["network"], limits["memory_mb"]))
        # Landlock aside, a new user namespace may have cleared it.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        achieved = "none"
    workwire.send({"confinement": achieved})
    function = pkgutil.resolve_name(order["target"])
    return function(order["request"])


if __name__ == "__main__":
    main()
