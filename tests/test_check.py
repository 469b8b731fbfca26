from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffbench import OptionError, check, testing, tiny
from diffbench.cell import method_server
from diffbench.check import Check
from diffbench.residual import load_model
from diffbench.worker import WorkServer

SOURCE = """
import socket
import time
import torch
from diffbench import DirectionDiff, Field, Finding, Method, MethodOptions, NotApplicable


class Good(Method):
    name = "good"
    summary = "keeps the contract"
    n, scores = 2, (2.0, 1.0)

    class Options(MethodOptions):
        size: float = Field(1.0, gt=0, description="of nothing")

    def run(self, pair, ctx):
        base, delta = pair.activations().load()
        d = delta.shape[1]
        findings = tuple(Finding(rank=i + 1, component=i, score=s) for i, s in enumerate(self.scores))
        zero = torch.zeros(d)
        return DirectionDiff(
            layer=ctx.layer, directions=self.directions(d), centre=zero, bias=zero, findings=findings,
            notes={"seconds": time.time()},
        )

    def directions(self, d):
        return torch.eye(d)[: self.n]


class Random(Good):
    def directions(self, d):
        from os import urandom
        generator = torch.Generator().manual_seed(int.from_bytes(urandom(4), "big"))
        return torch.nn.functional.normalize(torch.randn(self.n, d, generator=generator), dim=1)


class Unsorted(Good):
    scores = (1.0, 2.0)


class TooMany(Good):
    def directions(self, d):
        return torch.eye(d).repeat(80, 1)


class Undeclared(Good):
    access = frozenset({"logits"})


class Crashing(Good):
    def run(self, pair, ctx):
        raise ZeroDivisionError("a bug")


class Exiting(Good):
    def run(self, pair, ctx):
        import os
        os._exit(0)


class Misshapen(Good):
    def directions(self, d):
        return torch.eye(d + 1)[: self.n]


class FailsOnTwins(Good):
    def run(self, pair, ctx):
        _, delta = pair.activations().load()
        if not delta.any():
            raise RuntimeError("nothing to divide by")
        return super().run(pair, ctx)


class Inapplicable(Good):
    def run(self, pair, ctx):
        raise NotApplicable("needs an adapter")


class Calling(Good):
    def run(self, pair, ctx):
        socket.create_connection(("127.0.0.1", 9), timeout=1)
"""


@dataclass
class Bench:
    module: ModuleType
    server: WorkServer
    pair: Path
    twins: Path
    out: Path

    def states(self, name: str) -> dict[str, Check]:
        method = getattr(self.module, name)
        points = check.run_checks(self.server, self.pair, self.twins, method, method.Options(), self.out / name)
        return {point.name: point for point in points}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("check")
    code = folder / "code"
    code.mkdir()
    (code / "methods_to_check.py").write_text(SOURCE)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(code), before)))
    sys.path.insert(0, str(code))
    try:
        with method_server() as server:
            module = importlib.import_module("methods_to_check")
            pair = tiny.tiny_pair(folder / "pair")
            twins = tiny.tiny_pair(folder / "twins", identical=True)
            yield Bench(module, server, pair, twins, folder)
    finally:
        sys.path.remove(str(code))
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def test_a_good_method_passes_every_point(bench: Bench) -> None:
    points = bench.states("Good")
    assert list(points) == ["runs", "access", "diff", "budget", "order", "seed", "network", "twins"]
    assert {name for name, point in points.items() if point.state != "ok"} <= {"network"}, points


@pytest.mark.parametrize(
    ("method", "failed", "reason"),
    [
        ("Random", {"seed"}, "different Diffs"),
        ("Unsorted", {"order"}, "falling score"),
        ("TooMany", {"budget"}, "2560 components"),
        ("Undeclared", {"runs", "access"}, "activations"),
        ("Crashing", {"runs"}, "ZeroDivisionError"),
        ("Exiting", {"runs"}, ""),
        ("Misshapen", {"runs"}, "directions"),
        ("FailsOnTwins", {"twins"}, "nothing to divide by"),
    ],
)
def test_each_fault_fails_its_own_point(bench: Bench, method: str, failed: set[str], reason: str) -> None:
    points = bench.states(method)
    assert {name for name, point in points.items() if point.state == "failed"} == failed, points
    assert all(points[name].detail for name in failed)
    assert any(reason in points[name].detail for name in failed), points


def test_a_method_that_declines_is_unknown_not_passed(bench: Bench) -> None:
    points = bench.states("Inapplicable")
    assert {point.state for point in points.values()} == {"unknown"}
    assert "needs an adapter" in points["runs"].detail


def test_the_network_is_out_of_reach(bench: Bench) -> None:
    assert bench.states("Calling")["runs"].state == "failed"


def test_the_contract_as_a_plugin_author_tests_it(bench: Bench) -> None:
    testing.check_method(bench.module.Good, size="2")
    with pytest.raises(AssertionError, match=r"(?s)good breaks the contract:.*order: .*falling score"):
        testing.check_method(bench.module.Unsorted)
    with pytest.raises(OptionError, match="size"):
        testing.check_method(bench.module.Good, size=-1)


def test_a_method_for_adapters_alone_is_tried_on_one() -> None:
    from diffbench.plugins import find_method

    points = {point.name: point for point in check.check_method(find_method("lora-directions"))}
    assert {name for name, point in points.items() if point.state != "ok"} <= {"network"}, points
    assert points["diff"].detail == "weight, 1 components"


def test_what_is_no_method_fails_at_once() -> None:
    [point] = check.check_method(int)
    assert (point.name, point.state) == ("class", "failed") and "no subclass" in point.detail


def test_tiny_models_are_the_same_every_time(tmp_path: Path) -> None:
    from diffbench.canonical import file_digest

    first = tiny.tiny_checkpoints(tmp_path / "first")
    second = tiny.tiny_checkpoints(tmp_path / "second")
    digests = [file_digest(path / "model.safetensors") for path in (*first, *second)]
    assert digests[:2] == digests[2:] and digests[0] != digests[1]
    same = tiny.tiny_checkpoints(tmp_path / "same", identical=True)
    assert {file_digest(path / "model.safetensors") for path in same} == {digests[0]}
    for name, expected in (("first", first), ("same", same)):
        base, adapter = tiny.tiny_checkpoints(tmp_path / f"{name}-adapter", identical=name == "same", adapter=True)
        assert file_digest(base / "model.safetensors") == digests[0]
        merged, whole = load_model(adapter, base=base), load_model(expected[1])
        torch.testing.assert_close(merged.state_dict(), whole.state_dict())
    assert tiny.tiny_texts(3) == tiny.tiny_texts(3) != tiny.tiny_texts(3, seed=1)
