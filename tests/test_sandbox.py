"""What a confined task cannot reach, what it still can, and what is said where the kernel has no locks."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffbench import sandbox, workseal
from diffbench.errors import PluginError
from diffbench.sandbox import Confinement, confine, package_path, runtime_paths, scrubbed_environment
from diffbench.worker import TaskResult, WorkServer

HERE = Path(__file__).resolve().parent
locked = pytest.mark.skipif(workseal.landlock_abi() < 1, reason="this kernel has no Landlock: nothing to test")


# --- what the tasks try ----------------------------------------------------------------------------------------


def tries(request: dict[str, Any]) -> dict[str, str]:
    """Attempt everything a nosy method might; says of each whether it worked."""
    said = {}
    for name, attempt in attempts(request).items():
        try:
            attempt()
            said[name] = "worked"
        except BaseException as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def attempts(r: dict[str, Any]) -> dict[str, Callable[[], object]]:
    secret, outside, inside, out = Path(r["secret"]), Path(r["outside"]), Path(r["in"]), Path(r["out"])
    return {
        "read a secret": secret.read_text,
        "read a secret through a link": lambda: (link(out / "link", secret), (out / "link").read_text()),
        "read a secret through /proc": lambda: Path(f"/proc/self/root{secret}").read_text(),
        "read a secret in a program": lambda: subprocess.run(["cat", secret], check=True, capture_output=True),
        "read a secret in a child": lambda: in_child(secret.read_text),
        "steal a secret by a hard link": lambda: os.link(secret, out / "stolen"),
        "list the home": lambda: os.listdir(r["home"]),
        "list the other cells": lambda: os.listdir(out.parent.parent),
        "list the processes": lambda: os.listdir("/proc"),
        "read the parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "read the client's environment": lambda: Path(f"/proc/{r['client']}/environ").read_bytes(),
        "read the client's arguments": lambda: Path(f"/proc/{r['client']}/cmdline").read_bytes(),
        "signal the client": lambda: os.kill(r["client"], 0),
        "write outside": lambda: outside.write_text("mine"),
        "empty a file outside": lambda: os.truncate(r["victim"], 0),
        "make a folder outside": lambda: outside.with_name("folder").mkdir(),
        "write into the input": lambda: (inside / "more").write_text("mine"),
        "write to shared storage": lambda: shared_file("/tmp"),
        "write to shared memory": lambda: shared_file("/dev/shm"),
        "signal the keeper": lambda: os.kill(os.getppid(), 0),
        "connect by TCP": lambda: socket.create_connection(("127.0.0.1", r["port"]), 5).close(),
        "connect by UDP": lambda: socket.socket(type=socket.SOCK_DGRAM).connect(("127.0.0.1", r["port"])),
        "connect to a socket file": lambda: socket.socket(socket.AF_UNIX).connect(r["socket"]),
        "read an excluded package": Path(r["hidden"], "data.txt").read_text,
        "import an excluded package": lambda: __import__("hiddenpackage"),
        "leave the namespace": lambda: checked(ctypes.CDLL(None, use_errno=True).unshare(0x20000)),
    }


def shared_file(folder: str) -> None:
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def checked(result: int) -> None:
    if result != 0:
        raise PermissionError(ctypes.get_errno(), "refused")


def in_child(function: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        raise PermissionError("in the child")


def environment(request: dict[str, Any]) -> list[str]:
    raw = Path("/proc/self/environ").read_bytes()
    return sorted({*os.environ, *(line.split(b"=")[0].decode() for line in raw.split(b"\0") if line)})


def works(request: dict[str, Any]) -> dict[str, Any]:
    """What an honest method does, with nothing loaded beforehand."""
    assert "torch" not in sys.modules
    import numpy
    import torch
    from safetensors.torch import load_file, save_file

    out = Path(request["out"])
    product = torch.ones(32, 32) @ torch.ones(32, 32)
    weight = torch.nn.Parameter(torch.ones(4))
    (weight * 3).sum().backward()
    save_file({"product": product}, out / "tensors.safetensors")
    (out / "deep").mkdir()
    (out / "draft").write_text("x")
    os.replace(out / "draft", out / "deep" / "final")
    with tempfile.NamedTemporaryFile() as file:
        place = file.name
    import goodpackage

    return {
        "sum": float(load_file(out / "tensors.safetensors")["product"].sum()),
        "gradient": None if weight.grad is None else weight.grad.tolist(),
        "numpy": float(numpy.linalg.norm(numpy.ones(4))),
        "in": (Path(request["in"]) / "text.txt").read_text(),
        "temporary": place,
        "home": str(Path.home()),
        "cwd": os.getcwd(),
        "package": goodpackage.VALUE,
        "status": Path("/proc/self/status").exists() and bool(Path("/proc/self/status").read_text()),
        "threads": len(os.listdir("/proc/self/task")),
    }


def speaks(request: dict[str, Any]) -> list[str]:
    sys.stdout.write("words\n")
    return [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]


def imports_late(request: dict[str, Any]) -> int:
    """Import what lies in a folder that may not be listed and has changed since it last could be."""
    Path(request["ready"]).touch()
    while not Path(request["go"]).exists():
        time.sleep(0.01)
    return int(importlib.import_module("late_package").VALUE + importlib.import_module("late_module").VALUE)


def hoards(request: dict[str, Any]) -> int:
    return len(bytearray(2**29))


def under_another_kernel(request: dict[str, Any]) -> dict[str, Any]:
    """Confine a process that believes its kernel offers some other version of Landlock."""
    abi = request["abi"]
    workseal.landlock_abi = lambda: abi
    out = Path(request["out"])
    said = confine(Confinement(tuple(Path(path) for path in request["read"]), (out,)))
    (out / "file").write_text("x")
    return {"said": said, "tries": tries(request)}


# --- helpers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages, one of which is to stay hidden."""
    folder = tmp_path_factory.mktemp("library")
    for name in ("goodpackage", "hiddenpackage"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("VALUE = 7\n")
        (folder / name / "data.txt").write_text("the answer")
    (folder / "goodpackage-1.0.dist-info").mkdir()
    (folder / "goodpackage-1.0.dist-info" / "METADATA").write_text("Name: goodpackage\nVersion: 1.0\n")
    return folder


@pytest.fixture(scope="module")
def server(library: Path) -> Iterator[WorkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "secret")
        patch.setenv("DIFFBENCH_CACHE", "secret")
        patch.setenv("HF_TOKEN", "secret")
        paths = [str(HERE.parent), str(HERE), str(library)]
        env = {**scrubbed_environment(), "PYTHONPATH": os.pathsep.join(paths)}
        with WorkServer(("pytest",), env=env) as running:
            yield running


class Cell:
    """One cell's folders, and what lies around them."""

    def __init__(self, server: WorkServer, root: Path, library: Path) -> None:
        self.server = server
        self.log = root / "log.txt"
        for name in ("work/a/in", "work/a/out", "home", "outside"):
            (root / name).mkdir(parents=True)
        self.out = root / "work/a/out"
        (root / "work/a/in/text.txt").write_text("hello")
        for name in ("home/secret", "home/victim"):
            (root / name).write_text("which organism")
        self.request: dict[str, Any] = {
            "in": str(root / "work/a/in"),
            "out": str(self.out),
            "secret": str(root / "home/secret"),
            "victim": str(root / "home/victim"),
            "home": str(root / "home"),
            "outside": str(root / "outside/file"),
            "hidden": str(library / "hiddenpackage"),
            "client": os.getpid(),
        }
        read = (*runtime_paths(["hiddenpackage"]), HERE / "test_sandbox.py", root / "work/a/in")
        self.limits = Confinement(read, (self.out,))
        self.request["read"] = [str(path) for path in read]

    def do(self, name: str, limits: Confinement | None) -> TaskResult:
        target = f"test_sandbox:{name}"
        return self.server.submit(target, self.request, log=self.log, seconds=120, confine=limits).wait(150)


@pytest.fixture
def cell(server: WorkServer, tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    monkeypatch.syspath_prepend(str(library))
    made = Cell(server, tmp_path, library)
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as file, socket.socket() as tcp:
        file.bind(f"{short}/s")
        file.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        made.request |= {"socket": f"{short}/s", "port": tcp.getsockname()[1]}
        yield made


# --- confined --------------------------------------------------------------------------------------------------


@locked
def test_nothing_outside_can_be_reached(cell: Cell) -> None:
    result = cell.do("tries", cell.limits)
    assert result.ok, result
    reached = [name for name, said in result.answer.items() if said == "worked"]
    allowed = {"connect to a socket file", "connect by UDP"} if "seccomp" not in result.confinement else set()
    if workseal.landlock_abi() < workseal.FULL_ABI:
        allowed |= {"signal the client", "signal the keeper", "empty a file outside", "connect by TCP"}
    assert set(reached) <= allowed
    assert Path(cell.request["victim"]).read_text() == "which organism"
    assert not Path(cell.request["outside"]).exists()
    assert sorted(path.name for path in cell.out.iterdir()) == ["link"]


def test_all_of_it_can_be_reached_without_confinement(cell: Cell) -> None:
    result = cell.do("tries", None)
    assert result.ok and result.confinement == "none"
    failed = {name: said for name, said in result.answer.items() if said != "worked"}
    # The keeper's environment is closed to ordinary users, and leaving a namespace takes root.
    assert set(failed) <= ({"read the parent's environment", "leave the namespace"} if os.geteuid() else set()), failed
    Path(cell.request["outside"]).unlink()


@locked
def test_an_honest_method_works(cell: Cell) -> None:
    result = cell.do("works", cell.limits)
    assert result.ok, (result, cell.log.read_text())
    answer = result.answer
    assert (answer["sum"], answer["gradient"], answer["numpy"]) == (32.0**3, [3.0] * 4, 2.0)
    assert (answer["in"], answer["package"], answer["status"], answer["threads"]) == ("hello", 7, True, 1)
    assert Path(answer["temporary"]).parent == cell.out
    assert answer["home"] == answer["cwd"] == str(cell.out)
    assert (cell.out / "deep/final").read_text() == "x"


@locked
def test_the_result_says_what_was_achieved(cell: Cell) -> None:
    result = cell.do("environment", cell.limits)
    assert result.confinement.startswith("landlock")
    assert set(result.confinement.split("+")[1:]) <= {"netns", "seccomp"}
    assert ("seccomp" in result.confinement) == (platform.machine() in workseal.REFUSED)


def test_the_environment_holds_no_secrets(cell: Cell) -> None:
    names = cell.do("environment", None).answer
    assert "PATH" in names and "OMP_NUM_THREADS" in names
    assert not [name for name in names if name.endswith(("_KEY", "_TOKEN")) or name.startswith("DIFFBENCH")]


@locked
def test_a_checkout_on_the_path_may_change_meanwhile(cell: Cell, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "late_package").mkdir(parents=True)
    (checkout / "late_package/__init__.py").write_text("VALUE = 3")
    (checkout / "late_module.py").write_text("VALUE = 4")
    paths = [str(HERE.parent), str(HERE), str(checkout)]
    read = (*cell.limits.read, checkout / "late_package", checkout / "late_module.py")
    cell.request |= {"ready": str(cell.out / "ready"), "go": str(cell.out / "go")}
    with WorkServer(env={**scrubbed_environment(), "PYTHONPATH": os.pathsep.join(paths)}) as server:
        task = server.submit(
            "test_sandbox:imports_late", cell.request, log=cell.log, confine=Confinement(read, (cell.out,))
        )
        deadline = time.monotonic() + 60
        while not (cell.out / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        (checkout / "runs").mkdir()
        (cell.out / "go").touch()
        result = task.wait(60)
    assert result.answer == 7, result


def test_a_confined_task_cannot_learn_the_name_of_its_log(cell: Cell) -> None:
    cell.log.write_text("before\n")
    result = cell.do("speaks", cell.limits)
    assert result.ok, result
    for name in result.answer:
        assert str(cell.log) not in name
    assert cell.log.read_text() == "before\nwords\n"
    assert str(cell.log) in cell.do("speaks", None).answer


@locked
def test_the_network_can_be_allowed(cell: Cell) -> None:
    said = cell.do("tries", Confinement(cell.limits.read, cell.limits.write, network=True)).answer
    assert said["connect by TCP"] == "worked" and said["read a secret"] != "worked"


def test_memory_is_bounded(cell: Cell) -> None:
    assert cell.do("hoards", Confinement(cell.limits.read, cell.limits.write)).answer == 2**29
    result = cell.do("hoards", Confinement(cell.limits.read, cell.limits.write, memory_mb=128))
    assert (result.kind, str(result.error)[:11]) == ("raised", "MemoryError")


@locked
def test_a_folder_to_write_to_must_exist(cell: Cell) -> None:
    result = cell.do("works", Confinement(cell.limits.read, (cell.out / "missing",)))
    assert result.kind == "raised" and "FileNotFoundError" in str(result.error)


@locked
@pytest.mark.parametrize("abi", range(1, workseal.FULL_ABI))
def test_an_older_landlock_is_named_and_still_hides_files(cell: Cell, abi: int) -> None:
    cell.request["abi"] = abi
    result = cell.do("under_another_kernel", None)
    assert result.ok, (result, cell.log.read_text())
    assert result.answer["said"].split("+")[0] == f"landlock-abi{abi}"
    for name, said in result.answer["tries"].items():
        if name.startswith(("read", "list", "steal")):
            assert said != "worked", name


def test_without_landlock_it_says_none_and_works(cell: Cell) -> None:
    cell.request["abi"] = 0
    result = cell.do("under_another_kernel", None)
    assert result.ok, (result, cell.log.read_text())
    assert result.answer["said"] == "none"
    assert result.answer["tries"]["read a secret"] == "worked"


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_has_no_locks(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert workseal.landlock_abi() == 0
    assert not workseal.leave_network() and not workseal.refuse_calls(False) and not workseal.drop_capabilities()
    assert not workseal.prctl(workseal.PR_SET_PDEATHSIG, signal.SIGKILL)


# --- paths and environment -------------------------------------------------------------------------------------


def covered(path: Path, paths: tuple[Path, ...]) -> bool:
    return any(path == root or root in path.parents for root in paths)


def test_runtime_paths_leave_out_what_is_excluded(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(library))
    with_all, without = runtime_paths(), runtime_paths(["hiddenpackage", "torch", "no_such_package"])
    assert covered(library / "hiddenpackage", with_all) and covered(package_path("torch"), with_all)
    assert covered(library / "goodpackage/data.txt", without)
    assert not covered(library / "hiddenpackage", without) and not covered(package_path("torch"), without)
    assert covered(package_path("safetensors"), without) and covered(Path(os.__file__).resolve(), without)
    assert covered(package_path("diffbench"), without)


def test_runtime_paths_hold_no_checkout_and_no_home() -> None:
    paths = runtime_paths()
    assert not covered(HERE, paths) and not covered(HERE.parent / "organisms", paths)
    assert Path("/") not in paths and Path.home() not in paths and Path("/proc") not in paths


def test_links_in_a_library_cannot_bring_back_what_is_excluded(tmp_path: Path) -> None:
    (tmp_path / "a/hidden").mkdir(parents=True)
    (tmp_path / "a/kept").mkdir()
    for name, target in (("up", ".."), ("again", "hidden"), ("round", ".")):
        (tmp_path / "a" / name).symlink_to(target)
    assert sandbox._without(tmp_path / "a", {tmp_path / "a/hidden"}) == [tmp_path / "a/kept"]
    assert sandbox._without(tmp_path / "a/hidden", {tmp_path / "a"}) == []


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_package/part").mkdir(parents=True)
    (tmp_path / "hostile_package/__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "hostile_package/single.py").touch()
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_path("hostile_package") == tmp_path / "hostile_package"
    assert package_path("hostile_package.part") == tmp_path / "hostile_package/part"
    assert package_path("hostile_package.single") == tmp_path / "hostile_package/single.py"
    assert package_path("hostile_module") == tmp_path / "hostile_module.py"
    for name in ("no_such_package", "hostile_package.missing", "hostile_module.part"):
        with pytest.raises(PluginError, match="no package named"):
            package_path(name)


def test_the_scrubbed_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "DIFFBENCH_HOME", "AWS_SECRET_ACCESS_KEY", "HF_HOME", "ANYTHING"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    env = scrubbed_environment()
    assert "secret" not in env.values() and env["CUDA_VISIBLE_DEVICES"] == "3"
    assert env["HOME"] == env["TMPDIR"] == "/nonexistent" and env["HF_HUB_OFFLINE"] == env["OMP_NUM_THREADS"] == "1"
