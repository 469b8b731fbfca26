"""The work server: every way a task can end, and that nothing is left of it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffbench import workwire
from diffbench.errors import OptionError, RecipeError, WorkerError
from diffbench.worker import TaskResult, WorkServer, report, visible_gpus, wait_any

HERE = Path(__file__).resolve().parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}


# --- what the tasks do -----------------------------------------------------------------------------------------


def answers(request: dict[str, Any]) -> dict[str, Any]:
    return {"twice": request["number"] * 2, "text": "ä\x00\U0001f600", "none": None}


def describes(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "sid": os.getsid(0),
        "threads": len(os.listdir("/proc/self/task")),
        "handles": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
        "stdin": os.readlink("/proc/self/fd/0"),
        "omp": os.environ["OMP_NUM_THREADS"],
        "argv": Path("/proc/self/cmdline").read_text(),
        "modules": sorted(sys.modules),
    }


def sees(request: dict[str, Any]) -> str | None:
    """Which GPUs this task is given; it ends when a file appears."""
    while not Path(request["until"]).exists():
        time.sleep(0.005)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def raises(request: dict[str, Any]) -> None:
    sys.stdout.write("words before\n")
    raise ValueError("two\nlines \x1b[31m")


def raises_ours(request: dict[str, Any]) -> None:
    raise RecipeError("no such colour")


def leaves(request: dict[str, Any]) -> None:
    os._exit(request["code"])


def exits(request: dict[str, Any]) -> None:
    sys.exit("enough")


def sleeps(request: dict[str, Any]) -> str:
    if "mark" in request:
        Path(request["mark"]).write_text(str(os.getpid()))
    time.sleep(request["seconds"])
    return "woke"


def dies(request: dict[str, Any]) -> None:
    os.kill(os.getpid(), request["signal"])
    time.sleep(30)


def segfaults(request: dict[str, Any]) -> None:
    ctypes.string_at(0)


def no_json(request: dict[str, Any]) -> object:
    return {"set": {1}, "nan": float("nan"), "object": object()}[request["what"]]


def pipe() -> int:
    handle = workwire._sink
    assert handle is not None
    return handle


def garbage(request: dict[str, Any]) -> str:
    os.write(pipe(), request["text"].encode("latin-1"))
    if request.get("stop"):
        os._exit(0)
    return "an answer"


def floods(request: dict[str, Any]) -> None:
    while True:
        os.write(pipe(), b" " * 65536)


def runaway(request: dict[str, Any]) -> str:
    """Leave a process of another session behind, and one below that, both without parents."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            Path(request["mark"]).write_text(str(os.getpid()))
            time.sleep(120)
        time.sleep(120)
    wait_for(Path(request["mark"]))
    if request["hang"]:
        time.sleep(120)
    return "left it"


def runs_away(request: dict[str, Any]) -> str:
    """Leave a process that is never the same for long: it forks and ends, over and over."""
    end = time.monotonic() + 30
    if os.fork() == 0:
        while time.monotonic() < end:
            os.setpgid(0, 0)
            Path(request["mark"]).write_text(str(time.monotonic()))
            if os.fork():
                os._exit(0)
        os._exit(0)
    time.sleep(0.2)
    return "left it"


def progresses(request: dict[str, Any]) -> str:
    report("half\nway", 0.5)
    while not Path(request["go"]).exists():
        time.sleep(0.01)
    report("over", 7.0)
    return "done"


def chatters(request: dict[str, Any]) -> str:
    for step in range(50_000):
        report(f"step {step} of many, each with a phrase of its own", step / 50_000)
    return "said enough"


def remembers(request: dict[str, Any]) -> int:
    sys.modules["json"].seen = getattr(json, "seen", 0) + 1  # type: ignore[attr-defined]
    return json.seen  # type: ignore[attr-defined,no-any-return]


def uses_torch(request: dict[str, Any]) -> list[float]:
    import torch

    return [float(torch.get_num_threads()), float((torch.ones(64, 64) @ torch.ones(64, 64)).sum())]


# --- helpers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[WorkServer]:
    with WorkServer(("pytest",), env=ENV) as running:
        assert running.ready(60)["threads"] == 1
        yield running


Do = Callable[..., TaskResult]


@pytest.fixture
def do(server: WorkServer, tmp_path: Path) -> Do:
    def run(name: str, seconds: float | None = 60, **request: object) -> TaskResult:
        return server.submit(f"test_worker:{name}", request, log=tmp_path / "log.txt", seconds=seconds).wait(90)

    return run


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.read_text()


def descendants(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(name), *descendants(int(name))]
    return found


# --- ends ------------------------------------------------------------------------------------------------------


def test_an_answer_comes_back_as_json(do: Do) -> None:
    result = do("answers", number=21)
    assert result.answer == {"twice": 42, "text": "ä\x00\U0001f600", "none": None}
    assert (result.ok, result.kind, result.error, result.user_error) == (True, "ok", None, False)
    assert result.seconds > 0 and result.peak_rss_mb > 1 and result.confinement == "none"


def test_a_task_is_alone_single_threaded_and_holds_nothing(do: Do) -> None:
    seen = do("describes").answer
    assert seen["pid"] == seen["sid"] and seen["threads"] == 1 and seen["stdin"] == "/dev/null"
    assert seen["omp"] == "1"
    assert len(seen["handles"]) == 4 and seen["handles"][:3] == [0, 1, 2]
    assert seen["argv"].split("\0")[1:] == ["-P", "-m", "diffbench.workserver", ""]
    assert "torch" not in seen["modules"]


def test_tasks_do_not_share_memory(do: Do) -> None:
    assert [do("remembers").answer, do("remembers").answer] == [1, 1]


def test_an_exception_is_one_line_and_its_traceback_is_in_the_log(do: Do, tmp_path: Path) -> None:
    result = do("raises")
    assert (result.ok, result.kind, result.user_error, result.answer) == (False, "raised", False, None)
    assert result.error == "ValueError: two lines"
    log = (tmp_path / "log.txt").read_text()
    assert "words before" in log and "Traceback" in log and 'raise ValueError("two' in log


def test_our_own_errors_are_marked(do: Do) -> None:
    result = do("raises_ours")
    assert (result.kind, result.user_error, result.error) == ("raised", True, "RecipeError: no such colour")


def test_system_exit_is_an_exception_like_others(do: Do) -> None:
    assert do("exits").error == "SystemExit: enough"


@pytest.mark.parametrize("target", ["test_worker:missing", "no_such_module:main"])
def test_a_target_that_is_not_there(server: WorkServer, tmp_path: Path, target: str) -> None:
    result = server.submit(target, {}, log=tmp_path / "log").wait(60)
    assert result.kind == "raised" and result.error and "Error: " in result.error


def test_the_time_budget_ends_a_task(server: WorkServer, tmp_path: Path) -> None:
    task = server.submit("test_worker:sleeps", {"seconds": 60}, log=tmp_path / "log", seconds=0.5)
    result = task.wait(30)
    assert (result.kind, result.error) == ("timeout", "time budget of 0.5 s exceeded")
    assert 0.5 <= result.seconds < 5


def test_a_stopped_task_runs_out_of_time(server: WorkServer, tmp_path: Path) -> None:
    request = {"signal": int(signal.SIGSTOP)}
    task = server.submit("test_worker:dies", request, log=tmp_path / "log", seconds=0.5)
    assert task.wait(30).kind == "timeout"


@pytest.mark.parametrize("code", [0, 3])
def test_leaving_without_an_answer(do: Do, code: int) -> None:
    result = do("leaves", code=code)
    assert result.kind == "crashed" and f"exit code {code}" in str(result.error)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, "killed"), (signal.SIGABRT, "crashed")])
def test_a_signal_ends_a_task(do: Do, number: int, kind: str) -> None:
    result = do("dies", signal=int(number))
    assert result.kind == kind and signal.Signals(number).name in str(result.error)


def test_a_segmentation_fault(do: Do, tmp_path: Path) -> None:
    result = do("segfaults")
    assert result.kind == "crashed" and "SIGSEGV" in str(result.error)
    assert "segfaults" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("what", ["set", "nan", "object"])
def test_an_answer_that_is_no_json(do: Do, what: str) -> None:
    assert do("no_json", what=what).kind == "raised"


GARBAGE = [
    "\xff\xfe\n",
    "[]\n",
    "{}\n",
    '{"answer": 1}\n{"answer": 2}\n',
    '{"answer": 1, "raised": 2}\n',
    '{"answer": NaN}\n',
    '{"answer": 1e999}\n',
    '{"answer": "\\ud800"}\n',
    '{"answer": ' + "[" * 100000 + "\n",
    '{"progress": ["x", 1' + "0" * 400 + "]}\n",
    '{"raised": "x"}\n',
    '{"other": 1}\n',
]


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_on_the_pipe(do: Do, text: str, stop: bool) -> None:
    result = do("garbage", text=text, stop=stop)
    assert (result.kind, result.answer) == ("crashed", None), result


def test_half_a_line_is_no_answer(do: Do) -> None:
    assert do("garbage", text='{"answer": 1}', stop=True).kind == "crashed"


def test_confinement_cannot_be_claimed_later(do: Do) -> None:
    assert do("garbage", text='{"confinement": "landlock"}\n').confinement == "none"


def test_a_flood_is_cut_off(do: Do) -> None:
    result = do("floods")
    assert result.kind == "crashed" and "MiB" in str(result.error)


def test_bad_orders_are_refused_at_once(server: WorkServer, tmp_path: Path) -> None:
    for target, request, seconds in (
        ("nothing", {}, None),
        ("a:b", {"x": {1}}, None),
        ("a:b", {"x": float("inf")}, None),
        ("a:b", {}, 0),
        ("a:b", {}, float("nan")),
    ):
        with pytest.raises(OptionError):
            server.submit(target, request, log=tmp_path / "log", seconds=seconds)
    with pytest.raises(WorkerError, match="not running"):
        WorkServer().submit("a:b", {}, log=tmp_path / "log")


# --- nothing is left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hang", [False, True])
def test_a_runaway_grandchild_is_gone(do: Do, tmp_path: Path, hang: bool) -> None:
    mark = tmp_path / "mark"
    result = do("runaway", 3 if hang else 60, mark=str(mark), hang=hang)
    assert result.kind == ("timeout" if hang else "ok"), result
    assert not alive(int(mark.read_text()))


def test_a_process_that_keeps_forking_is_gone(do: Do, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    result = do("runs_away", mark=str(mark))
    seen = mark.read_text()
    time.sleep(0.3)
    assert result.ok and mark.read_text() == seen


def test_kill(server: WorkServer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    task = server.submit("test_worker:sleeps", {"seconds": 60, "mark": str(mark)}, log=tmp_path / "log")
    pid = int(wait_for(mark))
    assert not task.done() and alive(pid)
    with pytest.raises(TimeoutError):
        task.wait(0.05)
    task.kill()
    assert task.wait(10).kind == "killed" and task.done() and not alive(pid)
    task.kill()


CLIENT = """
import sys, time
from pathlib import Path
from diffbench.worker import WorkServer
folder = Path(sys.argv[1])
with WorkServer() as server:
    server.submit("test_worker:runaway", {"mark": str(folder / "a"), "hang": True}, log=folder / "log")
    server.submit("test_worker:sleeps", {"mark": str(folder / "b"), "seconds": 120}, log=folder / "log")
    time.sleep(120)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_the_client(tmp_path: Path, number: int) -> None:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path)], env=ENV, stderr=subprocess.DEVNULL)
    try:
        marked = [int(wait_for(tmp_path / name)) for name in "ab"]
        family = descendants(client.pid)
        assert set(marked) <= set(family) and len(family) >= 6
    finally:
        client.send_signal(number)
        client.wait(30)
    assert gone(family), [pid for pid in family if alive(pid)]


def test_the_server_dies(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with WorkServer(env=ENV) as server:
        request = {"mark": str(mark), "hang": True}
        task = server.submit("test_worker:runaway", request, log=tmp_path / "log")
        pid = int(wait_for(mark))
        assert server._process is not None
        family = descendants(server._process.pid)
        os.kill(server._process.pid, signal.SIGKILL)
        result = task.wait(10)
        assert result.kind == "crashed" and "server" in str(result.error)
        assert pid in family and gone(family)
        late = server.submit("test_worker:answers", {"number": 1}, log=tmp_path / "log").wait(10)
        assert late.kind == "crashed" and "server" in str(late.error)


def test_a_keeper_dies(server: WorkServer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    request = {"mark": str(mark), "hang": True}
    task = server.submit("test_worker:runaway", request, log=tmp_path / "log")
    wait_for(mark)
    assert server._process is not None
    family = descendants(server._process.pid)
    (keeper,) = (pid for pid in family if parent_of(pid) == server._process.pid)
    os.kill(keeper, signal.SIGKILL)
    assert task.wait(10).kind == "crashed" and gone(family)
    assert server.submit("test_worker:answers", {"number": 1}, log=tmp_path / "log").wait(10).ok


def parent_of(pid: int) -> int:
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]


def test_closing_ends_everything(tmp_path: Path) -> None:
    with WorkServer(env=ENV) as server:
        task = server.submit("test_worker:runaway", {"mark": str(tmp_path / "m"), "hang": True}, log=tmp_path / "l")
        wait_for(tmp_path / "m")
        assert server._process is not None
        family = [server._process.pid, *descendants(server._process.pid)]
    assert task.done() and task.wait(0).kind == "killed"
    assert not any(alive(pid) for pid in family)


def test_a_module_that_cannot_be_preloaded(tmp_path: Path) -> None:
    with WorkServer(("no_such_module",), env=ENV) as server:
        task = server.submit("test_worker:answers", {"number": 1}, log=tmp_path / "log")
        result = task.wait(30)
        assert result.kind == "crashed" and "no_such_module" in str(result.error)
        with pytest.raises(WorkerError, match="no_such_module"):
            server.ready(30)


# --- many, and on the way --------------------------------------------------------------------------------------


def test_many_at_once(server: WorkServer, tmp_path: Path) -> None:
    start = time.monotonic()
    tasks = [server.submit("test_worker:sleeps", {"seconds": 1.0}, log=tmp_path / f"log{place}") for place in range(10)]
    left = list(tasks)
    while left:
        done = wait_any(left, 30)
        assert done
        left = [task for task in left if task not in done]
    assert all(task.wait(0).answer == "woke" for task in tasks)
    assert time.monotonic() - start < 8, "they ran one after the other"
    assert wait_any([], 1) == []


def test_waiting_for_any_can_run_out_of_time(server: WorkServer, tmp_path: Path) -> None:
    task = server.submit("test_worker:sleeps", {"seconds": 60}, log=tmp_path / "log")
    assert wait_any([task], 0.05) == []
    task.kill()


def test_several_threads_may_submit_and_wait(server: WorkServer, tmp_path: Path) -> None:
    found: list[int] = []

    def one(number: int) -> None:
        task = server.submit("test_worker:answers", {"number": number}, log=tmp_path / "log")
        found.append(task.wait(30).answer["twice"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [2 * number for number in range(8)]


def test_progress(server: WorkServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task = server.submit("test_worker:progresses", {"go": str(go)}, log=tmp_path / "log", seconds=60)
    deadline = time.monotonic() + 30
    while task.progress() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert task.progress() == ("half way", 0.5)
    go.touch()
    assert task.wait(30).answer == "done" and task.progress() == ("over", 1.0)
    report("outside a task nothing happens", 0.1)


def test_a_chatty_task_is_heard_now_and_then(do: Do) -> None:
    assert do("chatters").answer == "said enough"


def test_torch_is_preloaded_without_threads(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with WorkServer(("torch",), env=ENV) as server:
        assert server.ready(120)["threads"] == 1
        times = []
        for _ in range(5):
            start = time.monotonic()
            result = server.submit("test_worker:answers", {"number": 1}, log=tmp_path / "log").wait(60)
            times.append(time.monotonic() - start)
            assert result.ok
        record_property("seconds_per_task", min(times))
        sys.stdout.write(f"a task takes {min(times):.3f} s at best, {max(times):.3f} s at worst\n")
        result = server.submit("test_worker:uses_torch", {}, log=tmp_path / "log").wait(60)
        assert result.answer == [1.0, float(64**3)]


# --- GPUs ------------------------------------------------------------------------------------------------------


def given(server: WorkServer, tmp_path: Path, rounds: int) -> list[Any]:
    """What tasks see that run at the same time, and one more when the second of them is over."""
    tasks = [
        server.submit("test_worker:sees", {"until": str(tmp_path / str(i))}, log=tmp_path / "log")
        for i in range(rounds)
    ]
    (tmp_path / "1").touch()
    tasks[1].wait()
    tasks.append(server.submit("test_worker:sees", {"until": str(tmp_path / "0")}, log=tmp_path / "log"))
    for i in range(rounds):
        (tmp_path / str(i)).touch()
    return [task.wait().answer for task in tasks]


def test_every_task_is_given_the_gpu_with_the_fewest_tasks(tmp_path: Path) -> None:
    with WorkServer(env=ENV, gpus=("0", "3")) as server:
        assert given(server, tmp_path, 3) == ["0", "3", "0", "3"]


def test_without_gpus_a_task_sees_what_the_server_sees(tmp_path: Path) -> None:
    with WorkServer(env=ENV | {"CUDA_VISIBLE_DEVICES": "7"}) as server:
        assert given(server, tmp_path, 2) == ["7", "7", "7"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1, 5"}, ("1", "5")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "1,5", "DIFFBENCH_DEVICE": "cpu"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "1,5", "DIFFBENCH_DEVICE": "cuda"}, ("1", "5")),
        ({}, ("0", "2", "10")),
    ],
)
def test_the_gpus_are_those_of_the_environment_or_of_the_machine(
    environment: dict[str, str], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "DIFFBENCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    names = ("nvidia2", "nvidia10", "nvidia0", "nvidiactl")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(Path("/dev", name) for name in names))
    assert visible_gpus() == expected
