"""Check: does a method keep the contract? It is run on a tiny pair, in the process that real cells run in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from diffbench.errors import DiffbenchError, PluginError
from diffbench.tier import TIERS, Tier
from diffbench.truth import Schema

if TYPE_CHECKING:
    from diffbench.base import Progress
    from diffbench.cell import MethodOutcome
    from diffbench.diff import Diff
    from diffbench.input_files import InputFile
    from diffbench.method import Method, MethodOptions
    from diffbench.worker import WorkServer

SEED = 0
NO_NETWORK = ("netns", "seccomp", "landlock")


class Check(Schema):
    """One point of the contract."""

    name: str
    state: Literal["ok", "failed", "unknown"] = Field(description="unknown: it could not be tried; detail says why")
    detail: str = ""


def check_method(
    method: object, options: Mapping[str, Any] | None = None, report: Progress = lambda phrase, fraction: None
) -> list[Check]:
    """Run a method class through the whole contract; every point is in the answer, in order.

    A method that does not apply to a pair of whole models is tried on an adapter.

    Args:
        method: the class, as a plugin offers it.
        options: values for its ``Options``; strings are fine.
        report: gets a phrase and the fraction that is done.

    Raises:
        OptionError: if an option is unknown or its value wrong.
    """
    from diffbench.contract import check_offer
    from diffbench.input_files import input_files
    from diffbench.method import resolve_options

    try:
        cls = check_offer("method", method)
    except PluginError as error:
        return [Check(name="class", state="failed", detail=str(error))]
    resolved = resolve_options(cls, options or {})
    files = input_files(cls, resolved)
    from diffbench.cell import method_server
    from diffbench.tiny import tiny_pair

    # The server loads its modules while the pairs are made here.
    with tempfile.TemporaryDirectory(prefix="diffbench-check-") as name, method_server() as server:
        folder = Path(name)
        report("making tiny pairs", 0.0)
        pair, twins = tiny_pair(folder / "pair"), tiny_pair(folder / "twins", identical=True)
        checks = run_checks(server, pair, twins, cls, resolved, folder / "out", report, files)
        if checks[0].state == "unknown":
            report("trying an adapter, since the method does not apply to a whole model", 0.0)
            pair = tiny_pair(folder / "adapter", adapter=True)
            twins = tiny_pair(folder / "adapter-twins", identical=True, adapter=True)
            checks = run_checks(server, pair, twins, cls, resolved, folder / "out-adapter", report, files)
        return [Check(name="class", state="ok"), *checks]


def run_checks(
    server: WorkServer,
    pair: Path,
    twins: Path,
    method: type[Method],
    options: MethodOptions,
    out: Path,
    report: Progress = lambda phrase, fraction: None,
    files: Sequence[InputFile] = (),
) -> list[Check]:
    """Run a method on the inputs of a tiny pair and of identical twins, and judge what it leaves in ``out``.

    ``files`` are those that the options name; they are put into both inputs folders.
    """
    from diffbench.cell import finish_method, submit_method
    from diffbench.input_files import placed

    tier = TIERS["smoke"]
    chosen = {inputs: placed(options, files, inputs) for inputs in (pair, twins)}

    def run(name: str, inputs: Path) -> MethodOutcome:
        folder = out / name
        return finish_method(submit_method(server, inputs, folder, method, chosen[inputs], SEED, tier), folder)

    report("running the method", 0.2)
    first = run("first", pair)
    checks = [_finished("runs", first, f"{first.seconds:.1f} s"), _access(method, first)]
    if not first.ok:
        left = ("diff", "budget", "order", "seed", "network", "twins")
        return checks + [Check(name=name, state="unknown", detail="the method did not run") for name in left]
    report("running it again", 0.5)
    again = run("again", pair)
    report("running it where nothing changed", 0.75)
    null = run("null", twins)
    diff, form = _form(first.diff_folder)
    return [
        *checks,
        form,
        _budget(diff, first, tier),
        _order(diff),
        _same(first, again),
        _network(first),
        _finished("twins", null, "finishes on a pair where nothing changed"),
    ]


def _finished(name: str, outcome: MethodOutcome, detail: str) -> Check:
    if outcome.status == "not_applicable":
        return Check(name=name, state="unknown", detail=f"not applicable: {outcome.error}")
    return _verdict(name, outcome.ok, detail if outcome.ok else outcome.error or "")


def _verdict(name: str, passed: bool, detail: str) -> Check:
    return Check(name=name, state="ok" if passed else "failed", detail=detail)


def _access(method: type[Method], outcome: MethodOutcome) -> Check:
    declared = ", ".join(sorted(method.access)) or "nothing"
    if outcome.ok:
        return Check(name="access", state="ok", detail=f"{declared} is enough")
    if outcome.status == "error" and "AccessError" in (outcome.error or ""):
        return Check(name="access", state="failed", detail=outcome.error or "")
    return Check(name="access", state="unknown", detail="the method did not run")


def _form(folder: Path) -> tuple[Diff | None, Check]:
    from diffbench.diff_file import load_diff
    from diffbench.tiny import LAYERS, VOCABULARY, WIDTH

    try:
        diff = load_diff(folder)
        diff.check(WIDTH, LAYERS, VOCABULARY)
    except DiffbenchError as error:
        return None, Check(name="diff", state="failed", detail=str(error))
    return diff, Check(name="diff", state="ok", detail=f"{diff.kind}, {diff.n_components} components")


def _budget(diff: Diff | None, outcome: MethodOutcome, tier: Tier) -> Check:
    if diff is None:
        return Check(name="budget", state="unknown", detail="no valid Diff")
    within = diff.n_components <= tier.components and outcome.seconds <= tier.seconds
    allowed = f"{tier.components} components and {tier.seconds:g} s allowed"
    return _verdict("budget", within, f"{diff.n_components} components, {outcome.seconds:.1f} s; {allowed}")


def _order(diff: Diff | None) -> Check:
    if diff is None:
        return Check(name="order", state="unknown", detail="no valid Diff")
    scores = [finding.score for finding in diff.findings]
    falling = all(a >= b for a, b in pairwise(scores))
    detail = f"{len(scores)} findings" if falling else "findings must be in order of falling score"
    return _verdict("order", falling, detail)


def _same(first: MethodOutcome, again: MethodOutcome) -> Check:
    if not again.ok:
        return Check(name="seed", state="failed", detail=f"the second run failed: {again.error}")
    same = _content(first.diff_folder) == _content(again.diff_folder)
    detail = "the same seed gives the same Diff" if same else "two runs with the same seed gave different Diffs"
    return _verdict("seed", same, detail)


def _content(folder: Path) -> tuple[bytes, Any]:
    """What must not differ between two runs; notes may hold timings."""
    from diffbench.exchange import HEADER, TENSORS

    document = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    document.pop("notes", None)
    return (folder / TENSORS).read_bytes(), document


def _network(outcome: MethodOutcome) -> Check:
    if any(word in outcome.confinement for word in NO_NETWORK):
        return Check(name="network", state="ok", detail=f"needs none ({outcome.confinement})")
    return Check(name="network", state="unknown", detail="this system could not cut the method off")
