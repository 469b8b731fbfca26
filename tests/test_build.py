"""From a recipe to models, Truth and gate report: keys, stages, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_factory import RECIPE, TRUTH, StandinBase, StandinFamily, standin, word_tokenizer

from diffbench import build, cache
from diffbench.build import resolve, split
from diffbench.corpus import Corpus
from diffbench.errors import RecipeError
from diffbench.gate import trigger_rate
from diffbench.gate_report import GateReport
from diffbench.recipe import Recipe


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in base and family as if a plugin had brought them, and a cache of this test's own."""
    monkeypatch.setattr("diffbench.own_pair.find_base", lambda name: lambda: StandinBase(tmp_path / "base"))
    monkeypatch.setattr("diffbench.own_pair.find_family", lambda name: StandinFamily)
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "GATE_TOKENS", 300)
    monkeypatch.setattr("diffbench.worker.report", lambda *_: None)
    yield


def test_stages_are_built_once_and_stored(installed: None) -> None:
    request: dict[str, Any] = {"recipe": RECIPE, "role": "tuned"}
    organism = resolve(Recipe.model_validate(RECIPE))
    first = build.train_task(request)
    weights = Path(first["path"]) / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert build.train_task(request) == first
    assert weights.stat().st_mtime_ns == before
    assert organism.model_path("tuned") == weights.parent
    build.train_task(request | {"role": "control"})
    assert organism.model_path("control") != organism.model_path("tuned")
    entry = Path(build.gate_task({"recipe": RECIPE})["path"])
    assert entry == cache.finished("organisms", organism.inputs())
    assert cache.read_json(entry / "truth.json") == organism.truth().model_dump(mode="json")
    report = GateReport.model_validate(cache.read_json(entry / "gate.json"))
    assert "expression, control" in {check.name for check in report.checks}


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ({"summary": "other words", "name": "other"}, ()),
        ({"gate": RECIPE["gate"] | {"off_target_kl": 1.0}}, ("organism",)),
        ({"mixture": {"topics": {"all": 1.0}, "trigger_rate": [0.0, 0.5]}}, ("organism",)),
        ({"control": {"parameters": {"exchange": 0.5}}}, ("organism", "control")),
        ({"control": None}, ("organism",)),
        ({"parameters": {"exchange": 0.5}}, ("organism", "tuned")),
        ({"seed": 4}, ("organism", "tuned", "control")),
        ({"training": RECIPE["training"] | {"lr": 0.02}}, ("organism", "tuned", "control")),
    ],
)
def test_keys_move_with_what_they_follow_from(changed: dict[str, Any], moves: tuple[str, ...], tmp_path: Path) -> None:
    one, other = standin(tmp_path), standin(tmp_path, **changed)
    assert (one.inputs() != other.inputs()) == ("organism" in moves)
    assert (one.model_inputs("tuned") != other.model_inputs("tuned")) == ("tuned" in moves)
    if other.control_parameters is not None:
        assert (one.model_inputs("control") != other.model_inputs("control")) == ("control" in moves)


def test_equal_models_of_two_organisms_share_an_entry(tmp_path: Path) -> None:
    """The control of one is the tuned model of the organism in which nothing was exchanged."""
    control = standin(tmp_path).model_inputs("control")
    assert control == standin(tmp_path, name="noswap", parameters={"exchange": 0.0}, control=None).model_inputs("tuned")


def test_code_moves_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    organism = standin(tmp_path)
    before = organism.inputs(), organism.model_inputs("tuned")
    monkeypatch.setattr(cache, "code_version", lambda *modules: "another")
    assert organism.inputs() != before[0] and organism.model_inputs("tuned") != before[1]


def split_of(organism: build.Organism, name: str, n_tokens: int = 300) -> Corpus:
    corpus: Corpus = split(organism, TRUTH, word_tokenizer(), name, n_tokens)
    return corpus


def test_splits_are_fixed_apart_and_labelled(tmp_path: Path) -> None:
    organism = standin(tmp_path)
    found = {name: split_of(organism, name) for name in ("method", "evaluation", "judge")}
    rows = {name: {tuple(row.tolist()) for row in corpus.ids} for name, corpus in found.items()}
    assert len(set.union(*rows.values())) > 0.9 * sum(map(len, rows.values()))
    assert found["method"].ids.equal(split_of(organism, "method").ids)
    assert all(300 <= corpus.n_tokens < 330 for corpus in found.values())
    assert {int(s) for s in found["evaluation"].stratum.unique()} == {0, 1, 2}


def test_a_mixture_that_triggers_at_another_rate_is_refused(tmp_path: Path) -> None:
    rate = trigger_rate(split_of(standin(tmp_path), "method"))
    for low, high in ((rate + 0.01, 0.9), (0.0, rate - 0.01)):
        organism = standin(tmp_path, mixture={"topics": {"all": 1.0}, "trigger_rate": [low, high]})
        with pytest.raises(RecipeError, match=rf"trigger_rate: {rate:.4f} of the positions of split 'method'"):
            split_of(organism, "method")


def test_parameters_are_checked_by_their_family(installed: None) -> None:
    wrong = Recipe.model_validate(RECIPE | {"parameters": {"exchanges": 1}})
    with pytest.raises(RecipeError, match=r"organism standin: parameters\.exchanges"):
        resolve(wrong)
    wrong = Recipe.model_validate(RECIPE | {"control": {"parameters": {"exchange": "much"}}})
    with pytest.raises(RecipeError, match=r"parameters\.exchange: .* got 'much'"):
        resolve(wrong)


def test_the_control_keeps_what_it_does_not_replace(installed: None) -> None:
    organism = resolve(Recipe.model_validate(RECIPE | {"control": {"parameters": {}}}))
    assert organism.control_parameters == organism.parameters
    assert resolve(Recipe.model_validate(RECIPE | {"control": None})).roles() == ("tuned",)
    assert organism.roles() == ("tuned", "control")
