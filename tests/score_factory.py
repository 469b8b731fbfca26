"""The stand-in organism, trained and prepared once: a plugin of the test modules that score on it.

PYTEST_DONT_REWRITE, because the modules that use it also import from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from engine_factory import StandinBase, StandinFamily, standin

from diffbench import build, comparison
from diffbench.activations import Activations
from diffbench.comparison import Comparison
from diffbench.diff import Diff
from diffbench.figure import Figure
from diffbench.interpretability import Controls, no_control
from diffbench.judge import Judge, Reply
from diffbench.question import Question
from diffbench.residual import load_model, load_tokenizer
from diffbench.score import Bench, score
from diffbench.tier import Tier

TIER = Tier(name="tiny", tokens=1500, components=64, seconds=9, evaluation_tokens=900, judge_tokens=200)
NO_CONTROL = Figure.undefined("not asked")
NO_CONTROLS = Controls(random=no_control(NO_CONTROL), untrained=no_control(NO_CONTROL))


class SilentJudge(Judge):
    """Refuses to conclude, and is asked nothing else of a Diff without findings."""

    name = "silent"

    def answer(self, question: Question) -> Reply:
        assert question.kind == "summarise", "a Diff without findings needs no judge"
        return Reply("refused", None, problem="I say nothing")


@dataclass
class Prepared:
    bench: Bench
    folder: Path

    def scores(self, diff: Diff) -> Any:
        with TemporaryDirectory() as kept:
            return score(self.bench, diff, 0, NO_CONTROLS, Path(kept))

    def method_rows(self) -> Activations:
        return Activations.open(self.folder / "in" / "activations.safetensors")


@pytest.fixture(scope="session")
def score_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base and cache of `prepared`, which is so trained once for all modules."""
    return tmp_path_factory.mktemp("score")


@pytest.fixture(scope="module")
def prepared(score_folder: Path) -> Iterator[Prepared]:
    folder = score_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffbench.own_pair.find_base", lambda name: lambda: StandinBase(folder / "base"))
        patch.setattr("diffbench.own_pair.find_family", lambda name: StandinFamily)
        patch.setenv("DIFFBENCH_CACHE", str(folder / "cache"))
        patch.setattr(build, "GATE_TOKENS", 200)
        patch.setattr("diffbench.worker.report", lambda *_: None)
        here = Comparison(standin(folder / "base"), "control", TIER)
        for role in ("tuned", "control"):
            build.train_task({"recipe": here.organism.recipe.model_dump(mode="json"), "role": role})
        build.gate_task(here.request())
        path = Path(comparison.prepare_task(here.request())["path"])
        assert path == here.path
        tuned = here.organism.model_path("tuned")
        bench = Bench(
            comparison=here,
            truth=here.truth(),
            reference=load_model(here.organism.model_path("control")),
            tuned=load_model(tuned),
            tokenizer=load_tokenizer(tuned),
            judge=SilentJudge(),
        )
        yield Prepared(bench, path)


def quiet(diff: Diff) -> Diff:
    """Without findings, so that no judge is asked."""
    return replace(diff, findings=())
