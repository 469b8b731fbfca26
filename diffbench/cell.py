"""Cell: one method on one pair with one seed, in a process of its own that sees the inputs folder and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffbench.errors import PluginError
from diffbench.exchange import DIFF, HEADER
from diffbench.line import one_line
from diffbench.method import Context, Method, MethodOptions, NotApplicable
from diffbench.plugins import load_method, load_plugins, method_target
from diffbench.sandbox import Confinement, package_path, runtime_paths, scrubbed_environment
from diffbench.tier import Tier
from diffbench.worker import Task, WorkServer, report, visible_gpus

PRELOAD = ("torch", "safetensors.torch", "transformers.models.llama.modeling_llama", "diffbench.pair", "diffbench.cell")


@dataclass(frozen=True, slots=True)
class MethodOutcome:
    """How a method process ended.

    Attributes:
        status: ok (a Diff lies in `diff_folder`, not yet validated), error, or not_applicable.
        error: one line for error and not_applicable.
        usage: what went through the ModelPair, by the method process's own count.
    """

    status: Literal["ok", "error", "not_applicable"]
    error: str | None
    diff_folder: Path
    confinement: str
    seconds: float
    peak_memory_mb: float
    usage: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether the method returned a Diff."""
        return self.status == "ok"


def method_server() -> WorkServer:
    """The server that method processes are forked from: it has read no recipe, and its environment says nothing."""
    return WorkServer(preload=PRELOAD, env=scrubbed_environment(), gpus=visible_gpus())


def submit_method(
    server: WorkServer, inputs: Path, out: Path, method: type[Method], options: MethodOptions, seed: int, tier: Tier
) -> Task:
    """Start a method on an inputs folder; ``out`` is made, and holds Diff, scratch files and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    own = _top(method)
    confinement = Confinement(
        read=(*runtime_paths(hidden_packages() - {own}), package_path("diffbench"), package_path(own), inputs),
        write=(out,),
        memory_mb=tier.memory_mb,
    )
    request = {
        "inputs": str(inputs),
        "out": str(out),
        "method": method_target(method),
        "options": options.model_dump(mode="json"),
        "seed": seed,
        "tier": tier.model_dump(mode="json"),
    }
    log = out.parent / f"{out.name}.log"
    return server.submit("diffbench.cell:method_task", request, log=log, seconds=tier.seconds, confine=confinement)


def finish_method(task: Task, out: Path) -> MethodOutcome:
    """Wait for a method process and say how it ended."""
    result = task.wait()
    answer = result.answer if isinstance(result.answer, dict) else {}
    status: Literal["ok", "error", "not_applicable"] = "ok" if result.ok else "error"
    error = result.error
    if result.ok and "not_applicable" in answer:
        status, error = "not_applicable", one_line(answer["not_applicable"]) or "the method gave no reason"
    elif result.ok and not (out / DIFF / HEADER).is_file():
        status, error = "error", "the method process ended without leaving a Diff"
    return MethodOutcome(
        status=status,
        error=error,
        diff_folder=out / DIFF,
        confinement=result.confinement,
        seconds=result.seconds,
        peak_memory_mb=result.peak_rss_mb,
        usage=_usage(answer.get("usage")),
    )


def method_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task, confined: run the method and save its Diff."""
    import torch

    from diffbench.diff import DiffBase
    from diffbench.diff_file import save_diff
    from diffbench.pair import ModelPair
    from diffbench.precision import use_fast_matmul

    use_fast_matmul()
    method = load_method(request["method"])
    options = method.Options.model_validate(request["options"])
    pair = ModelPair(Path(request["inputs"]), method.access)
    out = Path(request["out"])
    torch.manual_seed(request["seed"])
    context = Context(
        seed=request["seed"],
        layer=pair.layer,
        budget=Tier.model_validate(request["tier"]),
        out=out,
        report=report,
    )
    try:
        diff = method(options).run(pair, context)
    except NotApplicable as reason:
        return {"not_applicable": str(reason), "usage": pair.usage}
    if not isinstance(diff, DiffBase):
        raise PluginError(f"{method.name}: run() must return a Diff, got {type(diff).__name__}")
    diff.check(pair.width, pair.n_layers, pair.vocabulary)
    (out / DIFF).mkdir()
    save_diff(diff, out / DIFF)
    return {"usage": pair.usage}


def hidden_packages() -> set[str]:
    """Packages that hold truths, the bundled ones and strangers': no method process may read them."""
    plugins = load_plugins()
    return {_top(cls) for cls in (*plugins.families.values(), *plugins.bases.values())}


def _top(cls: type[Any]) -> str:
    return cls.__module__.partition(".")[0]


def _usage(claimed: Any) -> dict[str, int]:
    if not isinstance(claimed, dict):
        return {}
    return {str(name)[:40]: n for name, n in list(claimed.items())[:20] if type(n) is int and abs(n) < 1 << 62}
